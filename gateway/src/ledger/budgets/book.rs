//! One scope's budgets, its rate, and what of them is taken.

use super::{
    super::{
        accounts::{Accounts, Amount, Balance, Starts},
        calendar::Calendar,
        rate::Rate,
    },
    At, Marks, Need, Scope, Unit,
};
use crate::caller::{BudgetSpec, KeyLimits, Window};
use policies::PicoUsd;
use std::time::Duration;

/// A scope's budgets and limits, as the operator set them, and its balances.
#[derive(Debug, Default)]
pub(super) struct ScopeBook {
    pub(super) budgets: Vec<BudgetSpec>,
    /// What each session below this scope may use.
    pub(super) session_budgets: Vec<BudgetSpec>,
    /// Of a session: the tags of its requests that give it budgets.
    pub(super) tags: Vec<Scope>,
    pub(super) request_cost_max: Option<PicoUsd>,
    pub(super) rate: Option<Rate>,
    pub(super) accounts: Accounts,
    /// What was told of its limits.
    pub(super) marks: Marks,
}

/// One limit of which something is needed, and perhaps more than is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) unit: Unit,
    pub(super) limit: u64,
    pub(super) left: u64,
    pub(super) needed: u64,
    /// What would be left if everything that runs gave back all it holds.
    pub(super) left_at_most: u64,
}

impl Lack {
    /// Whether there is too little left.
    pub(super) fn lacks(&self) -> bool {
        self.needed > self.left
    }
}

impl ScopeBook {
    /// The operator's settings, in force at once. What is spent and held stays.
    pub(super) fn set(
        &mut self,
        limits: &KeyLimits,
        budgets: &[BudgetSpec],
        session_budgets: &[BudgetSpec],
        now: Duration,
    ) {
        self.budgets = budgets.to_vec();
        self.session_budgets = session_budgets.to_vec();
        self.request_cost_max = limits.request_cost_max;
        self.rate = limits.tokens_per_minute.map(|limit| match self.rate {
            Some(rate) => rate.with_limit(limit, now),
            None => Rate::per_minute(limit),
        });
    }

    /// Holds `need`; returns the windows, and when the tokens have refilled where there is a rate.
    pub(super) fn hold(
        &mut self,
        starts: &[(Window, u64)],
        need: Need,
        at: At,
    ) -> (Starts, Option<u128>) {
        let refilled_at = self.rate.as_mut().map(|rate| rate.take(need.tokens, at.mono));
        (self.accounts.hold(starts, need), refilled_at)
    }

    pub(super) fn settle(
        &mut self,
        starts: &[(Window, u64)],
        held: Amount,
        charge: Amount,
        refilled_at: u128,
        at: At,
    ) {
        self.accounts.settle(starts, held, charge);
        if let Some(rate) = &mut self.rate {
            match held.tokens.checked_sub(charge.tokens) {
                Some(unused) => rate.give(unused, refilled_at, at.mono),
                None => {
                    rate.take(charge.tokens - held.tokens, at.mono);
                }
            }
        }
    }
}

/// The windows of `specs` now, each once.
pub(super) fn starts<'a>(
    specs: impl Iterator<Item = &'a BudgetSpec>,
    calendar: &mut Calendar,
    unix_ms: u64,
) -> Starts {
    let mut starts = Starts::new();
    for spec in specs {
        // Sessions' budgets may have several zones, and so several starts of one kind of window.
        let start = (spec.window, calendar.span(spec, unix_ms).start);
        if !starts.contains(&start) {
            starts.push(start);
        }
    }
    starts
}

/// Every limit of a budget that `need` takes something of. What is not needed is not lacking: a
/// free route passes an exhausted money budget.
pub(super) fn sides(
    spec: &BudgetSpec,
    balance: &Balance,
    need: Need,
) -> impl Iterator<Item = Lack> + use<> {
    let side = |unit, limit: Option<u64>, (spent, held): (u128, u128), needed: u64| {
        let left = move |taken: u128, limit: u64| {
            u64::try_from(u128::from(limit).saturating_sub(taken)).unwrap_or(0)
        };
        limit.filter(|_| needed > 0).map(|limit| Lack {
            unit,
            limit,
            left: left(spent.saturating_add(held), limit),
            needed,
            left_at_most: left(spent, limit),
        })
    };
    let money = (balance.spent_money, balance.held_money);
    let tokens = (balance.spent_tokens.into(), balance.held_tokens.into());
    let requests = (balance.spent_requests.into(), balance.held_requests.into());
    [
        side(Unit::Money, spec.money.map(PicoUsd::pico), money, need.money.pico()),
        side(Unit::Tokens, spec.tokens, tokens, need.tokens),
        side(Unit::Requests, spec.requests, requests, need.requests),
    ]
    .into_iter()
    .flatten()
}
