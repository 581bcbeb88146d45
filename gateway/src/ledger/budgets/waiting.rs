//! Requests that wait for what running ones may give back, in order.
//!
//! **Invariant:** whoever waits for a budget is served before anyone who comes later wants the same
//! budget; a place that is left gives back whatever was granted to it.

use super::{BudgetPath, Holds, Need, Scope};
use crate::{caller::Window, ledger::Short};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Requests that wait at a time.
pub(super) const WAITING_MAX: usize = 256;

/// The budget that someone waits for.
pub(super) type Awaited = (Scope, Window);

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

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.line.len() >= WAITING_MAX
    }

    /// How many wait for a budget before `place`; before a newcomer with `None`.
    pub(super) fn ahead(&self, scope: &Scope, window: Window, place: Option<u64>) -> u64 {
        let before = self.line.range(..place.unwrap_or(u64::MAX));
        let waits = |waiter: &&Waiter| {
            waiter.on.as_ref().is_some_and(|(on, over)| on == scope && *over == window)
        };
        before.map(|(_, waiter)| waiter).filter(waits).count() as u64
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
