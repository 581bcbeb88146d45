//! Measures how long local models are loaded, and writes it to the ledger: an idle machine costs, and
//! no request pays it.
//!
//! **Invariants:** time is counted while a model is loaded at both ends of a second; what was counted
//! is written once a minute and at the end, so that a crash loses at most the last minute of it and
//! the engine time of the requests that ended in it.

use crate::{
    ledger::{Books, Entry, Stood},
    routes::{Route, Routes, Source},
    serve::Gateway,
};
use policies::{ComputePrice, Pricing, RouteId, RoutePrice};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether a model is loaded.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two events of the ledger.
const LOOKS_A_WRITE: u32 = 60;

/// What was counted and is not written yet.
#[derive(Debug)]
pub struct IdleMeter(Vec<Metered>);

#[derive(Debug)]
struct Metered {
    route: RouteId,
    price: Arc<ComputePrice>,
    loaded_ns: AtomicU64,
    engine_ns: AtomicU64,
    /// Since the start, for the metrics.
    loaded_total_ns: AtomicU64,
    engine_total_ns: AtomicU64,
}

impl IdleMeter {
    /// A meter of every local route whose machine has a price.
    #[must_use]
    pub fn new<'a>(routes: impl Iterator<Item = &'a Arc<Route>>) -> Self {
        let metered = |route: &Arc<Route>| {
            let Pricing::Always(RoutePrice::Compute(price)) = &route.config.price else {
                return None;
            };
            Some(Metered {
                route: route.id().clone(),
                price: Arc::clone(price),
                loaded_ns: AtomicU64::default(),
                engine_ns: AtomicU64::default(),
                loaded_total_ns: AtomicU64::default(),
                engine_total_ns: AtomicU64::default(),
            })
        };
        Self(routes.filter(|route| route.is_local()).filter_map(metered).collect())
    }

    /// A request ended: its engine time is nobody's idle time.
    pub fn served(&self, entry: &Entry) {
        for attempt in &entry.attempts {
            let of = self.0.iter().find(|metered| metered.route == attempt.route);
            if let (Some(metered), Some(engine_ns)) = (of, attempt.times.engine_ns) {
                metered.engine_ns.fetch_add(engine_ns, Ordering::Relaxed);
                metered.engine_total_ns.fetch_add(engine_ns, Ordering::Relaxed);
            }
        }
    }

    /// What each model's idle time has cost since the start, in pico-USD, by route.
    pub(crate) fn costs(&self) -> impl Iterator<Item = (&RouteId, u128)> {
        self.0.iter().map(|metered| {
            let loaded = metered.loaded_total_ns.load(Ordering::Relaxed);
            let engine = metered.engine_total_ns.load(Ordering::Relaxed);
            (&metered.route, metered.stood(loaded, engine).idle_pico())
        })
    }

    /// Counts `elapsed` for each model that was loaded all the time.
    fn look(&self, routes: &Routes, was: &mut [bool], elapsed: Duration) {
        for (metered, was) in self.0.iter().zip(was) {
            let is = routes.get(&metered.route).is_some_and(|route| match &route.source {
                Source::Local(local) => local.model().loaded().is_some(),
                Source::Cloud(_) => false,
            });
            if std::mem::replace(was, is) && is {
                let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
                metered.loaded_ns.fetch_add(ns, Ordering::Relaxed);
                metered.loaded_total_ns.fetch_add(ns, Ordering::Relaxed);
            }
        }
    }

    /// Hands what was counted to the ledger; where it takes nothing, it is counted on.
    fn write(&self, books: &Books) {
        for metered in &self.0 {
            let loaded = metered.loaded_ns.swap(0, Ordering::Relaxed);
            let engine = metered.engine_ns.swap(0, Ordering::Relaxed);
            if loaded == 0 && engine == 0 {
                continue;
            }
            if let Err(error) = books.stood(&metered.stood(loaded, engine)) {
                tracing::warn!(%error, "how long a model was loaded waits to be written");
                metered.loaded_ns.fetch_add(loaded, Ordering::Relaxed);
                metered.engine_ns.fetch_add(engine, Ordering::Relaxed);
            }
        }
    }
}

impl Metered {
    fn stood(&self, loaded_ns: u64, engine_ns: u64) -> Stood {
        Stood {
            route: self.route.clone(),
            price: self.price.id.clone(),
            idle_per_hour: self.price.per_hour.less(self.price.power_per_hour),
            loaded_ns,
            engine_ns,
        }
    }
}

/// Until the server stops.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let meter = &gateway.idle;
    if meter.0.is_empty() {
        return;
    }
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut was, mut last, mut looks) = (vec![false; meter.0.len()], Instant::now(), 0);
    loop {
        let stopped = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        let now = Instant::now();
        meter.look(&gateway.routes, &mut was, now - std::mem::replace(&mut last, now));
        looks += 1;
        if stopped || looks >= LOOKS_A_WRITE {
            looks = 0;
            meter.write(&gateway.books);
        }
        if stopped {
            return;
        }
    }
}
