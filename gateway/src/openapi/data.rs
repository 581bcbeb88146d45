//! The operations of the data plane, and the small pages of every listener.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]

use super::{
    operation::{Errors, Operation, query, reference},
    shared::{ANSWERED, STREAMED, steering},
};
use serde_json::{Value, json};

/// Statuses with which a request for an answer may be refused.
const ASKED: [&str; 14] = [
    "400", "401", "402", "403", "404", "408", "409", "413", "415", "429", "4XX", "502", "503",
    "504",
];
/// What asks for an answer takes one of these keys.
const KEYS: [&str; 2] = ["key", "keyHeader"];

/// `/health` and the like.
fn small_pages() -> Vec<Operation> {
    let text = json!({ "application/openmetrics-text": { "schema": { "type": "string" } } });
    vec![
        Operation::new("GET", "/health", "State", "health", "Whether the process answers.")
            .says("It looks at nothing that could make it wait.")
            .answers(
                "200",
                "It does.",
                &json!({
                    "type": "object",
                    "properties": { "status": { "const": "ok" } },
                    "required": ["status"],
                }),
            ),
        Operation::new("GET", "/ready", "State", "ready", "Whether requests can be served.")
            .answers("200", "At least one route can take a request.", &ready())
            .answers("503", "None can.", &ready()),
        Operation::new("GET", "/openapi.json", "State", "openapi", "This document.")
            .says("Of this listener: where the admin plane has its own, it is described there.")
            .answers(
                "200",
                "OpenAPI 3.1.",
                &json!({ "type": "object", "additionalProperties": true }),
            ),
        Operation::new(
            "GET",
            "/metrics",
            "State",
            "metrics",
            "What is counted, in OpenMetrics' text format.",
        )
        .says("With the admin key, unless `metrics_public` opens it.")
        .wants(&["adminKey"])
        .answers_with("200", "Counters, gauges and histograms.", &text, &["x-request-id"])
        .refuses(Errors::OpenAi, &["401", "403", "429"]),
    ]
}

fn ready() -> Value {
    let text = json!({ "type": "string" });
    let whole = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "properties": {
            "status": { "enum": ["ready", "not_ready"] },
            "policy": text,
            "policy_version": text,
            "store": {
                "type": "object",
                "properties": {
                    "condition": {
                        "type": "object",
                        "properties": {
                            "state": { "enum": ["healthy", "low_space", "failed", "closed"] },
                            "free_bytes": whole,
                            "low_water_bytes": whole,
                            "reason": text,
                        },
                        "required": ["state"],
                    },
                    "queued": whole,
                    "queue_max": whole,
                    "last_commit_us": whole,
                    "ahead_of_clock_ms": whole,
                    "open_reservations": whole,
                    "lost_entries": whole,
                    "uncounted_events": whole,
                },
                "required": [
                    "condition", "queued", "queue_max", "open_reservations", "lost_entries",
                    "uncounted_events",
                ],
            },
            "routes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": text,
                        "kind": { "enum": ["local", "cloud"] },
                        "model": text,
                        "state": { "enum": ["ready", "busy", "unavailable", "unpriced"] },
                        "queued": whole,
                        "in_flight": whole,
                        "breaker": { "type": "object", "additionalProperties": true },
                        "engine": { "type": "object", "additionalProperties": true },
                    },
                    "required": ["id", "kind", "model", "state", "queued", "in_flight", "breaker"],
                },
            },
        },
        "required": ["status", "policy", "policy_version", "store", "routes"],
    })
}

/// What callers ask, and the small pages.
pub(super) fn operations() -> Vec<Operation> {
    let mut operations = asks();
    operations.extend(small_pages());
    operations.extend(kept());
    operations.extend(models());
    operations
}

/// What one endpoint that asks for an answer looks like.
struct Asks {
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    request: &'static str,
    answer: &'static str,
    /// The schema of a stream's event, and how a stream ends.
    events: Option<(&'static str, &'static str)>,
    errors: Errors,
    example: Value,
}

impl Asks {
    fn operation(self) -> Operation {
        let answer = json!({
            "anyOf": [reference("schemas", self.answer), reference("schemas", "Decision")],
        });
        let mut content = json!({ "application/json": { "schema": answer } });
        let mut headers = ANSWERED.to_vec();
        if let Some((event, end)) = self.events {
            headers.extend(STREAMED);
            content["text/event-stream"] = json!({
                // Tools disagree whether this is the text or each of its events.
                "schema": { "description": end },
                "x-event-schema": reference("schemas", event),
            });
        }
        if self.errors == Errors::Anthropic {
            headers.push("request-id");
        }
        let description = "The answer; with `x-tollgate-dry-run` the decision, explained.";
        Operation::new("POST", self.path, "Answers", self.id, self.summary)
            .wants(&KEYS)
            .takes(steering())
            .body(&reference("schemas", self.request), true, &self.example)
            .refuses(self.errors, &ASKED)
            .answers_with("200", description, &content, &headers)
    }
}

fn asks() -> Vec<Operation> {
    let chunks = "Server-sent events without names: each `data:` is a chunk, the last one is `[DONE]`. Lines that \
        begin with a colon are comments that keep the connection alive.";
    let asks = [
        Asks {
            path: "/v1/chat/completions",
            id: "createChatCompletion",
            summary: "Answers a conversation, in OpenAI's format.",
            request: "ChatRequest",
            answer: "ChatCompletion",
            events: Some(("ChatChunk", chunks)),
            errors: Errors::OpenAi,
            example: json!({
                "model": "auto",
                "messages": [{ "role": "user", "content": "Why is the sea salty?" }],
                "max_tokens": 8,
            }),
        },
        Asks {
            path: "/v1/completions",
            id: "createCompletion",
            summary: "Continues texts as they stand.",
            request: "CompletionRequest",
            answer: "Completion",
            events: Some(("CompletionChunk", chunks)),
            errors: Errors::OpenAi,
            example: json!({ "model": "auto", "prompt": "Once upon a time", "max_tokens": 8 }),
        },
        Asks {
            path: "/v1/embeddings",
            id: "createEmbedding",
            summary: "Makes vectors of texts.",
            request: "EmbeddingRequest",
            answer: "Embeddings",
            events: None,
            errors: Errors::OpenAi,
            example: json!({ "model": "auto", "input": ["a cat", "a dog"] }),
        },
        Asks {
            path: "/v1/responses",
            id: "createResponse",
            summary: "Answers in the format of OpenAI's responses.",
            request: "ResponseRequest",
            answer: "Response",
            events: Some((
                "ResponseEvent",
                "Server-sent events with names, numbered in their order.",
            )),
            errors: Errors::OpenAi,
            example: json!({ "model": "auto", "input": "Why is the sea salty?", "max_output_tokens": 8 }),
        },
        Asks {
            path: "/v1/messages",
            id: "createMessage",
            summary: "Answers a conversation, in Anthropic's format.",
            request: "MessagesRequest",
            answer: "MessagesAnswer",
            events: Some((
                "MessagesEvent",
                "Server-sent events with names, from message_start to message_stop.",
            )),
            errors: Errors::Anthropic,
            example: json!({
                "model": "auto",
                "max_tokens": 8,
                "messages": [{ "role": "user", "content": "Why is the sea salty?" }],
            }),
        },
    ];
    let mut operations: Vec<Operation> = asks.into_iter().map(Asks::operation).collect();
    let counted =
        json!({ "application/json": { "schema": reference("schemas", "CountedTokens") } });
    let example = json!({
        "model": "auto",
        "messages": [{ "role": "user", "content": "Why is the sea salty?" }],
    });
    operations.push(
        Operation::new(
            "POST",
            "/v1/messages/count_tokens",
            "Answers",
            "countTokens",
            "Counts a prompt's tokens on the route that would answer it.",
        )
        .says("Nothing is asked of a provider and nothing is charged.")
        .wants(&KEYS)
        .body(&reference("schemas", "CountRequest"), true, &example)
        .refuses(Errors::Anthropic, &ASKED)
        .answers_with(
            "200",
            "The count.",
            &counted,
            &["request-id", "x-request-id", "x-tollgate-count"],
        ),
    );
    operations
}

fn kept() -> Vec<Operation> {
    let refused = ["401", "404", "429"];
    let deleted = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": "response" },
            "deleted": { "const": true },
        },
        "required": ["id", "object", "deleted"],
    });
    let path = "/v1/responses/{id}";
    let pages = [
        query(
            "order",
            "By their place in the input; `desc` if not given.",
            json!({ "enum": ["asc", "desc"] }),
            json!("asc"),
        ),
        query(
            "limit",
            "At most so many; 20 if not given.",
            json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
            json!(10),
        ),
        query(
            "after",
            "The id of the item after which the page begins.",
            json!({ "type": "string" }),
            json!("item_0"),
        ),
    ];
    vec![
        Operation::new("GET", path, "Answers", "getResponse", "An answer that was kept.")
            .says(
                "For the key that asked for it, while `[responses]` keeps it; whole: `stream=true` is \
                 refused.",
            )
            .wants(&KEYS)
            .answers("200", "The answer.", &reference("schemas", "Response"))
            .refuses(Errors::OpenAi, &["400", "401", "404", "429"]),
        Operation::new("DELETE", path, "Answers", "deleteResponse", "Forgets an answer.")
            .wants(&KEYS)
            .answers("200", "It is forgotten.", &deleted)
            .refuses(Errors::OpenAi, &refused),
        Operation::new(
            "GET",
            "/v1/responses/{id}/input_items",
            "Answers",
            "listInputItems",
            "What an answer that was kept was given.",
        )
        .says("The request's own input, without that of the answers before it.")
        .wants(&KEYS)
        .takes(pages)
        .answers("200", "A page of it.", &reference("schemas", "InputItems"))
        .refuses(Errors::OpenAi, &["400", "401", "404", "429"]),
    ]
}

fn models() -> Vec<Operation> {
    vec![
        Operation::new("GET", "/v1/models", "Models", "listModels", "The names that can be asked.")
            .says("Aliases of the policy and of routes; routes themselves for a key that may pin.")
            .wants(&KEYS)
            .answers("200", "All of them.", &reference("schemas", "Models"))
            .refuses(Errors::OpenAi, &["401", "429"]),
        Operation::new("GET", "/v1/models/{id}", "Models", "getModel", "One of those names.")
            .wants(&KEYS)
            .answers("200", "It.", &reference("schemas", "Model"))
            .refuses(Errors::OpenAi, &["401", "404", "429"]),
    ]
}
