//! What was spent and what is held in each window of a scope.
//!
//! **Invariants:** a hold and its settlement find the same balance, because the window's start goes
//! with the hold; of a calendar window only the newest [`WINDOWS_KEPT`] are kept, and a charge from
//! before them joins the oldest; a rolling window counts what a clock that stepped back has left
//! ahead of it, so that a step back by up to its own length reopens nothing. What happens depends on the window and its
//! starts alone, so that a replayed journal makes the same accounts.

use super::budgets::Scope;
use crate::caller::{SUB_BUCKETS, Window};
use policies::PicoUsd;
use serde::{Deserialize, Serialize};

/// Calendar windows of a kind that are kept: the current one, two before, and one that a clock
/// which ran ahead may have opened.
pub(crate) const WINDOWS_KEPT: usize = 4;

/// Sub-buckets of a rolling window that are kept: its own 61, the 60 before, and those of a clock
/// that ran ahead; where there are more, those that are farthest from it go.
const SUB_BUCKETS_KEPT: usize = 183;

/// Starts of the windows that a reservation is held in.
pub(crate) type Starts = Vec<(Window, u64)>;

/// The balance of one calendar window or of one sub-bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balance {
    pub(crate) start: u64,
    pub(crate) spent_money: u128,
    pub(crate) spent_tokens: u64,
    pub(crate) spent_requests: u64,
    pub(crate) held_money: u128,
    pub(crate) held_tokens: u64,
    pub(crate) held_requests: u64,
}

/// An amount of every unit that a budget may limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Money.
    pub money: PicoUsd,
    /// Tokens, of prompt and answer.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
}

/// What the operator books on a budget by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Correction {
    pub(crate) scope: Scope,
    pub(crate) window: Window,
    /// Start of the window, or of the sub-bucket, that it is booked in.
    pub(crate) start: u64,
    /// What is added to what was spent.
    pub(crate) charge: Amount,
    /// What is taken from it, to nothing at most.
    pub(crate) credit: Amount,
    /// Why, in the operator's words.
    pub(crate) reason: String,
    /// Whether the credit is taken from that sub-bucket alone, as the events of version 2 were.
    #[serde(skip)]
    pub(crate) narrow: bool,
}

/// The windows of one kind, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    window: Window,
    balances: Vec<Balance>,
}

/// All accounts of one scope, by window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accounts(Vec<Account>);

impl Balance {
    /// Spent and held money.
    pub(crate) fn money(&self) -> u128 {
        self.spent_money.saturating_add(self.held_money)
    }

    /// Spent and held tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.spent_tokens.saturating_add(self.held_tokens)
    }

    fn add(mut self, other: &Self) -> Self {
        self.spent_money = self.spent_money.saturating_add(other.spent_money);
        self.spent_tokens = self.spent_tokens.saturating_add(other.spent_tokens);
        self.spent_requests = self.spent_requests.saturating_add(other.spent_requests);
        self.held_money = self.held_money.saturating_add(other.held_money);
        self.held_tokens = self.held_tokens.saturating_add(other.held_tokens);
        self.held_requests = self.held_requests.saturating_add(other.held_requests);
        self
    }

    fn holds_nothing(&self) -> bool {
        self.held_money == 0 && self.held_tokens == 0 && self.held_requests == 0
    }
}

impl Account {
    /// The balance of the calendar window that begins at `start`, or of the rolling window whose
    /// current sub-bucket begins there.
    fn balance(&self, start: u64) -> Balance {
        if let Some(length) = self.window.sub_bucket_ms() {
            return self.rolling(start, length);
        }
        let found = self.balances.iter().rev().find(|balance| balance.start <= start);
        match (found, self.balances.first()) {
            (Some(balance), _) if balance.start == start => *balance,
            (None, Some(oldest)) if self.balances.len() >= WINDOWS_KEPT => *oldest,
            _ => Balance { start, ..Balance::default() },
        }
    }

    /// The sub-buckets that the window touches, and those of as long a time to come, which only a
    /// clock that stepped back can have left.
    fn rolling(&self, start: u64, length: u64) -> Balance {
        let period = length.saturating_mul(SUB_BUCKETS);
        let window = start.saturating_sub(period)..=start.saturating_add(period);
        self.balances
            .iter()
            .filter(|balance| window.contains(&balance.start))
            .fold(Balance { start, ..Balance::default() }, Balance::add)
    }

    /// When the oldest sub-bucket that counts leaves the window; `None` for a calendar window.
    pub(crate) fn frees_at(&self, start: u64) -> Option<u64> {
        let length = self.window.sub_bucket_ms()?;
        let period = length.saturating_mul(SUB_BUCKETS);
        let counts = |balance: &&Balance| balance.start >= start.saturating_sub(period);
        let oldest = self.balances.iter().find(counts)?;
        oldest.start.checked_add(period)?.checked_add(length)
    }

    /// Holds `amount` in the window of `start`; returns the start it is really held under.
    fn hold(&mut self, start: u64, amount: Amount) -> u64 {
        let at = match self.window.sub_bucket_ms() {
            Some(_) => self.rolling_place(start),
            None => self.calendar_place(start),
        };
        let balance = &mut self.balances[at];
        balance.held_money = balance.held_money.saturating_add(amount.money.pico().into());
        balance.held_tokens = balance.held_tokens.saturating_add(amount.tokens);
        balance.held_requests = balance.held_requests.saturating_add(amount.requests);
        balance.start
    }

    fn calendar_place(&mut self, start: u64) -> usize {
        match self.balances.binary_search_by_key(&start, |balance| balance.start) {
            Ok(at) => at,
            Err(0) if self.balances.len() >= WINDOWS_KEPT => 0,
            Err(mut at) => {
                self.balances.insert(at, Balance { start, ..Balance::default() });
                if self.balances.len() > WINDOWS_KEPT {
                    self.balances.remove(0);
                    at -= 1;
                }
                at
            }
        }
    }

    /// Nothing is forgotten for being old, only for want of room: a clock that is ahead for a moment
    /// makes everything look old.
    fn rolling_place(&mut self, start: u64) -> usize {
        let place = self.balances.binary_search_by_key(&start, |balance| balance.start);
        let place = place.unwrap_or_else(|place| {
            self.balances.insert(place, Balance { start, ..Balance::default() });
            place
        });
        if self.balances.len() <= SUB_BUCKETS_KEPT {
            return place;
        }
        let reach = |at: &Balance| at.start.abs_diff(start);
        if self.balances.last().map(reach) > self.balances.first().map(reach) {
            // Left by a clock that ran far ahead.
            self.balances.pop();
            return place;
        }
        self.balances.remove(0);
        place - 1
    }

    fn enlarge(&mut self, start: u64, amount: Amount) {
        let Some(balance) = self.balances.iter_mut().find(|balance| balance.start == start) else {
            return;
        };
        balance.held_money = balance.held_money.saturating_add(amount.money.pico().into());
        balance.held_tokens = balance.held_tokens.saturating_add(amount.tokens);
        balance.held_requests = balance.held_requests.saturating_add(amount.requests);
    }

    /// Takes a credit from what was spent in the window: of a rolling one, unless it is `narrow`, from
    /// all of its sub-buckets, the newest first.
    fn credit(&mut self, start: u64, mut credit: Amount, narrow: bool) {
        let length = self.window.sub_bucket_ms().filter(|_| !narrow);
        let reach = length.unwrap_or(0).saturating_mul(SUB_BUCKETS);
        let window = start.saturating_sub(reach)..=start.saturating_add(reach);
        let counts = |balance: &&mut Balance| window.contains(&balance.start);
        for balance in self.balances.iter_mut().rev().filter(counts) {
            let left = u128::from(credit.money.pico());
            let money = u64::try_from(balance.spent_money.min(left)).unwrap_or(u64::MAX);
            let tokens = balance.spent_tokens.min(credit.tokens);
            let requests = balance.spent_requests.min(credit.requests);
            balance.spent_money -= u128::from(money);
            balance.spent_tokens -= tokens;
            balance.spent_requests -= requests;
            credit.money = credit.money.less(PicoUsd::from_pico(money));
            credit.tokens -= tokens;
            credit.requests -= requests;
        }
    }

    /// Turns a hold into a charge. A window that is no longer kept needs neither.
    fn settle(&mut self, start: u64, held: Amount, charge: Amount) {
        let Some(balance) = self.balances.iter_mut().find(|balance| balance.start == start) else {
            return;
        };
        balance.held_money = balance.held_money.saturating_sub(held.money.pico().into());
        balance.held_tokens = balance.held_tokens.saturating_sub(held.tokens);
        balance.held_requests = balance.held_requests.saturating_sub(held.requests);
        balance.spent_money = balance.spent_money.saturating_add(charge.money.pico().into());
        balance.spent_tokens = balance.spent_tokens.saturating_add(charge.tokens);
        balance.spent_requests = balance.spent_requests.saturating_add(charge.requests);
    }
}

impl Accounts {
    pub(crate) fn of(&self, window: Window) -> Option<&Account> {
        self.0.iter().find(|account| account.window == window)
    }

    /// The balance of `window` at `start`, which for a window never held in is empty.
    pub(crate) fn balance(&self, window: Window, start: u64) -> Balance {
        let empty = Balance { start, ..Balance::default() };
        self.of(window).map_or(empty, |account| account.balance(start))
    }

    /// Books a correction.
    pub(crate) fn correct(&mut self, correction: &Correction) {
        let Correction { window, start, charge, credit, narrow, .. } = correction;
        let held = self.hold(&[(*window, *start)], Amount::default());
        self.settle(&held, Amount::default(), *charge);
        for (window, start) in held {
            if let Some(account) = self.0.iter_mut().find(|account| account.window == window) {
                account.credit(start, *credit, *narrow);
            }
        }
    }

    /// Holds `amount` in each window; returns the starts it is really held under.
    pub(crate) fn hold(&mut self, starts: &[(Window, u64)], amount: Amount) -> Starts {
        let held = starts.iter().map(|(window, start)| {
            let at = self.0.iter().position(|account| account.window == *window);
            let at = at.unwrap_or_else(|| {
                self.0.push(Account { window: *window, balances: Vec::new() });
                self.0.len() - 1
            });
            (*window, self.0[at].hold(*start, amount))
        });
        held.collect()
    }

    /// Adds to a hold where it is held. A window that is no longer kept needs nothing.
    pub(crate) fn enlarge(&mut self, starts: &[(Window, u64)], amount: Amount) {
        for (window, start) in starts {
            if let Some(account) = self.0.iter_mut().find(|account| account.window == *window) {
                account.enlarge(*start, amount);
            }
        }
    }

    pub(crate) fn settle(&mut self, starts: &[(Window, u64)], held: Amount, charge: Amount) {
        for (window, start) in starts {
            if let Some(account) = self.0.iter_mut().find(|account| account.window == *window) {
                account.settle(*start, held, charge);
            }
        }
    }

    /// Without the sub-buckets that are older than twice their window by the newest one: earlier
    /// versions forgot them.
    pub(crate) fn lately(&self) -> Self {
        let mut lately = self.clone();
        for Account { window, balances } in &mut lately.0 {
            let Some(length) = window.sub_bucket_ms() else { continue };
            let newest = balances.last().map_or(0, |newest| newest.start);
            let oldest = newest.saturating_sub(length.saturating_mul(2 * SUB_BUCKETS));
            balances.retain(|balance| balance.start >= oldest);
        }
        lately
    }

    /// Start of the newest window of each calendar kind.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (Window, u64)> + Clone {
        let calendar = self.0.iter().filter(|account| account.window.is_calendar());
        calendar.filter_map(|account| Some((account.window, account.balances.last()?.start)))
    }

    /// Whether nothing is held in any window.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.iter().flat_map(|account| &account.balances).all(Balance::holds_nothing)
    }

    /// Whether nothing was ever held or charged.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|account| account.balances.is_empty())
    }
}
