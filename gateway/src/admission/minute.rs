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
use std::{
    num::NonZeroU32,
    ops::Add,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// Where a requests-per-minute limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests (or tokens) per minute.
    pub limit: u64,
    /// How many could come now.
    pub remaining: u64,
    /// Until all of them could come again.
    pub reset: Duration,
}

/// A limit on requests per minute.
#[derive(Debug)]
pub(super) struct MinuteLimit {
    limit: NonZeroU32,
    limiter: RateLimiter<NotKeyed, InMemoryState, RuntimeClock, StateInformationMiddleware>,
    /// Governor tells its state only to those it lets through. Kept for the others: when nothing
    /// of the minute will be used any more, in nanoseconds after `since`.
    unused_at: AtomicU64,
    /// Requests that were given back, which governor cannot take: they go before new ones, and are no
    /// more than are used.
    given_back: AtomicU32,
    since: Instant,
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
        Self {
            limit,
            limiter,
            unused_at: AtomicU64::new(0),
            given_back: AtomicU32::new(0),
            since: Instant::now(),
        }
    }

    /// Requests per minute.
    pub(super) fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Lets one request through, or says how long to wait.
    pub(super) fn pass(&self) -> Result<Rate, Duration> {
        let now_ns = self.now_ns();
        let used = self.used(now_ns);
        let one_less = |given_back: u32| given_back.min(used).checked_sub(1);
        if self.given_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return Ok(self.rate());
        }
        match self.limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = self.limit().saturating_sub(remaining);
                let reset = self.interval().saturating_mul(used);
                self.unused_at.fetch_max(now_ns + nanos(reset), Ordering::Relaxed);
                Ok(self.rate_of(remaining, reset))
            }
            Err(not_until) => Err(not_until.wait_time_from(RuntimeClock.now())),
        }
    }

    /// A request that was let through came to nothing: another one may come instead.
    pub(super) fn give_back(&self) {
        let used = self.used(self.now_ns());
        let one_more = |given_back: u32| (given_back < used).then_some(given_back + 1);
        let _none_is_used =
            self.given_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// Where the limit stands, without using any of it.
    pub(super) fn rate(&self) -> Rate {
        let now_ns = self.now_ns();
        let used = self.used(now_ns);
        let given_back = self.given_back.load(Ordering::Relaxed).min(used);
        let left = Duration::from_nanos(self.left_ns(now_ns));
        let reset = left.saturating_sub(self.interval().saturating_mul(given_back));
        self.rate_of(self.limit().saturating_sub(used - given_back), reset)
    }

    /// Requests that count, those that were given back among them.
    fn used(&self, now_ns: u64) -> u32 {
        let used = self.left_ns(now_ns).div_ceil(nanos(self.interval()).max(1));
        u32::try_from(used).unwrap_or(u32::MAX).min(self.limit())
    }

    /// Until nothing of the minute is used.
    fn left_ns(&self, now_ns: u64) -> u64 {
        self.unused_at.load(Ordering::Relaxed).saturating_sub(now_ns)
    }

    fn rate_of(&self, remaining: u32, reset: Duration) -> Rate {
        Rate { limit: u64::from(self.limit()), remaining: u64::from(remaining), reset }
    }

    /// Time after which one more request may come.
    fn interval(&self) -> Duration {
        Duration::from_secs(60) / self.limit()
    }

    fn now_ns(&self) -> u64 {
        nanos(self.since.elapsed())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
