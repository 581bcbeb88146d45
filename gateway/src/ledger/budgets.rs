//! Budgets and tokens-per-minute limits: every one on a request's path is taken, or none.
//!
//! **Invariants:** settled plus held never exceeds a hard budget, because checking and holding are
//! one step under one lock; a charge belongs to the windows of its admission; a route that costs
//! nothing, or does not count, is never stopped by a money budget; a soft budget counts and never
//! refuses.

use super::{
    KeyId,
    accounts::{Accounts, Amount, Starts},
    calendar::{Calendar, Span, WINDOWS},
    open_entry::Short,
    rate::Rate,
};
use crate::caller::{BudgetSpec, KeyRecord, Window};
use jiff::tz::TimeZone;
use policies::{BudgetFacts, PicoUsd, PicoUsdTotal};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Whose budget or limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everyone's.
    Global,
    /// One key's.
    Key(KeyId),
}

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Money, in pico-USD.
    Money,
    /// Tokens.
    Tokens,
}

/// One budget in its current window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetState {
    /// Its id: scope and window, such as `global/day`.
    pub id: Arc<str>,
    /// Whose.
    pub scope: Scope,
    /// Over which window.
    pub window: Window,
    /// Whether it refuses (`true`) or only counts.
    pub hard: bool,
    /// The money side, if it limits money.
    pub money: Option<Side<PicoUsdTotal>>,
    /// The token side, if it limits tokens.
    pub tokens: Option<Side<u64>>,
    /// Start of the window, milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    /// When the next window opens; `None` for `total`.
    pub resets_unix_ms: Option<u64>,
}

/// One side of a budget. `limit = spent + reserved + left`, unless it was overrun or lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Side<T> {
    /// The limit.
    pub limit: T,
    /// Settled in this window.
    pub spent: T,
    /// Held for attempts that run.
    pub reserved: T,
    /// What can still be reserved.
    pub left: T,
}

/// The tightest tokens-per-minute limit on a key's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRate {
    /// Tokens per minute.
    pub limit: u64,
    /// What could be taken now.
    pub remaining: u64,
    /// How long until it is whole again.
    pub reset: Duration,
}

/// The windows a reservation is held in, by scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds {
    pub(crate) global: Starts,
    pub(crate) key: Starts,
}

/// What an attempt needs at worst. `money` is zero where it does not count.
pub(crate) type Need = Amount;

/// All budgets and token rates.
#[derive(Debug)]
pub(crate) struct Budgets {
    inner: Mutex<Inner>,
    base: Instant,
}

#[derive(Debug)]
struct Inner {
    calendar: Calendar,
    global: ScopeBook,
    /// As many as there are keys.
    keys: HashMap<KeyId, ScopeBook>,
}

#[derive(Debug, Default)]
struct ScopeBook {
    budgets: Vec<Budget>,
    rate: Option<Rate>,
    accounts: Accounts,
}

#[derive(Debug)]
struct Budget {
    id: Arc<str>,
    spec: BudgetSpec,
}

// === impl Budgets ===

impl Budgets {
    pub(crate) fn new(zone: TimeZone, budgets: &[BudgetSpec], per_minute: Option<u64>) -> Self {
        let mut global = ScopeBook::default();
        global.limit(&Scope::Global, budgets, per_minute, Duration::ZERO);
        let inner = Inner { calendar: Calendar::new(zone), global, keys: HashMap::new() };
        Self { inner: Mutex::new(inner), base: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.base.elapsed()
    }

    /// A scope's balances as recovered from the journal. Only before the first reservation.
    pub(crate) fn restore(&self, scope: &Scope, accounts: Accounts) {
        let mut inner = self.lock();
        match scope {
            Scope::Global => inner.global.accounts = accounts,
            Scope::Key(key) => inner.keys.entry(key.clone()).or_default().accounts = accounts,
        }
    }

    /// A key's budgets and limits, in force at once. What is spent and held stays.
    pub(crate) fn put_key(&self, record: &KeyRecord) {
        let now = self.now();
        let scope = Scope::Key(record.id.clone());
        let mut inner = self.lock();
        let book = inner.keys.entry(record.id.clone()).or_default();
        book.limit(&scope, &record.budgets, record.limits.tokens_per_minute, now);
    }

    /// Holds `need` in every budget and rate on the path, or in none.
    pub(crate) fn reserve(&self, key: &KeyId, need: Need, now_ms: u64) -> Result<Holds, Short> {
        let now = self.now();
        let mut guard = self.lock();
        let Inner { calendar, global, keys } = &mut *guard;
        let mut of_key = keys.get_mut(key);
        let global_starts = global.check(|| Scope::Global, calendar, need, now_ms)?;
        let key_starts = match of_key.as_deref_mut() {
            Some(book) => book.check(|| Scope::Key(key.clone()), calendar, need, now_ms)?,
            None => Starts::default(),
        };
        global.check_rate(|| Scope::Global, need.tokens, now)?;
        if let Some(book) = of_key.as_deref_mut() {
            book.check_rate(|| Scope::Key(key.clone()), need.tokens, now)?;
        }
        Ok(Holds {
            global: global.hold(&global_starts, need, now),
            key: of_key.map_or_else(Starts::default, |book| book.hold(&key_starts, need, now)),
        })
    }

    /// Ends a hold with what it came to.
    pub(crate) fn settle(&self, key: &KeyId, holds: &Holds, held: Amount, charge: Amount) {
        let now = self.now();
        let mut inner = self.lock();
        inner.global.settle(&holds.global, held, charge, now);
        if let Some(book) = inner.keys.get_mut(key) {
            book.settle(&holds.key, held, charge, now);
        }
    }

    /// Every budget that applies to a key: global ones, then its own.
    pub(crate) fn facts(&self, key: &KeyId, now_ms: u64) -> Vec<BudgetFacts> {
        let mut guard = self.lock();
        let Inner { calendar, global, keys } = &mut *guard;
        let of_key = keys.get(key);
        let count = global.budgets.len() + of_key.map_or(0, |book| book.budgets.len());
        let mut facts = Vec::with_capacity(count);
        for book in std::iter::once(&*global).chain(of_key) {
            facts.extend(book.budgets.iter().map(|budget| {
                let span = calendar.span(budget.spec.window, now_ms);
                let balance = book.accounts.of(budget.spec.window).balance(span.start);
                BudgetFacts {
                    id: budget.id.as_ref().to_owned(),
                    hard: budget.spec.hard,
                    money: budget.spec.money.map(|limit| (limit, left(limit, balance.money()))),
                    tokens: budget
                        .spec
                        .tokens
                        .map(|limit| (limit, limit.saturating_sub(balance.tokens()))),
                }
            }));
        }
        facts
    }

    /// The tightest tokens-per-minute limit of a key.
    pub(crate) fn token_rate(&self, key: &KeyId) -> Option<TokenRate> {
        let now = self.now();
        let inner = self.lock();
        let of_key = inner.keys.get(key).and_then(|book| book.rate);
        inner
            .global
            .rate
            .into_iter()
            .chain(of_key)
            .map(|rate| TokenRate {
                limit: rate.limit(),
                remaining: rate.left(now),
                reset: rate.reset(now),
            })
            .min_by_key(|rate| rate.remaining)
    }

    /// Every budget there is, global ones first, then by key.
    pub(crate) fn states(&self, now_ms: u64) -> Vec<BudgetState> {
        let mut guard = self.lock();
        let Inner { calendar, global, keys } = &mut *guard;
        let mut states = global.states(&Scope::Global, calendar, now_ms);
        let mut keys: Vec<_> = keys.iter().collect();
        keys.sort_by(|one, other| one.0.cmp(other.0));
        for (key, book) in keys {
            states.extend(book.states(&Scope::Key(key.clone()), calendar, now_ms));
        }
        states
    }

    /// The balances of every scope.
    #[cfg(test)]
    pub(crate) fn balances(&self) -> Vec<(Scope, Accounts)> {
        let inner = self.lock();
        let mut all = vec![(Scope::Global, inner.global.accounts.clone())];
        all.extend(
            inner.keys.iter().map(|(key, book)| (Scope::Key(key.clone()), book.accounts.clone())),
        );
        all.retain(|(_, accounts)| !accounts.is_empty());
        all
    }
}

// === impl ScopeBook ===

impl ScopeBook {
    fn limit(
        &mut self,
        scope: &Scope,
        budgets: &[BudgetSpec],
        per_minute: Option<u64>,
        now: Duration,
    ) {
        let name = |at: usize, spec: &BudgetSpec| {
            let before = budgets[..at].iter().filter(|other| other.window == spec.window).count();
            match before {
                0 => format!("{scope}/{}", window_name(spec.window)),
                _ => format!("{scope}/{}/{}", window_name(spec.window), before + 1),
            }
        };
        self.budgets = budgets
            .iter()
            .enumerate()
            .map(|(at, spec)| Budget { id: name(at, spec).into(), spec: spec.clone() })
            .collect();
        self.rate = per_minute.map(|limit| match self.rate {
            Some(rate) => rate.with_limit(limit, now),
            None => Rate::per_minute(limit),
        });
    }

    /// The windows to hold `need` in, if every hard budget has room for it.
    fn check(
        &self,
        scope: impl FnOnce() -> Scope,
        calendar: &mut Calendar,
        need: Need,
        now_ms: u64,
    ) -> Result<Starts, Short> {
        let mut starts = [None; WINDOWS];
        for budget in &self.budgets {
            let spec = &budget.spec;
            let span = calendar.span(spec.window, now_ms);
            starts[spec.window as usize] = Some(span.start);
            if !spec.hard {
                continue;
            }
            let balance = self.accounts.of(spec.window).balance(span.start);
            let wants_money = !need.money.is_zero();
            if let Some(limit) = spec.money.filter(|_| wants_money)
                && balance.money().saturating_add(need.money.pico().into()) > limit.pico().into()
            {
                let left = left(limit, balance.money()).pico();
                return Err(budget.short(
                    scope(),
                    Unit::Money,
                    [limit.pico(), left, need.money.pico()],
                    span,
                ));
            }
            if let Some(limit) = spec.tokens
                && balance.tokens().saturating_add(need.tokens) > limit
            {
                let left = limit.saturating_sub(balance.tokens());
                return Err(budget.short(scope(), Unit::Tokens, [limit, left, need.tokens], span));
            }
        }
        Ok(starts)
    }

    fn check_rate(
        &self,
        scope: impl FnOnce() -> Scope,
        tokens: u64,
        now: Duration,
    ) -> Result<(), Short> {
        match &self.rate {
            Some(rate) if !rate.allows(tokens, now) => Err(Short::TokensPerMinute {
                scope: scope(),
                limit: rate.limit(),
                left: rate.left(now),
                needed: tokens,
                retry_after: rate.wait(tokens, now),
            }),
            _ => Ok(()),
        }
    }

    fn hold(&mut self, starts: &Starts, need: Need, now: Duration) -> Starts {
        if let Some(rate) = &mut self.rate {
            rate.take(need.tokens, now);
        }
        self.accounts.hold(starts, need)
    }

    fn settle(&mut self, starts: &Starts, held: Amount, charge: Amount, now: Duration) {
        self.accounts.settle(starts, held, charge);
        if let Some(rate) = &mut self.rate {
            match held.tokens.checked_sub(charge.tokens) {
                Some(unused) => rate.give(unused),
                None => rate.take(charge.tokens - held.tokens, now),
            }
        }
    }

    fn states(&self, scope: &Scope, calendar: &mut Calendar, now_ms: u64) -> Vec<BudgetState> {
        let state = |budget: &Budget, span: Span| {
            let spec = &budget.spec;
            let balance = self.accounts.of(spec.window).balance(span.start);
            BudgetState {
                id: Arc::clone(&budget.id),
                scope: scope.clone(),
                window: spec.window,
                hard: spec.hard,
                money: spec.money.map(|limit| Side {
                    limit: limit.into(),
                    spent: PicoUsdTotal::from_pico(balance.spent_money),
                    reserved: PicoUsdTotal::from_pico(balance.held_money),
                    left: left(limit, balance.money()).into(),
                }),
                tokens: spec.tokens.map(|limit| Side {
                    limit,
                    spent: balance.spent_tokens,
                    reserved: balance.held_tokens,
                    left: limit.saturating_sub(balance.tokens()),
                }),
                began_unix_ms: span.start,
                resets_unix_ms: span.end,
            }
        };
        self.budgets
            .iter()
            .map(|budget| state(budget, calendar.span(budget.spec.window, now_ms)))
            .collect()
    }
}

impl Budget {
    fn short(&self, scope: Scope, unit: Unit, figures: [u64; 3], span: Span) -> Short {
        let [limit, left, needed] = figures;
        let id = Arc::clone(&self.id);
        Short::Budget { id, scope, unit, limit, left, needed, opens_unix_ms: span.end }
    }
}

fn left(limit: PicoUsd, taken: u128) -> PicoUsd {
    let left = u128::from(limit.pico()).saturating_sub(taken);
    PicoUsd::from_pico(u64::try_from(left).unwrap_or(u64::MAX))
}

/// The window's name in ids and tables.
#[must_use]
pub fn window_name(window: Window) -> &'static str {
    match window {
        Window::Hour => "hour",
        Window::Day => "day",
        Window::Month => "month",
        Window::Total => "total",
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Key(key) => write!(f, "{key}"),
        }
    }
}
