//! What a route has shown lately: TTFT percentiles, upstream failures, usual answer length. Fed by
//! every attempt, read by every decision.
//!
//! **Invariant:** a caller's own bad request never counts here.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Attempts remembered.
const WINDOW: usize = 128;
/// Attempts that must have been seen before a percentile or a share is told.
const SAMPLES_MIN: usize = 8;
/// Percentiles are computed anew after so many attempts: deciding reads atomics only.
const REFRESH_EVERY: usize = 8;
/// "Not known yet" in the atomics.
const UNKNOWN: u64 = u64::MAX;

/// A route's recent past.
#[derive(Debug)]
pub struct Live {
    recent: Mutex<Recent>,
    ttft_p50_us: AtomicU64,
    ttft_p95_us: AtomicU64,
    output_mean: AtomicU64,
    output_max: AtomicU64,
    failed_permille: AtomicU64,
    in_flight: AtomicU32,
}

#[derive(Debug)]
struct Recent {
    ttft_us: Ring<u64>,
    output_tokens: Ring<u64>,
    failed: Ring<bool>,
    since_refresh: usize,
    /// When the last TTFT was learnt.
    ttft_at: Option<Instant>,
}

#[derive(Debug)]
struct Ring<T> {
    items: Vec<T>,
    next: usize,
}

/// One request on a route; gone when dropped.
#[derive(Debug)]
pub struct InFlight(std::sync::Arc<super::Route>);

// === impl Live ===

impl Live {
    /// A route nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            recent: Mutex::new(Recent {
                ttft_us: Ring::new(),
                output_tokens: Ring::new(),
                failed: Ring::new(),
                since_refresh: 0,
                ttft_at: None,
            }),
            ttft_p50_us: AtomicU64::new(UNKNOWN),
            ttft_p95_us: AtomicU64::new(UNKNOWN),
            output_mean: AtomicU64::new(UNKNOWN),
            output_max: AtomicU64::new(UNKNOWN),
            failed_permille: AtomicU64::new(UNKNOWN),
            in_flight: AtomicU32::new(0),
        }
    }

    /// An attempt gave an answer.
    pub fn answered(&self, ttft: Option<Duration>, output_tokens: Option<u64>) {
        self.learn(|recent| {
            recent.failed.push(false);
            if let Some(ttft) = ttft {
                recent.ttft_us.push(crate::timeline::micros(ttft));
                recent.ttft_at = Some(Instant::now());
            }
            if let Some(tokens) = output_tokens {
                recent.output_tokens.push(tokens);
            }
        });
    }

    /// An attempt failed by the route's own fault.
    pub fn failed(&self) {
        self.learn(|recent| recent.failed.push(true));
    }

    /// Median and 95th percentile of TTFT in microseconds, once enough attempts were seen.
    #[must_use]
    pub fn ttft_us(&self) -> (Option<u64>, Option<u64>) {
        (known(&self.ttft_p50_us), known(&self.ttft_p95_us))
    }

    /// Median of TTFT in microseconds, if one was seen within the last `age`.
    #[must_use]
    pub fn fresh_ttft_p50_us(&self, age: Duration) -> Option<u64> {
        let p50 = known(&self.ttft_p50_us)?;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.ttft_at.is_some_and(|at| at.elapsed() <= age).then_some(p50)
    }

    /// Mean answer length in tokens, once enough attempts were seen.
    #[must_use]
    pub fn output_tokens_mean(&self) -> Option<u64> {
        known(&self.output_mean)
    }

    /// The longest of the recent answers in tokens, once enough attempts were seen.
    #[must_use]
    pub fn output_tokens_max(&self) -> Option<u64> {
        known(&self.output_max)
    }

    /// Failed attempts in thousandths of the recent ones.
    #[must_use]
    pub fn failed_permille(&self) -> Option<u32> {
        known(&self.failed_permille).and_then(|share| u32::try_from(share).ok())
    }

    /// Requests being answered.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn learn(&self, note: impl FnOnce(&mut Recent)) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut recent);
        recent.since_refresh += 1;
        if recent.since_refresh >= REFRESH_EVERY {
            recent.since_refresh = 0;
            self.refresh(&recent);
        }
    }

    fn refresh(&self, recent: &Recent) {
        if recent.ttft_us.items.len() >= SAMPLES_MIN {
            let mut all = recent.ttft_us.items.clone();
            self.ttft_p50_us.store(nearest_rank(&mut all, 50), Ordering::Relaxed);
            self.ttft_p95_us.store(nearest_rank(&mut all, 95), Ordering::Relaxed);
        }
        let lengths = &recent.output_tokens.items;
        if lengths.len() >= SAMPLES_MIN {
            // Providers report what they like.
            let sum: u128 = lengths.iter().map(|tokens| u128::from(*tokens)).sum();
            let mean = u64::try_from(sum / lengths.len() as u128).unwrap_or(u64::MAX);
            self.output_mean.store(mean, Ordering::Relaxed);
            let longest = lengths.iter().copied().max().unwrap_or(UNKNOWN);
            self.output_max.store(longest, Ordering::Relaxed);
        }
        let seen = recent.failed.items.len();
        if seen >= SAMPLES_MIN {
            let failed = recent.failed.items.iter().filter(|failed| **failed).count();
            self.failed_permille.store((failed * 1000 / seen) as u64, Ordering::Relaxed);
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn known(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Ordering::Relaxed)).filter(|value| *value != UNKNOWN)
}

/// The smallest value that at least `percent` of all values, one at least, do not exceed. It comes to
/// its place; sorting them all would take several times as long.
fn nearest_rank(all: &mut [u64], percent: usize) -> u64 {
    let rank = (all.len() * percent).div_ceil(100).max(1);
    *all.select_nth_unstable(rank - 1).1
}

// === impl Ring ===

impl<T> Ring<T> {
    fn new() -> Self {
        Self { items: Vec::new(), next: 0 }
    }

    fn push(&mut self, item: T) {
        if self.items.len() < WINDOW {
            self.items.push(item);
        } else {
            self.items[self.next] = item;
            self.next = (self.next + 1) % WINDOW;
        }
    }
}

// === impl InFlight ===

impl InFlight {
    /// Counts one request on `route` until it is dropped.
    #[must_use]
    pub fn on(route: &std::sync::Arc<super::Route>) -> Self {
        route.live.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(std::sync::Arc::clone(route))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.live.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_nothing_before_it_has_seen_enough() {
        let live = Live::new();
        for _ in 0..SAMPLES_MIN - 1 {
            live.answered(Some(Duration::from_millis(5)), Some(10));
        }
        assert_eq!(live.ttft_us(), (None, None));
        assert_eq!(live.failed_permille(), None);
        live.failed();
        assert_eq!(live.failed_permille(), Some(125));
    }

    #[test]
    fn forgets_what_is_older_than_its_window() {
        let live = Live::new();
        for _ in 0..WINDOW {
            live.answered(Some(Duration::from_secs(9)), Some(1));
        }
        for _ in 0..WINDOW {
            live.answered(Some(Duration::from_millis(1)), Some(100));
        }
        assert_eq!(live.ttft_us(), (Some(1000), Some(1000)));
        assert_eq!(live.output_tokens_mean(), Some(100));
        assert_eq!(live.output_tokens_max(), Some(100));
    }

    #[test]
    fn survives_any_length_that_is_reported() {
        let live = Live::new();
        for _ in 0..WINDOW {
            live.answered(None, Some(u64::MAX - 1));
        }
        assert_eq!(live.output_tokens_mean(), Some(u64::MAX - 1));
    }
}
