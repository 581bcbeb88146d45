//! Whether a value may match two alternatives of a `oneOf`, which it must not.
//!
//! **What is said to exclude each other does**, read from what is written alone: other types or words,
//! or an object's member that one requires and both list with other types or words. All else may
//! overlap.

use serde_json::Value as Json;

/// More alternatives than these are not looked at.
const ALTERNATIVES_MAX: usize = 64;

/// Whether a value may match two of these.
pub(crate) fn may_overlap(alternatives: &Json) -> bool {
    let Some(alternatives) = alternatives.as_array() else { return true };
    let overlap = |at: usize, one: &Json| alternatives[..at].iter().any(|it| !exclude(it, one));
    alternatives.len() > ALTERNATIVES_MAX
        || alternatives.iter().enumerate().any(|(at, one)| overlap(at, one))
}

/// Whether no value matches both.
fn exclude(one: &Json, other: &Json) -> bool {
    // Whatever matches both is an object where one of them allows nothing else.
    let object = only_type(one) == Some("object") || only_type(other) == Some("object");
    apart(one, other)
        || (object && (requires_otherwise(one, other) || requires_otherwise(other, one)))
}

/// Whether their own types or words have nothing in common.
fn apart(one: &Json, other: &Json) -> bool {
    let types = match (only_type(one), only_type(other)) {
        (Some("integer"), Some("number")) | (Some("number"), Some("integer")) => false,
        (Some(one), Some(other)) => one != other,
        _ => false,
    };
    let words = match (words(one), words(other)) {
        (Some(mine), Some(others)) => mine.iter().all(|word| !others.contains(word)),
        _ => false,
    };
    types || words
}

fn only_type(schema: &Json) -> Option<&str> {
    schema.get("type")?.as_str()
}

/// Whether one requires a member that is something else in the other.
fn requires_otherwise(one: &Json, other: &Json) -> bool {
    let required = one.get("required").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    required.iter().filter_map(Json::as_str).any(|name| {
        let members = member(one, name).zip(member(other, name));
        members.is_some_and(|(mine, others)| apart(mine, others))
    })
}

fn member<'a>(schema: &'a Json, name: &str) -> Option<&'a Json> {
    schema.get("properties")?.get(name)
}

/// The words of which a schema allows one; `None` where it may allow something else. Numbers that are
/// equal may be written differently, and are no words.
fn words(schema: &Json) -> Option<Vec<&str>> {
    match schema.get("const") {
        Some(only) => only.as_str().map(|only| vec![only]),
        None => schema.get("enum")?.as_array()?.iter().map(Json::as_str).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(of: &Json, required: bool) -> Json {
        let required = if required { json!(["kind"]) } else { json!([]) };
        json!({"type": "object", "properties": {"kind": of}, "required": required})
    }

    #[test]
    fn types_and_required_words_exclude_each_other() {
        let (a, b) = (json!({"const": "a"}), json!({"enum": ["b", "c"]}));
        for alternatives in [
            json!([]),
            json!([{}]),
            json!([{"type": "string"}, {"type": "integer"}, {"type": "null"}]),
            json!([kind(&a, true), kind(&b, false)]),
            json!([kind(&a, false), kind(&b, true), {"type": "array"}]),
            json!([kind(&json!({"type": "boolean"}), true), kind(&json!({"type": "null"}), false)]),
            json!([{"const": "a"}, {"enum": ["b", "c"]}]),
        ] {
            assert!(!may_overlap(&alternatives), "{alternatives}");
        }
    }

    #[test]
    fn many_alternatives_are_not_looked_at() {
        let of = |count: usize| -> Json {
            (0..count).map(|it| json!({"const": it.to_string()})).collect()
        };
        assert!(!may_overlap(&of(ALTERNATIVES_MAX)) && may_overlap(&of(ALTERNATIVES_MAX + 1)));
    }

    #[test]
    fn what_is_not_seen_to_exclude_each_other_may_overlap() {
        let (a, ab) = (json!({"const": "a"}), json!({"enum": ["a", "b"]}));
        let typeless = json!({"properties": {"kind": {"const": "b"}}, "required": ["kind"]});
        let typeless_a = json!({"properties": {"kind": a}, "required": ["kind"]});
        for alternatives in [
            json!({}),
            json!([{}, {"type": "string"}]),
            json!([{"type": "integer"}, {"type": "number"}]),
            json!([{"type": ["string", "null"]}, {"type": "integer"}]),
            json!([kind(&a, false), kind(&json!({"const": "b"}), false)]),
            json!([kind(&a, true), kind(&ab, true)]),
            json!([kind(&json!({"const": 1}), true), kind(&json!({"const": 1.0}), true)]),
            // What is no object matches both.
            json!([typeless_a, typeless]),
            json!([{"$ref": "#/$defs/a"}, {"type": "object"}]),
        ] {
            assert!(may_overlap(&alternatives), "{alternatives}");
        }
    }
}
