//! Objects of a schema that get no members but those it lists.
//!
//! A schema that says nothing of other members allows any, and a small model then invents them until
//! its cap. Leaving them out only narrows what may be written: **an answer still matches the caller's
//! schema.** Where parts of a schema are combined, one part's list is not the whole one, so nothing
//! is closed there. What narrows an alternative of `oneOf` lets through what this one and another both
//! match as written, so those are closed only where no value matches two.

use serde_json::{Map, Value as Json};

use crate::one_of::may_overlap;

/// Keywords that make one object answer to several schemas, wherever they stand.
const COMBINING: [&str; 9] = [
    "allOf",
    "if",
    "not",
    "$dynamicRef",
    "dependentSchemas",
    "dependentRequired",
    "dependencies",
    "unevaluatedProperties",
    "propertyNames",
];
/// Keywords beside `properties` that allow or demand members which are not listed.
const OPENING: [&str; 6] =
    ["additionalProperties", "patternProperties", "minProperties", "anyOf", "oneOf", "$ref"];

/// Closes the objects of `schema` that list their members and say nothing of others.
pub(crate) fn close(schema: &mut Json) {
    if !combines(schema) {
        close_below(schema);
    }
}

/// Whether a combining keyword stands anywhere, or alternatives that may overlap refer to what others
/// may refer to as well; a property of such a name counts too, which only leaves more open.
fn combines(value: &Json) -> bool {
    match value {
        Json::Object(fields) => fields.iter().any(|(key, value)| {
            let overlap = key == "oneOf" && may_overlap(value) && refers(value);
            overlap || COMBINING.contains(&key.as_str()) || combines(value)
        }),
        Json::Array(items) => items.iter().any(combines),
        _ => false,
    }
}

/// Whether a reference stands anywhere.
fn refers(value: &Json) -> bool {
    match value {
        Json::Object(fields) => fields.iter().any(|(key, value)| key == "$ref" || refers(value)),
        Json::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn close_below(schema: &mut Json) {
    let Json::Object(fields) = schema else { return };
    let lists = fields.contains_key("properties");
    for (key, value) in fields.iter_mut() {
        match (key.as_str(), value) {
            ("items" | "additionalProperties" | "contains", one @ Json::Object(_)) => {
                close_below(one);
            }
            ("properties" | "patternProperties" | "$defs" | "definitions", Json::Object(named)) => {
                named.values_mut().for_each(close_below);
            }
            ("oneOf", alternatives) if may_overlap(alternatives) => {}
            // Beside `properties` an alternative is a part of the same object.
            ("anyOf" | "oneOf", Json::Array(alternatives)) if !lists => {
                alternatives.iter_mut().for_each(close_below);
            }
            ("prefixItems", Json::Array(items)) => items.iter_mut().for_each(close_below),
            _ => {}
        }
    }
    if is_open_list(fields) {
        fields.insert("additionalProperties".to_owned(), Json::Bool(false));
    }
}

/// Whether it lists members, all that it requires among them, and says nothing of others.
fn is_open_list(fields: &Map<String, Json>) -> bool {
    let Some(Json::Object(listed)) = fields.get("properties") else { return false };
    let required = fields.get("required").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
    let is_listed = |name: &Json| name.as_str().is_some_and(|name| listed.contains_key(name));
    required.iter().all(is_listed) && OPENING.iter().all(|keyword| !fields.contains_key(*keyword))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn closed(mut schema: Json) -> Json {
        close(&mut schema);
        schema
    }

    #[test]
    fn an_object_that_lists_its_members_gets_no_others_at_any_depth() {
        let inner = json!({"type": "object", "properties": {"b": {"type": "string"}}});
        let schema = json!({
            "type": "object",
            "properties": {
                "a": {"type": "array", "items": inner},
                "c": {"anyOf": [inner, {"$ref": "#/$defs/d"}]},
            },
            "required": ["a"],
            "$defs": {"d": inner, "none": {"properties": {}}},
        });
        let schema = closed(schema);
        let no_others = &Json::Bool(false);
        for at in ["", "/properties/a/items", "/properties/c/anyOf/0", "/$defs/d", "/$defs/none"] {
            let object = schema.pointer(at).expect("an object");
            assert_eq!(&object["additionalProperties"], no_others, "{at}: {object}");
        }
    }

    #[test]
    fn alternatives_of_which_a_value_may_match_two_stay_as_they_are() {
        let of = |name: &str| json!({"type": "object", "properties": {name: {"type": "integer"}}});
        let inner = json!({"type": "object", "properties": {"x": of("a")}, "required": ["x"]});
        for schema in [
            json!({"oneOf": [of("a"), of("b")]}),
            json!({"oneOf": [inner, {"type": "object", "properties": {"x": of("b")}}]}),
            json!({"oneOf": [{"anyOf": [of("a"), {"type": "null"}]}, of("b")]}),
            // Closed, what is referred to would narrow an alternative.
            json!({"oneOf": [{"type": "object", "$ref": "#/$defs/a"}, of("b")], "$defs": {"a": of("a")}}),
        ] {
            assert_eq!(closed(schema.clone()), schema);
        }
        let beside = closed(json!({"anyOf": [{"oneOf": [of("a"), of("b")]}, of("c")]}));
        assert_eq!(beside["anyOf"][1]["additionalProperties"], false, "as ever");
    }

    #[test]
    fn alternatives_that_exclude_each_other_are_closed() {
        let kind = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]});
        let schema = closed(json!({"oneOf": [kind("a"), kind("b"), {"type": "null"}]}));
        for at in [0, 1] {
            assert_eq!(schema["oneOf"][at]["additionalProperties"], false, "{schema}");
        }
    }

    #[test]
    fn what_says_something_of_other_members_or_lists_none_stays_as_it_is() {
        let a = json!({"a": {"type": "string"}});
        for schema in [
            json!({"type": "object"}),
            json!({"properties": a, "additionalProperties": true}),
            json!({"properties": a, "additionalProperties": {"type": "integer"}}),
            json!({"properties": a, "patternProperties": {"^x": {}}}),
            json!({"properties": a, "minProperties": 2}),
            json!({"properties": a, "required": ["a", "b"]}),
            json!({"properties": a, "anyOf": [{"properties": {"b": {}}, "required": ["b"]}]}),
            json!({"properties": a, "$ref": "#/$defs/d", "$defs": {"d": true}}),
            json!({"allOf": [{"properties": a}, {"properties": {"b": {}}}]}),
            json!({"properties": a, "if": {"properties": a}, "then": {"required": ["b"]}}),
            json!(true),
        ] {
            assert_eq!(closed(schema.clone()), schema);
        }
    }
}
