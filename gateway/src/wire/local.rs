//! What a chat request asks of the model in this process.

use super::{BadRequest, ChatRequest};
use local_engine::{Message, Sampling};

/// A chat request in the engine's words.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAsk {
    /// The conversation.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Texts that end the answer, each non-empty.
    pub stop: Vec<String>,
}

/// Turns `request` into the engine's words.
///
/// # Errors
/// [`BadRequest`] naming the parameter that the engine cannot serve: nothing that would change the
/// answer is ignored.
pub fn local_ask(request: &ChatRequest) -> Result<LocalAsk, BadRequest> {
    let _ = request;
    Err(BadRequest::body("not yet"))
}
