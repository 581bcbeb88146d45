//! Which parts of its limits a budget has passed, each told once for a window.
//!
//! **Invariant:** a part is told again only in another window (of a rolling one: once its whole
//! length has gone by) or of another limit. What was told is a part of the journal, so that a
//! restart tells nothing twice and forgets nothing.

use super::{
    super::accounts::{Balance, WINDOWS_KEPT},
    Scope, Unit,
};
use crate::caller::{BudgetSpec, SUB_BUCKETS, Window};
use policies::PicoUsd;
use serde::{Deserialize, Serialize};

/// The parts of a limit that are told when spending passes them, the highest first.
const PERCENTS: [u8; 3] = [100, 80, 50];

/// A budget whose spending passed a part of its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Whose.
    pub scope: Scope,
    /// Over which window.
    pub window: Window,
    /// Which part, in percent: 50, 80 or 100.
    pub percent: u8,
    /// Of what.
    pub unit: Unit,
    /// The limit, in pico-USD or a count.
    pub limit: u64,
    /// What is spent, in pico-USD or a count.
    pub spent: u64,
    /// Start of the window (of its current sub-bucket where it rolls), milliseconds since the Unix
    /// epoch.
    pub began_unix_ms: u64,
}

/// The highest part that was told of one side of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) window: Window,
    pub(crate) unit: Unit,
    pub(crate) began_unix_ms: u64,
    pub(crate) limit: u64,
    pub(crate) percent: u8,
}

/// What was told of the budgets of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks(Vec<Mark>);

impl Marks {
    /// Notes what is told; it replaces what was told of the same window before. Of as many windows
    /// as there are balances it is known: what was admitted in one may settle in the next.
    pub(crate) fn put(&mut self, mark: Mark) {
        let side = |known: &Mark| (known.window, known.unit) == (mark.window, mark.unit);
        self.0.retain(|known| !side(known) || known.began_unix_ms != mark.began_unix_ms);
        self.0.push(mark);
        let of_side = self.0.iter().enumerate().filter(|(_, known)| side(known));
        if of_side.clone().count() > WINDOWS_KEPT
            && let Some((oldest, _)) = of_side.min_by_key(|(_, known)| known.began_unix_ms)
        {
            self.0.remove(oldest);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a budget has passed a part that was not told.
    pub(super) fn is_due(&self, spec: &BudgetSpec, balance: &Balance) -> bool {
        reached(spec, balance).any(|(mark, _)| !self.has(&mark))
    }

    /// The highest part of each side of a budget that is passed and was not told; it counts as told
    /// from now on.
    pub(super) fn pass(
        &mut self,
        scope: &Scope,
        spec: &BudgetSpec,
        balance: &Balance,
    ) -> Vec<Crossing> {
        let mut passed = Vec::new();
        for (mark, spent) in reached(spec, balance) {
            if self.has(&mark) {
                continue;
            }
            self.put(mark);
            passed.push(Crossing {
                scope: scope.clone(),
                window: mark.window,
                percent: mark.percent,
                unit: mark.unit,
                limit: mark.limit,
                spent: u64::try_from(spent).unwrap_or(u64::MAX),
                began_unix_ms: mark.began_unix_ms,
            });
        }
        passed
    }

    fn has(&self, mark: &Mark) -> bool {
        self.0.iter().any(|told| told.covers(mark))
    }
}

/// The highest part that each side of a budget has reached, and what is spent of it.
fn reached<'a>(
    spec: &'a BudgetSpec,
    balance: &'a Balance,
) -> impl Iterator<Item = (Mark, u128)> + 'a {
    let sides = [
        (Unit::Money, spec.money.map(PicoUsd::pico), balance.spent_money),
        (Unit::Tokens, spec.tokens, balance.spent_tokens.into()),
        (Unit::Requests, spec.requests, balance.spent_requests.into()),
    ];
    sides.into_iter().filter_map(|(unit, limit, spent)| {
        let limit = limit.filter(|limit| *limit > 0)?;
        let reached =
            |percent: &u8| spent.saturating_mul(100) >= u128::from(limit) * u128::from(*percent);
        let percent = PERCENTS.into_iter().find(reached)?;
        let (window, began_unix_ms) = (spec.window, balance.start);
        Some((Mark { window, unit, began_unix_ms, limit, percent }, spent))
    })
}

impl Mark {
    /// Whether what was told by this says what `other` would.
    fn covers(&self, other: &Self) -> bool {
        let same_window = match self.window.sub_bucket_ms() {
            None => self.began_unix_ms == other.began_unix_ms,
            Some(length) => {
                let period = length.saturating_mul(SUB_BUCKETS);
                other.began_unix_ms <= self.began_unix_ms.saturating_add(period)
            }
        };
        (self.window, self.unit, self.limit) == (other.window, other.unit, other.limit)
            && same_window
            && self.percent >= other.percent
    }
}
