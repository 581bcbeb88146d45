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
mod window;

pub use files::{ADMIN_KEY_FILE, FIRST_KEY_FILE, private_dir, read_secret, write_secret};
pub use keys::{KeyChange, Keys, KeysError, NewKey};
pub use record::{BudgetSpec, GroupRecord, KeyLimits, KeyRecord};
pub use secret::Secret;
pub(crate) use window::SUB_BUCKETS;
pub use window::{NotAWindow, Window};

use crate::{
    admission::KeyGate,
    ledger::{BudgetPath, KeyId, Payer},
};
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

    /// Whose budgets and limits its requests count against, but for sessions and tags.
    #[must_use]
    pub fn path(&self) -> BudgetPath {
        BudgetPath::of(&Payer {
            key: &self.record.id,
            team: self.record.team.as_deref(),
            user: self.record.user.as_deref(),
            session: None,
            tags: &[],
        })
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
