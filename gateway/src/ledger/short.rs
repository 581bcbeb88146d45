//! Why an attempt may not be made, in words that name the limit, what is left and when it opens again.

use super::budgets::{Scope, Unit};
use crate::store::BooksError;
use policies::PicoUsd;
use std::{sync::Arc, time::Duration};

/// Why an attempt may not be made. Nothing is held then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// A hard budget has less left than the attempt could cost.
    #[error(
        "the budget `{id}` has {left} of {limit} left and this request could need {needed}{behind}\
         {opens}",
        behind = behind(*.ahead), left = shown(*.unit, *.left), limit = shown(*.unit, *.limit),
        needed = shown(*.unit, *.needed), opens = opens(*.opens_unix_ms)
    )]
    Budget {
        /// The budget.
        id: Arc<str>,
        /// Whose.
        scope: Scope,
        /// Pico-USD or tokens, for the three figures that follow.
        unit: Unit,
        /// Its limit.
        limit: u64,
        /// What is neither settled nor held.
        left: u64,
        /// What the attempt could need.
        needed: u64,
        /// What would be left if everything that runs gave back all it holds.
        left_at_most: u64,
        /// Requests that came before and wait for this budget.
        ahead: u64,
        /// When the next window opens, milliseconds since the Unix epoch; `None` for `total`.
        opens_unix_ms: Option<u64>,
    },
    /// A tokens-per-minute limit.
    #[error("the limit of {limit} tokens per minute has {left} left, {needed} could be needed")]
    TokensPerMinute {
        /// Whose.
        scope: Scope,
        /// Tokens per minute.
        limit: u64,
        /// What could be taken now.
        left: u64,
        /// What the attempt could need; above `limit` it never fits.
        needed: u64,
        /// When it fits, if nothing else is taken meanwhile.
        retry_after: Duration,
    },
    /// The books cannot record paid work now.
    #[error(transparent)]
    Store(#[from] BooksError),
}

/// An amount of a budget with its unit.
fn shown(unit: Unit, amount: u64) -> String {
    match unit {
        Unit::Money => format!("{} USD", PicoUsd::from_pico(amount)),
        Unit::Tokens => format!("{amount} tokens"),
        Unit::Requests => format!("{amount} requests"),
    }
}

/// How many wait already, in the middle of a sentence.
fn behind(ahead: u64) -> String {
    match ahead {
        0 => String::new(),
        1 => ", and one request waits for it already".to_owned(),
        _ => format!(", and {ahead} requests wait for it already"),
    }
}

/// When the next window opens, as the end of a sentence.
fn opens(unix_ms: Option<u64>) -> String {
    let at = unix_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(String::new, |at| format!("; it opens again at {at}"))
}
