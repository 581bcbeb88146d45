//! What a route has shown lately: TTFT percentiles, upstream failures, usual answer length. Fed by
//! every attempt, read by every decision.
//!
//! An answer that comes whole has no first token, and how long it takes is its length: such times stand
//! apart, for those who wait for whole answers.
//!
//! **Invariants:** a caller's own bad request never counts here; nor does, for how fast a route is and
//! how often it fails, what is older than [`AGE_MAX`], so that a route which a policy avoids for what
//! it was is a stranger again after a while. How long answers are is no passing state and does not age.

use crate::timeline::micros;
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
/// Older attempts tell neither how fast a route is nor how often it fails. Long enough for a gateway
/// that is asked once a minute to know its routes.
pub const AGE_MAX: Duration = Duration::from_mins(10);
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
    whole_p50_us: AtomicU64,
    output_mean: AtomicU64,
    output_max: AtomicU64,
    failed_permille: AtomicU64,
    /// When the oldest attempt that counts will be too old, in microseconds since `born`.
    stale_at_us: AtomicU64,
    born: Instant,
    in_flight: AtomicU32,
}

/// How fast a route was lately and how often it failed; `None` before enough was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// Median TTFT in microseconds.
    pub ttft_p50_us: Option<u64>,
    /// 95th percentile of TTFT in microseconds.
    pub ttft_p95_us: Option<u64>,
    /// Failed attempts in thousandths of all.
    pub failed_permille: Option<u32>,
}

/// How long an answer let its request wait, since that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The first token of an answer that came in pieces.
    FirstToken(Duration),
    /// An answer that came whole.
    Whole(Duration),
}

#[derive(Debug)]
struct Recent {
    ttft_us: Ring<Timed<u64>>,
    whole_us: Ring<Timed<u64>>,
    output_tokens: Ring<u64>,
    failed: Ring<Timed<bool>>,
    since_refresh: usize,
}

/// What an attempt showed, and when: in microseconds since the route's birth, which are compared by
/// the hundred.
#[derive(Clone, Copy, Debug)]
struct Timed<T> {
    at_us: u64,
    shown: T,
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
                whole_us: Ring::new(),
                output_tokens: Ring::new(),
                failed: Ring::new(),
                since_refresh: 0,
            }),
            ttft_p50_us: AtomicU64::new(UNKNOWN),
            ttft_p95_us: AtomicU64::new(UNKNOWN),
            whole_p50_us: AtomicU64::new(UNKNOWN),
            output_mean: AtomicU64::new(UNKNOWN),
            output_max: AtomicU64::new(UNKNOWN),
            failed_permille: AtomicU64::new(UNKNOWN),
            stale_at_us: AtomicU64::new(UNKNOWN),
            born: Instant::now(),
            in_flight: AtomicU32::new(0),
        }
    }

    /// An attempt gave an answer, each choice of so many tokens.
    pub fn answered(&self, waited: Option<Waited>, output_tokens: Option<u64>) {
        self.learn(|recent, at_us| {
            recent.failed.push(Timed { at_us, shown: false });
            let timed = |time| Timed { at_us, shown: micros(time) };
            match waited {
                Some(Waited::FirstToken(time)) => recent.ttft_us.push(timed(time)),
                Some(Waited::Whole(time)) => recent.whole_us.push(timed(time)),
                None => {}
            }
            if let Some(tokens) = output_tokens {
                recent.output_tokens.push(tokens);
            }
        });
    }

    /// An attempt failed by the route's own fault.
    pub fn failed(&self) {
        self.learn(|recent, at_us| recent.failed.push(Timed { at_us, shown: true }));
    }

    /// How fast it was and how often it failed. Reads atomics, and computes anew only once for each
    /// attempt that has become too old.
    #[must_use]
    pub fn lately(&self) -> Lately {
        if let Some(stale_at) = known(&self.stale_at_us) {
            let now_us = self.now_us();
            if now_us >= stale_at {
                self.refresh(&self.recent.lock().unwrap_or_else(PoisonError::into_inner), now_us);
            }
        }
        Lately {
            ttft_p50_us: known(&self.ttft_p50_us),
            ttft_p95_us: known(&self.ttft_p95_us),
            failed_permille: known(&self.failed_permille)
                .and_then(|share| u32::try_from(share).ok()),
        }
    }

    /// Median of TTFT in microseconds, or of the time of whole answers where it is not `streamed`, if
    /// one was seen within the last `age`.
    #[must_use]
    pub fn fresh_p50_us(&self, streamed: bool, age: Duration) -> Option<u64> {
        let ttft_p50_us = self.lately().ttft_p50_us;
        let p50 = if streamed { ttft_p50_us } else { known(&self.whole_p50_us) }?;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = if streamed { &recent.ttft_us } else { &recent.whole_us };
        let newest = ring.newest()?;
        (self.now_us().saturating_sub(newest.at_us) <= micros(age)).then_some(p50)
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

    /// Requests being answered.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Microseconds since its birth.
    fn now_us(&self) -> u64 {
        micros(self.born.elapsed())
    }

    fn learn(&self, note: impl FnOnce(&mut Recent, u64)) {
        let now_us = self.now_us();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut recent, now_us);
        recent.since_refresh += 1;
        if recent.since_refresh >= REFRESH_EVERY {
            recent.since_refresh = 0;
            self.refresh(&recent, now_us);
        }
    }

    fn refresh(&self, recent: &Recent, now_us: u64) {
        let mut oldest = None;
        let mut count =
            |at_us| oldest = Some(oldest.map_or(at_us, |oldest: u64| oldest.min(at_us)));
        let mut times = Vec::with_capacity(WINDOW);
        for seen in recent.ttft_us.fresh(now_us) {
            times.push(seen.shown);
            count(seen.at_us);
        }
        self.ttft_p50_us.store(ranked(&mut times, 50), Ordering::Relaxed);
        self.ttft_p95_us.store(ranked(&mut times, 95), Ordering::Relaxed);
        times.clear();
        for seen in recent.whole_us.fresh(now_us) {
            times.push(seen.shown);
            count(seen.at_us);
        }
        self.whole_p50_us.store(ranked(&mut times, 50), Ordering::Relaxed);
        let (mut ended, mut failed) = (0, 0);
        for seen in recent.failed.fresh(now_us) {
            ended += 1;
            failed += usize::from(seen.shown);
            count(seen.at_us);
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
        let share = if ended >= SAMPLES_MIN { (failed * 1000 / ended) as u64 } else { UNKNOWN };
        self.failed_permille.store(share, Ordering::Relaxed);
        let stale_at = oldest.map_or(UNKNOWN, |at_us| at_us.saturating_add(micros(AGE_MAX)));
        self.stale_at_us.store(stale_at, Ordering::Relaxed);
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

/// [`nearest_rank`] once enough was seen.
fn ranked(times: &mut [u64], percent: usize) -> u64 {
    if times.len() >= SAMPLES_MIN { nearest_rank(times, percent) } else { UNKNOWN }
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

    fn newest(&self) -> Option<&T> {
        let before = self.next.checked_sub(1).unwrap_or(self.items.len().saturating_sub(1));
        self.items.get(before)
    }
}

impl<T> Ring<Timed<T>> {
    /// Those that are not too old.
    fn fresh(&self, now_us: u64) -> impl Iterator<Item = &Timed<T>> {
        let age_max = micros(AGE_MAX);
        self.items.iter().filter(move |seen| now_us.saturating_sub(seen.at_us) < age_max)
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
            live.answered(Some(Waited::FirstToken(Duration::from_millis(5))), Some(10));
        }
        assert_eq!(live.lately(), Lately::default());
        live.failed();
        assert_eq!(live.lately().failed_permille, Some(125));
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_is_a_stranger_again_once_all_that_was_seen_of_it_is_old() {
        let live = Live::new();
        for _ in 0..SAMPLES_MIN {
            live.answered(Some(Waited::FirstToken(Duration::from_secs(9))), Some(100));
            live.failed();
        }
        let slow = Lately {
            ttft_p50_us: Some(9_000_000),
            ttft_p95_us: Some(9_000_000),
            failed_permille: Some(500),
        };
        assert_eq!(live.lately(), slow);
        tokio::time::advance(AGE_MAX - Duration::from_millis(1)).await;
        assert_eq!(live.lately(), slow);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(live.lately(), Lately::default(), "nobody asked it since");
        assert_eq!(live.output_tokens_mean(), Some(100), "answers are as long as they were");
    }

    #[tokio::test(start_paused = true)]
    async fn old_attempts_do_not_count_beside_new_ones() {
        let live = Live::new();
        for _ in 0..WINDOW {
            live.failed();
        }
        tokio::time::advance(AGE_MAX / 2).await;
        for _ in 0..SAMPLES_MIN {
            live.answered(Some(Waited::FirstToken(Duration::from_millis(1))), Some(1));
        }
        assert_eq!(live.lately().failed_permille, Some(937));
        tokio::time::advance(AGE_MAX / 2).await;
        let now = live.lately();
        assert_eq!((now.failed_permille, now.ttft_p50_us), (Some(0), Some(1000)));
    }

    #[test]
    fn whole_answers_tell_nothing_of_first_tokens() {
        let live = Live::new();
        let p50s = || [true, false].map(|streamed| live.fresh_p50_us(streamed, AGE_MAX));
        for _ in 0..SAMPLES_MIN {
            live.answered(Some(Waited::Whole(Duration::from_secs(30))), Some(1));
        }
        assert_eq!((live.lately().ttft_p95_us, p50s()), (None, [None, Some(30_000_000)]));
        for _ in 0..SAMPLES_MIN {
            live.answered(Some(Waited::FirstToken(Duration::from_millis(1))), Some(1));
        }
        assert_eq!(
            (live.lately().ttft_p95_us, p50s()),
            (Some(1000), [Some(1000), Some(30_000_000)])
        );
    }

    #[test]
    fn forgets_what_is_older_than_its_window() {
        let live = Live::new();
        for _ in 0..WINDOW {
            live.answered(Some(Waited::FirstToken(Duration::from_secs(9))), Some(1));
        }
        for _ in 0..WINDOW {
            live.answered(Some(Waited::FirstToken(Duration::from_millis(1))), Some(100));
        }
        let now = live.lately();
        assert_eq!((now.ttft_p50_us, now.ttft_p95_us), (Some(1000), Some(1000)));
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
