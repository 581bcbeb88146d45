//! What the abuse guard does and has seen, and how to lift it.

use super::{Answer, answer, times::rfc3339};
use crate::{ledger::What, refusal::Refusal, serve::Gateway};
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

/// GET /guard: what is being done now (`standing`), and what was noticed lately, newest first.
pub(super) async fn show(State(gateway): State<Arc<Gateway>>) -> Answer {
    let notices = super::reading(&gateway, |gateway| gateway.books.notices()).await?;
    let standing = gateway.guard.standing(gateway.clock.unix_ms());
    let standing: Vec<Value> = standing
        .iter()
        .map(|(subject, effect)| {
            json!({
                "subject": subject,
                "signal": effect.signal.name(),
                "effect": effect.effect,
                "seen": effect.seen,
                "until": rfc3339(effect.until_ms),
                "until_unix_ms": effect.until_ms,
            })
        })
        .collect();
    let events: Vec<Value> = notices
        .iter()
        .filter_map(|(_, notice)| match &notice.what {
            What::Guard(seen) => Some((notice.unix_ms, seen)),
            What::Budget(_) | What::Lifted(_) => None,
        })
        .map(|(unix_ms, event)| {
            json!({
                "at": rfc3339(unix_ms),
                "at_unix_ms": unix_ms,
                "subject": event.subject,
                "signal": event.signal,
                "effect": event.effect,
                "seen": event.seen,
                "until_unix_ms": event.until_unix_ms,
            })
        })
        .collect();
    answer(&json!({ "standing": standing, "events": events }))
}

/// DELETE /guard/{subject}: lifts what is being done to a key's id, `user:<name>` or `team:<name>`; what was seen
/// counts as usual from now on.
pub(super) async fn lift(
    State(gateway): State<Arc<Gateway>>,
    Path(subject): Path<String>,
) -> Answer {
    if gateway.guard.lift(&subject, gateway.clock.unix_ms()) {
        gateway.books.tell(What::Lifted(subject.clone()));
        return answer(&json!({ "lifted": subject }));
    }
    Err(Refusal::NotFound(format!("the guard does nothing to `{subject}` now")))
}
