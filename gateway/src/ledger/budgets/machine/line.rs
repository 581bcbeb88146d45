//! The line before the budgets: who leaves it, and who is served when something becomes free.
//!
//! **Invariant:** whoever can be served is looked at when that comes to be: when what it waits for is
//! given back or its window turns, or when one before it in the same line has left.

use super::{
    super::{At, BooksError, Holds, Scope, Short, waiting::Awaited},
    Machine,
};
use crate::caller::Window;

impl Machine {
    /// Leaves the line: what the place was granted, or why it got nothing.
    ///
    /// # Errors
    /// [`Short`]: what is in the way at this moment.
    pub fn leave(&mut self, place: u64, at: At) -> Result<Holds, Short> {
        let Some(waiter) = self.waiting.leave(place) else {
            return Err(BooksError::Closed.into());
        };
        let answer = match waiter.answer {
            Some(answer) => answer,
            // A window may have turned meanwhile, which no settlement tells.
            None => self
                .take(&waiter.path, waiter.need, at, Some(place))
                .map_err(|obstacle| obstacle.short),
        };
        self.serve_behind(waiter.on, at);
        answer
    }

    /// Gives up a place whose request is gone, and what it was granted.
    pub(in super::super) fn abandon(&mut self, place: u64, at: At) {
        if let Some(waiter) = self.waiting.leave(place) {
            match waiter.answer {
                Some(Ok(holds)) => self.cancel(&holds, waiter.need, at),
                _ => self.serve_behind(waiter.on, at),
            }
        }
    }

    /// Serves those who wait for what a hold took that has ended.
    pub(super) fn serve_after(&mut self, holds: &Holds, at: At) {
        if !self.waiting.is_empty() {
            let windows = holds.held.iter().flat_map(|(scope, starts)| {
                starts.iter().map(move |(window, _)| (scope.clone(), *window))
            });
            self.serve(Some(windows.collect()), at);
        }
    }

    /// Serves those who stood behind one that has left.
    fn serve_behind(&mut self, left: Option<Awaited>, at: At) {
        let freed = left.map(|on| (on.scope, on.window));
        self.serve(Some(freed.into_iter().collect()), at);
    }

    /// Serves those who wait, in order: for one of the budgets that were `freed` or that a new window
    /// opens; with `None` everyone. Nobody else can be served: what they lack is as it was.
    pub(in super::super) fn serve(&mut self, mut freed: Option<Vec<(Scope, Window)>>, at: At) {
        if self.waiting.is_empty() {
            return;
        }
        for place in self.waiting.places() {
            let Some(waiter) = self.waiting.get(place) else { continue };
            let Some(on) = &waiter.on else { continue };
            if let Some(freed) = &mut freed {
                let is_freed = freed.iter().any(|(scope, window)| on.is_of(scope, *window));
                if !is_freed && !on.has_opened(at.unix_ms) {
                    continue;
                }
                // Whatever becomes of it, those behind it may be concerned.
                if !is_freed {
                    freed.push((on.scope.clone(), on.window));
                }
            }
            let (path, need) = (waiter.path.clone(), waiter.need);
            match self.take(&path, need, at, Some(place)) {
                Ok(holds) => self.waiting.answer(place, Ok(holds)),
                Err(obstacle) => match obstacle.on {
                    Some(on) => self.waiting.turn_to(place, on),
                    // What it waited for was spent: waiting cannot help any more.
                    None => self.waiting.answer(place, Err(obstacle.short)),
                },
            }
        }
    }
}
