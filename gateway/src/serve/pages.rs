//! The small pages: models, health, readiness, metrics, the OpenAPI document, and a decision
//! explained without asking.

use super::{Gateway, Planes};
use crate::{
    admin::times::rfc3339,
    ledger::{Condition, StoreState},
    refusal::Refusal,
    routes::Source,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use policies::{Facts, Policy, RouteState};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v1/models`: the policy's aliases, the routes' aliases, and the routes themselves for a key
/// that may pin them. In Anthropic's shape for its clients, who say which version they speak.
pub(super) async fn models(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let names = visible(&gateway, &request)?;
    let shape = shape(&request);
    let data: Vec<Value> = names.iter().map(|(id, owner)| shape(&gateway, id, owner)).collect();
    if !is_anthropics(&request) {
        return Ok(Json(json!({ "object": "list", "data": data })));
    }
    let id = |name: Option<&(String, String)>| name.map(|(id, _)| id.clone());
    let (first, last) = (id(names.first()), id(names.last()));
    Ok(Json(json!({ "data": data, "has_more": false, "first_id": first, "last_id": last })))
}

/// `GET /v1/models/{id}`.
pub(super) async fn model(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let names = visible(&gateway, &request)?;
    match names.iter().find(|(name, _)| *name == id) {
        Some((name, owner)) => Ok(Json(shape(&request)(&gateway, name, owner))),
        None => Err(Refusal::UnknownModel(id)),
    }
}

/// `GET /health`: the process answers. It looks at nothing that could make it wait.
pub(super) async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /ready`: whether requests can be served, and what stands in their way.
pub(super) async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let now_s = gateway.clock.unix_ms() / 1000;
    let routes: Vec<Value> = gateway.routes.iter().map(|route| route_state(route, now_s)).collect();
    let store = gateway.books.state();
    let takes_paid = store.condition.paid_work().is_ok();
    let usable = gateway.routes.iter().any(|route| {
        route.state() != RouteState::Unavailable
            && (takes_paid || !route.is_paid(now_s))
            && route.is_bounded(now_s)
    });
    let body = json!({
        "status": if usable { "ready" } else { "not_ready" },
        "policy": gateway.policy.current().name().to_string(),
        "policy_version": gateway.policy.current().version().to_string(),
        "store": store_state(&store, gateway.books.uncounted()),
        "routes": routes,
    });
    let status = if usable { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// `GET /openapi.json`: what this listener serves.
pub(super) async fn document(planes: Planes) -> Response {
    let mut response = Body::from(crate::openapi::served(planes)).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// `GET /metrics`: Prometheus text.
pub(super) async fn metrics(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Result<Response, Refusal> {
    crate::admin::authorize_metrics(&gateway, &request)?;
    let text = gateway.metrics.render(&gateway);
    Ok(([(header::CONTENT_TYPE, crate::telemetry::CONTENT_TYPE)], text).into_response())
}

/// The decision for a request that asked for `x-tollgate-dry-run`, explained; nothing is asked of
/// any route and nothing is charged.
pub(super) fn dry_run(policy: &Policy, facts: &Facts) -> Response {
    Json(json!({
        "object": "tollgate.decision",
        "policy": policy.name().to_string(),
        "policy_version": policy.version().to_string(),
        "trace": policies::explain(policy, facts),
    }))
    .into_response()
}

/// Names a caller may write as `model`, with who owns them.
fn visible(gateway: &Gateway, request: &Request) -> Result<Vec<(String, String)>, Refusal> {
    let peer = super::headers::peer(request.extensions());
    let caller = gateway.keys.authenticate(request.headers(), peer)?;
    let mut names: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, owner: &str| {
        if !names.iter().any(|(known, _)| known == name) {
            names.push((name.to_owned(), owner.to_owned()));
        }
    };
    for alias in &gateway.config.policy.aliases {
        add(alias, "tollgate");
    }
    for route in gateway.routes.iter() {
        for alias in &route.config.aliases {
            add(alias, route.provider());
        }
        if caller.record.may_pin {
            add(route.id().as_str(), route.provider());
        }
    }
    Ok(names)
}

/// Whether Anthropic's API is spoken: its version is required there, and unknown elsewhere.
fn is_anthropics(request: &Request) -> bool {
    request.headers().contains_key("anthropic-version")
}

/// How a model is written for who asks.
fn shape(request: &Request) -> fn(&Gateway, &str, &str) -> Value {
    if is_anthropics(request) { anthropics_model } else { model_object }
}

fn anthropics_model(gateway: &Gateway, id: &str, _owner: &str) -> Value {
    json!({
        "type": "model",
        "id": id,
        "display_name": id,
        "created_at": rfc3339(gateway.started_unix_ms),
    })
}

fn model_object(gateway: &Gateway, id: &str, owner: &str) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": gateway.started_unix_ms / 1000,
        "owned_by": owner,
    })
}

fn route_state(route: &crate::routes::Route, now_s: u64) -> Value {
    let mut state = json!({
        "id": route.id().as_str(),
        "kind": if route.is_local() { "local" } else { "cloud" },
        "model": route.model(),
        "state": route.shown_state(now_s),
        "queued": route.queued(),
        "in_flight": route.live.in_flight(),
        "breaker": route.breaker.report(),
    });
    if let Source::Local(local) = &route.source {
        state["engine"] = local.report();
    }
    state
}

fn store_state(state: &StoreState, uncounted_events: u64) -> Value {
    json!({
        "condition": condition(&state.condition),
        "queued": state.queued,
        "queue_max": state.queue_max,
        "last_commit_us": state.last_commit_us,
        "ahead_of_clock_ms": state.ahead_ms,
        "open_reservations": state.open_reservations,
        "lost_entries": state.lost_entries,
        "uncounted_events": uncounted_events,
    })
}

fn condition(condition: &Condition) -> Value {
    match condition {
        Condition::Healthy => json!({ "state": "healthy" }),
        Condition::LowSpace { free_bytes, low_water_bytes } => json!({
            "state": "low_space",
            "free_bytes": free_bytes,
            "low_water_bytes": low_water_bytes,
        }),
        Condition::Failed { reason } => json!({ "state": "failed", "reason": reason.as_ref() }),
        Condition::Closed => json!({ "state": "closed" }),
    }
}
