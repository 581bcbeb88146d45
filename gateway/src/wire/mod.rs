//! The edge: what clients and providers write, and the one inner request and event type both are
//! turned into. Only this module and `providers/` know anybody's JSON.

mod event;
mod request;

pub use event::{Event, FinishReason, Seen};
pub use request::{BadRequest, ChatRequest, Needs};
