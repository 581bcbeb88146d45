//! What a budget shows of itself: to operators, to policies, to those who wait.

use super::{
    super::{accounts::Balance, calendar::Calendar},
    Scope,
};
use crate::caller::{BudgetSpec, Turn, Window, Zone};
use policies::{BudgetFacts, PicoUsd, PicoUsdTotal};
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// One budget in its current window.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The requests' side, if it limits requests.
    pub requests: Option<Side<u64>>,
    /// What is settled in this window, also of what it does not limit.
    pub spent: Spent,
    /// Start of the window, milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    /// When the next window opens; `None` for `total`. For a rolling window: when the oldest
    /// sub-bucket leaves it.
    pub resets_unix_ms: Option<u64>,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Lost events whose charges may be missing from what is spent: how much is not known.
    pub uncounted_events: u64,
    /// The time zone of its calendar windows, where it has its own.
    pub zone: Option<Zone>,
    /// Where its zone was changed and the window that ran then still runs: that zone, and until when.
    pub turn: Option<Turn>,
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

/// What is settled in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Money, in pico-USD.
    pub money: u128,
    /// Tokens.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
}

/// The tightest tokens-per-minute limit on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRate {
    /// Tokens per minute.
    pub limit: u64,
    /// What could be taken now.
    pub remaining: u64,
    /// How long until it is whole again.
    pub reset: Duration,
}

/// A budget's id: its scope and its window.
#[must_use]
pub fn budget_id(scope: &Scope, window: Window) -> Arc<str> {
    name(scope, window).into()
}

/// The same as text, put together by hand: every request says it of each budget on its path.
fn name(scope: &Scope, window: Window) -> String {
    let mut name = String::with_capacity(64);
    scope.write(&mut name);
    name.push('/');
    window.write(&mut name);
    name
}

pub(super) fn state(
    scope: &Scope,
    spec: &BudgetSpec,
    balance: &Balance,
    (calendar, unix_ms): (&mut Calendar, u64),
    frees_at: Option<u64>,
) -> BudgetState {
    let span = calendar.span(spec, unix_ms);
    let count = |limit: Option<u64>, spent: u64, reserved: u64| {
        let left = |limit: u64| limit.saturating_sub(spent.saturating_add(reserved));
        limit.map(|limit| Side { limit, spent, reserved, left: left(limit) })
    };
    BudgetState {
        id: budget_id(scope, spec.window),
        scope: scope.clone(),
        window: spec.window,
        hard: spec.hard,
        money: spec.money.map(|limit| Side {
            limit: limit.into(),
            spent: PicoUsdTotal::from_pico(balance.spent_money),
            reserved: PicoUsdTotal::from_pico(balance.held_money),
            left: left(limit, balance.money()).into(),
        }),
        tokens: count(spec.tokens, balance.spent_tokens, balance.held_tokens),
        requests: count(spec.requests, balance.spent_requests, balance.held_requests),
        spent: Spent {
            money: balance.spent_money,
            tokens: balance.spent_tokens,
            requests: balance.spent_requests,
        },
        began_unix_ms: span.start,
        resets_unix_ms: frees_at.or(span.end),
        waiting: 0,
        uncounted_events: 0,
        zone: spec.zone.clone(),
        turn: spec.turn.clone().filter(|turn| unix_ms < turn.until_unix_ms),
    }
}

pub(super) fn facts(scope: &Scope, spec: &BudgetSpec, balance: &Balance) -> BudgetFacts {
    BudgetFacts {
        id: name(scope, spec.window),
        hard: spec.hard,
        money: spec.money.map(|limit| (limit, left(limit, balance.money()))),
        tokens: spec.tokens.map(|limit| (limit, limit.saturating_sub(balance.tokens()))),
    }
}

pub(super) fn left(limit: PicoUsd, taken: u128) -> PicoUsd {
    let left = u128::from(limit.pico()).saturating_sub(taken);
    PicoUsd::from_pico(u64::try_from(left).unwrap_or(u64::MAX))
}
