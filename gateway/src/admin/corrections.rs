//! POST /corrections: what the operator books on a budget by hand.
//!
//! **Invariant:** a correction is durable in the journal before it is told, with its reason; it is
//! booked in the window that runs and changes no entry.

use super::{
    Answer, answer,
    budgets::{missing, named},
    change,
    read::{Body, bad},
    reading, state, unreadable,
};
use crate::{ledger::Amount, openapi::types::Usd, serve::Gateway};
use axum::extract::State;
use policies::PicoUsd;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// What is booked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CorrectionBody {
    /// The budget's id, such as `team:red/month`.
    budget: String,
    #[serde(default)]
    #[schemars(with = "Option<Usd>")]
    money_usd: Option<PicoUsd>,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    requests: u64,
    /// Takes it from what is spent instead of adding it.
    #[serde(default)]
    credit: bool,
    /// Why; the ledger keeps it.
    reason: String,
}

/// POST /corrections: the budget as it is then. A correction of nothing says that nothing is missing.
pub(super) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<CorrectionBody>,
) -> Answer {
    let named = named(&body.budget)?;
    let reason = body.reason.trim();
    let plain = !reason.chars().any(char::is_control);
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX || !plain {
        let message =
            format!("`reason` says why, in at most {REASON_BYTES_MAX} bytes of plain text");
        return Err(bad(Some("reason"), message));
    }
    if named.of_sessions {
        let message = "a correction is booked on one budget, not on that of every session";
        return Err(bad(Some("budget"), message));
    }
    let amount = Amount {
        money: body.money_usd.unwrap_or(PicoUsd::ZERO),
        tokens: body.tokens,
        requests: body.requests,
    };
    let nothing = Amount::default();
    let both = if body.credit { (nothing, amount) } else { (amount, nothing) };
    change::writable(&gateway)?;
    let ticket = gateway.books.correct(&named.scope, named.window, both, reason);
    ticket.ok_or_else(|| missing(&body.budget))?.committed().await.map_err(unreadable)?;
    // The state is asked for after what was booked is applied to it.
    let states = reading(&gateway, |gateway| {
        gateway.books.catch_up();
        gateway.books.budgets()
    });
    let of = |state: &crate::ledger::BudgetState| {
        state.scope == named.scope && state.window == named.window
    };
    let found = states.await?.into_iter().find(of);
    answer(&state::budget(found.ok_or_else(|| missing(&body.budget))?))
}
