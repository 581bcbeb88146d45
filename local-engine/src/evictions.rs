//! Whose cells were taken for whom: the last of such events, for the operator who asks why a
//! caller's prefix is gone or its answer paused. Bounded; the oldest is forgotten.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Events remembered.
const EVENTS_MAX: usize = 128;

/// Cells of one job were taken for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// How long ago.
    pub age: Duration,
    /// What was taken.
    pub kind: EvictionKind,
    /// Whose cells they were.
    pub of: JobRef,
    /// For whom they were taken.
    pub by: JobRef,
    /// How many cells became free.
    pub cells: u32,
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvictionKind {
    /// The kept prefix of a job that has ended, or its end.
    Prefix,
    /// The cells of a running job, which were saved and will be put back.
    Swapped,
    /// The cells of a running job, which will be computed again: there was no room to save them.
    Dropped,
}

/// A job in an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRef {
    /// The caller it said.
    pub caller: u64,
    /// Its number in the order of admission since the engine started.
    pub number: u64,
}

/// The last events.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    events: Mutex<VecDeque<(Instant, Eviction)>>,
}

impl Evictions {
    /// Adds an event; its age is set when it is read.
    pub(crate) fn push(&self, now: Instant, event: Eviction) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back((now, event));
    }

    /// The events, oldest first.
    pub(crate) fn read(&self, now: Instant) -> Vec<Eviction> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = |(at, event): &(Instant, Eviction)| Eviction {
            age: now.saturating_duration_since(*at),
            ..*event
        };
        events.iter().map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, EVENTS_MAX, Eviction, EvictionKind, Evictions, Instant, JobRef};

    #[test]
    fn the_oldest_event_is_forgotten() {
        let evictions = Evictions::default();
        let start = Instant::now();
        for number in 0..200 {
            let of = JobRef { caller: 1, number };
            let by = JobRef { caller: 2, number: 900 };
            let event =
                Eviction { age: Duration::ZERO, kind: EvictionKind::Prefix, of, by, cells: 5 };
            evictions.push(start, event);
        }
        let read = evictions.read(start + Duration::from_secs(3));
        assert_eq!(read.len(), EVENTS_MAX);
        assert_eq!((read[0].of.number, read[0].age), (72, Duration::from_secs(3)));
    }
}
