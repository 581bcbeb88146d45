//! The abuse guard: who spends, asks or answers out of proportion to their own history is slowed
//! down, kept to the local model or turned away for a time, and the operator is told what was seen.
//!
//! **Invariants:** the guard only ever makes a request cheaper or turns it away; budgets hold
//! without it. What it knows and does survives a restart.

mod keep;
mod profile;
mod seen;
mod settings;
mod spending;
#[cfg(test)]
mod tests;
mod watch;

use crate::ledger::{Guarded, KeyId, What};
pub(crate) use keep::{KEPT_FILE, keep};
pub use profile::{Answered, Asked, Served};
pub(crate) use profile::{LOOP_MAX, NEW_KEYS_MAX};
pub use settings::{Settings, Signal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub use watch::{Effect, Event, Subject, Verdict, Watch};

/// The guard of the running gateway.
#[derive(Debug)]
pub struct Guard {
    watch: Mutex<Watch>,
}

/// A request that the guard counts as running. Dropped, it is not running any more: it was refused, or
/// whoever asked has left. One whose entry the guard is told of ends with [`Counted::told`].
#[derive(Debug)]
#[must_use = "dropping it ends the count"]
pub struct Counted {
    /// Of whom; nobody once it is told.
    subjects: Option<Arc<Vec<Subject>>>,
    guard: Arc<Guard>,
}

/// Who is watched of a request: its key, then its user and its team if the operator set them.
#[must_use]
pub fn subjects(key: &KeyId, user: Option<&str>, team: Option<&str>) -> Vec<Subject> {
    let user = user.map(|user| Subject::from(format!("user:{user}")));
    let team = team.map(|team| Subject::from(format!("team:{team}")));
    std::iter::once(Arc::clone(&key.0)).chain(user).chain(team).collect()
}

/// A hash of a name (a model, a key), the same in every process: histories are kept under it. No
/// prompt is hashed by this.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    // FNV-1a: names are short and the operator's, and the hash must not change with a library.
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Guard {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { watch: Mutex::new(Watch::new(settings)) }
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be served.
    pub fn ask(&self, subjects: &[Subject], asked: &Asked) -> Verdict {
        let verdict = self.lock().ask(subjects, asked);
        logged(&verdict.events);
        verdict
    }

    /// What is being done to such a request now, which is only asked about.
    pub fn stands(&self, subjects: &[Subject], asked: &Asked) -> Option<Effect> {
        self.lock().stands(subjects, asked)
    }

    /// A request was served; returns what begins with it.
    pub fn served(&self, subjects: &[Subject], served: &Served) -> Vec<Event> {
        let events = self.lock().served(subjects, served);
        logged(&events);
        events
    }

    /// What ends the count of a request that [`Guard::ask`] has let through.
    pub fn counted(self: &Arc<Self>, subjects: &Arc<Vec<Subject>>) -> Counted {
        Counted { subjects: Some(Arc::clone(subjects)), guard: Arc::clone(self) }
    }

    /// Requests of a subject that run.
    #[cfg(test)]
    pub(crate) fn running(&self, subject: &str) -> u32 {
        self.lock().running(subject)
    }

    /// Ends what is being done to a subject. Whether there was anything.
    pub fn lift(&self, subject: &str, unix_ms: u64) -> bool {
        self.lock().lift(&Arc::from(subject), unix_ms)
    }

    /// What is being done now.
    #[must_use]
    pub fn standing(&self, unix_ms: u64) -> Vec<(Subject, Effect)> {
        let mut all = self.lock().standing_all();
        all.retain(|(_, effect)| effect.until_ms > unix_ms);
        all
    }
}

impl Counted {
    /// The guard was told what the request came to ([`Guard::served`]), which ends the count.
    pub(crate) fn told(mut self) {
        self.subjects = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(subjects) = &self.subjects {
            self.guard.lock().unserved(subjects);
        }
    }
}

fn logged(events: &[Event]) {
    for event in events {
        let lift = match event.until_ms {
            Some(_) => format!("; to lift it: tollgate guard lift {}", event.subject),
            // Nothing stands.
            None => String::new(),
        };
        // No prompt and no secret is in it: what was seen is numbers.
        tracing::warn!(
            subject = %event.subject,
            signal = event.signal.name(),
            effect = ?event.effect,
            seen = %event.seen,
            "abuse guard{lift}"
        );
    }
}

impl From<&Event> for What {
    fn from(event: &Event) -> Self {
        Self::Guard(Guarded {
            subject: event.subject.as_ref().to_owned(),
            signal: event.signal.name().to_owned(),
            effect: event.effect,
            seen: event.seen.clone(),
            until_unix_ms: event.until_ms,
        })
    }
}
