//! The document is whole, is what the repository keeps, and says of the data plane's requests what
//! its reader does.

use super::*;
use crate::{
    ledger::{Endpoint, KeyId},
    paths::Listed,
    serve,
    wire::{Context, Field, read},
};
use http::HeaderMap;
use std::{collections::BTreeSet, path::PathBuf};

/// `method path` of everything that is routed.
fn routed(planes: Planes) -> BTreeSet<String> {
    let named = |listed: Listed| {
        let path = listed.path.clone();
        listed.methods().map(move |method| format!("{method} {path}")).collect::<Vec<_>>()
    };
    serve::listed(planes).into_iter().flat_map(named).collect()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let operations = described(&mut Types::new());
    let described: BTreeSet<String> =
        operations.iter().map(|it| format!("{} {}", it.method, it.path)).collect();
    assert_eq!(described.len(), operations.len(), "an operation is described twice");
    assert_eq!(described, routed(Planes::Both));
}

#[test]
fn head_is_described_wherever_it_is_answered_and_has_no_body() {
    let document = document(Planes::Both);
    let mut seen = 0;
    for listed in serve::listed(Planes::Both) {
        let item = &document["paths"][&listed.path];
        let Some(head) = item.get("head") else {
            assert!(!listed.takes_head(), "{}", listed.path);
            continue;
        };
        seen += 1;
        assert!(listed.takes_head(), "{}", listed.path);
        assert_eq!(head["security"], item["get"]["security"], "{}", listed.path);
        for (status, answer) in head["responses"].as_object().unwrap() {
            let place = answer["$ref"].as_str().map(|place| place.trim_start_matches('#'));
            let answer = place.map_or(answer, |place| document.pointer(place).unwrap());
            assert!(answer["headers"].is_object(), "{} {status}", listed.path);
            assert!(answer.get("content").is_none(), "{} {status}", listed.path);
        }
    }
    assert!(seen > 30, "only {seen} were seen");
}

#[test]
fn a_listener_describes_its_own_plane() {
    let (data, admin) = (routed(Planes::Data), routed(Planes::Admin));
    let of = |planes| document(planes)["paths"].as_object().unwrap().len();
    assert!(data.iter().all(|path| !path.contains("/admin/")) && of(Planes::Data) > 5);
    assert!(admin.iter().all(|path| !path.contains("/chat/")) && of(Planes::Admin) > 20);
    let shared = data.intersection(&admin).count();
    assert_eq!(data.len() + admin.len() - shared, routed(Planes::Both).len());
    assert!(of(Planes::Data) < of(Planes::Both) && of(Planes::Admin) < of(Planes::Both));
}

/// `UPDATE_OPENAPI=1 cargo test -p gateway openapi` writes the snapshot anew.
#[test]
fn the_snapshot_is_what_is_served() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let mut made = serde_json::to_string_pretty(&document(Planes::Both)).unwrap();
    made.push('\n');
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    let differs = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "docs/openapi.json differs from line {} on: UPDATE_OPENAPI=1 writes it anew",
        differs.map_or(0, |line| line + 1)
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    for planes in [Planes::Both, Planes::Data, Planes::Admin] {
        let document = document(planes);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let place = reference.trim_start_matches('#');
            assert!(document.pointer(place).is_some(), "{planes:?}: {reference}");
        }
        let mut ids = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(ids.insert(id.clone()), "{id} stands there twice");
            }
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// The requests of the data plane: their endpoint, their schema, and a body that is taken.
fn requests() -> Vec<(Endpoint, Value, Value)> {
    let document = document(Planes::Data);
    let endpoints = [
        (Endpoint::ChatCompletions, "/v1/chat/completions"),
        (Endpoint::Completions, "/v1/completions"),
        (Endpoint::Embeddings, "/v1/embeddings"),
        (Endpoint::Responses, "/v1/responses"),
        (Endpoint::Messages, "/v1/messages"),
    ];
    let of = |(endpoint, path): (Endpoint, &str)| {
        let body =
            document["paths"][path]["post"]["requestBody"]["content"]["application/json"].clone();
        let name = body["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let schema = document["components"]["schemas"][name].clone();
        (endpoint, schema, body["example"].clone())
    };
    endpoints.into_iter().map(of).collect()
}

/// Whether the reader takes the body, or the parameter that it names.
fn taken(endpoint: Endpoint, body: &Value) -> Result<(), Option<String>> {
    let owner = KeyId("key".into());
    let context = Context { kept: None, owner: &owner, output_tokens_default: 16 };
    let body = Bytes::from(body.to_string());
    read(endpoint, body, &HeaderMap::new(), &context).map(|_| ()).map_err(|bad| bad.param)
}

/// The field names that a refusal may go by: converted formats name what they were converted to.
fn names(field: &str) -> Vec<&str> {
    match field {
        "stop_sequences" => vec![field, "stop"],
        "thinking" | "reasoning" => vec![field, "reasoning_effort"],
        "include" | "top_logprobs" => vec![field, "logprobs"],
        other => vec![other],
    }
}

#[test]
fn the_examples_are_taken_and_what_is_required_is() {
    for (endpoint, schema, example) in requests() {
        assert_eq!(taken(endpoint, &example), Ok(()), "{endpoint:?}");
        for name in schema["required"].as_array().unwrap() {
            let mut body = example.clone();
            body.as_object_mut().unwrap().remove(name.as_str().unwrap());
            let refused = taken(endpoint, &body).unwrap_err();
            assert_eq!(refused.as_deref(), name.as_str(), "{endpoint:?}");
        }
    }
}

#[test]
fn every_bound_of_the_document_is_the_readers() {
    let (mut put, mut wrong) = (0, Vec::new());
    for (endpoint, schema, example) in requests() {
        for (field, property) in schema["properties"].as_object().unwrap() {
            let alone = |value: &Value| {
                let mut body = example.clone();
                // Only one of the two names may stand there.
                if field == "max_completion_tokens" {
                    body.as_object_mut().unwrap().remove("max_tokens");
                }
                if endpoint == Endpoint::ChatCompletions && field == "top_logprobs" {
                    body["logprobs"] = json!(true);
                }
                body[field] = value.clone();
                taken(endpoint, &body)
            };
            for value in within(property) {
                put += 1;
                if let Err(refused) = alone(&value) {
                    wrong.push(format!("{endpoint:?} {field}: {value} is refused: {refused:?}"));
                }
            }
            for value in beyond(property) {
                put += 1;
                let refused = alone(&value);
                let named = refused.clone().err().flatten().unwrap_or_default();
                if !names(field).iter().any(|name| named.starts_with(name)) {
                    wrong.push(format!("{endpoint:?} {field}: {value} gives {refused:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(put > 500, "only {put} values were tried");
}

/// Whether a property allows values of this type.
fn allows(property: &Value, kind: &str) -> bool {
    match &property["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

/// Values at the edge of what a property allows.
fn within(property: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    values.extend(property["enum"].as_array().cloned().unwrap_or_default());
    if allows(property, "null") {
        values.push(Value::Null);
    }
    if allows(property, "integer") || allows(property, "number") {
        values.extend(["minimum", "maximum"].map(|bound| property[bound].clone()));
        values.retain(|value| !value.is_null() || allows(property, "null"));
    }
    if allows(property, "boolean") {
        values.extend([json!(true), json!(false)]);
    }
    values
}

/// Values just outside of it.
fn beyond(property: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    let closed = property.get("enum").is_some();
    if let Some(least) = property["minimum"].as_i64().and_then(|least| least.checked_sub(1)) {
        values.push(json!(least));
    }
    if let Some(most) = property["maximum"].as_i64().and_then(|most| most.checked_add(1)) {
        values.push(json!(most));
    }
    if closed {
        values.push(json!("no such word"));
    }
    if property.get("type").is_some() {
        let kinds = [
            ("string", json!("x")),
            ("boolean", json!(true)),
            ("array", json!([1])),
            ("object", json!({ "x": 1 })),
            ("number", json!(1.5)),
        ];
        let other = kinds.into_iter().filter(|(kind, _)| {
            let number = *kind == "number" && allows(property, "integer");
            !allows(property, kind) || (number && !allows(property, "number"))
        });
        values.extend(other.map(|(_, value)| value));
    }
    values
}

#[test]
fn every_field_that_the_reader_knows_is_described() {
    let mut described = BTreeSet::new();
    for (_, schema, _) in requests() {
        described.extend(schema["properties"].as_object().unwrap().keys().cloned());
    }
    // What OpenAI's formats do not have stands in the document of the local route.
    let local = include_str!("../../../docs/local.md");
    for field in Field::ALL {
        let name = field.name();
        let told = described.contains(name) || local.contains(&format!("`{name}`"));
        assert!(told, "`{name}` is described nowhere");
    }
}
