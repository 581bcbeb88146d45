//! What `/v1/completions`, `/v1/embeddings` and `/v1/models` read and write.

use super::{chat, reference};
use serde_json::{Map, Value, json};

pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| schemas.insert(name.to_owned(), schema);
    add("CompletionRequest", completion_request());
    add("Completion", completion());
    let chunk = json!({
        "description": "One event of a stream, or, where the answer broke off, an error.",
        "anyOf": [reference("schemas", "Completion"), reference("schemas", "Error")],
    });
    add("CompletionChunk", chunk);
    add("EmbeddingRequest", embedding_request());
    add("Embeddings", embeddings());
    add("Model", either(&model(), &anthropics_model()));
    let list = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required });
    let of_openai = json!({
        "object": { "const": "list" },
        "data": { "type": "array", "items": model() },
    });
    let end = json!({ "type": ["string", "null"] });
    let of_anthropic = json!({
        "data": { "type": "array", "items": anthropics_model() },
        "has_more": { "const": false },
        "first_id": end,
        "last_id": end,
    });
    add(
        "Models",
        either(
            &list(of_openai, &["object", "data"]),
            &list(of_anthropic, &["data", "has_more", "first_id", "last_id"]),
        ),
    );
    schemas
}

/// OpenAI's shape, or Anthropic's for who names its version.
fn either(openais: &Value, anthropics: &Value) -> Value {
    json!({
        "description": "In Anthropic's shape where the request has `anthropic-version`.",
        "anyOf": [openais, anthropics],
    })
}

fn anthropics_model() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": { "const": "model" },
            "id": { "type": "string" },
            "display_name": { "type": "string" },
            "created_at": { "type": "string", "format": "date-time" },
        },
        "required": ["type", "id", "display_name", "created_at"],
    })
}

/// One text or several, as text or as token ids.
fn texts(texts_max: u64) -> Value {
    let token = json!({ "type": "integer", "minimum": 0, "maximum": i32::MAX });
    json!({
        "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "minItems": 1, "maxItems": texts_max, "items": { "type": "string" } },
            { "type": "array", "minItems": 1, "items": token },
            {
                "type": "array",
                "minItems": 1,
                "maxItems": texts_max,
                "items": { "type": "array", "minItems": 1, "items": token },
            },
        ],
    })
}

fn completion_request() -> Value {
    let mut properties = chat::shared_fields();
    let own = json!({
        "prompt": texts(128),
        "echo": { "type": ["boolean", "null"], "description": "Whether an answer begins with its prompt." },
        "logprobs": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 20,
            "description": "How many of the likeliest tokens are shown with each.",
        },
    });
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    json!({
        "type": "object",
        "description": "Texts to be continued as they stand. Texts times `n` are at most 128.",
        "properties": properties,
        "required": ["model", "prompt"],
        "additionalProperties": true,
    })
}

fn completion() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": "text_completion" },
            "created": { "type": "integer" },
            "model": { "type": ["string", "null"] },
            "choices": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "index": { "type": "integer", "minimum": 0 },
                        "text": { "type": "string" },
                        "logprobs": { "type": ["object", "null"], "additionalProperties": true },
                        "finish_reason": { "type": ["string", "null"] },
                    },
                    "required": ["text"],
                    "additionalProperties": true,
                },
            },
            "usage": { "anyOf": [reference("schemas", "Usage"), { "type": "null" }] },
        },
        "required": ["choices"],
        "additionalProperties": true,
    })
}

fn embedding_request() -> Value {
    let shared = chat::shared_fields();
    json!({
        "type": "object",
        "properties": {
            "model": shared.get("model"),
            "input": texts(2048),
            "encoding_format": { "enum": ["float", "base64", null] },
            "dimensions": {
                "type": ["integer", "null"], "minimum": 1, "maximum": 65_536,
                "description": "Length of the vectors, where the model has more than one.",
            },
            "user": { "type": ["string", "null"] },
            "metadata": shared.get("metadata"),
        },
        "required": ["model", "input"],
        "additionalProperties": true,
    })
}

fn embeddings() -> Value {
    json!({
        "type": "object",
        "properties": {
            "object": { "const": "list" },
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "object": { "const": "embedding" },
                        "index": { "type": "integer", "minimum": 0 },
                        "embedding": {
                            "anyOf": [
                                { "type": "array", "items": { "type": "number" } },
                                { "type": "string", "description": "Little-endian floats in base64." },
                            ],
                        },
                    },
                    "required": ["embedding"],
                    "additionalProperties": true,
                },
            },
            "model": { "type": ["string", "null"] },
            "usage": reference("schemas", "Usage"),
        },
        "required": ["object", "data"],
        "additionalProperties": true,
    })
}

fn model() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": "model" },
            "created": { "type": "integer", "description": "When this process started." },
            "owned_by": { "type": "string" },
        },
        "required": ["id", "object", "created", "owned_by"],
    })
}
