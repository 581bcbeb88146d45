//! How soon the next commit may begin.
//!
//! A sync takes processor time whatever it carries. **Invariants:** commits that follow one another
//! for long begin [`SPACE`] apart on average, so that what comes meanwhile shares one; a commit after a
//! pause never waits.

use std::time::{Duration, Instant};

/// Between the beginnings of two commits while there is always something to commit. What a strict
/// answer waits longer for is at most this, twice.
const SPACE: Duration = Duration::from_millis(1);
/// Commits that may follow one another at once after a pause.
const BURST: u32 = 8;

/// Lets commits begin at a rate (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(super) struct Pace {
    /// When the next commit would begin if all had kept their distance.
    next: Instant,
}

impl Pace {
    /// As after a pause.
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// Books a commit: how long after `now` it may begin.
    pub(super) fn book(&mut self, now: Instant) -> Duration {
        let early = self.next.saturating_duration_since(now);
        let wait = early.saturating_sub(SPACE * BURST);
        self.next = self.next.max(now) + SPACE;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When commits begin, microseconds after the first, if each is wanted at these.
    fn begin(wanted: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut begun = Vec::new();
        for wanted in wanted {
            let earliest = wanted.max(begun.last().copied().unwrap_or_default());
            let wait = pace.book(start + Duration::from_micros(earliest));
            begun.push(earliest + u64::try_from(wait.as_micros()).unwrap());
        }
        begun
    }

    #[test]
    fn who_comes_after_a_pause_never_waits() {
        let wanted: Vec<u64> = (0..100).map(|nth| nth * 1_000).collect();
        assert_eq!(begin(wanted.clone()), wanted);
        let burst = vec![0; 9];
        assert_eq!(begin(burst.clone()), burst);
    }

    #[test]
    fn commits_without_end_keep_their_distance() {
        let begun = begin(vec![0; 1_009]);
        assert_eq!(begun[8], 0, "the burst");
        assert_eq!(begun[9], 1_000);
        assert_eq!(*begun.last().unwrap(), 1_000 * 1_000);
    }

    #[test]
    fn a_pause_earns_one_burst_and_no_more() {
        let begun = begin(std::iter::repeat_n(0, 20).chain(vec![1_000_000; 20]));
        assert_eq!(begun[20..29], [1_000_000; 9]);
        assert_eq!(begun[29], 1_001_000);
    }
}
