//! The one inner request: a client's body, checked, with every limit known.

use bytes::Bytes;
use policies::PicoUsd;
use std::{collections::BTreeMap, time::Duration};

/// A chat request as tollgate works with it. The messages stay in the client's own bytes
/// (`body`); what deciding, accounting and timing need has been read out of them.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The client's body, a JSON object that has been checked.
    pub body: Bytes,
    /// The `model` the client wrote.
    pub model: String,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Whether the client asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// Upper bound of the prompt's tokens: body bytes of the messages and tools, plus the
    /// template's overhead per message. No tokenizer makes more tokens than bytes.
    pub prompt_tokens_max: u64,
    /// The cap on answer tokens per choice: what the client asked for, or the configured default.
    pub output_cap: u64,
    /// Whether the client asked for that cap (`max_tokens` or `max_completion_tokens`).
    pub output_cap_given: bool,
    /// Choices asked for, at least 1.
    pub choices: u32,
    /// What a route must be able to do.
    pub needs: Needs,
    /// Messages in the conversation.
    pub messages: u32,
    /// `x-tollgate-tags`.
    pub tags: Vec<String>,
    /// `metadata` of the body.
    pub metadata: BTreeMap<String, String>,
    /// `x-session-id`.
    pub session: Option<String>,
    /// `x-tollgate-max-cost-usd`.
    pub max_cost: Option<PicoUsd>,
    /// `x-tollgate-deadline-ms`, from arrival.
    pub deadline: Option<Duration>,
}

/// What a route must be able to do for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Tools or legacy functions.
    pub tools: bool,
    /// Image parts.
    pub images: bool,
    /// `response_format` other than text.
    pub structured: bool,
    /// Log probabilities.
    pub logprobs: bool,
}

/// Why a body cannot be served: becomes a 400 that names the parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// The parameter, such as `messages[0].content`.
    pub param: Option<String>,
    /// What is wrong, in the caller's terms.
    pub message: String,
    /// Error code, such as `context_length_exceeded`; `invalid_value` where there is no better.
    pub code: &'static str,
}
