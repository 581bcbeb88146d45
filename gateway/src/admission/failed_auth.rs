//! Wrong keys from one address: the first few a minute are answered 401, more 429.
//!
//! **Invariant:** only wrong keys are counted and held up; memory is bounded whatever addresses
//! come.

use super::minute::{MinuteLimit, RuntimeClock};
use governor::{
    Quota, RateLimiter, clock::Clock as _, middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};
use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Addresses remembered at most. Beyond that, new ones share one limit.
const ADDRESSES_MAX: usize = 16_384;
/// A full memory is swept for addresses whose minute is over no more often than this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

type Clocked = <RuntimeClock as governor::clock::Clock>::Instant;

/// Counts failed authentications per address.
#[derive(Debug)]
pub(crate) struct FailedAuth {
    by_address:
        RateLimiter<IpAddr, DashMapStateStore<IpAddr>, RuntimeClock, NoOpMiddleware<Clocked>>,
    others: MinuteLimit,
    swept: Mutex<Option<Instant>>,
}

impl FailedAuth {
    /// Answers `per_minute` failures of each address.
    pub(crate) fn new(per_minute: u32) -> Self {
        let limit = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self {
            by_address: RateLimiter::dashmap_with_clock(Quota::per_minute(limit), RuntimeClock),
            others: MinuteLimit::new(per_minute),
            swept: Mutex::new(None),
        }
    }

    /// Counts a failure.
    ///
    /// # Errors
    /// How long to wait, if there were too many.
    pub(crate) fn count(&self, peer: IpAddr) -> Result<(), Duration> {
        if self.by_address.len() >= ADDRESSES_MAX {
            self.sweep();
            if self.by_address.len() >= ADDRESSES_MAX {
                return self.others.pass().map(|_| ());
            }
        }
        self.by_address
            .check_key(&network(peer))
            .map_err(|not_until| not_until.wait_time_from(RuntimeClock.now()))
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|last| now.duration_since(last) >= SWEEP_INTERVAL) {
            *swept = Some(now);
            self.by_address.retain_recent();
        }
    }

    /// Addresses remembered.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.by_address.len()
    }
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 one, since whoever has one of
/// those has all of them.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
pub(super) const TEST_ADDRESSES_MAX: usize = ADDRESSES_MAX;
