//! What operators are told, and the abuse guard that tells it.

use super::{object, operation, text, whole};
use crate::{
    ledger::{GuardEffect, NOTICE_KINDS},
    openapi::{
        Operation, query,
        types::{Types, list_of},
    },
};
use serde_json::{Value, json};

pub(super) fn of_events() -> Vec<Operation> {
    const TAG: &str = "Events";
    let event = object(
        json!({
            "id": text(),
            "object": { "const": "event" },
            "type": { "enum": NOTICE_KINDS },
            "created": text(),
            "created_unix_ms": whole(),
            "data": { "type": "object" },
        }),
        &[],
    );
    let receiver = object(
        json!({
            "name": text(),
            "origin": text(),
            "events": { "type": "array", "items": text() },
            "waiting": whole(),
            "failures_in_a_row": whole(),
            "last_error": text(),
            "last_delivered": text(),
            "last_delivered_unix_ms": whole(),
            "delivered": whole(),
            "failed_attempts": whole(),
            "given_up": whole(),
        }),
        &["last_error", "last_delivered", "last_delivered_unix_ms"],
    );
    let (events, webhooks) = ("/admin/v1/events", "/admin/v1/webhooks");
    vec![
        operation(("GET", events, TAG, "listEvents", "What operators were told of."), &["400"])
            .says("Budgets that fill, what the guard did, and what was lifted.")
            .takes([
                query("type", "A kind, or what stands before its dot.", text(), json!("budget")),
                json!({
                    "name": "after",
                    "in": "query",
                    "description": "Older than the event with this id.",
                    "schema": text(),
                }),
                query("limit", "Events of a page.", whole(), json!(100)),
            ])
            .answers("200", "Newest first.", &list_of(&event)),
        operation(("GET", webhooks, TAG, "listWebhooks", "Who is told of events."), &[]).answers(
            "200",
            "Each receiver, and how its deliveries go.",
            &list_of(&receiver),
        ),
    ]
}

pub(super) fn of_guard() -> Vec<Operation> {
    const TAG: &str = "Guard";
    let effect = Types::whole::<GuardEffect>();
    let standing = object(
        json!({
            "subject": text(),
            "signal": text(),
            "effect": effect,
            "seen": text(),
            "until": text(),
            "until_unix_ms": whole(),
        }),
        &[],
    );
    let event = object(
        json!({
            "at": text(),
            "at_unix_ms": whole(),
            "subject": text(),
            "signal": text(),
            "effect": effect,
            "seen": text(),
            "until_unix_ms": whole(),
        }),
        &[],
    );
    let list = |items: Value| json!({ "type": "array", "items": items });
    let shown = object(json!({ "standing": list(standing), "events": list(event) }), &[]);
    vec![
        operation(
            (
                "GET",
                "/admin/v1/guard",
                TAG,
                "showGuard",
                "What the abuse guard does now, and what it noticed lately.",
            ),
            &[],
        )
        .answers("200", "Newest first.", &shown),
        operation(
            (
                "DELETE",
                "/admin/v1/guard/{subject}",
                TAG,
                "liftGuard",
                "Lifts what is being done to a key's id or `user:<name>`.",
            ),
            &["404"],
        )
        .answers("200", "It is lifted.", &object(json!({ "lifted": text() }), &[])),
    ]
}
