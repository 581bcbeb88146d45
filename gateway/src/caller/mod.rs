//! From a bearer key to the [`Caller`] it belongs to.
//!
//! **Invariants:** a secret is shown once and kept only as a keyed hash; user and team come from
//! the operator, never from a request; a wrong, an expired and a revoked key get one and the same
//! answer.

mod files;
mod groups;
mod keys;
mod record;
mod secret;
#[cfg(test)]
mod tests;
mod window;
mod zone;

pub use files::{ADMIN_KEY_FILE, FIRST_KEY_FILE, private_dir, read_secret, write_secret};
pub use keys::{KeyChange, Keys, KeysError, NewKey};
pub use record::{
    BudgetSpec, GroupRecord, KeyLimits, KeyRecord, NotABudget, Priority, TooManyBudgets, too_many,
};
pub use secret::Secret;
pub(crate) use window::SUB_BUCKETS;
pub use window::{NotAWindow, Window};
pub use zone::{NotAZone, Turn, Zone};

pub(crate) use files::HASH_KEY_FILE;
pub(crate) use groups::Group;

use crate::{
    admission::KeyGate,
    guard::{self, Subject},
    ledger::{BudgetPath, KeyId, Payer},
};
use policies::CallerFacts;
use std::sync::Arc;

/// Who asks: a key's record, and what its limits have let through so far.
#[derive(Debug)]
pub struct Caller {
    /// What the operator set.
    pub record: Arc<KeyRecord>,
    /// Its team: the key's own, else its user's.
    pub team: Option<String>,
    /// Its team and its user, where they were set up.
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) gate: KeyGate,
    /// Whom the abuse guard watches of it.
    pub(crate) watched: Arc<Vec<Subject>>,
    /// What policies see of it.
    pub(crate) facts: Arc<CallerFacts>,
}

impl Caller {
    /// A key within its team and its user.
    pub(crate) fn new(
        record: Arc<KeyRecord>,
        team: Option<String>,
        groups: Vec<Arc<Group>>,
        gate: KeyGate,
    ) -> Self {
        let watched = guard::subjects(&record.id, record.user.as_deref(), team.as_deref());
        let watched = Arc::new(watched);
        let facts = Arc::new(CallerFacts {
            key: record.id.to_string(),
            label: record.label.clone(),
            user: record.user.clone(),
            team: team.clone(),
        });
        Self { record, team, groups, gate, watched, facts }
    }

    /// Whether the key, its user and its team may work at this time.
    #[must_use]
    pub fn works_at(&self, unix_ms: u64) -> bool {
        let enabled = |group: &Arc<Group>| group.record.disabled_unix_ms.is_none();
        self.record.works_at(unix_ms) && self.groups.iter().all(enabled)
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.record.id
    }

    /// Whose budgets and limits its requests count against, but for sessions, models and the tags
    /// that a request brings.
    #[must_use]
    pub fn path(&self) -> BudgetPath {
        BudgetPath::of(&self.payer())
    }

    /// The same, to which a request adds what it names.
    #[must_use]
    pub fn payer(&self) -> Payer<'_> {
        Payer {
            key: &self.record.id,
            team: self.team.as_deref(),
            user: self.record.user.as_deref(),
            session: None,
            tags: &self.record.tags,
            model: None,
        }
    }
}
