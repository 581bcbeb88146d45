//! Holds every answer that a test sees against the OpenAPI document that the repository keeps: its
//! status, its headers, its body, every event of its stream.
//!
//! An object that the document does not leave open has no other fields than those described, so a
//! field that nobody described fails the first test that sees it. What a schema says in words that
//! are not known here is an error too: it would go unchecked.

use super::{Answer, pattern};
use serde_json::{Map, Value};
use std::{path::Path, sync::LazyLock};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = std::fs::read_to_string(file).expect("docs/openapi.json");
    serde_json::from_str(&text).expect("JSON")
});

/// The document that the repository keeps.
pub(crate) fn kept() -> &'static Value {
    &DOCUMENT
}

/// Headers of ours; others are HTTP's own business.
const OURS: [&str; 8] = [
    "x-tollgate-",
    "x-ratelimit-",
    "x-request-id",
    "retry-after",
    "x-should-",
    "x-accel-",
    "idempotent-",
    "cache-control",
];

/// Asserts that the answer to `method path` is as described.
pub(crate) fn check(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = operation(method, path) else {
        let told = answer.status >= 400 || method == "OPTIONS";
        assert!(told, "{method} {path} is not described and answers {}", answer.status);
        return;
    };
    // Another listener's plane: what is described is not here.
    if answer.status == 404 && answer.body_text().contains("\"path_not_found\"") {
        return;
    }
    let what = format!("{method} {path} {}", answer.status);
    let responses = &operation["responses"];
    let response = [answer.status.to_string(), format!("{}XX", answer.status / 100)]
        .iter()
        .find_map(|status| responses.get(status))
        .unwrap_or_else(|| panic!("{what}: the status is not described: {}", answer.body_text()));
    let response = resolved(response);
    check_headers(&what, response, answer);
    if answer.body.is_empty() {
        let bodiless = answer.status == 204 || method == "HEAD";
        assert!(!answer.whole || bodiless, "{what}: nothing was said");
        return;
    }
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let content = response["content"].get(kind);
    let content = content.unwrap_or_else(|| panic!("{what}: `{kind}` is not described"));
    match kind {
        "application/json" if answer.whole => fits(&what, &content["schema"], &answer.json()),
        "text/event-stream" => {
            for event in events(&what, &String::from_utf8_lossy(&answer.body), answer.whole) {
                fits(&what, &content["x-event-schema"], &event);
            }
        }
        _ => {}
    }
}

/// The data of each event of a stream; of one that was cut, of each that came whole.
fn events(what: &str, text: &str, whole: bool) -> Vec<Value> {
    let mut events: Vec<&str> = text.split("\n\n").collect();
    let last = events.pop().unwrap_or_default();
    assert!(!whole || last.is_empty(), "{what}: the stream ends within an event: {last}");
    let data = events.into_iter().map(|event| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        lines.map(|data| data.strip_prefix(' ').unwrap_or(data)).collect::<Vec<_>>().join("\n")
    });
    let said = data.filter(|data| !data.is_empty() && data != "[DONE]");
    said.map(|data| {
        serde_json::from_str(&data).unwrap_or_else(|error| panic!("{what}: {error}: {data}"))
    })
    .collect()
}

fn check_headers(what: &str, response: &'static Value, answer: &Answer) {
    let described = response["headers"].as_object().unwrap_or_else(|| panic!("{what}: headers"));
    for (name, value) in &answer.headers {
        let name = name.as_str();
        if !OURS.iter().any(|ours| name.starts_with(ours)) {
            continue;
        }
        let header = described.get(name).unwrap_or_else(|| panic!("{what}: header {name}"));
        let schema = &resolved(header)["schema"];
        let text = value.to_str().expect("text").to_owned();
        let value = match schema["type"].as_str() {
            Some("integer") => text.parse().map_or(Value::String(text), |it: u64| it.into()),
            _ => Value::String(text),
        };
        fits(&format!("{what}: header {name}"), schema, &value);
    }
    for (name, header) in described {
        let required = resolved(header)["required"] == true;
        assert!(!required || !answer.header(name).is_empty(), "{what}: no header {name}");
    }
}

/// The operation of the path: a template's parameter is one segment, or, where nothing else fits and
/// it stands last, several.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let asked: Vec<&str> = path.split('/').collect();
    let paths = DOCUMENT["paths"].as_object()?;
    let is_parameter = |segment: &str| segment.starts_with('{');
    let fits = |template: &str, long: bool| {
        let segments: Vec<&str> = template.split('/').collect();
        let ends_open = long && segments.last().is_some_and(|last| is_parameter(last));
        (segments.len() == asked.len() || ends_open && segments.len() < asked.len())
            && segments
                .iter()
                .zip(&asked)
                .all(|(segment, asked)| is_parameter(segment) || segment == asked)
    };
    let item = paths
        .get(path)
        .or_else(|| paths.iter().find(|(template, _)| fits(template, false)).map(|(_, it)| it))
        .or_else(|| paths.iter().find(|(template, _)| fits(template, true)).map(|(_, it)| it));
    item?.get(method.to_ascii_lowercase())
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let place = reference.trim_start_matches('#');
            DOCUMENT.pointer(place).unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

fn fits(what: &str, schema: &'static Value, value: &Value) {
    if let Err(why) = misfit("", schema, value) {
        panic!("{what}: {why}\nin {value}");
    }
}

/// What does not fit, with its place.
fn misfit(at: &str, schema: &'static Value, value: &Value) -> Result<(), String> {
    let Value::Object(schema) = resolved(schema) else { return Ok(()) };
    let wrong = |why: String| Err(format!("{}: {why}", if at.is_empty() { "/" } else { at }));
    for (word, rule) in schema {
        let fits = match word.as_str() {
            "type" => {
                let one = |kind: &Value| is_of(kind.as_str().unwrap_or_default(), value);
                rule.as_array().map_or_else(|| one(rule), |kinds| kinds.iter().any(one))
            }
            "enum" => rule.as_array().is_some_and(|values| values.contains(value)),
            "const" => rule == value,
            "minimum" => value.as_f64() >= rule.as_f64() || !value.is_number(),
            "maximum" => value.as_f64() <= rule.as_f64() || !value.is_number(),
            "anyOf" | "oneOf" => {
                let choices = rule.as_array().expect("choices");
                let tried: Vec<_> =
                    choices.iter().filter_map(|it| misfit(at, it, value).err()).collect();
                let fitting = choices.len() - tried.len();
                if fitting == 0 {
                    return wrong(format!("none of {tried:?}"));
                }
                fitting == 1 || word == "anyOf"
            }
            "pattern" => value
                .as_str()
                .is_none_or(|text| pattern::fits(rule.as_str().expect("a pattern"), text)),
            "minLength" => value.as_str().is_none_or(|text| length(text) >= rule.as_u64()),
            "maxLength" => value.as_str().is_none_or(|text| length(text) <= rule.as_u64()),
            "properties" | "required" | "additionalProperties" | "items" => true,
            "description" | "title" | "format" | "default" | "examples" | "deprecated" => true,
            other => return wrong(format!("the schema says `{other}`, which is not known here")),
        };
        if !fits {
            return wrong(format!("{value} is not `{word}` {rule}"));
        }
    }
    match value {
        Value::Object(fields) => fields_fit(at, schema, fields),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            schema.get("items").map_or(Ok(()), |of| misfit(&format!("{at}/{index}"), of, item))
        }),
        _ => Ok(()),
    }
}

fn fields_fit(
    at: &str,
    schema: &'static Map<String, Value>,
    fields: &Map<String, Value>,
) -> Result<(), String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap_or_default()) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in fields {
        let place = format!("{at}/{name}");
        if let Some(property) = properties.and_then(|properties| properties.get(name)) {
            misfit(&place, property, value)?;
            continue;
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => return Err(format!("{place} is not allowed")),
            Some(rule) => misfit(&place, rule, value)?,
            None if properties.is_some() => return Err(format!("{place} is not described")),
            None => {}
        }
    }
    Ok(())
}

fn length(text: &str) -> Option<u64> {
    u64::try_from(text.chars().count()).ok()
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
