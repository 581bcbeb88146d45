//! A key as it is stored.
//!
//! **Invariant:** a record holds everything about a key but its secret. These types are what the
//! journal stores: a change of meaning or order needs a new schema version there.

use crate::ledger::KeyId;
use policies::PicoUsd;
use serde::{Deserialize, Serialize};

/// A key as it is stored: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Public id, `key_` and 12 base-32 characters.
    pub id: KeyId,
    /// BLAKE3 of the secret, keyed with the installation's own key.
    pub secret_hash: [u8; 32],
    /// First characters of the secret, to recognise it by.
    pub hint: String,
    /// The operator's name for it.
    pub label: String,
    /// User the operator set.
    pub user: Option<String>,
    /// Team the operator set.
    pub team: Option<String>,
    /// Limits.
    pub limits: KeyLimits,
    /// Budgets on this key.
    pub budgets: Vec<BudgetSpec>,
    /// Whether it may pin routes by writing their name as `model`.
    pub may_pin: bool,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// When it stops working.
    pub expires_unix_ms: Option<u64>,
    /// When it was revoked.
    pub revoked_unix_ms: Option<u64>,
}

/// Rate limits of a key; `None` is no limit of its own (the global one still holds).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, prompt and answer, taken with the reservation and given back at
    /// settlement.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight.
    pub concurrency: Option<u32>,
}

/// A budget: a limit in money, tokens or both over a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSpec {
    /// Over which window.
    pub window: Window,
    /// Money limit.
    pub money: Option<PicoUsd>,
    /// Token limit.
    pub tokens: Option<u64>,
    /// Refuses when spent (`true`) or only warns.
    pub hard: bool,
}

/// The window of a budget. Calendar windows begin in the configured time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Each hour of the clock.
    Hour,
    /// Each day.
    Day,
    /// Each month.
    Month,
    /// Since the budget exists.
    Total,
}

impl KeyRecord {
    /// Whether the key works at this time: neither expired nor revoked.
    #[must_use]
    pub fn works_at(&self, unix_ms: u64) -> bool {
        self.revoked_unix_ms.is_none()
            && self.expires_unix_ms.is_none_or(|expires| unix_ms < expires)
    }
}
