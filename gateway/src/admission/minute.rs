//! Requests per minute: governor's GCRA on the runtime's clock, so that tests can move it.
//!
//! A whole minute's requests may come at once; after that one is let in each `60 s / limit`.

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use std::{num::NonZeroU32, ops::Add, time::Duration};
use tokio::time::Instant;

/// Where a requests-per-minute limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests per minute.
    pub limit: u32,
    /// Requests that could come now.
    pub remaining: u32,
    /// Until all of them could come again, at most.
    pub reset: Duration,
}

/// A limit on requests per minute.
#[derive(Debug)]
pub(super) struct MinuteLimit {
    limit: NonZeroU32,
    limiter: RateLimiter<NotKeyed, InMemoryState, RuntimeClock, StateInformationMiddleware>,
}

/// The runtime's clock, for governor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuntimeClock;

/// An instant of [`RuntimeClock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuntimeInstant(Instant);

impl MinuteLimit {
    /// A limit of which nothing is used. A limit of 0 lets one through a minute: governor knows no
    /// smaller one, and the configuration refuses 0.
    pub(super) fn new(limit: u32) -> Self {
        let limit = NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(limit);
        let limiter = RateLimiter::new(quota, InMemoryState::default(), RuntimeClock);
        Self { limit, limiter }
    }

    /// Requests per minute.
    pub(super) fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Lets one request through, or says how long to wait.
    pub(super) fn pass(&self) -> Result<Rate, Duration> {
        match self.limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.limit().saturating_sub(remaining);
                let reset = state.quota().replenish_interval().saturating_mul(used);
                Ok(Rate { limit: self.limit(), remaining, reset })
            }
            Err(not_until) => Err(not_until.wait_time_from(RuntimeClock.now())),
        }
    }
}

impl Clock for RuntimeClock {
    type Instant = RuntimeInstant;

    fn now(&self) -> RuntimeInstant {
        RuntimeInstant(Instant::now())
    }
}

impl Reference for RuntimeInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        self.0.checked_sub(duration.into()).map_or(*self, Self)
    }
}

impl Add<Nanos> for RuntimeInstant {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0 + Duration::from(other))
    }
}
