//! The one inner request: a client's body, checked, with every limit known.

use super::{
    Ask,
    fields::{Field, Fields},
    headers,
    json::Span,
    read::{IMAGE_TOKENS_MAX, IMAGE_TOKENS_USUAL, TEMPLATE_TOKENS, TOOL_TEMPLATE_TOKENS},
    responses::ResponsesAsk,
};
use crate::{
    caller::Priority,
    ledger::{Endpoint, RequestId},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use policies::{PicoUsd, ServiceTier};
use std::{collections::BTreeMap, fmt::Display, time::Duration};
use tokio::time::Instant;

/// A chat request as tollgate works with it. The messages stay in the client's own bytes
/// (`body`); what deciding, accounting and timing need has been read out of them.
#[derive(Clone)]
pub struct ChatRequest {
    /// The endpoint that was asked, which names the format the answer goes out in.
    pub endpoint: Endpoint,
    /// What is asked for.
    pub ask: Ask,
    /// The request in OpenAI's format for what is asked: for a chat its chat format, a JSON object that has been checked: the client's own
    /// body, or what its body of another format was converted to.
    pub body: Bytes,
    /// The client's own body where it is not in OpenAI's chat format, for a provider that speaks
    /// the client's.
    pub outer_body: Option<Bytes>,
    /// A tool in that body which no other provider knows, by its place (`tools[0].type`).
    pub(crate) own_tool: Option<String>,
    /// What the answer's writer needs where the client asked `/v1/responses`.
    pub(crate) responses: Option<Box<ResponsesAsk>>,
    /// The `model` the client wrote.
    pub model: String,
    /// When it was admitted, second of the Unix epoch, set by whoever admits it: prices are looked
    /// up by it.
    pub admitted_unix_s: u64,
    /// How urgent the operator made its key, set by whoever admits it: nothing that a request says.
    pub key_priority: Priority,
    /// The service tier it asks for; `auto` is not known which.
    pub service: ServiceTier,
    /// Images in its messages.
    pub images: u32,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Whether the client asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// Upper bound of the prompt's tokens: bytes of every text a template could render, plus the
    /// template's own overhead. No tokenizer makes more tokens than bytes.
    pub prompt_tokens_max: u64,
    /// A fair estimate of the prompt's tokens, for charging an answer whose usage nobody
    /// reported: see [`super::estimate_prompt_tokens`] for the formula.
    pub prompt_tokens_estimate: u64,
    /// The cap on answer tokens per choice: what the client asked for, or the configured default.
    pub output_cap: u64,
    /// Whether the client asked for that cap (`max_tokens` or `max_completion_tokens`).
    pub output_cap_given: bool,
    /// Whether its `reasoning_effort` is what a budget of thinking in another format amounts to, and is
    /// let go where a model takes none.
    pub(crate) effort_is_hint: bool,
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
    /// `x-tollgate-parent`: the request of the session that caused this one.
    pub parent: Option<RequestId>,
    /// `x-tollgate-step`: the caller's name for the step of its run.
    pub step: Option<String>,
    /// `x-tollgate-max-cost-usd`.
    pub max_cost: Option<PicoUsd>,
    /// `x-tollgate-deadline-ms`, from arrival.
    pub deadline: Option<Duration>,
    /// When that is over; set by whoever knows when it arrived.
    pub answer_by: Option<Instant>,
    /// The client's `traceparent`, passed on to a cloud route as it came.
    pub traceparent: Option<HeaderValue>,
    /// The client's `anthropic-beta`, for a provider that is sent the client's own body; empty where
    /// there is none.
    pub anthropic_betas: String,
    /// Sent to a cloud route as `x-client-request-id`, so that a provider's support can find the
    /// attempt; set by whoever knows the request's id.
    pub upstream_request_id: Option<HeaderValue>,
    /// Where the known fields stand in `body`.
    pub(crate) fields: Fields,
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

// === impl ChatRequest ===

impl ChatRequest {
    /// Prompt tokens to book at a provider that has not said how many there were: the estimate, but
    /// images at their bound, since nothing here tells how large one is.
    #[must_use]
    pub fn prompt_tokens_unreported(&self) -> u64 {
        let more = (IMAGE_TOKENS_MAX - IMAGE_TOKENS_USUAL) * u64::from(self.images);
        self.prompt_tokens_estimate.saturating_add(more)
    }

    /// The least bytes of the prompt's text. Of images nothing is in it: what they take at least differs
    /// by a factor of a hundred between providers.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        let (per_message, once) = TEMPLATE_TOKENS;
        let more = per_message * u64::from(self.messages)
            + once
            + if self.needs.tools { TOOL_TEMPLATE_TOKENS } else { 0 }
            + IMAGE_TOKENS_MAX * u64::from(self.images);
        self.prompt_tokens_max.saturating_sub(more)
    }

    /// Whether the client asked for temperature 0, so that one answer is as good as another.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        let zero = |text: &str| text.parse::<f64>().is_ok_and(|temperature| temperature == 0.0);
        self.given(Field::Temperature).is_some_and(zero)
    }

    /// A request that asks nothing yet, with what its headers say.
    pub(super) fn empty(model: String, headers: &HeaderMap) -> Result<Self, BadRequest> {
        let told = headers::read(headers)?;
        Ok(Self {
            endpoint: Endpoint::ChatCompletions,
            ask: Ask::Chat,
            body: Bytes::new(),
            outer_body: None,
            own_tool: None,
            responses: None,
            model,
            admitted_unix_s: 0,
            key_priority: Priority::Normal,
            service: ServiceTier::Standard,
            images: 0,
            stream: false,
            include_usage: false,
            prompt_tokens_max: 0,
            prompt_tokens_estimate: 0,
            output_cap: 0,
            output_cap_given: false,
            effort_is_hint: false,
            choices: 1,
            needs: Needs::default(),
            messages: 0,
            tags: told.tags,
            metadata: BTreeMap::new(),
            session: told.session,
            parent: told.parent,
            step: told.step,
            max_cost: told.max_cost,
            deadline: told.deadline,
            answer_by: None,
            traceparent: told.traceparent,
            anthropic_betas: told.betas,
            upstream_request_id: None,
            fields: Fields::default(),
        })
    }

    /// The same with where its fields stand, and its body.
    pub(super) fn with(self, fields: Fields, body: Bytes) -> Self {
        Self { body, fields, ..self }
    }

    /// A known field's value as the client wrote it; `None` where it is absent or null.
    pub(crate) fn given(&self, field: Field) -> Option<&str> {
        std::str::from_utf8(self.written(field)?).ok()
    }

    /// As [`Self::given`], for who needs no text: checking that it is some takes as long as it is.
    pub(crate) fn written(&self, field: Field) -> Option<&[u8]> {
        let Span { start, end } = self.fields.get(field)?.value;
        self.body.get(start..end).filter(|raw| *raw != b"null")
    }
}

/// Without the body: a prompt must not reach a log.
impl std::fmt::Debug for ChatRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("body_bytes", &self.body.len())
            .field("stream", &self.stream)
            .field("prompt_tokens_max", &self.prompt_tokens_max)
            .field("output_cap", &self.output_cap)
            .field("choices", &self.choices)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}

// === impl BadRequest ===

impl BadRequest {
    /// A parameter whose value cannot be taken.
    pub(crate) fn value(param: impl Display, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_string()), message: message.into(), code: "invalid_value" }
    }

    /// A parameter of a wrong type: `` `n` must be an integer ``.
    pub(crate) fn kind(param: impl Display, expected: &str) -> Self {
        let param = param.to_string();
        let message = format!("`{param}` must be {expected}");
        Self { param: Some(param), message, code: "invalid_type" }
    }

    /// A required parameter that is not there.
    pub(crate) fn missing(param: impl Display) -> Self {
        let param = param.to_string();
        let message = format!("`{param}` is required");
        Self { param: Some(param), message, code: "missing_required_parameter" }
    }

    /// A parameter that this route cannot serve, and why.
    pub(crate) fn unsupported(param: impl Display, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.to_string()),
            message: message.into(),
            code: "unsupported_parameter",
        }
    }

    /// A body that is not a JSON object.
    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self { param: None, message: message.into(), code: "invalid_json" }
    }
}

/// Of a body: a member of it cannot have a syntax error once the whole has none.
impl From<serde_json::Error> for BadRequest {
    fn from(error: serde_json::Error) -> Self {
        Self::body(format!("the request body is not valid JSON: {error}"))
    }
}
