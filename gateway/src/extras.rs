//! A share of extra work: retries and hedges in proportion to the requests that came without.
//!
//! **Invariant:** over any stretch, what was taken is at most the share of what was noted plus the
//! burst. Lock-free: one word.

use std::sync::atomic::{AtomicU64, Ordering};

/// One unit of extra work in the balance's terms: thousandths.
const ONE: u64 = 1000;

/// A token bucket filled by requests, not by time.
#[derive(Debug)]
pub struct Extras {
    balance: AtomicU64,
    permille: u64,
    most: u64,
}

impl Extras {
    /// `permille` of the requests noted may take one more; up to `burst` are saved up. It begins
    /// with one, so that the first request that needs it is not left alone.
    #[must_use]
    pub fn new(permille: u32, burst: u32) -> Self {
        let most = u64::from(burst).saturating_mul(ONE);
        let first = if permille == 0 { 0 } else { ONE.min(most) };
        Self { balance: AtomicU64::new(first), permille: u64::from(permille), most }
    }

    /// One that begins with its whole burst.
    #[must_use]
    pub fn full(permille: u32, burst: u32) -> Self {
        let new = Self::new(permille, burst);
        if permille > 0 {
            new.balance.store(new.most, Ordering::Relaxed);
        }
        new
    }

    /// A request came that may need extra work.
    pub fn note(&self) {
        let more = |balance: u64| {
            (balance < self.most).then(|| balance.saturating_add(self.permille).min(self.most))
        };
        let _full = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether one unit could be taken now.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.balance.load(Ordering::Relaxed) >= ONE
    }

    /// Takes one unit, if there is one.
    pub fn take(&self) -> bool {
        let less = |balance: u64| balance.checked_sub(ONE);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_its_share_and_no_more() {
        let extras = Extras::new(50, 10);
        let taken = (0..1000).filter(|_| {
            extras.note();
            extras.take()
        });
        assert_eq!(taken.count(), 51, "5 % of a thousand, and the first");
    }

    #[test]
    fn saves_up_no_more_than_its_burst() {
        let extras = Extras::new(500, 3);
        (0..1000).for_each(|_| extras.note());
        assert!(extras.is_left());
        assert_eq!((0..10).filter(|_| extras.take()).count(), 3);
        assert!(!extras.is_left());
        assert!(!Extras::new(0, 10).take(), "no share is none at all");
        assert_eq!((0..10).filter(|_| Extras::full(0, 3).take()).count(), 0);
    }
}
