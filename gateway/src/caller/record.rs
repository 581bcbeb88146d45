//! Keys, teams and users as they are stored.
//!
//! **Invariant:** a record holds everything about a key but its secret. These types are what the
//! journal stores: a change of meaning or order needs a new schema version there.

use super::{Turn, Window, Zone};
use crate::ledger::{KeyId, Scope};
use policies::PicoUsd;
use schemars::JsonSchema;
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
    /// What each session (agent run) of this key may use.
    pub session_budgets: Vec<BudgetSpec>,
    /// Since when it is disabled; it works again when that is taken back.
    pub disabled_unix_ms: Option<u64>,
    /// The operator's tags: every request of the key bears them, beside those it names itself.
    pub tags: Vec<String>,
    /// How urgent its requests are: one may ask to be less urgent than that, never more.
    pub priority: Priority,
}

/// How urgent the requests of a key are among those that wait for a model in this process.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others that wait.
    High,
    /// As usual.
    #[default]
    Normal,
    /// Whenever nothing more urgent waits.
    Low,
}

/// A team, a user, a tag or the whole installation: what the operator set for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Which: [`Scope::Global`], [`Scope::Team`], [`Scope::User`] or [`Scope::Tag`].
    pub scope: Scope,
    /// The operator's words about it.
    pub label: String,
    /// The team of a user; a key's own team comes first.
    pub team: Option<String>,
    /// Limits over all its keys together.
    pub limits: KeyLimits,
    /// Budgets over all its keys together.
    pub budgets: Vec<BudgetSpec>,
    /// What each session of its keys may use.
    pub session_budgets: Vec<BudgetSpec>,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// Since when none of its keys works.
    pub disabled_unix_ms: Option<u64>,
}

/// Limits of a key, a user or a team; `None` is no limit of its own (those above still hold).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Requests per minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute, prompt and answer, taken with the reservation and given back at
    /// settlement.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight.
    pub concurrency: Option<u32>,
    /// The most that one request may cost at worst, over all its attempts together.
    pub request_cost_max: Option<PicoUsd>,
}

/// A budget: a limit in money, tokens or requests, or several of them, over a window.
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
    /// Limit of requests that reached a route.
    pub requests: Option<u64>,
    /// The time zone of its calendar windows; `None`: the configured one.
    pub zone: Option<Zone>,
    /// The change of its zone, where the window that ran then may still run. The books set it.
    pub turn: Option<Turn>,
}

/// A budget that cannot be kept as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABudget {
    /// It limits nothing.
    #[error("a budget limits `money_usd`, `tokens` or `requests`, or several of them")]
    Nothing,
    /// It has a time zone, and its window begins in none.
    #[error("`timezone` is for the windows hour, day, week and month: others begin in none")]
    Zone,
}

/// Budgets of one scope, and the rolling ones among them: each of those keeps 61 sub-buckets.
const BUDGETS_MAX: usize = 8;
const ROLLING_MAX: usize = 2;

/// A scope has more budgets than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at most {BUDGETS_MAX} budgets, of which at most {ROLLING_MAX} are rolling")]
pub struct TooManyBudgets;

/// Whether one scope cannot have budgets over these windows beside each other.
#[must_use]
pub fn too_many(windows: impl ExactSizeIterator<Item = Window>) -> bool {
    let budgets = windows.len();
    let rolling = windows.filter(|window| matches!(window, Window::Rolling(_))).count();
    budgets > BUDGETS_MAX || rolling > ROLLING_MAX
}

impl BudgetSpec {
    /// The budget, if it can be kept.
    ///
    /// # Errors
    /// [`NotABudget`].
    pub fn checked(self) -> Result<Self, NotABudget> {
        if self.money.is_none() && self.tokens.is_none() && self.requests.is_none() {
            return Err(NotABudget::Nothing);
        }
        if self.zone.is_some() && !self.window.is_calendar() {
            return Err(NotABudget::Zone);
        }
        Ok(self)
    }
}

impl KeyRecord {
    /// Whether the key works at this time: neither expired nor disabled nor revoked.
    #[must_use]
    pub fn works_at(&self, unix_ms: u64) -> bool {
        self.revoked_unix_ms.is_none()
            && self.disabled_unix_ms.is_none()
            && self.expires_unix_ms.is_none_or(|expires| unix_ms < expires)
    }
}
