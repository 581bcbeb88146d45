//! What Anthropic's `/v1/messages` and `/v1/messages/count_tokens` read and write.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]

use super::{chat, reference};
use serde_json::{Map, Value, json};

pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| schemas.insert(name.to_owned(), schema);
    let properties = properties();
    add("MessagesRequest", request(&properties, &["model", "max_tokens", "messages"]));
    let mut counted = properties;
    counted.remove("max_tokens");
    counted.remove("stream");
    add("CountRequest", request(&counted, &["model", "messages"]));
    add("ContentBlock", block());
    add("MessagesAnswer", answer());
    add("MessagesEvent", event());
    add(
        "CountedTokens",
        json!({
            "type": "object",
            "properties": { "input_tokens": { "type": "integer", "minimum": 0 } },
            "required": ["input_tokens"],
        }),
    );
    schemas
}

fn request(properties: &Map<String, Value>, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": true,
    })
}

fn properties() -> Map<String, Value> {
    let shared = chat::shared_fields();
    let blocks = json!({
        "anyOf": [
            { "type": "string" },
            { "type": "array", "items": reference("schemas", "ContentBlock") },
        ],
    });
    let text_blocks = json!({
        "anyOf": [
            { "type": ["string", "null"] },
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "type": { "const": "text" }, "text": { "type": "string" } },
                    "required": ["type", "text"],
                },
            },
        ],
    });
    let properties = json!({
        "model": shared.get("model"),
        "max_tokens": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "role": { "enum": ["user", "assistant", "system"] },
                    "content": blocks,
                },
                "required": ["role", "content"],
            },
        },
        "system": text_blocks,
        "stream": shared.get("stream"),
        "temperature": { "type": ["number", "null"], "minimum": 0, "maximum": 1 },
        "top_p": shared.get("top_p"),
        "top_k": { "type": ["integer", "null"], "minimum": 0, "maximum": i32::MAX },
        "stop_sequences": { "type": ["array", "null"], "maxItems": 16, "items": { "type": "string" } },
        "tools": {
            "type": ["array", "null"],
            "maxItems": 128,
            "description": "Tools that Anthropic runs itself are refused.",
            "items": {
                "type": "object",
                "properties": {
                    "type": { "enum": ["custom", null] },
                    "name": { "type": "string", "minLength": 1 },
                    "description": { "type": "string" },
                    "input_schema": { "type": "object" },
                },
                "required": ["name", "input_schema"],
            },
        },
        "tool_choice": {
            "type": ["object", "null"],
            "properties": {
                "type": { "enum": ["auto", "any", "none", "tool"] },
                "name": { "type": "string" },
                "disable_parallel_tool_use": { "type": ["boolean", "null"] },
            },
            "required": ["type"],
        },
        "thinking": {
            "type": ["object", "null"],
            "properties": {
                "type": { "enum": ["enabled", "disabled", "adaptive"] },
                "budget_tokens": { "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX },
            },
            "required": ["type"],
        },
        "metadata": {
            "type": ["object", "null"],
            "properties": { "user_id": { "type": ["string", "null"] } },
        },
        "service_tier": { "enum": ["auto", "standard_only", null] },
    });
    match properties {
        Value::Object(properties) => properties,
        _ => Map::new(),
    }
}

fn block() -> Value {
    let text = json!({ "type": "string" });
    let source = json!({
        "anyOf": [
            {
                "type": "object",
                "properties": { "type": { "const": "base64" }, "media_type": text, "data": text },
                "required": ["type", "media_type", "data"],
            },
            {
                "type": "object",
                "properties": { "type": { "const": "url" }, "url": text },
                "required": ["type", "url"],
            },
        ],
    });
    json!({
        "anyOf": [
            {
                "type": "object",
                "properties": { "type": { "const": "text" }, "text": text },
                "required": ["type", "text"],
            },
            {
                "type": "object",
                "properties": { "type": { "const": "image" }, "source": source },
                "required": ["type", "source"],
                "description": "Served by routes that can.",
            },
            {
                "type": "object",
                "properties": {
                    "type": { "const": "tool_use" },
                    "id": text,
                    "name": text,
                    "input": { "type": "object" },
                },
                "required": ["type", "id", "name", "input"],
            },
            {
                "type": "object",
                "properties": {
                    "type": { "const": "tool_result" },
                    "tool_use_id": text,
                    "content": text,
                },
                "required": ["type", "tool_use_id"],
            },
            {
                "type": "object",
                "properties": { "type": { "enum": ["thinking", "redacted_thinking"] } },
                "required": ["type"],
                "description": "Read only by the provider that wrote it, but for thinking without a signature.",
            },
            {
                "type": "object",
                "properties": {
                    "type": { "const": "search_result" },
                    "source": text,
                    "title": text,
                    "content": { "type": "array" },
                },
                "required": ["type", "source", "title", "content"],
                "description": "Anthropic's; others read it as text.",
            },
        ],
    })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "type": { "const": "message" },
            "role": { "const": "assistant" },
            "model": { "type": "string" },
            "content": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {
                            "type": "string",
                            "description": "text, thinking or tool_use; whatever Anthropic writes where it answers.",
                        },
                    },
                    "required": ["type"],
                    "additionalProperties": true,
                },
            },
            "stop_reason": { "type": ["string", "null"] },
            "stop_sequence": { "type": ["string", "null"] },
            "usage": {
                "type": "object",
                "description": "Where Anthropic answers and reports none, absent.",
                "properties": {
                    "input_tokens": { "type": "integer", "minimum": 0 },
                    "output_tokens": { "type": "integer", "minimum": 0 },
                    "cost": { "type": "number", "description": "US dollars; absent where unknown." },
                },
                "required": ["input_tokens", "output_tokens"],
                "additionalProperties": true,
            },
        },
        "required": ["id", "type", "role", "model", "content", "stop_reason"],
        "additionalProperties": true,
    })
}

fn event() -> Value {
    json!({
        "type": "object",
        "description": "One event; the stream ends with message_stop, or with error where it broke off.",
        "properties": {
            "type": {
                "type": "string",
                "description": "message_start, content_block_start, ping, content_block_delta, content_block_stop, \
                    message_delta, message_stop or error; whatever Anthropic writes where it answers.",
            },
            "message": reference("schemas", "MessagesAnswer"),
        },
        "required": ["type"],
        "additionalProperties": true,
    })
}
