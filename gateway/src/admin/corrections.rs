//! POST /corrections: what the operator books on a budget by hand.
//!
//! **Invariant:** a correction is durable in the journal before it is told, with its reason; it is
//! booked once, in the window that runs, and changes no entry.

use super::{
    Answer, answer,
    budgets::{Named, missing, named},
    change,
    read::{Body, bad},
    reading, state,
};
use crate::{
    ledger::{Amount, BudgetState},
    openapi::types::Usd,
    refusal::Refusal,
    serve::Gateway,
};
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
    /// Takes it from what is spent in the window instead of adding it; more than that is refused.
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
    // One at a time: what is spent is looked at before it is taken.
    let change = change::begin(&gateway).await?;
    if body.credit {
        covers(&gateway, &named, &body.budget, amount).await?;
    }
    let nothing = Amount::default();
    let both = if body.credit { (nothing, amount) } else { (amount, nothing) };
    let ticket = gateway.books.correct(&named.scope, named.window, both, reason);
    // It counts from here on: who asked for it is told, should it be durable only later.
    change.carry_out(ticket.ok_or_else(|| missing(&body.budget))?, |_| {}).await?;
    // The state is asked for after what was booked is applied to it.
    let found = state_of(&gateway, &named).await?;
    answer(&state::budget(found.ok_or_else(|| missing(&body.budget))?))
}

/// A budget with everything that was booked on it until now.
async fn state_of(gateway: &Arc<Gateway>, named: &Named) -> Result<Option<BudgetState>, Refusal> {
    let states = reading(gateway, |gateway| {
        gateway.books.catch_up();
        gateway.books.budgets()
    });
    let of = |state: &BudgetState| state.scope == named.scope && state.window == named.window;
    Ok(states.await?.into_iter().find(of))
}

/// A credit takes what was spent and no more: that it could not take is said, not passed over.
async fn covers(
    gateway: &Arc<Gateway>,
    named: &Named,
    id: &str,
    credit: Amount,
) -> Result<(), Refusal> {
    let state = state_of(gateway, named).await?.ok_or_else(|| missing(id))?;
    // Of what it does not limit too: a limit may come, and counts what was spent before.
    let more = [
        ("money_usd", state.spent.money < u128::from(credit.money.pico())),
        ("tokens", state.spent.tokens < credit.tokens),
        ("requests", state.spent.requests < credit.requests),
    ];
    match more.into_iter().find(|(_, more)| *more) {
        None => Ok(()),
        Some((param, _)) => {
            let message = format!("`{param}`: less than that is spent in the window that runs");
            Err(bad(Some(param), message))
        }
    }
}
