//! What was spent and what is held in each window of a scope.
//!
//! **Invariants:** a hold and its settlement find the same balance, because the window's start goes
//! with the hold; only the newest [`WINDOWS_KEPT`] windows of a kind are kept, and a charge from
//! before them joins the oldest, so that a clock that steps back reopens nothing.

use super::calendar::WINDOWS;
use crate::caller::Window;
use policies::PicoUsd;
use serde::{Deserialize, Serialize};

/// Windows of a kind that are kept: the current one, two before, and one that a clock which ran
/// ahead may have opened.
pub(crate) const WINDOWS_KEPT: usize = 4;

/// Starts of the windows that a reservation is held in, by [`Window`].
pub(crate) type Starts = [Option<u64>; WINDOWS];

/// One window's balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balance {
    pub(crate) start: u64,
    pub(crate) spent_money: u128,
    pub(crate) spent_tokens: u64,
    pub(crate) held_money: u128,
    pub(crate) held_tokens: u64,
}

/// An amount of both units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    pub(crate) money: PicoUsd,
    pub(crate) tokens: u64,
}

/// The windows of one kind, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account(Vec<Balance>);

/// All accounts of one scope, by [`Window`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accounts([Account; WINDOWS]);

impl Balance {
    /// Spent and held money.
    pub(crate) fn money(&self) -> u128 {
        self.spent_money.saturating_add(self.held_money)
    }

    /// Spent and held tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.spent_tokens.saturating_add(self.held_tokens)
    }
}

impl Account {
    /// The balance of the window that begins at `start`; a window older than what is kept is the
    /// oldest kept one.
    pub(crate) fn balance(&self, start: u64) -> Balance {
        let found = self.0.iter().rev().find(|balance| balance.start <= start);
        match (found, self.0.first()) {
            (Some(balance), _) if balance.start == start => *balance,
            (None, Some(oldest)) if self.0.len() >= WINDOWS_KEPT => *oldest,
            _ => Balance { start, ..Balance::default() },
        }
    }

    /// Holds `amount` in the window of `start`; returns the start it is really held under.
    fn hold(&mut self, start: u64, amount: Amount) -> u64 {
        let at = match self.0.binary_search_by_key(&start, |balance| balance.start) {
            Ok(at) => at,
            Err(0) if self.0.len() >= WINDOWS_KEPT => 0,
            Err(mut at) => {
                self.0.insert(at, Balance { start, ..Balance::default() });
                if self.0.len() > WINDOWS_KEPT {
                    self.0.remove(0);
                    at -= 1;
                }
                at
            }
        };
        let balance = &mut self.0[at];
        balance.held_money = balance.held_money.saturating_add(amount.money.pico().into());
        balance.held_tokens = balance.held_tokens.saturating_add(amount.tokens);
        balance.start
    }

    /// Turns a hold into a charge. A window that is no longer kept needs neither.
    fn settle(&mut self, start: u64, held: Amount, charge: Amount) {
        let Some(balance) = self.0.iter_mut().find(|balance| balance.start == start) else {
            return;
        };
        balance.held_money = balance.held_money.saturating_sub(held.money.pico().into());
        balance.held_tokens = balance.held_tokens.saturating_sub(held.tokens);
        balance.spent_money = balance.spent_money.saturating_add(charge.money.pico().into());
        balance.spent_tokens = balance.spent_tokens.saturating_add(charge.tokens);
    }

    #[cfg(test)]
    pub(crate) fn balances(&self) -> &[Balance] {
        &self.0
    }
}

impl Accounts {
    pub(crate) fn of(&self, window: Window) -> &Account {
        &self.0[window as usize]
    }

    pub(crate) fn hold(&mut self, starts: &Starts, amount: Amount) -> Starts {
        let mut held = *starts;
        for (account, start) in self.0.iter_mut().zip(&mut held) {
            *start = start.map(|start| account.hold(start, amount));
        }
        held
    }

    pub(crate) fn settle(&mut self, starts: &Starts, held: Amount, charge: Amount) {
        for (account, start) in self.0.iter_mut().zip(starts) {
            if let Some(start) = start {
                account.settle(*start, held, charge);
            }
        }
    }

    /// Whether nothing was ever held or charged.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|account| account.balances().is_empty())
    }
}
