//! The whole trace of a decision: signals read, rules tried, routes left out, predicted cost.
//!
//! **Invariant:** a trace is made by the code that decides, through a [`Recorder`] that is compiled
//! away when nobody asks, so an explanation cannot differ from the decision.

use super::{Policy, condition::Outcome, decide};
use crate::{
    Facts, LeaveOut, OnShort, PicoUsd, Plan, PolicyName, PolicyVersion, RouteId, RuleName, Verdict,
};
use serde::{Deserialize, Serialize};

/// Why a request was decided as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The policy.
    pub policy: PolicyName,
    /// Its version.
    pub version: PolicyVersion,
    /// What was decided.
    pub verdict: TraceVerdict,
    /// Every rule that was tried, in order.
    pub rules: Vec<RuleTried>,
    /// Every signal that was read, once, in the order of the first reading.
    pub signals: Vec<SignalRead>,
    /// Every configured route, in the order of the configuration.
    pub routes: Vec<RouteTrace>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceVerdict {
    /// These routes, in this order.
    Route {
        /// The rule that matched.
        rule: RuleName,
        /// The plan.
        plan: Vec<RouteId>,
        /// Whether its first two may race.
        #[serde(default)]
        hedged: bool,
        /// What happens when money is short.
        on_short: OnShort,
    },
    /// Nobody answers.
    Refuse {
        /// The rule that refused or chose routes that were all left out.
        rule: Option<RuleName>,
        /// What the caller is told.
        message: String,
    },
}

/// A signal and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRead {
    /// Such as `prompt_tokens` or `routes.edge.ttft_p95`.
    pub signal: String,
    /// Its value with its unit; `None` when it is missing, which never matches.
    pub value: Option<String>,
}

/// The two phases of deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Narrowing the allowed routes.
    Guard,
    /// Picking among them.
    Choose,
}

/// A rule and how it fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTried {
    /// The phase.
    pub phase: Phase,
    /// The rule.
    pub rule: RuleName,
    /// The route that a guard looked at, where its condition is about each route.
    pub route: Option<RouteId>,
    /// Whether it matched.
    pub outcome: Outcome,
    /// The first condition that did not hold, as it is written in the policy.
    pub failed: Option<String>,
}

/// A route in the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTrace {
    /// The route.
    pub route: RouteId,
    /// Its place in the plan, from 1.
    pub place: Option<usize>,
    /// Why it is not in the plan.
    pub left_out: Option<LeaveOut>,
    /// The same in words.
    pub because: Option<String>,
    /// Expected price of this request there; `None` when unknown.
    pub expected_usd: Option<PicoUsd>,
    /// Worst-case price of this request there; `None` when unknown.
    pub worst_usd: Option<PicoUsd>,
    /// Median TTFT of recent attempts in microseconds.
    pub ttft_p50_us: Option<u64>,
    /// 95th percentile of TTFT of recent attempts in microseconds.
    pub ttft_p95_us: Option<u64>,
}

/// Receives what happens while deciding. The closures run only where somebody listens.
pub(crate) trait Recorder {
    fn read(&mut self, signal: impl FnOnce() -> (String, Option<String>));
    fn tried(&mut self, rule: impl FnOnce() -> RuleTried);
}

/// Listens to nothing.
#[derive(Debug)]
pub(crate) struct Off;

/// Keeps everything.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) signals: Vec<SignalRead>,
    pub(crate) rules: Vec<RuleTried>,
}

impl Recorder for Off {
    fn read(&mut self, _: impl FnOnce() -> (String, Option<String>)) {}
    fn tried(&mut self, _: impl FnOnce() -> RuleTried) {}
}

impl Recorder for Kept {
    fn read(&mut self, signal: impl FnOnce() -> (String, Option<String>)) {
        let (signal, value) = signal();
        if !self.signals.iter().any(|known| known.signal == signal) {
            self.signals.push(SignalRead { signal, value });
        }
    }

    fn tried(&mut self, rule: impl FnOnce() -> RuleTried) {
        self.rules.push(rule());
    }
}

/// Decides, and keeps what happened on the way. Runs the same code as [`crate::decide`].
pub(crate) fn observed(policy: &Policy, facts: &Facts) -> (Verdict, Kept) {
    let mut kept = Kept::default();
    let guarded = decide::guard_with(policy, facts, &mut kept);
    let verdict = decide::choose_with(policy, facts, guarded, &mut kept);
    (verdict, kept)
}

/// Decides and tells how it came about.
#[must_use]
pub fn explain(policy: &Policy, facts: &Facts) -> Trace {
    let (verdict, kept) = observed(policy, facts);
    let (plan, left_out) = match &verdict {
        Verdict::Route(decision) => (decision.plan.routes().cloned().collect(), &decision.left_out),
        Verdict::Refuse(refuse) => (Vec::new(), &refuse.left_out),
    };
    let routes = facts
        .routes
        .iter()
        .map(|route| {
            let reason = left_out.iter().find(|out| out.route == route.id).map(|out| &out.reason);
            RouteTrace {
                route: route.id.clone(),
                place: plan.iter().position(|id| *id == route.id).map(|ix| ix + 1),
                left_out: reason.cloned(),
                because: reason.map(ToString::to_string),
                expected_usd: route.expected,
                worst_usd: route.worst_case,
                ttft_p50_us: route.ttft_p50_us,
                ttft_p95_us: route.ttft_p95_us,
            }
        })
        .collect();
    let verdict = match verdict {
        Verdict::Route(decision) => {
            let hedged = matches!(decision.plan, Plan::Hedge(_));
            TraceVerdict::Route { rule: decision.rule, plan, hedged, on_short: decision.on_short }
        }
        Verdict::Refuse(refuse) => {
            TraceVerdict::Refuse { rule: refuse.rule, message: refuse.message }
        }
    };
    Trace {
        policy: policy.name().clone(),
        version: policy.version().clone(),
        verdict,
        rules: kept.rules,
        signals: kept.signals,
        routes,
    }
}
