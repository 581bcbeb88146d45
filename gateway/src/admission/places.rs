//! Requests in flight, counted without a lock.
//!
//! **Invariant:** a [`Place`] is given back exactly once, by its `Drop`.

use crate::share::is_fair;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A number of places.
#[derive(Debug)]
pub(super) struct Places {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// One place, taken until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    /// `max` free places.
    pub(super) fn new(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// The same places with another limit. If more are taken than it allows, those stay.
    pub(super) fn resized(&self, max: usize) -> Self {
        Self { taken: Arc::clone(&self.taken), max }
    }

    /// Takes a place, unless all are taken.
    pub(super) fn take(&self) -> Option<Place> {
        let more = |taken: usize| (taken < self.max).then(|| taken + 1);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Place(Arc::clone(&self.taken)))
    }

    /// Takes a place for who then has `mine` of them, unless all are taken or that is more than a share;
    /// the first is none.
    ///
    /// # Errors
    /// Whether there are free ones, for others.
    pub(super) fn take_share(&self, mine: usize) -> Result<Place, bool> {
        let more = |taken: usize| {
            let free = self.max.checked_sub(taken + 1)?;
            (mine <= 1 || is_fair(mine, free)).then_some(taken + 1)
        };
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(|_| Place(Arc::clone(&self.taken))).map_err(|taken| taken < self.max)
    }

    /// Places taken now.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Places in all.
    pub(super) fn max(&self) -> usize {
        self.max
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
