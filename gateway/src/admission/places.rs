//! Requests in flight, counted without a lock.
//!
//! **Invariant:** a [`Place`] is given back exactly once, by its `Drop`.

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
