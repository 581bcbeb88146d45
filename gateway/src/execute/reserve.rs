//! The worst case of one attempt, set aside on every budget of its path or on none; clamped to what
//! the budgets can pay where the policy says so.

use super::{Clamp, Execution, miss::Miss};
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
        let clamps = matches!(self.decision.on_short, OnShort::Clamp { .. });
        for round in 0..CLAMPS_MAX {
            let price = route.price(self.request);
            // What earlier attempts cost or still hold counts against the request's own limit.
            let left_of_max = self.bounds.cost_max.map(|max| max.less(self.book.committed()));
            let worst = match route.worst_case(&price, &prepared.bounds) {
                Some(worst) => worst,
                // No budget pays for it, so nothing need be held; its cost stays unknown.
                None if route.is_unpriced_at_home(&price) && left_of_max.is_none() => PicoUsd::ZERO,
                None => return Err(Miss::UnknownPrice),
            };
            // Once it has waited long enough, what there is must do.
            let waits = self.waits.get().copied().filter(|until| Instant::now() < *until);
            // One that may be cut stands in line with what it will get, not with all it asked for.
            let line = waits.filter(|_| round > 0 || !clamps);
            let short = match left_of_max {
                Some(max) if worst > max => {
                    let miss = Miss::MaxCost { needed: worst };
                    ShortOf { left: Left::Money(max), may_wait: false, miss }
                }
                _ => match self.reserved(self.ask(route, &prepared, worst, role), line).await {
                    Ok((attempt, ticket)) => return Ok((prepared, attempt, ticket)),
                    Err(short) => ShortOf {
                        left: left(&short, waits.is_some()),
                        may_wait: self.may_wait(&short),
                        miss: Miss::Short(short),
                    },
                },
            };
            let Some(cap) = self.clamped(route, &prepared, &short) else {
                // Too small to be cut: it waits as it is.
                if waits.is_some() && line.is_none() {
                    continue;
                }
                return Err(short.miss);
            };
            let key = self.book.key();
            let again = route.prepare(key.as_ref(), self.request, cap).await;
            prepared = again.map_err(Miss::Fault)?;
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

    /// Whether it has yet to wait for what running requests may give back.
    fn may_wait(&self, short: &Short) -> bool {
        let frees =
            matches!(short, Short::Budget { left, left_at_most, .. } if left < left_at_most);
        frees && !self.bounds.budget_wait.is_zero() && self.waits.get().is_none()
    }

    /// The output cap that is asked for instead, if the policy clamps and it is worth it.
    fn clamped(&self, route: &Route, prepared: &Prepared, short: &ShortOf) -> Option<u64> {
        let OnShort::Clamp { min_output_tokens } = self.decision.on_short else { return None };
        let price = route.price(self.request);
        let affords = |cap: u64| {
            let bounds = route.bounds_under(prepared, cap);
            match &short.left {
                Left::Money(left) => {
                    route.worst_case(&price, &bounds).is_some_and(|worst| worst <= *left)
                }
                Left::Tokens(left) => tokens(&bounds) <= *left,
                Left::Nothing => false,
            }
        };
        let longest = route.live.output_tokens_max();
        let clamp = Clamp { least: min_output_tokens, longest, may_wait: short.may_wait };
        clamp.cap(prepared.bounds.output_tokens, affords)
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
    may_wait: bool,
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
