//! What a policy says: an ordered plan and why, or a refusal and why.

use crate::RouteId;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Name of a policy: its file's stem, such as `edge-first`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyName(pub Arc<str>);

/// Version of a policy: the first 16 hex digits of the BLAKE3 hash of its file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyVersion(pub Arc<str>);

/// Name of a rule inside a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleName(pub Arc<str>);

/// The outcome of deciding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try these routes.
    Route(Decision),
    /// Answer nobody, and say why.
    Refuse(Refuse),
}

/// The ordered plan and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to try.
    pub plan: Plan,
    /// The `choose` rule that matched.
    pub rule: RuleName,
    /// The policy that decided.
    pub policy: PolicyName,
    /// Its version.
    pub version: PolicyVersion,
    /// What to do when a hard budget has less left than the next attempt's worst case.
    pub on_short: OnShort,
    /// Every configured route that is not in the plan and why.
    pub left_out: Vec<LeftOut>,
}

/// A small tree of attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Plan {
    /// One attempt on this route.
    Attempt(RouteId),
    /// Each in turn, until one yields its first event.
    Serial(Vec<Plan>),
    /// Like [`Plan::Serial`], and the second starts beside the first when that one is slower than it
    /// usually is; whoever speaks first answers.
    Hedge(Vec<Plan>),
}

/// What to do when money is short for an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnShort {
    /// Refuse the request with `insufficient_quota`.
    #[default]
    Refuse,
    /// Lower the output cap to what the budget can pay, if at least `min_output_tokens` remain;
    /// else go on to the next route of the plan, and refuse after the last.
    Clamp {
        /// The smallest cap worth sending.
        min_output_tokens: u64,
    },
    /// Skip to the next route of the plan (a cheaper one), and refuse after the last.
    Next,
    /// Skip to the local routes of the plan, or to any local route that the guards allow.
    Local,
}

/// A route that is not in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The route.
    pub route: RouteId,
    /// Why.
    pub reason: LeaveOut,
}

/// Why a route is not in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveOut {
    /// A guard rule excluded it.
    Guard(RuleName),
    /// The rule that matched did not name it.
    NotChosen,
    /// It cannot take requests now.
    Unavailable,
    /// Its context is shorter than the prompt and the output cap.
    Context,
    /// It cannot serve something the request asks for.
    Capability(Arc<str>),
    /// Its price is unknown and the policy does not allow that.
    UnknownPrice,
    /// Another route was pinned or named by the caller.
    Pinned,
}

/// A refusal by policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// What kind of refusal this is.
    pub reason: RefuseReason,
    /// The rule that refused, or whose routes were all left out; `None` when no rule matched.
    pub rule: Option<RuleName>,
    /// The policy that decided.
    pub policy: PolicyName,
    /// Its version.
    pub version: PolicyVersion,
    /// What the caller is told.
    pub message: String,
    /// Why each route was out of question.
    pub left_out: Vec<LeftOut>,
}

/// What kind of refusal by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefuseReason {
    /// A rule says so.
    Rule,
    /// No rule matched.
    NoMatch,
    /// Every route that the matching rule chose (or that the caller named) is left out.
    NoRoute,
}

impl fmt::Display for LeaveOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard(rule) => write!(f, "is not allowed by the guard `{rule}`"),
            Self::NotChosen => f.write_str("was not chosen"),
            Self::Unavailable => f.write_str("is unavailable"),
            Self::Context => f.write_str("has too short a context for the prompt and the answer"),
            Self::Capability(what) => write!(f, "cannot serve {what}"),
            Self::UnknownPrice => f.write_str("has no known price"),
            Self::Pinned => f.write_str("was not asked for"),
        }
    }
}

impl Plan {
    /// The routes in the order in which they would be tried.
    pub fn routes(&self) -> impl Iterator<Item = &RouteId> {
        let mut open = vec![self];
        std::iter::from_fn(move || {
            loop {
                match open.pop()? {
                    Self::Attempt(route) => return Some(route),
                    Self::Serial(nodes) | Self::Hedge(nodes) => open.extend(nodes.iter().rev()),
                }
            }
        })
    }
}

macro_rules! shown_as_its_name {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
shown_as_its_name!(PolicyName, PolicyVersion, RuleName);
