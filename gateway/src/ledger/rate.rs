//! Tokens per minute: a refundable rate limit (GCRA).
//!
//! The worst case is taken with the reservation and the unused part is given back at settlement,
//! so an answer that stops early frees the limit at once. What was taken refills in the order of
//! taking, and what has refilled is not given back: it would be there twice. **Invariant:** within any
//! minute no more than twice the limit passes (a full burst and a minute's refill), as for every GCRA
//! with a burst of one minute; a refund never makes the bucket fuller than full.

use std::time::Duration;

const MINUTE_NS: u128 = 60_000_000_000;

/// One limit's state. Times are durations since a base the caller keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    limit: u64,
    /// When the bucket would be full again, nanoseconds since the base.
    full_at: u128,
}

impl Rate {
    /// A full bucket of `limit` tokens that refills within a minute.
    pub(crate) fn per_minute(limit: u64) -> Self {
        Self { limit, full_at: 0 }
    }

    /// The same bucket under another limit: what was taken stays taken.
    pub(crate) fn with_limit(self, limit: u64, now: Duration) -> Self {
        let taken = self.limit.saturating_sub(self.left(now));
        let mut rate = Self::per_minute(limit);
        rate.take(taken, now);
        rate
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// What could be taken now.
    pub(crate) fn left(&self, now: Duration) -> u64 {
        let behind = self.full_at.saturating_sub(now.as_nanos());
        let free = MINUTE_NS.saturating_sub(behind);
        u64::try_from(free * u128::from(self.limit) / MINUTE_NS).unwrap_or(u64::MAX)
    }

    /// How long until `tokens` could be taken: zero if now. More than the limit never can; that
    /// waits for a full bucket.
    pub(crate) fn wait(&self, tokens: u64, now: Duration) -> Duration {
        let room = MINUTE_NS.saturating_sub(self.cost(tokens.min(self.limit)));
        let wait = self.full_at.saturating_sub(now.as_nanos()).saturating_sub(room);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Whether `tokens` can be taken now.
    pub(crate) fn allows(&self, tokens: u64, now: Duration) -> bool {
        tokens <= self.limit && self.wait(tokens, now).is_zero()
    }

    /// Takes `tokens`, allowed or not; returns when all of them have refilled, nanoseconds since the
    /// base.
    pub(crate) fn take(&mut self, tokens: u64, now: Duration) -> u128 {
        self.full_at = self.full_at.max(now.as_nanos()).saturating_add(self.cost(tokens));
        self.full_at
    }

    /// Gives back as many of `tokens` as have not refilled. `refilled_at`: what [`Rate::take`] said.
    pub(crate) fn give(&mut self, tokens: u64, refilled_at: u128, now: Duration) {
        let left = refilled_at.saturating_sub(now.as_nanos());
        self.full_at = self.full_at.saturating_sub(self.cost(tokens).min(left));
    }

    /// How long until the bucket is full.
    pub(crate) fn reset(&self, now: Duration) -> Duration {
        let wait = self.full_at.saturating_sub(now.as_nanos());
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn cost(&self, tokens: u64) -> u128 {
        match self.limit {
            0 => MINUTE_NS.saturating_mul(u128::from(tokens)),
            limit => (u128::from(tokens) * MINUTE_NS).div_ceil(u128::from(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    #[test]
    fn a_burst_of_the_limit_then_the_refill() {
        let mut rate = Rate::per_minute(600);
        assert!(rate.allows(600, START));
        rate.take(600, START);
        assert_eq!(rate.left(START), 0);
        assert!(!rate.allows(1, START));
        assert_eq!(rate.wait(10, START), Duration::from_secs(1));
        let later = START + Duration::from_secs(1);
        assert!(rate.allows(10, later) && !rate.allows(11, later));
    }

    #[test]
    fn what_is_given_back_is_free_at_once_and_never_more_than_full() {
        let mut rate = Rate::per_minute(100);
        let refilled_at = rate.take(80, START);
        rate.give(70, refilled_at, START);
        assert_eq!(rate.left(START), 90);
        rate.give(1_000, refilled_at, START);
        assert_eq!(rate.left(START), 100);
        rate.take(100, START);
        assert_eq!(rate.left(START), 0);
    }

    #[test]
    fn what_time_has_refilled_is_not_given_back_again() {
        let mut rate = Rate::per_minute(600);
        let after = |seconds| START + Duration::from_secs(seconds);
        // Ten that hold the whole limit for long, and use none of it.
        let held: Vec<u128> = (0..10).map(|_| rate.take(60, START)).collect();
        // The first half of them has refilled, and others use that.
        assert_eq!(rate.left(after(30)), 300);
        rate.take(300, after(30));
        for refilled_at in held {
            rate.give(60, refilled_at, after(30));
        }
        assert_eq!(rate.left(after(30)), 300, "the other half is free");
        // Of those whose time is over nothing is given back.
        let old = rate.take(300, after(30));
        rate.take(600, after(90));
        rate.give(300, old, after(90));
        assert_eq!(rate.left(after(90)), 0);
    }

    #[test]
    fn more_than_the_limit_never_passes_and_says_a_finite_wait() {
        let rate = Rate::per_minute(100);
        assert!(!rate.allows(101, START));
        assert!(rate.wait(101, START) <= Duration::from_secs(60));
        assert!(!Rate::per_minute(0).allows(1, START));
        assert!(Rate::per_minute(0).allows(0, START));
    }

    #[test]
    fn a_lowered_limit_keeps_what_was_taken() {
        let mut rate = Rate::per_minute(100);
        rate.take(40, START);
        assert_eq!(rate.with_limit(50, START).left(START), 10);
    }
}
