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
/// What the abuse guard's tags begin with: a policy that looks at them must be able to trust them.
pub(crate) const GUARD: &str = "guard:";
/// Longest deadline: a day.
const DEADLINE_MS_MAX: u64 = 86_400_000;

/// `x-tollgate-tags`: comma separated, each once, in order.
pub(super) fn tags(headers: &HeaderMap) -> Result<Vec<String>, BadRequest> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-tags");
    let mut tags: Vec<String> = Vec::new();
    for value in headers.get_all(&NAME) {
        let given = text(&NAME, value)?.split(',').map(str::trim);
        for tag in given.filter(|tag| !tag.is_empty()) {
            add_tag(&mut tags, tag)
                .map_err(|message| BadRequest::value(&NAME, format!("`{NAME}`: {message}")))?;
        }
    }
    Ok(tags)
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
    if tag.starts_with(GUARD) {
        return Err(format!("tags that begin with `{GUARD}` are the abuse guard's own"));
    }
    if tags.iter().any(|known| known == tag) {
        return Ok(());
    }
    if tags.len() == tags_max {
        return Err(format!("there are at most {tags_max} tags"));
    }
    tags.push(tag.to_owned());
    Ok(())
}

/// `x-session-id`, or the name LiteLLM's clients use.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<String>, BadRequest> {
    static NAMES: [HeaderName; 2] =
        [HeaderName::from_static("x-session-id"), HeaderName::from_static("x-litellm-session-id")];
    for name in &NAMES {
        let Some(session) = one(headers, name)?.filter(|session| !session.is_empty()) else {
            continue;
        };
        if session.len() > SESSION_BYTES_MAX {
            let message = format!("`{name}` is longer than {SESSION_BYTES_MAX} bytes");
            return Err(BadRequest::value(name, message));
        }
        return Ok(Some(session.to_owned()));
    }
    Ok(None)
}

/// `x-tollgate-parent`: the id (`x-request-id`) of the request that caused this one.
pub(super) fn parent(headers: &HeaderMap) -> Result<Option<RequestId>, BadRequest> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-parent");
    let read = |id: &str| {
        let wrong = |_| BadRequest::value(&NAME, format!("`{NAME}` must be the id of a request"));
        id.parse().map_err(wrong)
    };
    one(headers, &NAME)?.filter(|id| !id.is_empty()).map(read).transpose()
}

/// `x-tollgate-step`: the caller's name for the step of its run.
pub(super) fn step(headers: &HeaderMap) -> Result<Option<String>, BadRequest> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-step");
    let step = one(headers, &NAME)?.filter(|step| !step.is_empty());
    if step.is_some_and(|step| step.len() > STEP_BYTES_MAX) {
        let message = format!("`{NAME}` is longer than {STEP_BYTES_MAX} bytes");
        return Err(BadRequest::value(&NAME, message));
    }
    Ok(step.map(str::to_owned))
}

/// `x-tollgate-max-cost-usd`: the most this request may cost.
pub(super) fn max_cost(headers: &HeaderMap) -> Result<Option<PicoUsd>, BadRequest> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-max-cost-usd");
    let read = |amount: &str| {
        amount.parse().map_err(|error| BadRequest::value(&NAME, format!("`{NAME}`: {error}")))
    };
    one(headers, &NAME)?.map(read).transpose()
}

/// `x-tollgate-deadline-ms`: from arrival.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, BadRequest> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-deadline-ms");
    let read = |millis: &str| {
        millis
            .parse()
            .ok()
            .filter(|millis| (1..=DEADLINE_MS_MAX).contains(millis))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                let message = format!("`{NAME}` must be milliseconds from 1 to {DEADLINE_MS_MAX}");
                BadRequest::value(&NAME, message)
            })
    };
    one(headers, &NAME)?.map(read).transpose()
}

/// `traceparent`, if it has the shape of one: the standard says to ignore any other.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<HeaderValue> {
    static NAME: HeaderName = HeaderName::from_static("traceparent");
    let value = headers.get(&NAME)?;
    let shaped = value.len() >= 55
        && value.len() <= 128
        && value.as_bytes().iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            0..55 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            55 => *byte == b'-',
            _ => byte.is_ascii_graphic(),
        });
    shaped.then(|| value.clone())
}

/// A header's only value.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, BadRequest> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| text(name, value).map(str::trim)).transpose()?;
    match values.next() {
        None => Ok(first),
        Some(_) => Err(BadRequest::value(name, format!("`{name}` is given twice"))),
    }
}

fn text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, BadRequest> {
    value.to_str().map_err(|_| BadRequest::value(name, format!("`{name}` must be printable ASCII")))
}
