//! Hedging on the first token: when a route is slower than it usually is, another one starts beside
//! it, and whoever speaks first answers.
//!
//! **Invariants:** both routes are of the plan, so the guards allowed both; each attempt has its own
//! reservation; the loser is cancelled and booked as estimated, for the provider may bill it; extra
//! calls are a bounded share of the requests that could be hedged, and none is made while the
//! gateway is loaded.

use super::{Execution, Started, miss::Miss};
use crate::{config::HedgeConfig, extras::Extras, ledger::Role, routes::Route};
use futures::future::{Either, select};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// What befell a route, and the one that was started beside it, if one was.
pub(super) struct Missed {
    pub(super) first: Box<Miss>,
    pub(super) hedge: Option<Box<Miss>>,
}

impl Missed {
    pub(super) fn one(miss: Miss) -> Self {
        Self { first: Box::new(miss), hedge: None }
    }

    fn both(first: Miss, hedge: Miss) -> Self {
        Self { first: Box::new(first), hedge: Some(Box::new(hedge)) }
    }
}

/// What hedges are allowed, over all requests.
#[derive(Debug)]
pub struct Hedging {
    config: HedgeConfig,
    extras: Extras,
}

impl Hedging {
    /// As configured.
    #[must_use]
    pub fn new(config: HedgeConfig) -> Self {
        Self { extras: Extras::new(config.extra_permille, config.burst), config }
    }

    /// Whether `in_flight` of `max` requests are too many for extra ones.
    #[must_use]
    pub fn is_off_at(&self, in_flight: usize, max: usize) -> bool {
        let permille = u128::from(self.config.loaded_permille);
        (in_flight as u128) * 1000 >= permille * (max as u128)
    }

    /// How long a route may take before another starts: its live 95th percentile.
    fn delay(&self, route: &Route) -> Option<Duration> {
        let p95 = route.live.lately().ttft_p95_us;
        p95.map(|us| Duration::from_micros(us).max(self.config.delay_min))
    }
}

impl Execution<'_> {
    /// An attempt on `first`, and one on `second` beside it once `first` is late. Only a stream has
    /// a first token to be late with; of others the usual time says too little.
    ///
    /// # Errors
    /// What befell the first, and the second if it was started.
    pub(super) async fn hedged(
        &self,
        first: &Arc<Route>,
        second: &Arc<Route>,
    ) -> Result<Started, Missed> {
        let alone = |tried: Result<Started, Miss>| tried.map_err(Missed::one);
        let hedging = self.bounds.hedging.filter(|_| self.request.stream);
        let Some(hedging) = hedging else {
            return alone(self.attempt(first, Role::Fallback).await);
        };
        hedging.extras.note();
        let Some(delay) = hedging.delay(first) else {
            return alone(self.attempt(first, Role::Fallback).await);
        };
        let started = Instant::now();
        let attempt = pin!(self.attempt(first, Role::Fallback));
        let attempt = match select(attempt, pin!(sleep_until(started + delay))).await {
            Either::Left((tried, _)) => return alone(tried),
            Either::Right(((), attempt)) => attempt,
        };
        if !self.may_hedge(second) || !hedging.extras.take() {
            return alone(attempt.await);
        }
        second.retries.note();
        let before = self.book.last();
        let hedge = pin!(self.attempt(second, Role::Hedge));
        let started = match select(attempt, hedge).await {
            // Dropping the other cancels it, and ends its record.
            Either::Left((Ok(started), _)) | Either::Right((Ok(started), _)) => started,
            Either::Left((Err(miss), hedge)) => {
                hedge.await.map_err(|hedge_miss| Missed::both(miss, hedge_miss))?
            }
            Either::Right((Err(hedge_miss), attempt)) => {
                attempt.await.map_err(|miss| Missed::both(miss, hedge_miss))?
            }
        };
        let both = [before, self.book.last()];
        if both[0] != both[1] {
            for attempt in both.into_iter().flatten() {
                let won = started.attempt == Some(attempt);
                self.book.note(attempt, |record| record.hedge_winner = Some(won));
            }
        }
        Ok(started)
    }

    /// Whether `second` has room at once: a hedge that waits in a queue is only more load.
    fn may_hedge(&self, second: &Route) -> bool {
        !self.spent() && second.state() == policies::RouteState::Ready
    }
}
