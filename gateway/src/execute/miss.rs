//! Why a route gave no answer, and what the caller is told when none did.

use crate::{
    ledger::Short,
    refusal::Refusal,
    routes::{Fault, FaultKind, Route},
    wire::BadRequest,
};
use policies::PicoUsd;
use std::{sync::Arc, time::Duration};

/// Why a route gave no answer.
pub(super) enum Miss {
    /// Money or tokens were short.
    Short(Short),
    /// It failed.
    Fault(Fault),
    /// Its price is not known, and nobody said what to reserve; or the request limits its cost.
    UnknownPrice,
    /// The caller's or the operator's limit for one request is below its worst case.
    MaxCost { needed: PicoUsd },
    /// It could not answer within what is left of the caller's deadline.
    TooLate { needed: Duration, left: Duration },
}

impl Miss {
    /// Whether it was not asked, because it is left alone after failures; for how long.
    pub(super) fn resting(&self) -> Option<Duration> {
        match self {
            Self::Fault(Fault { kind: FaultKind::Resting(left), .. }) => Some(*left),
            _ => None,
        }
    }

    /// Whether no wait makes it another: its provider refuses the operator's key, account or model's
    /// name, and says nothing of a time when it will not.
    fn is_for_good(&self) -> bool {
        let Self::Fault(Fault { kind: FaultKind::Status { status, retry_after: None }, .. }) = self
        else {
            return false;
        };
        !matches!(status, 408 | 409 | 421 | 425 | 499..)
    }

    /// Whether enough would be free once everything that runs has settled.
    pub(super) fn may_be_freed(&self) -> bool {
        matches!(self, Self::Short(Short::Budget { needed, left_at_most, .. })
            if needed <= left_at_most)
    }
}

/// What the caller is told when nothing answered: what ended the walk because the request itself is
/// wrong, else the first miss that it can do something about, else what befell the last route.
pub(super) fn refusal(mut misses: Vec<(Arc<Route>, Miss)>) -> Refusal {
    let only_one = misses.len() == 1;
    let rejects = |miss: &Miss| matches!(miss, Miss::Fault(fault) if fault.is_rejection());
    if let Some(at) = misses.iter().position(|(_, miss)| rejects(miss))
        && let (route, Miss::Fault(fault)) = misses.swap_remove(at)
    {
        return fault_refusal(&route, fault, only_one);
    }
    // A route that is left alone says less than one that was asked, and when it is asked again.
    let rested = misses.iter().filter_map(|(_, miss)| miss.resting()).min();
    misses.retain(|(_, miss)| miss.resting().is_none());
    if let (Some(left), true) = (rested, misses.is_empty()) {
        return Refusal::Resting(left);
    }
    let for_good = !misses.is_empty() && misses.iter().all(|(_, miss)| miss.is_for_good());
    let shortage = misses.iter().position(|(_, miss)| matches!(miss, Miss::Short(_)));
    let unserved = misses.iter().all(|(_, miss)| {
        matches!(
            miss,
            Miss::Fault(Fault {
                kind: FaultKind::Unfit(_)
                    | FaultKind::TooDear(_)
                    | FaultKind::Busy
                    | FaultKind::Rejected { .. },
                ..
            })
        )
    });
    let waits = misses.iter().filter_map(|(_, miss)| match miss {
        Miss::Fault(Fault { kind: FaultKind::RateLimited { retry_after }, .. }) => {
            Some(retry_after.unwrap_or(Duration::from_secs(1)))
        }
        _ => None,
    });
    let all_limited = waits.clone().count() == misses.len();
    let soonest = waits.min();
    if let (true, Some(wait)) = (all_limited, soonest) {
        return Refusal::UpstreamLimited(rested.map_or(wait, |left| left.min(wait)));
    }
    if let Some(short) = shortage {
        return short_refusal(misses.swap_remove(short).1);
    }
    if !misses.is_empty() && misses.iter().all(|(_, miss)| matches!(miss, Miss::TooLate { .. })) {
        return short_refusal(misses.swap_remove(0).1);
    }
    let busy = |miss: &Miss| matches!(miss, Miss::Fault(Fault { kind: FaultKind::Busy, .. }));
    if unserved && misses.iter().any(|(_, miss)| busy(miss)) {
        return Refusal::Busy(Duration::from_secs(1));
    }
    match misses.pop() {
        Some((route, Miss::Fault(Fault { kind, .. }))) if for_good && rested.is_none() => {
            Refusal::Barred(failed(&route, &kind), only_one)
        }
        Some((route, Miss::Fault(fault))) => fault_refusal(&route, fault, only_one),
        Some((_, miss)) => short_refusal(miss),
        None => Refusal::Upstream("the policy's plan names no configured route".to_owned()),
    }
}

fn fault_refusal(route: &Route, fault: Fault, only_one: bool) -> Refusal {
    match fault.kind {
        // Another tollgate had no time for it.
        FaultKind::Rejected { status: 504, message, .. } => Refusal::Deadline(message),
        FaultKind::Rejected { status, message, error_type, param, code, .. } => {
            // None is missing but a provider for what is asked, which is no address of ours.
            let status = if status == 404 { 400 } else { status };
            Refusal::Rejected { status, message, kind: error_type, param, code }
        }
        FaultKind::Unfit(bad) | FaultKind::TooDear(bad) => Refusal::Bad(bad),
        FaultKind::Unserved { status } => {
            let message = format!(
                "the provider of route `{}` has no such endpoint (it answered {status})",
                route.id()
            );
            Refusal::Bad(BadRequest::unsupported("model", message))
        }
        // What follows the engine that was ended takes it.
        FaultKind::Busy | FaultKind::Unloaded | FaultKind::Stopped => {
            Refusal::Busy(Duration::from_secs(1))
        }
        FaultKind::Unpaid => Refusal::Budget(
            "this request took more engine time than a budget, its own x-tollgate-max-cost-usd or \
             the most that the operator allows one request has money for; what it took is charged"
                .to_owned(),
        ),
        FaultKind::RateLimited { retry_after } => {
            Refusal::UpstreamLimited(retry_after.unwrap_or(Duration::from_secs(1)))
        }
        FaultKind::FirstToken | FaultKind::Total => {
            Refusal::Deadline(format!("route `{}` gave no answer in time", route.id()))
        }
        kind => {
            let message = failed(route, &kind);
            let told = match kind {
                FaultKind::Status { retry_after, .. } => retry_after,
                _ => None,
            };
            if only_one { Refusal::RouteDown(message, told) } else { Refusal::Upstream(message) }
        }
    }
}

fn failed(route: &Route, kind: &FaultKind) -> String {
    format!("route `{}` failed: {kind}", route.id())
}

fn short_refusal(miss: Miss) -> Refusal {
    match miss {
        // No wait makes room for it.
        Miss::Short(Short::TokensPerMinute { scope, limit, needed, .. }) if needed > limit => {
            Refusal::NeverFits(format!(
                "this request could need {needed} tokens, above {} limit of {limit} tokens per \
                 minute; ask for a shorter answer or shorten the prompt",
                scope.whose()
            ))
        }
        Miss::Short(Short::TokensPerMinute { scope, limit, left, retry_after, .. }) => {
            Refusal::RateLimited {
                scope: scope.whose().into_owned(),
                limit: format!("{limit} tokens per minute"),
                left,
                retry_after,
            }
        }
        Miss::Short(Short::Store(error)) => Refusal::StoreDown(error.to_string()),
        Miss::Short(short @ Short::Budget { .. }) => Refusal::Budget(short.to_string()),
        Miss::MaxCost { needed } => Refusal::Budget(format!(
            "this request could cost {needed} USD more, above what it may cost in all (its own \
             x-tollgate-max-cost-usd, or the most that the operator allows one request)"
        )),
        Miss::UnknownPrice => {
            Refusal::Policy("the price of every route for this request is unknown".to_owned())
        }
        Miss::TooLate { needed, left } => Refusal::Deadline(format!(
            "no route can answer in time: {} ms are left of the deadline and an answer usually \
             begins after {} ms",
            left.as_millis(),
            needed.as_millis()
        )),
        Miss::Fault(fault) => Refusal::Upstream(fault.kind.to_string()),
    }
}
