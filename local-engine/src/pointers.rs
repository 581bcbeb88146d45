//! References of a schema whose pointers are escaped: `#/$defs/a~1b`, `#/$defs/a%20b`. The compiler
//! reads a pointer letter by letter and splits it at each slash, so pointers are written as it reads
//! them, and definitions whose name has a slash get another name: only references tell it.
//!
//! **A reference leads where it led before.** One that this cannot say stays as it is, and is refused by
//! the compiler. One that leads to the caller's data, or to what only holds schemas, is refused here.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::{constraint::ConstraintError, schemas};

/// Where a schema keeps what is referred to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// New names by the place and the name of a definition.
type Renamed = BTreeMap<(&'static str, String), String>;

/// Writes every reference as the compiler reads it.
///
/// # Errors
/// One leads to what is no schema.
pub(crate) fn unescape(schema: &mut Json) -> Result<(), ConstraintError> {
    let mut renamed = Renamed::new();
    for place in DEFINITIONS {
        if let Some(Json::Object(definitions)) = schema.get_mut(place) {
            rename(place, definitions, &mut renamed);
        }
    }
    schemas::try_each(schema, &mut |fields| {
        let Some(Json::String(reference)) = fields.get_mut("$ref") else { return Ok(()) };
        if let Some(plain) = plain(reference, &renamed) {
            *reference = plain;
        }
        let Some(keyword) = schemas::astray(reference) else { return Ok(()) };
        let reason = format!("a `$ref` leads to `{keyword}`, where no schema stands");
        Err(ConstraintError::Refused(reason))
    })
}

/// Gives the definitions with a slash in their names others.
fn rename(place: &'static str, definitions: &mut Map<String, Json>, renamed: &mut Renamed) {
    let with_slash: Vec<String> =
        definitions.keys().filter(|name| name.contains('/')).cloned().collect();
    for name in with_slash {
        let Some(definition) = definitions.remove(&name) else { continue };
        let mut other = name.replace('/', "_");
        while definitions.contains_key(&other) {
            other.push('_');
        }
        definitions.insert(other.clone(), definition);
        renamed.insert((place, name), other);
    }
}

/// A reference without escapes; `None` where it has none, or cannot be written so.
fn plain(reference: &str, renamed: &Renamed) -> Option<String> {
    let pointer = reference.strip_prefix("#/").filter(|it| it.contains(['~', '%']))?;
    let pointer = percent_decoded(pointer)?;
    let segment = |segment: &str| segment.replace("~1", "/").replace("~0", "~");
    let mut segments: Vec<String> = pointer.split('/').map(segment).collect();
    if let [place, name, ..] = segments.as_mut_slice()
        && let Some(place) = DEFINITIONS.into_iter().find(|it| it == place)
        && let Some(other) = renamed.get(&(place, name.clone()))
    {
        name.clone_from(other);
    }
    let is_readable = segments.iter().all(|segment| !segment.contains('/'));
    is_readable.then(|| format!("#/{}", segments.join("/")))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let is_hex = |it: &&str| it.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = part.get(..2).filter(is_hex)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_reference_leads_where_it_led() {
        let mut schema = json!({
            "properties": {
                "slash": {"$ref": "#/$defs/a~1b"},
                "inside": {"$ref": "#/$defs/a~1b/properties/c~0d"},
                "space": {"$ref": "#/$defs/a%20b"},
                "tilde": {"$ref": "#/definitions/~01"},
                "$ref": {"$ref": "#/properties/space"},
                "const": {"anyOf": [{"$ref": "#/%24defs/a~1b"}]},
            },
            "$defs": {
                "a/b": {"properties": {"c~d": {"const": {"$ref": "#/$defs/a~1b"}}}},
                "a_b": {"const": 1},
                "a b": {"const": 2},
            },
            "definitions": {"~1": {"const": 3}},
        });
        let given = schema.clone();
        unescape(&mut schema).unwrap();
        let leads = |to: &str| {
            let reference = schema.pointer(to).and_then(Json::as_str).expect("a reference");
            // As the compiler does it.
            let mut at = &schema;
            for segment in reference[2..].split('/') {
                at = at.get(segment).unwrap_or_else(|| panic!("{reference} leads nowhere"));
            }
            at.clone()
        };
        for to in ["/properties/slash/$ref", "/properties/const/anyOf/0/$ref"] {
            assert_eq!(leads(to), given["$defs"]["a/b"], "{to}: and a value stays as it is");
        }
        let inside = &given["$defs"]["a/b"]["properties"]["c~d"];
        assert_eq!(&leads("/properties/inside/$ref"), inside);
        assert_eq!(leads("/properties/space/$ref"), json!({"const": 2}));
        assert_eq!(leads("/properties/tilde/$ref"), json!({"const": 3}));
        assert_eq!(schema["properties"]["$ref"], given["properties"]["$ref"]);
    }

    #[test]
    fn what_cannot_be_said_stays_as_it_is() {
        for reference in ["#/properties/a~1b", "#/$defs/%", "#/$defs/%+f", "#/$defs/%ff", "a~1b"] {
            let mut schema = json!({"$ref": reference, "properties": {"a/b": true}});
            unescape(&mut schema).unwrap();
            assert_eq!(schema["$ref"], json!(reference));
        }
    }

    #[test]
    fn what_leads_to_no_schema_is_refused() {
        for reference in ["#/$defs", "#/default", "#/%64efault", "#/properties/a/examples/0"] {
            let mut schema = json!({"items": {"$ref": reference}});
            assert!(unescape(&mut schema).is_err(), "{reference}");
        }
        let mut schema = json!({"const": {"$ref": "#/$defs"}, "properties": {"$ref": true}});
        unescape(&mut schema).unwrap();
    }
}
