//! Budgets and tokens-per-minute limits of the running gateway: the [`Machine`] behind one lock.
//!
//! **Invariant:** the lock is held for one step of the machine and never across a wait.

mod book;
mod machine;
mod marks;
mod scope;
mod sessions;
mod states;
#[cfg(test)]
mod tests;
mod waiting;

use super::{
    accounts::{Accounts, Amount, Correction, Starts},
    calendar::ZoneHistory,
    entry::KeyId,
    short::Short,
};
use crate::{
    caller::{BudgetSpec, GroupRecord, KeyLimits, KeyRecord, Window},
    config::ModelLimits,
    store::BooksError,
};
pub use machine::{Machine, Ticket};
pub use marks::Crossing;
pub(crate) use marks::{Mark, Marks};
use policies::{BudgetFacts, PicoUsd};
pub use scope::{BudgetPath, Payer, Scope};
use serde::{Deserialize, Serialize};
pub use states::{BudgetState, Side, Spent, TokenRate, budget_id};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Money, in pico-USD.
    Money,
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
}

/// A moment: the time of day for windows, and a steady clock for rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Since any fixed moment.
    pub mono: Duration,
}

/// The windows that a reservation is held in, by scope, and the sessions it took the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    pub(crate) held: Vec<(Scope, Starts)>,
    pub(crate) forgotten: Vec<Scope>,
    /// When the tokens that were taken of a scope's rate have refilled, by its place in `held`.
    /// Rates do not outlive the process.
    #[serde(skip)]
    pub(crate) refills: Vec<(usize, u128)>,
}

/// What an attempt needs at worst. `money` is zero where it does not count.
pub type Need = Amount;

/// All budgets and token rates.
#[derive(Debug)]
pub(crate) struct Budgets {
    machine: Mutex<Machine>,
    /// What the configuration says of the whole, beside what the API does.
    configured: (Vec<BudgetSpec>, Option<u64>),
    /// Models whose tokens per minute are limited.
    models: HashSet<Arc<str>>,
    base: Instant,
}

/// A place in the line, left when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    budgets: Arc<Budgets>,
    place: Option<u64>,
    woken: tokio::sync::oneshot::Receiver<()>,
    unix_ms: u64,
}

impl Holds {
    /// When the tokens taken of the rate of the scope at `place` have refilled; 0, long ago, where
    /// none were.
    pub(super) fn refilled_at(&self, place: usize) -> u128 {
        let taken = self.refills.iter().find(|(at, _)| *at == place);
        taken.map_or(0, |(_, refilled_at)| *refilled_at)
    }

    fn scopes(&self) -> Vec<Scope> {
        self.held.iter().map(|(scope, _)| scope.clone()).collect()
    }
}

// === impl Budgets ===

impl Budgets {
    pub(crate) fn new(
        zones: &ZoneHistory,
        budgets: &[BudgetSpec],
        per_minute: Option<u64>,
        models: &[ModelLimits],
    ) -> Self {
        let mut machine = Machine::with_zones(zones);
        let models = models.iter().filter(|of| of.limits.tokens_per_minute.is_some());
        for ModelLimits { model, limits } in models.clone() {
            let scope = Scope::Model(Arc::clone(model));
            machine.set(&scope, limits, (&[], &[]), At::default());
        }
        let budgets = Self {
            machine: Mutex::new(machine),
            configured: (budgets.to_vec(), per_minute),
            models: models.map(|of| Arc::clone(&of.model)).collect(),
            base: Instant::now(),
        };
        budgets.set_global(&KeyLimits::default(), &[], &[], 0);
        budgets
    }

    /// The path of a request that asks for `model`, whatever model `payer` names.
    pub(crate) fn path(&self, payer: &Payer<'_>, model: &str) -> BudgetPath {
        let model = self.models.get(model).map(|model| &**model);
        BudgetPath::of(&Payer { model, ..*payer })
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, unix_ms: u64) -> At {
        At { unix_ms, mono: self.base.elapsed() }
    }

    /// A scope's balances as recovered from the journal. Only before the first reservation.
    pub(crate) fn restore(
        &self,
        scope: &Scope,
        (accounts, marks): (Accounts, Marks),
        used_unix_ms: u64,
    ) {
        self.lock().restore(scope, (accounts, marks), used_unix_ms);
    }

    /// The parts of limits that are passed and were not told, of one scope or of all.
    pub(crate) fn untold(&self, of: Option<&Scope>, unix_ms: u64) -> Vec<Crossing> {
        self.lock().untold(of, self.at(unix_ms))
    }

    /// A key's budgets and limits, in force at once. What is spent and held stays.
    pub(crate) fn put_key(&self, record: &KeyRecord, unix_ms: u64) {
        let scope = Scope::Key(record.id.clone());
        let budgets = (&*record.budgets, &*record.session_budgets);
        self.lock().set(&scope, &record.limits, budgets, self.at(unix_ms));
    }

    /// Start of the window in which a budget counts now; `None` where there is no such budget.
    pub(crate) fn current(&self, scope: &Scope, window: Window, unix_ms: u64) -> Option<u64> {
        self.lock().current(scope, window, self.at(unix_ms))
    }

    /// Books a correction.
    pub(crate) fn correct(&self, correction: &Correction, unix_ms: u64) {
        self.lock().correct(correction, self.at(unix_ms));
    }

    /// Marks which budgets changed their time zone while a window of theirs runs.
    pub(crate) fn turn(&self, before: &[BudgetSpec], after: &mut [BudgetSpec], unix_ms: u64) {
        self.lock().turn(before, after, unix_ms);
    }

    /// A team's, user's, tag's or everyone's budgets and limits, in force at once.
    pub(crate) fn put_group(&self, record: &GroupRecord, unix_ms: u64) {
        let (budgets, of_sessions) = (&record.budgets, &record.session_budgets);
        if record.scope == Scope::Global {
            self.set_global(&record.limits, budgets, of_sessions, unix_ms);
        } else {
            let at = self.at(unix_ms);
            self.lock().set(&record.scope, &record.limits, (budgets, of_sessions), at);
        }
    }

    fn set_global(
        &self,
        limits: &KeyLimits,
        budgets: &[BudgetSpec],
        of_sessions: &[BudgetSpec],
        unix_ms: u64,
    ) {
        let (configured, per_minute) = &self.configured;
        let all = [configured, budgets].concat();
        let tighter = limits.tokens_per_minute.into_iter().chain(*per_minute).min();
        let limits = KeyLimits { tokens_per_minute: tighter, ..limits.clone() };
        self.lock().set(&Scope::Global, &limits, (&all, of_sessions), self.at(unix_ms));
    }

    /// Holds `need` in every budget and rate on the path, or in none.
    pub(crate) fn reserve(
        &self,
        path: &BudgetPath,
        need: Need,
        unix_ms: u64,
    ) -> Result<Holds, Short> {
        self.lock().reserve(path, need, self.at(unix_ms))
    }

    /// Money that a hold could be enlarged by; `None`: as much as anybody likes.
    pub(crate) fn room(&self, path: &BudgetPath, holds: &Holds) -> Option<PicoUsd> {
        self.lock().room(path, holds)
    }

    /// Enlarges a hold in its own windows, if every hard budget there has room.
    pub(crate) fn enlarge(&self, path: &BudgetPath, holds: &Holds, money: PicoUsd) -> bool {
        self.lock().enlarge(path, holds, money)
    }

    /// As [`Budgets::reserve`], or a place in the line where waiting may help.
    pub(crate) fn reserve_or_wait(
        self: &Arc<Self>,
        path: &BudgetPath,
        need: Need,
        unix_ms: u64,
    ) -> Result<Result<Holds, Place>, Short> {
        let answer = self.lock().reserve_or_wait(path, need, self.at(unix_ms))?;
        Ok(answer.map_err(|Ticket { place, woken }| Place {
            budgets: Arc::clone(self),
            place: Some(place),
            woken,
            unix_ms,
        }))
    }

    /// Ends a hold with what it came to; returns the parts of limits that were passed by it.
    pub(crate) fn settle(
        &self,
        holds: &Holds,
        held: Amount,
        charge: Amount,
        unix_ms: u64,
    ) -> Vec<Crossing> {
        self.lock().settle(holds, held, charge, self.at(unix_ms))
    }

    /// Gives back a hold that was not used.
    pub(crate) fn cancel(&self, holds: &Holds, held: Amount, unix_ms: u64) {
        self.lock().cancel(holds, held, self.at(unix_ms));
    }

    /// Every budget that applies to a path.
    pub(crate) fn facts(&self, path: &BudgetPath, unix_ms: u64) -> Vec<BudgetFacts> {
        self.lock().facts(path, self.at(unix_ms))
    }

    /// The most that one request may cost by any limit on the path.
    pub(crate) fn request_cost_max(&self, path: &BudgetPath) -> Option<PicoUsd> {
        self.lock().request_cost_max(path)
    }

    /// The tightest tokens-per-minute limit of a path.
    pub(crate) fn token_rate(&self, path: &BudgetPath) -> Option<TokenRate> {
        self.lock().token_rate(path, self.at(0))
    }

    /// Every budget of the scopes that are wanted; `above` tells what is above a key's sessions.
    pub(crate) fn states(
        &self,
        unix_ms: u64,
        wanted: impl Fn(&Scope) -> bool,
        above: impl Fn(&KeyId) -> Vec<Scope>,
    ) -> Vec<BudgetState> {
        self.lock().states(self.at(unix_ms), wanted, above)
    }

    /// The balances of every scope.
    #[cfg(test)]
    pub(crate) fn balances(&self) -> Vec<(Scope, Accounts)> {
        self.lock().balances()
    }
}

// === impl Place ===

impl Place {
    /// Waits for the answer, at most until `until`.
    pub(crate) async fn answer(
        mut self,
        until: Instant,
        now: impl Fn() -> u64,
    ) -> Result<Holds, Short> {
        let _answered_or_late = tokio::time::timeout_at(until, &mut self.woken).await;
        self.unix_ms = now();
        let at = self.budgets.at(self.unix_ms);
        match self.place.take() {
            Some(place) => self.budgets.lock().leave(place, at),
            None => Err(BooksError::Closed.into()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let at = self.budgets.at(self.unix_ms);
            self.budgets.lock().abandon(place, at);
        }
    }
}
