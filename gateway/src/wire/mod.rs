//! The edge: what clients and providers write, and the one inner request and event type both are
//! turned into. Only this module and `providers/` know anybody's JSON.

pub mod chat;
mod check;
mod event;
mod fields;
mod gather;
mod headers;
pub(crate) mod json;
mod local;
mod messages;
mod priced;
mod read;
mod request;
pub mod sse;
#[cfg(test)]
mod tests;
mod tools;

pub use event::{Delta, DeltaKind, Event, FinishReason, Likely, Seen, TokenLogprob};
pub(crate) use fields::{Field, Place};
pub use gather::{Choice, Gathered, ToolCall};
pub use local::{LocalAsk, local_ask};
pub use read::{estimate_prompt_tokens, estimate_tokens, read_chat};
pub use request::{BadRequest, ChatRequest, Needs};
