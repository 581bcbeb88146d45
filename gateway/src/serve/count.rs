//! `POST /v1/messages/count_tokens`: a prompt's tokens on the route that would answer it.
//!
//! Nothing is asked of a provider and nothing is charged. The model in this process counts exactly, also
//! what its context does not hold; for a provider's, and for what is too long to be read for a count, it
//! is the estimate that reservations are made with, and the answer says so.

use super::{
    Gateway, Life, body,
    decided::decide,
    facts::{admitted, facts},
    headers,
};
use crate::{
    ledger::{Endpoint, KeyId},
    refusal::Refusal,
    routes::{FaultKind, Source},
    wire::{BadRequest, ChatRequest, anthropic},
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
    // No route is asked, so the ledger has nothing to say of it, nor of its refusal.
    let mut life = Life { recorded: true, ..Life::begun(&gateway, Endpoint::Messages) };
    match count(&gateway, &mut life, request).await {
        Ok((tokens, exact)) => {
            let mut response = Body::from(anthropic::counted(tokens)).into_response();
            let how = if exact { "exact" } else { "estimate" };
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(COUNT, HeaderValue::from_static(how));
            headers.insert("x-request-id", life.id_header);
            response
        }
        Err(refusal) => life.refuse(&gateway, refusal),
    }
}

async fn count(
    gateway: &Gateway,
    life: &mut Life,
    request: Request,
) -> Result<(u64, bool), Refusal> {
    let (head, body) = request.into_parts();
    let caller = gateway.keys.authenticate(&head.headers, headers::peer(&head.extensions))?;
    life.caller = Some(Arc::clone(&caller));
    if headers::asks_dry_run(&head.headers)? {
        let message = "a count asks no route: there is nothing to explain";
        return Err(BadRequest::unsupported("x-tollgate-dry-run", message).into());
    }
    let _permit = gateway.admission.admit(&caller)?;
    let (body, room) = body::whole(gateway, &caller, body, &head.headers).await?;
    let (request, _room) = if body::is_long(&body) {
        let headers = head.headers;
        let read = move || anthropic::read_messages_to_count(body, &headers);
        body::read_apart(gateway, &caller, room, read).await?
    } else {
        (anthropic::read_messages_to_count(body, &head.headers)?, room)
    };
    let request = admitted(gateway, &caller, request);
    let mut facts = facts(gateway, &caller, &request)?;
    // No context has to hold what is only counted.
    facts.request.prompt_tokens.min = 0;
    let decision = decide(&gateway.policy.current(), &facts).map_err(|refuse| {
        let refusal = headers::policy_refusal(&gateway.routes, &refuse, &facts);
        life.refused = Some(refuse);
        refusal.named_for(life.endpoint)
    })?;
    life.decision = Some(Arc::clone(&decision));
    let counted = exact(gateway, caller.id(), &request, &decision).await;
    match counted.map_err(|refusal| refusal.named_for(life.endpoint))? {
        Some(tokens) => Ok((tokens, true)),
        None => Ok((request.prompt_tokens_estimate, false)),
    }
}

/// The count of the first planned route, where that is the model in this process.
async fn exact(
    gateway: &Gateway,
    key: &KeyId,
    request: &ChatRequest,
    decision: &Decision,
) -> Result<Option<u64>, Refusal> {
    let Some(route) = decision.plan.routes().next().and_then(|id| gateway.routes.get(id)) else {
        return Ok(None);
    };
    let Source::Local(local) = &route.source else { return Ok(None) };
    local.count(Some(key), request).await.map_err(|fault| match fault.kind {
        FaultKind::Unfit(bad) => Refusal::Bad(bad),
        FaultKind::Busy | FaultKind::Unloaded => Refusal::Busy(Duration::from_secs(1)),
        kind => Refusal::RouteDown(format!("route `{}` failed: {kind}", route.id()), None),
    })
}
