//! What every response of the data plane has in common: the shape of its errors, and what a browser's
//! page of another origin may see of it (CORS).
//!
//! **Invariant:** a preflight needs no key and tells nothing but what is configured; `Authorization` is
//! always named, because `*` does not cover it; the admin plane is open to no other origin.

use super::{Gateway, headers};
use crate::{refusal::Refusal, wire::anthropic};
use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::future::Future;

const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";
/// Headers a page may send where its preflight names none.
const REQUEST_HEADERS: &str = "authorization, content-type, x-api-key, anthropic-version, \
    anthropic-beta, openai-organization, openai-project, idempotency-key, traceparent, \
    x-session-id, x-litellm-session-id, x-stainless-arch, x-stainless-lang, x-stainless-os, \
    x-stainless-package-version, \
    x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, \
    x-stainless-timeout, x-tollgate-tags, x-tollgate-max-cost-usd, x-tollgate-deadline-ms, \
    x-tollgate-cache, x-tollgate-parent, x-tollgate-step, x-tollgate-dry-run";
/// Headers a page may read.
const RESPONSE_HEADERS: &str = "x-request-id, request-id, retry-after, retry-after-ms, \
    x-should-retry, \
    x-tollgate-route, x-tollgate-rule, x-tollgate-policy, x-tollgate-attempts, x-tollgate-cache, \
    x-tollgate-output-cap, x-tollgate-cost-usd, x-tollgate-count, idempotent-replayed, \
    x-ratelimit-limit-requests, \
    x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
    x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, server-timing";
/// How long a browser may keep a preflight's answer, in seconds.
const MAX_AGE: &str = "600";
/// Longest list of headers that a preflight is answered with as it asked, in bytes.
const ASKED_BYTES_MAX: usize = 2048;

/// Answers preflights, and finishes every other response.
pub(super) async fn finish<F>(
    gateway: &Gateway,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let path = request.uri().path();
    let is_text = is_text(path);
    if !path.starts_with("/v1/") || path.starts_with("/v1/organization") {
        let mut response = if is_text { next(request).await } else { unreadable(path) };
        headers::request_id(gateway, &mut response);
        return response;
    }
    let is_anthropics = path == "/v1/messages" || path.starts_with("/v1/messages/");
    let allowed = allowed(&gateway.config.cors_origins, request.headers());
    let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (is_text, is_preflight) {
        (false, _) => unreadable(request.uri().path()),
        (true, true) => preflight(allowed.is_some(), asked),
        (true, false) => next(request).await,
    };
    headers::request_id(gateway, &mut response);
    if is_anthropics {
        headers::anthropics_request_id(&mut response);
        response = translated(response).await;
    }
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let readable = HeaderValue::from_static(RESPONSE_HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, readable);
    }
    response
}

/// A path that is no text leads nowhere.
fn unreadable(path: &str) -> Response {
    Refusal::NoSuchPath(path.to_owned()).into_response()
}

/// Whether a path is text once its escapes are undone: no handler can be given another.
fn is_text(path: &str) -> bool {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    if !path.contains('%') {
        return true;
    }
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let mut digit = || ahead.next().and_then(|digit| char::from(digit).to_digit(16));
        match (byte, digit(), digit()) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = ahead;
            }
            _ => bytes.push(byte),
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// The request's origin, if its pages may ask.
fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    let matches = |known: &String| known == "*" || known.eq_ignore_ascii_case(text);
    origins.iter().any(matches).then(|| origin.clone())
}

fn preflight(is_allowed: bool, asked: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if !is_allowed {
        return response;
    }
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static(METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let asked = asked.filter(|asked| asked.len() <= ASKED_BYTES_MAX);
    let names = asked.unwrap_or(HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    response
}

/// A refusal in Anthropic's shape.
pub(super) fn in_anthropics_shape(
    gateway: &Gateway,
    refusal: &Refusal,
    request_id: &str,
) -> Response {
    let status = headers::status(gateway, refusal);
    let body = anthropic::error_body(refusal, status, Some(request_id));
    let mut response = refusal.clone().into_response();
    *response.status_mut() = status;
    *response.body_mut() = Body::from(body);
    response.extensions_mut().insert(Shaped);
    response
}

/// Marks a response whose error has its client's shape already.
#[derive(Clone, Copy)]
struct Shaped;

/// An error that the router itself answered (no such path, wrong method), in Anthropic's shape.
async fn translated(response: Response) -> Response {
    if response.status().as_u16() < 400 || response.extensions().get::<Shaped>().is_some() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    // Our own error: small.
    let Ok(body) = axum::body::to_bytes(body, 64 * 1024).await else {
        return Response::from_parts(head, Body::empty());
    };
    let body = anthropic::error_from_openai(&body, head.status, id.as_deref());
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(body))
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn a_path_is_read_with_its_escapes_undone() {
        for path in ["/v1/models/auto", "/v1/models/%C3%A9", "/a%2Fb", "/100%", "/%zz", "/%C3%zz%"]
        {
            assert_eq!(is_text(path), path != "/%C3%zz%", "{path}");
        }
        assert!(!is_text("/v1/models/%FF") && !is_text("/%c3/%a9"));
    }
}
