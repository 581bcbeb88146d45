//! A function's schema, narrowed to what arguments are: objects.
//!
//! A schema may allow other things too (`{}`, `["object", "null"]`, one without a `type`). The frame
//! around a call holds an object and nothing else, so the others are taken out here; a schema that
//! is left with nothing is refused, here or when it is compiled. **Arguments still match the
//! caller's schema**: it is only narrowed.

use serde_json::{Map, Value as Json};

use crate::constraint::ConstraintError;

/// The schema, which allows objects alone.
///
/// # Errors
/// Its `type` allows none.
pub(crate) fn of_objects(schema: Json) -> Result<Json, ConstraintError> {
    let mut fields = match schema {
        Json::Object(fields) => fields,
        Json::Bool(true) => Map::new(),
        // What allows nothing is refused as it is.
        other => return Ok(other),
    };
    let allows = match fields.get("type") {
        None => true,
        Some(Json::String(only)) => only == "object",
        Some(Json::Array(several)) => several.iter().any(|one| one == "object"),
        // No type at all: whoever compiles it says so.
        Some(_) => return Ok(Json::Object(fields)),
    };
    if !allows {
        let reason = "arguments are an object, and its `type` allows none";
        return Err(ConstraintError::Refused(reason.to_owned()));
    }
    fields.insert("type".to_owned(), "object".into());
    Ok(Json::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::of_objects;
    use serde_json::json;

    #[test]
    fn what_allows_objects_allows_nothing_else_afterwards() {
        let a = json!({"a": {"type": ["string", "null"]}});
        for (schema, narrowed) in [
            (json!(true), json!({"type": "object"})),
            (json!({}), json!({"type": "object"})),
            (json!({"type": "object"}), json!({"type": "object"})),
            (json!({"type": ["null", "object"]}), json!({"type": "object"})),
            (json!({"properties": a}), json!({"type": "object", "properties": a})),
            (json!({"$ref": "#/$defs/a"}), json!({"type": "object", "$ref": "#/$defs/a"})),
        ] {
            assert_eq!(of_objects(schema.clone()), Ok(narrowed), "{schema}");
        }
    }

    #[test]
    fn a_type_without_objects_is_refused() {
        for schema in [
            json!({"type": "string"}),
            json!({"type": "null", "properties": {}}),
            json!({"type": ["array", "integer"]}),
            json!({"type": []}),
        ] {
            of_objects(schema.clone()).expect_err(&schema.to_string());
        }
    }
}
