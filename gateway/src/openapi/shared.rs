//! What many operations have in common: keys, headers, the shape of errors.

use super::operation::{BARE_REFUSAL, reference};
use serde_json::{Map, Value, json};

/// Headers of every answer of the data plane that came from a route or the cache.
pub(super) const ANSWERED: [&str; 16] = [
    "x-request-id",
    "x-tollgate-route",
    "x-tollgate-rule",
    "x-tollgate-policy",
    "x-tollgate-attempts",
    "x-tollgate-cache",
    "x-tollgate-output-cap",
    "x-tollgate-cost-usd",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "server-timing",
    "idempotent-replayed",
];

/// Headers of an answer that is streamed, beside those.
pub(super) const STREAMED: [&str; 2] = ["cache-control", "x-accel-buffering"];

/// Headers of a refusal, beside those that one status alone has.
const REFUSED: [&str; 12] = [
    "x-request-id",
    "x-tollgate-cost-usd",
    "x-tollgate-rule",
    "x-tollgate-policy",
    "x-tollgate-cache",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "idempotent-replayed",
];

/// Statuses of refusals, what each means, and the headers it alone has.
const REFUSALS: [(&str, &str, &[&str]); 16] = [
    ("400", "The request is wrong; `param` names what.", &[]),
    (
        "401",
        "No key, or one that is wrong, expired or revoked (never said which).",
        &["www-authenticate"],
    ),
    (
        "402",
        "A budget has less left than this could cost, where the operator wants 402 for it.",
        &["x-should-retry"],
    ),
    ("403", "The key may not do this, or the policy refuses.", &[]),
    ("404", "There is no such thing.", &[]),
    ("405", "The path does not take this method.", &["allow"]),
    ("408", "The body did not arrive in time.", &[]),
    (
        "409",
        "It does not fit what is there; an `Idempotency-Key` whose first request still runs.",
        &[],
    ),
    ("413", "The body is larger than the limit.", &[]),
    ("415", "The body's content-encoding is not known.", &[]),
    (
        "429",
        "A rate limit or a budget: the message names the limit, its size, what is left and when it opens again.",
        &["retry-after", "retry-after-ms", "x-should-retry"],
    ),
    (
        "4XX",
        "The provider says that the request is wrong: its status and its error, passed on.",
        &[],
    ),
    ("502", "Every route of the plan failed.", &["x-should-retry"]),
    (
        "503",
        "The only route failed, every route is busy, or paid work is stopped.",
        &["retry-after", "retry-after-ms", "x-should-retry"],
    ),
    ("504", "The time that the caller or the route allows is over.", &[]),
    ("default", "Another refusal.", &[]),
];

pub(super) fn security_schemes() -> Value {
    json!({
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key of the data plane: `tollgate key create`.",
        },
        "keyHeader": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "The same key, where a client sends it so (Anthropic's).",
        },
        "adminKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "The admin key: `admin.key` in the data directory.",
        },
    })
}

/// Headers that steer a request.
pub(super) fn parameters() -> Value {
    let header = |name: &str, description: &str, schema: Value, example: Value| {
        json!({
            "name": name,
            "in": "header",
            "description": description,
            "schema": schema,
            "example": example,
        })
    };
    let text =
        |bytes: u64| json!({ "type": "string", "maxLength": bytes, "pattern": "^[\\t -~]*$" });
    // Without commas, and with spaces within it alone.
    let tag = " *[!-+.-~-]([ -+.-~-]{0,62}[!-+.-~-])? *";
    let tags = format!("^({tag}(,{tag}){{0,15}})?$");
    json!({
        "session": header("x-session-id", "The session this belongs to: budgets and the ledger know it.", text(256), json!("run-7")),
        "sessionOfLitellm": header("x-litellm-session-id", "The same, where `x-session-id` is absent.", text(256), json!("run-7")),
        "parent": header("x-tollgate-parent", "The request (its `x-request-id`) that caused this one.", json!({ "type": "string", "pattern": "^(req_[0-9a-f]{32})?$" }), json!("req_0198c1f2a3b47c5d8e9fa0b1c2d3e4f5")),
        "step": header("x-tollgate-step", "The caller's name for the step of its run.", text(128), json!("plan")),
        "tags": header("x-tollgate-tags", "At most 16 tags, separated by commas.", json!({ "type": "string", "pattern": tags }), json!("nightly,batch")),
        "deadline": header("x-tollgate-deadline-ms", "Milliseconds from arrival after which no answer is wanted. A whole answer is there by then or never comes: what cannot begin in time is refused before it costs, and what is not ready is cut off (504) and charged for what was used. A stream begins by then and goes on to its end.", json!({ "type": "integer", "minimum": 1, "maximum": 86_400_000 }), json!(30_000)),
        "maxCost": header("x-tollgate-max-cost-usd", "The most this request may cost.", json!({ "type": "string", "pattern": "^[0-9]{1,8}(\\.[0-9]{1,12})?$" }), json!("0.05")),
        "dryRun": header("x-tollgate-dry-run", "`1`: the decision is explained, no route is asked and nothing is charged.", json!({ "type": "string", "enum": ["1", "true", "yes", "0", "false", "no"] }), json!("0")),
        "cache": header("x-tollgate-cache", "`on` allows a kept answer, `off` keeps the request out of the cache, `refresh` asks anew.", json!({ "type": "string", "enum": ["on", "off", "refresh"] }), json!("off")),
        "idempotencyKey": header("Idempotency-Key", "A request that repeats it gets the first one's answer and is not charged again.", json!({ "type": "string", "pattern": "^[!-~]{1,255}$" }), json!("order-7-attempt-1")),
        "anthropicBeta": header("anthropic-beta", "Of `/v1/messages`: passed on to a route that speaks Anthropic's format, after the route's own.", text(2048), json!("context-management-2025-06-27")),
        "traceparent": header("traceparent", "Passed on to a cloud route; one that has not the shape of it is ignored.", json!({ "type": "string" }), json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    })
}

/// References to the headers that steer a request.
pub(super) fn steering() -> Vec<Value> {
    let names = parameters();
    let names = names.as_object().into_iter().flat_map(Map::keys);
    names.map(|name| reference("parameters", name)).collect()
}

pub(super) fn headers() -> Value {
    let header =
        |description: &str, schema: Value| json!({ "description": description, "schema": schema });
    let whole = json!({ "type": "integer", "minimum": 0 });
    let millis = json!({ "type": "string", "pattern": "^[0-9]+ms$" });
    let text = json!({ "type": "string" });
    let mut id = header(
        "The id of this request: time-ordered, and its name in the ledger.",
        json!({ "type": "string", "pattern": "^req_[0-9a-f]{32}$" }),
    );
    id["required"] = Value::Bool(true);
    json!({
        "request-id": id,
        "x-request-id": id,
        "x-tollgate-route": header("The route that answered.", text.clone()),
        "x-tollgate-rule": header("The rule of the policy that decided.", text.clone()),
        "x-tollgate-policy": header("The policy and its version: `name@version`.", text.clone()),
        "x-tollgate-attempts": header("Attempts that were made for this request.", whole.clone()),
        "x-tollgate-cache": header("How the cache of answers was used.", json!({ "enum": ["BYPASS", "MISS", "HIT", "COALESCED"] })),
        "x-tollgate-output-cap": header("The output cap that was sent, where it is less than was asked for.", whole.clone()),
        "x-tollgate-cost-usd": header("What an unstreamed answer or a refusal cost; absent where it is unknown.", json!({ "type": "string", "pattern": "^[0-9]+\\.[0-9]{12}$" })),
        "x-ratelimit-limit-requests": header("The key's limit in requests per minute.", whole.clone()),
        "x-ratelimit-remaining-requests": header("What is left of it.", whole.clone()),
        "x-ratelimit-reset-requests": header("When it is full again.", millis.clone()),
        "x-ratelimit-limit-tokens": header("The key's limit in tokens per minute.", whole.clone()),
        "x-ratelimit-remaining-tokens": header("What is left of it.", whole.clone()),
        "x-ratelimit-reset-tokens": header("When it is full again.", millis),
        "server-timing": header("The stages that were over when the head left, in milliseconds.", text.clone()),
        "cache-control": header("Of a stream: what is between must not keep it.", json!({ "const": "no-cache" })),
        "x-accel-buffering": header("Of a stream: what is between (nginx) must not hold it back.", json!({ "const": "no" })),
        "idempotent-replayed": header("The answer, or the refusal, is that of an earlier request with this `Idempotency-Key`.", json!({ "const": "true" })),
        "x-tollgate-count": header("Whether the count is exact, by the tokenizer of the model in this process, or an estimate.", json!({ "enum": ["exact", "estimate"] })),
        "retry-after": header("Seconds to wait, at most 120.", whole.clone()),
        "retry-after-ms": header("The same in milliseconds.", whole),
        "x-should-retry": header("`false`: waiting does not help.", json!({ "const": "false" })),
        "allow": header("The methods that the path takes.", text.clone()),
        "www-authenticate": header("How to present a key.", text),
    })
}

pub(super) fn responses() -> Map<String, Value> {
    let mut responses = Map::new();
    // Anthropic's name of the id is in answers of its format alone.
    let anthropics: &[&str] = &["request-id"];
    for (prefix, schema, ids) in
        [("Error", "Error", &[][..]), ("MessagesError", "MessagesError", anthropics)]
    {
        for (status, description, own) in REFUSALS {
            let names = REFUSED.iter().chain(own).chain(ids);
            let headers: Map<String, Value> =
                names.map(|name| ((*name).to_owned(), reference("headers", name))).collect();
            let content = json!({ "application/json": { "schema": reference("schemas", schema) } });
            let response =
                json!({ "description": description, "headers": headers, "content": content });
            responses.insert(format!("{prefix}{status}"), response);
        }
    }
    let names = REFUSED.iter().chain(REFUSALS.iter().flat_map(|(_, _, own)| *own));
    let headers: Map<String, Value> =
        names.map(|name| ((*name).to_owned(), reference("headers", name))).collect();
    let description = "As GET is refused, without a body.";
    let bare = json!({ "description": description, "headers": headers });
    responses.insert(BARE_REFUSAL.to_owned(), bare);
    responses
}

pub(super) fn schemas() -> Map<String, Value> {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let mut schemas = Map::new();
    schemas.insert(
        "Error".to_owned(),
        json!({
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "message": text("What is wrong, in the caller's terms."),
                        "type": text("Such as `invalid_request_error`, `rate_limit_error`, `budget_exceeded`."),
                        "param": { "type": ["string", "null"], "description": "The parameter that is wrong." },
                        "code": { "type": ["string", "null"], "description": "Such as `model_not_found`, `insufficient_quota`." },
                    },
                    "required": ["message", "type", "param", "code"],
                },
            },
            "required": ["error"],
        }),
    );
    schemas.insert(
        "MessagesError".to_owned(),
        json!({
            "description": "An error in Anthropic's shape.",
            "type": "object",
            "properties": {
                "type": { "const": "error" },
                "error": {
                    "type": "object",
                    "properties": {
                        "type": text("Such as `invalid_request_error`, `rate_limit_error`."),
                        "message": text("What is wrong, in the caller's terms."),
                    },
                    "required": ["type", "message"],
                    "additionalProperties": true,
                },
                "request_id": text("As `x-request-id`."),
            },
            "required": ["type", "error"],
        }),
    );
    schemas.insert(
        "Decision".to_owned(),
        json!({
            "description": "The decision for a request with `x-tollgate-dry-run`, explained.",
            "type": "object",
            "properties": {
                "object": { "const": "tollgate.decision" },
                "policy": text("The policy."),
                "policy_version": text("Its version."),
                "trace": {
                    "type": "object",
                    "description": "Signals read, rules tried, routes left out: docs/policies.md.",
                    "additionalProperties": true,
                },
            },
            "required": ["object", "policy", "policy_version", "trace"],
        }),
    );
    schemas
}
