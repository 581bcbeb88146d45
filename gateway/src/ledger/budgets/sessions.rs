//! Which sessions are told apart, and which may be forgotten.
//!
//! **Invariant:** a session is forgotten only when nothing of it runs and it was not used for a
//! day; a key that opens more sessions than are kept has the rest share one session's budget, so
//! that new names escape nothing. What is forgotten is written with the reservation that took its
//! place, so that a restart finds the same sessions.

use crate::ledger::KeyId;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Sessions of one key that are told apart.
pub(super) const PER_KEY_MAX: usize = 4_096;
/// Sessions in all.
pub(super) const SESSIONS_MAX: usize = 65_536;
/// Unused for so long, a session has ended.
pub(super) const IDLE_MS: u64 = 24 * 3_600_000;
/// Sessions looked at to make room for one.
const LOOKS_MAX: usize = 8;
/// Of so many that have ended, whosever they are.
const PASSED_MAX: usize = 256;
/// The session that those share which are too many.
const SHARED: &str = "*";

type Name = (KeyId, Arc<str>);

/// The sessions that are told apart, by last use.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_name: HashMap<Name, (u64, u64)>,
    by_use: BTreeMap<(u64, u64), Name>,
    of_key: HashMap<KeyId, usize>,
    tick: u64,
}

/// The session that a request is counted in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) session: Arc<str>,
    /// Forgotten to make room for it.
    pub(super) forgets: Option<Name>,
}

impl Sessions {
    /// Where a request of this session counts. Nothing changes yet.
    pub(super) fn place(
        &self,
        key: &KeyId,
        session: &Arc<str>,
        now_ms: u64,
        settled: impl Fn(&Name) -> bool,
    ) -> Place {
        let known = self.by_name.contains_key(&(key.clone(), Arc::clone(session)));
        let of_key = self.of_key.get(key).copied().unwrap_or(0);
        if known || (of_key < PER_KEY_MAX && self.by_name.len() < SESSIONS_MAX) {
            return Place { session: Arc::clone(session), forgets: None };
        }
        let ended = |used: &(u64, u64)| used.0.saturating_add(IDLE_MS) <= now_ms;
        let mine = |name: &Name| of_key < PER_KEY_MAX || name.0 == *key;
        let oldest = self.by_use.iter().take_while(|(used, _)| ended(used));
        let forgets = oldest
            .map(|(_, name)| name)
            // Most may be of other keys, and everybody's reservations wait.
            .take(PASSED_MAX)
            .filter(|name| mine(name) && name.1.as_ref() != SHARED)
            .take(LOOKS_MAX)
            .find(|name| settled(name));
        match forgets {
            Some(name) => Place { session: Arc::clone(session), forgets: Some(name.clone()) },
            None => Place { session: SHARED.into(), forgets: None },
        }
    }

    /// Notes that a session is used.
    pub(super) fn touch(&mut self, key: &KeyId, session: &Arc<str>, now_ms: u64) {
        self.tick += 1;
        let name = (key.clone(), Arc::clone(session));
        let used = (now_ms, self.tick);
        match self.by_name.insert(name.clone(), used) {
            Some(before) => drop(self.by_use.remove(&before)),
            None => *self.of_key.entry(key.clone()).or_default() += 1,
        }
        self.by_use.insert(used, name);
    }

    pub(super) fn forget(&mut self, name: &Name) {
        if let Some(used) = self.by_name.remove(name) {
            self.by_use.remove(&used);
            if let Some(count) = self.of_key.get_mut(&name.0) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of_key.remove(&name.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn more_sessions_than_are_kept_share_one_until_old_ones_have_ended() {
        let (mut sessions, key) = (Sessions::default(), KeyId(name("key_a")));
        for at in 0..PER_KEY_MAX {
            let session = name(&format!("run-{at}"));
            assert_eq!(sessions.place(&key, &session, 1_000, |_| true).session, session);
            sessions.touch(&key, &session, 1_000);
        }
        let shared = sessions.place(&key, &name("new"), 2_000, |_| true);
        assert_eq!(shared, Place { session: name(SHARED), forgets: None });
        // A day later the first has ended, unless something of it still runs.
        let later = 1_000 + IDLE_MS;
        let place = sessions.place(&key, &name("new"), later, |_| true);
        assert_eq!(place.forgets, Some((key.clone(), name("run-0"))));
        let place = sessions.place(&key, &name("new"), later, |other| *other.1 != *"run-0");
        assert_eq!(place.forgets, Some((key.clone(), name("run-1"))));
        assert_eq!(sessions.place(&key, &name("new"), later, |_| false).session, name(SHARED));
        // Another key is not concerned.
        let other = KeyId(name("key_b"));
        assert_eq!(sessions.place(&other, &name("new"), 2_000, |_| true).session, name("new"));
    }

    #[test]
    fn a_key_that_is_full_looks_through_no_end_of_others_sessions() {
        let mut sessions = Sessions::default();
        let (key, other) = (KeyId(name("key_a")), KeyId(name("key_b")));
        for at in 0..PASSED_MAX {
            sessions.touch(&other, &name(&format!("old-{at}")), 1_000);
        }
        for at in 0..PER_KEY_MAX {
            sessions.touch(&key, &name(&format!("run-{at}")), 1_001);
        }
        let later = 1_001 + IDLE_MS;
        let place = sessions.place(&key, &name("new"), later, |_| true);
        assert_eq!(place, Place { session: name(SHARED), forgets: None }, "it is not found there");
        // One that has gone makes the first of the key's own the next to be looked at.
        sessions.forget(&(other, name("old-0")));
        let place = sessions.place(&key, &name("new"), later, |_| true);
        assert_eq!(place.forgets, Some((key, name("run-0"))));
    }
}
