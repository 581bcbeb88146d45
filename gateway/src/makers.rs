//! Where long prompts become tokens, rules are compiled, and bodies decompressed and read where they are
//! long: on threads that may block, no more at once than there are places.
//!
//! **Invariants:** those who wait for a place are served caller by caller in turn, however many of them one
//! caller has, and so many wait and no more, of one caller no more than a share ([`crate::share`]); what
//! nobody waits for any more is not begun, and what is being made for nobody is given up at its next piece,
//! so that who sends long prompts and leaves holds no more than a thread for a moment, and whoever waits for
//! a thread keeps nothing but their own request.

use crate::{ledger::KeyId, share::is_fair};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};
use tokio::sync::oneshot;

/// Those who wait at a time.
const WAITING_MAX: usize = 256;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Makers {
    line: Arc<Line>,
    wait_max: Duration,
}

/// Whether somebody waits for what is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    given_up: Arc<AtomicBool>,
}

/// Why nothing was made.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// Too much is being made.
    Busy,
    /// Making it ended with a panic.
    Died(String),
}

/// Says that nobody waits any more, when dropped.
struct Waits(Wanted);

/// The places, and who waits for one.
#[derive(Debug)]
struct Line {
    places: usize,
    /// Places that one caller has at once.
    each_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Places that are taken.
    taken: usize,
    /// Those who wait.
    waiting: usize,
    /// Everybody who has a place or waits, whose turn comes next first.
    callers: VecDeque<Of>,
}

/// What there is of one caller; `None`: of whoever has no key.
#[derive(Debug)]
struct Of {
    who: Option<KeyId>,
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A thread's place, handed to who is next when it is dropped.
#[derive(Debug)]
struct Place {
    line: Arc<Line>,
    who: Option<KeyId>,
}

/// How somebody comes into the line.
enum Entered {
    Now(Place),
    Later(oneshot::Receiver<Place>),
}

// === impl Makers ===

impl Makers {
    /// Makers of one kind, as many at once as there are cores, for which a request waits so long at most.
    pub(crate) fn new(wait_max: Duration) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::with_places(cores, cores, wait_max)
    }

    /// The same with so many places, and of one caller so many at once: for what takes long.
    pub(crate) fn with_places(places: usize, each_max: usize, wait_max: Duration) -> Self {
        let line = Line { places, each_max, state: Mutex::default() };
        Self { line: Arc::new(line), wait_max }
    }

    /// What `make` makes for a caller, here where it is little, else where blocking is allowed.
    ///
    /// # Errors
    /// `make`'s own; [`NotMade::Busy`] where too much is being made.
    pub(crate) async fn make<T: Send + 'static, E: From<NotMade> + Send + 'static>(
        &self,
        who: Option<&KeyId>,
        little: bool,
        make: impl FnOnce(&Wanted) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let waits = Waits(Wanted::default());
        if little {
            return make(&waits.0);
        }
        let place = match self.line.enter(who).ok_or(NotMade::Busy)? {
            Entered::Now(place) => place,
            Entered::Later(turn) => match tokio::time::timeout(self.wait_max, turn).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) | Err(_) => return Err(NotMade::Busy.into()),
            },
        };
        let wanted = waits.0.clone();
        let made = tokio::task::spawn_blocking(move || {
            // Whoever left before it was begun hears nothing of it.
            let made = if wanted.is_so() { make(&wanted) } else { Err(NotMade::Busy.into()) };
            drop(place);
            made
        });
        made.await.map_err(|died| NotMade::Died(died.to_string()))?
    }
}

// === impl Line ===

impl Line {
    /// A place, or one later; `None` where too many wait.
    fn enter(self: &Arc<Self>, who: Option<&KeyId>) -> Option<Entered> {
        let mut state = self.lock();
        let at = state.callers.iter().position(|of| of.who.as_ref() == who);
        let mut of = at.and_then(|at| state.callers.remove(at)).unwrap_or_else(|| Of {
            who: who.cloned(),
            taken: 0,
            waiting: VecDeque::new(),
        });
        state.forget_who_left(&mut of);
        let entered = if of.waiting.is_empty() && self.has_place(&state, &of) {
            state.taken += 1;
            of.taken += 1;
            Some(Entered::Now(Place { line: Arc::clone(self), who: of.who.clone() }))
        } else if state.has_room_for(&of) {
            let (turn, told) = oneshot::channel();
            state.waiting += 1;
            of.waiting.push_back(turn);
            Some(Entered::Later(told))
        } else {
            None
        };
        // In its turn as before.
        let at = at.unwrap_or(state.callers.len());
        state.put(at, of);
        entered
    }

    fn has_place(&self, state: &State, of: &Of) -> bool {
        state.taken < self.places && of.taken < self.each_max
    }

    /// Who has a place next, which is theirs then.
    fn next(&self, state: &mut State) -> Option<(oneshot::Sender<Place>, Option<KeyId>)> {
        for _ in 0..state.callers.len() {
            let mut of = state.callers.pop_front()?;
            state.forget_who_left(&mut of);
            let turn = if self.has_place(state, &of) { of.waiting.pop_front() } else { None };
            let who = of.who.clone();
            if turn.is_some() {
                (state.taken, state.waiting) = (state.taken + 1, state.waiting - 1);
                of.taken += 1;
            }
            state.put(state.callers.len(), of);
            if let Some(turn) = turn {
                return Some((turn, who));
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether one more of a caller may wait.
    fn has_room_for(&mut self, of: &Of) -> bool {
        if self.may_wait(of) {
            return true;
        }
        // Nobody is refused for those who are gone.
        let mut callers = std::mem::take(&mut self.callers);
        callers.iter_mut().for_each(|other| self.forget_who_left(other));
        self.callers = callers;
        self.may_wait(of)
    }

    fn may_wait(&self, of: &Of) -> bool {
        let free = WAITING_MAX.checked_sub(self.waiting + 1);
        free.is_some_and(|free| of.waiting.is_empty() || is_fair(of.waiting.len() + 1, free))
    }

    fn forget_who_left(&mut self, of: &mut Of) {
        let before = of.waiting.len();
        of.waiting.retain(|turn| !turn.is_closed());
        self.waiting -= before - of.waiting.len();
    }

    /// Puts a caller there, unless nothing is left of it.
    fn put(&mut self, at: usize, of: Of) {
        if of.taken > 0 || !of.waiting.is_empty() {
            self.callers.insert(at.min(self.callers.len()), of);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut state = self.line.lock();
            state.taken -= 1;
            let at = state.callers.iter().position(|of| of.who == self.who);
            if let Some((at, mut of)) = at.and_then(|at| Some((at, state.callers.remove(at)?))) {
                of.taken -= 1;
                state.put(at, of);
            }
            self.line.next(&mut state)
        };
        let Some((turn, who)) = next else { return };
        // It comes back, and goes on to the next one, where its waiter has left in between.
        let _left = turn.send(Place { line: Arc::clone(&self.line), who });
    }
}

impl Wanted {
    /// Whether that is so.
    pub(crate) fn is_so(&self) -> bool {
        !self.given_up.load(Relaxed)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.given_up.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);

    fn key(name: &str) -> KeyId {
        KeyId(name.into())
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_given_up() {
        let makers = Makers::new(LONG);
        let (said, heard) = mpsc::sync_channel(1);
        let make = makers.make(None, false, move |wanted| {
            while wanted.is_so() {
                std::thread::yield_now();
            }
            said.send(()).map_err(|gone| NotMade::Died(gone.to_string()))
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), make).await.is_err(), "it left");
        heard.recv_timeout(LONG).unwrap();
    }

    #[tokio::test]
    async fn no_more_is_made_at_once_than_there_are_cores() {
        let makers = Makers::new(Duration::ZERO);
        let cores = makers.line.places;
        let (release, held) = mpsc::sync_channel::<()>(1);
        let held = Arc::new(Mutex::new(held));
        let hold = || {
            let held = Arc::clone(&held);
            makers.make(None, false, move |_| {
                let _released = held.lock().map(|held| held.recv());
                Ok::<_, NotMade>(())
            })
        };
        let all = join_all((0..cores).map(|_| hold()));
        let look = async {
            while makers.line.lock().taken < cores {
                tokio::task::yield_now().await;
            }
            let refused = makers.make(None, false, |_| Ok::<_, NotMade>(())).await.unwrap_err();
            assert!(matches!(refused, NotMade::Busy), "{refused:?}");
            assert!(
                makers.make(None, true, |_| Ok::<_, NotMade>(())).await.is_ok(),
                "little needs no thread"
            );
            drop(release);
        };
        let (made, ()) = tokio::join!(all, look);
        assert!(made.iter().all(Result::is_ok));
        makers.make(None, false, |_| Ok::<_, NotMade>(())).await.unwrap();
    }

    #[test]
    fn who_left_takes_no_room_from_others() {
        let line = Makers::with_places(1, 1, LONG).line;
        let runs = line.enter(Some(&key("runs")));
        assert!(matches!(runs, Some(Entered::Now(_))));
        let fill = |who: &KeyId| {
            let waiting: Vec<_> = std::iter::from_fn(|| line.enter(Some(who))).collect();
            waiting.len()
        };
        let alone = fill(&key("floods"));
        assert!(alone > WAITING_MAX / 2, "{alone}");
        assert_eq!(fill(&key("other")), alone, "the others are gone");
        drop(runs);
    }

    #[tokio::test]
    async fn callers_have_their_turns_however_many_wait_of_one() {
        let makers = Makers::with_places(1, 1, LONG);
        let (release, held) = mpsc::sync_channel::<()>(1);
        let (say, said) = mpsc::sync_channel(64);
        let (floods, other) = (key("floods"), key("other"));
        let hold = makers.make(Some(&floods), false, move |_| {
            let _released = held.recv();
            Ok::<_, NotMade>(())
        });
        let job = |who: &'static str, of| {
            let say = say.clone();
            makers.make(Some(of), false, move |_| {
                say.send(who).map_err(|gone| NotMade::Died(gone.to_string()))
            })
        };
        let many = join_all((0..20).map(|_| job("floods", &floods)));
        let one = async {
            while makers.line.lock().waiting < 20 {
                tokio::task::yield_now().await;
            }
            let late = job("other", &other);
            tokio::join!(late, async {
                while makers.line.lock().waiting < 21 {
                    tokio::task::yield_now().await;
                }
                drop(release);
            })
        };
        let (held, many, (one, ())) = tokio::join!(hold, many, one);
        assert!(held.is_ok() && one.is_ok() && many.iter().all(Result::is_ok));
        let order: Vec<_> = said.try_iter().collect();
        let place = order.iter().position(|who| *who == "other");
        assert!(place.is_some_and(|place| place <= 1), "{order:?}");
        assert!(makers.line.lock().callers.is_empty(), "nothing is left of who was served");
    }

    #[tokio::test]
    async fn one_caller_has_no_more_places_than_it_may() {
        let makers = Makers::with_places(2, 1, Duration::ZERO);
        let (release, held) = mpsc::sync_channel::<()>(1);
        let a = key("a");
        let hold = makers.make(Some(&a), false, move |_| {
            let _released = held.recv();
            Ok::<_, NotMade>(())
        });
        let others = async {
            while makers.line.lock().taken == 0 {
                tokio::task::yield_now().await;
            }
            let again = makers.make(Some(&a), false, |_| Ok::<_, NotMade>(())).await;
            assert!(matches!(again, Err(NotMade::Busy)), "{again:?}");
            makers.make(Some(&key("b")), false, |_| Ok::<_, NotMade>(())).await.unwrap();
            drop(release);
        };
        let (held, ()) = tokio::join!(hold, others);
        held.unwrap();
    }

    #[tokio::test]
    async fn what_is_wanted_by_nobody_when_its_turn_comes_is_not_begun() {
        let makers = Makers::with_places(1, 1, LONG);
        let Some(Entered::Now(place)) = makers.line.enter(None) else { panic!("it is free") };
        let begun = Arc::new(AtomicBool::default());
        let make = {
            let begun = Arc::clone(&begun);
            makers.make(None, false, move |_| {
                begun.store(true, Relaxed);
                Ok::<_, NotMade>(())
            })
        };
        let mut make = Box::pin(make);
        assert!(futures::poll!(&mut make).is_pending());
        drop(make);
        drop(place);
        makers.make(None, false, |_| Ok::<_, NotMade>(())).await.unwrap();
        assert!(!begun.load(Relaxed));
        assert_eq!(makers.line.lock().waiting, 0);
    }

    #[test]
    fn one_caller_fills_no_line() {
        let makers = Makers::with_places(1, 1, LONG);
        let (floods, other) = (key("floods"), key("other"));
        let place = makers.line.enter(Some(&floods));
        let wait = || makers.line.enter(Some(&floods));
        let waiting: Vec<_> = std::iter::from_fn(wait).collect();
        assert_eq!(waiting.len(), WAITING_MAX * 3 / 4);
        let late = makers.line.enter(Some(&other));
        assert!(matches!(late, Some(Entered::Later(_))));
        drop(waiting);
        assert!(wait().is_some(), "who left waits no more");
        drop((late, place));
    }
}
