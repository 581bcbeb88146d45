//! Fields that a provider in OpenAI's format has no place for: left out, renamed or refused.
//!
//! **Invariant:** everything else stays to the byte, in its order.

use crate::wire::{BadRequest, json};
use bytes::Bytes;

/// Where a provider differs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Refused by name: they change the answer.
    pub(crate) refuses: &'static [&'static str],
    /// Left out: hints.
    pub(crate) drops: &'static [&'static str],
    /// Under another name.
    pub(crate) renames: &'static [(&'static str, &'static str)],
}

impl Shape {
    /// No difference.
    pub(crate) const NONE: Self = Self { refuses: &[], drops: &[], renames: &[] };

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

/// The body in a provider's shape; `also_dropped` are the operator's own.
///
/// # Errors
/// [`BadRequest`] naming a field that the provider refuses.
pub(crate) fn reshape(
    body: Bytes,
    shape: &Shape,
    also_dropped: &[String],
) -> Result<Bytes, BadRequest> {
    if shape.is_none() && also_dropped.is_empty() {
        return Ok(body);
    }
    let text = std::str::from_utf8(&body)
        .map_err(|_| BadRequest::body("the request body is not UTF-8"))?;
    let mut out = String::with_capacity(text.len());
    let mut changed = false;
    json::members::<BadRequest>(text, |key, member| {
        let said = !matches!(member.raw, "null" | "false");
        if said && shape.refuses.contains(&key) {
            let message = format!("`{key}` is not served by this route's provider");
            return Err(BadRequest::unsupported(key, message));
        }
        if shape.drops.contains(&key) || also_dropped.iter().any(|name| name == key) {
            changed = true;
            return Ok(());
        }
        let renamed = shape.renames.iter().find(|(from, _)| *from == key);
        changed |= renamed.is_some();
        let key = renamed.map_or(key, |(_, to)| to);
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::to_string(key)?);
        out.push(':');
        out.push_str(member.raw);
        Ok(())
    })?;
    if !changed {
        return Ok(body);
    }
    out.push_str(if out.is_empty() { "{}" } else { "}" });
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::{Shape, reshape};
    use bytes::Bytes;

    const SHAPE: Shape = Shape {
        refuses: &["logprobs"],
        drops: &["store", "user"],
        renames: &[("seed", "random_seed")],
    };

    #[test]
    fn fields_are_left_out_and_renamed_and_nothing_else_changes() {
        let shaped = |body: &'static str| {
            let shaped = reshape(Bytes::from_static(body.as_bytes()), &SHAPE, &["own".to_owned()]);
            String::from_utf8(shaped.unwrap().to_vec()).unwrap()
        };
        assert_eq!(
            shaped(r#"{"store":true,"a":1.50,"seed":7,"user":"u","b":"\u00e9","own":1}"#),
            r#"{"a":1.50,"random_seed":7,"b":"\u00e9"}"#
        );
        assert_eq!(shaped(r#"{ "a" : 1 }"#), r#"{ "a" : 1 }"#, "to the byte");
        assert_eq!(shaped(r#"{"store":true}"#), "{}");
    }

    #[test]
    fn what_changes_the_answer_is_refused_by_name() {
        let shaped = |body: &'static str| reshape(Bytes::from_static(body.as_bytes()), &SHAPE, &[]);
        let error = shaped(r#"{"logprobs":true}"#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("logprobs"));
        assert!(shaped(r#"{"logprobs":false}"#).is_ok() && shaped(r#"{"logprobs":null}"#).is_ok());
    }
}
