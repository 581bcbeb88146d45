//! What the edge promises: every malformed body is a 400 that names its parameter, what is accepted
//! is read right, and what is written is exactly OpenAI's shape.

mod chat;
mod completions;
mod conversions;
mod formats;
mod local;
mod read;
mod sse;

use super::{BadRequest, ChatRequest, read_chat};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A plain request's body with `more` members after it, such as `"n":2`.
fn body_with(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"model":"auto","messages":[{{"role":"user","content":"Say hello."}}]{comma}{more}}}"#
    )
}

/// A body whose messages are `messages`.
fn body_of(messages: &str) -> String {
    format!(r#"{{"model":"auto","messages":{messages}}}"#)
}

fn read(body: &str) -> Result<ChatRequest, BadRequest> {
    read_chat(Bytes::copy_from_slice(body.as_bytes()), &HeaderMap::new(), 1000)
}

fn read_with(headers: &[(&'static str, &str)]) -> Result<ChatRequest, BadRequest> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        map.append(HeaderName::from_static(name), value);
    }
    read_chat(Bytes::from(body_with("")), &map, 1000)
}
