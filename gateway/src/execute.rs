//! Walks the decision: reserve, attempt, and on a fault the next route, until one answers.
//!
//! **Invariants:** no attempt without its own reservation; a local-only plan opens no outbound
//! connection, because only routes of the plan (which the guards allowed) are tried; nothing is
//! retried once a byte is out, because this ends with the first event.

mod miss;

use crate::{
    ledger::{Ask, AttemptIndex, AttemptOutcome, CommitTicket, OpenEntry, Role, Short, Unit},
    refusal::Refusal,
    routes::{Answer, Fault, FaultKind, Prepared, Route, Routes, live::InFlight},
    timeline::micros,
    wire::{ChatRequest, DeltaKind, Event},
};
use miss::{Miss, refusal};
use policies::{
    Decision, LeaveOut, OnShort, PicoUsd, RouteId, RoutePrice, TokenPrice, Usage, UsageSource,
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Events held back until the first visible one: role chunks and the like. A provider that sends
/// more of them than this answers, if oddly.
const HELD_MAX: usize = 16;
/// How often a clamp is tried anew when other requests take the money in between.
const CLAMPS_MAX: usize = 4;

/// A route that has yielded its first visible event.
#[derive(Debug)]
pub struct Started {
    /// Its place in the entry.
    pub attempt: AttemptIndex,
    /// The route.
    pub route: Arc<Route>,
    /// The rest of the answer.
    pub answer: Answer,
    /// What came so far, the first visible event last.
    pub held: VecDeque<Event>,
    /// When the request was sent.
    pub sent_at: Instant,
    /// When the first visible event came.
    pub first_at: Instant,
    /// The output cap that was sent.
    pub output_cap: u64,
    /// Prompt tokens to book where the route reports none.
    pub prompt_tokens: u64,
    /// Counts the request on its route.
    pub in_flight: InFlight,
}

/// One request on its way through its plan.
#[derive(Debug)]
pub struct Execution<'a> {
    /// Every configured route.
    pub routes: &'a Routes,
    /// The request.
    pub request: &'a ChatRequest,
    /// The decision being walked.
    pub decision: &'a Decision,
    /// The entry being written.
    pub open: &'a mut OpenEntry,
    /// What an answer from the local model spares: the cheapest cloud route that was allowed.
    pub avoided: Option<Arc<TokenPrice>>,
}

impl Execution<'_> {
    /// Tries the plan in its order until a route yields its first visible event.
    ///
    /// # Errors
    /// The [`Refusal`] that tells the caller why nothing answered.
    pub async fn run(mut self) -> Result<Started, Refusal> {
        let mut misses = Vec::new();
        let mut only_local = false;
        let mut parent = None;
        for (route, planned) in self.plan() {
            // Once money was short only local routes are left; until then only planned ones count.
            let skipped = if only_local { !route.is_local() } else { !planned };
            if skipped {
                continue;
            }
            match self.attempt(&route, &mut parent).await {
                Ok(started) => return Ok(started),
                Err(miss) => {
                    let ends = self.ends(&miss, &mut only_local);
                    misses.push((route, miss));
                    if ends {
                        break;
                    }
                }
            }
        }
        Err(refusal(misses))
    }

    /// The routes to try, in order, and whether the plan names them: with `on_short = "local"` the
    /// local ones that it could have named stand behind it, for when money is short.
    fn plan(&self) -> Vec<(Arc<Route>, bool)> {
        let get = |id: &RouteId, planned| self.routes.get(id).map(|route| (route.clone(), planned));
        let planned = self.decision.plan.routes().filter_map(|id| get(id, true));
        let spare = self
            .decision
            .left_out
            .iter()
            .filter(|_| self.decision.on_short == OnShort::Local)
            .filter(|left| left.reason == LeaveOut::NotChosen)
            .filter_map(|left| get(&left.route, false))
            .filter(|(route, _)| route.is_local());
        planned.chain(spare).collect()
    }

    /// Whether nothing else may be tried after `miss`.
    fn ends(&self, miss: &Miss, only_local: &mut bool) -> bool {
        match miss {
            Miss::Fault(fault) => matches!(fault.kind, FaultKind::Rejected { .. }),
            Miss::Short(Short::TokensPerMinute { .. }) => true,
            Miss::Short(Short::Budget { .. }) => match self.decision.on_short {
                OnShort::Refuse => true,
                OnShort::Next | OnShort::Clamp { .. } => false,
                OnShort::Local => {
                    *only_local = true;
                    false
                }
            },
            Miss::Short(Short::Store(_)) => {
                *only_local = true;
                false
            }
            Miss::UnknownPrice | Miss::MaxCost { .. } => false,
        }
    }

    /// One attempt on `route`, from its reservation to its first visible event.
    async fn attempt(
        &mut self,
        route: &Arc<Route>,
        parent: &mut Option<AttemptIndex>,
    ) -> Result<Started, Miss> {
        let prepared =
            route.prepare(self.request, self.request.output_cap).await.map_err(Miss::Fault)?;
        let (mut prepared, attempt, ticket) = self.reserve(route, prepared, *parent).await?;
        if let Some(key) = self.open.key() {
            prepared.for_key(key, self.request);
        }
        *parent = Some(attempt);
        let begun = Instant::now();
        let offset_us = self.open.timeline.offset_us(begun);
        self.open.attempt(attempt).times.offset_us = offset_us;
        let in_flight = InFlight::on(route);
        let output_cap = prepared.bounds.output_tokens;
        let prompt_tokens = prepared.prompt_tokens;
        // The commit of the reservation overlaps with the wait for a place. A caller that leaves in
        // this wait owes nothing.
        let mut unsent = Unsent { open: self.open, attempt, waiting: true };
        let (place, committed) = tokio::join!(route.place(), ticket.committed());
        unsent.waiting = false;
        drop(unsent);
        if let Err(error) = committed {
            self.open.end_attempt(attempt, AttemptOutcome::NotSent, true);
            return Err(Miss::Short(Short::Store(error)));
        }
        let sent_at = Instant::now();
        self.open.attempt(attempt).times.wait_us = micros(sent_at - begun);
        let place = match place {
            Ok(place) => place,
            Err(fault) => return Err(self.failed(route, attempt, fault, 0)),
        };
        // From here on the prompt may be billed, whatever happens next.
        self.book_estimate(attempt, prompt_tokens, 0);
        let answer = match route.start(place, prepared, self.request).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.failed(route, attempt, fault, output_cap)),
        };
        let head_at = Instant::now();
        let record = self.open.attempt(attempt);
        record.upstream_status = answer.upstream_status();
        record.times.head_us = micros(head_at - sent_at);
        let mut pending = Pending { open: self.open, attempt, answer: Some(answer) };
        let held = pending.first_visible().await;
        let answer = pending.answer.take();
        drop(pending);
        match (held, answer) {
            (Ok(held), Some(answer)) => {
                let first_at = Instant::now();
                self.open.attempt(attempt).times.first_token_us = micros(first_at - head_at);
                let route = Arc::clone(route);
                Ok(Started {
                    attempt,
                    route,
                    answer,
                    held,
                    sent_at,
                    first_at,
                    output_cap,
                    prompt_tokens,
                    in_flight,
                })
            }
            (Err(fault), _) => Err(self.failed(route, attempt, fault, output_cap)),
            (Ok(_), None) => Err(Miss::Fault(Fault::new(FaultKind::Broken, "no answer"))),
        }
    }

    /// Sets the worst case aside on every budget, clamping the output cap where the policy says so.
    async fn reserve(
        &mut self,
        route: &Arc<Route>,
        mut prepared: Prepared,
        parent: Option<AttemptIndex>,
    ) -> Result<(Prepared, AttemptIndex, CommitTicket), Miss> {
        for _ in 0..CLAMPS_MAX {
            let worst = route.worst_case(&prepared.bounds).ok_or(Miss::UnknownPrice)?;
            let short = match self.request.max_cost {
                Some(max) if worst > max => {
                    ShortOf { left: Left::Money(max), miss: Miss::MaxCost { needed: worst } }
                }
                _ => match self.open.reserve(ask(route, &prepared, worst, parent, &self.avoided)) {
                    Ok((attempt, ticket)) => return Ok((prepared, attempt, ticket)),
                    Err(short) => ShortOf { left: left(&short), miss: Miss::Short(short) },
                },
            };
            let Some(cap) = self.clamped(route, &prepared, &short.left) else {
                return Err(short.miss);
            };
            prepared = route.prepare(self.request, cap).await.map_err(Miss::Fault)?;
        }
        Err(Miss::Fault(Fault::new(FaultKind::Busy, "other requests took the money meanwhile")))
    }

    /// The largest output cap that what is left can pay, if the policy clamps and it is worth it.
    fn clamped(&self, route: &Route, prepared: &Prepared, left: &Left) -> Option<u64> {
        let OnShort::Clamp { min_output_tokens } = self.decision.on_short else { return None };
        let affords = |cap: u64| {
            let bounds = policies::WorstCase { output_tokens: cap, ..prepared.bounds };
            match left {
                Left::Money(left) => route.worst_case(&bounds).is_some_and(|worst| worst <= *left),
                Left::Tokens(left) => tokens(&bounds) <= *left,
                Left::Nothing => false,
            }
        };
        largest(min_output_tokens, prepared.bounds.output_tokens.checked_sub(1)?, affords)
    }

    /// Ends a failed attempt: void where nothing is owed, else as estimated.
    fn failed(
        &mut self,
        route: &Route,
        attempt: AttemptIndex,
        fault: Fault,
        output_cap: u64,
    ) -> Miss {
        tracing::warn!(route = %route.id(), %fault, "attempt failed");
        if !fault.is_callers() && fault.kind != FaultKind::Busy {
            route.live.failed();
        }
        let record = self.open.attempt(attempt);
        match &fault.kind {
            FaultKind::Status { status } | FaultKind::Rejected { status, .. } => {
                record.upstream_status = Some(*status);
            }
            FaultKind::RateLimited { .. } => record.upstream_status = Some(429),
            _ => {}
        }
        if !fault.voids() && route.may_hide_reasoning() {
            let prompt = record.usage.map_or(0, |usage| usage.input);
            self.book_estimate(attempt, prompt, output_cap);
        }
        self.open.end_attempt(attempt, fault.outcome(), fault.voids());
        Miss::Fault(fault)
    }

    fn book_estimate(&mut self, attempt: AttemptIndex, prompt: u64, reasoning: u64) {
        let record = self.open.attempt(attempt);
        record.usage = Some(Usage { input: prompt, reasoning, ..Usage::default() });
        record.usage_source = Some(UsageSource::Estimated);
    }
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

fn left(short: &Short) -> Left {
    match short {
        Short::Budget { unit: Unit::Money, left, .. } => Left::Money(PicoUsd::from_pico(*left)),
        Short::Budget { unit: Unit::Tokens, left, .. } => Left::Tokens(*left),
        Short::TokensPerMinute { .. } | Short::Store(_) => Left::Nothing,
    }
}

/// Prompt and answer tokens at most.
fn tokens(bounds: &policies::WorstCase) -> u64 {
    bounds.output_tokens.saturating_mul(bounds.choices).saturating_add(bounds.prompt_tokens)
}

fn ask(
    route: &Route,
    prepared: &Prepared,
    worst_money: PicoUsd,
    parent: Option<AttemptIndex>,
    avoided: &Option<Arc<TokenPrice>>,
) -> Ask {
    Ask {
        route: route.id().clone(),
        model: route.model().to_owned(),
        provider: route.provider().to_owned(),
        role: if parent.is_some() { Role::Fallback } else { Role::Primary },
        parent,
        price: route.config.price.clone(),
        worst_money,
        budgeted: route.config.budgeted,
        worst_tokens: tokens(&prepared.bounds),
        output_cap: prepared.bounds.output_tokens,
        avoided: avoided.clone().filter(|_| route.is_local()),
        model_file: prepared.model_file(),
        service_tier: None,
    }
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

/// An attempt that waits to be sent: dropped in that wait, it is void.
struct Unsent<'a> {
    open: &'a mut OpenEntry,
    attempt: AttemptIndex,
    waiting: bool,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if self.waiting {
            self.open.end_attempt(self.attempt, AttemptOutcome::NotSent, true);
        }
    }
}

/// An answer that has not shown anything yet. If the caller leaves now, what the engine has metered
/// is written down before the job is cancelled.
struct Pending<'a> {
    open: &'a mut OpenEntry,
    attempt: AttemptIndex,
    answer: Option<Answer>,
}

impl Pending<'_> {
    /// Events up to and with the first visible one, or the end of an answer that shows nothing.
    async fn first_visible(&mut self) -> Result<VecDeque<Event>, Fault> {
        let mut held = VecDeque::with_capacity(2);
        while let Some(answer) = &mut self.answer
            && let Some(event) = answer.next().await
        {
            let event = event.inspect_err(|_| self.book())?;
            let visible = shows(&event);
            held.push_back(event);
            if visible || held.len() >= HELD_MAX {
                break;
            }
        }
        if held.is_empty() {
            return Err(Fault::new(FaultKind::Broken, "an answer without a single event"));
        }
        Ok(held)
    }

    fn book(&mut self) {
        if let Some((usage, engine_ns)) = self.answer.as_ref().and_then(Answer::metered) {
            let record = self.open.attempt(self.attempt);
            record.usage = Some(usage);
            record.usage_source = Some(UsageSource::Counted);
            record.times.engine_ns = Some(engine_ns);
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.book();
    }
}

/// Whether the caller, or its clock, is served by the event: visible output, or reasoning on its
/// way, or the answer's end.
fn shows(event: &Event) -> bool {
    match event {
        Event::Chunk { seen, .. } => {
            seen.visible || seen.reasoning_bytes > 0 || seen.finish.is_some()
        }
        Event::Begin { .. } => false,
        Event::Delta(delta) => {
            delta.visible()
                || delta.reasoning_bytes() > 0
                || matches!(delta.kind, DeltaKind::Finish(_))
        }
        Event::Whole { .. } | Event::Vectors(_) | Event::End { .. } => true,
    }
}

/// The price of the cheapest cloud route that the decision allowed, chosen or not, by what this
/// request would likely cost there: what a local answer spares.
#[must_use]
pub fn cheapest_cloud(
    routes: &Routes,
    request: &ChatRequest,
    decision: &Decision,
) -> Option<Arc<TokenPrice>> {
    let allowed = |route: &Route| {
        let reason = decision.left_out.iter().find(|left| left.route == *route.id());
        reason.is_none_or(|left| matches!(left.reason, LeaveOut::NotChosen | LeaveOut::Pinned))
    };
    let usage = Usage {
        input: request.prompt_tokens_estimate,
        output: request.output_cap,
        ..Usage::default()
    };
    routes
        .iter()
        .filter(|route| allowed(route))
        .filter_map(|route| match &route.config.price {
            RoutePrice::Tokens(price) if !route.is_local() => {
                price.cost(&usage).ok().map(|cost| (cost, Arc::clone(price)))
            }
            _ => None,
        })
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, price)| price)
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
