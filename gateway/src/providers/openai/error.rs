//! A provider's error body, in whichever of the usual shapes it comes.

use crate::wire::json::{self, Kind, Shown};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, time::Duration};

/// Longest message that is passed on, in bytes.
const MESSAGE_BYTES_MAX: usize = 2000;
/// Longest type, parameter or code that is passed on.
const WORD_BYTES_MAX: usize = 200;

/// What a provider says is wrong. Its message may quote the caller's request: it is for that
/// caller alone and never for a log. The code is a plain word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderError {
    /// The message.
    pub message: Option<String>,
    /// The error's `type`.
    pub error_type: Option<String>,
    /// The parameter.
    pub param: Option<String>,
    /// The code.
    pub code: Option<String>,
    /// How long to wait, where the body says so (Google's `RetryInfo`).
    pub retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Written<'a> {
    /// An object (OpenAI), or a string (Ollama).
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// FastAPI.
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type")]
    error_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    param: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    /// Google's word for it.
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    /// Google's details, of which one may say how long to wait.
    #[serde(borrow, default)]
    details: Option<&'a RawValue>,
    /// OpenRouter's.
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    /// OpenRouter says of a choice that failed why it did.
    #[serde(borrow, default)]
    choices: Option<&'a RawValue>,
}

/// A choice, for its error alone.
#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// One of FastAPI's details: what is wrong where.
#[derive(Deserialize)]
struct Wrong<'a> {
    #[serde(borrow, default)]
    loc: Vec<&'a RawValue>,
    #[serde(borrow)]
    msg: &'a RawValue,
}

/// An object with FastAPI's details in it, as Mistral writes its message.
#[derive(Deserialize)]
struct Detailed<'a> {
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// What OpenRouter adds to an error of the provider that it asked, of which it says itself only that
/// there was one.
#[derive(Deserialize)]
struct Metadata<'a> {
    /// That provider's body.
    #[serde(borrow, default)]
    raw: Option<&'a RawValue>,
}

/// One of Google's details.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    #[serde(borrow, default)]
    retry_delay: Option<&'a str>,
}

/// Reads an error body; fields that are not there, or a body that is no JSON, give `None`s.
#[must_use]
pub fn provider_error(body: &[u8]) -> ProviderError {
    // Google's streams wrap their errors in a list.
    let body = match serde_json::from_slice::<[&RawValue; 1]>(body) {
        Ok([first]) => first.get().as_bytes(),
        Err(_) => body,
    };
    let Some((error, metadata)) = of_body(body) else { return ProviderError::default() };
    match metadata.and_then(|metadata| of_another(metadata.get())) {
        Some(other) => ProviderError {
            message: other.message,
            error_type: other.error_type.or(error.error_type),
            param: other.param.or(error.param),
            code: other.code.or(error.code),
            retry_after: error.retry_after,
        },
        None => error,
    }
}

/// An error, and what OpenRouter adds to it.
fn of_body(body: &[u8]) -> Option<(ProviderError, Option<&RawValue>)> {
    let outer = serde_json::from_slice::<Written<'_>>(body).ok()?;
    let error = outer.error.or_else(|| of_choices(outer.choices?.get()));
    Some(match error.map(RawValue::get) {
        Some(inner) if json::kind(inner) == Kind::Object => {
            let inner = serde_json::from_str::<Written<'_>>(inner).ok()?;
            (read(&inner), inner.metadata)
        }
        Some(message) => (ProviderError { message: text(message), ..read(&outer) }, None),
        None => (read(&outer), None),
    })
}

/// The error of the first choice that has one.
fn of_choices(choices: &str) -> Option<&RawValue> {
    let choices: Vec<Choice<'_>> = serde_json::from_str(choices).ok()?;
    choices.into_iter().find_map(|choice| choice.error)
}

/// The error that another provider gave to the one that was asked, where it says something.
fn of_another(metadata: &str) -> Option<ProviderError> {
    let raw = serde_json::from_str::<Metadata<'_>>(metadata).ok()?.raw?.get();
    let body = json::text_of(raw).unwrap_or(Cow::Borrowed(raw));
    let error = match of_body(body.as_bytes()) {
        Some((error, _)) => error,
        // No JSON: words, or a page of a server before it.
        None => {
            let words = text(raw).filter(|text| !text.trim_start().starts_with('<'));
            ProviderError { message: words, ..ProviderError::default() }
        }
    };
    error.message.is_some().then_some(error)
}

fn read(written: &Written<'_>) -> ProviderError {
    let word = |raw: Option<&RawValue>| {
        let raw = raw?.get();
        let word = if json::kind(raw) == Kind::Number { Some(raw.to_owned()) } else { text(raw) };
        word.filter(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX)
    };
    let said = written.message.or(written.detail).map(RawValue::get);
    let wrong = said.and_then(wrong);
    let (place, wrong) = wrong.map_or((None, None), |(place, wrong)| (place, Some(wrong)));
    ProviderError {
        message: wrong.or_else(|| text(said?)),
        error_type: word(written.error_type.or(written.status)),
        param: word(written.param).or(place),
        code: word(written.code),
        retry_after: written.details.and_then(|raw| retry_delay(raw.get())),
    }
}

/// The first of FastAPI's details, a list or an object with it in it: the field, without the `body` that
/// it is in, and what is wrong with it.
fn wrong(said: &str) -> Option<(Option<String>, String)> {
    let list = match json::kind(said) {
        Kind::Array => said,
        Kind::Object => serde_json::from_str::<Detailed<'_>>(said).ok()?.detail.get(),
        _ => return None,
    };
    let wrong: Vec<Wrong<'_>> = serde_json::from_str(list).ok()?;
    let Wrong { loc, msg } = wrong.into_iter().next()?;
    let mut place = String::new();
    for part in loc.iter().map(|part| part.get()).filter(|part| *part != "\"body\"") {
        match Shown::of(part) {
            Some(Shown(name)) if place.is_empty() => place.push_str(&name),
            Some(Shown(name)) => place.extend([".", &name]),
            None => place.extend(["[", part, "]"]),
        }
    }
    let message = text(msg.get())?;
    if place.is_empty() || place.len() > WORD_BYTES_MAX {
        return Some((None, message));
    }
    let message = format!("{place}: {message}");
    Some((Some(place), message))
}

/// `retryDelay` of the first detail that has one: seconds with a fraction and an `s`, as protobuf
/// writes a duration.
fn retry_delay(details: &str) -> Option<Duration> {
    let details: Vec<&RawValue> = serde_json::from_str(details).ok()?;
    details.iter().find_map(|detail| {
        let detail: Detail<'_> = serde_json::from_str(detail.get()).ok()?;
        let seconds = detail.retry_delay?.strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    })
}

/// A string's text, cut to the longest that is passed on.
fn text(raw: &str) -> Option<String> {
    let mut text = Shown::of(raw)?.0.into_owned();
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    (!text.is_empty()).then_some(text)
}
