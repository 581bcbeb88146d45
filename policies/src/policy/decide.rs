//! Deciding: guards narrow, what cannot serve is left out, the first choice that matches wins.
//!
//! **Invariant:** pure. A route that a guard took away is in no plan, whatever the rest says; every
//! configured route is either in the plan or left out with a reason.

use super::{
    Policy, UnknownPrice,
    condition::{Condition, On, Outcome},
    explain::{Off, Phase, Recorder, RuleTried},
    routes::Pick,
    rules::{Choose, ChooseAction, Guard, GuardAction},
};
use crate::{
    Decision, Facts, LeaveOut, LeftOut, OnShort, PicoUsd, Plan, Refuse, RefuseReason, RequestFacts,
    RouteFacts, RouteId, RouteState, RuleName, Verdict,
};
use std::sync::Arc;

/// What the guards left: the first half of a decision, and what every other source of an answer
/// (a cache) must respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// For each route of the facts, the guard that took it away.
    taken: Vec<Option<RuleName>>,
    /// The guard that refused, and its message.
    refused: Option<(RuleName, Box<str>)>,
}

/// Decides about a request: guards, then choices.
#[must_use]
pub fn decide(policy: &Policy, facts: &Facts) -> Verdict {
    choose(policy, facts, guard(policy, facts))
}

/// The first half: which routes the guards allow.
#[must_use]
pub fn guard(policy: &Policy, facts: &Facts) -> Guarded {
    guard_with(policy, facts, &mut Off)
}

/// The second half: which of the allowed routes to try. `guarded` must come from the same facts.
#[must_use]
pub fn choose(policy: &Policy, facts: &Facts, guarded: Guarded) -> Verdict {
    choose_with(policy, facts, guarded, &mut Off)
}

impl Guarded {
    /// The routes that the guards allow, in the order of the configuration; none if they refuse.
    pub fn allowed<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a RouteFacts> {
        let open = self.refused.is_none();
        let routes = facts.routes.iter().enumerate();
        routes.filter(move |(ix, _)| open && self.allows(*ix)).map(|(_, route)| route)
    }

    /// Whether a guard refused the request.
    #[must_use]
    pub const fn refuses(&self) -> bool {
        self.refused.is_some()
    }

    fn allows(&self, ix: usize) -> bool {
        self.taken.get(ix).is_some_and(Option::is_none)
    }
}

// === guards ===

pub(crate) fn guard_with<R: Recorder>(policy: &Policy, facts: &Facts, rec: &mut R) -> Guarded {
    let mut guarded = Guarded { taken: vec![None; facts.routes.len()], refused: None };
    for guard in &policy.guards {
        let on = On { facts, route: None };
        if !guard.per_route && !guard.matches(on, rec) {
            continue;
        }
        if let GuardAction::Refuse(message) = &guard.action {
            guarded.refused = Some((guard.name.clone(), message.clone()));
            break;
        }
        for (ix, route) in facts.routes.iter().enumerate() {
            let on = On { facts, route: Some(route) };
            if guarded.allows(ix)
                && guard.takes(route, facts)
                && (!guard.per_route || guard.matches(on, rec))
            {
                guarded.taken[ix] = Some(guard.name.clone());
            }
        }
    }
    guarded
}

impl Guard {
    fn matches<R: Recorder>(&self, on: On<'_>, rec: &mut R) -> bool {
        let (outcome, failed) = Condition::first_failing(&self.when, on, rec);
        rec.tried(|| RuleTried {
            phase: Phase::Guard,
            rule: self.name.clone(),
            route: on.route.map(|route| route.id.clone()),
            outcome,
            failed: failed.map(|condition| condition.written.to_string()),
        });
        outcome == Outcome::Matched
    }

    /// Whether the action is against this route.
    fn takes(&self, route: &RouteFacts, facts: &Facts) -> bool {
        let covers = |picks: &[Pick]| picks.iter().any(|pick| pick.covers(route, facts));
        match &self.action {
            GuardAction::Allow(picks) => !covers(picks),
            GuardAction::Deny(picks) => covers(picks),
            GuardAction::Refuse(_) => false,
        }
    }
}

// === choices ===

/// A choice that matched: a rule of the policy, or what the caller named or pinned.
struct Chosen<'p> {
    rule: &'p RuleName,
    on_short: OnShort,
    /// The list it was chosen from.
    picks: &'p [Pick],
    /// Places in `facts.routes`.
    places: Vec<usize>,
    /// Why the others are not in the plan.
    others: LeaveOut,
    /// Whether the second stands beside the first.
    hedged: bool,
}

pub(crate) fn choose_with<R: Recorder>(
    policy: &Policy,
    facts: &Facts,
    guarded: Guarded,
    rec: &mut R,
) -> Verdict {
    let Guarded { taken, refused } = guarded;
    let mut taken = taken.into_iter();
    let mut out: Vec<Option<LeaveOut>> = facts
        .routes
        .iter()
        .map(|route| match taken.next() {
            Some(None) => unfit(policy, route, &facts.request),
            Some(Some(rule)) => Some(LeaveOut::Guard(rule)),
            // Only if the guards saw other facts: what they did not allow stays out.
            None => Some(LeaveOut::NotChosen),
        })
        .collect();
    if let Some((rule, message)) = refused {
        let rule = Some(rule);
        return refuse(policy, facts, out, RefuseReason::Rule, rule, message.into_string());
    }
    let matched = builtin(policy, facts, &out)
        .map(Ok)
        .or_else(|| policy.chooses.iter().find(|rule| rule.matches(facts, rec)).map(Err));
    let chosen = match matched {
        Some(Ok(chosen)) => chosen,
        Some(Err(rule)) => match rule.choose(facts, &out) {
            Ok(chosen) => chosen,
            Err(message) => {
                let name = Some(rule.name.clone());
                return refuse(policy, facts, out, RefuseReason::Rule, name, message.to_owned());
            }
        },
        None => {
            let message = format!("no rule of the policy `{}` matches this request", policy.name);
            return refuse(policy, facts, out, RefuseReason::NoMatch, None, message);
        }
    };
    for (ix, reason) in out.iter_mut().enumerate() {
        if reason.is_none() && !chosen.places.contains(&ix) {
            *reason = Some(chosen.others.clone());
        }
    }
    if chosen.places.is_empty() {
        // It is refused for what keeps out the routes it was about, and not for others' faults.
        for (route, reason) in facts.routes.iter().zip(&mut out) {
            let about = chosen.picks.iter().any(|pick| pick.covers(route, facts));
            if !about && !matches!(reason, Some(LeaveOut::Guard(_))) {
                *reason = Some(chosen.others.clone());
            }
        }
        let message = nobody_left(facts, &out);
        let rule = Some(chosen.rule.clone());
        return refuse(policy, facts, out, RefuseReason::NoRoute, rule, message);
    }
    Verdict::Route(Decision {
        plan: plan(facts, &chosen.places, chosen.hedged),
        rule: chosen.rule.clone(),
        policy: policy.name.clone(),
        version: policy.version.clone(),
        on_short: chosen.on_short,
        left_out: left_out(facts, out),
    })
}

/// What the caller pinned or named, unless the policy has rules for that.
fn builtin<'p>(policy: &'p Policy, facts: &Facts, out: &[Option<LeaveOut>]) -> Option<Chosen<'p>> {
    static PINNED: [Pick; 1] = [Pick::CallerPinned];
    static NAMED: [Pick; 1] = [Pick::CallerNamed];
    let request = &facts.request;
    let (rule, picks) = if request.pinned.is_some() && !policy.rules_on_pinned {
        (&policy.pinned_rule, &PINNED)
    } else if !request.named.is_empty() && !policy.rules_on_named {
        (&policy.named_rule, &NAMED)
    } else {
        return None;
    };
    let places = Pick::expand(picks, facts, |ix| out[ix].is_none());
    let others = LeaveOut::Pinned;
    Some(Chosen { rule, on_short: policy.on_short, picks, places, others, hedged: false })
}

impl Choose {
    fn matches<R: Recorder>(&self, facts: &Facts, rec: &mut R) -> bool {
        let on = On { facts, route: None };
        let (outcome, failed) = Condition::first_failing(&self.when, on, rec);
        rec.tried(|| RuleTried {
            phase: Phase::Choose,
            rule: self.name.clone(),
            route: None,
            outcome,
            failed: failed.map(|condition| condition.written.to_string()),
        });
        outcome == Outcome::Matched
    }

    /// The routes it chooses, or the message with which it refuses.
    fn choose(&self, facts: &Facts, out: &[Option<LeaveOut>]) -> Result<Chosen<'_>, &str> {
        let open = |ix: usize| out[ix].is_none();
        let places = match &self.action {
            ChooseAction::Routes(picks) | ChooseAction::Hedge(picks) => {
                Pick::expand(picks, facts, open)
            }
            ChooseAction::Fastest(picks) => {
                let mut places = Pick::expand(picks, facts, open);
                places.sort_by_key(|ix| (slowness(&facts.routes[*ix]), *ix));
                places
            }
            ChooseAction::Weighted(picks, weights) => shuffled(picks, weights, facts, open),
            ChooseAction::Cheapest(picks) => {
                let mut places = Pick::expand(picks, facts, open);
                places.sort_by_key(|ix| (dearness(&facts.routes[*ix]), *ix));
                places
            }
            ChooseAction::Refuse(message) => return Err(message),
        };
        let hedged = matches!(self.action, ChooseAction::Hedge(_));
        Ok(Chosen {
            rule: &self.name,
            on_short: self.on_short,
            picks: self.picks(),
            places,
            others: LeaveOut::NotChosen,
            hedged,
        })
    }
}

/// Cheapest first: by expected price, then by worst case; an unknown price comes last, and behind
/// those that have a maximum in its place.
fn dearness(route: &RouteFacts) -> (bool, Option<PicoUsd>, bool, Option<PicoUsd>) {
    let (expected, worst) = (route.expected, route.worst_case);
    (expected.is_none(), expected, worst.is_none(), worst)
}

/// Fastest first: those that can be asked at once, by median TTFT. One that has not been seen enough
/// comes first, so that it is.
fn slowness(route: &RouteFacts) -> (bool, Option<u64>) {
    (route.state == RouteState::Busy, route.ttft_p50_us)
}

/// An order drawn by weight: the first by all weights, the next by those that are left, and so on.
fn shuffled(
    picks: &[Pick],
    weights: &[u32],
    facts: &Facts,
    open: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let weight_of = |ix: usize| {
        let covering = picks.iter().position(|pick| pick.covers(&facts.routes[ix], facts));
        covering.and_then(|at| weights.get(at)).copied().map_or(0, u64::from)
    };
    let mut left: Vec<(usize, u64)> =
        Pick::expand(picks, facts, open).into_iter().map(|ix| (ix, weight_of(ix))).collect();
    let mut order = Vec::with_capacity(left.len());
    let mut draw = facts.draw;
    while !left.is_empty() {
        let sum: u64 = left.iter().map(|(_, weight)| weight).sum();
        let mut point = (u128::from(draw) * u128::from(sum)) >> 64;
        let mut at = 0;
        while at + 1 < left.len() && point >= u128::from(left[at].1) {
            point -= u128::from(left[at].1);
            at += 1;
        }
        order.push(left.remove(at).0);
        draw = mixed(draw);
    }
    order
}

/// The next of a sequence of numbers as random as the first (SplitMix64).
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Why this route cannot serve this request, whatever the rules say.
fn unfit(policy: &Policy, route: &RouteFacts, request: &RequestFacts) -> Option<LeaveOut> {
    if route.state == RouteState::Unavailable {
        return Some(LeaveOut::Unavailable);
    }
    if !fits(route, request) {
        return Some(LeaveOut::Context);
    }
    let lacks = |asked: bool, can: Option<bool>| asked && can == Some(false);
    let capability = [
        (lacks(request.tools, route.tools), "tools"),
        (lacks(request.images, route.images), "images"),
        (lacks(request.structured, route.structured), "structured"),
        (lacks(request.logprobs, route.logprobs), "logprobs"),
    ];
    if let Some((_, name)) = capability.iter().find(|(lacking, _)| *lacking) {
        return Some(LeaveOut::Capability(Arc::from(*name)));
    }
    // Without a price or a maximum in its place there is nothing to reserve, whatever a policy says.
    let refused = !route.price_known() && policy.unknown_price == UnknownPrice::Refuse;
    let unpriced = !route.local && (refused || route.worst_case.is_none());
    unpriced.then_some(LeaveOut::UnknownPrice)
}

/// Whether the prompt and the answer may fit the route's context. Only what cannot fit is left out:
/// the fewest tokens the prompt can have, and the cap where the caller asked for one (a default
/// cap is lowered to what is left instead, so one token is enough).
fn fits(route: &RouteFacts, request: &RequestFacts) -> bool {
    let Some(context) = route.context_tokens else { return true };
    let prompt = route.prompt_tokens.unwrap_or(request.prompt_tokens.min);
    let answer = if request.max_output_tokens_asked { request.max_output_tokens } else { 1 };
    prompt.saturating_add(answer) <= context
}

// === outcomes ===

fn plan(facts: &Facts, places: &[usize], hedged: bool) -> Plan {
    let attempt = |ix: &usize| Plan::Attempt(facts.routes[*ix].id.clone());
    match places {
        [single] => attempt(single),
        several if hedged => Plan::Hedge(several.iter().map(attempt).collect()),
        several => Plan::Serial(several.iter().map(attempt).collect()),
    }
}

fn left_out(facts: &Facts, out: Vec<Option<LeaveOut>>) -> Vec<LeftOut> {
    let paired = facts.routes.iter().zip(out);
    let left = paired.filter_map(|(route, reason)| Some((route.id.clone(), reason?)));
    left.map(|(route, reason): (RouteId, LeaveOut)| LeftOut { route, reason }).collect()
}

fn nobody_left(facts: &Facts, out: &[Option<LeaveOut>]) -> String {
    let paired = facts.routes.iter().zip(out);
    let reasons: Vec<String> = paired
        .filter_map(|(route, reason)| Some(format!("`{}` {}", route.id, reason.as_ref()?)))
        .collect();
    if reasons.is_empty() {
        return "no route is configured".to_owned();
    }
    format!("no route can serve this request: {}", reasons.join(", "))
}

fn refuse(
    policy: &Policy,
    facts: &Facts,
    out: Vec<Option<LeaveOut>>,
    reason: RefuseReason,
    rule: Option<RuleName>,
    message: String,
) -> Verdict {
    let left_out =
        left_out(facts, out.into_iter().map(|r| r.or(Some(LeaveOut::NotChosen))).collect());
    let (policy, version) = (policy.name.clone(), policy.version.clone());
    Verdict::Refuse(Refuse { reason, rule, policy, version, message, left_out })
}
