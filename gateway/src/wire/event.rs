//! What a route yields while it answers: the one inner event type.

use bytes::Bytes;
use policies::{Usage, UsageSource};

/// One event of an answer on its way from a route to the client.
///
/// A cloud route that speaks the client's own format hands on the provider's bytes untouched, with
/// what was [`Seen`] in them; the engine in this process yields text and the outer format is
/// written around it.
#[derive(Clone, Debug)]
pub enum Event {
    /// One data payload of a provider's stream in OpenAI's chunk format, without its framing.
    Chunk {
        /// The JSON as the provider wrote it.
        data: Bytes,
        /// What it holds.
        seen: Seen,
    },
    /// A provider's whole unstreamed answer in OpenAI's format.
    Whole {
        /// The JSON as the provider wrote it.
        body: Bytes,
        /// What it holds.
        seen: Seen,
    },
    /// Text of the only choice, from the engine in this process; never empty.
    Text {
        /// The text.
        text: String,
        /// Tokens generated for it.
        tokens: u32,
    },
    /// The engine's answer ended.
    End {
        /// Why.
        finish: FinishReason,
        /// Exactly what it used.
        usage: Usage,
        /// Who counted.
        source: UsageSource,
        /// Engine time attributed to it, nanoseconds.
        engine_ns: u64,
    },
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
    /// A finish reason that it carries.
    pub finish: Option<FinishReason>,
    /// Usage that it reports, in disjoint buckets.
    pub usage: Option<Usage>,
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
    /// The model ended its turn or met a stop string.
    Stop,
    /// The output cap was reached.
    Length,
    /// Tools are called.
    ToolCalls,
    /// The provider's filter cut it.
    ContentFilter,
    /// Another word of a provider's, passed on.
    Other(String),
}

impl FinishReason {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
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
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}
