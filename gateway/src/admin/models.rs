//! The models in this process: what they are, and loading, unloading and exchanging them while
//! requests are served. A model has the name of its route.
//!
//! **Invariant:** a file that cannot be loaded changes nothing: the model that answers stays.

use super::{
    Answer, answer, list,
    read::{Body, bad},
};
use crate::{
    refusal::Refusal,
    routes::{Route, Source, local::LocalRoute},
    serve::Gateway,
};
use axum::extract::{Path, State};
use local_engine::LoadError;
use policies::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// How long what runs on a model may go on after it has lost its name, unless the caller says.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// The longest that a caller may say.
const DRAIN_MAX_MS: u64 = 3_600_000;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DrainBody {
    /// Milliseconds that running answers may go on.
    drain_ms: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapBody {
    /// The GGUF file that takes the name, on the server's machine.
    file: PathBuf,
    #[serde(default)]
    drain_ms: Option<u64>,
}

/// GET /models: every local model, with what identifies its file.
pub(super) async fn list_all(State(gateway): State<Arc<Gateway>>) -> Answer {
    list(gateway.routes.iter().filter_map(|route| view(route)).collect())
}

/// GET /models/{name}.
pub(super) async fn show(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>) -> Answer {
    let route = find(&gateway, &name)?;
    answer(&view(&route))
}

/// POST /models/{name}/load: answers when it is loaded.
pub(super) async fn load(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    Body(DrainBody { .. }): Body<DrainBody>,
) -> Answer {
    let route = find(&gateway, &name)?;
    local(&route)?.model().load().await.map_err(|error| not_loaded(&error))?;
    answer(&view(&route))
}

/// POST /models/{name}/unload: no new request gets it; what runs may go on for `drain_ms`.
pub(super) async fn unload(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    Body(body): Body<DrainBody>,
) -> Answer {
    let route = find(&gateway, &name)?;
    let drain_max = drain(body.drain_ms)?;
    local(&route)?.model().unload(drain_max).await.map_err(|error| not_loaded(&error))?;
    answer(&view(&route))
}

/// POST /models/{name}/swap: loads another file beside the one that answers and gives it the name.
pub(super) async fn swap(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    Body(body): Body<SwapBody>,
) -> Answer {
    let route = find(&gateway, &name)?;
    let drain_max = drain(body.drain_ms)?;
    let swapped = local(&route)?.model().swap(body.file, drain_max).await;
    swapped.map_err(|error| not_loaded(&error))?;
    answer(&view(&route))
}

fn find(gateway: &Gateway, name: &str) -> Result<Arc<Route>, Refusal> {
    let route = gateway.routes.get(&RouteId::new(name)).filter(|route| route.is_local());
    route.cloned().ok_or_else(|| Refusal::NotFound(format!("there is no local model `{name}`")))
}

fn local(route: &Route) -> Result<&LocalRoute, Refusal> {
    match &route.source {
        Source::Local(local) => Ok(local),
        Source::Cloud(_) => Err(Refusal::NotFound("this route is not a local one".to_owned())),
    }
}

fn view(route: &Route) -> Option<Value> {
    let Source::Local(local) = &route.source else { return None };
    let mut view = local.report();
    view["id"] = json!(route.id());
    view["served_as"] = json!(route.model());
    view["route_state"] = json!(route.state());
    view["path"] = json!(local.model().file());
    Some(view)
}

fn drain(ms: Option<u64>) -> Result<Duration, Refusal> {
    match ms {
        None => Ok(DRAIN_MAX),
        Some(ms) if ms <= DRAIN_MAX_MS => Ok(Duration::from_millis(ms)),
        Some(_) => Err(bad(Some("drain_ms"), format!("drain_ms is at most {DRAIN_MAX_MS}"))),
    }
}

/// The operator asked, so the operator is told all of it.
fn not_loaded(error: &LoadError) -> Refusal {
    match error {
        LoadError::Unreadable { .. } | LoadError::Model { .. } | LoadError::Draft { .. } => {
            bad(Some("file"), error.to_string())
        }
        _ => Refusal::Conflict(error.to_string()),
    }
}
