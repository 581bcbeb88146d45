//! What waits to be committed.
//!
//! Callers serialise into the queue's buffer and leave at once; the committer takes everything
//! that queued while its last commit ran. **Invariants:** the queue is bounded in places; whoever
//! must write in `Drop` took its place beforehand, so it never waits and never fails; two events
//! pushed one after the other are committed in that order.

use super::{
    progress::{BooksError, CommitTicket, Condition, Progress},
    sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, PoisonError},
};
use std::{sync::Arc, time::Duration};

/// The committer is woken when this much waits, even if nobody waits for it.
const EAGER_BYTES: usize = 256 << 10;

/// Bounded, ordered, double-buffered. `T` goes along with each event to whoever applies it.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pending: Mutex<Pending<T>>,
    wake: Condvar,
    places: AtomicUsize,
    places_max: usize,
    pub(crate) progress: Arc<Progress>,
}

#[derive(Debug)]
pub(crate) struct Pending<T> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) effects: Vec<T>,
    /// Events ever pushed.
    pushed: u64,
    sleep: Sleep,
    stop: bool,
    nudged: bool,
}

/// What the committer does while nothing is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// It is committing and will look again.
    Awake,
    /// It looks again by itself within a moment: only an urgent event wakes it.
    Light,
    /// Any event wakes it.
    Deep,
}

/// What [`Queue::wait`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There is work.
    Work,
    /// Time passed and there is none.
    Idle,
    /// There is none and there will be none.
    Stopped,
}

impl<T> Queue<T> {
    pub(crate) fn new(places_max: usize) -> Self {
        Self {
            pending: Mutex::new(Pending {
                bytes: Vec::new(),
                effects: Vec::new(),
                pushed: 0,
                sleep: Sleep::Awake,
                stop: false,
                nudged: false,
            }),
            wake: Condvar::new(),
            places: AtomicUsize::new(0),
            places_max,
            progress: Arc::new(Progress::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending<T>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `count` places for events to come.
    ///
    /// # Errors
    /// [`BooksError::Full`] when there are not so many; none is taken then.
    pub(crate) fn take_places(&self, count: usize) -> Result<(), BooksError> {
        self.places
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
                taken.checked_add(count).filter(|taken| *taken <= self.places_max)
            })
            .map(|_| ())
            .map_err(|_| BooksError::Full)
    }

    /// Gives back places that were not used.
    pub(crate) fn give_places(&self, count: usize) {
        self.places.fetch_sub(count, Ordering::AcqRel);
    }

    /// Places taken.
    pub(crate) fn depth(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }

    /// Queues one event, for which a place has been taken. `urgent`: someone will wait for it.
    pub(crate) fn push(&self, record: &[u8], effect: T, urgent: bool) -> CommitTicket {
        let mut pending = self.lock();
        if pending.stop {
            drop(pending);
            self.give_places(1);
            return CommitTicket::at(&self.progress, u64::MAX);
        }
        pending.bytes.extend_from_slice(record);
        pending.effects.push(effect);
        pending.pushed += 1;
        let count = pending.pushed;
        let wake = match pending.sleep {
            Sleep::Awake => false,
            Sleep::Light => urgent || pending.bytes.len() >= EAGER_BYTES,
            Sleep::Deep => true,
        };
        pending.nudged |= urgent;
        if wake {
            pending.sleep = Sleep::Awake;
        }
        drop(pending);
        if wake {
            self.wake.notify_one();
        }
        CommitTicket::at(&self.progress, count)
    }

    /// A ticket for everything pushed so far; the committer is woken for it.
    pub(crate) fn flush(&self) -> CommitTicket {
        let count = {
            let mut pending = self.lock();
            pending.nudged = true;
            pending.pushed
        };
        self.wake.notify_one();
        CommitTicket::at(&self.progress, count)
    }

    /// Nothing more is taken; the committer ends when the rest is written or cannot be.
    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// Committer: waits for work, at most `light` while work was seen lately, else at most `deep`
    /// (`None`: until there is work).
    pub(crate) fn wait(&self, active: bool, light: Duration, deep: Option<Duration>) -> Woken {
        let mut pending = self.lock();
        // Gathers what comes within a moment unless someone waits for it.
        if active && !pending.nudged && !pending.stop && pending.bytes.len() < EAGER_BYTES {
            pending.sleep = Sleep::Light;
            pending =
                self.wake.wait_timeout(pending, light).unwrap_or_else(PoisonError::into_inner).0;
        }
        if pending.effects.is_empty() && !pending.stop && !active {
            pending.sleep = Sleep::Deep;
            pending = match deep {
                Some(deep) => {
                    self.wake.wait_timeout(pending, deep).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner),
            };
        }
        pending.sleep = Sleep::Awake;
        pending.nudged = false;
        match (pending.effects.is_empty(), pending.stop) {
            (false, _) => Woken::Work,
            (true, true) => Woken::Stopped,
            (true, false) => Woken::Idle,
        }
    }

    /// Committer, after a failure: waits `pause` or until it is nudged or stopped; whether it was
    /// stopped.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let mut pending = self.lock();
        if !pending.nudged && !pending.stop {
            pending.sleep = Sleep::Awake;
            pending =
                self.wake.wait_timeout(pending, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        pending.nudged = false;
        pending.stop
    }

    /// Committer: events that wait for its next swap.
    pub(crate) fn pending(&self) -> usize {
        self.lock().effects.len()
    }

    /// Committer: swaps what is pending with its own, emptied buffers.
    pub(crate) fn swap(&self, bytes: &mut Vec<u8>, effects: &mut Vec<T>) {
        let mut pending = self.lock();
        std::mem::swap(&mut pending.bytes, bytes);
        std::mem::swap(&mut pending.effects, effects);
    }

    /// Committer: these events are durable, the places are free again.
    pub(crate) fn committed(&self, count: usize) {
        self.give_places(count);
        self.progress.commit(self.progress.committed() + count as u64);
    }

    /// Committer: the store's condition changed.
    pub(crate) fn set(&self, condition: Condition) {
        self.progress.set(condition);
    }
}
