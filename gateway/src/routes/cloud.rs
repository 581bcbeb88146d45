//! A route to a cloud provider.
//!
//! **Invariants:** a request is sent at most once (no redirect is followed, nothing is sent again
//! after a byte of it may have left); dropping an answer cancels it upstream; the caller's
//! `Authorization` never leaves, ours is in no log, error or `Debug`; requests in flight, those
//! that wait for a place, and every buffer have a limit.
//!
//! What is sent beside the body: our `Authorization`, the configured headers, the caller's
//! `traceparent` and, with its own body, its `anthropic-beta`, our own request id as
//! `x-client-request-id` where it was set, and to another tollgate what is left of the caller's
//! deadline. Proxy settings of the environment are not followed: where prompts go stands in the
//! configuration alone.

mod answer;
mod check;
#[cfg(test)]
mod golden;
mod outgoing;
mod status;
#[cfg(test)]
mod tests;
mod watch;

pub use answer::CloudAnswer;
pub use outgoing::Departure;

use super::{Fault, FaultKind};
use crate::providers::Auth;
use crate::{
    causes,
    config::{CapField, CloudConfig},
    descriptors,
    ledger::Endpoint,
    providers::{self, Format, Kind, RateSeen, Recalls, Shape, anthropic, gemini, openai},
    wire::{BadRequest, ChatRequest},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use outgoing::Outgoing;
use reqwest::{Body, Client, Request, Url, redirect, retry};
use secrecy::ExposeSecret;
use status::Errors;
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use watch::{Limits, Watch};

/// The version of Anthropic's API that is spoken here.
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// What is left of the caller's own deadline, in milliseconds.
const DEADLINE: HeaderName = HeaderName::from_static("x-tollgate-deadline-ms");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const BETAS: HeaderName = HeaderName::from_static("anthropic-beta");
/// Idle connections are closed after this, before most servers close them.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Probes of a connection that carries an answer: a peer that vanished is found.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A route to a cloud provider: its own connection pool, limits and key.
pub struct CloudRoute {
    client: Client,
    urls: Urls,
    provider: String,
    kind: Kind,
    /// Where the provider differs from OpenAI's format.
    shape: &'static Shape,
    /// The model's name there, and as a JSON string.
    model_name: String,
    model: String,
    /// What the provider is told of earlier thoughts.
    recalls: Recalls,
    /// How the model is told not to think.
    unthinking: Option<&'static str>,
    drop_fields: Vec<String>,
    /// The provider's own rate limit as it last told it.
    rate: Mutex<Option<RateSeen>>,
    cap_field: CapField,
    streamed: HeaderMap,
    unstreamed: HeaderMap,
    errors: Arc<Errors>,
    places: Arc<Semaphore>,
    places_max: usize,
    waiting: AtomicUsize,
    /// Mean time that a request keeps its place, microseconds; 0 before the first.
    held_mean_us: Arc<AtomicU64>,
    pool_wait_max: Duration,
    limits: Limits,
}

/// A place among the requests in flight to one route; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    since: Instant,
    held_mean_us: Arc<AtomicU64>,
    /// Whether anything of its request has left.
    departure: Departure,
}

// === impl CloudRoute ===

impl CloudRoute {
    /// A route by its configuration; opens no connection.
    ///
    /// # Errors
    /// What is wrong with the configuration, in the operator's terms.
    pub fn new(config: CloudConfig) -> Result<Self, String> {
        // With room for those that a request adds to its copy.
        let mut headers = HeaderMap::with_capacity(12 + config.headers.len());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut secrets = Vec::new();
        if let Some(key) = &config.api_key {
            let (name, value) = match config.kind.auth() {
                Auth::Bearer => (header::AUTHORIZATION, format!("Bearer {}", key.expose_secret())),
                Auth::Header(name) => {
                    (HeaderName::from_static(name), key.expose_secret().to_owned())
                }
            };
            headers.insert(name, sensitive("api_key", &value)?);
            secrets.push(key.clone());
        }
        if config.kind.format() == Format::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        for (name, value) in &config.headers {
            let header = HeaderName::try_from(name)
                .map_err(|_| format!("`{name}` is not the name of a header"))?;
            headers.insert(header, sensitive(name, value.expose_secret())?);
            secrets.push(value.clone());
        }
        let accepting = |kind: &'static str| {
            let mut headers = headers.clone();
            headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static(kind));
            headers
        };
        Ok(Self {
            client: client(&config)?,
            urls: Urls::of_provider(&config)?,
            kind: config.kind,
            shape: config.kind.shape(config.api_version.as_deref()),
            recalls: config.kind.recalls(&config.base_url),
            unthinking: config.kind.unthinking(config.api_version.as_deref(), &config.model),
            drop_fields: config.drop_fields.clone(),
            rate: Mutex::new(None),
            model: serde_json::to_string(&config.model)
                .map_err(|error| format!("model: {error}"))?,
            model_name: config.model.clone(),
            cap_field: config.cap_field,
            streamed: accepting("text/event-stream"),
            unstreamed: accepting("application/json"),
            places: Arc::new(Semaphore::new(config.in_flight_max)),
            places_max: config.in_flight_max,
            waiting: AtomicUsize::new(0),
            held_mean_us: Arc::default(),
            pool_wait_max: config.pool_wait_max,
            limits: Limits {
                first_token: config.first_token_timeout,
                idle: config.idle_timeout,
                total: config.total_timeout,
            },
            errors: Arc::new(Errors {
                provider: config.provider.clone(),
                kind: config.kind,
                secrets,
            }),
            provider: config.provider,
        })
    }

    /// Waits for a place among the requests in flight. As many may wait as may be in flight.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when too many wait, or the wait takes too long.
    pub async fn place(&self) -> Result<Place, Fault> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(self.place_of(permit));
        }
        let _waiting = Waiting::enter(&self.waiting, self.places_max)
            .ok_or_else(|| self.busy("too many requests wait for a place"))?;
        match timeout(self.pool_wait_max, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(self.place_of(permit)),
            Ok(Err(_)) => Err(self.busy("the route is closed")),
            Err(_) => Err(self.busy("no place became free in time")),
        }
    }

    /// Sends the request, its answer capped at `output_cap` tokens per choice, and waits for the
    /// head of a good answer.
    ///
    /// # Errors
    /// A [`Fault`]: no connection, an error status, or silence. The place is given back.
    pub async fn start(
        &self,
        place: Place,
        request: &ChatRequest,
        output_cap: u64,
    ) -> Result<CloudAnswer, Fault> {
        let mut watch = Watch::new(self.limits, Instant::now(), request.stream);
        let outbound = self.outbound(request, output_cap, place.departure())?;
        let response = tokio::select! {
            biased;
            response = self.client.execute(outbound) => {
                response.map_err(|error| self.unsent_or_broken(error, place.departure.call_off()))?
            }
            late = watch.passed() => {
                // Time that went into a connection is no provider's silence.
                let unsent = place.departure.call_off();
                return Err(self.late(if unsent { FaultKind::Connect } else { late }));
            }
        };
        if let Some(seen) = RateSeen::read(response.headers()) {
            *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        }
        if !response.status().is_success() {
            let by = watch.ends_by().min(Instant::now() + self.limits.idle);
            return Err(self.errors.fault(response, by, request).await);
        }
        let errors = Arc::clone(&self.errors);
        CloudAnswer::new(response, place, request, watch, self.kind.format(), errors)
    }

    /// How long the next request would wait for a place: those ahead of it × the mean time that one
    /// keeps its place / places. `None` before any has been given back.
    #[must_use]
    pub fn predicted_wait(&self) -> Option<Duration> {
        if self.places.available_permits() > 0 {
            return Some(Duration::ZERO);
        }
        let mean_us = self.held_mean_us.load(Ordering::Relaxed);
        let ahead = u64::from(self.queued()).saturating_add(1);
        let places = (self.places_max as u64).max(1);
        (mean_us > 0).then(|| Duration::from_micros(mean_us.saturating_mul(ahead) / places))
    }

    /// Requests that wait for a place.
    #[must_use]
    pub fn queued(&self) -> u32 {
        u32::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Requests in flight: places taken.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let taken = self.places_max.saturating_sub(self.places.available_permits());
        u32::try_from(taken).unwrap_or(u32::MAX)
    }

    fn place_of(&self, permit: OwnedSemaphorePermit) -> Place {
        let held_mean_us = Arc::clone(&self.held_mean_us);
        let departure = Departure::default();
        Place { _permit: permit, since: Instant::now(), held_mean_us, departure }
    }

    /// The provider's own rate limit as it last told it.
    #[must_use]
    pub fn rate(&self) -> Option<RateSeen> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outbound(
        &self,
        request: &ChatRequest,
        output_cap: u64,
        departure: Departure,
    ) -> Result<Request, Fault> {
        let body = self.body(request, output_cap).map_err(|bad| {
            Fault::new(FaultKind::Unfit(bad), "the provider's format has no place for it")
        })?;
        let url = self.urls.of(request.endpoint, request.stream).clone();
        let mut outbound = Request::new(Method::POST, url);
        let headers = if request.stream { &self.streamed } else { &self.unstreamed };
        outbound.headers_mut().clone_from(headers);
        if let Some(parent) = &request.traceparent {
            outbound.headers_mut().insert(TRACEPARENT, parent.clone());
        }
        if let Some(by) = request.answer_by.filter(|_| self.kind.takes_deadline()) {
            let left = by.saturating_duration_since(Instant::now()).as_millis().max(1);
            if let Ok(left) = HeaderValue::from_str(&left.to_string()) {
                outbound.headers_mut().insert(DEADLINE, left);
            }
        }
        if self.is_sent_own_body(request) {
            add_betas(outbound.headers_mut(), &request.anthropic_betas);
        }
        if let Some(id) = &request.upstream_request_id {
            outbound.headers_mut().insert(CLIENT_REQUEST_ID, id.clone());
        }
        *outbound.body_mut() = Some(Body::wrap(Outgoing { body, departure }));
        Ok(outbound)
    }

    /// Whether its provider is sent the client's own body, of a format that is not OpenAI's.
    pub(super) fn is_sent_own_body(&self, request: &ChatRequest) -> bool {
        self.kind.format() == Format::Anthropic && anthropic::is_own(request)
    }

    /// The request as the provider takes it.
    fn body(&self, request: &ChatRequest, output_cap: u64) -> Result<Bytes, BadRequest> {
        let format = self.kind.format();
        if format != Format::OpenAi
            && matches!(request.endpoint, Endpoint::Completions | Endpoint::Embeddings)
        {
            let message = "this route's provider continues conversations alone";
            return Err(BadRequest::unsupported("model", message));
        }
        let model = self.model_name.as_str();
        let shaped = |body| providers::reshape(body, self.shape, model, &self.drop_fields);
        match format {
            Format::OpenAi => {
                let differs = openai::Differs {
                    cap_field: self.cap_field,
                    call_ids: self.kind.call_ids(),
                    has_developers: self.kind.has_developers(),
                    recalls: self.recalls,
                    unthinking: self.unthinking,
                };
                shaped(openai::upstream_body(request, &self.model, differs, output_cap))
            }
            Format::Anthropic => {
                let source = shaped(anthropic::source(request).clone())?;
                anthropic::body(request, &source, model, output_cap)
            }
            Format::Gemini => {
                let source = shaped(request.body.clone())?;
                gemini::body(request, &source, model, output_cap)
            }
        }
    }

    fn unsent_or_broken(&self, error: reqwest::Error, unsent: bool) -> Fault {
        let kind = match error.is_connect() || error.is_builder() || unsent {
            // Ours, whoever was to be asked.
            true if descriptors::none_left(&error) => FaultKind::Busy,
            true => FaultKind::Connect,
            false => FaultKind::Broken,
        };
        Fault::new(kind, format!("{}: {}", self.provider, causes::of_request(error)))
    }

    fn busy(&self, why: &str) -> Fault {
        Fault::new(FaultKind::Busy, format!("{}: {why}", self.provider))
    }

    fn late(&self, kind: FaultKind) -> Fault {
        Fault::new(kind, format!("{}: no answer began in time", self.provider))
    }
}

/// Without headers and address: either may hold a secret.
impl fmt::Debug for CloudRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudRoute")
            .field("provider", &self.provider)
            .field("model", &self.model)
            .field("in_flight", &self.in_flight())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

impl Place {
    /// Whether the request that it is for has begun to leave.
    #[must_use]
    pub fn departure(&self) -> Departure {
        self.departure.clone()
    }
}

impl Drop for Place {
    /// A moving mean over the last dozen or so. Two at once may lose one sample, which is no harm.
    fn drop(&mut self) {
        let held = crate::timeline::micros(self.since.elapsed()).max(1);
        let mean = self.held_mean_us.load(Ordering::Relaxed);
        let next = if mean == 0 { held } else { mean - mean / 8 + held / 8 };
        self.held_mean_us.store(next.max(1), Ordering::Relaxed);
    }
}

/// One that waits for a place; counted until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        count
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < max).then_some(waiting + 1)
            })
            .ok()
            .map(|_| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The route's own client.
fn client(config: &CloudConfig) -> Result<Client, String> {
    // Whoever came first has installed one; which one does not matter here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        // A request that the server says it has not processed is the plan's business, not ours.
        .retry(retry::never())
        .tcp_nodelay(true)
        .tcp_keepalive(KEEP_ALIVE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        // No connection must be told apart from no answer: it is the shorter wait of the two.
        .connect_timeout(config.connect_timeout.min(config.first_token_timeout))
        .pool_max_idle_per_host(config.in_flight_max)
        .pool_idle_timeout(POOL_IDLE)
        .build()
        .map_err(|error| format!("the HTTP client cannot be built: {}", causes::of_request(error)))
}

/// Where each kind of request goes.
#[derive(Clone, Debug)]
struct Urls {
    chat: Url,
    streamed_chat: Url,
    completions: Url,
    embeddings: Url,
}

impl Urls {
    fn of_provider(config: &CloudConfig) -> Result<Self, String> {
        let model = config.model.as_str();
        let at = |path: &[&str]| -> Result<Url, String> {
            let Some(version) = &config.api_version else {
                return endpoint(&config.base_url, path);
            };
            // Azure's older API: the deployment stands in the path.
            let mut whole = vec!["openai", "deployments", model];
            whole.extend(path);
            let mut url = endpoint(&config.base_url, &whole)?;
            url.query_pairs_mut().append_pair("api-version", version);
            Ok(url)
        };
        let (chat, streamed_chat) = match config.kind.format() {
            Format::OpenAi => (at(&["chat", "completions"])?, at(&["chat", "completions"])?),
            Format::Anthropic => (at(&["messages"])?, at(&["messages"])?),
            Format::Gemini => {
                let whole = at(&["models", &format!("{model}:generateContent")])?;
                let mut streamed = at(&["models", &format!("{model}:streamGenerateContent")])?;
                streamed.query_pairs_mut().append_pair("alt", "sse");
                (whole, streamed)
            }
        };
        let (completions, embeddings) = (at(&["completions"])?, at(&["embeddings"])?);
        Ok(Self { chat, streamed_chat, completions, embeddings })
    }

    const fn of(&self, endpoint: Endpoint, stream: bool) -> &Url {
        match endpoint {
            Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages if stream => {
                &self.streamed_chat
            }
            Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages => &self.chat,
            Endpoint::Completions => &self.completions,
            Endpoint::Embeddings => &self.embeddings,
        }
    }
}

/// `{base_url}/{path}`; a query of the base stays.
fn endpoint(base_url: &str, path: &[&str]) -> Result<Url, String> {
    let mut url = Url::parse(base_url).map_err(|error| format!("base_url: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("base_url: must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("base_url: must hold no credentials; use api_key".to_owned());
    }
    url.path_segments_mut()
        .map_err(|()| "base_url: has no path".to_owned())?
        .pop_if_empty()
        .extend(path);
    Ok(url)
}

/// Adds a caller's betas to those of the route.
fn add_betas(headers: &mut HeaderMap, betas: &str) {
    if betas.is_empty() {
        return;
    }
    let own = headers.get(&BETAS).and_then(|own| own.to_str().ok());
    let all = own.map_or_else(|| betas.to_owned(), |own| format!("{own},{betas}"));
    // Both have been a header's value.
    if let Ok(all) = HeaderValue::from_str(&all) {
        headers.insert(BETAS, all);
    }
}

fn sensitive(name: &str, value: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| format!("the value of `{name}` cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
