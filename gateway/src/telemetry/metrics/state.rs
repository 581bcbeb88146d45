//! What has a state of its own and is read when it is asked for.

use super::{ModelLabels, RouteLabels};
use crate::{
    cache::CacheCounts,
    ledger::Condition,
    routes::{Source, breaker::BreakerState},
    serve::Gateway,
};
use policies::RouteState;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Gauges and counters by what they are read from. What can only grow, until the process or the loaded
/// model begins anew, is a counter.
#[derive(Debug, Default)]
pub(super) struct State {
    in_flight: Gauge,
    keys: Gauge,
    model_in_flight: Family<ModelLabels, Gauge>,
    model_requests_left: Family<ModelLabels, Gauge>,
    model_tokens_left: Family<ModelLabels, Gauge>,
    route_in_flight: Family<RouteLabels, Gauge>,
    route_queued: Family<RouteLabels, Gauge>,
    route_ready: Family<RouteLabels, Gauge>,
    route_breaker: Family<RouteLabels, Gauge>,
    route_breaker_opened: Family<RouteLabels, Counter>,
    engine_busy: Family<RouteLabels, Counter<f64, AtomicU64>>,
    engine_cells: Family<RouteLabels, Gauge>,
    engine_checkpoints: Family<RouteLabels, Gauge>,
    engine_drafted: Family<RouteLabels, Counter>,
    engine_accepted: Family<RouteLabels, Counter>,
    engine_draft_busy: Family<RouteLabels, Counter<f64, AtomicU64>>,
    engine_prefix_hits: Family<RouteLabels, Counter>,
    engine_prefix_evictions: Family<RouteLabels, Counter>,
    engine_preemptions: Family<RouteLabels, Counter>,
    engine_faults: Family<RouteLabels, Counter>,
    engine_idle_cost: Family<RouteLabels, Gauge>,
    engine_loads: Family<RouteLabels, Counter>,
    engine_memory: Family<RouteLabels, Gauge>,
    engine_heartbeat: Family<RouteLabels, Gauge<f64, AtomicU64>>,
    store_healthy: Gauge,
    store_queued: Gauge,
    store_commits: Counter,
    store_commit_us: Gauge,
    store_lost: Counter,
    store_lost_notices: Counter,
    reservations: Gauge,
    policy_rejected: Gauge,
    cache_requests: Family<CacheLabels, Counter>,
    cache_evicted: Counter,
    cache_answers: Gauge,
    cache_bytes: Gauge,
    cache_flights: Gauge,
    shared_bytes: Family<SharedLabels, Gauge>,
    shared_let_go: Family<SharedLabels, Counter>,
    webhook_waiting: Family<WebhookLabels, Gauge>,
    webhook_failures: Family<WebhookLabels, Gauge>,
    webhook_deliveries: Family<DeliveryLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SharedLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    found: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    webhook: String,
    outcome: &'static str,
}

// === impl State ===

impl State {
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("in_flight", "Requests in flight", &self.in_flight),
            ("keys", "Keys there are, revoked ones included", &self.keys),
            ("store_healthy", "1 if the ledger records paid work", &self.store_healthy),
            ("store_queued", "Events waiting to be written", &self.store_queued),
            (
                "store_commit_microseconds",
                "Write and sync of the last commit",
                &self.store_commit_us,
            ),
            ("open_reservations", "Attempts that hold money or tokens", &self.reservations),
            ("policy_rejected", "1 if the newest policy file was refused", &self.policy_rejected),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let by_route = [
            ("route_in_flight", "Requests being answered", &self.route_in_flight),
            ("route_queued", "Requests waiting for room", &self.route_queued),
            ("route_ready", "1 if it can take a request now", &self.route_ready),
            (
                "route_breaker",
                "0: closed, 1: half open, 2: open, nothing is sent",
                &self.route_breaker,
            ),
            ("engine_kv_cells_used", "KV cells used (local routes)", &self.engine_cells),
            ("engine_checkpoint_bytes", "Memory of checkpoints", &self.engine_checkpoints),
            (
                "engine_memory_bytes",
                "Memory the loaded local model takes, by estimate",
                &self.engine_memory,
            ),
        ];
        for (name, help, family) in by_route {
            registry.register(name, help, family.clone());
        }
        self.register_counts(registry);
        self.register_webhooks(registry);
        self.register_engine_times(registry);
        self.register_models(registry);
    }

    fn register_counts(&self, registry: &mut Registry) {
        let counters = [
            ("store_commits", "Commits since the start", &self.store_commits),
            ("store_lost_entries", "Entries not recorded while the store failed", &self.store_lost),
            (
                "store_lost_notices",
                "Events for operators that found no place in the ledger's queue",
                &self.store_lost_notices,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let by_route = [
            (
                "route_breaker_opened",
                "Times the breaker has opened since the start",
                &self.route_breaker_opened,
            ),
            (
                "engine_prefix_hits",
                "Requests that went on from a kept prefix since the model was loaded",
                &self.engine_prefix_hits,
            ),
            (
                "engine_prefix_evictions",
                "Kept prefixes given up for others since the model was loaded",
                &self.engine_prefix_evictions,
            ),
            (
                "engine_preemptions",
                "Times a running request left its cells to an older one since the model was loaded",
                &self.engine_preemptions,
            ),
            (
                "engine_draft_tokens",
                "Tokens the local route has guessed since the model was loaded",
                &self.engine_drafted,
            ),
            (
                "engine_draft_accepted_tokens",
                "Guessed tokens that were drawn since the model was loaded",
                &self.engine_accepted,
            ),
            (
                "engine_faults",
                "Panics and device faults of the local model since the start",
                &self.engine_faults,
            ),
            ("engine_loads", "Times the local model was loaded", &self.engine_loads),
        ];
        for (name, help, family) in by_route {
            registry.register(name, help, family.clone());
        }
    }

    fn register_models(&self, registry: &mut Registry) {
        let by_model = [
            ("model_in_flight", "Requests in flight to a limited model", &self.model_in_flight),
            (
                "model_requests_left",
                "Requests that a model's limit per minute would let through now",
                &self.model_requests_left,
            ),
            (
                "model_tokens_left",
                "Tokens that a model's limit per minute would let through now",
                &self.model_tokens_left,
            ),
        ];
        for (name, help, family) in by_model {
            registry.register(name, help, family.clone());
        }
    }

    fn read_models(&self, gateway: &Gateway) {
        for of in &gateway.config.model_limits {
            let labels = ModelLabels { model: Arc::clone(&of.model) };
            if let Some(state) = gateway.admission.model(&of.model) {
                self.model_in_flight.get_or_create(&labels).set(signed(state.in_flight));
                if let Some(rate) = state.rate {
                    self.model_requests_left.get_or_create(&labels).set(signed(rate.remaining));
                }
            }
            if let Some(rate) = gateway.books.model_token_rate(&of.model) {
                self.model_tokens_left.get_or_create(&labels).set(signed(rate.remaining));
            }
        }
    }

    fn register_engine_times(&self, registry: &mut Registry) {
        // No counter: a request's engine time is known, and taken from it, at the request's end.
        registry.register(
            "engine_idle_cost_pico_usd",
            "Since the start: cost of the time the local model was loaded and no request's, in \
             1e-12 USD; no request pays it",
            self.engine_idle_cost.clone(),
        );
        registry.register(
            "engine_heartbeat_age_seconds",
            "Time since the local model's scheduler last looked around",
            self.engine_heartbeat.clone(),
        );
        registry.register(
            "engine_busy_seconds",
            "Time the engine has been busy since the model was loaded (local routes)",
            self.engine_busy.clone(),
        );
        registry.register(
            "engine_draft_busy_seconds",
            "The part of it that a draft model took (local routes)",
            self.engine_draft_busy.clone(),
        );
    }

    fn register_webhooks(&self, registry: &mut Registry) {
        registry.register(
            "webhook_waiting",
            "Events that wait for a webhook's receiver",
            self.webhook_waiting.clone(),
        );
        registry.register(
            "webhook_failures_in_a_row",
            "Attempts to deliver the oldest of them that have failed",
            self.webhook_failures.clone(),
        );
        registry.register(
            "webhook_attempts",
            "Since the start: events delivered, attempts failed, events given up",
            self.webhook_deliveries.clone(),
        );
    }

    fn read_webhooks(&self, gateway: &Gateway) {
        for hook in &gateway.webhooks {
            let webhook = hook.config.name.clone();
            let (state, counts) = (hook.state(), hook.counts());
            let labels = WebhookLabels { webhook: webhook.clone() };
            self.webhook_waiting.get_or_create(&labels).set(signed(state.waiting));
            self.webhook_failures.get_or_create(&labels).set(i64::from(state.failures));
            for (outcome, count) in [
                ("delivered", counts.delivered),
                ("failed", counts.failed),
                ("given_up", counts.given_up),
            ] {
                let labels = DeliveryLabels { webhook: webhook.clone(), outcome };
                set(&self.webhook_deliveries.get_or_create(&labels), count);
            }
        }
    }

    pub(super) fn read(&self, gateway: &Gateway) {
        self.in_flight.set(signed(gateway.admission.in_flight()));
        self.keys.set(signed(gateway.keys.count()));
        self.policy_rejected.set(i64::from(gateway.policy.last_error().is_some()));
        let store = gateway.books.state();
        self.store_healthy.set(i64::from(store.condition == Condition::Healthy));
        self.store_queued.set(signed(store.queued));
        set(&self.store_commits, store.commits);
        self.store_commit_us.set(signed(store.last_commit_us));
        set(&self.store_lost, store.lost_entries);
        set(&self.store_lost_notices, store.lost_notices);
        self.reservations.set(signed(store.open_reservations));
        self.read_cache(&gateway.cache.counts());
        self.read_shared("idempotency", &gateway.idempotency.counts());
        self.read_webhooks(gateway);
        self.read_models(gateway);
        for (route, pico) in gateway.idle.costs() {
            let labels = RouteLabels { route: Arc::clone(&route.0) };
            self.engine_idle_cost.get_or_create(&labels).set(signed(pico));
        }
        let now_s = gateway.clock.unix_ms() / 1000;
        for route in gateway.routes.iter() {
            let labels = RouteLabels { route: Arc::clone(&route.id().0) };
            self.route_in_flight.get_or_create(&labels).set(i64::from(route.live.in_flight()));
            self.route_queued.get_or_create(&labels).set(i64::from(route.queued()));
            let ready = i64::from(route.state() == RouteState::Ready && route.is_bounded(now_s));
            self.route_ready.get_or_create(&labels).set(ready);
            let breaker = match route.breaker.state() {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen { .. } => 1,
                BreakerState::Open(_) => 2,
            };
            self.route_breaker.get_or_create(&labels).set(breaker);
            set(&self.route_breaker_opened.get_or_create(&labels), route.breaker.opened());
            if let Source::Local(local) = &route.source {
                let counts = local.model().counts();
                set(&self.engine_faults.get_or_create(&labels), counts.faults);
                set(&self.engine_loads.get_or_create(&labels), counts.loads);
                let loaded = local.model().loaded();
                let memory = loaded.as_ref().map_or(0, |engine| engine.memory_bytes());
                self.engine_memory.get_or_create(&labels).set(signed(memory));
                match loaded {
                    Some(engine) => self.read_engine(&labels, &engine.status()),
                    None => self.forget_engine(&labels),
                }
            }
        }
    }

    /// What the loaded model of a local route says of itself.
    fn read_engine(&self, labels: &RouteLabels, status: &local_engine::Status) {
        self.engine_heartbeat.get_or_create(labels).set(status.heartbeat_age.as_secs_f64());
        set_seconds(&self.engine_busy.get_or_create(labels), status.busy);
        self.engine_cells.get_or_create(labels).set(i64::from(status.kv_used));
        self.engine_checkpoints.get_or_create(labels).set(signed(status.checkpoint_bytes));
        let drafted: u64 = status.speculation.iter().map(|class| class.drafted).sum();
        set(&self.engine_drafted.get_or_create(labels), drafted);
        let accepted: u64 = status.speculation.iter().map(|class| class.accepted).sum();
        set(&self.engine_accepted.get_or_create(labels), accepted);
        set(&self.engine_prefix_hits.get_or_create(labels), status.prefix_hits);
        set(&self.engine_prefix_evictions.get_or_create(labels), status.evictions);
        set(&self.engine_preemptions.get_or_create(labels), status.preemptions);
        let drafting = status.draft.as_ref().map_or(Duration::ZERO, |draft| draft.busy);
        set_seconds(&self.engine_draft_busy.get_or_create(labels), drafting);
    }

    /// No model is loaded: what one has said last is said no more.
    fn forget_engine(&self, labels: &RouteLabels) {
        self.engine_heartbeat.remove(labels);
        for seconds in [&self.engine_busy, &self.engine_draft_busy] {
            seconds.remove(labels);
        }
        for tokens in [&self.engine_drafted, &self.engine_accepted] {
            tokens.remove(labels);
        }
        let of_cells = [&self.engine_prefix_hits, &self.engine_prefix_evictions];
        for times in of_cells.into_iter().chain([&self.engine_preemptions]) {
            times.remove(labels);
        }
        for held in [&self.engine_cells, &self.engine_checkpoints] {
            held.remove(labels);
        }
    }
}

impl State {
    pub(super) fn register_cache(&self, registry: &mut Registry) {
        registry.register(
            "cache_requests",
            "Requests that the answer cache was looked at for, by what it had (hit, miss, or \
             coalesced: one that was running)",
            self.cache_requests.clone(),
        );
        registry.register(
            "cache_evicted",
            "Kept answers given up for room or for age",
            self.cache_evicted.clone(),
        );
        let gauges = [
            ("cache_answers", "Answers that are kept", &self.cache_answers),
            ("cache_bytes", "Bytes that kept answers take", &self.cache_bytes),
            (
                "cache_flights",
                "Upstream calls that several requests may share",
                &self.cache_flights,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "shared_answer_bytes",
            "Bytes of answers that several requests may have (by the answer cache, or by an \
             idempotency key): that are coming, kept, or still being given",
            self.shared_bytes.clone(),
        );
        registry.register(
            "shared_answers_let_go",
            "Such answers that let go of their beginning while they came, because they were too long \
             or all together took too much: they are not given again",
            self.shared_let_go.clone(),
        );
    }

    fn read_shared(&self, by: &'static str, counts: &CacheCounts) {
        let labels = SharedLabels { by };
        self.shared_bytes.get_or_create(&labels).set(signed(counts.held_bytes));
        set(&self.shared_let_go.get_or_create(&labels), counts.let_go);
    }

    fn read_cache(&self, counts: &CacheCounts) {
        self.read_shared("cache", counts);
        for (found, count) in
            [("hit", counts.hits), ("miss", counts.misses), ("coalesced", counts.coalesced)]
        {
            set(&self.cache_requests.get_or_create(&CacheLabels { found }), count);
        }
        set(&self.cache_evicted, counts.evicted);
        self.cache_answers.set(signed(counts.answers));
        self.cache_bytes.set(signed(counts.bytes));
        self.cache_flights.set(signed(counts.flights));
    }
}

/// Who counts for itself has its counter set to what it has counted.
fn set(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}

fn set_seconds(counter: &Counter<f64, AtomicU64>, time: Duration) {
    // Such a counter keeps the bits of its number.
    counter.inner().store(time.as_secs_f64().to_bits(), Ordering::Relaxed);
}

fn signed<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
