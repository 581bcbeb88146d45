//! A provider's error, a status or an object under a 200, into a fault.
//!
//! **Invariant:** a message of the provider's goes to the caller alone, never into a log; one that
//! quotes a secret of ours goes nowhere.

use crate::{
    clock::Clock,
    ledger::Endpoint,
    providers::{
        Blame, Kind, blame, moderated,
        openai::{ProviderError, provider_error},
        refused,
    },
    routes::{Fault, FaultKind, Owed},
    wire::ChatRequest,
};
use bytes::BytesMut;
use http::{HeaderMap, StatusCode, header};
use policies::PicoUsd;
use reqwest::Response;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most bytes of an error body that are read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Where another tollgate says what a request cost.
const COST: &str = "x-tollgate-cost-usd";
/// Longest wait that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// What the errors of one provider are read with.
pub(super) struct Errors {
    /// Its name, for the log.
    pub(super) provider: String,
    /// What it is.
    pub(super) kind: Kind,
    /// Whatever must not stand in a message passed on.
    pub(super) secrets: Vec<SecretString>,
}

impl Errors {
    /// The fault that `response`, an error status, stands for where `request` was asked. Its body is
    /// read until `by`.
    pub(super) async fn fault(
        &self,
        mut response: Response,
        by: Instant,
        request: &ChatRequest,
    ) -> Fault {
        let status = response.status();
        let told = retry_after(response.headers());
        let owed = self.owed(response.headers());
        let waits = response.headers().get("x-should-retry").is_none_or(|word| word != "false");
        // A body that does not come in time says nothing; the status has said enough.
        let body = timeout_at(by, read_some(&mut response)).await.unwrap_or_default();
        let mut error = provider_error(&body);
        error.retry_after = told.or(error.retry_after);
        let said = format!("{}: status {}", self.provider, status.as_u16());
        let hurried = request.answer_by.is_some();
        let blamed = self.blamed(status, error, waits, hurried);
        self.judged(status, blamed, request.endpoint, said).owing(owed)
    }

    /// Whose fault an error is; `waits` and `hurried` as in [`refused`].
    fn blamed(
        &self,
        status: StatusCode,
        mut error: ProviderError,
        waits: bool,
        hurried: bool,
    ) -> (ProviderError, Blame) {
        let status = status.as_u16();
        let is_refusal = self.kind.is_tollgate() && refused(status, &error, waits, hurried);
        let blame = if is_refusal { Blame::Fit } else { blame(status, &mut error) };
        (error, blame)
    }

    /// What is owed for an error status. Another tollgate has routes of its own, of which one may have
    /// been charged before another failed: it says so, and 0 where nothing was.
    fn owed(&self, headers: &HeaderMap) -> Owed {
        if !self.kind.is_tollgate() {
            return Owed::ByFault;
        }
        let told = headers.get(COST).and_then(|cost| cost.to_str().ok()?.parse().ok());
        match told {
            Some(PicoUsd::ZERO) => Owed::ByFault,
            Some(cost) => Owed::Told(cost),
            None => Owed::Unknown,
        }
    }

    /// The fault that an error in place of an answer stands for, by the status that it should have had;
    /// without one the answer is broken. `hurried`: its caller waits until a time of its own.
    pub(super) fn within(
        &self,
        status: Option<u16>,
        error: ProviderError,
        endpoint: Endpoint,
        hurried: bool,
    ) -> Fault {
        let said = format!("{}: an error in place of the answer", self.provider);
        match status.and_then(|status| StatusCode::from_u16(status).ok()) {
            Some(status) => {
                let said = format!("{said}, as of status {}", status.as_u16());
                self.judged(status, self.blamed(status, error, true, hurried), endpoint, said)
            }
            None => Fault::new(FaultKind::Broken, detail(said, &error)),
        }
    }

    fn judged(
        &self,
        status: StatusCode,
        (error, blame): (ProviderError, Blame),
        endpoint: Endpoint,
        said: String,
    ) -> Fault {
        let detail = detail(said, &error);
        Fault::new(kind(status, error, blame, endpoint, &self.secrets), detail)
    }
}

fn kind(
    status: StatusCode,
    error: ProviderError,
    blame: Blame,
    endpoint: Endpoint,
    secrets: &[SecretString],
) -> FaultKind {
    let retry_after = error.retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let is_chat = !matches!(endpoint, Endpoint::Completions | Endpoint::Embeddings);
    match status {
        // A caller may choose an endpoint for which there is no such model.
        _ if blame == Blame::Model && !is_chat => FaultKind::Unserved { status: status.as_u16() },
        _ if matches!(blame, Blame::Route | Blame::Model) => {
            FaultKind::Status { status: status.as_u16(), retry_after }
        }
        _ if blame == Blame::Fit => rejected(status, true, error, secrets),
        StatusCode::TOO_MANY_REQUESTS => FaultKind::RateLimited { retry_after },
        // Every route is one for chats; which of them has the other endpoints too, nobody said.
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
            if !is_chat =>
        {
            FaultKind::Unserved { status: status.as_u16() }
        }
        StatusCode::FORBIDDEN if moderated(&error) => rejected(status, false, error, secrets),
        StatusCode::PAYLOAD_TOO_LARGE => rejected(status, true, error, secrets),
        StatusCode::BAD_REQUEST
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => rejected(status, false, error, secrets),
        // Also 404: the model's name is the operator's, not the caller's.
        _ => FaultKind::Status { status: status.as_u16(), retry_after },
    }
}

/// What the caller is told, by what the provider said; `elsewhere` as in [`FaultKind::Rejected`].
fn rejected(
    status: StatusCode,
    elsewhere: bool,
    error: ProviderError,
    secrets: &[SecretString],
) -> FaultKind {
    let leaks = |text: &String| {
        secrets.iter().map(ExposeSecret::expose_secret).any(|secret| {
            // A short configured header is no secret and may well occur in a message.
            secret.len() >= 8 && text.contains(secret)
        })
    };
    let clean = |text: Option<String>| text.filter(|text| !leaks(text));
    FaultKind::Rejected {
        status: status.as_u16(),
        elsewhere,
        message: clean(error.message)
            .unwrap_or_else(|| "the provider rejected the request".to_owned()),
        error_type: clean(error.error_type),
        param: clean(error.param),
        code: clean(error.code),
    }
}

/// For the log: beside what is said, the provider's code and type where they are plain words.
fn detail(said: String, error: &ProviderError) -> String {
    let mut detail = said;
    for (name, value) in [("code", &error.code), ("type", &error.error_type)] {
        if let Some(word) = value.as_deref().and_then(plain_word) {
            detail.push_str(&format!(", {name} {word}"));
        }
    }
    detail
}

/// `word`, if it is one: no message, and nothing that could be a key.
fn plain_word(word: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (word.len() <= 48 && word.bytes().all(plain)).then_some(word)
}

/// The body, as far as it comes and fits.
async fn read_some(response: &mut Response) -> BytesMut {
    let mut body = BytesMut::new();
    while let Ok(Some(piece)) = response.chunk().await {
        if body.len() + piece.len() > BODY_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&piece);
    }
    body
}

/// `retry-after-ms`, or `retry-after` as seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str, scale: f64| {
        let value: f64 = text.parse().ok()?;
        Duration::try_from_secs_f64(value * scale).ok()
    };
    match text("retry-after-ms").and_then(|millis| seconds(millis, 0.001)) {
        Some(after) => Some(after),
        None => {
            let value = text("retry-after")?;
            seconds(value, 1.0).or_else(|| until(value, text(header::DATE.as_str())))
        }
    }
}

/// From the provider's own idea of now, or ours, until a date. A past date is now.
fn until(date: &str, now: Option<&str>) -> Option<Duration> {
    let parse =
        |date: &str| jiff::fmt::rfc2822::parse(date).ok().map(|at| at.timestamp().as_second());
    let now =
        now.and_then(parse).or_else(|| i64::try_from(Clock::system().unix_ms() / 1000).ok())?;
    u64::try_from(parse(date)?.saturating_sub(now).max(0)).ok().map(Duration::from_secs)
}
