//! Routes with their prices, and the models of local ones.

use super::{object, operation, text, usd, whole};
use crate::{
    admin::{models, rerate},
    openapi::{
        Operation, query,
        types::{Types, list_of},
    },
    providers::RateSeen,
};
use serde_json::{Map, Value, json};

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

pub(super) fn of_routes(types: &mut Types) -> Vec<Operation> {
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
            "state": { "enum": ["ready", "busy", "unavailable", "unpriced", "not_running"] },
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
    row.insert("snapshots".to_owned(), json!({ "type": "boolean" }));
    row.insert("holds_today".to_owned(), json!({ "type": "boolean" }));
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

pub(super) fn of_models(types: &mut Types) -> Vec<Operation> {
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
