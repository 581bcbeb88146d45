//! Google Gemini's `generateContent` as a provider speaks it.

mod answer;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Stream, whole};
pub(crate) use request::body;

/// Stands in a call's id before the signature that Gemini wants back with the call.
const SIGNED: &str = "__thought__";

/// A call's id without the signature.
pub(crate) fn unsigned(id: &str) -> &str {
    id.split_once(SIGNED).map_or(id, |(bare, _)| bare)
}
