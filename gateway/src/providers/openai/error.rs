//! A provider's error body, in whichever of the usual shapes it comes.

use crate::wire::json::{self, Kind, Shown};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

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
    let Ok(outer) = serde_json::from_slice::<Written<'_>>(body) else {
        return ProviderError::default();
    };
    match outer.error.map(RawValue::get) {
        Some(inner) if json::kind(inner) == Kind::Object => {
            serde_json::from_str::<Written<'_>>(inner)
                .as_ref()
                .map_or_else(|_| ProviderError::default(), read)
        }
        Some(message) => ProviderError { message: text(message), ..read(&outer) },
        None => read(&outer),
    }
}

fn read(written: &Written<'_>) -> ProviderError {
    let word = |raw: Option<&RawValue>| {
        let raw = raw?.get();
        let word = if json::kind(raw) == Kind::Number { Some(raw.to_owned()) } else { text(raw) };
        word.filter(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX)
    };
    ProviderError {
        message: written.message.or(written.detail).and_then(|raw| text(raw.get())),
        error_type: word(written.error_type.or(written.status)),
        param: word(written.param),
        code: word(written.code),
        retry_after: written.details.and_then(|raw| retry_delay(raw.get())),
    }
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
