//! More for an attempt that runs: an answer of the engine in this process is paid for by its engine
//! time, and that stretches when the machine is busy. Before it is cut for want of what was set
//! aside, more is set aside, while the budgets of its path have it.
//!
//! **Invariants:** an extension is held in the windows of its reservation, in one step with the check
//! that every hard budget there has room; it is in the journal before the attempt's end is; once an
//! attempt has ended it gets no more. Nobody waits for its commit: what it pays for is this
//! machine's own time, and a crash takes the answer with it.

use super::{
    accounts::Amount,
    books::Shared,
    budgets::{BudgetPath, Holds},
    effect::Effect,
    entry::RequestId,
};
use crate::{largest::largest, store::codec};
use policies::{PicoUsd, RoutePrice, WorstCase};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// How often the balance is looked at anew when other requests take the money in between.
const TRIES_MAX: usize = 4;

/// What one attempt was granted beyond its reservation.
#[derive(Debug, Default)]
pub(super) struct Extra(Mutex<Granted>);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Granted {
    /// What is held for it on the money budgets.
    pub(super) held: PicoUsd,
    /// What it may cost more.
    pub(super) worst: PicoUsd,
    ended: bool,
}

/// The way to enlarge one attempt's reservation. It outlives the attempt and is then of no use.
#[derive(Clone, Debug)]
pub struct Extension {
    pub(super) books: Arc<Shared>,
    pub(super) id: RequestId,
    pub(super) attempt: u16,
    pub(super) path: BudgetPath,
    pub(super) holds: Arc<Holds>,
    pub(super) price: RoutePrice,
    /// Whether its cost counts against money budgets.
    pub(super) paid: bool,
    pub(super) extra: Arc<Extra>,
    /// What the request's own limit leaves beyond the reservation; `None`: it has none.
    pub(super) most: Option<PicoUsd>,
    /// Attempts of the request by now; more than there were, and its own limit is not this one's
    /// alone.
    pub(super) attempts: Arc<AtomicUsize>,
}

impl Extra {
    fn lock(&self) -> MutexGuard<'_, Granted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn granted(&self) -> Granted {
        *self.lock()
    }

    /// What was granted until the attempt's end, which is now.
    pub(super) fn end(&self) -> Granted {
        let mut granted = self.lock();
        granted.ended = true;
        *granted
    }
}

impl Extension {
    /// Sets aside the money for more engine time on top of what is `covered`; returns how much more
    /// there is money for, at most `wanted`, and zero where there is none.
    #[must_use]
    pub fn more(&self, covered: Duration, wanted: Duration) -> Duration {
        let mut granted = self.extra.lock();
        if granted.ended {
            return Duration::ZERO;
        }
        let most = self.most.map(|most| {
            let alone = self.attempts.load(SeqCst) == usize::from(self.attempt) + 1;
            if alone { most.less(granted.worst) } else { PicoUsd::ZERO }
        });
        for _ in 0..TRIES_MAX {
            let room = if self.paid { self.room() } else { None };
            let Some((time, cost)) = self.within(covered, wanted, [most, room]) else { break };
            if self.paid && !self.hold(cost) {
                continue;
            }
            if self.paid {
                granted.held = granted.held.add(cost).unwrap_or(PicoUsd::MAX);
            }
            granted.worst = granted.worst.add(cost).unwrap_or(PicoUsd::MAX);
            return time;
        }
        Duration::ZERO
    }

    /// What the budgets have left for it; `None`: no limit.
    fn room(&self) -> Option<PicoUsd> {
        self.books.budgets.room(&self.path, &self.holds)
    }

    /// Holds `cost` and writes that down, unless there is less by now or it cannot be written.
    fn hold(&self, cost: PicoUsd) -> bool {
        let books = &self.books;
        if books.condition().paid_work().is_err() || books.queue.take_places(1).is_err() {
            return false;
        }
        if !books.budgets.enlarge(&self.path, &self.holds, cost) {
            books.queue.give_places(1);
            return false;
        }
        let effect = Effect::Extended { id: self.id, attempt: self.attempt, money: cost };
        let _nobody_waits = books.write(false, effect, |out| {
            codec::encode(out, codec::EXTENDED, &(self.id, self.attempt, cost))
        });
        true
    }

    /// The longest time up to `wanted` whose cost is within every limit, and that cost.
    fn within(
        &self,
        covered: Duration,
        wanted: Duration,
        limits: [Option<PicoUsd>; 2],
    ) -> Option<(Duration, PicoUsd)> {
        let limit = limits.into_iter().flatten().min();
        let cost = |time: u64| {
            let until = covered.checked_add(Duration::from_nanos(time))?;
            Some(self.cost(until)?.less(self.cost(covered)?))
        };
        let fits = |time: u64| cost(time).is_some_and(|cost| limit.is_none_or(|max| cost <= max));
        let wanted = u64::try_from(wanted.as_nanos()).unwrap_or(u64::MAX);
        let time = largest(1, wanted, fits)?;
        Some((Duration::from_nanos(time), cost(time)?))
    }

    fn cost(&self, engine_time: Duration) -> Option<PicoUsd> {
        match &self.price {
            RoutePrice::Compute(price) => {
                price.worst_case(&WorstCase { engine_time, ..WorstCase::default() }).ok()
            }
            RoutePrice::Tokens(_) | RoutePrice::Unknown => None,
        }
    }
}

/// Money alone.
pub(super) fn money(money: PicoUsd) -> Amount {
    Amount { money, ..Amount::default() }
}
