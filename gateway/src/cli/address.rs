//! Addresses of the admin API's pages.

use std::fmt::Write as _;

/// Adds a parameter to a query, if it has a value.
pub(super) fn param(params: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let separator = if params.is_empty() { "" } else { "&" };
        // Writing to a String cannot fail.
        let _written = write!(params, "{separator}{name}={}", escaped(value));
    }
}

/// Percent-encoded for a path or a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}
