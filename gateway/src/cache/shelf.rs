//! Answers that are coming and answers that are kept, by key.
//!
//! **Invariants:** of one key at most one flight runs; what is kept is bounded in bytes and in age,
//! what runs by the requests in flight and, with what is kept, in bytes; a key is free again when its
//! [`Landing`] is dropped, whatever became of the flight, and before anybody hears of its end.

use super::{
    CacheCounts,
    flight::{End, Flight, Keep, Waiter},
    key::CacheKey,
    room::Room,
};
use crate::refusal::Refusal;
use moka::{notification::RemovalCause, policy::EvictionPolicy, sync::Cache};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How many times what is kept all flights may take together with it: whoever is alone has room for an
/// answer as large as the shelf, however full that is.
const ROOM_TIMES: usize = 3;
/// What one kept answer takes beside its bytes.
const OVERHEAD_BYTES: usize = 1024;

/// Flights by key.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: Cache<CacheKey, Kept>,
    flying: Mutex<HashMap<CacheKey, Kept>>,
    /// Answers given up for room or for age.
    evicted: Arc<AtomicU64>,
    /// Cancelled when the program stops: ends every flight.
    stop: CancellationToken,
    room: Arc<Room>,
}

/// A flight, and what it was asked with.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// The flight.
    pub(super) flight: Arc<Flight>,
    /// Tells whether another request of the same key is the same one.
    pub(super) fingerprint: CacheKey,
}

/// What there is under a key.
#[derive(Debug)]
pub(super) enum Found {
    /// A kept answer.
    Whole(Kept),
    /// A flight that runs.
    Flying(Kept),
    /// Nothing was there: the caller flies now.
    Yours(Takeoff),
}

/// A flight to be begun: give it and its landing to a task.
#[derive(Debug)]
pub struct Takeoff {
    /// The flight.
    pub flight: Arc<Flight>,
    /// The first share in it.
    pub waiter: Waiter,
    /// Ends it in the shelf.
    pub landing: Landing,
}

/// Ends the flight and takes it out of those that run; one that is dropped gives it up.
#[derive(Debug)]
#[must_use = "dropping it gives the flight up"]
pub struct Landing {
    shelf: Arc<Shelf>,
    key: CacheKey,
    kept: Kept,
    landed: bool,
}

/// Bytes that one takes.
fn weight(kept: &Kept) -> u32 {
    u32::try_from(kept.flight.bytes().saturating_add(OVERHEAD_BYTES)).unwrap_or(u32::MAX)
}

// === impl Shelf ===

impl Shelf {
    /// An empty one that holds so many bytes for so long, and gives up by `policy` when it is full.
    #[must_use]
    pub(super) fn new(bytes_max: u64, ttl: Duration, policy: EvictionPolicy) -> Arc<Self> {
        let evicted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&evicted);
        let gone = move |_: Arc<CacheKey>, _: Kept, why: RemovalCause| {
            if why.was_evicted() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        Arc::new(Self {
            kept: Cache::builder()
                .max_capacity(bytes_max)
                .weigher(|_: &CacheKey, kept: &Kept| weight(kept))
                .time_to_live(ttl)
                .eviction_policy(policy)
                .eviction_listener(gone)
                .build(),
            flying: Mutex::default(),
            evicted,
            stop: CancellationToken::new(),
            room: Arc::new(Room::new(
                usize::try_from(bytes_max).unwrap_or(usize::MAX).saturating_mul(ROOM_TIMES),
            )),
        })
    }

    /// What there is under `key`; where there is nothing, a flight is begun.
    pub(super) fn find(
        self: &Arc<Self>,
        key: CacheKey,
        fingerprint: CacheKey,
        keep: Keep,
    ) -> Found {
        if let Some(kept) = self.kept.get(&key) {
            return Found::Whole(kept);
        }
        let mut flying = self.flying();
        // It may have landed in between.
        if let Some(kept) = self.kept.get(&key) {
            return Found::Whole(kept);
        }
        let new = || {
            let (flight, waiter) = Flight::new(keep, self.stop.child_token(), &self.room);
            (Kept { flight, fingerprint }, waiter)
        };
        let (kept, waiter) = match flying.entry(key) {
            Entry::Occupied(there) if there.get().flight.is_wanted() => {
                return Found::Flying(there.get().clone());
            }
            // It goes down because its last waiter left; a new one takes its place.
            Entry::Occupied(mut there) => {
                let (kept, waiter) = new();
                there.insert(kept.clone());
                (kept, waiter)
            }
            Entry::Vacant(free) => {
                let (kept, waiter) = new();
                free.insert(kept.clone());
                (kept, waiter)
            }
        };
        drop(flying);
        let flight = Arc::clone(&kept.flight);
        let landing = Landing { shelf: Arc::clone(self), key, kept, landed: false };
        Found::Yours(Takeoff { flight, waiter, landing })
    }

    /// Forgets what is kept under `key`.
    pub(super) fn forget(&self, key: &CacheKey) {
        self.kept.invalidate(key);
    }

    /// What it gave up and what it holds.
    #[must_use]
    pub(super) fn counts(&self) -> CacheCounts {
        self.kept.run_pending_tasks();
        CacheCounts {
            evicted: self.evicted.load(Ordering::Relaxed),
            answers: self.kept.entry_count(),
            bytes: self.kept.weighted_size(),
            flights: self.flying().len() as u64,
            held_bytes: self.room.taken() as u64,
            let_go: self.room.let_go(),
            ..CacheCounts::default()
        }
    }

    /// Ends every flight: the program stops.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// What is kept of a flight: it, or if its beginning is gone or it alone is larger than the
    /// shelf, that it was there.
    fn as_kept(&self, landed: &Kept) -> Kept {
        let room = self.kept.policy().max_capacity().unwrap_or(u64::MAX);
        if landed.flight.is_all_there() && u64::from(weight(landed)) <= room {
            return landed.clone();
        }
        let (flight, _) = Flight::new(Keep::ToItsEnd, self.stop.child_token(), &self.room);
        let message = "this request was answered, and its answer is too large to be given again";
        flight.end(End::Refused {
            refusal: Refusal::Conflict(message.to_owned()),
            recorded: false,
            cost: None,
        });
        Kept { flight, fingerprint: landed.fingerprint }
    }

    fn flying(&self) -> MutexGuard<'_, HashMap<CacheKey, Kept>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Landing ===

impl Landing {
    /// Ends the flight so, and keeps its answer where that is said.
    ///
    /// Both in one step: who has heard the end and asks again does not find the flight running.
    pub fn land(mut self, end: End, keep: bool) {
        self.down(end, keep);
    }

    fn down(&mut self, end: End, keep: bool) {
        self.landed = true;
        let mut flying = self.shelf.flying();
        self.kept.flight.end(end);
        if keep {
            self.shelf.kept.insert(self.key, self.shelf.as_kept(&self.kept));
        }
        if let Entry::Occupied(there) = flying.entry(self.key)
            && Arc::ptr_eq(&there.get().flight, &self.kept.flight)
        {
            there.remove();
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Whoever still waits must not wait for ever.
        if !self.landed {
            self.down(End::GivenUp, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CacheKey, Duration, End, EvictionPolicy, Found, Keep, Refusal, Shelf, Takeoff};
    use crate::ledger::KeyId;

    #[test]
    fn who_has_heard_the_end_and_asks_again_does_not_find_it_running() {
        let shelf = Shelf::new(100_000, Duration::from_secs(60), EvictionPolicy::lru());
        for (name, keep) in [("kept", true), ("forgotten", false)] {
            let key = CacheKey::of_idempotency(name, &KeyId("key_a".into()));
            let ask = || shelf.find(key, key, Keep::ToItsEnd);
            let Found::Yours(Takeoff { waiter, landing, .. }) = ask() else { panic!("{name}") };
            let refusal = Refusal::Upstream("nobody answered".to_owned());
            let end = End::Refused { refusal, recorded: true, cost: None };
            std::thread::scope(|threads| {
                let looked_through = shelf.flying();
                threads.spawn(|| landing.land(end, keep));
                std::thread::park_timeout(Duration::from_millis(50));
                assert!(waiter.look().is_none(), "the end was told before the shelf knew");
                drop(looked_through);
                while waiter.look().is_none() {
                    std::thread::yield_now();
                }
                let found = ask();
                assert_eq!(matches!(found, Found::Whole(_)), keep, "{found:?}");
                assert_eq!(matches!(found, Found::Yours(_)), !keep, "{found:?}");
            });
        }
    }
}
