//! Headers that belong to a chat request. A value that cannot be read is a 400 naming the header,
//! never ignored: a limit that silently does not hold is worse than none.

use super::BadRequest;
use crate::ledger::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue};
use policies::PicoUsd;
use std::time::Duration;

/// Most tags, and the longest in bytes.
const TAGS_MAX: (usize, usize) = (16, 64);
/// Longest session id in bytes.
const SESSION_BYTES_MAX: usize = 256;
/// Longest name of a step in bytes.
const STEP_BYTES_MAX: usize = 128;
/// Longest list of betas in bytes.
const BETAS_BYTES_MAX: usize = 2048;
/// What the abuse guard's tags begin with: a policy that looks at them must be able to trust them.
pub(crate) const GUARD: &str = "guard:";
/// Longest deadline: a day.
const DEADLINE_MS_MAX: u64 = 86_400_000;

/// `x-session-id`, before the name that LiteLLM's clients use.
const SESSION: &str = "x-session-id";
const LITELLM_SESSION: &str = "x-litellm-session-id";
const TAGS: &str = "x-tollgate-tags";
const PARENT: &str = "x-tollgate-parent";
const STEP: &str = "x-tollgate-step";
const MAX_COST: &str = "x-tollgate-max-cost-usd";
const DEADLINE: &str = "x-tollgate-deadline-ms";
const TRACEPARENT: &str = "traceparent";
const BETAS: &str = "anthropic-beta";

/// What a request's headers say of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of `x-tollgate-tags`, comma separated: each once, in order.
    pub(super) tags: Vec<String>,
    pub(super) session: Option<String>,
    /// The id (`x-request-id`) of the request that caused this one.
    pub(super) parent: Option<RequestId>,
    /// The caller's name for the step of its run.
    pub(super) step: Option<String>,
    /// The most this request may cost.
    pub(super) max_cost: Option<PicoUsd>,
    /// From arrival.
    pub(super) deadline: Option<Duration>,
    /// If it has the shape of one: the standard says to ignore any other.
    pub(super) traceparent: Option<HeaderValue>,
    /// Of `anthropic-beta`, comma separated; empty where there is none.
    pub(super) betas: String,
}

/// The headers that may be given once, as they are written.
#[derive(Default)]
struct Given<'a> {
    session: Option<&'a str>,
    litellm_session: Option<&'a str>,
    parent: Option<&'a str>,
    step: Option<&'a str>,
    max_cost: Option<&'a str>,
    deadline: Option<&'a str>,
}

/// Reads them in one pass: most requests have none of them, and looking each up costs more than
/// walking over the few there are.
///
/// # Errors
/// [`BadRequest`] naming the header.
pub(super) fn read(headers: &HeaderMap) -> Result<Told, BadRequest> {
    let mut told = Told::default();
    let mut given = Given::default();
    for (name, value) in headers {
        let place = match name.as_str() {
            SESSION => &mut given.session,
            LITELLM_SESSION => &mut given.litellm_session,
            PARENT => &mut given.parent,
            STEP => &mut given.step,
            MAX_COST => &mut given.max_cost,
            DEADLINE => &mut given.deadline,
            TAGS => {
                add_tags(&mut told.tags, text(TAGS, value)?)?;
                continue;
            }
            BETAS => {
                let more = text(BETAS, value)?.trim();
                let comma = if told.betas.is_empty() || more.is_empty() { "" } else { "," };
                told.betas = bounded(BETAS, &[&told.betas, comma, more].concat(), BETAS_BYTES_MAX)?;
                continue;
            }
            TRACEPARENT => {
                if is_traceparent(value) {
                    told.traceparent.get_or_insert_with(|| value.clone());
                }
                continue;
            }
            _ => continue,
        };
        let name = name.as_str();
        if place.replace(text(name, value)?.trim()).is_some() {
            return Err(twice(name));
        }
    }
    let says = |text: &&str| !text.is_empty();
    let session = |name, text: Option<&str>| {
        let text = text.filter(says);
        text.map(|text| bounded(name, text, SESSION_BYTES_MAX)).transpose()
    };
    // Both are checked: which one counts is no reason to take a bad one.
    let litellms = session(LITELLM_SESSION, given.litellm_session)?;
    told.session = session(SESSION, given.session)?.or(litellms);
    told.parent = given.parent.filter(says).map(parent).transpose()?;
    let step = given.step.filter(says);
    told.step = step.map(|step| bounded(STEP, step, STEP_BYTES_MAX)).transpose()?;
    told.max_cost = given.max_cost.map(max_cost).transpose()?;
    told.deadline = given.deadline.map(deadline).transpose()?;
    Ok(told)
}

/// A header that may be given once: of two that differ one would be ignored.
///
/// # Errors
/// [`BadRequest`] naming the header.
pub(crate) fn once<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, BadRequest> {
    let mut given = headers.get_all(name).iter();
    match (given.next(), given.next()) {
        (_, Some(_)) => Err(twice(name.as_str())),
        (one, None) => Ok(one),
    }
}

fn twice(name: &str) -> BadRequest {
    BadRequest::value(name, format!("`{name}` is given twice"))
}

fn add_tags(tags: &mut Vec<String>, given: &str) -> Result<(), BadRequest> {
    for tag in given.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
        add_tag(tags, tag)
            .map_err(|message| BadRequest::value(TAGS, format!("`{TAGS}`: {message}")))?;
    }
    Ok(())
}

/// An operator's tags of a key, as a request could name them: each once, in order.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check_tags(written: Vec<String>) -> Result<Vec<String>, String> {
    let mut tags = Vec::new();
    for tag in written {
        let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if tag.trim() != tag || tag.is_empty() || tag.contains(',') || !tag.bytes().all(plain) {
            return Err(
                "a tag is printable ASCII, without a comma and without spaces around it".to_owned()
            );
        }
        add_tag(&mut tags, &tag)?;
    }
    Ok(tags)
}

fn add_tag(tags: &mut Vec<String>, tag: &str) -> Result<(), String> {
    let (tags_max, bytes_max) = TAGS_MAX;
    if tag.len() > bytes_max {
        return Err(format!("a tag is longer than {bytes_max} bytes"));
    }
    if tag.get(..GUARD.len()).is_some_and(|start| start.eq_ignore_ascii_case(GUARD)) {
        return Err(format!("tags that begin with `{GUARD}` are the abuse guard's own"));
    }
    if tags.iter().any(|known| known.eq_ignore_ascii_case(tag)) {
        return Ok(());
    }
    if tags.len() == tags_max {
        return Err(format!("there are at most {tags_max} tags"));
    }
    tags.push(tag.to_owned());
    Ok(())
}

fn bounded(name: &str, text: &str, bytes_max: usize) -> Result<String, BadRequest> {
    if text.len() > bytes_max {
        return Err(BadRequest::value(name, format!("`{name}` is longer than {bytes_max} bytes")));
    }
    Ok(text.to_owned())
}

fn parent(id: &str) -> Result<RequestId, BadRequest> {
    let message = || format!("`{PARENT}` must be the id of a request");
    id.parse().map_err(|_| BadRequest::value(PARENT, message()))
}

fn max_cost(amount: &str) -> Result<PicoUsd, BadRequest> {
    amount.parse().map_err(|error| BadRequest::value(MAX_COST, format!("`{MAX_COST}`: {error}")))
}

fn deadline(millis: &str) -> Result<Duration, BadRequest> {
    let millis = millis.parse().ok().filter(|millis| (1..=DEADLINE_MS_MAX).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| {
        let message = format!("`{DEADLINE}` must be milliseconds from 1 to {DEADLINE_MS_MAX}");
        BadRequest::value(DEADLINE, message)
    })
}

fn is_traceparent(value: &HeaderValue) -> bool {
    value.len() >= 55
        && value.len() <= 128
        && value.as_bytes().iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            0..55 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            55 => *byte == b'-',
            _ => byte.is_ascii_graphic(),
        })
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, BadRequest> {
    value.to_str().map_err(|_| BadRequest::value(name, format!("`{name}` must be printable ASCII")))
}
