//! Every way to end without an answer, and what the caller sees of it.
//!
//! **Invariant:** only this file knows status codes. The outside message names the limit, its size,
//! what is left and when it opens again; the inside of a fault never reaches a caller, and no
//! `retry-after` exceeds 120 s (some SDKs sleep as long as they are told).

use crate::{
    ledger::Endpoint,
    wire::{self, BadRequest},
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::time::Duration;

/// Longest `retry-after` that is ever sent.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// A request that gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key, or one that is wrong, expired or revoked (never said which).
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The key is right and may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// Too many failed authentications from one address.
    #[error("too many failed authentications from this address; try again in {wait}", wait = seconds(*.0))]
    AuthThrottled(Duration),
    /// A rate limit.
    #[error("{scope} limit of {limit} reached, {left} left; it opens again in {wait}", wait = seconds(*.retry_after))]
    RateLimited {
        /// Whose limit: `this key's`, `the gateway's`.
        scope: String,
        /// The limit with its unit, such as `60 requests per minute`.
        limit: String,
        /// What is left of it.
        left: u64,
        /// When it opens again.
        retry_after: Duration,
    },
    /// A rate limit below what this one request could need: no wait helps.
    #[error("{0}")]
    NeverFits(String),
    /// A hard budget has less left than this request could cost.
    #[error("{0}")]
    Budget(String),
    /// The body is larger than the limit.
    #[error("the request body is larger than the limit of {0} bytes")]
    TooLarge(usize),
    /// The body is compressed in a way that is not known.
    #[error(
        "the request body's content-encoding is not known: send gzip, deflate, br, zstd or none"
    )]
    UnknownEncoding,
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {wait}", wait = seconds(*.0))]
    BodyTimeout(Duration),
    /// The body is wrong.
    #[error("{0}")]
    Bad(#[from] BadRequest),
    /// No route serves this model name.
    #[error("the model `{0}` does not exist or this key may not use it")]
    UnknownModel(String),
    /// The policy refuses, and says why.
    #[error("{0}")]
    Policy(String),
    /// Every route of the plan is full.
    #[error("every route for this request is busy; try again in {wait}", wait = seconds(*.0))]
    Busy(Duration),
    /// The bodies of other requests leave this one's no room, or none to be read in time.
    #[error("the gateway is busy with the bodies of other requests; try again in {wait}", wait = seconds(*.0))]
    Crowded(Duration),
    /// Every route of the plan failed.
    #[error("{0}")]
    Upstream(String),
    /// The only route of the plan failed; when its provider says that it may be asked again.
    #[error("{0}")]
    RouteDown(String, Option<Duration>),
    /// No route of the plan answers until its operator mends it: a key, an account or a model's name is
    /// no good. Whether there was one alone.
    #[error("{0}")]
    Barred(String, bool),
    /// Every route of the plan is left alone after failures.
    #[error("every route for this request is left alone after failures; try again in {wait}", wait = seconds(*.0))]
    Resting(Duration),
    /// Every route of the plan was rate limited by its provider.
    #[error("the provider limits the rate of requests; try again in {wait}", wait = seconds(*.0))]
    UpstreamLimited(Duration),
    /// The provider says that the request is wrong: its status and its error, passed on.
    #[error("{message}")]
    Rejected {
        /// The provider's status, a 4xx. 402 and 429 are another tollgate's budget or limit, or too
        /// much for a provider's limit: no wait helps.
        status: u16,
        /// The provider's message.
        message: String,
        /// The provider's `type`.
        kind: Option<String>,
        /// The provider's `param`.
        param: Option<String>,
        /// The provider's `code`.
        code: Option<String>,
    },
    /// The time the caller or the route allows is over.
    #[error("{0}")]
    Deadline(String),
    /// The ledger cannot record paid work now (disk full, I/O error).
    #[error("paid requests are stopped: {0}")]
    StoreDown(String),
    /// The ledger or the keys cannot answer an operator.
    #[error("the ledger: {0}")]
    Ledger(String),
    /// The server is going down.
    #[error("the server is shutting down")]
    Draining,
    /// No such path.
    #[error("no such path: {0}")]
    NoSuchPath(String),
    /// The path exists and does not take this method.
    #[error("this path takes {0}")]
    WrongMethod(&'static str),
    /// A thing asked for by id does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A change that does not fit what is there.
    #[error("{0}")]
    Conflict(String),
}

/// The body every error has: `{"error":{"message","type","param","code"}}`.
#[derive(serde::Serialize)]
struct Outside<'a> {
    error: Fields<'a>,
}

#[derive(serde::Serialize)]
struct Fields<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

// === impl Refusal ===

impl Refusal {
    /// Whether it is about what its own caller may spend: the same may go well for another one.
    #[must_use]
    pub fn is_its_callers(&self) -> bool {
        matches!(self, Self::Budget(_) | Self::RateLimited { .. } | Self::NeverFits(_))
    }

    /// The HTTP status. A spent budget is 429 here; `serve` switches it to 402 where configured.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::Policy(_) => StatusCode::FORBIDDEN,
            Self::AuthThrottled(_)
            | Self::RateLimited { .. }
            | Self::NeverFits(_)
            | Self::Budget(_)
            | Self::UpstreamLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::UnknownModel(_) | Self::NoSuchPath(_) | Self::NotFound(_) => {
                StatusCode::NOT_FOUND
            }
            Self::Busy(_)
            | Self::Crowded(_)
            | Self::RouteDown(..)
            | Self::Barred(_, true)
            | Self::Resting(_)
            | Self::StoreDown(_)
            | Self::Ledger(_)
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(_) | Self::Barred(_, false) => StatusCode::BAD_GATEWAY,
            Self::Rejected { status, .. } => {
                StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
        }
    }

    /// The `type` of the error object.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Unauthenticated(_) => "authentication_error",
            Self::Forbidden(_) | Self::Policy(_) => "permission_error",
            Self::AuthThrottled(_)
            | Self::RateLimited { .. }
            | Self::NeverFits(_)
            | Self::UpstreamLimited(_) => "rate_limit_error",
            Self::Budget(_) => "budget_exceeded",
            Self::Rejected { kind: Some(kind), .. } => kind,
            Self::TooLarge(_)
            | Self::UnknownEncoding
            | Self::BodyTimeout(_)
            | Self::Bad(_)
            | Self::UnknownModel(_)
            | Self::Rejected { .. }
            | Self::NoSuchPath(_)
            | Self::WrongMethod(_)
            | Self::NotFound(_)
            | Self::Conflict(_) => "invalid_request_error",
            Self::Busy(_)
            | Self::Crowded(_)
            | Self::RouteDown(..)
            | Self::Barred(..)
            | Self::Resting(_)
            | Self::Upstream(_)
            | Self::Deadline(_)
            | Self::StoreDown(_)
            | Self::Ledger(_)
            | Self::Draining => "server_error",
        }
    }

    /// The `type` of an error in Anthropic's shape: it goes by the status.
    #[must_use]
    pub fn anthropic_kind_of(status: StatusCode) -> &'static str {
        match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::PAYMENT_REQUIRED => "billing_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "api_error",
        }
    }

    /// The `code` of the error object.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        Some(match self {
            Self::Unauthenticated(_) => "invalid_api_key",
            Self::Forbidden(_) => "permission_denied",
            Self::Policy(_) => "policy_refused",
            Self::AuthThrottled(_)
            | Self::RateLimited { .. }
            | Self::NeverFits(_)
            | Self::UpstreamLimited(_) => "rate_limit_exceeded",
            Self::Budget(_) => "insufficient_quota",
            Self::TooLarge(_) => "request_too_large",
            Self::UnknownEncoding => "unknown_encoding",
            Self::BodyTimeout(_) => "request_timeout",
            Self::Bad(bad) => bad.code,
            Self::UnknownModel(_) => "model_not_found",
            Self::Busy(_) | Self::Crowded(_) => "busy",
            Self::Upstream(_) | Self::RouteDown(..) | Self::Barred(..) | Self::Resting(_) => {
                "upstream_failed"
            }
            Self::Rejected { code, .. } => return code.as_deref(),
            Self::Deadline(_) => "deadline_exceeded",
            Self::StoreDown(_) | Self::Ledger(_) => "ledger_unavailable",
            Self::Draining => "shutting_down",
            Self::NoSuchPath(_) => "path_not_found",
            Self::WrongMethod(_) => "method_not_allowed",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
        })
    }

    /// The parameter of the request that it is about.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Bad(bad) => bad.param.as_deref(),
            Self::UnknownModel(_) => Some("model"),
            Self::Rejected { param, .. } => param.as_deref(),
            _ => None,
        }
    }

    /// The refusal of a request that was read, with the names that its fields have at `endpoint`.
    #[must_use]
    pub fn named_for(self, endpoint: Endpoint) -> Self {
        match self {
            Self::Bad(bad) => Self::Bad(wire::named(endpoint, bad)),
            Self::Rejected { status, message, kind, param, code } => {
                let param = param.map(|param| wire::name(endpoint, &param).into_owned());
                Self::Rejected { status, message, kind, param, code }
            }
            other => other,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after: after, .. }
            | Self::AuthThrottled(after)
            | Self::Busy(after)
            | Self::Crowded(after)
            | Self::Resting(after)
            | Self::UpstreamLimited(after) => Some((*after).min(RETRY_AFTER_MAX)),
            Self::RouteDown(_, after) => after.map(|after| after.min(RETRY_AFTER_MAX)),
            Self::Draining => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after() {
            let millis = after.as_millis().max(1);
            let whole_seconds = millis.div_ceil(1000);
            set(&mut headers, "retry-after", &whole_seconds.to_string());
            set(&mut headers, "retry-after-ms", &millis.to_string());
        }
        match self {
            // A spent budget does not refill while an SDK waits, nor does a limit grow or a key become
            // another: stop its retries.
            Self::Budget(_)
            | Self::NeverFits(_)
            | Self::Barred(..)
            | Self::Rejected { status: 402 | 429, .. } => {
                set(&mut headers, "x-should-retry", "false");
            }
            Self::WrongMethod(allow) => set(&mut headers, "allow", allow),
            Self::Unauthenticated(_) => set(&mut headers, "www-authenticate", "Bearer"),
            _ => {}
        }
        headers
    }

    /// The error object as it stands in a body or, after the first byte, in a stream's event.
    #[must_use]
    pub fn to_json(&self) -> String {
        let message = self.to_string();
        let outside = Outside {
            error: Fields {
                message: &message,
                r#type: self.kind(),
                param: self.param(),
                code: self.code(),
            },
        };
        // A struct of strings always serialises.
        serde_json::to_string(&outside).unwrap_or_default()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status();
        *response.headers_mut() = self.headers();
        response
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// A duration as people say it: `1.5 s`.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
