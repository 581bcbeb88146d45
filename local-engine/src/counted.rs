//! Whether an object must have more members than those it requires by name.
//!
//! The compiler counts members that are not listed as it writes them and remembers no names: three times
//! the same name would pass for three members, of which whoever reads the answer finds one.

use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

use crate::schemas;

/// Whether some object of `schema` has a `minProperties` that members of any name would have to meet.
pub(crate) fn counts_any_names(schema: &Json) -> bool {
    schemas::any(schema, &counts)
}

fn counts(fields: &Map<String, Json>) -> bool {
    let Some(least) = fields.get("minProperties").and_then(Json::as_f64) else { return false };
    let required = fields
        .get("required")
        .and_then(Json::as_array)
        .map_or(0, |names| names.iter().filter_map(Json::as_str).collect::<BTreeSet<_>>().len());
    let takes_any = fields.get("additionalProperties") != Some(&Json::Bool(false))
        || fields.contains_key("patternProperties");
    // One more than those has no other name to be the same as.
    takes_any && least > (u32::try_from(required).map_or(f64::MAX, f64::from)) + 1.0
}

#[cfg(test)]
mod tests {
    use super::counts_any_names;
    use serde_json::json;

    #[test]
    fn more_members_than_one_beside_the_required_ones_are_counted_by_any_names() {
        let any = json!({"type": "integer"});
        for schema in [
            json!({"minProperties": 2}),
            json!({"minProperties": 3.0, "required": ["a"], "additionalProperties": any}),
            json!({"minProperties": 2, "additionalProperties": false, "patternProperties": {"^a": any}}),
            json!({"minProperties": 3, "required": ["a", "a"]}),
            json!({"items": {"anyOf": [{"minProperties": 2}]}}),
            json!({"properties": {"enum": {"minProperties": 2}}}),
        ] {
            assert!(counts_any_names(&schema), "{schema}");
        }
        for schema in [
            json!({"minProperties": 1}),
            json!({"minProperties": 2, "required": ["a"]}),
            json!({"minProperties": 2, "required": ["a", "b"], "additionalProperties": any}),
            json!({"minProperties": 2, "properties": {"a": any, "b": any}, "additionalProperties": false}),
            json!({"properties": {"minProperties": any}}),
            json!({"const": {"minProperties": 2}}),
            json!({"maxProperties": 9}),
        ] {
            assert!(!counts_any_names(&schema), "{schema}");
        }
    }
}
