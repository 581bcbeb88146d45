//! From a bearer key to the [`Caller`] it belongs to.
//!
//! **Invariants:** a secret is shown once and kept only as a keyed hash; user and team come from
//! the operator, never from a request; a wrong, an expired and a revoked key get one and the same
//! answer.

mod files;
mod keys;
mod record;
mod secret;
#[cfg(test)]
mod tests;

pub use files::{ADMIN_KEY_FILE, FIRST_KEY_FILE, private_dir, read_secret, write_secret};
pub use keys::{KeyChange, Keys, KeysError, NewKey};
pub use record::{BudgetSpec, KeyLimits, KeyRecord, Window};
pub use secret::Secret;

use crate::{admission::KeyGate, ledger::KeyId};
use policies::CallerFacts;
use std::sync::Arc;

/// Who asks: a key's record, and what its limits have let through so far.
#[derive(Debug)]
pub struct Caller {
    /// What the operator set.
    pub record: Arc<KeyRecord>,
    pub(crate) gate: KeyGate,
}

impl Caller {
    /// The caller of a record. `before` is the same key before a change: its counts go on.
    pub(crate) fn new(record: Arc<KeyRecord>, before: Option<&Self>) -> Self {
        let gate = KeyGate::new(&record.limits, before.map(|caller| &caller.gate));
        Self { record, gate }
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.record.id
    }

    /// The caller as policies see it.
    #[must_use]
    pub fn facts(&self) -> CallerFacts {
        CallerFacts {
            key: self.record.id.0.as_ref().to_owned(),
            label: self.record.label.clone(),
            user: self.record.user.clone(),
            team: self.record.team.clone(),
        }
    }
}
