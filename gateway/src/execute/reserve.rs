//! The worst case of one attempt, set aside on every budget of its path or on none; clamped to what
//! the budgets can pay where the policy says so.

use super::{Execution, miss::Miss};
use crate::{
    ledger::{Ask, AttemptIndex, CommitTicket, Lined, Role, Short, Unit},
    routes::{Fault, FaultKind, Prepared, Route},
};
use policies::{OnShort, PicoUsd, ServiceTier};
use std::sync::Arc;
use tokio::time::Instant;

/// How often a clamp is tried anew when other requests take the money in between.
const CLAMPS_MAX: usize = 4;

impl Execution<'_> {
    /// Sets the worst case aside on every budget, clamping the output cap where the policy says so.
    pub(super) async fn reserve(
        &self,
        route: &Arc<Route>,
        mut prepared: Prepared,
        role: Role,
    ) -> Result<(Prepared, AttemptIndex, CommitTicket), Miss> {
        for _ in 0..CLAMPS_MAX {
            let price = route.price(self.request);
            let worst = route.worst_case(&price, &prepared.bounds).ok_or(Miss::UnknownPrice)?;
            // What earlier attempts cost or still hold counts against the request's own limit.
            let left_of_max = self.bounds.cost_max.map(|max| max.less(self.book.committed()));
            let waits = self.waits.get().copied();
            let short = match left_of_max {
                Some(max) if worst > max => {
                    ShortOf { left: Left::Money(max), miss: Miss::MaxCost { needed: worst } }
                }
                _ => match self.reserved(self.ask(route, &prepared, worst, role), waits).await {
                    Ok((attempt, ticket)) => return Ok((prepared, attempt, ticket)),
                    Err(short) => {
                        ShortOf { left: left(&short, waits.is_some()), miss: Miss::Short(short) }
                    }
                },
            };
            let Some(cap) = self.clamped(route, &prepared, &short.left) else {
                return Err(short.miss);
            };
            prepared = route.prepare(self.request, cap).await.map_err(Miss::Fault)?;
        }
        Err(Miss::Fault(Fault::new(FaultKind::Busy, "other requests took the money meanwhile")))
    }

    /// At once, or once enough was given back.
    async fn reserved(
        &self,
        ask: Ask,
        waits: Option<Instant>,
    ) -> Result<(AttemptIndex, CommitTicket), Short> {
        let Some(until) = waits else { return self.book.reserve(ask) };
        match self.book.line_up(ask)? {
            Lined::Reserved(attempt, ticket) => Ok((attempt, ticket)),
            Lined::Waits(ask, line) => {
                let granted = line.granted(until).await;
                self.book.take_up(*ask, granted)
            }
        }
    }

    /// The largest output cap that what is left can pay, if the policy clamps and it is worth it.
    fn clamped(&self, route: &Route, prepared: &Prepared, left: &Left) -> Option<u64> {
        let OnShort::Clamp { min_output_tokens } = self.decision.on_short else { return None };
        let price = route.price(self.request);
        let affords = |cap: u64| {
            let bounds = policies::WorstCase { output_tokens: cap, ..prepared.bounds };
            match left {
                Left::Money(left) => {
                    route.worst_case(&price, &bounds).is_some_and(|worst| worst <= *left)
                }
                Left::Tokens(left) => tokens(&bounds) <= *left,
                Left::Nothing => false,
            }
        };
        largest(min_output_tokens, prepared.bounds.output_tokens.checked_sub(1)?, affords)
    }

    fn ask(&self, route: &Route, prepared: &Prepared, worst_money: PicoUsd, role: Role) -> Ask {
        let parent = self.book.last();
        Ask {
            route: route.id().clone(),
            model: route.model().to_owned(),
            provider: route.provider().to_owned(),
            role: if parent.is_some() { role } else { Role::Primary },
            parent,
            price: route.price(self.request),
            worst_money,
            budgeted: route.config.budgeted,
            worst_tokens: tokens(&prepared.bounds),
            output_cap: prepared.bounds.output_tokens,
            service: prepared.bounds.service,
            images: prepared.bounds.images,
            avoided: self.avoided.clone().filter(|_| route.is_local()),
            model_file: prepared.model_file(),
            service_tier: asked_tier(prepared.bounds.service),
        }
    }
}

/// The tier that is asked for, for the record; the provider's own word replaces it.
fn asked_tier(service: ServiceTier) -> Option<String> {
    (service != ServiceTier::Standard).then(|| service.as_str().to_owned())
}

/// What there is, where there is not enough.
enum Left {
    Money(PicoUsd),
    Tokens(u64),
    Nothing,
}

struct ShortOf {
    left: Left,
    miss: Miss,
}

/// What a smaller request could take; of one that waits: once everything has settled.
fn left(short: &Short, waits: bool) -> Left {
    match short {
        Short::Budget { unit: Unit::Money, left_at_most, .. } if waits => {
            Left::Money(PicoUsd::from_pico(*left_at_most))
        }
        Short::Budget { unit: Unit::Tokens, left_at_most, .. } if waits => {
            Left::Tokens(*left_at_most)
        }
        // A smaller request would still stand behind those who wait.
        Short::Budget { ahead: 1.., .. } => Left::Nothing,
        Short::Budget { unit: Unit::Money, left, .. } => Left::Money(PicoUsd::from_pico(*left)),
        Short::Budget { unit: Unit::Tokens, left, .. } => Left::Tokens(*left),
        Short::Budget { unit: Unit::Requests, .. }
        | Short::TokensPerMinute { .. }
        | Short::Store(_) => Left::Nothing,
    }
}

/// Prompt and answer tokens at most.
fn tokens(bounds: &policies::WorstCase) -> u64 {
    bounds.output_tokens.saturating_mul(bounds.choices).saturating_add(bounds.prompt_tokens)
}

/// The largest number in `low..=high` that `fits`, if any does; `fits` is monotone.
fn largest(low: u64, high: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    if low > high || !fits(low) {
        return None;
    }
    let (mut low, mut high) = (low, high);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_that_fits_is_found() {
        assert_eq!(largest(1, 100, |n| n <= 42), Some(42));
        assert_eq!(largest(1, 100, |_| true), Some(100));
        assert_eq!(largest(50, 100, |n| n <= 42), None);
        assert_eq!(largest(7, 6, |_| true), None);
        assert_eq!(largest(0, u64::MAX, |n| n <= 3), Some(3));
    }
}
