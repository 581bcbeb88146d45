//! When a route that failed is asked again.
//!
//! A fault is answered by the next route of the plan, which costs no wait. Only when every route has
//! had its turn are those asked again whose fault may pass. **Invariants:** retries, fallbacks and
//! hedges of a request share one budget of attempts and one of time; no wait goes past either, nor
//! past the caller's own deadline; over all requests a route's retries are a bounded share of its
//! first attempts.

use super::miss::Miss;
use crate::{
    draw::backoff,
    routes::{Fault, FaultKind, Route},
};
use std::time::Duration;

/// Longest wait before retry number `round` (from 0) of a route after `miss`; `None` if it is not to
/// be asked again.
pub(super) fn wait(route: &Route, miss: &Miss, round: u32, draw: u64) -> Option<Wait> {
    let Miss::Fault(fault) = miss else { return None };
    let config = &route.config.retry;
    if round >= config.max || !may_pass(fault) {
        return None;
    }
    let own = backoff(config.backoff, config.backoff_max, round, draw);
    match fault.kind {
        FaultKind::RateLimited { retry_after: Some(told) }
        | FaultKind::Status { retry_after: Some(told), .. } => {
            (told <= config.retry_after_max).then(|| Wait { told, whole: told.max(own) })
        }
        _ => Some(Wait { told: Duration::ZERO, whole: own }),
    }
}

/// How long to wait before a route is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// What the provider asks for: never undercut.
    pub(super) told: Duration,
    /// That, or our own wait where it is longer.
    pub(super) whole: Duration,
}

/// Whether the same request may fare better in a moment. A first-token timeout has waited long
/// enough, an engine that failed will fail, and what is wrong with the request or the key stays so.
fn may_pass(fault: &Fault) -> bool {
    match &fault.kind {
        FaultKind::Connect
        | FaultKind::Broken
        | FaultKind::Unloaded
        | FaultKind::Stopped
        | FaultKind::RateLimited { .. } => true,
        FaultKind::Status { status, .. } => {
            matches!(status, 408 | 409 | 425 | 500 | 502 | 503 | 504 | 520..=529)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_asked_again() {
        let passes = |kind| may_pass(&Fault::new(kind, ""));
        let status = |status| FaultKind::Status { status, retry_after: None };
        assert!(passes(FaultKind::Stopped) && passes(FaultKind::Unloaded));
        assert!(passes(FaultKind::Connect) && passes(status(503)) && passes(status(529)));
        assert!(!passes(status(401)) && !passes(status(404)) && !passes(FaultKind::FirstToken));
        assert!(!passes(FaultKind::Busy) && !passes(FaultKind::Engine) && !passes(FaultKind::Down));
    }
}
