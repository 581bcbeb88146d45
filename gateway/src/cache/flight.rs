//! One answer on its way to everybody who asked for the same.
//!
//! **Invariants:** the flight is a task of its own: it outlives whoever began it and ends with the
//! last who waits for it (unless it is [`Keep::ToItsEnd`]); its events are kept in order, and whoever
//! comes late hears it from the beginning. So many bytes are kept and no more: of a longer answer what
//! everybody has heard is let go of, and the next event waits for those who are behind; nobody else
//! can join it then, and it is not given again. The same holds where all flights together have no more
//! room.

use super::room::Room;
use crate::{
    ledger::RequestId,
    refusal::Refusal,
    routes::{Fault, FaultKind, Route},
    wire::Event,
};
use policies::{Decision, PicoUsd};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Most bytes of one answer's events that are kept, but for a single larger one.
const BYTES_MAX: usize = 32 << 20;

/// An answer that is coming, or has come.
pub struct Flight {
    state: Mutex<State>,
    /// Counts changes of the state.
    changed: watch::Sender<u64>,
    /// Told when a waiter has heard an event, or has left.
    heard: Notify,
    keep: Keep,
    /// Ends the task.
    cancel: CancellationToken,
    /// What its events take room of.
    room: Arc<Room>,
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
    events: VecDeque<Event>,
    /// Bytes of these.
    bytes: usize,
    /// Those of them that are of no room: of the first event, where it found none.
    roomless: usize,
    /// Events before these, which were let go of.
    gone: usize,
    /// How many events each waiter has heard; `None` for one that has left.
    heard: Vec<Option<usize>>,
    end: Option<End>,
}

/// What is known when the first event has come.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request that asked the route.
    pub request: RequestId,
    /// By what it was decided.
    pub decision: Arc<Decision>,
    /// The route that answers.
    pub route: Arc<Route>,
    /// Attempts that it took.
    pub attempts: usize,
    /// The output cap that was sent.
    pub output_cap: u64,
    /// Prompt tokens to count where the route reports none.
    pub prompt_tokens: u64,
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
        /// What it cost whoever began the flight, where that is known.
        cost: Option<PicoUsd>,
    },
    /// The answer broke off.
    Broken(Fault),
    /// Nobody waited for it any more, or the program stops.
    GivenUp,
}

/// What becomes of a flight that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A whole answer: worth giving again.
    Good,
    /// Money was spent on it: a repeated request must not spend it again.
    Spent,
    /// It owed nothing: it may be tried anew.
    Free,
}

/// Why an answer does not begin.
#[derive(Clone, Debug)]
pub struct Unbegun {
    /// What whoever began the flight is told.
    pub refusal: Refusal,
    /// Whether an entry tells of it already.
    pub recorded: bool,
    /// What it cost whoever began the flight, where that is known.
    pub cost: Option<PicoUsd>,
    /// Whether the same may go well for somebody else who asks for it.
    pub is_its_callers: bool,
}

/// A share in a flight: the events from the beginning.
pub struct Waiter {
    flight: Arc<Flight>,
    changed: watch::Receiver<u64>,
    /// Its place among those who hear the flight.
    place: usize,
}

// === impl Flight ===

impl Flight {
    /// A flight that has not begun, and a first share in it.
    #[must_use]
    pub(super) fn new(
        keep: Keep,
        cancel: CancellationToken,
        room: &Arc<Room>,
    ) -> (Arc<Self>, Waiter) {
        let flight = Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            heard: Notify::new(),
            keep,
            cancel,
            room: Arc::clone(room),
        });
        let waiter = flight.share();
        (flight, waiter)
    }

    /// A share in it, from its beginning.
    #[must_use]
    pub fn share(self: &Arc<Self>) -> Waiter {
        let place = self.lock().seat();
        Waiter { flight: Arc::clone(self), changed: self.changed.subscribe(), place }
    }

    /// A share in it, unless its last waiter has just left and it is going down, or its beginning is
    /// no longer there.
    #[must_use]
    pub fn join(self: &Arc<Self>) -> Option<Waiter> {
        let waiter = self.share();
        (self.is_wanted() && self.is_all_there()).then_some(waiter)
    }

    /// Whether it can be heard from its beginning.
    #[must_use]
    pub fn is_all_there(&self) -> bool {
        self.lock().gone == 0
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

    /// An event has come. Waits while there is no room for it, because somebody is behind.
    pub async fn push(&self, event: Event) {
        // What is counted is what is kept.
        let event = event.alone();
        let mut next = Some(event);
        loop {
            let pushed = {
                let mut state = self.lock();
                let pushed = next.take_if(|event| state.makes_room_for(event.bytes(), &self.room));
                pushed.map(|event| state.events.push_back(event)).is_some()
            };
            if pushed {
                return self.tell();
            }
            // One that was told before this is not missed.
            self.heard.notified().await;
        }
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

    /// Bytes of its events that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.tell();
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// A place for one more waiter, who has heard nothing.
    fn seat(&mut self) -> usize {
        let free = self.heard.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.heard.push(None);
            self.heard.len() - 1
        });
        self.heard[place] = Some(0);
        place
    }

    /// The waiter of this place hears nothing more.
    fn leave(&mut self, place: usize) {
        if let Some(heard) = self.heard.get_mut(place) {
            *heard = None;
        }
    }

    /// Whether nobody waits.
    fn is_left(&self) -> bool {
        self.heard.iter().all(Option::is_none)
    }

    /// Takes room for an event of so many bytes, once what everybody has heard is let go of where it must
    /// be; `false` where somebody is behind.
    fn makes_room_for(&mut self, bytes: usize, room: &Room) -> bool {
        let slowest = self.heard.iter().flatten().min().copied().unwrap_or(usize::MAX);
        while self.bytes.saturating_add(bytes) > BYTES_MAX || !room.take(bytes, self.bytes) {
            if self.gone >= slowest && !self.events.is_empty() {
                return false;
            }
            let Some(event) = self.events.pop_front() else {
                // One is always taken.
                self.roomless = bytes;
                break;
            };
            self.bytes -= event.bytes();
            room.give(event.bytes() - std::mem::take(&mut self.roomless));
            if self.gone == 0 {
                room.lets_go();
            }
            self.gone += 1;
        }
        self.bytes += bytes;
        true
    }

    /// The next event for the waiter of this place.
    fn next(&mut self, place: usize) -> Option<Event> {
        let heard = self.heard.get_mut(place)?.as_mut()?;
        let event = self.events.get(heard.checked_sub(self.gone)?)?.clone();
        *heard += 1;
        Some(event)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.room.give(state.bytes - state.roomless);
    }
}

/// Without its events: no answer may reach a log.
impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

// === impl Waiter ===

impl Waiter {
    /// Waits until the answer begins.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn begun(&mut self) -> Result<Head, Unbegun> {
        loop {
            self.changed.borrow_and_update();
            if let Some(begun) = self.look() {
                return begun;
            }
            if self.changed.changed().await.is_err() {
                return Err(given_up());
            }
        }
    }

    /// Whether the answer has begun, or why it does not; `None` while nobody knows.
    #[must_use]
    pub fn look(&self) -> Option<Result<Head, Unbegun>> {
        let state = self.flight.lock();
        match (&state.head, &state.end) {
            (Some(head), _) => Some(Ok(head.clone())),
            (None, Some(End::Refused { refusal, recorded, cost })) => Some(Err(Unbegun {
                refusal: refusal.clone(),
                recorded: *recorded,
                cost: *cost,
                is_its_callers: refusal.is_its_callers(),
            })),
            (None, Some(_)) => Some(Err(given_up())),
            (None, None) => None,
        }
    }

    /// The next event; `None` after the last of a whole answer.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = self.flight.lock();
                if let Some(event) = state.next(self.place) {
                    drop(state);
                    self.flight.heard.notify_one();
                    return Some(Ok(event));
                }
                match &state.end {
                    Some(End::Whole { .. }) => return None,
                    Some(End::Broken(fault)) => return Some(Err(fault.clone())),
                    Some(End::Refused { .. } | End::GivenUp) => return Some(Err(broken())),
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
        {
            let mut state = self.flight.lock();
            state.leave(self.place);
            // Under the lock: whoever joins comes before the last one leaves, or is told.
            if state.is_left() && self.flight.keep == Keep::WhileWanted {
                self.flight.cancel.cancel();
            }
        }
        self.flight.heard.notify_one();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("place", &self.place).finish_non_exhaustive()
    }
}

fn given_up() -> Unbegun {
    let message = "the request that this one waited for was given up";
    let refusal = Refusal::Upstream(message.to_owned());
    Unbegun { refusal, recorded: false, cost: None, is_its_callers: true }
}

fn broken() -> Fault {
    Fault::new(FaultKind::Broken, "the request that this one shared was given up")
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, CancellationToken, End, Event, Flight, Keep, Room, Waiter};
    use crate::wire::Seen;
    use bytes::Bytes;
    use std::sync::Arc;

    const PIECE: usize = 8 << 20;
    const PIECES: u8 = 12;

    fn piece(number: u8) -> Event {
        let body = Bytes::from(vec![number; PIECE]);
        Event::Whole { body, seen: Seen::default() }
    }

    fn flight() -> (Arc<Flight>, Waiter) {
        flight_in(&Arc::new(Room::new(4 * BYTES_MAX)))
    }

    fn flight_in(room: &Arc<Room>) -> (Arc<Flight>, Waiter) {
        Flight::new(Keep::ToItsEnd, CancellationToken::new(), room)
    }

    async fn fly(flight: &Flight) {
        for number in 0..PIECES {
            flight.push(piece(number)).await;
            assert!(flight.bytes() <= BYTES_MAX);
        }
        flight.end(End::Whole { cost: None });
    }

    async fn hear(mut waiter: Waiter) -> Vec<u8> {
        let mut heard = Vec::new();
        while let Some(event) = waiter.next().await {
            let Ok(Event::Whole { body, .. }) = event else { panic!("another event") };
            heard.push(body[0]);
        }
        heard
    }

    #[tokio::test]
    async fn an_answer_longer_than_is_kept_is_heard_whole_by_those_who_wait() {
        let (flight, first) = flight();
        let second = flight.join().unwrap();
        let ((), one, other) = futures::join!(fly(&flight), hear(first), hear(second));
        let all: Vec<u8> = (0..PIECES).collect();
        assert_eq!((&one, &other), (&all, &all));
        assert!(!flight.is_all_there() && flight.join().is_none(), "it has no beginning any more");
    }

    #[tokio::test]
    async fn a_piece_of_a_stream_keeps_nothing_of_what_it_came_with() {
        let (flight, _first) = flight();
        let read = Bytes::from(vec![b'x'; 8192]);
        let piece = |data| Event::Chunk { data, seen: Seen::default() };
        flight.push(piece(read.slice(8..16))).await;
        flight.push(Event::Own { data: read.slice(16..32), seen: Seen::default() }).await;
        assert!(read.is_unique());
        assert!(flight.bytes() < 2048);
    }

    #[tokio::test]
    async fn nobody_is_left_behind_and_nobody_who_left_is_waited_for() {
        let (flight, first) = flight();
        let second = flight.join().unwrap();
        let mut flies = std::pin::pin!(fly(&flight));
        assert!(futures::poll!(&mut flies).is_pending(), "it waits for those who hear nothing");
        drop(second);
        assert!(futures::poll!(&mut flies).is_pending());
        drop(first);
        flies.await;
        assert!(flight.is_whole());
    }

    #[tokio::test]
    async fn many_flights_have_so_much_room_together_and_a_short_one_is_all_there_beside_them() {
        let room = Arc::new(Room::new(4 * PIECE));
        let flights: Vec<_> = (0..8).map(|_| flight_in(&room)).collect();
        let (flights, waiters): (Vec<_>, Vec<_>) = flights.into_iter().unzip();
        let fly_all = futures::future::join_all(flights.iter().map(|flight| fly(flight)));
        let hear_all = futures::future::join_all(waiters.into_iter().map(hear));
        let (_, heard) = futures::join!(fly_all, hear_all);
        let all: Vec<u8> = (0..PIECES).collect();
        assert!(heard.iter().all(|heard| *heard == all), "nobody loses any of it");
        // One event of each is there in any case.
        let bytes: usize = flights.iter().map(|flight| flight.bytes()).sum();
        assert!(bytes <= (4 + flights.len()) * (PIECE + 1024), "{bytes}");
        assert!(room.taken() <= 4 * PIECE && room.taken() > 0);
        assert_eq!(room.let_go(), flights.len() as u64);

        let (short, hears) = flight_in(&room);
        for _ in 0..100 {
            let body = Bytes::from_static(b"a short one");
            short.push(Event::Whole { body, seen: Seen::default() }).await;
        }
        assert!(short.is_all_there() && short.join().is_some());
        drop((flights, hears, short));
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn a_short_answer_waits_for_nobody_and_is_heard_by_whoever_comes_late() {
        let (flight, first) = flight();
        flight.push(piece(7)).await;
        flight.end(End::Whole { cost: None });
        drop(first);
        assert_eq!(hear(flight.join().unwrap()).await, [7]);
    }
}
