//! A policy tried out on the requests of the past: what would have gone elsewhere, what that would have
//! cost, and how long it would have taken.
//!
//! **Invariants:** nothing is written and nobody is asked. What was paid counts as it was paid; what
//! would have gone elsewhere is estimated there, by the tokens that its answer had, and counted apart;
//! where that cannot be done it is unknown, and never zero. A route that was not there then is taken to
//! have been only where that is asked for, and counted. Budgets, limits and what routes would have
//! been slowed down by are left as they were.

use super::{
    adjusted::Adjustments,
    entry::{Attempt, AttemptOutcome, Entry, Outcome, RequestId},
    filter::Filter,
    query::Reader,
};
use crate::store::BooksError;
use policies::{
    Course, Facts, NotReplayable, PicoUsd, PicoUsdTotal, Policy, Refuse, RouteFacts, RouteId,
    RoutePrice, RuleName, Then, Tried, TriedEnd, Usage, Used, replay,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Requests that one replay looks at.
pub const REPLAY_MAX: u64 = 1_000_000;
/// Ways from one route to another that a report tells apart; what goes beyond is in the sums alone.
const MOVES_MAX: usize = 1_000;
/// Requests named of each.
const EXAMPLES: usize = 3;

/// What is replayed.
#[expect(missing_debug_implementations, reason = "it borrows a function")]
pub struct Replay<'a> {
    /// Which requests.
    pub filter: &'a Filter,
    /// The policy that is tried out.
    pub policy: &'a Policy,
    /// The price of a route when the request was admitted; `None` where there is no such route now.
    pub price: &'a dyn Fn(&Entry, &RouteId) -> Option<RoutePrice>,
    /// Routes that are taken to have been there where a request's record does not know them, as it
    /// would have found them; beside it, how many tokens answers had in that time.
    pub assumed: &'a dyn Fn(&Entry, Option<u64>) -> Vec<RouteFacts>,
}

/// What a replay came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayReport {
    /// Requests that were meant.
    pub requests: u64,
    /// Those that cannot be replayed, by why.
    pub not_replayable: BTreeMap<NotReplayable, u64>,
    /// Requests for which a route was taken to have been there.
    pub assumed: BTreeMap<RouteId, u64>,
    /// Answered by the route that answered then, or by none as then.
    pub unchanged: u64,
    /// Answered by another route.
    pub moved: u64,
    /// Refused by the policy, or left with routes alone that were passed over then, for want of money,
    /// say.
    pub refused: u64,
    /// Did not fail then, and left with attempts alone that failed. They are in no time of what they would
    /// have taken.
    pub failed: u64,
    /// Replayed requests by the rule that would have matched.
    pub rules: BTreeMap<Option<RuleName>, u64>,
    /// Signals that were read and not known then, by how many requests.
    pub missing_signals: BTreeMap<String, u64>,
    /// What the replayed requests cost, and would have.
    pub costs: Costs,
    /// What they took.
    pub before: Times,
    /// What they would have taken.
    pub after: Times,
    /// Which of them changed, by from where to where.
    pub moves: BTreeMap<Move, Moved>,
}

/// How long some requests took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// TTFT of streamed answers, as the caller saw it.
    pub ttft: Spread,
    /// Arrival to the end of the answer.
    pub total: Spread,
}

/// Money of some requests, then and replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// What they cost.
    pub before: Cost,
    /// What they would have cost.
    pub after: Cost,
    /// Sums of those requests alone whose cost is known on both sides.
    pub compared: (PicoUsdTotal, PicoUsdTotal),
}

/// Money of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Sum of what is known.
    pub known: PicoUsdTotal,
    /// Requests whose cost is unknown.
    pub unknown: u64,
    /// Requests of the sum whose cost is estimated.
    pub estimated: u64,
}

/// How long some requests took, in microseconds; nearest rank, and `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Median.
    pub p50_us: Option<u64>,
    /// 95th percentile.
    pub p95_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// Requests of which it is unknown.
    pub unknown: u64,
}

/// From where to where a request would have gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    /// The route that answered, or was asked last; `None` where a cache answered.
    pub from: Option<RouteId>,
    /// The route that would, or would be asked last; `None` where the request is refused.
    pub to: Option<RouteId>,
    /// Whether it would have failed there.
    pub failed: bool,
    /// The rule that matched.
    pub rule_before: RuleName,
    /// The rule that would have.
    pub rule: Option<RuleName>,
}

/// The requests of one [`Move`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many.
    pub requests: u64,
    /// What they cost, and would have.
    pub costs: Costs,
    /// Some of them, the oldest.
    pub examples: Vec<RequestId>,
}

impl Reader {
    /// Replays past requests under another policy. Blocking, reads everything that is meant, twice.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`] where the journal is, [`BooksError::TooManyRequests`] of more than
    /// [`REPLAY_MAX`] requests.
    pub fn replay(&self, asked: &Replay<'_>) -> Result<ReplayReport, BooksError> {
        let mut past = Past::default();
        let mut requests = 0;
        self.each(asked.filter, &mut |_, entry| {
            requests += 1;
            past.note(&entry);
            requests <= REPLAY_MAX
        })?;
        if requests > REPLAY_MAX {
            return Err(BooksError::TooManyRequests(REPLAY_MAX));
        }
        let adjusted = self.adjusted()?.all;
        let mut run = Run { asked, past, adjusted: &adjusted, report: ReplayReport::default() };
        let (mut before, mut after) = (Took::default(), Took::default());
        self.each(asked.filter, &mut |_, entry| {
            run.take(&entry, &mut before, &mut after);
            run.report.requests < REPLAY_MAX
        })?;
        let Run { past, mut report, .. } = run;
        (report.before, report.after) = (before.times(&past.routes), after.times(&past.routes));
        Ok(report)
    }
}

/// What was seen in the requests that are meant.
#[derive(Debug, Default)]
struct Past {
    routes: BTreeMap<RouteId, Seen>,
    /// Answers of known usage, and their tokens.
    answers: u64,
    output_tokens: u64,
}

/// What was seen of a route in the requests that it answered.
#[derive(Debug, Default)]
struct Seen {
    ttft_us: Vec<u64>,
    total_us: Vec<u64>,
    engine: Duration,
    /// Weight of the tokens computed in that time.
    weight: u64,
}

impl Past {
    fn note(&mut self, entry: &Entry) {
        let answered = entry.answered_by.and_then(|index| entry.attempts.get(usize::from(index)));
        if let Some(usage) = answered.and_then(|attempt| attempt.usage) {
            self.answers += 1;
            self.output_tokens = self.output_tokens.saturating_add(usage.completion());
        }
        for attempt in &entry.attempts {
            let (Some(ns), Some(usage)) = (attempt.times.engine_ns, attempt.usage) else {
                continue;
            };
            let seen = self.routes.entry(attempt.route.clone()).or_default();
            seen.engine = seen.engine.saturating_add(Duration::from_nanos(ns));
            seen.weight = seen.weight.saturating_add(weight(&usage));
        }
        // What was lost before it on another route is not this route's time.
        if let [only] = entry.attempts.as_slice()
            && entry.answered_by == Some(0)
        {
            let seen = self.routes.entry(only.route.clone()).or_default();
            seen.ttft_us.extend(entry.ttft_us);
            seen.total_us.push(entry.stages.total_us());
        }
    }

    /// Tokens of an answer, on average.
    fn usual_output(&self) -> Option<u64> {
        self.output_tokens.checked_div(self.answers)
    }
}

impl Seen {
    /// Engine time of an answer with these tokens, by what others took here.
    fn engine_time(&self, usage: &Usage) -> Option<Duration> {
        let per_weight = self.engine.as_nanos().checked_div(u128::from(self.weight))?;
        let nanos = per_weight * u128::from(weight(usage));
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// Tokens as engine time counts them: a prompt's take about half of an answer's.
const fn weight(usage: &Usage) -> u64 {
    usage.input.saturating_add(usage.completion().saturating_mul(2))
}

/// Times of one side: those that were seen, and how many stand for those of a route.
#[derive(Debug, Default)]
struct Took {
    ttft_us: Vec<u64>,
    total_us: Vec<u64>,
    ttft_of: BTreeMap<RouteId, u64>,
    total_of: BTreeMap<RouteId, u64>,
    ttft_unknown: u64,
    total_unknown: u64,
}

impl Took {
    fn times(self, routes: &BTreeMap<RouteId, Seen>) -> Times {
        let ttft = |id: &RouteId| routes.get(id).map_or(&[][..], |seen| &seen.ttft_us);
        let total = |id: &RouteId| routes.get(id).map_or(&[][..], |seen| &seen.total_us);
        Times {
            ttft: spread(self.ttft_us, &self.ttft_of, self.ttft_unknown, ttft),
            total: spread(self.total_us, &self.total_of, self.total_unknown, total),
        }
    }

    fn seen(&mut self, ttft_us: Option<u64>, total_us: u64) {
        self.ttft_us.extend(ttft_us);
        self.total_us.push(total_us);
    }

    fn as_on(&mut self, route: &RouteId, streamed: bool) {
        if streamed {
            *self.ttft_of.entry(route.clone()).or_default() += 1;
        }
        *self.total_of.entry(route.clone()).or_default() += 1;
    }

    fn unknown(&mut self, streamed: bool) {
        self.ttft_unknown += u64::from(streamed);
        self.total_unknown += 1;
    }
}

/// Percentiles of values, and of so many requests that take as long as a route's did.
pub(super) fn spread<'a>(
    values: Vec<u64>,
    as_on: &BTreeMap<RouteId, u64>,
    mut unknown: u64,
    of_route: impl Fn(&RouteId) -> &'a [u64],
) -> Spread {
    // Each value with how much of a request it stands for, in parts of one.
    const PARTS: u128 = 1 << 32;
    let mut shares: Vec<(u64, u128)> = values.into_iter().map(|value| (value, PARTS)).collect();
    for (route, requests) in as_on {
        let theirs = of_route(route);
        if theirs.is_empty() {
            unknown += requests;
            continue;
        }
        let share = u128::from(*requests) * PARTS / theirs.len() as u128;
        shares.extend(theirs.iter().map(|value| (*value, share)));
    }
    shares.sort_unstable();
    let all: u128 = shares.iter().map(|(_, share)| share).sum();
    let at = |percent: u128| {
        let rank = (all * percent).div_ceil(100);
        let mut sum = 0;
        let mut reached = shares.iter().filter(|(_, share)| {
            sum += share;
            sum >= rank
        });
        reached.next().map(|(value, _)| *value)
    };
    Spread { p50_us: at(50), p95_us: at(95), p99_us: at(99), unknown }
}

/// Where a request would have gone.
struct Fate {
    rule: Option<RuleName>,
    by: By,
    cost: Option<PicoUsd>,
    estimated: bool,
}

/// Who would have answered it.
enum By {
    /// This route, or was asked last.
    Route(Option<RouteId>),
    /// None, though it did not fail then: this route was asked last.
    Failed(Option<RouteId>),
    /// None, as then.
    FailedToo,
    Cache,
    Nobody,
}

struct Run<'a> {
    asked: &'a Replay<'a>,
    past: Past,
    adjusted: &'a Adjustments,
    report: ReplayReport,
}

impl Run<'_> {
    fn take(&mut self, entry: &Entry, before: &mut Took, after: &mut Took) {
        self.report.requests += 1;
        let tried: Vec<Tried<'_>> = (0_u16..).zip(&entry.attempts).map(tried_of(entry)).collect();
        let known = self.known(entry);
        let decided = &entry.decision;
        let then = Then { plan: &decided.plan, left_out: &decided.left_out, tried: &tried };
        let replayed = match replay(self.asked.policy, &known, &then) {
            Ok(replayed) => replayed,
            Err(why) => {
                *self.report.not_replayable.entry(why).or_default() += 1;
                return;
            }
        };
        for assumed in known.routes.iter().skip(entry.decision.facts.routes.len()) {
            *self.report.assumed.entry(assumed.id.clone()).or_default() += 1;
        }
        for signal in replayed.missing {
            *self.report.missing_signals.entry(signal).or_default() += 1;
        }
        before.seen(entry.ttft_us, entry.stages.total_us());
        let fate = self.fate(entry, replayed.course, after);
        self.count(entry, fate);
    }

    /// What was known when a request was decided, and behind it the routes that are assumed.
    fn known<'e>(&self, entry: &'e Entry) -> Cow<'e, Facts> {
        let facts = &entry.decision.facts;
        let mut assumed = (self.asked.assumed)(entry, self.past.usual_output());
        assumed.retain(|assumed| facts.routes.iter().all(|known| known.id != assumed.id));
        if assumed.is_empty() {
            return Cow::Borrowed(facts);
        }
        let mut facts = facts.clone();
        facts.routes.extend(assumed);
        Cow::Owned(facts)
    }

    /// Where a request would have gone, at what cost; its times are noted.
    fn fate(&self, entry: &Entry, course: Course, after: &mut Took) -> Fate {
        let (decision, kept, anew) = match course {
            Course::Refused(Refuse { rule, .. }) => {
                let cost = Some(PicoUsd::ZERO);
                return Fate { rule, by: By::Nobody, cost, estimated: false };
            }
            Course::Planned { decision, kept, anew } => (decision, kept, anew),
        };
        let rule = Some(decision.rule);
        // A cache answered, and would again.
        if entry.attempts.is_empty() {
            after.seen(entry.ttft_us, entry.stages.total_us());
            return Fate { rule, by: By::Cache, cost: self.cost(entry), estimated: false };
        }
        let paid = self.paid(entry, &kept);
        match anew {
            // Whoever it would ask was passed over then, and would be again.
            None if kept.is_empty() => Fate { rule, by: By::Nobody, cost: paid, estimated: false },
            Some(route) => {
                match kept.as_slice() {
                    [] => after.as_on(&route, entry.stream),
                    _ => after.unknown(entry.stream),
                }
                let there = self.estimate(entry, &route);
                let cost = paid.zip(there).and_then(|(paid, there)| paid.add(there).ok());
                Fate { rule, by: By::Route(Some(route)), cost, estimated: true }
            }
            None => {
                let last = kept.last().and_then(|index| entry.attempts.get(*index));
                let last = last.map(|attempt| attempt.route.clone());
                let ends_alike = match entry.answered_by {
                    Some(answered) => kept.contains(&usize::from(answered)),
                    None => kept.last().copied() == entry.attempts.len().checked_sub(1),
                };
                let fails_alike = entry.answered_by.is_none() && entry.outcome == Outcome::Failed;
                let by = if !ends_alike && !fails_alike {
                    By::Failed(last)
                } else {
                    let spared = spared_us(entry, &kept);
                    let less = |us: u64| us.saturating_sub(spared);
                    after.seen(entry.ttft_us.map(less), less(entry.stages.total_us()));
                    if ends_alike { By::Route(last) } else { By::FailedToo }
                };
                Fate { rule, by, cost: paid, estimated: false }
            }
        }
    }

    fn count(&mut self, entry: &Entry, fate: Fate) {
        let before = self.cost(entry);
        let report = &mut self.report;
        let Fate { rule, by, cost, estimated } = fate;
        *report.rules.entry(rule.clone()).or_default() += 1;
        report.costs.add(before, cost, estimated);
        let answering = entry.answered_by.map(usize::from);
        let last = answering.or_else(|| entry.attempts.len().checked_sub(1));
        let from = last.and_then(|last| entry.attempts.get(last)).map(|at| at.route.clone());
        let (to, failed) = match by {
            By::Route(to) if to != from => {
                report.moved += 1;
                (to, false)
            }
            By::Failed(to) => {
                report.failed += 1;
                (to, true)
            }
            By::Nobody => {
                report.refused += 1;
                (None, false)
            }
            By::Route(_) | By::FailedToo | By::Cache => {
                report.unchanged += 1;
                return;
            }
        };
        let way = Move { from, to, failed, rule_before: entry.decision.rule.clone(), rule };
        if report.moves.len() >= MOVES_MAX && !report.moves.contains_key(&way) {
            return;
        }
        let moved = report.moves.entry(way).or_default();
        moved.requests += 1;
        moved.costs.add(before, cost, estimated);
        if moved.examples.len() < EXAMPLES {
            moved.examples.push(entry.id);
        }
    }

    /// What a request cost, adjustments included.
    fn cost(&self, entry: &Entry) -> Option<PicoUsd> {
        self.adjusted.of_entry(entry).unwrap_or(entry.cost)
    }

    /// What these attempts cost.
    fn paid(&self, entry: &Entry, kept: &[usize]) -> Option<PicoUsd> {
        kept.iter().try_fold(PicoUsd::ZERO, |sum, index| {
            let attempt = entry.attempts.get(*index)?;
            let adjusted = self.adjusted.of(entry.id, *index);
            sum.add(adjusted.map_or(attempt.cost, |now| now.cost)?).ok()
        })
    }

    /// What the answer that was given would have cost on a route that was not asked: its tokens, none
    /// of them from a cache.
    fn estimate(&self, entry: &Entry, route: &RouteId) -> Option<PicoUsd> {
        let answered = entry.attempts.get(usize::from(entry.answered_by?))?;
        let usage = anew(&answered.usage?);
        if entry.decision.facts.request.images {
            // How many is not in the record, and some prices are by the image.
            return None;
        }
        let price = (self.asked.price)(entry, route)?;
        let engine_time = match &price {
            RoutePrice::Compute(_) => self.past.routes.get(route)?.engine_time(&usage)?,
            RoutePrice::Tokens(_) | RoutePrice::Unknown => Duration::ZERO,
        };
        let at_unix_s = entry.arrived_unix_ms / 1_000;
        price.cost(&Used { engine_time, at_unix_s, ..Used::tokens(usage) }).ok().flatten()
    }
}

impl Costs {
    fn add(&mut self, before: Option<PicoUsd>, after: Option<PicoUsd>, estimated: bool) {
        self.before.add(before, false);
        self.after.add(after, estimated);
        if let Some((before, after)) = before.zip(after) {
            self.compared = (self.compared.0.plus(before), self.compared.1.plus(after));
        }
    }
}

impl Cost {
    fn add(&mut self, cost: Option<PicoUsd>, estimated: bool) {
        match cost {
            Some(cost) => {
                self.known = self.known.plus(cost);
                self.estimated += u64::from(estimated);
            }
            None => self.unknown += 1,
        }
    }
}

/// An attempt as a replay sees it.
fn tried_of<'a>(entry: &'a Entry) -> impl Fn((u16, &'a Attempt)) -> Tried<'a> {
    // A request that did not fail ended with its last attempt, its caller having left, say.
    let last = entry.attempts.len().checked_sub(1).and_then(|last| u16::try_from(last).ok());
    let ended_by = entry.answered_by.or(last.filter(|_| entry.outcome != Outcome::Failed));
    move |(index, attempt)| {
        let lost = attempt.hedge_winner == Some(false);
        let ended = match attempt.outcome {
            _ if ended_by == Some(index) => TriedEnd::Ended,
            AttemptOutcome::Cancelled | AttemptOutcome::NotSent if lost => TriedEnd::Unseen,
            _ => TriedEnd::Failed,
        };
        Tried { route: &attempt.route, ended }
    }
}

/// Time that went into attempts that were not kept, before the one that answered.
fn spared_us(entry: &Entry, kept: &[usize]) -> u64 {
    let kept: BTreeSet<usize> = kept.iter().copied().collect();
    let until = kept.last().copied().unwrap_or_default();
    let times = entry.attempts.iter().enumerate().take(until);
    let spared =
        times.filter(|(index, attempt)| !kept.contains(index) && attempt.hedge_winner.is_none());
    spared
        .map(|(_, attempt)| {
            let times = &attempt.times;
            times.wait_us + times.head_us + times.first_token_us + times.stream_us
        })
        .sum()
}

/// The same tokens, all of the prompt read anew.
const fn anew(usage: &Usage) -> Usage {
    let read = usage.input.saturating_add(usage.cache_read);
    let written = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
    Usage {
        input: read.saturating_add(written),
        cache_read: 0,
        cache_write_5m: 0,
        cache_write_1h: 0,
        ..*usage
    }
}
