//! By which decision a request is answered.
//!
//! **Invariant:** the policy in force decides for whatever is asked of a route. What was answered once
//! is given again to a repeat, and then asks nobody.

use super::{Gateway, Life, headers, watched};
use crate::{cache::Repeat, ledger::GuardAction, refusal::Refusal};
use policies::{Decision, Facts, Policy, Refuse, Verdict};
use std::sync::Arc;

/// The policy's verdict, or for a repeat that it would refuse by now the decision of the first.
///
/// # Errors
/// What the policy refuses; of a repeat, the refusal that the first one got.
pub(super) fn decided(
    gateway: &Gateway,
    life: &mut Life,
    policy: &Policy,
    facts: &Facts,
    repeat: &Repeat,
    actions: &[GuardAction],
) -> Result<Arc<Decision>, Refusal> {
    let refuse = match decide(policy, facts) {
        Ok(decision) => return Ok(decision),
        Err(refuse) => refuse,
    };
    if let Repeat::Again(first) = repeat
        && let Some(begun) = first.look()
    {
        return begun.map(|head| head.decision).map_err(|unbegun| {
            life.repeats = true;
            unbegun.refusal.named_for(life.endpoint)
        });
    }
    let refusal = headers::policy_refusal(&gateway.routes, &refuse, facts);
    life.refused = Some(refuse);
    Err(watched::kept_home(refusal, actions).named_for(life.endpoint))
}

/// The policy's verdict.
pub(super) fn decide(policy: &Policy, facts: &Facts) -> Result<Arc<Decision>, Box<Refuse>> {
    match policies::decide(policy, facts) {
        Verdict::Route(decision) => Ok(Arc::new(decision)),
        Verdict::Refuse(refuse) => Err(Box::new(refuse)),
    }
}
