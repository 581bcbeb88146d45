//! Where the schemas within a schema stand. What is asked of keywords is asked there alone: the caller's
//! data may look like a schema, and a property may have a keyword's name.

use std::convert::Infallible;

use serde_json::{Map, Value as Json};

/// Keywords whose values are the caller's data, not schemas.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose members are named by the caller: whatever the names are, these are schemas.
const NAMED: [&str; 5] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

/// Whether something holds of the schema's keywords, or of those of one within it.
pub(crate) fn any(schema: &Json, holds: &impl Fn(&Map<String, Json>) -> bool) -> bool {
    match schema {
        Json::Object(fields) => {
            holds(fields)
                || fields.iter().any(|(key, value)| match value {
                    Json::Object(named) if NAMED.contains(&key.as_str()) => {
                        named.values().any(|schema| any(schema, holds))
                    }
                    value => !DATA.contains(&key.as_str()) && any(value, holds),
                })
        }
        Json::Array(items) => items.iter().any(|item| any(item, holds)),
        _ => false,
    }
}

/// Shows the keywords of the schema, then those of each within it.
pub(crate) fn each(schema: &mut Json, mut show: impl FnMut(&mut Map<String, Json>)) {
    let Ok(()) = try_each(schema, &mut |fields| {
        show(fields);
        Ok::<(), Infallible>(())
    });
}

/// The same until the first error.
///
/// # Errors
/// That one.
pub(crate) fn try_each<E>(
    schema: &mut Json,
    show: &mut impl FnMut(&mut Map<String, Json>) -> Result<(), E>,
) -> Result<(), E> {
    match schema {
        Json::Object(fields) => {
            show(fields)?;
            fields.iter_mut().try_for_each(|(key, value)| match value {
                Json::Object(named) if NAMED.contains(&key.as_str()) => {
                    named.values_mut().try_for_each(|schema| try_each(schema, show))
                }
                _ if DATA.contains(&key.as_str()) => Ok(()),
                value => try_each(value, show),
            })
        }
        Json::Array(items) => items.iter_mut().try_for_each(|item| try_each(item, show)),
        _ => Ok(()),
    }
}

/// The keyword at which a reference, read as the compiler does, goes to where no schema stands: that one
/// would take whatever is there for a schema, which nobody had looked at.
pub(crate) fn astray(reference: &str) -> Option<&'static str> {
    let mut segments = reference.strip_prefix("#/")?.split('/');
    while let Some(segment) = segments.next() {
        let one_of = |keywords: &[&'static str]| keywords.iter().copied().find(|it| *it == segment);
        if let Some(data) = one_of(&DATA) {
            return Some(data);
        }
        if let Some(names) = one_of(&NAMED)
            && segments.next().is_none()
        {
            return Some(names);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_stand_under_names_and_keywords_and_not_in_data() {
        let it = json!({"it": true});
        let mut schema = json!({
            "properties": {"const": it, "properties": it}, "$defs": {"enum": {"anyOf": [{}, it]}},
            "items": [it], "not": it, "additionalProperties": true, "required": ["it"],
            "const": it, "enum": [it], "default": {"properties": {"a": it}}, "examples": [it],
        });
        assert!(any(&schema, &|fields| fields.contains_key("it")));
        each(&mut schema, |fields| {
            fields.shift_remove("it");
        });
        let none = json!({});
        assert_eq!(
            schema,
            json!({
                "properties": {"const": none, "properties": none},
                "$defs": {"enum": {"anyOf": [{}, none]}},
                "items": [none], "not": none, "additionalProperties": true, "required": ["it"],
                "const": it, "enum": [it], "default": {"properties": {"a": it}}, "examples": [it],
            })
        );
        assert!(!any(&schema, &|fields| fields.contains_key("it")));
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut schema = json!({"items": {"a": 1}, "not": {"b": 1}});
        let mut seen = 0;
        let told = try_each(&mut schema, &mut |fields| {
            seen += 1;
            if fields.contains_key("a") { Err("a") } else { Ok(()) }
        });
        assert_eq!((told, seen), (Err("a"), 2));
    }

    #[test]
    fn a_reference_leads_to_a_schema_or_goes_astray() {
        for (reference, keyword) in [
            ("#", None),
            ("#/", None),
            ("const", None),
            ("#/$defs/a", None),
            ("#/properties/const", None),
            ("#/$defs/properties/items/0/anyOf/1", None),
            ("#/definitions/a/properties/default/not", None),
            ("#/$defs", Some("$defs")),
            ("#/const", Some("const")),
            ("#/examples/0", Some("examples")),
            ("#/properties/a/properties", Some("properties")),
            ("#/properties/a/default/items", Some("default")),
            ("#/$defs/a/enum/0/properties/b", Some("enum")),
        ] {
            assert_eq!(astray(reference), keyword, "{reference}");
        }
    }
}
