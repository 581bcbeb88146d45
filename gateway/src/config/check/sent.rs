//! What an operator adds to the requests of a cloud route, and what is taken out of them.
//!
//! **Invariant:** neither touches what a request stands on: its output cap, what is asked of whom, its
//! length and form, and the key it goes with.

use crate::{
    config::{error::Finding, written_routes},
    providers::{Auth, Kind as ProviderKind},
};
use http::{HeaderName, header};
use secrecy::SecretString;
use std::collections::HashSet;
use toml::Spanned;

/// Headers in which providers take keys.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// Headers that say how a request travels, or in which form its answer is read.
const OWN_HEADERS: [HeaderName; 9] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::TRANSFER_ENCODING,
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::EXPECT,
];
/// Fields without which a request would be another one.
const KEPT_FIELDS: [&str; 6] = ["model", "messages", "input", "prompt", "stream", "n"];
/// The fields of the output cap.
const CAP_FIELDS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

/// The headers that go with every request.
pub(super) fn headers(
    written: &written_routes::Cloud,
    kind: ProviderKind,
) -> Result<Vec<(String, SecretString)>, Finding> {
    // A key that is found by its usual name stands nowhere, and gives way.
    let has_key = written.api_key.as_ref().is_some_and(|key| !key.span().is_empty());
    let of_key = match kind.auth() {
        Auth::Bearer => "authorization",
        Auth::Header(name) => name,
    };
    let (mut headers, mut names) = (Vec::new(), HashSet::new());
    for (written_name, value) in &written.headers {
        let wrong = |message: &str| Err(Finding::at(written_name.span(), message));
        let Ok(name) = HeaderName::try_from(written_name.get_ref()) else {
            return wrong("this is not the name of a header");
        };
        if OWN_HEADERS.contains(&name) {
            return wrong(&format!(
                "`{name}` says how a request travels: tollgate writes it itself"
            ));
        }
        if has_key && name == of_key {
            return wrong(&format!("`{name}` is how `api_key` is sent: keep one of the two"));
        }
        if !names.insert(name) {
            return wrong("another spelling of this header is there too: keep one");
        }
        let value = header_value(value, "a header's value")?;
        headers.push((written_name.get_ref().clone(), value));
    }
    Ok(headers)
}

/// The fields of requests that are left out.
pub(super) fn left_out(written: &[Spanned<String>]) -> Result<Vec<String>, Finding> {
    let field = |written: &Spanned<String>| {
        let name = written.get_ref().as_str();
        let message = if CAP_FIELDS.contains(&name) {
            format!(
                "`{name}` is the output cap, without which no budget holds: `cap_field` says in which \
                 field the provider takes it"
            )
        } else if KEPT_FIELDS.contains(&name) {
            format!("`{name}` is what is asked, and cannot be left out")
        } else if name.trim().is_empty() {
            "this is the name of no field".to_owned()
        } else {
            return Ok(name.to_owned());
        };
        Err(Finding::at(written.span(), message))
    };
    written.iter().map(field).collect()
}

/// The variable that would hold the key of a provider's own address, where none is written, not even
/// among the headers. Whoever stands at an address of the operator's may want none.
pub(super) fn missing_key(
    written: &written_routes::Cloud,
    kind: ProviderKind,
) -> Option<&'static str> {
    let among_headers = written.headers.iter().any(|(name, _)| {
        KEY_HEADERS.iter().any(|known| name.get_ref().eq_ignore_ascii_case(known))
    });
    let keyless = written.api_key.is_none() && written.base_url.is_none() && !among_headers;
    kind.key_env().filter(|_| keyless)
}

/// A header's value, which may be a secret.
pub(super) fn header_value(written: &Spanned<String>, what: &str) -> Result<SecretString, Finding> {
    if http::HeaderValue::from_str(written.get_ref()).is_err() {
        let message = format!("{what} holds a character that no header may carry");
        return Err(Finding::at(written.span(), message));
    }
    Ok(SecretString::from(written.get_ref().as_str()))
}
