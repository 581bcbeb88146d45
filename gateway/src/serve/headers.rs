//! The headers an answer or a refusal carries, and the few a request is steered by.

use super::{Gateway, Life};
use crate::{
    admission::Rate,
    ledger::{BudgetPath, CacheUse, RequestId, TokenRate},
    listen::Peer,
    refusal::Refusal,
    timeline::Timeline,
};
use axum::{extract::State, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use policies::{Decision, Facts, LeaveOut, PicoUsd, Refuse, RefuseReason, RouteId, RuleName};
use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ROUTE: HeaderName = HeaderName::from_static("x-tollgate-route");
const RULE: HeaderName = HeaderName::from_static("x-tollgate-rule");
const POLICY: HeaderName = HeaderName::from_static("x-tollgate-policy");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-tollgate-attempts");
const CACHE: HeaderName = HeaderName::from_static("x-tollgate-cache");
const OUTPUT_CAP: HeaderName = HeaderName::from_static("x-tollgate-output-cap");
const COST: HeaderName = HeaderName::from_static("x-tollgate-cost-usd");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");

/// Headers of an answer, with room for those hyper adds.
const ANSWER_HEADERS: usize = 24;

/// What the headers of an answer tell.
pub(super) struct Told<'a> {
    /// The route that answers.
    pub(super) route: &'a RouteId,
    /// Attempts that were made for this request.
    pub(super) attempts: usize,
    /// The output cap that was sent.
    pub(super) output_cap: u64,
    /// The one that was asked for.
    pub(super) output_cap_asked: u64,
    /// How the cache was used.
    pub(super) cache: CacheUse,
    /// Whose limits it counts against.
    pub(super) path: &'a BudgetPath,
    /// The stages so far.
    pub(super) timeline: &'a Timeline,
}

/// The headers of an answer when its head leaves.
pub(super) fn answer(
    gateway: &Gateway,
    life: &Life,
    told: &Told<'_>,
    rate: Option<Rate>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(ANSWER_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, life.id_header.clone());
    set(&mut headers, ROUTE, told.route.as_str());
    headers.insert(ATTEMPTS, HeaderValue::from(told.attempts));
    if let Some(decision) = &life.decision {
        decided(&mut headers, decision);
    }
    headers.insert(CACHE, HeaderValue::from_static(cache_word(told.cache)));
    if told.output_cap < told.output_cap_asked {
        headers.insert(OUTPUT_CAP, HeaderValue::from(told.output_cap));
    }
    request_rates(&mut headers, rate);
    token_rates(&mut headers, gateway.books.token_rate(told.path));
    own(&mut headers, SERVER_TIMING, server_timing(told.timeline));
    headers
}

/// A stream's own headers.
pub(super) fn stream(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx buffers a proxied stream unless told not to.
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// An unstreamed answer's own headers. An unknown cost is absent, never 0.
pub(super) fn whole(headers: &mut HeaderMap, cost: Option<PicoUsd>) {
    if let Some(cost) = cost {
        own(headers, COST, cost.to_string());
    }
}

/// The headers of a refusal, as far as the request came.
pub(super) fn refusal(response: &mut Response, life: &Life, gateway: &Gateway) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, life.id_header.clone());
    if let Some(decision) = &life.decision {
        decided(headers, decision);
    }
    if let Some(caller) = &life.caller {
        request_rates(headers, gateway.admission.rate(caller));
        token_rates(headers, gateway.books.token_rate(&caller.path()));
    }
}

/// The status of a refusal: a spent budget is 429 or 402, as configured.
pub(super) fn status(gateway: &Gateway, refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Budget(_) => StatusCode::from_u16(gateway.config.ledger.budget_status)
            .unwrap_or_else(|_| refusal.status()),
        _ => refusal.status(),
    }
}

/// The policy rule behind a refusal.
pub(super) fn refusing_rule(refusal: &Refusal) -> Option<RuleName> {
    match refusal {
        Refusal::Policy { rule: Some(rule), .. } => Some(RuleName(rule.as_str().into())),
        _ => None,
    }
}

/// A policy's refusal in the caller's terms. Where every route is out of question for what the
/// request asks, that is the caller's 400 and names the parameter; otherwise the policy's own word.
pub(super) fn policy_refusal(refuse: Refuse, facts: &Facts) -> Refusal {
    use crate::wire::BadRequest;
    let all = |test: &dyn Fn(&LeaveOut) -> bool| {
        !refuse.left_out.is_empty() && refuse.left_out.iter().all(|left| test(&left.reason))
    };
    let unserved = |reason: &LeaveOut| {
        matches!(
            reason,
            LeaveOut::Context
                | LeaveOut::Capability(_)
                | LeaveOut::Guard(_)
                | LeaveOut::Pinned
                | LeaveOut::NotChosen
        )
    };
    if refuse.reason == RefuseReason::NoRoute && all(&unserved) {
        let lacking = refuse.left_out.iter().find_map(|left| match &left.reason {
            LeaveOut::Capability(what) => Some(what.clone()),
            _ => None,
        });
        if let Some(what) = lacking {
            return Refusal::Bad(BadRequest {
                param: Some(parameter(&what).to_owned()),
                message: format!("no route that may serve this request supports `{what}`"),
                code: "unsupported_parameter",
            });
        }
        if refuse.left_out.iter().any(|left| left.reason == LeaveOut::Context) {
            return Refusal::Bad(BadRequest {
                param: Some("messages".to_owned()),
                message: format!(
                    "the prompt (up to {} tokens) and an answer of up to {} tokens do not fit the \
                     context of any route that may serve this request",
                    facts.request.prompt_tokens.max, facts.request.max_output_tokens
                ),
                code: "context_length_exceeded",
            });
        }
    }
    if refuse.reason == RefuseReason::NoRoute
        && refuse.left_out.iter().any(|l| l.reason == LeaveOut::Unavailable)
    {
        return Refusal::RouteDown(refuse.message);
    }
    Refusal::Policy { message: refuse.message, rule: refuse.rule.map(|rule| rule.to_string()) }
}

/// The request's parameter that asks for a route's capability.
fn parameter(capability: &str) -> &str {
    match capability {
        "images" => "messages",
        "structured" => "response_format",
        same => same,
    }
}

/// Whether the caller wants the decision explained and nothing asked.
pub(super) fn asks_dry_run(headers: &HeaderMap) -> bool {
    headers
        .get("x-tollgate-dry-run")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| matches!(value.trim(), "1" | "true" | "yes"))
}

/// Refuses a body by its announced length, before a byte of it is read.
pub(super) fn refuse_long_body(headers: &HeaderMap, bytes_max: usize) -> Result<(), Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    match announced {
        Some(length) if length > bytes_max as u64 => Err(Refusal::TooLarge(bytes_max)),
        _ => Ok(()),
    }
}

/// A request's id as a header.
pub(super) fn of_id(id: RequestId) -> HeaderValue {
    // `req_` and hex digits always make a header.
    HeaderValue::try_from(id.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Gives every response that has none yet a request id.
pub(super) async fn request_id(
    State(gateway): State<Arc<Gateway>>,
    mut response: Response,
) -> Response {
    if !response.headers().contains_key(&REQUEST_ID) {
        own(response.headers_mut(), REQUEST_ID, gateway.books.request_id().to_string());
    }
    response
}

fn decided(headers: &mut HeaderMap, decision: &Decision) {
    set(headers, RULE, &decision.rule.0);
    let (name, version) = (&decision.policy.0, &decision.version.0);
    own(headers, POLICY, [name, "@", version].concat());
    headers.insert(CACHE, HeaderValue::from_static("BYPASS"));
}

/// OpenAI's three headers of the limit in requests per minute.
fn request_rates(headers: &mut HeaderMap, rate: Option<Rate>) {
    let Some(rate) = rate else { return };
    headers.insert("x-ratelimit-limit-requests", rate.limit.into());
    headers.insert("x-ratelimit-remaining-requests", rate.remaining.into());
    own(headers, RESET_REQUESTS, reset(rate.reset));
}

/// OpenAI's three headers of the limit in tokens per minute.
fn token_rates(headers: &mut HeaderMap, rate: Option<TokenRate>) {
    let Some(rate) = rate else { return };
    headers.insert("x-ratelimit-limit-tokens", rate.limit.into());
    headers.insert("x-ratelimit-remaining-tokens", rate.remaining.into());
    own(headers, RESET_TOKENS, reset(rate.reset));
}

/// How the cache was used, in a header's word.
const fn cache_word(cache: CacheUse) -> &'static str {
    match cache {
        CacheUse::Bypass => "BYPASS",
        CacheUse::Miss => "MISS",
        CacheUse::Hit => "HIT",
        CacheUse::Coalesced => "COALESCED",
    }
}

fn reset(after: Duration) -> String {
    format!("{}ms", after.as_millis())
}

/// The address a request came from; `None` where the router is called without a socket.
pub(super) fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0.ip())
}

/// The stages finished so far, in milliseconds.
fn server_timing(timeline: &Timeline) -> String {
    let mut text = String::with_capacity(128);
    for (name, micros) in timeline.stages().named() {
        if micros > 0 {
            text.push_str(if text.is_empty() { "" } else { ", " });
            text.push_str(name);
            text.push_str(";dur=");
            // Writing to a String cannot fail.
            let _ = write!(text, "{}.{:03}", micros / 1000, micros % 1000);
        }
    }
    text
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Like [`set`], without copying the value.
fn own(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
