//! One answer on its way to everybody who asked for the same.
//!
//! **Invariants:** the flight is a task of its own: it outlives whoever began it and ends with the
//! last who waits for it (unless it is [`Keep::ToItsEnd`]); its events are kept whole and in order,
//! and are as many bytes as one answer may have; whoever comes late hears it from the beginning.

use crate::{
    ledger::RequestId,
    refusal::Refusal,
    routes::{Fault, FaultKind, Route},
    wire::Event,
};
use policies::PicoUsd;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Most bytes of one answer's events.
const BYTES_MAX: usize = 32 << 20;

/// An answer that is coming, or has come.
pub struct Flight {
    state: Mutex<State>,
    /// Counts changes of the state.
    changed: watch::Sender<u64>,
    waiters: AtomicUsize,
    keep: Keep,
    /// Ends the task.
    cancel: CancellationToken,
}

/// How long a flight lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// While somebody waits.
    WhileWanted,
    /// To its end: whoever began it may come back and ask for it.
    ToItsEnd,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    events: Vec<Event>,
    bytes: usize,
    end: Option<End>,
}

/// What is known when the first event has come.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request that asked the route.
    pub request: RequestId,
    /// The route that answers.
    pub route: Arc<Route>,
    /// Attempts that it took.
    pub attempts: usize,
    /// The output cap that was sent.
    pub output_cap: u64,
    /// What the attempts cost that did not answer; `None` where nobody knows.
    pub missed_cost: Option<PicoUsd>,
}

/// How a flight ended.
#[derive(Clone, Debug)]
pub enum End {
    /// The answer is whole.
    Whole {
        /// What it cost; `None` where nobody knows.
        cost: Option<PicoUsd>,
    },
    /// No route answered.
    Refused {
        /// What the caller is told.
        refusal: Refusal,
        /// Whether an entry tells of it already.
        recorded: bool,
    },
    /// The answer broke off.
    Broken(Fault),
}

/// A share in a flight: the events from the beginning.
pub struct Waiter {
    flight: Arc<Flight>,
    changed: watch::Receiver<u64>,
    next: usize,
}

// === impl Flight ===

impl Flight {
    /// A flight that has not begun, and a first share in it.
    #[must_use]
    pub fn new(keep: Keep, cancel: CancellationToken) -> (Arc<Self>, Waiter) {
        let flight = Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            waiters: AtomicUsize::new(0),
            keep,
            cancel,
        });
        let waiter = flight.share();
        (flight, waiter)
    }

    /// A share in it, from its beginning.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Waiter {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        Waiter { flight: Arc::clone(self), changed: self.changed.subscribe(), next: 0 }
    }

    /// A share in it, unless its last waiter has just left and it is going down.
    #[must_use]
    pub fn join(self: &Arc<Self>) -> Option<Waiter> {
        let waiter = self.share();
        self.is_wanted().then_some(waiter)
    }

    /// Whether it runs on, or has come to its end.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.cancel.is_cancelled() || self.is_whole()
    }

    /// Whether it runs on when nobody waits.
    #[must_use]
    pub fn runs_to_its_end(&self) -> bool {
        self.keep == Keep::ToItsEnd
    }

    /// Returns when nobody waits for it any more, or the program stops.
    pub async fn unwanted(&self) {
        self.cancel.cancelled().await;
    }

    /// The first event has come.
    pub fn begin(&self, head: Head) {
        self.change(|state| state.head = Some(head));
    }

    /// An event has come. One too many ends it as broken; says whether it was taken.
    pub fn push(&self, event: &Event) -> bool {
        let bytes = event.bytes();
        let mut taken = true;
        self.change(|state| {
            taken = state.bytes.saturating_add(bytes) <= BYTES_MAX;
            if taken {
                state.bytes += bytes;
                state.events.push(event.clone());
            }
        });
        taken
    }

    /// It is over. Only the first end counts.
    pub fn end(&self, end: End) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.lock().end, Some(End::Whole { .. }))
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// What is known of its beginning, if it has begun.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.lock().head.clone()
    }

    /// Bytes of its events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without its events: no answer may reach a log.
impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("bytes", &self.bytes())
            .field("waiters", &self.waiters.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

// === impl Waiter ===

impl Waiter {
    /// Waits until the answer begins.
    ///
    /// # Errors
    /// Why it does not, and whether an entry tells of it already.
    pub async fn begun(&mut self) -> Result<Head, (Refusal, bool)> {
        loop {
            self.changed.borrow_and_update();
            {
                let state = self.flight.lock();
                match (&state.head, &state.end) {
                    (Some(head), _) => return Ok(head.clone()),
                    (None, Some(End::Refused { refusal, recorded })) => {
                        return Err((refusal.clone(), *recorded));
                    }
                    (None, Some(_)) => return Err((gone(), false)),
                    (None, None) => {}
                }
            }
            if self.changed.changed().await.is_err() {
                return Err((gone(), false));
            }
        }
    }

    /// The next event; `None` after the last of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        loop {
            self.changed.borrow_and_update();
            {
                let state = self.flight.lock();
                if let Some(event) = state.events.get(self.next) {
                    self.next += 1;
                    return Some(Ok(event.clone()));
                }
                match &state.end {
                    Some(End::Whole { .. }) => return None,
                    Some(End::Broken(fault)) => return Some(Err(fault.clone())),
                    Some(End::Refused { .. }) => return Some(Err(broken())),
                    None => {}
                }
            }
            if self.changed.changed().await.is_err() {
                return Some(Err(broken()));
            }
        }
    }

    /// What the attempts cost that did not answer, where it is known.
    #[must_use]
    pub fn missed_cost(&self) -> Option<PicoUsd> {
        self.flight.lock().head.as_ref()?.missed_cost
    }

    /// What the answer cost whoever asked the route, once it is whole and where it is known.
    #[must_use]
    pub fn cost(&self) -> Option<PicoUsd> {
        match self.flight.lock().end {
            Some(End::Whole { cost }) => cost,
            _ => None,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let last = self.flight.waiters.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.flight.keep == Keep::WhileWanted {
            self.flight.cancel.cancel();
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("next", &self.next).finish_non_exhaustive()
    }
}

pub(super) fn gone() -> Refusal {
    Refusal::Upstream("the request that this one waited for was given up".to_owned())
}

fn broken() -> Fault {
    Fault::new(FaultKind::Broken, "the request that this one shared was given up")
}
