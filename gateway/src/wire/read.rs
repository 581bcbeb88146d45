//! stub
use super::{BadRequest, ChatRequest};
use bytes::Bytes;
use http::HeaderMap;

/// Reads a chat request: checks the client's body and the headers that belong to it.
///
/// # Errors
/// [`BadRequest`] naming the parameter.
pub fn read_chat(
    body: Bytes,
    headers: &HeaderMap,
    output_tokens_default: u64,
) -> Result<ChatRequest, BadRequest> {
    let _ = (body, headers, output_tokens_default);
    Err(BadRequest::body("not yet"))
}

/// Tokens that `bytes` of text make, estimated: one per four bytes, rounded up.
#[must_use]
pub const fn estimate_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// stub
#[must_use]
pub const fn estimate_prompt_tokens(ascii: u64, other: u64, messages: u64, images: u64) -> u64 {
    ascii.div_ceil(4) + other.div_ceil(3) + 4 * messages + 3 + 1000 * images
}
