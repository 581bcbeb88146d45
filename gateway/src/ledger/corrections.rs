//! How budgets stand, what of them is not known after a loss, and what operators book by hand.
//!
//! **Invariant:** what lost events may have charged is never taken for nothing: every budget whose
//! window may miss it says so until a correction is booked.

use super::{
    accounts::{Amount, Correction},
    books::Books,
    budgets::{BudgetPath, BudgetState, Payer, Scope},
    effect::Effect,
    entry::KeyId,
    spare::Missed,
};
use crate::{
    caller::Window,
    store::{CommitTicket, codec},
};
use std::sync::PoisonError;

impl Books {
    /// Every budget in its current window, but those of sessions.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetState> {
        self.states(|scope| !matches!(scope, Scope::Session(..)))
    }

    /// The budgets of every session of a key.
    #[must_use]
    pub fn session_budgets(&self, key: &KeyId) -> Vec<BudgetState> {
        self.states(|scope| matches!(scope, Scope::Session(of, _) if of == key))
    }

    fn states(&self, wanted: impl Fn(&Scope) -> bool) -> Vec<BudgetState> {
        let above = |key: &KeyId| self.above_sessions(key);
        let mut states = self.0.budgets.states(self.0.clock.unix_ms(), wanted, above);
        let missed = self.0.keeper.missed();
        for state in states.iter_mut().filter(|_| !missed.is_empty()) {
            let concerns =
                |missed: &&Missed| missed.concerns(&state.scope, state.window, state.began_unix_ms);
            let missing = missed.iter().filter(concerns);
            state.uncounted_events = missing.map(|missed| missed.events.events()).sum();
        }
        states
    }

    /// What gives the sessions of a key their budgets, but for the tags that only requests name.
    fn above_sessions(&self, key: &KeyId) -> Vec<Scope> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = keys.get(key).cloned() else { return vec![Scope::Global] };
        drop(keys);
        let user = record.user.as_deref().map(|user| Scope::User(user.into()));
        let of_user = user.and_then(|user| self.group(&user)?.team);
        let payer = Payer {
            key,
            team: record.team.as_deref().or(of_user.as_deref()),
            user: record.user.as_deref(),
            session: None,
            tags: &record.tags,
            model: None,
        };
        BudgetPath::of(&payer).scopes().to_vec()
    }

    /// Lost events whose charges are in no balance, where a budget's window may still miss them.
    #[must_use]
    pub fn uncounted(&self) -> u64 {
        self.missed().iter().map(|missed| missed.events.events()).sum()
    }

    /// The same, stretch by stretch. Where there is no budget at all it may be among them.
    pub(super) fn missed(&self) -> Vec<Missed> {
        let mut missed = self.0.keeper.missed().clone();
        if !missed.is_empty() {
            let above = |key: &KeyId| self.above_sessions(key);
            let states = self.0.budgets.states(self.0.clock.unix_ms(), |_| true, above);
            let lacks = |missed: &Missed| {
                let concerns = |state: &BudgetState| {
                    missed.concerns(&state.scope, state.window, state.began_unix_ms)
                };
                states.is_empty() || states.iter().any(concerns)
            };
            missed.retain(lacks);
        }
        missed
    }

    /// Books a correction on a budget: `charge` is added to what is spent in its window of now,
    /// `credit` taken from it, to nothing at most. What was missing of it after a loss counts as
    /// booked. `None` where there is no such budget. The ticket is as that of [`Books::put_key`].
    pub fn correct(
        &self,
        scope: &Scope,
        window: Window,
        (charge, credit): (Amount, Amount),
        reason: &str,
    ) -> Option<CommitTicket> {
        let now_ms = self.0.clock.unix_ms();
        let start = self.0.budgets.current(scope, window, now_ms)?;
        if let Err(error) = self.0.queue.take_places(1) {
            return Some(CommitTicket::failed(error));
        }
        let (scope, reason) = (scope.clone(), reason.to_owned());
        let correction = Correction { scope, window, start, charge, credit, reason, narrow: false };
        let effect = Effect::Corrected(Box::new(correction.clone()));
        // Queued first: what a credit frees is reserved by events that stand behind it.
        let ticket = self.put_in_place(codec::CORRECTED, &correction, effect);
        self.0.budgets.correct(&correction, now_ms);
        self.tell_untold(Some(&correction.scope));
        Some(ticket)
    }
}
