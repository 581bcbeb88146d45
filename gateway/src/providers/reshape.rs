//! Fields that a provider has no place for, or a family of its models: left out, renamed or refused.
//!
//! **Invariants:** everything else stays to the byte, in its order; what the operator leaves out is
//! never refused, and what would be refused but says what holds without it is left out.

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
    /// Models that refuse more than the provider does.
    pub(crate) families: &'static [Family],
}

/// Models that are known to refuse fields which others of their provider take. Of models that are
/// not known yet nothing is said: their provider names what it does not take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// What their names begin with; a number at its end is a whole one.
    pub(crate) models: &'static [&'static str],
    /// What the names of others begin with, which `models` would take in.
    pub(crate) but: &'static [&'static str],
    /// Refused by name, unless they say what holds without them.
    pub(crate) refuses: &'static [&'static str],
    /// Refused beside another, of which each says more than what holds without it: the second by name.
    pub(crate) apart: &'static [(&'static str, &'static str)],
}

/// What a model refuses beside what its provider does: all families that it is of, together.
#[derive(Default)]
struct ByModel {
    refuses: Vec<&'static str>,
    apart: Vec<(&'static str, &'static str)>,
}

impl Shape {
    /// No difference.
    pub(crate) const NONE: Self = Self { refuses: &[], drops: &[], renames: &[], families: &[] };

    /// Whether `model` refuses `field`, as its provider does or as its family.
    pub(super) fn is_refused(&self, field: &'static str, model: &str) -> bool {
        self.refuses.contains(&field) || self.refused_by(model).refuses.contains(&field)
    }

    /// What `model` refuses beside what its provider does.
    fn refused_by(&self, model: &str) -> ByModel {
        let mut by_model = ByModel::default();
        for family in self.families.iter().filter(|family| family.holds(model)) {
            by_model.refuses.extend(family.refuses);
            by_model.apart.extend(family.apart);
        }
        by_model
    }
}

impl Family {
    /// Of no model, with nothing that one refuses.
    pub(crate) const NONE: Self = Self { models: &[], but: &[], refuses: &[], apart: &[] };

    /// Whether `model` is one of them.
    pub(super) fn holds(&self, model: &str) -> bool {
        let begins = |names: &[&str]| names.iter().any(|name| begins_with(model, name));
        begins(self.models) && !begins(self.but)
    }
}

/// Whether `model` begins with `name`, in which a number at the end is a whole one: `gpt-5-2` is no
/// beginning of `gpt-5-2025-08-07`.
fn begins_with(model: &str, name: &str) -> bool {
    let digit = |text: &str, at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let in_number = digit(name, name.len().wrapping_sub(1)) && digit(model, name.len());
    model.starts_with(name) && !in_number
}

/// The body in the shape that a provider's `model` takes; `left_out` are the operator's own.
///
/// # Errors
/// [`BadRequest`] naming a field that is refused there.
pub(crate) fn reshape(
    body: Bytes,
    shape: &Shape,
    model: &str,
    left_out: &[String],
) -> Result<Bytes, BadRequest> {
    let by_model = shape.refused_by(model);
    let Shape { refuses, drops, renames, .. } = shape;
    let of_model = [by_model.refuses.len(), by_model.apart.len()];
    if [refuses.len(), drops.len(), renames.len(), left_out.len()] == [0; 4] && of_model == [0; 2] {
        return Ok(body);
    }
    let text = std::str::from_utf8(&body)
        .map_err(|_| BadRequest::body("the request body is not UTF-8"))?;
    let unsaid = said_apart(text, &by_model.apart, left_out)?;
    let mut out = String::with_capacity(text.len());
    let mut changed = false;
    json::members::<BadRequest>(text, |key, member| {
        if drops.contains(&key) || unsaid.contains(&key) || left_out.iter().any(|name| name == key)
        {
            changed = true;
            return Ok(());
        }
        let whose = if refuses.contains(&key) { "provider" } else { "model" };
        if refuses.contains(&key) || by_model.refuses.contains(&key) {
            if says_nothing(key, member.raw) {
                changed = true;
                return Ok(());
            }
            let message = format!("`{key}` is not served by this route's {whose}");
            return Err(BadRequest::unsupported(key, message));
        }
        let renamed = renames.iter().find(|(from, _)| *from == key);
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

/// Of fields that do not go together those that say nothing beside the other, and are left out.
///
/// # Errors
/// [`BadRequest`] naming the second where both say something.
fn said_apart(
    text: &str,
    apart: &[(&'static str, &'static str)],
    left_out: &[String],
) -> Result<Vec<&'static str>, BadRequest> {
    let mut unsaid = Vec::new();
    if apart.is_empty() {
        return Ok(unsaid);
    }
    // Whether each that is given says something.
    let mut given: Vec<(Option<bool>, Option<bool>)> = vec![(None, None); apart.len()];
    json::members::<BadRequest>(text, |key, member| {
        let says =
            (!left_out.iter().any(|name| name == key)).then(|| !says_nothing(key, member.raw));
        for ((first, second), (of_first, of_second)) in apart.iter().zip(&mut given) {
            if key == *first {
                *of_first = says;
            } else if key == *second {
                *of_second = says;
            }
        }
        Ok(())
    })?;
    for ((first, second), says) in apart.iter().zip(given) {
        match says {
            (Some(true), Some(true)) => {
                let message =
                    format!("`{second}` beside `{first}` is not served by this route's model");
                return Err(BadRequest::unsupported(second, message));
            }
            (Some(false), Some(_)) => unsaid.push(*first),
            (Some(true), Some(false)) => unsaid.push(*second),
            (None, _) | (_, None) => {}
        }
    }
    Ok(unsaid)
}

/// Whether a field says what holds without it too.
fn says_nothing(key: &str, raw: &str) -> bool {
    let default = match key {
        "parallel_tool_calls" => return matches!(raw, "null" | "true"),
        "temperature" | "top_p" | "n" => Some(1.0),
        "presence_penalty" | "frequency_penalty" => Some(0.0),
        _ => None,
    };
    let is = |default: f64| raw.parse().is_ok_and(|given: f64| (given - default).abs() < 1e-9);
    matches!(raw, "null" | "false" | "{}" | "[]") || default.is_some_and(is)
}

#[cfg(test)]
mod tests {
    use super::{Family, Shape, reshape};
    use bytes::Bytes;

    const SHAPE: Shape = Shape {
        refuses: &["logprobs", "n"],
        drops: &["store", "user"],
        renames: &[("seed", "random_seed")],
        families: &[Family {
            models: &["thinker"],
            but: &["thinker-chat"],
            refuses: &["temperature", "presence_penalty", "stop"],
            apart: &[("top_k", "top_p")],
        }],
    };

    #[test]
    fn fields_are_left_out_and_renamed_and_nothing_else_changes() {
        let shaped = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            let shaped = reshape(body, &SHAPE, "m", &["own".to_owned()]);
            String::from_utf8(shaped.unwrap().to_vec()).unwrap()
        };
        assert_eq!(
            shaped(r#"{"store":true,"a":1.50,"seed":7,"user":"u","b":"\u00e9","own":1}"#),
            r#"{"a":1.50,"random_seed":7,"b":"\u00e9"}"#
        );
        assert_eq!(shaped(r#"{ "a" : 1 }"#), r#"{ "a" : 1 }"#, "to the byte");
        assert_eq!(shaped(r#"{"store":true}"#), "{}");
    }

    /// The field for which `model` refuses this body.
    fn refused(model: &str, body: &'static str, left_out: &[String]) -> Option<String> {
        let body = Bytes::from_static(body.as_bytes());
        reshape(body, &SHAPE, model, left_out).err().and_then(|error| error.param)
    }

    #[test]
    fn what_changes_the_answer_is_refused_by_name() {
        let refused = |body| refused("m", body, &[]);
        assert_eq!(refused(r#"{"logprobs":true}"#).as_deref(), Some("logprobs"));
        assert_eq!(refused(r#"{"n":2}"#).as_deref(), Some("n"));
        for harmless in [r#"{"logprobs":false}"#, r#"{"logprobs":null}"#, r#"{"n":1}"#] {
            let body = Bytes::from_static(harmless.as_bytes());
            assert_eq!(reshape(body, &SHAPE, "m", &[]).unwrap(), "{}", "{harmless} goes unsaid");
        }
    }

    #[test]
    fn a_family_refuses_more_and_what_the_operator_leaves_out_is_not_refused() {
        let warm = r#"{"temperature":0.7}"#;
        assert_eq!(refused("thinker-2", warm, &[]).as_deref(), Some("temperature"));
        for model in ["m", "thinker-chat", "a-thinker"] {
            assert_eq!(refused(model, warm, &[]), None, "{model}");
        }
        for says_nothing in [r#"{"temperature":1.0}"#, r#"{"presence_penalty":0,"stop":null}"#] {
            assert_eq!(refused("thinker-2", says_nothing, &[]), None, "{says_nothing}");
        }
        assert_eq!(refused("thinker-2", warm, &["temperature".to_owned()]), None);
    }

    #[test]
    fn of_fields_that_do_not_go_together_one_may_say_something() {
        let sent = |model: &str, body: &'static str, left_out: &[String]| {
            let sent = reshape(Bytes::from_static(body.as_bytes()), &SHAPE, model, left_out);
            sent.map(|body| String::from_utf8(body.to_vec()).unwrap()).map_err(|bad| bad.param)
        };
        let both = r#"{"top_p":0.5,"top_k":5}"#;
        assert_eq!(sent("thinker-2", both, &[]), Err(Some("top_p".to_owned())));
        assert_eq!(sent("m", both, &[]).as_deref(), Ok(both));
        let left_out = ["top_k".to_owned()];
        assert_eq!(sent("thinker-2", both, &left_out).as_deref(), Ok(r#"{"top_p":0.5}"#));
        for (body, kept) in [
            (r#"{"top_p":1.0,"top_k":5}"#, r#"{"top_k":5}"#),
            (r#"{"top_k":null,"top_p":0.5}"#, r#"{"top_p":0.5}"#),
            (r#"{"top_p":1}"#, r#"{"top_p":1}"#),
            (r#"{"top_k":5}"#, r#"{"top_k":5}"#),
        ] {
            assert_eq!(sent("thinker-2", body, &[]).as_deref(), Ok(kept), "{body}");
        }
    }
}
