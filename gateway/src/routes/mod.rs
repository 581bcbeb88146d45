//! The ways to get an answer: a closed set, the model in this process or a cloud provider.
//!
//! An attempt on a route goes through four steps, the same for both kinds: [`Route::prepare`] (what
//! exactly will be asked, and how large can it get), [`Route::place`] (wait for room, bounded),
//! [`Route::start`] (until the answer's head), [`Answer::next`] (its events).

pub mod breaker;
pub mod cloud;
mod fault;
pub mod health;
pub mod live;
pub mod local;
mod scheduling;

pub use fault::{Fault, FaultKind, Owed};
pub(crate) use scheduling::caller_number;

use crate::{
    cache::Waiter,
    config::{RouteConfig, RouteSource},
    extras::Extras,
    ledger::{Endpoint, Extension, KeyId, ModelFile},
    timeline::micros,
    wire::{BadRequest, ChatRequest, EngineUse, Event},
};
use breaker::Breaker;
use cloud::{CloudAnswer, CloudRoute};
use live::Live;
use local::{LocalAnswer, LocalRoute};
use policies::{PicoUsd, RouteFacts, RouteId, RoutePrice, RouteState, Usage, Used, WorstCase};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Retries that a route may spend at once, beyond its share.
const RETRY_BURST: u32 = 10;

/// A configured route and its live state.
#[derive(Debug)]
pub struct Route {
    /// As configured.
    pub config: RouteConfig,
    /// Where its answers come from.
    pub source: Source,
    /// What it has shown lately.
    pub live: Live,
    /// Keeps it from being asked while it fails.
    pub breaker: Breaker,
    /// How many retries it is worth.
    pub retries: Extras,
}

/// Where a route's answers come from.
#[derive(Debug)]
pub enum Source {
    /// The model in this process.
    Local(Box<LocalRoute>),
    /// A provider.
    Cloud(Box<CloudRoute>),
}

/// What exactly a route will be asked, and the bounds it will stay within.
#[derive(Debug)]
pub struct Prepared {
    /// The bounds a reservation is computed from.
    pub bounds: WorstCase,
    /// Prompt tokens to book where the route reports nothing: exact for the local model.
    pub prompt_tokens: u64,
    ask: PreparedAsk,
}

impl Prepared {
    /// The model file that will answer, where it is a local one.
    #[must_use]
    pub fn model_file(&self) -> Option<Arc<ModelFile>> {
        match &self.ask {
            PreparedAsk::Local(job) => job.model_file().map(Arc::new),
            PreparedAsk::Cloud => None,
        }
    }
}

#[derive(Debug)]
enum PreparedAsk {
    Local(Box<local::LocalJob>),
    Cloud,
}

impl Prepared {
    /// Says what sets more aside while it runs, where an answer is paid by the engine's time.
    pub(crate) fn extend_by(&mut self, extension: Option<Extension>) {
        if let PreparedAsk::Local(job) = &mut self.ask {
            job.extend_by(extension);
        }
    }

    /// Tells whose request it is, for the engine's queue and its cache.
    pub(crate) fn for_key(&mut self, key: Option<&KeyId>, request: &ChatRequest) {
        if let PreparedAsk::Local(job) = &mut self.ask {
            job.schedule(scheduling::of(key, request));
        }
    }
}

/// A place among a route's requests in flight, held until the answer ends.
#[derive(Debug)]
pub enum Place {
    /// The engine has its own queue.
    Local,
    /// A place in the provider's pool.
    Cloud(cloud::Place),
}

impl Place {
    /// Whether the request that it is for has begun to leave; `None` where there is no way to go.
    #[must_use]
    pub fn departure(&self) -> Option<cloud::Departure> {
        match self {
            Self::Local => None,
            Self::Cloud(place) => Some(place.departure()),
        }
    }
}

/// A route that answers.
#[derive(Debug)]
pub enum Answer {
    /// The engine's.
    Local(LocalAnswer),
    /// A provider's.
    Cloud(CloudAnswer),
    /// Another request's, kept or running.
    Shared(Waiter),
}

/// Every configured route, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Arc<Route>>);

// === impl Route ===

impl Route {
    /// A route nobody has used yet.
    #[must_use]
    pub fn new(config: RouteConfig, source: Source) -> Self {
        let breaker = Breaker::new(config.id.clone(), config.breaker);
        let retries = Extras::full(config.retry.extra_permille, RETRY_BURST);
        Self { config, source, live: Live::new(), breaker, retries }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &RouteId {
        &self.config.id
    }

    /// Whether it sends its answer to this request in pieces, whatever its caller gets: then there is
    /// a first token.
    #[must_use]
    pub fn streams(&self, request: &ChatRequest) -> bool {
        request.stream || (self.is_local() && request.endpoint != Endpoint::Embeddings)
    }

    /// Whether it answers inside this process.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.source, Source::Local(_))
    }

    /// Longest prompt plus answer in tokens, if known: of a local route what its engine says, once
    /// it is loaded.
    #[must_use]
    pub fn context_tokens(&self) -> Option<u64> {
        match &self.source {
            Source::Local(local) => local.context_tokens().or(self.config.context_tokens),
            Source::Cloud(_) => self.config.context_tokens,
        }
    }

    /// The model behind it, by the provider's name.
    #[must_use]
    pub fn model(&self) -> &str {
        self.config.model()
    }

    /// The provider's name in the ledger.
    #[must_use]
    pub fn provider(&self) -> &str {
        match &self.config.source {
            RouteSource::Local(_) => "local",
            RouteSource::Cloud(cloud) => &cloud.provider,
        }
    }

    /// Whether an answer of unknown usage may have used its whole output cap unseen.
    #[must_use]
    pub fn may_hide_reasoning(&self) -> bool {
        matches!(&self.config.source, RouteSource::Cloud(cloud) if cloud.reasoning)
    }

    /// What its answer to this request costs: the price of the second it was admitted in.
    #[must_use]
    pub fn price(&self, request: &ChatRequest) -> RoutePrice {
        self.config.price.at(request.admitted_unix_s)
    }

    /// Whether the ledger must be able to write down what its answers cost before they begin.
    #[must_use]
    pub fn is_paid(&self, now_s: u64) -> bool {
        self.config.budgeted && !self.config.price.at(now_s).is_free()
    }

    /// Whether what it may cost is known by a price or a configured maximum, or is nobody's: policies
    /// leave another route out.
    #[must_use]
    pub fn is_bounded(&self, now_s: u64) -> bool {
        self.is_local()
            || self.config.unknown_price_max.is_some()
            || !matches!(self.config.price.at(now_s), RoutePrice::Unknown)
    }

    /// What exactly will be asked for a key, under `output_cap` tokens per choice.
    ///
    /// # Errors
    /// [`FaultKind::Unfit`] when this route cannot serve the request.
    pub async fn prepare(
        &self,
        key: Option<&KeyId>,
        request: &ChatRequest,
        output_cap: u64,
    ) -> Result<Prepared, Fault> {
        self.check_own_tool(request)?;
        match &self.source {
            Source::Local(local) => {
                // Boxed: to make a prompt takes room that requests to clouds need not carry about.
                let job = Box::pin(local.prepare(key, request, output_cap)).await?;
                Ok(Prepared {
                    bounds: job.bounds(),
                    prompt_tokens: job.bounds().prompt_tokens,
                    ask: PreparedAsk::Local(Box::new(job)),
                })
            }
            Source::Cloud(_) => Ok(Prepared {
                bounds: self.cloud_bounds(request, output_cap)?,
                prompt_tokens: request.prompt_tokens_unreported(),
                ask: PreparedAsk::Cloud,
            }),
        }
    }

    /// Refuses a tool that only the provider of the client's own format knows, where another one is asked.
    fn check_own_tool(&self, request: &ChatRequest) -> Result<(), Fault> {
        let Some(tool) = &request.own_tool else { return Ok(()) };
        match &self.source {
            Source::Cloud(cloud) if cloud.is_sent_own_body(request) => Ok(()),
            _ => {
                let message = format!("`{tool}`: route `{}` does not know this tool", self.id());
                let bad = BadRequest::unsupported(tool, message);
                Err(Fault::new(FaultKind::Unfit(bad), "a tool that only Anthropic knows"))
            }
        }
    }

    /// What a provider is asked for at most; refused where that has no price.
    fn cloud_bounds(&self, request: &ChatRequest, output_cap: u64) -> Result<WorstCase, Fault> {
        if !self.price(request).prices(request.service) {
            let message = format!(
                "route `{}` has no price for the service tier `{}`",
                self.id(),
                request.service.as_str()
            );
            let bad = BadRequest::unsupported("service_tier", message);
            return Err(Fault::new(FaultKind::Unfit(bad), "a service tier without a price"));
        }
        Ok(WorstCase { output_tokens: output_cap, ..bounds(request) })
    }

    /// The bounds that what is prepared would have under a lower output cap.
    #[must_use]
    pub fn bounds_under(&self, prepared: &Prepared, output_cap: u64) -> WorstCase {
        match (&self.source, &prepared.ask) {
            (Source::Local(local), PreparedAsk::Local(job)) => local.bounds_under(job, output_cap),
            _ => WorstCase { output_tokens: output_cap, ..prepared.bounds },
        }
    }

    /// Waits for room, for a bounded time.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when there is none.
    pub async fn place(&self) -> Result<Place, Fault> {
        match &self.source {
            Source::Local(_) => Ok(Place::Local),
            Source::Cloud(cloud) => cloud.place().await.map(Place::Cloud),
        }
    }

    /// Asks, and waits for the answer's head.
    ///
    /// # Errors
    /// Whatever kept the route from answering.
    pub async fn start(
        &self,
        place: Place,
        prepared: Prepared,
        request: &ChatRequest,
    ) -> Result<Answer, Fault> {
        let output_cap = prepared.bounds.output_tokens;
        match (&self.source, place, prepared.ask) {
            (Source::Local(_), _, PreparedAsk::Local(job)) => {
                LocalRoute::start(*job).map(Answer::Local)
            }
            (Source::Cloud(cloud), Place::Cloud(place), _) => {
                cloud.start(place, request, output_cap).await.map(Answer::Cloud)
            }
            _ => Err(Fault::new(FaultKind::Broken, "a place or a job of another route's kind")),
        }
    }

    /// Its state and its price for one request of a key, for the policy. `prompt_tokens` is the bound that
    /// worst cases use, `prompt_tokens_estimate` the likely number. `usual_output` is how long answers of
    /// other routes are, for a route of which that is not known.
    #[must_use]
    pub fn facts(
        &self,
        key: &KeyId,
        request: &ChatRequest,
        usual_output: Option<u64>,
    ) -> RouteFacts {
        let price = self.price(request);
        let bounds = WorstCase {
            engine_time: match &self.source {
                Source::Local(local) => {
                    local.engine_time_max(request.prompt_tokens_estimate, request.output_cap)
                }
                Source::Cloud(_) => Duration::ZERO,
            },
            ..bounds(request)
        };
        let lately = self.live.lately();
        let predicted = match &self.source {
            Source::Local(local) => local.predicted(Some(key), request),
            Source::Cloud(_) => None,
        };
        RouteFacts {
            state: self.state(),
            context_tokens: self.context_tokens(),
            worst_case: self.worst_case(&price, &bounds),
            expected: self.expected(&price, request, usual_output),
            queued: self.queued(),
            in_flight: self.live.in_flight(),
            ttft_p50_us: lately.ttft_p50_us,
            ttft_p95_us: lately.ttft_p95_us,
            predicted_wait_us: predicted.map(|expected| micros(expected.wait)),
            predicted_ttft_p95_us: predicted.and_then(|expected| expected.ttft_p95).map(micros),
            failed_permille: lately.failed_permille,
            ..self.config.facts(&price)
        }
    }

    /// The most an attempt within `bounds` can cost: by the price, or the configured maximum where
    /// the price is unknown; `None` when neither is known or the sum does not fit an amount.
    #[must_use]
    pub fn worst_case(&self, price: &RoutePrice, bounds: &WorstCase) -> Option<PicoUsd> {
        self.config.worst_case(price, bounds)
    }

    /// Whether it answers in this process at a price that nobody knows, and no budget pays for it.
    #[must_use]
    pub fn is_unpriced_at_home(&self, price: &RoutePrice) -> bool {
        self.is_local() && !self.config.budgeted && matches!(price, RoutePrice::Unknown)
    }

    /// Mean answer length in tokens, once enough answers were seen.
    #[must_use]
    pub fn output_tokens_mean(&self) -> Option<u64> {
        self.live.output_tokens_mean()
    }

    fn expected(
        &self,
        price: &RoutePrice,
        request: &ChatRequest,
        usual_output: Option<u64>,
    ) -> Option<PicoUsd> {
        let usual = self.output_tokens_mean().or(usual_output).unwrap_or(request.output_cap);
        let output = usual.min(request.output_cap).saturating_mul(u64::from(request.choices));
        let input = request.prompt_tokens_estimate;
        let usage = Usage { input, output, ..Usage::default() };
        let engine_time = match &self.source {
            Source::Local(local) => local.engine_time_expected(input, output),
            Source::Cloud(_) => Duration::ZERO,
        };
        let used = Used {
            usage,
            engine_time,
            service: request.service,
            images: request.images,
            at_unix_s: request.admitted_unix_s,
        };
        price.cost(&used).ok().flatten()
    }

    /// Whether it can take a request now.
    #[must_use]
    pub fn state(&self) -> RouteState {
        let keyless = matches!(&self.config.source, RouteSource::Cloud(cloud) if cloud.lacks_key);
        if keyless || self.breaker.resting().is_some() {
            return RouteState::Unavailable;
        }
        match &self.source {
            Source::Local(local) => local.state(),
            Source::Cloud(cloud) if cloud.queued() > 0 => RouteState::Busy,
            Source::Cloud(_) => RouteState::Ready,
        }
    }

    /// The same for operators, of a second of the Unix epoch: a route to which nobody is sent for want
    /// of a price says so.
    #[must_use]
    pub fn shown_state(&self, now_s: u64) -> serde_json::Value {
        if self.is_bounded(now_s) { json!(self.state()) } else { json!("unpriced") }
    }

    /// How long a request of a key would wait for room, as far as what was seen tells; `None` before
    /// enough was seen. Of a cloud: requests ahead × the mean time that one keeps its place / places. Of
    /// a local model what its engine expects, which plays those whose turn comes first through its slots
    /// and cells: who is queued only until the step that runs has ended keeps nobody out of a free slot,
    /// and one key's flood no other key.
    #[must_use]
    pub fn predicted_wait(&self, key: Option<&KeyId>, request: &ChatRequest) -> Option<Duration> {
        match &self.source {
            Source::Local(local) => Some(local.predicted(key, request)?.wait),
            Source::Cloud(cloud) => cloud.predicted_wait(),
        }
    }

    /// How long any request would wait for a place, where that does not depend on the request.
    #[must_use]
    pub fn places_wait(&self) -> Option<Duration> {
        match &self.source {
            Source::Local(_) => None,
            Source::Cloud(cloud) => cloud.predicted_wait(),
        }
    }

    /// The longest wait for room that it grants.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        match &self.config.source {
            RouteSource::Local(local) => local.queue_wait_max,
            RouteSource::Cloud(cloud) => cloud.pool_wait_max,
        }
    }

    /// Requests waiting for room.
    #[must_use]
    pub fn queued(&self) -> u32 {
        match &self.source {
            Source::Local(local) => local.queued(),
            Source::Cloud(cloud) => cloud.queued(),
        }
    }
}

/// The bounds of a request without the engine's time.
fn bounds(request: &ChatRequest) -> WorstCase {
    WorstCase {
        prompt_tokens: request.prompt_tokens_max,
        output_tokens: request.output_cap,
        choices: u64::from(request.choices),
        engine_time: Duration::ZERO,
        service: request.service,
        images: request.images,
    }
}

// === impl Answer ===

impl Answer {
    /// The provider's status; `None` for the engine.
    #[must_use]
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            Self::Local(_) | Self::Shared(_) => None,
            Self::Cloud(answer) => Some(answer.status()),
        }
    }

    /// The service tier that the provider says served it, where no event says so.
    #[must_use]
    pub fn service(&self) -> Option<policies::ServiceTier> {
        match self {
            Self::Local(_) | Self::Shared(_) => None,
            Self::Cloud(answer) => answer.service(),
        }
    }

    /// What the answer has taken so far where that is metered: by the engine in this process.
    #[must_use]
    pub fn metered(&self) -> Option<(Usage, EngineUse)> {
        match self {
            Self::Local(answer) => Some(answer.metered()),
            Self::Cloud(_) | Self::Shared(_) => None,
        }
    }

    /// What the provider has told of its usage before the answer's end.
    #[must_use]
    pub fn told(&self) -> Option<Usage> {
        match self {
            Self::Cloud(answer) => answer.told(),
            Self::Local(_) | Self::Shared(_) => None,
        }
    }

    /// What is owed if it failed before it had shown anything.
    #[must_use]
    pub fn owed(&self) -> Owed {
        match self {
            Self::Cloud(answer) => answer.owed(),
            Self::Local(_) | Self::Shared(_) => Owed::ByFault,
        }
    }

    /// What the attempts before a shared answer cost whoever asked the routes.
    #[must_use]
    pub fn shared_missed_cost(&self) -> Option<PicoUsd> {
        match self {
            Self::Shared(waiter) => waiter.missed_cost(),
            Self::Local(_) | Self::Cloud(_) => None,
        }
    }

    /// What a shared answer cost whoever asked the route.
    #[must_use]
    pub fn shared_cost(&self) -> Option<PicoUsd> {
        match self {
            Self::Shared(waiter) => waiter.cost(),
            Self::Local(_) | Self::Cloud(_) => None,
        }
    }

    /// The next event; `None` after a whole answer. Dropping the answer cancels it.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        match self {
            Self::Local(answer) => answer.next().await,
            Self::Cloud(answer) => answer.next().await,
            Self::Shared(waiter) => waiter.next().await,
        }
    }
}

// === impl Routes ===

impl Routes {
    /// Routes in the order of the configuration.
    #[must_use]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        Self(routes)
    }

    /// A route by name.
    #[must_use]
    pub fn get(&self, id: &RouteId) -> Option<&Arc<Route>> {
        self.0.iter().find(|route| route.id() == id)
    }

    /// Every route, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.iter()
    }
}
