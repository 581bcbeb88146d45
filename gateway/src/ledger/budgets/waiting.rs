//! Requests that wait for what running ones may give back, in order.
//!
//! **Invariant:** whoever waits for something of a budget is served before anyone who comes later
//! wants the same of it; a place that is left gives back whatever was granted to it; one key takes no more
//! than its share of the line ([`crate::share`]).

use super::{BudgetPath, Holds, Need, Scope, Unit};
use crate::{
    caller::Window,
    ledger::{KeyId, Short},
    share::is_fair,
};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Requests that wait at a time.
pub(super) const WAITING_MAX: usize = 256;

/// A budget, and what of it someone waits for.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    pub(super) scope: Scope,
    pub(super) window: Window,
    /// What of it: who needs nothing of these need not stand behind.
    pub(super) units: Vec<Unit>,
    /// When something of it opens although nothing settles.
    pub(super) opens_unix_ms: Option<u64>,
}

impl Awaited {
    pub(super) fn is_of(&self, scope: &Scope, window: Window) -> bool {
        self.window == window && self.scope == *scope
    }

    /// Whether its window has turned since.
    pub(super) fn has_opened(&self, unix_ms: u64) -> bool {
        self.opens_unix_ms.is_some_and(|opens| opens <= unix_ms)
    }
}

/// Everyone who waits, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: BTreeMap<u64, Waiter>,
    next: u64,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) path: BudgetPath,
    pub(super) need: Need,
    /// `None` once it is answered.
    pub(super) on: Option<Awaited>,
    pub(super) answer: Option<Result<Holds, Short>>,
    wake: Option<oneshot::Sender<()>>,
}

/// The key whose request a path is of.
fn key(path: &BudgetPath) -> Option<&KeyId> {
    path.scopes().iter().find_map(|scope| match scope {
        Scope::Key(key) => Some(key),
        _ => None,
    })
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether there is a place for a request of this path.
    pub(super) fn has_place(&self, path: &BudgetPath) -> bool {
        let Some(free) = WAITING_MAX.checked_sub(self.line.len() + 1) else { return false };
        let key = key(path);
        let mine = self.line.values().filter(|waiter| self::key(&waiter.path) == key).count();
        mine == 0 || is_fair(mine + 1, free)
    }

    /// How many wait for something of a budget that is `needed`, before `place` (before a newcomer
    /// with `None`), and for what of it.
    pub(super) fn ahead(
        &self,
        (scope, window): (&Scope, Window),
        place: Option<u64>,
        needed: impl Fn(Unit) -> bool,
    ) -> (u64, Vec<Unit>) {
        let before = self.line.range(..place.unwrap_or(u64::MAX));
        let awaited = before.filter_map(|(_, waiter)| waiter.on.as_ref());
        let (mut ahead, mut all) = (0, Vec::new());
        for on in awaited.filter(|on| on.is_of(scope, window)) {
            let units = on.units.iter().copied().filter(|unit| needed(*unit));
            let before = all.len();
            all.extend(units);
            ahead += u64::from(all.len() > before);
        }
        (ahead, all)
    }

    pub(super) fn join(
        &mut self,
        path: BudgetPath,
        need: Need,
        on: Awaited,
    ) -> (u64, oneshot::Receiver<()>) {
        let (wake, woken) = oneshot::channel();
        let place = self.next;
        self.next += 1;
        let waiter = Waiter { path, need, on: Some(on), answer: None, wake: Some(wake) };
        self.line.insert(place, waiter);
        (place, woken)
    }

    /// Those who are not answered yet.
    pub(super) fn places(&self) -> Vec<u64> {
        self.line.iter().filter(|(_, waiter)| waiter.on.is_some()).map(|(at, _)| *at).collect()
    }

    pub(super) fn get(&self, place: u64) -> Option<&Waiter> {
        self.line.get(&place)
    }

    /// Waits for another budget from now on.
    pub(super) fn turn_to(&mut self, place: u64, on: Awaited) {
        if let Some(waiter) = self.line.get_mut(&place) {
            waiter.on = Some(on);
        }
    }

    pub(super) fn answer(&mut self, place: u64, answer: Result<Holds, Short>) {
        if let Some(waiter) = self.line.get_mut(&place) {
            waiter.on = None;
            waiter.answer = Some(answer);
            // One that left has its place taken back by its own `Drop`.
            let _woken = waiter.wake.take().map(|wake| wake.send(()));
        }
    }

    pub(super) fn leave(&mut self, place: u64) -> Option<Waiter> {
        self.line.remove(&place)
    }
}
