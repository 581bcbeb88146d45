//! REST under /admin/v1: keys, budgets, policies, routes, prices, the ledger. The command line
//! speaks to the same router.
//!
//! **Invariants:** nothing answers without the admin key; a parameter nobody knows is refused, not
//! ignored; queries that read the disk run outside the async threads, a bounded number at a time;
//! money is a decimal string, a time is RFC 3339 with its `_unix_ms` beside it, and what is unknown
//! is absent.

mod asked;
mod budgets;
mod change;
mod corrections;
mod described;
mod engine_view;
mod events;
mod export;
mod focus;
mod groups;
mod guard;
mod idle;
mod keys;
pub(crate) mod ledger;
mod ledger_views;
mod limits;
mod model_limits;
mod models;
pub(crate) mod organization;
mod policies;
mod read;
mod replay;
mod rerate;
mod state;
#[cfg(test)]
mod tests;
pub(crate) mod times;

pub(crate) use described::operations;
pub(crate) use export::write_days;
use groups::Kind;
use read::bad;
pub(crate) use state::price_rows;

use crate::{
    ledger::{BooksError, Lost},
    listen::Peer,
    paths::{Listed, Paths},
    refusal::Refusal,
    serve::Gateway,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Methods of a path that is only read.
const READS: &str = "GET, HEAD";
/// The largest body, in bytes: a policy to be validated is at most half of it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Queries that may read the ledger at a time.
static QUERIES: Semaphore = Semaphore::const_new(4);
/// Exports that may be written at a time: one lasts as long as its reader does.
static EXPORTS: Semaphore = Semaphore::const_new(4);
/// Longest wait for a place among them.
const QUERY_WAIT_MAX: Duration = Duration::from_secs(10);

/// The admin plane. Every path of it wants the admin key, those that do not exist too.
pub fn router(gateway: Arc<Gateway>) -> Router<Arc<Gateway>> {
    let ledger = ledger::paths().with_state(ledger_of(&gateway));
    paths()
        .and(ledger)
        .router()
        .fallback(
            |request: Request| async move { Refusal::NoSuchPath(request.uri().path().to_owned()) },
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(gateway, authorize))
}

/// The paths of [`router`].
pub(crate) fn listed() -> Vec<Listed> {
    let mut listed = paths().listed();
    listed.extend(ledger::paths().listed());
    listed
}

/// All but the ledger's.
fn paths() -> Paths<Arc<Gateway>> {
    Paths::new()
        .at("/events", READS, get(events::list))
        .at("/budgets", "GET, HEAD, POST", get(budgets::list).post(budgets::create))
        .at("/idle", READS, get(idle::show))
        .at("/prices", READS, get(state::prices))
        .and(without_params().unless(read::no_params))
}

/// Those of which nothing is asked but what they are.
fn without_params() -> Paths<Arc<Gateway>> {
    const ONE: &str = "GET, HEAD, PATCH, DELETE";
    Paths::new()
        .at("/keys", "GET, HEAD, POST", get(keys::list).post(keys::create))
        .at("/keys/rotate-admin", "POST", post(keys::rotate_admin))
        .at("/keys/{id}", ONE, patch(keys::change).get(keys::show).delete(keys::revoke))
        .at("/webhooks", READS, get(events::webhooks))
        .at("/guard", READS, get(guard::show))
        .at("/guard/{subject}", "DELETE", delete(guard::lift))
        .below("/teams", groups::paths(Kind::Team))
        .below("/users", groups::paths(Kind::User))
        .below("/tags", groups::paths(Kind::Tag))
        .at(
            "/budgets/{*id}",
            ONE,
            patch(budgets::change).get(budgets::show).delete(budgets::remove),
        )
        .at("/corrections", "POST", post(corrections::create))
        .at("/limits", READS, get(model_limits::list))
        .at("/reservations", READS, get(state::reservations))
        .at("/refusals", READS, get(state::refusals))
        .at("/routes", READS, get(state::routes))
        .at("/models", READS, get(models::list_all))
        .at("/models/{name}", READS, get(models::show))
        .at("/models/{name}/load", "POST", post(models::load))
        .at("/models/{name}/unload", "POST", post(models::unload))
        .at("/models/{name}/swap", "POST", post(models::swap))
        .at("/prices/rerate", "POST", post(rerate::rerate))
        .at("/policies", READS, get(policies::current))
        .at("/policies/validate", "POST", post(policies::validate))
        .at("/policies/replay", "POST", post(replay::replay))
        .at("/policies/reload", "POST", post(policies::reload))
        .at("/policies/history", READS, get(policies::history))
        .at("/policies/history/{version}", READS, get(policies::version))
}

/// OpenAI's pages of usage and costs, under /v1/organization: they too want the admin key.
pub fn organization(gateway: Arc<Gateway>) -> Router<Arc<Gateway>> {
    let pages = organization::paths().with_state(ledger_of(&gateway));
    pages.router().layer(from_fn_with_state(gateway, authorize))
}

/// The paths of [`organization()`].
pub(crate) fn organization_listed() -> Vec<Listed> {
    organization::paths().listed()
}

fn ledger_of(gateway: &Gateway) -> Arc<ledger::Ledger> {
    Arc::new(ledger::Ledger {
        source: ledger::Source::Live(gateway.books.clone()),
        clock: gateway.clock.clone(),
        zone: gateway.config.time_zone.clone(),
    })
}

async fn authorize(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    match authenticate(&gateway, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn authenticate(gateway: &Gateway, request: &Request) -> Result<(), Refusal> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    gateway.keys.authenticate_admin(request.headers(), peer)
}

/// Whether a request may read the metrics: with the admin key, unless the configuration opens them.
///
/// # Errors
/// As [`crate::caller::Keys::authenticate_admin`].
pub fn authorize_metrics(gateway: &Gateway, request: &Request) -> Result<(), Refusal> {
    if gateway.config.metrics_public {
        return Ok(());
    }
    authenticate(gateway, request)
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
    /// Since when entries are kept, where older ones were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_before: Option<String>,
}

fn list<T: Serialize>(data: Vec<T>) -> Answer {
    answer(&List {
        object: "list",
        data,
        next_cursor: None,
        lost: Vec::new(),
        dropped_before: None,
    })
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
    let place = place(&QUERIES).await?;
    let query = move || {
        // A caller that leaves ends no query: the place is free once it has ended.
        let _place = place;
        query()
    };
    tokio::task::spawn_blocking(query)
        .await
        .map_err(|died| Refusal::Ledger(format!("the query died: {died}")))
}

/// A place among those who read the ledger.
async fn place(places: &'static Semaphore) -> Result<SemaphorePermit<'static>, Refusal> {
    match tokio::time::timeout(QUERY_WAIT_MAX, places.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(Refusal::Busy(QUERY_WAIT_MAX)),
    }
}

/// A ledger that cannot answer.
fn unreadable(error: BooksError) -> Refusal {
    match error {
        BooksError::TooManyValues(most) => bad(
            Some("exact"),
            format!(
                "`exact`: more than {most} values would be held, three of each request and three \
                 more in each of its groups: ask for less time or fewer groups, or without `exact` \
                 for percentiles within 1 %"
            ),
        ),
        BooksError::TooManyRequests(_) => bad(Some("since"), error.to_string()),
        error => Refusal::Ledger(error.to_string()),
    }
}
