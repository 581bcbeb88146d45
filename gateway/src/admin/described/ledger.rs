//! The ledger, and OpenAI's own view of it.

use super::{object, operation, text, usd, whole};
use crate::{
    admin::{idle, ledger_views::EntryView},
    ledger::{CacheUse, Endpoint, GroupBy, Line, OrderBy, Outcome, Rebuilt, Report},
    openapi::{Operation, query, types::Types},
};
use serde_json::{Value, json};

/// The parameters that say which requests are meant.
fn filters() -> Vec<Value> {
    let word = Types::whole::<Outcome>;
    let name =
        |name, description: &str, example: &str| query(name, description, text(), json!(example));
    let when =
        "Milliseconds since the Unix epoch, RFC 3339, a day, or a span before now such as 24h.";
    vec![
        name("since", when, "24h"),
        name("until", when, "1m"),
        name("key", "Of this key.", "key_1"),
        name("route", "With an attempt on this route.", "edge"),
        name("model", "With an attempt on this model.", "gpt-5-mini"),
        name("provider", "With an attempt at this provider.", "openai"),
        name("rule", "Decided by this rule.", "short"),
        name("policy_version", "Decided by this version of the policy.", "0123456789ab"),
        query("outcome", "That ended so.", word(), json!("completed")),
        query(
            "status",
            "With this status.",
            json!({ "type": "integer", "minimum": 100, "maximum": 599 }),
            json!(200),
        ),
        query(
            "endpoint",
            "To this endpoint.",
            Types::whole::<Endpoint>(),
            json!("chat_completions"),
        ),
        query("cache", "That used the cache so.", Types::whole::<CacheUse>(), json!("hit")),
        name("session", "Of this session.", "run-7"),
        name("user", "Of this user's keys.", "ada"),
        name("team", "Of this team's keys.", "red"),
        name("tag", "With this tag, without regard to ASCII case.", "nightly"),
        query("min_cost_usd", "That cost at least so much.", usd_asked(), json!("0.01")),
        query("max_cost_usd", "That cost at most so much.", usd_asked(), json!("1")),
    ]
}

fn usd_asked() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]{1,7}(\\.[0-9]{1,12})?$" })
}

pub(super) fn of_ledger(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Ledger";
    let mut entries = types.list::<EntryView<'_>>();
    entries["properties"]["dropped_before"] = json!({
        "type": "string",
        "description": "Where `since` reaches back to it: requests that ended before this are not there, \
                        their entries were dropped.",
    });
    let entry = types.told::<EntryView<'_>>();
    let sums = types.told::<Line>();
    let percentiles = json!({ "enum": ["exact", "sketch"] });
    let mut row = Types::whole::<Line>();
    let groups = Types::whole::<GroupBy>();
    for by in GroupBy::ALL {
        if let Some(name) = json!(by).as_str() {
            row["properties"][name] = text();
        }
    }
    let summary = object(
        json!({
            "object": { "const": "list" },
            "group_by": { "type": "array", "items": groups },
            "data": { "type": "array", "items": row },
            "groups_left_out": whole(),
            "total": sums,
            "percentiles": percentiles,
            "entries_read": whole(),
            "spans_from_rollups": whole(),
            "dropped_before": {
                "type": "string",
                "description": "Requests of the range that ended before this are in no sum: their \
                                entries were dropped, and rollups do not tell what was asked.",
            },
        }),
        &["dropped_before"],
    );
    let mut node = Types::whole::<EntryView<'_>>();
    node["properties"]["depth"] = whole();
    node["properties"]["branch_cost_usd"] = usd();
    node["properties"]["branch_unknown_cost"] = whole();
    let session = object(
        json!({
            "object": { "const": "session" },
            "id": text(),
            "key": text(),
            "first_arrived": text(),
            "last_arrived": text(),
            "total": sums,
            "percentiles": percentiles,
            "requests": { "type": "array", "items": node },
            "older_left_out": {},
            "dropped_before": {
                "type": "string",
                "description": "Requests that ended before this are in no sum, should the session have \
                                any: their entries were dropped.",
            },
        }),
        &["first_arrived", "last_arrived", "dropped_before"],
    );
    let mut check = Types::whole::<Report>();
    check["properties"]["clean"] = json!({ "type": "boolean" });
    let page = [
        query(
            "limit",
            "At most so many; 50 if not given.",
            json!({ "type": "integer", "minimum": 1, "maximum": crate::ledger::PAGE_MAX }),
            json!(10),
        ),
        query(
            "cursor",
            "Where the page begins: `next_cursor` of the page before.",
            text(),
            Value::Null,
        ),
    ];
    let sum = [
        query(
            "group_by",
            "Words with commas, in this order.",
            json!({ "type": "string", "pattern": "^([a-z_]+(,[a-z_]+)*)?$" }),
            json!("route,model"),
        ),
        query(
            "order_by",
            "The greatest first; names from the least.",
            Types::whole::<OrderBy>(),
            json!("cost"),
        ),
        query(
            "top",
            "Only the first so many groups.",
            json!({ "type": "integer", "minimum": 0 }),
            json!(10),
        ),
        query(
            "exact",
            "Whether every request that is kept is read: exact percentiles, slower, and refused of too many.",
            json!({ "type": "boolean" }),
            json!(true),
        ),
    ];
    let form = json!({ "enum": ["csv", "jsonl", "focus"] });
    let mut form = query("format", "What is written.", form, json!("csv"));
    form["required"] = json!(true);
    let exported = json!({
        "text/csv": { "schema": { "type": "string" } },
        "application/jsonl": { "schema": { "type": "string" } },
    });
    vec![
        operation(
            ("GET", "/admin/v1/ledger/requests", TAG, "listRequests", "Requests, newest first."),
            &["400"],
        )
        .says("Every field is explained in docs/ledger.md.")
        .takes(filters().into_iter().chain(page))
        .answers(
            "200",
            "A page of entries, without the facts of their decisions.",
            &entries,
        ),
        operation(
            (
                "GET",
                "/admin/v1/ledger/requests/{id}",
                TAG,
                "getRequest",
                "One request, with the whole trace of its decision.",
            ),
            &["404"],
        )
        .answers("200", "Its entry.", &entry),
        operation(
            (
                "GET",
                "/admin/v1/ledger/summary",
                TAG,
                "summarize",
                "Sums, unit costs and percentiles, by groups.",
            ),
            &["400"],
        )
        .takes(filters().into_iter().chain(sum))
        .answers("200", "A row for each group, and the total.", &summary),
        operation(
            (
                "GET",
                "/admin/v1/ledger/export",
                TAG,
                "export",
                "The ledger written out, oldest first.",
            ),
            &["400"],
        )
        .takes(filters().into_iter().chain([form]))
        .answers_with(
            "200",
            "CSV, JSON lines, or FOCUS 1.2 as CSV.",
            &exported,
            &["x-request-id"],
        ),
        operation(
            ("GET", "/admin/v1/ledger/verify", TAG, "verify", "Checks every record and every sum."),
            &[],
        )
        .answers("200", "What was checked and what was found.", &check),
        operation(
            (
                "POST",
                "/admin/v1/ledger/rebuild-rollups",
                TAG,
                "rebuildRollups",
                "Makes the rollups anew from the journal.",
            ),
            &["404"],
        )
        .answers("200", "What was rebuilt.", &types.told::<Rebuilt>()),
        operation(
            (
                "GET",
                "/admin/v1/sessions/{id}",
                TAG,
                "getSession",
                "What an agent's run cost, and the tree of its requests. A session is one key's: where \
                 several keys have one of this name, `key` says whose is asked for, and without it the \
                 answer is a 400 that names them.",
            ),
            &["400", "404"],
        )
        .takes([query("key", "Whose session: a key's id.", text(), Value::Null)])
        .answers("200", "The session.", &session),
    ]
}

pub(super) fn of_organization() -> Vec<Operation> {
    const TAG: &str = "Organization";
    let maybe = || json!({ "type": ["string", "null"] });
    let seconds = |name, about: &str, second: u64, required: bool| {
        let mut parameter = query(name, about, whole(), json!(second));
        parameter["required"] = json!(required);
        parameter
    };
    let list = |name, about: &str, example: &str| {
        query(
            name,
            about,
            json!({ "type": "array", "items": { "type": "string" } }),
            json!([example]),
        )
    };
    let page = |result: Value| {
        let bucket = object(
            json!({
                "object": { "const": "bucket" },
                "start_time": whole(),
                "end_time": whole(),
                "results": { "type": "array", "items": result },
            }),
            &[],
        );
        object(
            json!({
                "object": { "const": "page" },
                "data": { "type": "array", "items": bucket },
                "has_more": { "type": "boolean" },
                "next_page": maybe(),
                "dropped_before": {
                    "type": "string",
                    "description": "Requests that ended before this are in no sum: their entries were \
                                    dropped, and what is kept of them does not tell what was asked.",
                },
            }),
            &["dropped_before"],
        )
    };
    let usage = object(
        json!({
            "object": { "const": "organization.usage.completions.result" },
            "input_tokens": whole(),
            "output_tokens": whole(),
            "input_cached_tokens": whole(),
            "input_audio_tokens": whole(),
            "output_audio_tokens": whole(),
            "num_model_requests": whole(),
            "project_id": maybe(),
            "user_id": maybe(),
            "api_key_id": maybe(),
            "model": maybe(),
            "service_tier": maybe(),
            "batch": { "type": ["boolean", "null"] },
        }),
        &[],
    );
    let amount = object(
        json!({
            "value": {
                "type": "number",
                "description": "What is known of it; absent where nothing is.",
            },
            "currency": { "const": "usd" },
        }),
        &["value"],
    );
    let cost = object(
        json!({
            "object": { "const": "organization.costs.result" },
            "amount": amount,
            "line_item": maybe(),
            "project_id": maybe(),
            "api_key_id": maybe(),
            "unknown_cost": {
                "type": "integer",
                "minimum": 1,
                "description": "Attempts whose cost is unknown and not in the amount; absent without any.",
            },
        }),
        &["unknown_cost"],
    );
    let times = || {
        [
            seconds("start_time", "From this second of the Unix epoch on.", 1_700_000_000, true),
            seconds("end_time", "Until this one.", 1_700_086_400, false),
        ]
    };
    let paged = |widths: &[&str], most: u64| {
        [
            query("bucket_width", "How long a bucket is.", json!({ "enum": widths }), json!("1d")),
            query(
                "limit",
                "Buckets of a page.",
                json!({ "type": "integer", "minimum": 1, "maximum": most }),
                json!(7),
            ),
            query("page", "`next_page` of the page before.", text(), Value::Null),
        ]
    };
    let of_usage = [
        list("group_by", "By what the results are told apart.", "model"),
        list("project_ids", "Only these teams.", "red"),
        list("user_ids", "Only these users.", "ada"),
        list("api_key_ids", "Only these keys.", "key_1"),
        list("models", "Only these models.", "gpt-5-mini"),
        list("service_tiers", "Only these tiers.", "default"),
        query(
            "batch",
            "Only batches, of which there are none.",
            json!({ "type": "boolean" }),
            json!(false),
        ),
    ];
    let of_costs = [
        list("group_by", "By what the results are told apart.", "line_item"),
        list("project_ids", "Only these teams.", "red"),
        list("line_items", "Only these models.", "gpt-5-mini"),
        list("api_key_ids", "Only these keys.", "key_1"),
    ];
    vec![
        operation(
            (
                "GET",
                "/v1/organization/usage/completions",
                TAG,
                "usageCompletions",
                "Tokens and requests in buckets of time, in OpenAI's shape.",
            ),
            &["400"],
        )
        .says("A project is a team, an API key a key.")
        .takes(times().into_iter().chain(paged(&["1m", "1h", "1d"], 1_440)).chain(of_usage))
        .answers("200", "A page of buckets.", &page(usage)),
        operation(
            ("GET", "/v1/organization/costs", TAG, "costs", "Costs by day, in OpenAI's shape."),
            &["400"],
        )
        .takes(times().into_iter().chain(paged(&["1d"], 180)).chain(of_costs))
        .answers("200", "A page of buckets.", &page(cost)),
    ]
}

pub(super) fn of_idle(types: &mut Types) -> Operation {
    let costs = types.told::<idle::IdleView>();
    let summary = "What local models cost while they worked for nobody.";
    operation(("GET", "/admin/v1/idle", "Ledger", "idleCosts", summary), &["400"])
        .says("By day (UTC) and route. No request pays it, and no sum of requests has it.")
        .takes([
            query("since", "From this day on.", text(), json!("2026-11-01")),
            query("until", "Before this day.", text(), json!("2026-12-01")),
        ])
        .answers("200", "Time loaded less the engine time of requests, and its cost.", &costs)
}
