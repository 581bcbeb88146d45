//! What an error says together with what caused it.

use std::error::Error;

/// The error and its causes, one after the other.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What went wrong with a request of ours, without its address: that may hold a secret.
#[must_use]
pub fn of_request(error: reqwest::Error) -> String {
    chain(&error.without_url())
}
