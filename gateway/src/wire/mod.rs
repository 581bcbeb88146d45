//! The edge: what clients and providers write, and the one inner request and event type both are
//! turned into. Only this module and `providers/` know anybody's JSON.

pub mod anthropic;
mod ask;
pub mod chat;
mod check;
pub mod completions;
mod described;
pub mod embeddings;
mod event;
mod fields;
mod gather;
mod headers;
pub(crate) mod json;
mod local;
mod messages;
mod named;
mod outer;
mod pieces;
mod priced;
mod put;
mod question;
mod read;
mod request;
pub mod responses;
pub mod sse;
#[cfg(test)]
mod tests;
mod tools;

pub use ask::{Ask, CompletionAsk, EmbeddingAsk, Prompt, prompts};
pub(crate) use described::schemas as described;
pub use event::{Delta, DeltaKind, EngineUse, Event, FinishReason, Likely, Seen, TokenLogprob};
pub(crate) use fields::{Field, Place};
pub use gather::{Choice, Gathered, ToolCall};
pub(crate) use headers::{GUARD as GUARD_TAG, check_tags, once as header_once};
pub use local::{
    LocalAsk, LocalCompletion, LocalEmbedding, local_ask, local_completion, local_embedding,
    local_sampling,
};
pub use named::{name, named};
pub use outer::{Outer, id_prefix};
pub use pieces::Pieces;
pub(crate) use question::{hashed, question};
pub use read::{estimate_prompt_tokens, estimate_tokens, read, read_chat};
pub use request::{BadRequest, ChatRequest, Needs};
pub use responses::{Context, InputPage, Kept, KeptLimits};
pub(crate) use tools::Allowed;
