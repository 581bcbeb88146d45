//! Counters and distributions in OpenMetrics text. What has a state of its own (queues, places,
//! the store) is read when it is asked for.

mod saturating;
mod state;

use crate::{
    ledger::{Attempt, AttemptOutcome, Entry, Outcome},
    serve::Gateway,
};
use foldhash::fast::RandomState;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use saturating::Saturating;
use state::State;
use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Codes of refusals that are told apart: a provider's own code may be passed on as one.
const CODES_MAX: usize = 64;

/// What is counted for operators.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    refusals: Family<CodeLabels, Counter>,
    codes: Mutex<HashSet<String>>,
    attempts: Family<AttemptLabels, Counter>,
    ttft: Family<RouteLabels, Histogram>,
    total: Family<RouteLabels, Histogram>,
    attempt_ttft: Family<RouteLabels, Histogram>,
    tokens: Family<TokenLabels, Counter<u64, Saturating>>,
    cost: Family<RouteLabels, Counter>,
    unknown_cost: Family<RouteLabels, Counter>,
    /// As many as there are routes.
    of_routes: RwLock<HashMap<Arc<str>, Arc<OfRoute>, RandomState>>,
    state: State,
}

/// What most requests count on their route: each looked up in its family once and kept, because that
/// costs more than the counting.
#[derive(Debug, Default)]
struct OfRoute {
    /// Requests that were completed with a 2xx.
    completed: OnceLock<Counter>,
    completed_attempts: OnceLock<Counter>,
    ttft: OnceLock<Histogram>,
    total: OnceLock<Histogram>,
    attempt_ttft: OnceLock<Histogram>,
    /// In the order of [`BUCKETS`].
    tokens: [OnceLock<Counter<u64, Saturating>>; BUCKETS.len()],
    cost: OnceLock<Counter>,
}

/// Tokens are counted in these.
const BUCKETS: [&str; 8] =
    ["input", "cache_read", "cache_write", "output", "reasoning", "image", "audio", "audio_output"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    outcome: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    route: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    route: Arc<str>,
    bucket: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: String,
}

// === impl Metrics ===

impl Metrics {
    /// Metrics of which nothing is counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tollgate"),
            requests: Family::default(),
            refusals: Family::default(),
            codes: Mutex::default(),
            attempts: Family::default(),
            ttft: seconds(),
            total: seconds(),
            attempt_ttft: seconds(),
            tokens: Family::default(),
            cost: Family::default(),
            unknown_cost: Family::default(),
            of_routes: RwLock::default(),
            state: State::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", version);
        registry.register(
            "requests",
            "Requests that reached a route, by the route that answered (none: nobody did), how they \
             ended for the caller and the status it saw",
            self.requests.clone(),
        );
        registry.register(
            "refusals",
            "Requests turned away before they reached a route, by the error code the caller saw",
            self.refusals.clone(),
        );
        registry.register(
            "attempts",
            "Attempts by route and how they ended",
            self.attempts.clone(),
        );
        registry.register(
            "ttft_seconds",
            "Arrival of a streamed request to the first visible token handed to the socket, by the \
             route that answered",
            self.ttft.clone(),
        );
        registry.register(
            "request_seconds",
            "Arrival of a request to its end, by the route that answered",
            self.total.clone(),
        );
        registry.register(
            "attempt_ttft_seconds",
            "An attempt sent to its first non-empty output token",
            self.attempt_ttft.clone(),
        );
        registry.register("tokens", "Tokens by route and bucket", self.tokens.clone());
        registry.register(
            "cost_pico_usd",
            "Cost of settled attempts in 1e-12 USD, exactly",
            self.cost.clone(),
        );
        registry.register(
            "unknown_cost_attempts",
            "Attempts whose cost nobody knows; they are not in cost_pico_usd",
            self.unknown_cost.clone(),
        );
        self.state.register(registry);
        self.state.register_cache(registry);
    }

    /// A request was turned away with this code.
    pub fn refused(&self, code: &str) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let sound =
            code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let known = codes.contains(code)
            || (sound && codes.len() < CODES_MAX && codes.insert(code.to_owned()));
        drop(codes);
        let code = if known { code } else { "other" }.to_owned();
        self.refusals.get_or_create(&CodeLabels { code }).inc();
    }

    /// A request that reached a route ended.
    pub fn ended(&self, entry: &Entry) {
        let answered = entry.answered_by.and_then(|at| entry.attempts.get(usize::from(at)));
        let route = answered.map_or_else(|| Arc::from("none"), |attempt| attempt.route.0.clone());
        let of_route = self.of_route(&route);
        let by_route = || RouteLabels { route: Arc::clone(&route) };
        if let Some(us) = entry.ttft_us.filter(|_| entry.stream) {
            kept(&of_route.ttft, &self.ttft, by_route).observe(to_seconds(us));
        }
        kept(&of_route.total, &self.total, by_route).observe(to_seconds(entry.stages.total_us()));
        let (outcome, status) = (outcome(entry.outcome), status_class(entry.status));
        let by_end = || RequestLabels { route: Arc::clone(&route), outcome, status };
        if (entry.outcome, status) == (Outcome::Completed, "2xx") {
            kept(&of_route.completed, &self.requests, by_end).inc();
        } else {
            self.requests.get_or_create(&by_end()).inc();
        }
        for attempt in &entry.attempts {
            self.attempt(attempt);
        }
    }

    fn attempt(&self, attempt: &Attempt) {
        let route = &attempt.route.0;
        let of_route = self.of_route(route);
        let outcome = attempt_outcome(attempt.outcome);
        let by_outcome = || AttemptLabels { route: Arc::clone(route), outcome };
        let by_route = || RouteLabels { route: Arc::clone(route) };
        if attempt.outcome == AttemptOutcome::Completed {
            kept(&of_route.completed_attempts, &self.attempts, by_outcome).inc();
        } else {
            self.attempts.get_or_create(&by_outcome()).inc();
        }
        if let Some(us) = attempt.times.ttft_us {
            kept(&of_route.attempt_ttft, &self.attempt_ttft, by_route).observe(to_seconds(us));
        }
        match attempt.cost {
            Some(cost) => kept(&of_route.cost, &self.cost, by_route).inc_by(cost.pico()),
            None => self.unknown_cost.get_or_create(&by_route()).inc(),
        };
        let Some(usage) = &attempt.usage else { return };
        let counts = [
            usage.input,
            usage.cache_read,
            usage.cache_write_5m.saturating_add(usage.cache_write_1h),
            usage.output,
            usage.reasoning,
            usage.image,
            usage.audio,
            usage.audio_output,
        ];
        for ((tokens, bucket), counter) in counts.into_iter().zip(BUCKETS).zip(&of_route.tokens) {
            if tokens > 0 {
                let labels = || TokenLabels { route: Arc::clone(route), bucket };
                kept(counter, &self.tokens, labels).inc_by(tokens);
            }
        }
    }

    fn of_route(&self, route: &Arc<str>) -> Arc<OfRoute> {
        let known = self.of_routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_route) = known.get(route) {
            return Arc::clone(of_route);
        }
        drop(known);
        let mut all = self.of_routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(route)).or_default())
    }

    /// Everything as OpenMetrics text.
    #[must_use]
    pub fn render(&self, gateway: &Gateway) -> String {
        self.state.read(gateway);
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _written = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A family's metric under these labels, looked up once. Not before it is counted on: what is looked up
/// is shown.
fn kept<'k, L, M>(kept: &'k OnceLock<M>, family: &Family<L, M>, labels: impl FnOnce() -> L) -> &'k M
where
    L: Clone + Eq + Hash,
    M: Clone,
{
    kept.get_or_init(|| family.get_or_create_owned(&labels()))
}

fn seconds() -> Family<RouteLabels, Histogram> {
    // 1 ms to 131 s, each bound twice the one before.
    Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 18)))
}

fn to_seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn status_class(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(200..=299) => "2xx",
        Some(400..=499) => "4xx",
        Some(500..=599) => "5xx",
        Some(_) => "other",
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::ClientGone => "client_gone",
        Outcome::Broken => "broken",
        Outcome::Failed => "failed",
        Outcome::Rejected => "rejected",
        Outcome::Short => "short",
        Outcome::Crashed => "crashed",
    }
}

fn attempt_outcome(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Completed => "completed",
        AttemptOutcome::Cancelled => "cancelled",
        AttemptOutcome::NotSent => "not_sent",
        AttemptOutcome::ErrorStatus => "error_status",
        AttemptOutcome::FirstTokenTimeout => "first_token_timeout",
        AttemptOutcome::IdleTimeout => "idle_timeout",
        AttemptOutcome::TotalTimeout => "total_timeout",
        AttemptOutcome::Broken => "broken",
        AttemptOutcome::EngineFault => "engine_fault",
        AttemptOutcome::CrashedUnknown => "crashed_unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_a_provider_makes_up_do_not_grow_the_metrics() {
        let metrics = Metrics::new();
        for number in 0..1000 {
            metrics.refused(&format!("code_{number}"));
        }
        metrics.refused("not a code\n");
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("tollgate_refusals_total{"));
        assert_eq!(lines.count(), CODES_MAX + 1);
        assert!(text.contains("tollgate_refusals_total{code=\"other\"} 937"), "{text}");
    }
}
