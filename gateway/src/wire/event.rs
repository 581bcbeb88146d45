//! What a route yields while it answers: the one inner event type.

use bytes::Bytes;
use policies::{ServiceTier, Usage, UsageSource};

/// One event of an answer on its way from a route to the client.
///
/// A cloud route that speaks the client's own format, or OpenAI's, hands on the provider's bytes
/// untouched, with what was [`Seen`] in them; the engine in this process, and a provider that speaks another format,
/// yield deltas and the outer format is written around them.
#[derive(Clone, Debug)]
pub enum Event {
    /// One data payload of a provider's stream in OpenAI's chunk format, without its framing.
    Chunk {
        /// The JSON as the provider wrote it, but for what was thought in parts of a content.
        data: Bytes,
        /// What it holds.
        seen: Seen,
    },
    /// A provider's whole unstreamed answer in OpenAI's format.
    Whole {
        /// The JSON as the provider wrote it, but for what was thought in parts of a content.
        body: Bytes,
        /// What it holds.
        seen: Seen,
    },
    /// A provider's bytes in the client's own format, where that is not OpenAI's: the data of one event
    /// of a stream, or a whole unstreamed answer.
    Own {
        /// The JSON as the provider wrote it.
        data: Bytes,
        /// What it holds.
        seen: Seen,
    },
    /// The answer has begun: what a provider that does not speak OpenAI calls it.
    Begin {
        /// The provider's id of the answer.
        id: String,
    },
    /// A piece of a choice, from the engine in this process or from a provider whose format is not
    /// OpenAI's.
    Delta(Delta),
    /// The vectors of an embedding request, in the order of its inputs.
    Vectors(Vec<Vec<f32>>),
    /// What a whole answer says, in the format of all the clients that share it.
    Written {
        /// What is the same in all of their answers: [`super::Outer::content`].
        content: Bytes,
        /// The service tier that served it, where that was told.
        service: Option<ServiceTier>,
    },
    /// The answer ended: nothing follows. Every choice has had its [`DeltaKind::Finish`] before.
    End {
        /// What it used, in disjoint buckets.
        usage: Usage,
        /// Who counted.
        source: UsageSource,
        /// What it took of the engine in this process; `None` for a provider.
        engine: Option<EngineUse>,
    },
}

/// What an answer took of the engine in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineUse {
    /// Engine time attributed to it, nanoseconds.
    pub ns: u64,
    /// Tokens that were guessed before they were computed.
    pub drafted: u64,
    /// Those of them that were drawn.
    pub accepted: u64,
}

/// A piece of one choice of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Which choice, from 0.
    pub choice: u32,
    /// What came.
    pub kind: DeltaKind,
    /// Tokens generated for it, where they are counted; else 0.
    pub tokens: u32,
    /// Log probabilities of its tokens, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// What a piece of a choice is.
#[derive(Clone, Debug, PartialEq)]
pub enum DeltaKind {
    /// Visible text; never empty.
    Text(String),
    /// Reasoning text; never empty.
    Reasoning(String),
    /// The provider's signature over the reasoning before it, to be sent back with it.
    Signature(String),
    /// Text of a refusal; never empty.
    Refusal(String),
    /// A tool call begins. Calls of a choice are numbered from 0 in the order in which they begin.
    ToolCall {
        /// Its number.
        index: u32,
        /// Its id, that the result names.
        id: String,
        /// The function.
        name: String,
    },
    /// A piece of the JSON text of a call's arguments; the pieces joined are one JSON object.
    ToolArguments {
        /// The call's number.
        index: u32,
        /// The piece.
        json: String,
    },
    /// The choice ended.
    Finish(FinishReason),
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token's own probability.
    pub chosen: Likely,
    /// The likeliest tokens in its place, best first; as many as were asked for.
    pub top: Vec<Likely>,
}

/// A token that could have come.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// Its bytes: they need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What a provider's bytes hold, as far as timing and charging need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the caller sees anything new in it: content, refusal or a tool call's part.
    pub visible: bool,
    /// Bytes of visible text, for an estimate where no usage is reported.
    pub visible_bytes: u32,
    /// Bytes of reasoning text, likewise.
    pub reasoning_bytes: u32,
    /// A finish reason that it carries, the last of several.
    pub finish: Option<FinishReason>,
    /// Which choice ended how, where one ended that is not the first; else empty.
    pub finishes: Box<[(u32, FinishReason)]>,
    /// Usage that it reports, in disjoint buckets.
    pub usage: Option<Usage>,
    /// The service tier that it says served it.
    pub service: Option<ServiceTier>,
    /// Where its usage object stands in the bytes, so that a cost can be put there without looking
    /// for it again.
    pub usage_at: Option<std::ops::Range<usize>>,
    /// Whether it is a usage chunk alone (`choices` is empty): stripped from a client's stream
    /// unless the client asked for usage.
    pub usage_only: bool,
    /// Whether it is an error object in place of a chunk.
    pub error: bool,
    /// The provider's id of the answer.
    pub id: Option<String>,
}

/// Why an answer ended, in OpenAI's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    Stop,
    /// It met this stop string, where it is known which.
    StopString(String),
    /// The output cap was reached.
    Length,
    /// Tools are called.
    ToolCalls,
    /// The provider's filter cut it.
    ContentFilter,
    /// Another word of a provider's, passed on.
    Other(String),
}

// === impl Event ===

impl Event {
    /// Bytes that it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = match self {
            Self::Chunk { data, .. } | Self::Own { data, .. } => data.len(),
            Self::Whole { body, .. } => body.len(),
            Self::Delta(delta) => {
                let likely: usize = delta.logprobs.iter().map(|token| 64 * token.top.len()).sum();
                let text = delta.visible_bytes().saturating_add(delta.reasoning_bytes());
                usize::try_from(text).unwrap_or(usize::MAX).saturating_add(likely)
            }
            Self::Vectors(vectors) => vectors.iter().map(|vector| 4 * vector.len()).sum(),
            Self::Written { content, .. } => content.len(),
            Self::Begin { .. } | Self::End { .. } => 0,
        };
        held.saturating_add(size_of::<Self>())
    }

    /// The same in memory of its own: a piece of a stream is a part of what was read from a socket,
    /// and keeps all of that.
    #[must_use]
    pub fn alone(mut self) -> Self {
        match &mut self {
            Self::Chunk { data, .. } | Self::Own { data, .. } => {
                *data = Bytes::copy_from_slice(data);
            }
            Self::Whole { .. }
            | Self::Begin { .. }
            | Self::Delta(_)
            | Self::Vectors(_)
            | Self::Written { .. }
            | Self::End { .. } => {}
        }
        self
    }

    /// Whether the caller sees something new in it, or reasoning is on its way.
    #[must_use]
    pub fn speaks(&self) -> bool {
        match self {
            Self::Chunk { seen, .. } | Self::Whole { seen, .. } | Self::Own { seen, .. } => {
                seen.visible || seen.reasoning_bytes > 0
            }
            Self::Delta(delta) => delta.visible() || delta.reasoning_bytes() > 0,
            Self::Vectors(_) | Self::Written { .. } => true,
            Self::Begin { .. } | Self::End { .. } => false,
        }
    }

    /// Whether the caller, or its clock, is served by it: visible output, or reasoning on its way, or
    /// the answer's end.
    #[must_use]
    pub fn shows(&self) -> bool {
        let ends = match self {
            Self::Chunk { seen, .. } | Self::Own { seen, .. } => seen.finish.is_some(),
            Self::Delta(delta) => matches!(delta.kind, DeltaKind::Finish(_)),
            Self::Begin { .. } => false,
            Self::Whole { .. } | Self::Vectors(_) | Self::Written { .. } | Self::End { .. } => true,
        };
        ends || self.speaks()
    }
}

// === impl Seen ===

impl Seen {
    /// The choices that ended in it, each with how.
    pub fn ended(&self) -> impl Iterator<Item = (u32, &FinishReason)> {
        let first = self.finish.as_ref().filter(|_| self.finishes.is_empty());
        let others = self.finishes.iter().map(|(choice, finish)| (*choice, finish));
        first.map(|finish| (0, finish)).into_iter().chain(others)
    }
}

// === impl Delta ===

impl Delta {
    /// A piece without log probabilities.
    #[must_use]
    pub fn new(choice: u32, kind: DeltaKind) -> Self {
        Self { choice, kind, tokens: 0, logprobs: Vec::new() }
    }

    /// Whether the caller sees something new in it.
    #[must_use]
    pub fn visible(&self) -> bool {
        self.visible_bytes() > 0
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.kind {
            DeltaKind::Text(text)
            | DeltaKind::Reasoning(text)
            | DeltaKind::Signature(text)
            | DeltaKind::Refusal(text)
            | DeltaKind::ToolArguments { json: text, .. } => text.is_empty(),
            DeltaKind::ToolCall { .. } | DeltaKind::Finish(_) => false,
        }
    }

    /// Bytes of visible output in it: text, refusal, or a tool call's part.
    #[must_use]
    pub fn visible_bytes(&self) -> u64 {
        let bytes = match &self.kind {
            DeltaKind::Text(text) | DeltaKind::Refusal(text) => text.len(),
            DeltaKind::ToolCall { name, .. } => name.len().max(1),
            DeltaKind::ToolArguments { json, .. } => json.len(),
            DeltaKind::Reasoning(_) | DeltaKind::Signature(_) | DeltaKind::Finish(_) => 0,
        };
        bytes as u64
    }

    /// Bytes of reasoning in it.
    #[must_use]
    pub fn reasoning_bytes(&self) -> u64 {
        match &self.kind {
            DeltaKind::Reasoning(text) => text.len() as u64,
            _ => 0,
        }
    }
}

// === impl FinishReason ===

impl FinishReason {
    /// Whether the answer ended before its own end.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        match self {
            Self::Length | Self::ContentFilter => true,
            // DeepSeek's, Anthropic's, vLLM's and Zhipu's two.
            Self::Other(word) => {
                matches!(
                    word.as_str(),
                    "insufficient_system_resource"
                        | "model_context_window_exceeded"
                        | "abort"
                        | "sensitive"
                        | "network_error"
                )
            }
            Self::Stop | Self::StopString(_) | Self::ToolCalls => false,
        }
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for FinishReason {
    fn from(word: &str) -> Self {
        match word {
            // The second is Together's word for the same.
            "stop" | "eos" => Self::Stop,
            // The second is Mistral's of a model's whole context, the third Anthropic's.
            "length" | "model_length" | "max_tokens" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}
