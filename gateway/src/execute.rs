//! Walks the decision: reserve, attempt, and on a fault the next route, until one answers. When all
//! have had their turn, those whose fault may pass are asked again; then those that lacked money wait
//! for it, once.
//!
//! **Invariants:** no attempt without its own reservation; a local-only plan opens no outbound
//! connection, because only routes of the plan (which the guards allowed) are tried; nothing is
//! retried once a byte is out, because this ends with the first event; retries, fallbacks and hedges
//! share one budget of attempts and time.

mod attempt;
mod avoided;
mod book;
mod clamp;
mod hedge;
mod late;
mod miss;
mod reserve;
mod retry;

pub use avoided::cheapest_cloud;
pub use clamp::Clamp;
pub use hedge::Hedging;
use hedge::Missed;

use crate::{
    cache::flight::Head,
    config::AttemptsConfig,
    draw::draw,
    ledger::{AttemptIndex, OpenEntry, Role, Short},
    refusal::Refusal,
    routes::{Answer, Route, Routes, live::InFlight},
    wire::{ChatRequest, Event},
};
use book::Book;
use miss::{Miss, refusal};
use policies::{Decision, LeaveOut, OnShort, PicoUsd, Plan, RouteId, TokenPrice};
use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

/// A route that has yielded its first visible event.
#[derive(Debug)]
pub struct Started {
    /// Its place in the entry; `None` for another request's answer.
    pub attempt: Option<AttemptIndex>,
    /// The route.
    pub route: Arc<Route>,
    /// The rest of the answer.
    pub answer: Answer,
    /// What came so far, the first visible event last.
    pub held: VecDeque<Event>,
    /// When the request was sent.
    pub sent_at: Instant,
    /// When the first visible event came; `None` where nothing of what is held shows anything.
    pub first_at: Option<Instant>,
    /// The output cap that was sent.
    pub output_cap: u64,
    /// Prompt tokens to book where the route reports none.
    pub prompt_tokens: u64,
    /// Counts the request on its route.
    pub in_flight: Option<InFlight>,
}

impl Started {
    /// Another request's answer, of which the first event has come.
    #[must_use]
    pub fn shared(head: Head, answer: Answer) -> Self {
        let now = Instant::now();
        Self {
            attempt: None,
            route: head.route,
            answer,
            held: VecDeque::new(),
            sent_at: now,
            first_at: Some(now),
            output_cap: head.output_cap,
            prompt_tokens: head.prompt_tokens,
            in_flight: None,
        }
    }
}

/// What a request's attempts are bounded by.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// Attempts and time.
    pub attempts: AttemptsConfig,
    /// When it arrived.
    pub arrived: Instant,
    /// When the caller no longer wants an answer.
    pub deadline: Option<Instant>,
    /// What hedges are allowed; `None` while the gateway is loaded.
    pub hedging: Option<&'a Hedging>,
    /// How long it may wait for running ones to give back what they do not use of a budget.
    pub budget_wait: Duration,
    /// The most that it may cost in all: the caller's own limit and the operator's, the least.
    pub cost_max: Option<PicoUsd>,
}

/// One request on its way through its plan.
#[derive(Debug)]
pub struct Execution<'a> {
    routes: &'a Routes,
    request: &'a ChatRequest,
    decision: &'a Decision,
    book: Book<'a>,
    bounds: Bounds<'a>,
    /// What an answer from the local model spares: the cheapest cloud route that was allowed.
    avoided: Option<Arc<TokenPrice>>,
    /// Set once it waits for a budget instead of failing: until when.
    waits: OnceLock<Instant>,
}

/// One route of the plan and how it stands.
struct Step {
    route: Arc<Route>,
    /// Starts beside it when it is slow.
    hedge: Option<Arc<Route>>,
    /// Whether the plan names it: with `on_short = "local"` the local routes that it could have
    /// named stand behind it, for when money is short.
    planned: bool,
    /// Whether it is to be tried in this round.
    due: bool,
    /// Whether it was asked before.
    asked: bool,
    /// Whether this request is among those of which its route's retries are a share.
    noted: bool,
    miss: Option<Miss>,
}

/// How far the walk has come.
struct Walk {
    steps: Vec<Step>,
    /// Times that routes were asked again.
    round: u32,
    /// Once money was short only local routes are left.
    only_local: bool,
    /// Nothing else may be tried.
    over: bool,
}

impl<'a> Execution<'a> {
    /// A request before its first attempt.
    #[must_use]
    pub fn new(
        routes: &'a Routes,
        request: &'a ChatRequest,
        decision: &'a Decision,
        open: &'a mut OpenEntry,
        bounds: Bounds<'a>,
    ) -> Self {
        let avoided = cheapest_cloud(routes, request, decision);
        Self {
            routes,
            request,
            decision,
            book: Book::new(open),
            bounds,
            avoided,
            waits: OnceLock::new(),
        }
    }

    /// Tries the plan in its order until a route yields its first visible event.
    ///
    /// # Errors
    /// The [`Refusal`] that tells the caller why nothing answered.
    pub async fn run(self) -> Result<Started, Refusal> {
        let mut walk = Walk { steps: self.steps(), round: 0, only_local: false, over: false };
        loop {
            if let Some(started) = self.round(&mut walk).await {
                return Ok(started);
            }
            if let Some(ready_at) = self.again(&mut walk) {
                // Nobody is kept out by money that has only to be given back.
                self.book.settle_ended();
                tokio::time::sleep_until(ready_at).await;
                walk.round += 1;
            } else if !self.lines_up(&mut walk) {
                return Err(walk.refusal());
            }
        }
    }

    /// Instead of failing, and only then: from the first route on that lacked money or tokens which
    /// running requests may give back, those that lacked any or had no turn are tried, in the line of
    /// those who wait. `false` where none did, it has waited, no attempt is left, or a provider found
    /// the request itself wrong.
    fn lines_up(&self, walk: &mut Walk) -> bool {
        let Bounds { budget_wait, attempts, arrived, .. } = self.bounds;
        let helps = |step: &Step| step.miss.as_ref().is_some_and(Miss::may_be_freed);
        let at = walk.steps.iter().position(helps).filter(|_| !budget_wait.is_zero());
        let Some(at) = at.filter(|_| self.waits.get().is_none() && !self.spent()) else {
            return false;
        };
        if walk.steps.iter().any(Step::is_rejected) {
            return false;
        }
        let until = (Instant::now() + budget_wait).min(arrived + attempts.time_max);
        let _set_once = self.waits.set(until);
        for step in &mut walk.steps[at..] {
            step.due = step.miss.as_ref().is_none_or(|miss| matches!(miss, Miss::Short(_)));
        }
        (walk.over, walk.only_local) = (false, false);
        true
    }

    /// Each route that is due, in order.
    async fn round(&self, walk: &mut Walk) -> Option<Started> {
        for at in 0..walk.steps.len() {
            if walk.over || self.spent() {
                walk.over = true;
                return None;
            }
            if walk.skips(at) {
                continue;
            }
            let step = &mut walk.steps[at];
            step.due = false;
            if step.has_failed() && !step.route.retries.take() {
                continue;
            }
            let role = if step.asked { Role::Retry } else { Role::Fallback };
            step.note();
            let tried = match &step.hedge {
                Some(second) if step.miss.is_none() => {
                    // Boxed: it has room for two attempts, and most requests make one.
                    let tried = Box::pin(self.hedged(&step.route, second)).await;
                    // What the loser cost is known: the rest of its money is free at once.
                    self.book.settle_ended();
                    tried
                }
                _ => self.attempt(&step.route, role).await.map_err(Missed::one),
            };
            match tried {
                Ok(started) => return Some(started),
                Err(Missed { first, hedge }) => {
                    self.learn(walk, at, *first);
                    if let (Some(second), true) = (walk.steps.get_mut(at + 1), hedge.is_some()) {
                        second.noted = true;
                    }
                    // It has had its turn beside the other, unless it was not asked: what the other
                    // held it may have now.
                    if let Some(miss) = hedge.filter(|miss| matches!(**miss, Miss::Fault(_))) {
                        self.learn(walk, at + 1, *miss);
                    }
                }
            }
        }
        None
    }

    /// Whether no attempt or no time is left to this request.
    fn spent(&self) -> bool {
        let Bounds { attempts, arrived, .. } = self.bounds;
        self.book.attempts() >= usize::try_from(attempts.max).unwrap_or(usize::MAX)
            || Instant::now() >= arrived + attempts.time_max
    }

    /// Marks the routes that are to be asked again and says when; `None` if none is, or if that
    /// would be too late.
    fn again(&self, walk: &mut Walk) -> Option<Instant> {
        if walk.over || self.spent() {
            return None;
        }
        let (round, jitter, only_local) = (walk.round, draw(), walk.only_local);
        let wait = |step: &Step| {
            let miss = step.miss.as_ref().filter(|_| step.may_be_tried(only_local))?;
            retry::wait(&step.route, miss, round, jitter)
        };
        let soonest = walk.steps.iter().filter_map(|step| Some(wait(step)?.whole)).min()?;
        let ready_at = Instant::now() + soonest;
        let Bounds { attempts, arrived, deadline, .. } = self.bounds;
        if ready_at >= arrived + attempts.time_max || deadline.is_some_and(|by| ready_at >= by) {
            return None;
        }
        let mut any = false;
        for step in &mut walk.steps {
            // It is taken when its turn comes: an earlier one may answer.
            step.due =
                wait(step).is_some_and(|wait| wait.told <= soonest) && step.route.retries.is_left();
            any |= step.due;
        }
        any.then_some(ready_at)
    }

    /// The routes to try, in order.
    fn steps(&self) -> Vec<Step> {
        let step = |id: &RouteId, planned| {
            let route = Arc::clone(self.routes.get(id)?);
            Some(Step {
                route,
                hedge: None,
                planned,
                due: true,
                asked: false,
                noted: false,
                miss: None,
            })
        };
        let planned = self.decision.plan.routes().filter_map(|id| step(id, true));
        let spare = self
            .decision
            .left_out
            .iter()
            .filter(|_| self.decision.on_short == OnShort::Local)
            .filter(|left| left.reason == LeaveOut::NotChosen)
            .filter_map(|left| step(&left.route, false))
            .filter(|step| step.route.is_local());
        let mut steps: Vec<Step> = planned.chain(spare).collect();
        if let (Plan::Hedge(_), [first, second, ..]) = (&self.decision.plan, steps.as_mut_slice()) {
            first.hedge = second.planned.then(|| Arc::clone(&second.route));
        }
        steps
    }

    /// Keeps what befell a route, and what follows from it for the others.
    fn learn(&self, walk: &mut Walk, at: usize, miss: Miss) {
        match &miss {
            Miss::Fault(fault) => walk.over |= fault.is_rejection(),
            Miss::Short(Short::TokensPerMinute { .. }) => walk.over = true,
            Miss::Short(Short::Budget { .. }) => match self.decision.on_short {
                OnShort::Refuse => walk.over = true,
                OnShort::Next | OnShort::Clamp { .. } => {}
                OnShort::Local => walk.only_local = true,
            },
            Miss::Short(Short::Store(_)) => walk.only_local = true,
            Miss::UnknownPrice | Miss::MaxCost { .. } | Miss::TooLate { .. } => {}
        }
        if let Some(step) = walk.steps.get_mut(at) {
            step.due = false;
            step.asked |= matches!(miss, Miss::Fault(_));
            // That it is left alone now is told of no route that was asked before.
            if step.miss.is_none() || miss.resting().is_none() {
                step.miss = Some(miss);
            }
        }
    }
}

impl Step {
    /// Counts the request on the route, once.
    fn note(&mut self) {
        if !std::mem::replace(&mut self.noted, true) {
            self.route.retries.note();
        }
    }

    /// Whether it failed when it was last asked, so that to ask it once more is a retry.
    fn has_failed(&self) -> bool {
        matches!(self.miss, Some(Miss::Fault(_)))
    }

    /// Whether its provider said that the request itself is wrong.
    fn is_rejected(&self) -> bool {
        matches!(&self.miss, Some(Miss::Fault(fault)) if fault.is_rejection())
    }

    /// Once money was short, only local routes, planned or not.
    fn may_be_tried(&self, only_local: bool) -> bool {
        if only_local { self.route.is_local() } else { self.planned }
    }
}

impl Walk {
    fn skips(&self, at: usize) -> bool {
        let step = &self.steps[at];
        !step.due || !step.may_be_tried(self.only_local)
    }

    /// What the caller is told.
    fn refusal(self) -> Refusal {
        let missed = self.steps.into_iter().filter_map(|step| Some((step.route, step.miss?)));
        refusal(missed.collect())
    }
}
