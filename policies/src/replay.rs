//! A decision made again: what another policy would have done with a request of the past.
//!
//! **Invariants:** pure, by the same code that decides; and what the record cannot tell is said, never
//! guessed. A route that was asked then is taken to behave as it did; of one that was not asked it is
//! taken that it answers.

use crate::{Decision, FACTS_VERSION, Facts, Policy, Refuse, RouteId, Verdict, policy::observed};
use std::fmt;

/// An attempt that was made then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried<'a> {
    /// The route it asked.
    pub route: &'a RouteId,
    /// What is known of it.
    pub ended: TriedEnd,
}

/// How an attempt ended, as far as it matters for what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriedEnd {
    /// The request ended with it: with its answer, or because its caller left, say.
    Ended,
    /// It gave none, and the next route's turn had come.
    Failed,
    /// It was given up before anybody could know: it lost a race.
    Unseen,
}

/// What a policy would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Routes, or none.
    pub course: Course,
    /// Signals that the policy read and that were not known then, by name: conditions on them did not
    /// hold, as they would not have then.
    pub missing: Vec<String>,
}

/// The way a request would have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nobody is asked.
    Refused(Refuse),
    /// Routes are asked, in this order.
    Planned {
        /// The plan and its rule.
        decision: Decision,
        /// Which of the attempts that were made then it would have made too.
        kept: Vec<usize>,
        /// The route behind these that was not asked then, and is taken to answer; `None` where the
        /// request ended with the last of `kept`, or all have failed.
        anew: Option<RouteId>,
    },
}

/// Why a request cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotReplayable {
    /// Its facts were not recorded, or in a form that this program does not know.
    Facts(u16),
    /// The policy names a route of which nothing was recorded: it was not configured then.
    Route(RouteId),
}

/// Decides about a request of the past and follows the plan along what is known of its routes.
///
/// # Errors
/// Where the record does not hold what the policy needs to know.
pub fn replay(
    policy: &Policy,
    facts: &Facts,
    tried: &[Tried<'_>],
) -> Result<Replayed, NotReplayable> {
    if facts.version != FACTS_VERSION {
        return Err(NotReplayable::Facts(facts.version));
    }
    let recorded = |id: &RouteId| facts.routes.iter().any(|route| route.id == *id);
    if let Some(unknown) = policy.route_names().find(|id| !recorded(id)) {
        return Err(NotReplayable::Route(unknown.clone()));
    }
    let (verdict, kept) = observed(policy, facts);
    let missing = kept.signals.into_iter().filter(|read| read.value.is_none());
    let missing = missing.map(|read| read.signal).collect();
    let course = match verdict {
        Verdict::Refuse(refuse) => Course::Refused(refuse),
        Verdict::Route(decision) => {
            let (kept, anew) = follow(&decision, tried);
            Course::Planned { decision, kept, anew }
        }
    };
    Ok(Replayed { course, missing })
}

/// Walks a plan: the attempts that were made then, and the first route that was not seen.
fn follow(decision: &Decision, tried: &[Tried<'_>]) -> (Vec<usize>, Option<RouteId>) {
    let mut kept = Vec::new();
    for route in decision.plan.routes() {
        let of_it = || tried.iter().enumerate().filter(|(_, tried)| tried.route == route);
        let seen = of_it().any(|(_, tried)| tried.ended != TriedEnd::Unseen);
        if !seen {
            return (kept, Some(route.clone()));
        }
        for (index, tried) in of_it() {
            match tried.ended {
                TriedEnd::Unseen => {}
                TriedEnd::Failed => kept.push(index),
                TriedEnd::Ended => {
                    kept.push(index);
                    return (kept, None);
                }
            }
        }
    }
    (kept, None)
}

impl fmt::Display for NotReplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Facts(0) => f.write_str("what its policy knew was not recorded"),
            Self::Facts(version) => {
                write!(f, "what its policy knew is recorded in form {version}, not {FACTS_VERSION}")
            }
            Self::Route(route) => write!(f, "the route `{route}` was not configured then"),
        }
    }
}
