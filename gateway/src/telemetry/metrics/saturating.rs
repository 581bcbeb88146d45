//! A counter's value that stops at the greatest number instead of beginning anew.
//!
//! What a provider says it used is taken as it stands, absurd counts too: two of them would wrap.

use prometheus_client::metrics::counter::Atomic;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stops at [`u64::MAX`].
#[derive(Debug, Default)]
pub(super) struct Saturating(AtomicU64);

impl Atomic<u64> for Saturating {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Returns what it was before.
    fn inc_by(&self, more: u64) -> u64 {
        let add = |count: u64| Some(count.saturating_add(more));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).unwrap_or_else(|count| count)
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::Saturating;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn a_counter_that_is_full_stays_full() {
        let counter = Counter::<u64, Saturating>::default();
        counter.inc_by(7);
        assert_eq!(counter.get(), 7);
        counter.inc_by(u64::MAX);
        counter.inc();
        assert_eq!(counter.get(), u64::MAX);
    }
}
