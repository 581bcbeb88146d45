//! What `/v1/chat/completions` reads and writes.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]

use super::reference;
use serde_json::{Map, Value, json};

/// The largest whole number that a cap may be.
const CAP_MAX: u32 = u32::MAX;

pub(super) fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Value| schemas.insert(name.to_owned(), schema);
    add("ChatRequest", request());
    add("ChatMessage", message());
    add("ContentPart", part());
    add("Tool", tool());
    add("ChatCompletion", answer());
    add("ChatChunk", chunk());
    add("Usage", usage());
    schemas
}

/// A field that costs extra or has no bound, and is refused by its name: only null is taken.
pub(super) fn refused(why: &str) -> Value {
    json!({ "type": "null", "description": format!("Refused: {why}.") })
}

/// The fields that a chat and a continued text share.
pub(super) fn shared_fields() -> Map<String, Value> {
    let fields = json!({
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 64,
            "description": "`auto` (or another alias of the policy) leaves the choice to the policy; a route's \
                name pins it, for keys that may; a cloud model's own name asks for that model.",
        },
        "stream": { "type": ["boolean", "null"], "description": "Whether the answer comes as events." },
        "stream_options": {
            "type": ["object", "null"],
            "properties": {
                "include_usage": {
                    "type": ["boolean", "null"],
                    "description": "A last chunk with `usage`, its cost included.",
                },
            },
        },
        "max_tokens": {
            "type": ["integer", "null"], "minimum": 1, "maximum": CAP_MAX,
            "description": "The cap on answer tokens per choice. It is always sent to the route.",
        },
        "n": { "type": ["integer", "null"], "minimum": 1, "maximum": 128 },
        "temperature": { "type": ["number", "null"], "minimum": 0, "maximum": 2 },
        "top_p": { "type": ["number", "null"], "minimum": 0, "maximum": 1 },
        "presence_penalty": { "type": ["number", "null"], "minimum": -2, "maximum": 2 },
        "frequency_penalty": { "type": ["number", "null"], "minimum": -2, "maximum": 2 },
        "seed": { "type": ["integer", "null"], "minimum": i64::MIN, "maximum": i64::MAX },
        "stop": {
            "anyOf": [
                { "type": ["string", "null"] },
                { "type": "array", "maxItems": 16, "items": { "type": "string" } },
            ],
        },
        "logit_bias": {
            "type": ["object", "null"],
            "maxProperties": 1024,
            "propertyNames": { "pattern": "^[0-9]{1,9}$" },
            "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 },
            "description": "Token ids to what is added to their likelihood.",
        },
        "metadata": {
            "type": ["object", "null"],
            "maxProperties": 16,
            "propertyNames": { "maxLength": 16 },
            "additionalProperties": { "type": "string", "maxLength": 128 },
            "description": "At most 16 pairs; a key has at most 64 bytes, a value 512. Policies see them.",
        },
        "service_tier": {
            "enum": ["auto", "default", "flex", "priority", null],
            "description": "Priced where the route's price has rates for the tier, else refused. The local route \
                lets `flex` wait as a request of a `low` key does.",
        },
        "models": { "description": "Refused where it names any: another model has another price." },
        "provider": { "description": "Refused where it prefers any: another host has another price." },
        "fallbacks": { "description": "Refused where it names any: another model has another price." },
        "preset": { "description": "Refused: it may name another model." },
        "api_base": { "description": "Refused: another host has another price." },
        "user_config": { "description": "Refused: another host has another price." },
        "extra_body": { "description": "Refused: its members stand beside those that are read." },
        "data_sources": { "description": "Refused: what is found is input without a bound." },
        "compaction": { "description": "Refused: it writes more than the output cap allows." },
        "billing_policy": { "description": "Refused: it changes what the answer costs." },
        "fallback_credit_token": { "description": "Refused: it changes what the answer costs." },
        "speed": { "enum": ["standard", null], "description": "Another has a price of its own." },
        "inference_geo": { "enum": ["global", null], "description": "Another has a price of its own." },
        "deferred": { "enum": [false, null], "description": "An answer is given while the caller waits." },
        "plugins": { "description": "Refused where it names any: they cost extra." },
        "web_search_options": refused("searches cost extra"),
        "search_parameters": refused("searches cost extra"),
        "prediction": refused("rejected predicted tokens cost more than the output cap allows for"),
        "audio": refused("audio is not served"),
        "chat_template": refused("the prompt it makes has no bound that could be reserved"),
        "best_of": { "type": ["integer", "null"], "minimum": 1, "description": "More than `n` is refused." },
        "use_beam_search": { "enum": [false, null], "description": "Refused." },
        "modalities": { "type": ["array", "null"], "items": { "const": "text" } },
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn request() -> Value {
    let mut properties = shared_fields();
    let own = json!({
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": reference("schemas", "ChatMessage"),
            "description": "The conversation. A local route goes on with a last message of the assistant.",
        },
        "max_completion_tokens": {
            "type": ["integer", "null"], "minimum": 1, "maximum": CAP_MAX,
            "description": "The newer name of `max_tokens`; both may be given where they are equal.",
        },
        "logprobs": { "type": ["boolean", "null"] },
        "top_logprobs": {
            "type": ["integer", "null"], "minimum": 0, "maximum": 20,
            "description": "Above 0 it needs `logprobs`.",
        },
        "tools": {
            "type": ["array", "null"],
            "maxItems": 128,
            "items": reference("schemas", "Tool"),
        },
        "tool_choice": {
            "description": "none, auto, required, or an object that names one of the tools.",
            "anyOf": [
                { "enum": ["none", "auto", "required", null] },
                {
                    "type": "object",
                    "properties": {
                        "type": { "const": "function" },
                        "function": {
                            "type": "object",
                            "properties": { "name": { "type": "string" } },
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "function"],
                },
            ],
        },
        "parallel_tool_calls": { "type": ["boolean", "null"] },
        "functions": {
            "type": ["array", "null"],
            "maxItems": 128,
            "items": {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "minLength": 1 },
                    "description": { "type": "string" },
                    "parameters": { "type": ["object", "null"] },
                },
                "required": ["name"],
            },
            "deprecated": true,
            "description": "The older form of `tools`; a call then comes as `function_call`.",
        },
        "function_call": {
            "anyOf": [
                { "enum": ["none", "auto", null] },
                {
                    "type": "object",
                    "properties": { "name": { "type": "string" } },
                    "required": ["name"],
                },
            ],
            "deprecated": true,
            "description": "The older form of `tool_choice`.",
        },
        "response_format": {
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
                        "json_schema": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string" },
                                "strict": { "type": ["boolean", "null"] },
                                "schema": { "type": "object" },
                            },
                            "required": ["name"],
                        },
                    },
                    "required": ["type", "json_schema"],
                },
            ],
        },
        "reasoning_effort": { "type": ["string", "null"] },
        "verbosity": { "type": ["string", "null"] },
        "user": { "type": ["string", "null"] },
        "store": { "type": ["boolean", "null"], "description": "Passed on to a cloud route." },
    });
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    json!({
        "type": "object",
        "description": "A conversation to be answered. Fields that are not described are passed on to a cloud \
            route; what else the model in this process takes: docs/local.md.",
        "properties": properties,
        "required": ["model", "messages"],
        "additionalProperties": true,
    })
}

fn message() -> Value {
    let content = json!({
        "anyOf": [
            { "type": "string" },
            { "type": "array", "items": reference("schemas", "ContentPart") },
        ],
    });
    let function = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "arguments": { "type": "string", "description": "JSON." },
        },
        "required": ["name", "arguments"],
    });
    json!({
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "role": { "enum": ["system", "developer", "user"] },
                    "content": content,
                    "name": { "type": ["string", "null"] },
                },
                "required": ["role", "content"],
            },
            {
                "type": "object",
                "properties": {
                    "role": { "const": "assistant" },
                    "content": { "anyOf": [content, { "type": "null" }] },
                    "refusal": { "type": ["string", "null"] },
                    "name": { "type": ["string", "null"] },
                    "tool_calls": {
                        "type": ["array", "null"],
                        "items": {
                            "type": "object",
                            "properties": {
                                "id": { "type": "string" },
                                "type": { "const": "function" },
                                "function": function,
                            },
                            "required": ["id", "type", "function"],
                        },
                    },
                    "function_call": { "anyOf": [function, { "type": "null" }], "deprecated": true },
                },
                "required": ["role"],
            },
            {
                "type": "object",
                "properties": {
                    "role": { "const": "tool" },
                    "content": content,
                    "tool_call_id": { "type": "string" },
                },
                "required": ["role", "content", "tool_call_id"],
            },
            {
                "type": "object",
                "properties": {
                    "role": { "const": "function" },
                    "content": content,
                    "name": { "type": "string" },
                },
                "required": ["role", "content", "name"],
                "deprecated": true,
            },
        ],
    })
}

fn part() -> Value {
    json!({
        "description": "Images go to routes that can serve them. Parts of type input_audio and file are refused: \
            their size in tokens has no bound that could be reserved.",
        "anyOf": [
            {
                "type": "object",
                "properties": { "type": { "const": "text" }, "text": { "type": "string" } },
                "required": ["type", "text"],
            },
            {
                "type": "object",
                "properties": { "type": { "const": "refusal" }, "refusal": { "type": "string" } },
                "required": ["type", "refusal"],
            },
            {
                "type": "object",
                "properties": {
                    "type": { "const": "image_url" },
                    "image_url": {
                        "type": "object",
                        "properties": {
                            "url": { "type": "string" },
                            "detail": { "type": "string" },
                        },
                        "required": ["url"],
                    },
                },
                "required": ["type", "image_url"],
            },
        ],
    })
}

fn tool() -> Value {
    let named = |parameters: bool| {
        let mut body = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "minLength": 1 },
                "description": { "type": "string" },
            },
            "required": ["name"],
        });
        if parameters {
            body["properties"]["parameters"] =
                json!({ "type": ["object", "null"], "description": "A JSON schema." });
        }
        body
    };
    json!({
        "description": "Tools that a provider runs itself are refused, since they cost extra.",
        "anyOf": [
            {
                "type": "object",
                "properties": { "type": { "const": "function" }, "function": named(true) },
                "required": ["type", "function"],
            },
            {
                "type": "object",
                "properties": { "type": { "const": "custom" }, "custom": named(false) },
                "required": ["type", "custom"],
            },
        ],
    })
}

/// Token counts in OpenAI's shape, with what they cost.
fn usage() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "properties": {
            "prompt_tokens": count,
            "completion_tokens": count,
            "total_tokens": count,
            "prompt_tokens_details": { "type": ["object", "null"], "additionalProperties": true },
            "completion_tokens_details": { "type": ["object", "null"], "additionalProperties": true },
            "cost": {
                "type": "number",
                "description": "US dollars; absent where it is unknown, never 0 for that.",
            },
            "cost_details": { "type": "object", "additionalProperties": { "type": "number" } },
        },
        "additionalProperties": true,
    })
}

fn choice(said: &str, content: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "index": { "type": "integer", "minimum": 0 },
            said: {
                "type": "object",
                "properties": {
                    "role": { "type": ["string", "null"] },
                    "content": content,
                    "refusal": { "type": ["string", "null"] },
                    "reasoning_content": {
                        "type": ["string", "null"],
                        "description": "What a reasoning model thought, where it shows it.",
                    },
                    "tool_calls": {
                        "type": ["array", "null"],
                        "items": {
                            "type": "object",
                            "properties": {
                                "index": { "type": "integer", "minimum": 0 },
                                "id": { "type": ["string", "null"] },
                                "type": { "type": ["string", "null"] },
                                "function": {
                                    "type": "object",
                                    "properties": {
                                        "name": { "type": ["string", "null"] },
                                        "arguments": { "type": ["string", "null"] },
                                    },
                                    "additionalProperties": true,
                                },
                            },
                            "additionalProperties": true,
                        },
                    },
                    "function_call": {
                        "type": ["object", "null"],
                        "additionalProperties": true,
                        "deprecated": true,
                    },
                },
                "additionalProperties": true,
            },
            "logprobs": { "type": ["object", "null"], "additionalProperties": true },
            "finish_reason": { "type": ["string", "null"] },
        },
        "required": [said],
        "additionalProperties": true,
    })
}

fn answer() -> Value {
    let content = json!({ "type": ["string", "null"] });
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": "chat.completion" },
            "created": { "type": "integer" },
            "model": { "type": ["string", "null"] },
            "choices": { "type": "array", "items": choice("message", &content) },
            "usage": reference("schemas", "Usage"),
        },
        "required": ["id", "object", "created", "choices"],
        "additionalProperties": true,
    })
}

fn chunk() -> Value {
    let content = json!({ "type": ["string", "null"] });
    json!({
        "description": "One event of a stream: a chunk, or, where the answer broke off, an error and then the end \
            without `[DONE]`.",
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "id": { "type": "string" },
                    "object": { "const": "chat.completion.chunk" },
                    "created": { "type": "integer" },
                    "model": { "type": ["string", "null"] },
                    "choices": { "type": "array", "items": choice("delta", &content) },
                    "usage": { "anyOf": [reference("schemas", "Usage"), { "type": "null" }] },
                },
                "required": ["choices"],
                "additionalProperties": true,
            },
            reference("schemas", "Error"),
        ],
    })
}
