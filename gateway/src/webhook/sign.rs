//! The signature of a delivery, in the form that Stripe made common: a receiver that can check
//! theirs can check ours.

use ring::hmac;
use std::fmt::Write as _;

/// The header that carries [`signature`].
pub const SIGNATURE_HEADER: &str = "tollgate-signature";

/// `t=<unix seconds>,v1=<hex>`: HMAC-SHA256 over `<unix seconds>.<body>` with the receiver's secret.
/// The time is that of the attempt, so that an old delivery cannot be played again.
#[must_use]
pub fn signature(secret: &str, unix_s: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(unix_s.to_string().as_bytes());
    context.update(b".");
    context.update(body.as_bytes());
    let mut text = format!("t={unix_s},v1=");
    for byte in context.sign().as_ref() {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hmac_of_the_time_and_the_body() {
        // printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_0123456789
        assert_eq!(
            signature("whsec_0123456789", 1_700_000_000, r#"{"id":"evt_1"}"#),
            "t=1700000000,v1=2fec00e092924397533a441c5f5e840ea4c446fb846177802a25de63bbbdd1fe"
        );
    }
}
