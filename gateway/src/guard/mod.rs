//! The abuse guard: who spends, asks or answers out of proportion to their own history is slowed
//! down, kept to the local model or turned away for a time, and the operator is told what was seen.
//!
//! **Invariant:** the guard only ever makes a request cheaper or turns it away; budgets hold
//! without it.

mod profile;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

pub use profile::{Asked, Served};
pub use settings::{Settings, Signal};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
pub use watch::{Effect, Event, Subject, Verdict, Watch};

/// Events that are kept for operators.
const EVENTS_MAX: usize = 1_000;

/// The guard of the running gateway.
#[derive(Debug)]
pub struct Guard {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    watch: Watch,
    events: VecDeque<Event>,
}

/// Who is watched of a request: its key, and its user if the operator set one.
#[must_use]
pub fn subjects(key: &str, user: Option<&str>) -> Vec<Subject> {
    let user = user.map(|user| Subject::from(format!("user:{user}")));
    std::iter::once(Subject::from(key)).chain(user).collect()
}

impl Guard {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let inner = Inner { watch: Watch::new(settings), events: VecDeque::new() };
        Self { inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be served.
    pub fn ask(&self, subjects: &[Subject], asked: &Asked) -> Verdict {
        let mut inner = self.lock();
        let verdict = inner.watch.ask(subjects, asked);
        inner.keep(&verdict.events);
        verdict
    }

    /// A request was served.
    pub fn served(&self, subjects: &[Subject], served: &Served) {
        let mut inner = self.lock();
        let events = inner.watch.served(subjects, served);
        inner.keep(&events);
    }

    /// A request that was let through found no route.
    pub fn unserved(&self, subjects: &[Subject]) {
        self.lock().watch.unserved(subjects);
    }

    /// Ends what is being done to a subject. Whether there was anything.
    pub fn lift(&self, subject: &str, unix_ms: u64) -> bool {
        self.lock().watch.lift(&Arc::from(subject), unix_ms)
    }

    /// What is being done now, and what was noticed lately, newest first.
    #[must_use]
    pub fn state(&self) -> (Vec<(Subject, Effect)>, Vec<Event>) {
        let inner = self.lock();
        (inner.watch.standing_all(), inner.events.iter().rev().cloned().collect())
    }
}

impl Inner {
    fn keep(&mut self, events: &[Event]) {
        for event in events {
            // No prompt and no secret is in it: what was seen is numbers.
            tracing::warn!(
                subject = %event.subject,
                signal = event.signal.name(),
                effect = ?event.effect,
                seen = %event.seen,
                "abuse guard; to lift it: tollgate guard lift {}",
                event.subject
            );
            if self.events.len() >= EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(event.clone());
        }
    }
}
