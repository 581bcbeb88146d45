//! The room that all flights of a shelf have together: those that run, those that are kept, and those that
//! are still heard although they were given up.
//!
//! **Invariant:** what is counted is what the flights keep, but for one event of each that found no room: an
//! answer is never lost for want of it. It is not counted, so that short answers always find some.

use crate::share::is_fair;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// See the file's head.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    taken: AtomicUsize,
    /// Flights that let go of their beginning.
    let_go: AtomicU64,
}

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: AtomicUsize::new(0), let_go: AtomicU64::new(0) }
    }

    /// Room for so many bytes more of a flight that has some; `false` where there is not so much, or where
    /// it would be more than a share ([`crate::share`]).
    pub(super) fn take(&self, more: usize, has: usize) -> bool {
        let grown = |taken: usize| {
            let free = self.max.checked_sub(taken.checked_add(more)?)?;
            is_fair(has.checked_add(more)?, free).then_some(taken + more)
        };
        self.taken.fetch_update(Relaxed, Relaxed, grown).is_ok()
    }

    /// Gives so many bytes back.
    pub(super) fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Relaxed);
    }

    /// Notes that a flight can no longer be heard from its beginning.
    pub(super) fn lets_go(&self) {
        self.let_go.fetch_add(1, Relaxed);
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// How many flights let go of their beginning.
    pub(super) fn let_go(&self) -> u64 {
        self.let_go.load(Relaxed)
    }
}
