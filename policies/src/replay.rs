//! A decision made again: what another policy would have done with a request of the past.
//!
//! **Invariants:** pure, by the same code that decides; and what the record cannot tell is said, never
//! guessed. A plan of the same routes in the same order goes as it went. In another one a route that was
//! asked then is taken to behave as it did; one whose turn came and that was not asked, for want of money
//! or of time, say, is passed over again; of one whose turn had not come it is taken that it answers.

use crate::{
    Decision, FACTS_VERSION, Facts, LeaveOut, LeftOut, OnShort, Plan, Policy, Refuse, RouteId,
    Verdict, policy::observed,
};
use std::fmt;

/// What was decided then, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Then<'a> {
    /// The routes that were planned, in order.
    pub plan: &'a [RouteId],
    /// The others, and why they were not.
    pub left_out: &'a [LeftOut],
    /// The attempts that were made, in order.
    pub tried: &'a [Tried<'a>],
}

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
        /// Which of the attempts that were made then it would have made too; the one that it ended
        /// with comes last.
        kept: Vec<usize>,
        /// The route behind these that was not asked then, and is taken to answer; `None` where the
        /// request ended with the last of `kept`, or all have failed, or nobody could be asked.
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
pub fn replay(policy: &Policy, facts: &Facts, then: &Then<'_>) -> Result<Replayed, NotReplayable> {
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
            let (kept, anew) = follow(&decision, facts, then);
            Course::Planned { decision, kept, anew }
        }
    };
    Ok(Replayed { course, missing })
}

/// Walks a plan: the attempts that were made then, and the first route of which nothing is known.
fn follow(decision: &Decision, facts: &Facts, then: &Then<'_>) -> (Vec<usize>, Option<RouteId>) {
    let planned: Vec<&RouteId> = decision.plan.routes().collect();
    let spares: Vec<&RouteId> = match decision.on_short {
        OnShort::Local => spares(&decision.left_out, facts).collect(),
        OnShort::Refuse | OnShort::Clamp { .. } | OnShort::Next => Vec::new(),
    };
    let hedged = matches!(decision.plan, Plan::Hedge(_));
    if then.goes_as_it_went(&planned, &spares, hedged) {
        return (then.all(), None);
    }
    let passed_over = then.passed_over(facts);
    let (mut kept, mut short) = (Vec::new(), false);
    let mut asked: Vec<&RouteId> = Vec::new();
    for (at, route) in planned.iter().chain(&spares).enumerate() {
        // The spares' turn comes only where a planned route could not be paid.
        if at >= planned.len() && !short {
            break;
        }
        if let Some((index, ended)) = then.first_of(route) {
            kept.push(index);
            asked.push(route);
            if ended == TriedEnd::Ended {
                return (kept, None);
            }
        } else if passed_over.contains(route) {
            short = true;
        } else if !then.had_ended_before(route, &asked) {
            return (kept, Some((*route).clone()));
        }
    }
    then.ask_again(&asked, &mut kept);
    (kept, None)
}

/// The local routes that a plan could have named: with `on_short = "local"` they stand behind it.
fn spares<'a>(left_out: &'a [LeftOut], facts: &Facts) -> impl Iterator<Item = &'a RouteId> {
    let local = |id: &RouteId| facts.routes.iter().any(|route| route.local && route.id == *id);
    let not_chosen = left_out.iter().filter(|left| left.reason == LeaveOut::NotChosen);
    not_chosen.map(|left| &left.route).filter(move |id| local(id))
}

// === impl Then ===

impl<'a> Then<'a> {
    /// Whether a plan has the same turns as that of then, and room for what was tried.
    fn goes_as_it_went(&self, planned: &[&RouteId], spares: &[&RouteId], hedged: bool) -> bool {
        let has_room = |tried: &Tried<'_>| {
            let raced = tried.ended == TriedEnd::Unseen;
            (hedged || !raced) && planned.iter().chain(spares).any(|route| *route == tried.route)
        };
        self.plan.iter().eq(planned.iter().copied()) && self.tried.iter().all(has_room)
    }

    /// Every attempt; the one that the request ended with comes last.
    fn all(&self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.tried.len()).collect();
        all.sort_by_key(|index| self.tried[*index].ended == TriedEnd::Ended);
        all
    }

    /// The routes whose turn came before that of another one that was asked, and that were not.
    fn passed_over(&self, facts: &Facts) -> Vec<&'a RouteId> {
        let turns: Vec<&RouteId> = self.plan.iter().chain(spares(self.left_out, facts)).collect();
        let asked = |route: &RouteId| self.tried.iter().any(|tried| tried.route == route);
        let last = turns.iter().rposition(|route| asked(route)).unwrap_or_default();
        turns.into_iter().take(last).filter(|route| !asked(route)).collect()
    }

    /// The first attempt on a route of which it is known how it ended.
    fn first_of(&self, route: &RouteId) -> Option<(usize, TriedEnd)> {
        let mut known = self.known();
        known.find(|(_, tried)| tried.route == route).map(|(index, tried)| (index, tried.ended))
    }

    fn known(&self) -> impl Iterator<Item = (usize, &Tried<'a>)> {
        self.tried.iter().enumerate().filter(|(_, tried)| tried.ended != TriedEnd::Unseen)
    }

    /// Whether a planned route was not asked though all who were had failed; who was asked in the
    /// replay is `asked`. So it is not asked behind them now.
    fn had_ended_before(&self, route: &RouteId, asked: &[&RouteId]) -> bool {
        self.plan.contains(route)
            && self.tried.iter().all(|tried| {
                tried.route != route
                    && tried.ended == TriedEnd::Failed
                    && asked.contains(&tried.route)
            })
    }

    /// All have failed once: the further attempts on these routes, in their order of then.
    fn ask_again(&self, asked: &[&RouteId], kept: &mut Vec<usize>) {
        for (index, tried) in self.known().filter(|(_, tried)| asked.contains(&tried.route)) {
            if !kept.contains(&index) {
                kept.push(index);
                if tried.ended == TriedEnd::Ended {
                    return;
                }
            }
        }
    }
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
