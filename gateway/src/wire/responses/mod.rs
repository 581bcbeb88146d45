//! OpenAI's `/v1/responses`, for any route: a request is converted to the one inner form, an answer is
//! written from deltas as a response object or as the events of its stream in their order.
//!
//! A conversation can be continued by `previous_response_id` where the operator keeps answers
//! ([`Kept`]): in memory, within limits, for the key that asked; its items can then be named by their
//! ids. Nothing is kept otherwise.
//!
//! **Invariant:** what cannot be served is refused by its name, never left out in silence. Tools that
//! OpenAI runs itself are such, and so is everything that needs a store where there is none.

mod given;
mod items;
mod kept;
mod output;
mod read;
mod referred;
mod tools;
mod write;

pub use given::{InputPage, Item};
pub use kept::{Kept, KeptLimits, Marks, Turn};
pub use read::{Context, read_response};
pub use write::Responses;

use crate::ledger::KeyId;
use bytes::Bytes;
use std::sync::Arc;

/// What an answer's writer needs of its request.
#[derive(Clone)]
pub struct ResponsesAsk {
    /// The members of the response object that repeat the request: `"instructions":null,…`.
    pub(super) echo: String,
    /// The service tier that was asked for, as JSON.
    pub(super) service_tier: String,
    /// Names of tools that take text in place of JSON.
    pub(super) custom: Vec<String>,
    /// Whether what was thought is told as a summary, which was asked for.
    pub(super) summary: bool,
    /// Where the answer is kept, if it is.
    pub(super) keep: Option<Keep>,
}

/// A place for an answer among those that are kept.
#[derive(Clone)]
pub(super) struct Keep {
    pub(super) kept: Arc<Kept>,
    pub(super) owner: KeyId,
    /// The conversation so far without instructions: chat messages, separated by commas.
    pub(super) conversation: Bytes,
    /// What this request added to it, as the client wrote it.
    pub(super) input: Bytes,
    /// How it is marked, what it continues included.
    pub(super) marks: Marks,
}

/// Without the conversation: a prompt must not reach a log.
impl std::fmt::Debug for ResponsesAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponsesAsk").field("kept", &self.keep.is_some()).finish_non_exhaustive()
    }
}
