//! By which decision a request is answered, and from where.
//!
//! **Invariant:** the policy in force decides for whatever is asked of a route. What was answered once
//! is given again to a repeat, and then asks nobody.

use super::{
    Gateway, Life,
    headers::policy_refusal,
    open_entry,
    shared::{self, Source},
    watched,
};
use crate::{
    cache::Repeat,
    caller::Caller,
    ledger::{GuardAction, OpenEntry},
    refusal::Refusal,
    timeline::Stage,
    wire::ChatRequest,
};
use http::HeaderMap;
use policies::{Decision, Facts, Policy, Refuse, Verdict};
use std::sync::Arc;

/// From a request that was let in to where its answer comes from, by which decision, and its entry.
///
/// # Errors
/// What the guard or the policy refuses, what [`shared::look_up`] or the idempotency key does.
pub(super) fn decided(
    gateway: &Gateway,
    life: &mut Life,
    caller: &Caller,
    request: &ChatRequest,
    headers: &HeaderMap,
    mut facts: Facts,
) -> Result<(Source, Arc<Decision>, OpenEntry), Refusal> {
    let (actions, counted) = watched::watched(gateway, caller, request, &mut facts)?;
    let repeat = gateway.idempotency.look_up(request, headers, caller.id())?;
    let decision = decision(gateway, life, &facts, &repeat, &actions)?;
    life.decision = Some(Arc::clone(&decision));
    life.timeline.end(Stage::Decide);

    let source = shared::look_up(gateway, repeat, caller, request, headers, &decision)?;
    let mut open = open_entry(gateway, life, caller, request, &decision, facts)?;
    open.notes.actions = actions;
    open.counted = Some(counted);
    Ok((source, decision, open))
}

/// The policy's verdict, or for a repeat that it would refuse by now the decision of the first.
fn decision(
    gateway: &Gateway,
    life: &mut Life,
    facts: &Facts,
    repeat: &Repeat,
    actions: &[GuardAction],
) -> Result<Arc<Decision>, Refusal> {
    let refuse = match decide(&gateway.policy.current(), facts) {
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
    let refusal = policy_refusal(&gateway.routes, &refuse, facts);
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
