//! What the abuse guard does to a request.

use super::Gateway;
use crate::{
    caller::Caller,
    guard::{Answered, Asked, Counted, Effect, Served, name_hash, subjects},
    ledger::{Attempt, Entry, GuardAction, GuardEffect, What},
    refusal::Refusal,
    wire::{self, ChatRequest},
};
use policies::{Facts, RouteState};
use std::{sync::Arc, time::Duration};

/// How long a throttled caller is told to wait.
const THROTTLED: Duration = Duration::from_secs(10);

/// Asks the guard. What it does stands in the facts, as tags that a policy can look at, and in the
/// actions for the entry; that it counts the request as running ends with what comes with them.
///
/// # Errors
/// [`Refusal::RateLimited`] or [`Refusal::Forbidden`] for a request that it turns away.
pub(super) fn watched(
    gateway: &Gateway,
    caller: &Caller,
    request: &ChatRequest,
    facts: &mut Facts,
) -> Result<(Vec<GuardAction>, Counted), Refusal> {
    let verdict = gateway.guard.ask(&caller.watched, &asked(request, facts));
    for event in &verdict.events {
        gateway.books.tell(event.into());
    }
    let action = |signal: &str, effect, seen: &str| GuardAction {
        signal: signal.to_owned(),
        effect,
        seen: seen.to_owned(),
    };
    let logged = verdict.events.iter().filter(|event| event.effect == GuardEffect::Logged);
    let mut actions: Vec<GuardAction> =
        logged.map(|event| action(event.signal.name(), event.effect, &event.seen)).collect();
    verdict.effect.as_ref().map_or(Ok(()), turned_away)?;
    let counted = gateway.guard.counted(&caller.watched);
    if let Some(effect) = verdict.effect {
        mark(&effect, facts);
        actions.push(action(effect.signal.name(), effect.effect, &effect.seen));
    }
    Ok((actions, counted))
}

/// The same for a request that is only asked about: it counts for nothing.
///
/// # Errors
/// As [`watched`].
pub(super) fn looked_at(
    gateway: &Gateway,
    caller: &Caller,
    request: &ChatRequest,
    facts: &mut Facts,
) -> Result<(), Refusal> {
    let effect = gateway.guard.stands(&caller.watched, &asked(request, facts));
    let Some(effect) = effect else { return Ok(()) };
    turned_away(&effect)?;
    mark(&effect, facts);
    Ok(())
}

/// What the guard looks at.
fn asked(request: &ChatRequest, facts: &Facts) -> Asked {
    let left = facts.budgets.iter().filter(|budget| budget.hard);
    let left = left.filter_map(|budget| Some(budget.money?.1.pico())).min();
    Asked {
        unix_ms: facts.time.unix_ms,
        question: wire::question(request),
        model: name_hash(&request.model),
        hour: u8::try_from(facts.time.minute_of_day / 60).unwrap_or(0),
        session: request.session.as_deref().map(wire::hashed),
        prompt_tokens: request.prompt_tokens_estimate,
        left,
    }
}

/// Puts what is done to a request where a policy looks.
fn mark(effect: &Effect, facts: &mut Facts) {
    facts.request.tags.push(format!("{}{}", wire::GUARD_TAG, effect.signal.name()));
    if effect.effect == GuardEffect::LocalOnly {
        facts.request.tags.push(format!("{}local_only", wire::GUARD_TAG));
        let outside = facts.routes.iter_mut().filter(|route| !route.local);
        outside.for_each(|route| route.state = RouteState::Unavailable);
    }
}

fn turned_away(effect: &Effect) -> Result<(), Refusal> {
    if !effect.turned_away {
        return Ok(());
    }
    let whom = match effect.subject.split_once(':') {
        Some(("user", _)) => "user",
        Some(("team", _)) => "team",
        _ => "key",
    };
    if effect.effect == GuardEffect::Throttled {
        return Err(Refusal::RateLimited {
            scope: format!("this {whom}'s"),
            limit: format!("one request in 10 s ({})", effect.signal.name()),
            left: 0,
            retry_after: THROTTLED,
        });
    }
    Err(Refusal::Forbidden(format!(
        "this {whom} is stopped for a time by the abuse guard ({}); its operator can lift it",
        effect.signal.name()
    )))
}

/// What a caller is told whose request found no route: where the guard keeps it to local ones, that
/// is why, and not a provider that is down.
pub(super) fn kept_home(refusal: Refusal, actions: &[GuardAction]) -> Refusal {
    let kept = actions.iter().find(|action| action.effect == GuardEffect::LocalOnly);
    match (refusal, kept) {
        (Refusal::RouteDown(..) | Refusal::Resting(_), Some(action)) => {
            Refusal::Forbidden(format!(
                "this key is kept to local routes for a time by the abuse guard ({}), and none can serve \
             this request; its operator can lift it",
                action.signal
            ))
        }
        (refusal, _) => refusal,
    }
}

/// Tells the guard what a request came to; returns what operators are to be told.
pub(crate) fn served(guard: &Arc<crate::guard::Guard>, entry: &Entry, unix_ms: u64) -> Vec<What> {
    let held = entry.notes.actions.iter().any(|action| action.effect != GuardEffect::Logged);
    let cost = |attempt: &Attempt| attempt.charge().money.pico();
    let answering = entry.answered_by.and_then(|at| entry.attempts.get(usize::from(at)));
    let answer = answering.and_then(|attempt| {
        let output = attempt.usage.map(|usage| usage.output.saturating_add(usage.reasoning))?;
        Some(Answered { cost: cost(attempt), output })
    });
    let asked_last = answering.or(entry.attempts.last());
    let served = Served {
        unix_ms,
        cost: entry.attempts.iter().map(cost).fold(0, u64::saturating_add),
        model: asked_last.map(|attempt| name_hash(&attempt.model)),
        answer,
        held,
    };
    let who = subjects(&entry.key, entry.user.as_deref(), entry.team.as_deref());
    let events = guard.served(&who, &served);
    events.iter().map(What::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Signal;

    #[test]
    fn who_is_turned_away_hears_whose_effect_it_is() {
        for (subject, whose) in [("key_a", "key"), ("user:ada", "user"), ("team:a:b", "team")] {
            for effect in [GuardEffect::Throttled, GuardEffect::Blocked] {
                let effect = Effect {
                    subject: Arc::from(subject),
                    effect,
                    signal: Signal::PromptLoop,
                    seen: String::new(),
                    until_ms: 1,
                    turned_away: true,
                };
                let said = turned_away(&effect).unwrap_err().to_string();
                assert!(said.contains(&format!("this {whose}")), "{subject}: {said}");
            }
        }
    }
}
