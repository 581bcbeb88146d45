//! `POST /v1/messages/count_tokens`: a prompt's tokens on the route that would answer it.
//!
//! Nothing is asked of a provider and nothing is charged. The model in this process counts exactly, also
//! what its context does not hold; for a provider's, and for what is too long to be read for a count, it
//! is the estimate that reservations are made with, and the answer says so.

use super::{
    Gateway, body,
    decided::decide,
    facts::{admitted, facts},
    headers, outside,
};
use crate::{
    refusal::Refusal,
    routes::{FaultKind, Source},
    wire::{ChatRequest, anthropic},
};
use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, header};
use policies::Decision;
use std::{sync::Arc, time::Duration};

/// Says whether a count is exact.
const COUNT: HeaderName = HeaderName::from_static("x-tollgate-count");

pub(super) async fn count_tokens(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
) -> Response {
    let id = gateway.books.request_id();
    let mut response = match count(&gateway, request).await {
        Ok((tokens, exact)) => {
            let mut response = Body::from(anthropic::counted(tokens)).into_response();
            let how = if exact { "exact" } else { "estimate" };
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(COUNT, HeaderValue::from_static(how));
            response
        }
        Err(refusal) => outside::in_anthropics_shape(&gateway, &refusal, &id.to_string()),
    };
    response.headers_mut().insert("x-request-id", headers::of_id(id));
    response
}

async fn count(gateway: &Gateway, request: Request) -> Result<(u64, bool), Refusal> {
    let (head, body) = request.into_parts();
    let caller = gateway.keys.authenticate(&head.headers, headers::peer(&head.extensions))?;
    let _permit = gateway.admission.admit(&caller)?;
    let (body, _room) = body::whole(gateway, body, &head.headers).await?;
    let request = anthropic::read_messages_to_count(body, &head.headers)?;
    let request = admitted(gateway, &caller, request);
    let facts = facts(gateway, &caller, &request)?;
    let decision = decide(&gateway.policy.current(), &facts)
        .map_err(|refuse| headers::policy_refusal(&gateway.routes, &refuse, &facts))?;
    match exact(gateway, &request, &decision).await? {
        Some(tokens) => Ok((tokens, true)),
        None => Ok((request.prompt_tokens_estimate, false)),
    }
}

/// The count of the first planned route, where that is the model in this process.
async fn exact(
    gateway: &Gateway,
    request: &ChatRequest,
    decision: &Decision,
) -> Result<Option<u64>, Refusal> {
    let Some(route) = decision.plan.routes().next().and_then(|id| gateway.routes.get(id)) else {
        return Ok(None);
    };
    let Source::Local(local) = &route.source else { return Ok(None) };
    local.count(request).await.map_err(|fault| match fault.kind {
        FaultKind::Unfit(bad) => Refusal::Bad(bad),
        FaultKind::Busy | FaultKind::Stopped => Refusal::Busy(Duration::from_secs(1)),
        kind => Refusal::RouteDown(format!("route `{}` failed: {kind}", route.id())),
    })
}
