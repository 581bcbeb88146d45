//! The headers an answer or a refusal carries, and the few a request is steered by.

use super::{Gateway, Life};
use crate::{
    admission::Rate,
    ledger::{BudgetPath, CacheUse, RequestId, TokenRate},
    listen::Peer,
    refusal::Refusal,
    routes::Routes,
    timeline::Timeline,
    wire::{BadRequest, header_once},
};
use axum::response::Response;
use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use policies::{
    Decision, Facts, LeaveOut, PicoUsd, PolicyName, PolicyVersion, Refuse, RefuseReason, RouteId,
    RuleName,
};
use std::{net::IpAddr, time::Duration};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same in Anthropic's API, whose SDKs read no other.
const ANTHROPICS_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const ROUTE: HeaderName = HeaderName::from_static("x-tollgate-route");
const RULE: HeaderName = HeaderName::from_static("x-tollgate-rule");
const POLICY: HeaderName = HeaderName::from_static("x-tollgate-policy");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-tollgate-attempts");
const CACHE: HeaderName = HeaderName::from_static("x-tollgate-cache");
const OUTPUT_CAP: HeaderName = HeaderName::from_static("x-tollgate-output-cap");
const COST: HeaderName = HeaderName::from_static("x-tollgate-cost-usd");
/// Stripe's name for an answer, or an error, that is given again.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// OpenAI's limit, remaining and reset, of requests and of tokens.
const REQUEST_RATES: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKEN_RATES: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Headers of an answer, with room for those hyper adds.
const ANSWER_HEADERS: usize = 24;
/// Bytes of all their values.
const ANSWER_BYTES: usize = 320;

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
    let mut written = Written::into(&mut headers);
    written.text(ROUTE, told.route.as_str());
    written.number(ATTEMPTS, told.attempts as u64);
    if let Some(decision) = &life.decision {
        written.decision(decision);
    }
    if told.output_cap < told.output_cap_asked {
        written.number(OUTPUT_CAP, told.output_cap);
    }
    written.request_rates(rate);
    written.token_rates(gateway.books.token_rate(told.path));
    written.with(SERVER_TIMING, |out| server_timing(told.timeline, out));
    headers.insert(CACHE, HeaderValue::from_static(cache_word(told.cache)));
    headers
}

/// The headers of a head that leaves before there is an answer.
pub(super) fn early(life: &Life) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(ANSWER_HEADERS);
    headers.insert(REQUEST_ID, life.id_header.clone());
    if let Some(decision) = &life.decision {
        Written::into(&mut headers).decision(decision);
    }
    headers
}

/// A stream's own headers.
pub(super) fn stream(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx buffers a proxied stream unless told not to.
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// What an unstreamed answer, or a refusal, cost. An unknown cost is absent, never 0.
pub(super) fn whole(headers: &mut HeaderMap, cost: Option<PicoUsd>) {
    if let Some(Ok(cost)) = cost.map(|cost| HeaderValue::try_from(cost.to_string())) {
        headers.insert(COST, cost);
    }
}

/// The headers of a refusal, as far as the request came.
pub(super) fn refusal(response: &mut Response, life: &Life, gateway: &Gateway) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, life.id_header.clone());
    let mut written = Written::into(headers);
    if let Some(decision) = &life.decision {
        written.decision(decision);
    }
    if let Some(Refuse { rule, policy, version, .. }) = life.refused.as_deref() {
        written.decided(rule.as_ref(), policy, version);
    }
    if let Some(caller) = &life.caller {
        let model = life.model.as_deref();
        written.request_rates(gateway.admission.rate(caller, model));
        let path = gateway.books.path(&caller.payer(), model.unwrap_or_default());
        written.token_rates(gateway.books.token_rate(&path));
    }
    // As of an answer: an unknown cost is absent, never 0.
    whole(headers, life.cost);
    if life.repeats {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if life.decision.is_some() {
        headers.insert(CACHE, HeaderValue::from_static(cache_word(CacheUse::Bypass)));
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

/// A policy's refusal in the caller's terms. Where every route is out of question for what the
/// request asks, that is the caller's 400 and names the parameter; otherwise the policy's own word.
pub(super) fn policy_refusal(routes: &Routes, refuse: &Refuse, facts: &Facts) -> Refusal {
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
            return Refusal::Bad(too_long(refuse, facts));
        }
    }
    let down = || refuse.left_out.iter().filter(|left| left.reason == LeaveOut::Unavailable);
    if refuse.reason == RefuseReason::NoRoute && down().next().is_some() {
        let resting = down().filter_map(|left| routes.get(&left.route)?.breaker.resting());
        return match resting.min() {
            Some(soonest) => Refusal::Resting(soonest),
            None => Refusal::RouteDown(refuse.message.clone(), None),
        };
    }
    Refusal::Policy(refuse.message.clone())
}

/// No context holds the prompt and the answer: in the words by which clients know it.
fn too_long(refuse: &Refuse, facts: &Facts) -> BadRequest {
    let is_short = |id: &RouteId| {
        refuse.left_out.iter().any(|left| left.route == *id && left.reason == LeaveOut::Context)
    };
    let contexts = facts.routes.iter().filter(|route| is_short(&route.id));
    let longest = contexts.filter_map(|route| route.context_tokens).max().unwrap_or(0);
    BadRequest {
        param: Some("messages".to_owned()),
        message: format!(
            "this model's maximum context length is {longest} tokens; a prompt of at least {} \
             tokens and an answer of up to {} do not fit",
            facts.request.prompt_tokens.min, facts.request.max_output_tokens
        ),
        code: "context_length_exceeded",
    }
}

/// The request's parameter that asks for a route's capability.
fn parameter(capability: &str) -> &str {
    match capability {
        "images" => "messages",
        "structured" => "response_format",
        same => same,
    }
}

/// Whether the caller wants the decision explained and nothing asked. A value that is not known is
/// refused: taken for a no, it would cost.
pub(super) fn asks_dry_run(headers: &HeaderMap) -> Result<bool, Refusal> {
    static NAME: HeaderName = HeaderName::from_static("x-tollgate-dry-run");
    match header_once(headers, &NAME)?.map(HeaderValue::as_bytes) {
        None | Some(b"" | b"0" | b"false" | b"no") => Ok(false),
        Some(b"1" | b"true" | b"yes") => Ok(true),
        Some(_) => Err(Refusal::Bad(BadRequest {
            param: Some(NAME.to_string()),
            message: format!("`{NAME}` must be 1 or 0"),
            code: "invalid_value",
        })),
    }
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
    HeaderValue::from_bytes(&id.text()).unwrap_or(HeaderValue::from_static(""))
}

/// Gives a response that has none yet a request id.
pub(super) fn request_id(gateway: &Gateway, response: &mut Response) {
    if !response.headers().contains_key(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, of_id(gateway.books.request_id()));
    }
}

/// Gives a response its request id under Anthropic's name too.
pub(super) fn anthropics_request_id(response: &mut Response) {
    if let Some(id) = response.headers().get(&REQUEST_ID).cloned() {
        response.headers_mut().insert(ANTHROPICS_REQUEST_ID, id);
    }
}

/// Writes headers whose values share one buffer: a dozen values, one allocation.
struct Written<'a> {
    headers: &'a mut HeaderMap,
    values: BytesMut,
}

impl<'a> Written<'a> {
    fn into(headers: &'a mut HeaderMap) -> Self {
        Self { headers, values: BytesMut::with_capacity(ANSWER_BYTES) }
    }

    /// A header with the value that `write` puts down; none where no header may hold that.
    fn with(&mut self, name: HeaderName, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.values);
        if let Ok(value) = HeaderValue::from_maybe_shared(self.values.split().freeze()) {
            self.headers.insert(name, value);
        }
    }

    fn text(&mut self, name: HeaderName, value: &str) {
        self.with(name, |out| out.put_slice(value.as_bytes()));
    }

    fn number(&mut self, name: HeaderName, value: u64) {
        self.with(name, |out| decimal(out, value, 1));
    }

    fn decision(&mut self, decision: &Decision) {
        self.decided(Some(&decision.rule), &decision.policy, &decision.version);
    }

    /// The rule that chose or refused, where one did, and its policy.
    fn decided(&mut self, rule: Option<&RuleName>, policy: &PolicyName, version: &PolicyVersion) {
        if let Some(rule) = rule {
            self.with(RULE, |out| plain(&rule.0, out));
        }
        self.with(POLICY, |out| {
            plain(&policy.0, out);
            out.put_u8(b'@');
            out.put_slice(version.0.as_bytes());
        });
    }

    fn request_rates(&mut self, rate: Option<Rate>) {
        let Some(rate) = rate else { return };
        self.rates(REQUEST_RATES, (rate.limit, rate.remaining, rate.reset));
    }

    fn token_rates(&mut self, rate: Option<TokenRate>) {
        let Some(rate) = rate else { return };
        self.rates(TOKEN_RATES, (rate.limit, rate.remaining, rate.reset));
    }

    fn rates(&mut self, names: [HeaderName; 3], told: (u64, u64, Duration)) {
        let ([limit, remaining, reset], told) = (names, told);
        self.number(limit, told.0);
        self.number(remaining, told.1);
        self.with(reset, |out| {
            decimal(out, u64::try_from(told.2.as_millis()).unwrap_or(u64::MAX), 1);
            out.put_slice(b"ms");
        });
    }
}

/// An operator's name as a header can hold it: what is not printable ASCII as `%` and two hex digits.
fn plain(name: &str, out: &mut BytesMut) {
    for byte in name.bytes() {
        if matches!(byte, b' '..=b'~') {
            out.put_u8(byte);
        } else {
            let hex = |half: u8| b"0123456789ABCDEF"[usize::from(half & 15)];
            out.put_slice(&[b'%', hex(byte >> 4), hex(byte)]);
        }
    }
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

/// The address a request came from; `None` where the router is called without a socket.
pub(super) fn peer(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0.ip())
}

/// The stages finished so far, in milliseconds.
fn server_timing(timeline: &Timeline, out: &mut BytesMut) {
    for (name, micros) in timeline.stages().named() {
        if micros > 0 {
            out.put_slice(if out.is_empty() { b"" } else { b", " });
            out.put_slice(name.as_bytes());
            out.put_slice(b";dur=");
            decimal(out, micros / 1000, 1);
            out.put_u8(b'.');
            decimal(out, micros % 1000, 3);
        }
    }
}

/// Appends a number of at least `places` digits. By hand: every answer's headers hold a dozen, and the
/// formatter's way costs several times as much.
fn decimal(out: &mut BytesMut, mut number: u64, places: usize) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    while number > 0 || digits.len() - from < places {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.put_slice(&digits[from..]);
}

#[cfg(test)]
mod tests {
    use super::{BytesMut, decimal, plain};

    #[test]
    fn a_name_that_no_header_can_hold_is_escaped() {
        let written = |name| {
            let mut out = BytesMut::new();
            plain(name, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(written("edge first, then ~"), "edge first, then ~");
        assert_eq!(written("für\nalle"), "f%C3%BCr%0Aalle");
    }

    #[test]
    fn numbers_are_written_digit_by_digit() {
        let written = |number, places| {
            let mut out = BytesMut::new();
            decimal(&mut out, number, places);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let all = [(0, 1), (7, 3), (1000, 1), (u64::MAX, 1)].map(|(n, places)| written(n, places));
        assert_eq!(all, ["0", "007", "1000", "18446744073709551615"]);
    }
}
