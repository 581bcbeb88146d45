//! Version 3 of the form of keys, without their priority. Read for ever, never written. The other kinds
//! that had a version 3 are still of it.
//!
//! **Invariant:** nothing here changes, as in [`super::v1`].

use crate::{
    caller::{self, BudgetSpec, KeyLimits},
    ledger::KeyId,
};
use serde::Deserialize;

/// Version number in a record's header.
pub(super) const VERSION: u8 = 3;

#[derive(Deserialize)]
pub(crate) struct KeyRecord {
    id: KeyId,
    secret_hash: [u8; 32],
    hint: String,
    label: String,
    user: Option<String>,
    team: Option<String>,
    limits: KeyLimits,
    budgets: Vec<BudgetSpec>,
    may_pin: bool,
    created_unix_ms: u64,
    expires_unix_ms: Option<u64>,
    revoked_unix_ms: Option<u64>,
    session_budgets: Vec<BudgetSpec>,
    disabled_unix_ms: Option<u64>,
    tags: Vec<String>,
}

impl From<KeyRecord> for caller::KeyRecord {
    fn from(old: KeyRecord) -> Self {
        Self {
            id: old.id,
            secret_hash: old.secret_hash,
            hint: old.hint,
            label: old.label,
            user: old.user,
            team: old.team,
            limits: old.limits,
            budgets: old.budgets,
            may_pin: old.may_pin,
            created_unix_ms: old.created_unix_ms,
            expires_unix_ms: old.expires_unix_ms,
            revoked_unix_ms: old.revoked_unix_ms,
            session_budgets: old.session_budgets,
            disabled_unix_ms: old.disabled_unix_ms,
            tags: old.tags,
            priority: caller::Priority::Normal,
        }
    }
}
