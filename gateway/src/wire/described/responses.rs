//! What `/v1/responses` reads and writes.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]

use super::{chat, reference};
use serde_json::{Map, Value, json};

/// The events of a stream, in the words of their `type`.
const EVENTS: [&str; 23] = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.refusal.delta",
    "response.refusal.done",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_part.done",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.custom_tool_call_input.delta",
    "response.custom_tool_call_input.done",
    "response.completed",
    "response.incomplete",
    "response.failed",
];

pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| schemas.insert(name.to_owned(), schema);
    add("ResponseRequest", request());
    add("InputItem", item());
    add("Response", response());
    add("ResponseEvent", event());
    add("InputItems", input_items());
    schemas
}

fn request() -> Value {
    let mut properties = chat::shared_fields();
    for other in ["stream_options", "max_tokens", "n", "stop", "logit_bias", "seed"] {
        properties.remove(other);
    }
    let own = json!({
        "input": {
            "anyOf": [
                { "type": "string" },
                { "type": "array", "minItems": 1, "items": reference("schemas", "InputItem") },
            ],
        },
        "instructions": { "type": ["string", "null"], "description": "A system prompt; it is not kept." },
        "max_output_tokens": { "type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX },
        "previous_response_id": {
            "type": ["string", "null"],
            "description": "The answer that is continued. Refused where `[responses]` keeps none.",
        },
        "store": {
            "type": ["boolean", "null"],
            "description": "Whether the answer is kept, where `[responses]` keeps any: in memory, for the key that \
                asked.",
        },
        "text": {
            "type": ["object", "null"],
            "properties": {
                "format": {
                    "anyOf": [
                        { "type": "null" },
                        {
                            "type": "object",
                            "properties": { "type": { "enum": ["text", "json_object"] } },
                            "required": ["type"],
                        },
                        {
                            "type": "object",
                            "properties": {
                                "type": { "const": "json_schema" },
                                "name": { "type": "string" },
                                "schema": { "type": "object" },
                            },
                            "required": ["type", "name", "schema"],
                        },
                    ],
                },
            },
        },
        "reasoning": {
            "type": ["object", "null"],
            "properties": { "effort": { "type": ["string", "null"] } },
        },
        "tools": {
            "type": ["array", "null"],
            "maxItems": 128,
            "description": "Tools that OpenAI runs itself are refused by their name.",
            "items": {
                "type": "object",
                "properties": {
                    "type": { "enum": ["function", "custom"] },
                    "name": { "type": "string", "minLength": 1 },
                    "description": { "type": ["string", "null"] },
                    "parameters": { "type": ["object", "null"] },
                    "strict": { "type": ["boolean", "null"] },
                },
                "required": ["type", "name"],
            },
        },
        "tool_choice": {
            "anyOf": [
                { "enum": ["none", "auto", "required", null] },
                {
                    "type": "object",
                    "properties": {
                        "type": { "enum": ["function", "custom"] },
                        "name": { "type": "string" },
                    },
                    "required": ["type", "name"],
                },
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "allowed_tools" },
                        "mode": { "enum": ["auto", "required"] },
                        "tools": { "type": "array", "items": { "type": "object" } },
                    },
                    "required": ["type", "mode", "tools"],
                },
            ],
        },
        "parallel_tool_calls": { "type": ["boolean", "null"] },
        "include": { "type": ["array", "null"], "items": { "type": "string" } },
        "top_logprobs": { "type": ["integer", "null"], "minimum": 0, "maximum": 20 },
        "truncation": { "enum": ["disabled", null], "description": "`auto` is refused." },
        "user": { "type": ["string", "null"] },
        "background": { "enum": [false, null], "description": "True is refused." },
        "conversation": chat::refused("conversations are not kept; use previous_response_id"),
        "prompt": chat::refused("stored prompts are not served; send the text"),
    });
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": ["model", "input"],
        "additionalProperties": true,
    })
}

fn item() -> Value {
    let text = json!({ "type": "string" });
    let content = json!({
        "anyOf": [
            { "type": "string" },
            {
                "type": "array",
                "items": {
                    "anyOf": [
                        {
                            "type": "object",
                            "properties": {
                                "type": { "enum": ["input_text", "output_text", "text"] },
                                "text": text,
                            },
                            "required": ["type", "text"],
                        },
                        {
                            "type": "object",
                            "properties": {
                                "type": { "const": "input_image" },
                                "image_url": text,
                                "detail": text,
                            },
                            "required": ["type", "image_url"],
                        },
                        {
                            "type": "object",
                            "properties": { "type": { "const": "refusal" }, "refusal": text },
                            "required": ["type", "refusal"],
                        },
                    ],
                },
            },
        ],
    });
    let called = |kind: &str, member: &str, value: Value| {
        json!({
            "type": "object",
            "properties": { "type": { "const": kind }, "call_id": text, member: value },
            "required": ["type", "call_id", member],
        })
    };
    let calls = |kind: &str, member: &str| {
        let mut call = called(kind, "name", text.clone());
        call["properties"][member] = text.clone();
        call["required"] = json!(["type", "call_id", "name", member]);
        call
    };
    json!({
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "type": { "const": "message" },
                    "role": { "enum": ["user", "assistant", "system", "developer"] },
                    "content": content,
                },
                "required": ["role", "content"],
            },
            calls("function_call", "arguments"),
            calls("custom_tool_call", "input"),
            called("function_call_output", "output", content.clone()),
            called("custom_tool_call_output", "output", content),
            {
                "type": "object",
                "properties": { "type": { "const": "reasoning" } },
                "required": ["type"],
                "description": "What a model thought is its provider's to keep: left out.",
            },
            {
                "type": "object",
                "properties": { "type": { "const": "item_reference" }, "id": text },
                "required": ["type", "id"],
                "description": "An item of an answer that `[responses]` keeps, once.",
            },
        ],
    })
}

fn response() -> Value {
    json!({
        "type": "object",
        "description": "The answer, with the members of the request repeated.",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": "response" },
            "created_at": { "type": "integer" },
            "status": { "enum": ["in_progress", "completed", "incomplete", "failed"] },
            "model": { "type": "string" },
            "output": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": { "enum": ["message", "reasoning", "function_call", "custom_tool_call"] },
                        "id": { "type": "string" },
                        "status": { "type": "string" },
                    },
                    "required": ["type", "id"],
                    "additionalProperties": true,
                },
            },
            "error": { "type": ["object", "null"], "additionalProperties": true },
            "incomplete_details": { "type": ["object", "null"], "additionalProperties": true },
            "usage": {
                "type": ["object", "null"],
                "properties": {
                    "input_tokens": { "type": "integer", "minimum": 0 },
                    "output_tokens": { "type": "integer", "minimum": 0 },
                    "total_tokens": { "type": "integer", "minimum": 0 },
                    "cost": { "type": "number", "description": "US dollars; absent where unknown." },
                },
                "required": ["input_tokens", "output_tokens", "total_tokens"],
                "additionalProperties": true,
            },
        },
        "required": ["id", "object", "created_at", "status", "model", "output"],
        "additionalProperties": true,
    })
}

fn event() -> Value {
    json!({
        "type": "object",
        "description": "One event; the stream ends with response.completed, response.incomplete or response.failed.",
        "properties": {
            "type": { "enum": EVENTS },
            "sequence_number": { "type": "integer", "minimum": 0 },
            "response": reference("schemas", "Response"),
        },
        "required": ["type", "sequence_number"],
        "additionalProperties": true,
    })
}

fn input_items() -> Value {
    json!({
        "type": "object",
        "properties": {
            "object": { "const": "list" },
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "type": { "type": "string" }, "id": { "type": "string" } },
                    "required": ["type", "id"],
                    "additionalProperties": true,
                },
            },
            "first_id": { "type": ["string", "null"] },
            "last_id": { "type": ["string", "null"] },
            "has_more": { "type": "boolean" },
        },
        "required": ["object", "data", "first_id", "last_id", "has_more"],
    })
}
