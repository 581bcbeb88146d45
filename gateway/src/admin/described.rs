//! The operations of the admin plane, as the OpenAPI document tells them.
//!
//! **Invariant:** a body's schema is that of the type it is read into, an answer's that of the type
//! that is written; what is written without a type is closed, so that a field nobody described
//! fails the end-to-end test that sees it.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]
#![expect(clippy::needless_pass_by_value, reason = "schemas are made where they are passed")]

use super::{
    budgets, corrections, groups, idle, keys, ledger_views::EntryView, model_limits, models,
    policies, rerate, state,
};
use crate::{
    ledger::{
        CacheUse, Endpoint, GroupBy, GuardEffect, Line, NOTICE_KINDS, OrderBy, Outcome, Rebuilt,
        Report,
    },
    openapi::{
        Operation, query,
        types::{Types, list_of},
    },
    providers::RateSeen,
};
use serde_json::{Map, Value, json};

const KEY: &[&str] = &["adminKey"];
/// Statuses of refusals: of every path, and of one that reads or changes more than a page.
const ALWAYS: [&str; 4] = ["401", "403", "429", "503"];

/// Everything under /admin/v1 and /v1/organization.
pub(crate) fn operations(types: &mut Types) -> Vec<Operation> {
    let mut operations = of_keys(types);
    operations.extend(of_groups(types));
    operations.extend(of_budgets(types));
    operations.push(of_limits(types));
    operations.push(of_idle(types));
    operations.extend(of_events());
    operations.extend(of_guard());
    operations.extend(of_routes(types));
    operations.extend(of_models(types));
    operations.extend(of_policies(types));
    operations.extend(of_ledger(types));
    operations.extend(of_organization());
    operations
}

/// What `Operation::new` takes.
type Named = (&'static str, &'static str, &'static str, &'static str, &'static str);

fn operation(named: Named, refuses: &[&str]) -> Operation {
    let (method, path, tag, id, summary) = named;
    Operation::new(method, path, tag, id, summary)
        .wants(KEY)
        .refuses(crate::openapi::Errors::OpenAi, &ALWAYS)
        .refuses(crate::openapi::Errors::OpenAi, refuses)
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn whole() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn usd() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,12})?$" })
}

/// An object with these fields, all but the `may` always there.
fn object(fields: Value, may: &[&str]) -> Value {
    let names = fields.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !may.contains(&name.as_str())).collect();
    json!({ "type": "object", "properties": fields, "required": required })
}

fn of_keys(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Keys";
    let (one, all) = (types.told::<keys::KeyView>(), types.list::<keys::KeyView>());
    let made = Types::whole::<keys::CreatedView>();
    let (create, change) = (types.asked::<keys::CreateBody>(), types.asked::<keys::ChangeBody>());
    let named = json!({
        "label": "nightly",
        "team": "red",
        "limits": { "requests_per_minute": 60 },
        "budgets": [{ "window": "day", "money_usd": "5.00" }],
    });
    let (path, many) = ("/admin/v1/keys/{id}", "/admin/v1/keys");
    vec![
        operation(("GET", many, TAG, "listKeys", "Every key, its secret not among it."), &[])
            .answers("200", "All keys.", &all),
        operation(("POST", many, TAG, "createKey", "Makes a key."), &["400", "409", "413"])
            .body(&create, false, &named)
            .answers("201", "The key with its secret, which is shown this once.", &made),
        operation(("GET", path, TAG, "getKey", "One key."), &["404"]).answers("200", "It.", &one),
        operation(("PATCH", path, TAG, "changeKey", "Changes a key."), &["400", "404", "413"])
            .says("What is absent stays, what is null is cleared.")
            .body(&change, false, &json!({ "label": "nightly", "disabled": true }))
            .answers("200", "The key as it is now.", &one),
        operation(("DELETE", path, TAG, "revokeKey", "Revokes a key."), &["404"])
            .says("Its record stays, since entries name it.")
            .answers("200", "The key as it is now.", &one),
        operation(
            (
                "POST",
                "/admin/v1/keys/rotate-admin",
                TAG,
                "rotateAdminKey",
                "Makes a new admin key.",
            ),
            &[],
        )
        .says("The one that asked stops working with this answer.")
        .answers("200", "The new one.", &object(json!({ "secret": text() }), &[])),
    ]
}

fn of_groups(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Groups";
    let (one, all) = (types.told::<groups::GroupView>(), types.list::<groups::GroupView>());
    let create = types.asked::<groups::CreateBody>();
    let change = types.asked::<groups::ChangeBody>();
    let named = json!({ "name": "red", "budgets": [{ "window": "month", "money_usd": "100" }] });
    let kinds = [
        (
            "/admin/v1/teams",
            "/admin/v1/teams/{name}",
            ["listTeams", "createTeam", "getTeam", "changeTeam", "disableTeam"],
        ),
        (
            "/admin/v1/users",
            "/admin/v1/users/{name}",
            ["listUsers", "createUser", "getUser", "changeUser", "disableUser"],
        ),
        (
            "/admin/v1/tags",
            "/admin/v1/tags/{name}",
            ["listTags", "createTag", "getTag", "changeTag", "disableTag"],
        ),
    ];
    let of_kind = |(many, path, ids): (&'static str, &'static str, [&'static str; 5])| {
        let [list, make, get, change_id, disable] = ids;
        [
            operation(("GET", many, TAG, list, "Every one."), &[]).answers(
                "200",
                "All of them.",
                &all,
            ),
            operation(("POST", many, TAG, make, "Sets one up."), &["400", "409", "413"])
                .body(&create, true, &named)
                .answers("201", "It.", &one),
            operation(("GET", path, TAG, get, "One of them."), &["404"])
                .answers("200", "It.", &one),
            operation(("PATCH", path, TAG, change_id, "Changes one."), &["400", "404", "413"])
                .says("What is absent stays, what is null is cleared.")
                .body(&change, false, &json!({ "label": "Red", "disabled": false }))
                .answers("200", "As it is now.", &one),
            operation(("DELETE", path, TAG, disable, "Disables one."), &["404"])
                .says("None of its keys works until that is taken back. What was spent stays.")
                .answers("200", "As it is now.", &one),
        ]
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn of_budgets(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Budgets";
    let all = types.list::<state::BudgetView>();
    let set = types.told::<budgets::BudgetView>();
    let either = json!({ "anyOf": [types.told::<state::BudgetView>(), set] });
    let (create, change) =
        (types.asked::<budgets::CreateBody>(), types.asked::<budgets::ChangeBody>());
    let named = json!({ "scope": "global", "window": "week", "money_usd": "20" });
    let (path, many) = ("/admin/v1/budgets/{id}", "/admin/v1/budgets");
    let of =
        query("sessions_of", "The budgets of this key's sessions instead.", text(), json!("key_1"));
    let held = object(
        json!({
            "request": text(),
            "attempt": whole(),
            "key": text(),
            "reserved_usd": usd(),
            "reserved_tokens": whole(),
        }),
        &[],
    );
    vec![
        operation(
            ("GET", many, TAG, "listBudgets", "Every budget in its current window."),
            &["400"],
        )
        .takes([of])
        .answers("200", "All of them.", &all),
        operation(
            ("POST", many, TAG, "createBudget", "Sets a budget."),
            &["400", "404", "409", "413"],
        )
        .says("On `global`, `team:<name>`, `user:<name>`, `tag:<name>` or a key's id.")
        .body(&create, true, &named)
        .answers("201", "As it was set.", &set),
        operation(
            ("GET", path, TAG, "getBudget", "One budget, with its state if it has one."),
            &["400", "404"],
        )
        .says("Its id is its scope and its window, such as `team:red/month`.")
        .answers("200", "It.", &either),
        operation(
            ("PATCH", path, TAG, "changeBudget", "Changes a budget."),
            &["400", "404", "413"],
        )
        .says("Lowered below what is spent, it stops new work and lets running work end.")
        .body(&change, false, &json!({ "money_usd": "30" }))
        .answers("200", "As it is set now.", &set),
        operation(("DELETE", path, TAG, "removeBudget", "Removes a budget."), &["400", "404"])
            .answers("200", "As it was.", &set),
        operation(
            (
                "POST",
                "/admin/v1/corrections",
                TAG,
                "correctBudget",
                "Books a correction on a budget.",
            ),
            &["400", "404", "413"],
        )
        .says(
            "It is added to what is spent in the window that runs, or taken from it with `credit`. \
             After a loss of events it also says that what was missing of this budget is booked.",
        )
        .body(
            &types.asked::<corrections::CorrectionBody>(),
            true,
            &json!({
                "budget": "team:red/month",
                "money_usd": "1.25",
                "reason": "events 4711 to 4720, by the provider's invoice",
            }),
        )
        .answers("200", "The budget as it is now.", &types.told::<state::BudgetView>()),
        operation(
            (
                "GET",
                "/admin/v1/reservations",
                TAG,
                "listReservations",
                "Every attempt that holds money or tokens.",
            ),
            &[],
        )
        .answers("200", "All of them.", &list_of(&held)),
        operation(
            (
                "GET",
                "/admin/v1/refusals",
                TAG,
                "listRefusals",
                "Requests that were turned away, by code.",
            ),
            &[],
        )
        .answers(
            "200",
            "Counts since the ledger began.",
            &list_of(&object(json!({ "code": text(), "count": whole() }), &[])),
        ),
    ]
}

fn of_limits(types: &mut Types) -> Operation {
    let all = types.list::<model_limits::ModelLimitsView>();
    let summary = "The limits of single models over all callers.";
    operation(("GET", "/admin/v1/limits", "Limits", "listModelLimits", summary), &[])
        .says("As `[[limit]]` sets them in the configuration, with what is left of each.")
        .answers("200", "All of them.", &all)
}

fn of_idle(types: &mut Types) -> Operation {
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

fn of_events() -> Vec<Operation> {
    const TAG: &str = "Events";
    let event = object(
        json!({
            "id": text(),
            "object": { "const": "event" },
            "type": { "enum": NOTICE_KINDS },
            "created": text(),
            "created_unix_ms": whole(),
            "data": { "type": "object" },
        }),
        &[],
    );
    let receiver = object(
        json!({
            "name": text(),
            "origin": text(),
            "events": { "type": "array", "items": text() },
            "waiting": whole(),
            "failures_in_a_row": whole(),
            "last_error": text(),
            "last_delivered": text(),
            "last_delivered_unix_ms": whole(),
            "delivered": whole(),
            "failed_attempts": whole(),
            "given_up": whole(),
        }),
        &["last_error", "last_delivered", "last_delivered_unix_ms"],
    );
    let (events, webhooks) = ("/admin/v1/events", "/admin/v1/webhooks");
    vec![
        operation(("GET", events, TAG, "listEvents", "What operators were told of."), &["400"])
            .says("Budgets that fill, what the guard did, and what was lifted.")
            .takes([
                query("type", "A kind, or what stands before its dot.", text(), json!("budget")),
                json!({
                    "name": "after",
                    "in": "query",
                    "description": "Older than the event with this id.",
                    "schema": text(),
                }),
                query("limit", "Events of a page.", whole(), json!(100)),
            ])
            .answers("200", "Newest first.", &list_of(&event)),
        operation(("GET", webhooks, TAG, "listWebhooks", "Who is told of events."), &[]).answers(
            "200",
            "Each receiver, and how its deliveries go.",
            &list_of(&receiver),
        ),
    ]
}

fn of_guard() -> Vec<Operation> {
    const TAG: &str = "Guard";
    let effect = Types::whole::<GuardEffect>();
    let standing = object(
        json!({
            "subject": text(),
            "signal": text(),
            "effect": effect,
            "seen": text(),
            "until": text(),
            "until_unix_ms": whole(),
        }),
        &[],
    );
    let event = object(
        json!({
            "at": text(),
            "at_unix_ms": whole(),
            "subject": text(),
            "signal": text(),
            "effect": effect,
            "seen": text(),
            "until_unix_ms": whole(),
        }),
        &[],
    );
    let list = |items: Value| json!({ "type": "array", "items": items });
    let shown = object(json!({ "standing": list(standing), "events": list(event) }), &[]);
    vec![
        operation(
            (
                "GET",
                "/admin/v1/guard",
                TAG,
                "showGuard",
                "What the abuse guard does now, and what it noticed lately.",
            ),
            &[],
        )
        .answers("200", "Newest first.", &shown),
        operation(
            (
                "DELETE",
                "/admin/v1/guard/{subject}",
                TAG,
                "liftGuard",
                "Lifts what is being done to a key's id or `user:<name>`.",
            ),
            &["404"],
        )
        .answers("200", "It is lifted.", &object(json!({ "lifted": text() }), &[])),
    ]
}

/// A price of any kind, in USD per million tokens as providers publish them.
fn price() -> Map<String, Value> {
    let per_million = json!({ "type": "object", "additionalProperties": usd() });
    let tiers = json!({
        "type": "array",
        "items": object(json!({ "above_prompt_tokens": whole(), "per_million_usd": per_million }), &[]),
    });
    let hours = object(
        json!({ "per_million_usd": per_million, "tiers": tiers, "from": text(), "to": text() }),
        &[],
    );
    let service = object(json!({ "per_million_usd": per_million, "tiers": tiers }), &[]);
    let fields = json!({
        "id": text(),
        "per_million_usd": per_million,
        "tiers": tiers,
        "per_request_usd": usd(),
        "per_image_usd": usd(),
        "hours": { "type": "array", "items": hours },
        "services": { "type": "object", "additionalProperties": service },
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn of_routes(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Routes";
    let mut of_route = price();
    for (name, schema) in [
        ("kind", json!({ "enum": ["tokens", "compute", "unknown"] })),
        ("usd_per_hour", usd()),
        ("power_usd_per_hour", usd()),
    ] {
        of_route.insert(name.to_owned(), schema);
    }
    let route = json!({
        "type": "object",
        "properties": {
            "id": text(),
            "kind": { "type": "string", "description": "`local`, or the kind of the provider." },
            "provider": text(),
            "model": text(),
            "aliases": { "type": "array", "items": text() },
            "context_tokens": whole(),
            "budgeted": { "type": "boolean" },
            "price": { "type": "object", "properties": of_route, "required": ["kind"] },
            "unknown_price_max_usd": usd(),
            "state": { "enum": ["ready", "busy", "unavailable", "not_running"] },
            "queued": whole(),
            "in_flight": whole(),
            "ttft_p50_us": whole(),
            "ttft_p95_us": whole(),
            "breaker": {
                "type": "object",
                "properties": {
                    "state": { "enum": ["closed", "open", "half_open"] },
                    "tried_again_in_ms": whole(),
                    "failed_in_a_row": whole(),
                    "opened": whole(),
                },
                "required": ["state", "failed_in_a_row", "opened"],
            },
            "predicted_wait_us": whole(),
            "failed_permille": whole(),
            "provider_rate": types.told::<RateSeen>(),
            "model_state": { "type": "object", "additionalProperties": true },
            "engine": { "type": "object", "additionalProperties": true },
        },
        "required": ["id", "kind", "provider", "model", "aliases", "budgeted", "price", "state"],
    });
    let (asked, rated) = (types.asked::<rerate::RerateBody>(), types.told::<rerate::RerateView>());
    let mut row = price();
    for name in ["provider", "model", "effective_from", "source", "source_date"] {
        row.insert(name.to_owned(), text());
    }
    row.insert("snapshots".to_owned(), json!({}));
    let row = json!({
        "type": "object",
        "properties": row,
        "required": ["id", "provider", "model", "effective_from", "per_million_usd"],
    });
    vec![
        operation(
            (
                "GET",
                "/admin/v1/routes",
                TAG,
                "listRoutes",
                "Every route, its price and its live state.",
            ),
            &[],
        )
        .answers("200", "In the order of the configuration.", &list_of(&route)),
        operation(
            (
                "GET",
                "/admin/v1/prices",
                TAG,
                "listPrices",
                "The dated price list, the operator's rows included.",
            ),
            &["400"],
        )
        .takes([
            query("provider", "Only this provider's.", text(), json!("openai")),
            query("model", "Only this model's.", text(), json!("gpt-5-mini")),
        ])
        .answers("200", "Rates in USD per million tokens.", &list_of(&row)),
        operation(
            (
                "POST",
                "/admin/v1/prices/rerate",
                TAG,
                "rerate",
                "Rates past attempts anew, with the prices of the configuration as it is now.",
            ),
            &["400", "413"],
        )
        .says(
            "Without `apply` it only says what would change. With it each difference is an \
             adjustment in the ledger; entries stay as they were booked, and budgets keep what \
             they were charged. Done again it does nothing.",
        )
        .body(&asked, true, &json!({ "since": "2026-11-01", "provider": "openai" }))
        .answers("200", "What changes, exactly.", &rated),
    ]
}

fn of_models(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Routes";
    let (drain, swap) = (types.asked::<models::DrainBody>(), types.asked::<models::SwapBody>());
    let model = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string", "description": "The route." },
            "served_as": text(),
            "path": text(),
            "state": text(),
            "route_state": { "enum": ["ready", "busy", "unavailable"] },
        },
        "required": ["id", "served_as", "path", "state", "route_state"],
        "additionalProperties": true,
    });
    let statuses = ["400", "404", "409", "413"];
    let name = |path, id, summary| operation(("POST", path, TAG, id, summary), &statuses);
    vec![
        operation(("GET", "/admin/v1/models", TAG, "listLocalModels", "Every model in this process, with what identifies its file."), &[])
            .answers("200", "All of them.", &list_of(&model)),
        operation(("GET", "/admin/v1/models/{name}", TAG, "getLocalModel", "One of them, by its route."), &["404"])
            .answers("200", "It.", &model),
        name("/admin/v1/models/{name}/load", "loadModel", "Loads it; answers when it is loaded.")
            .body(&drain, false, &json!({}))
            .answers("200", "As it is now.", &model),
        name("/admin/v1/models/{name}/unload", "unloadModel", "Unloads it.")
            .says("No new request gets it; what runs may go on for `drain_ms`.")
            .body(&drain, false, &json!({ "drain_ms": 1_000 }))
            .answers("200", "As it is now.", &model),
        name("/admin/v1/models/{name}/swap", "swapModel", "Gives the name to another file.")
            .says("It is loaded beside the one that answers; one that cannot be loaded changes nothing.")
            .body(&swap, true, &json!({ "file": "models/other.gguf" }))
            .answers("200", "As it is now.", &model),
    ]
}

fn of_policies(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Policies";
    let validate = types.asked::<policies::ValidateBody>();
    let rejected = object(json!({ "error": text(), "at": text(), "at_unix_ms": whole() }), &[]);
    let current = object(
        json!({
            "name": text(),
            "version": text(),
            "description": text(),
            "tests": whole(),
            "file": text(),
            "shipped": { "type": "boolean" },
            "aliases": { "type": "array", "items": text() },
            "last_error": rejected,
            "source": text(),
        }),
        &["description", "file", "last_error"],
    );
    let noted = object(
        json!({ "name": text(), "version": text(), "since": text(), "since_unix_ms": whole() }),
        &[],
    );
    let warning = object(json!({ "line": whole(), "message": text() }), &["line"]);
    let error = object(
        json!({ "message": text(), "line": whole(), "column": whole(), "key": text() }),
        &["line", "column", "key"],
    );
    let verdict = object(
        json!({
            "valid": { "type": "boolean" },
            "name": text(),
            "version": text(),
            "tests": whole(),
            "warnings": { "type": "array", "items": warning },
            "error": error,
        }),
        &["name", "version", "tests", "warnings", "error"],
    );
    let written = "[[choose]]\nname = \"all\"\nroutes = [\"edge\"]\n";
    vec![
        operation(
            (
                "GET",
                "/admin/v1/policies",
                TAG,
                "showPolicy",
                "The policy in force, and why a newer file is not.",
            ),
            &[],
        )
        .answers("200", "It.", &current),
        operation(
            (
                "POST",
                "/admin/v1/policies/reload",
                TAG,
                "reloadPolicy",
                "Reads the policy's file again, as SIGHUP does.",
            ),
            &[],
        )
        .answers("200", "The policy in force after that.", &current),
        operation(
            (
                "POST",
                "/admin/v1/policies/validate",
                TAG,
                "validatePolicy",
                "Parses a policy, runs its tests and checks it against the routes.",
            ),
            &["400", "413"],
        )
        .says("Nothing changes.")
        .body(&validate, true, &json!({ "text": written, "name": "mine" }))
        .answers("200", "Whether it could come into force.", &verdict),
        operation(
            (
                "GET",
                "/admin/v1/policies/history",
                TAG,
                "listPolicies",
                "Every version that came into force, oldest first.",
            ),
            &[],
        )
        .answers("200", "All of them.", &list_of(&noted)),
        operation(
            (
                "GET",
                "/admin/v1/policies/history/{version}",
                TAG,
                "getPolicy",
                "The text of a version.",
            ),
            &["404"],
        )
        .answers(
            "200",
            "It.",
            &object(json!({ "version": text(), "source": text() }), &[]),
        ),
    ]
}

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
        name("tag", "With this tag.", "nightly"),
        query("min_cost_usd", "That cost at least so much.", usd_asked(), json!("0.01")),
        query("max_cost_usd", "That cost at most so much.", usd_asked(), json!("1")),
    ]
}

fn usd_asked() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]{1,7}(\\.[0-9]{1,12})?$" })
}

fn of_ledger(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Ledger";
    let entries = types.list::<EntryView<'_>>();
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
        }),
        &[],
    );
    let mut node = Types::whole::<EntryView<'_>>();
    node["properties"]["depth"] = whole();
    node["properties"]["branch_cost_usd"] = usd();
    node["properties"]["branch_unknown_cost"] = whole();
    let session = object(
        json!({
            "object": { "const": "session" },
            "id": text(),
            "first_arrived": text(),
            "last_arrived": text(),
            "total": sums,
            "percentiles": percentiles,
            "requests": { "type": "array", "items": node },
            "older_left_out": {},
        }),
        &["first_arrived", "last_arrived"],
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
            json!({ "type": "string", "pattern": "^[a-z_]+(,[a-z_]+)*$" }),
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
            "Whether every request is read: exact percentiles, slower.",
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
                "What an agent's run cost, and the tree of its requests.",
            ),
            &["404"],
        )
        .answers("200", "The session.", &session),
    ]
}

fn of_organization() -> Vec<Operation> {
    const TAG: &str = "Organization";
    let maybe = || json!({ "type": ["string", "null"] });
    let seconds = |name, about: &str, required: bool| {
        let mut parameter = query(name, about, whole(), json!(1_700_000_000));
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
            }),
            &[],
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
    let amount =
        object(json!({ "value": { "type": "number" }, "currency": { "const": "usd" } }), &[]);
    let cost = object(
        json!({
            "object": { "const": "organization.costs.result" },
            "amount": amount,
            "line_item": maybe(),
            "project_id": maybe(),
        }),
        &[],
    );
    let times = || {
        [
            seconds("start_time", "From this second of the Unix epoch on.", true),
            seconds("end_time", "Until this one.", false),
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
