//! `GET` and `DELETE /v1/responses/{id}` and its `input_items`: an answer that was kept, for the key
//! that asked for it.

use super::{Gateway, headers};
use crate::{
    ledger::KeyId,
    refusal::Refusal,
    wire::{BadRequest, InputPage, Kept},
};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

pub(super) async fn show(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (kept, owner) = kept(&gateway, &request)?;
    refuse_stream(&request)?;
    let response = kept.and_then(|kept| kept.response(&id, &owner)).ok_or_else(|| absent(&id))?;
    let mut response = Body::from(response).into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

pub(super) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let (kept, owner) = kept(&gateway, &request)?;
    if kept.is_some_and(|kept| kept.delete(&id, &owner)) {
        return Ok(Json(json!({ "id": id, "object": "response", "deleted": true })));
    }
    Err(absent(&id))
}

/// A page of what the answer was given: `order`, `limit` and `after`, as OpenAI has them.
pub(super) async fn input_items(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Box<RawValue>>, Refusal> {
    let (kept, owner) = kept(&gateway, &request)?;
    let items = kept.and_then(|kept| kept.input_items(&id, &owner)).ok_or_else(|| absent(&id))?;
    let page = InputPage::read(&pairs(&request))?;
    Ok(Json(page.of(items)))
}

/// Refuses an answer as a stream: its events are not kept.
fn refuse_stream(request: &Request) -> Result<(), Refusal> {
    let asked = pairs(request);
    let streamed = asked.iter().any(|(name, value)| name == "stream" && value != "false");
    if !streamed {
        return Ok(());
    }
    let message = "`stream`: an answer that was kept is given whole";
    Err(BadRequest::unsupported("stream", message).into())
}

/// The pairs of the query string.
fn pairs(request: &Request) -> Vec<(String, String)> {
    let asked = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    asked.map(|Query(asked)| asked).unwrap_or_default()
}

/// The answers that are kept, and whose may be seen.
fn kept<'g>(
    gateway: &'g Gateway,
    request: &Request,
) -> Result<(Option<&'g Arc<Kept>>, KeyId), Refusal> {
    let peer = headers::peer(request.extensions());
    let caller = gateway.keys.authenticate(request.headers(), peer)?;
    Ok((gateway.kept.as_ref(), caller.record.id.clone()))
}

fn absent(id: &str) -> Refusal {
    Refusal::NotFound(format!("no answer `{id}` is kept"))
}
