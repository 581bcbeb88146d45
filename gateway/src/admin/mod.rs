//! REST under /admin/v1: keys, budgets, policies, routes, prices, the ledger. The command line
//! speaks to the same router.
//!
//! **Invariants:** nothing answers without the admin key; a parameter nobody knows is refused, not
//! ignored; queries that read the disk run outside the async threads, a bounded number at a time;
//! money is a decimal string, a time is RFC 3339 with its `_unix_ms` beside it, and what is unknown
//! is absent.

mod asked;
mod budgets;
mod engine_view;
mod export;
mod focus;
mod groups;
mod guard;
mod keys;
pub(crate) mod ledger;
mod ledger_views;
mod limits;
mod models;
mod organization;
mod policies;
mod read;
mod state;
#[cfg(test)]
mod tests;
mod times;

pub(crate) use export::write_days;
use groups::Kind;
pub(crate) use state::price_rows;

use crate::{
    ledger::{BooksError, Lost},
    listen::Peer,
    refusal::Refusal,
    serve::Gateway,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, patch, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// The largest body, in bytes: a policy to be validated is at most half of it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Queries that may read the ledger at a time.
static QUERIES: Semaphore = Semaphore::const_new(4);
/// Longest wait for a place among them.
const QUERY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The admin plane. Every path of it wants the admin key, those that do not exist too.
pub fn router(gateway: Arc<Gateway>) -> Router<Arc<Gateway>> {
    let reads = |methods| only(methods, "GET, HEAD");
    Router::new()
        .route("/keys", only(get(keys::list).post(keys::create), "GET, HEAD, POST"))
        .route("/keys/rotate-admin", only(post(keys::rotate_admin), "POST"))
        .route(
            "/keys/{id}",
            only(
                patch(keys::change).get(keys::show).delete(keys::revoke),
                "GET, HEAD, PATCH, DELETE",
            ),
        )
        .route("/guard", reads(get(guard::show)))
        .route("/guard/{subject}", only(axum::routing::delete(guard::lift), "DELETE"))
        .nest("/teams", groups::router(Kind::Team))
        .nest("/users", groups::router(Kind::User))
        .nest("/tags", groups::router(Kind::Tag))
        .route("/budgets", only(get(budgets::list).post(budgets::create), "GET, HEAD, POST"))
        .route(
            "/budgets/{*id}",
            only(
                patch(budgets::change).get(budgets::show).delete(budgets::remove),
                "GET, HEAD, PATCH, DELETE",
            ),
        )
        .route("/reservations", reads(get(state::reservations)))
        .route("/refusals", reads(get(state::refusals)))
        .route("/routes", reads(get(state::routes)))
        .route("/models", reads(get(models::list_all)))
        .route("/models/{name}", reads(get(models::show)))
        .route("/models/{name}/load", only(post(models::load), "POST"))
        .route("/models/{name}/unload", only(post(models::unload), "POST"))
        .route("/models/{name}/swap", only(post(models::swap), "POST"))
        .route("/prices", reads(get(state::prices)))
        .route("/policies", reads(get(policies::current)))
        .route("/policies/validate", only(post(policies::validate), "POST"))
        .route("/policies/reload", only(post(policies::reload), "POST"))
        .route("/policies/history", reads(get(policies::history)))
        .route("/policies/history/{version}", reads(get(policies::version)))
        .merge(ledger::router(ledger_of(&gateway)))
        .fallback(
            |request: Request| async move { Refusal::NoSuchPath(request.uri().path().to_owned()) },
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(gateway, authorize))
}

/// Any other method is refused, and told which there are.
fn only<S: Clone + Send + Sync + 'static>(
    methods: MethodRouter<S>,
    names: &'static str,
) -> MethodRouter<S> {
    methods.fallback(move || async move { Refusal::WrongMethod(names) })
}

/// OpenAI's pages of usage and costs, under /v1/organization: they too want the admin key.
pub fn organization(gateway: Arc<Gateway>) -> Router<Arc<Gateway>> {
    organization::router(ledger_of(&gateway)).layer(from_fn_with_state(gateway, authorize))
}

fn ledger_of(gateway: &Gateway) -> Arc<ledger::Ledger> {
    Arc::new(ledger::Ledger {
        source: ledger::Source::Live(gateway.books.clone()),
        clock: gateway.clock.clone(),
        zone: gateway.config.time_zone.clone(),
    })
}

async fn authorize(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match gateway.keys.authenticate_admin(request.headers(), peer) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Whether these headers may read the metrics: the admin key, unless the configuration opens them.
///
/// # Errors
/// As [`crate::caller::Keys::authenticate_admin`].
pub fn authorize_metrics(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Refusal> {
    if gateway.config.metrics_public {
        return Ok(());
    }
    gateway.keys.authenticate_admin(headers, None)
}

/// What every handler answers with.
type Answer = Result<Response, Refusal>;

/// A JSON answer, without what is unknown.
fn answer(value: &impl Serialize) -> Answer {
    answer_with(StatusCode::OK, value)
}

fn answer_with(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut value = serde_json::to_value(value)
        .map_err(|error| Refusal::Ledger(format!("an answer cannot be written: {error}")))?;
    drop_nulls(&mut value);
    let mut response = Response::new(value.to_string().into());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// A list, as every list here looks.
#[derive(Debug, Serialize)]
struct List<T> {
    object: &'static str,
    data: Vec<T>,
    next_cursor: Option<String>,
    /// Events that cannot be read and may be some of those asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<Lost>,
}

fn list<T: Serialize>(data: Vec<T>) -> Answer {
    answer(&List { object: "list", data, next_cursor: None, lost: Vec::new() })
}

/// Unknown is absent.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Reads the disk outside the async threads, a bounded number at a time.
async fn reading<T: Send + 'static>(
    gateway: &Arc<Gateway>,
    query: impl FnOnce(&Gateway) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let gateway = Arc::clone(gateway);
    blocking(move || query(&gateway)).await
}

/// The same, without the gateway.
async fn blocking<T: Send + 'static>(
    query: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let place = tokio::time::timeout(QUERY_WAIT_MAX, QUERIES.acquire()).await;
    let Ok(Ok(_place)) = place else { return Err(Refusal::Busy(QUERY_WAIT_MAX)) };
    tokio::task::spawn_blocking(query)
        .await
        .map_err(|died| Refusal::Ledger(format!("the query died: {died}")))
}

/// A ledger that cannot answer.
#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn unreadable(error: BooksError) -> Refusal {
    Refusal::Ledger(error.to_string())
}
