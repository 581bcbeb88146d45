//! What operators were told of, and how the receivers stand.

use super::{
    Answer,
    read::{Params, bad},
    times::rfc3339,
};
use crate::{
    ledger::{NOTICE_KINDS, Notice},
    serve::Gateway,
    webhook::{Webhook, view},
};
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Events of one page, unless it is asked for fewer.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListParams {
    /// A kind, or a family of kinds.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Older than the event with this id.
    after: Option<String>,
    limit: Option<usize>,
}

/// GET /events: the newest first; `?type=budget` or `?type=guard.blocked`, `?after=<id>` goes on.
pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Params(params): Params<ListParams>,
) -> Answer {
    if let Some(kind) = &params.kind
        && !NOTICE_KINDS.iter().any(|known| known.split('.').next() == Some(kind) || known == kind)
    {
        let message =
            format!("`type` is one of {}, or what stands before the dot", NOTICE_KINDS.join(", "));
        return Err(bad(Some("type"), message));
    }
    let limit = params.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE_MAX {
        return Err(bad(Some("limit"), format!("`limit` is 1 to {PAGE_MAX}")));
    }
    let notices = super::reading(&gateway, |gateway| gateway.books.notices()).await?;
    let mut notices: Vec<Notice> = notices.into_iter().map(|(_, notice)| notice).collect();
    if let Some(after) = &params.after {
        let Some(at) = notices.iter().position(|notice| notice.id.to_string() == *after) else {
            return Err(bad(Some("after"), format!("there is no event `{after}` any more")));
        };
        notices.drain(..=at);
    }
    notices.retain(|notice| params.kind.as_ref().is_none_or(|kind| notice.is(kind)));
    let next = (notices.len() > limit).then(|| notices[limit - 1].id.to_string());
    let data: Vec<Value> = notices.iter().take(limit).map(view).collect();
    super::answer(&super::List {
        object: "list",
        data,
        next_cursor: next,
        lost: Vec::new(),
        dropped_before: None,
    })
}

/// GET /webhooks: each receiver, what waits for it, and how its deliveries go.
pub(super) async fn webhooks(State(gateway): State<Arc<Gateway>>) -> Answer {
    let all = super::reading(&gateway, |gateway| {
        let look = |webhook: &Arc<Webhook>| {
            webhook.count(&gateway.books);
            receiver(webhook)
        };
        gateway.webhooks.iter().map(look).collect()
    });
    super::list::<Value>(all.await?)
}

fn receiver(webhook: &Webhook) -> Value {
    let (state, counts) = (webhook.state(), webhook.counts());
    json!({
        "name": webhook.config.name,
        "origin": webhook.config.origin(),
        "events": webhook.config.events,
        "waiting": state.waiting,
        "failures_in_a_row": state.failures,
        "last_error": state.last_error,
        "last_delivered": state.delivered_unix_ms.map(rfc3339),
        "last_delivered_unix_ms": state.delivered_unix_ms,
        "delivered": counts.delivered,
        "failed_attempts": counts.failed,
        "given_up": counts.given_up,
    })
}
