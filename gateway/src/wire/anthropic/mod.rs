//! Anthropic's `/v1/messages`, for any route: a request is converted to the one inner form, an answer
//! is written from deltas in Anthropic's shapes and in the order of its events.
//!
//! A provider that speaks this format itself gets the client's own body
//! ([`super::ChatRequest::outer_body`]), and the client its own answer ([`super::Event::Own`]), so what
//! the inner form has no place for (thinking blocks with their signatures, cache marks, citations) comes
//! through all the same. For other providers that is left out.
//!
//! **Invariant:** what cannot be served is refused by its name, never left out in silence, unless it
//! only speeds an answer up.

mod content;
mod read;
mod tools;
mod write;

pub use read::{read_messages, read_messages_to_count};
pub use write::{Messages, counted, error_body, error_from_openai};
