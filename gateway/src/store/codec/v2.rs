//! Version 2 of the forms of keys and groups: without tags of keys and time zones of budgets. Read for
//! ever, never written. The other kinds are still of version 2.
//!
//! **Invariant:** nothing here changes, as in [`super::v1`].

use crate::{
    caller::{self, KeyLimits, Window},
    ledger::{KeyId, Scope},
};
use policies::PicoUsd;
use serde::Deserialize;

/// Version number in a record's header.
pub(super) const VERSION: u8 = 2;

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
}

#[derive(Deserialize)]
pub(crate) struct GroupRecord {
    scope: Scope,
    label: String,
    team: Option<String>,
    limits: KeyLimits,
    budgets: Vec<BudgetSpec>,
    session_budgets: Vec<BudgetSpec>,
    created_unix_ms: u64,
    disabled_unix_ms: Option<u64>,
}

#[derive(Deserialize)]
struct BudgetSpec {
    window: Window,
    money: Option<PicoUsd>,
    tokens: Option<u64>,
    hard: bool,
    requests: Option<u64>,
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
            budgets: all(old.budgets),
            may_pin: old.may_pin,
            created_unix_ms: old.created_unix_ms,
            expires_unix_ms: old.expires_unix_ms,
            revoked_unix_ms: old.revoked_unix_ms,
            session_budgets: all(old.session_budgets),
            disabled_unix_ms: old.disabled_unix_ms,
            tags: Vec::new(),
        }
    }
}

impl From<GroupRecord> for caller::GroupRecord {
    fn from(old: GroupRecord) -> Self {
        Self {
            scope: old.scope,
            label: old.label,
            team: old.team,
            limits: old.limits,
            budgets: all(old.budgets),
            session_budgets: all(old.session_budgets),
            created_unix_ms: old.created_unix_ms,
            disabled_unix_ms: old.disabled_unix_ms,
        }
    }
}

fn all(old: Vec<BudgetSpec>) -> Vec<caller::BudgetSpec> {
    let one = |old: BudgetSpec| caller::BudgetSpec {
        window: old.window,
        money: old.money,
        tokens: old.tokens,
        hard: old.hard,
        requests: old.requests,
        zone: None,
        turn: None,
    };
    old.into_iter().map(one).collect()
}
