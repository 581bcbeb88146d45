//! `/v1/embeddings`: reading a request, and writing the vectors of the local model.
//!
//! **Invariant:** vectors come in the order of the inputs and are numbered so.

use super::{
    Ask, BadRequest, ChatRequest, EmbeddingAsk, Pieces,
    chat::{self, Cost},
    check,
    completions::measure,
    fields::Field,
    priced,
    read::Read,
};
use crate::ledger::Endpoint;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use policies::Usage;
use std::fmt::Write as _;

/// Most texts in one request, as OpenAI has it.
const INPUTS_MAX: u32 = 2048;
/// Longest vector that a client may ask for.
const DIMENSIONS_MAX: i64 = 65_536;

/// Reads an embedding request: checks the client's body and the headers that belong to it.
///
/// # Errors
/// [`BadRequest`] naming the parameter or the header.
pub fn read_embedding(body: Bytes, headers: &HeaderMap) -> Result<ChatRequest, BadRequest> {
    let read = Read::new(&body)?;
    let model = read.model()?;
    let raw = read.given(Field::Input).ok_or_else(|| BadRequest::missing("input"))?;
    let size = measure("input", raw)?;
    if raw == "\"\"" {
        return Err(BadRequest::value("input", "`input` must not be empty"));
    }
    if size.texts > INPUTS_MAX {
        let message = format!("`input` must have at most {INPUTS_MAX} texts");
        return Err(BadRequest::value("input", message));
    }
    let base64 = match read.given(Field::EncodingFormat) {
        None => false,
        Some(raw) => match check::string("encoding_format", raw)?.as_ref() {
            "float" => false,
            "base64" => true,
            _ => {
                let message = "`encoding_format` must be float or base64";
                return Err(BadRequest::value("encoding_format", message));
            }
        },
    };
    let dimensions = read.integer(Field::Dimensions, 1, DIMENSIONS_MAX)?;
    if read.boolean(Field::Stream)? {
        return Err(BadRequest::unsupported("stream", "vectors are not streamed"));
    }
    if let Some(user) = read.given(Field::User) {
        check::string("user", user)?;
    }
    read.refuse_messages()?;
    let service = priced::check(|field| read.given(field))?;
    let dimensions = dimensions.and_then(|length| u32::try_from(length).ok());
    Ok(ChatRequest {
        endpoint: Endpoint::Embeddings,
        ask: Ask::Embedding(EmbeddingAsk { inputs: size.texts, base64, dimensions }),
        service,
        // The texts are measured apart.
        prompt_tokens_max: size.tokens_max + read.extra_bytes.saturating_sub(raw.len() as u64),
        prompt_tokens_estimate: size.tokens_estimate,
        metadata: read.metadata()?,
        ..ChatRequest::empty(model, headers)?.with(read.fields, body)
    })
}

/// The whole answer.
#[must_use]
pub fn whole(
    model: &str,
    vectors: &[Vec<f32>],
    base64: bool,
    usage: &Usage,
    cost: Option<&Cost>,
) -> Bytes {
    let mut body = with_content(vectors, base64);
    put_end(&mut body, model, usage, cost);
    body.freeze()
}

/// What such answers have in common that say the same.
pub(super) fn content(vectors: &[Vec<f32>], base64: bool) -> Bytes {
    with_content(vectors, base64).freeze()
}

/// The whole answer around that.
pub(super) fn around(model: &str, content: Bytes, usage: &Usage, cost: Option<&Cost>) -> Pieces {
    let mut end = BytesMut::with_capacity(256);
    put_end(&mut end, model, usage, cost);
    Pieces::of([content, end.freeze()])
}

fn with_content(vectors: &[Vec<f32>], base64: bool) -> BytesMut {
    let numbers: usize = vectors.iter().map(Vec::len).sum();
    let mut body = BytesMut::with_capacity(numbers * 12 + vectors.len() * 64 + 256);
    body.put_slice(b"{\"object\":\"list\",\"data\":[");
    for (index, vector) in vectors.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a BytesMut that grows cannot fail.
        let _ = write!(body, r#"{comma}{{"object":"embedding","index":{index},"embedding":"#);
        put_vector(&mut body, vector, base64);
        body.put_slice(b"}");
    }
    body.put_slice(b"]");
    body
}

fn put_end(body: &mut BytesMut, model: &str, usage: &Usage, cost: Option<&Cost>) {
    body.put_slice(b",\"model\":");
    chat::put_string(body, model);
    let _ = write!(
        body,
        r#","usage":{{"prompt_tokens":{},"total_tokens":{}"#,
        usage.prompt(),
        usage.total()
    );
    chat::put_cost(body, cost);
    body.put_slice(b"}}");
}

/// Numbers, or their little-endian bytes in base64.
fn put_vector(out: &mut BytesMut, vector: &[f32], base64: bool) {
    if base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        out.put_slice(b"\"");
        out.put_slice(STANDARD.encode(bytes).as_bytes());
        out.put_slice(b"\"");
        return;
    }
    out.put_slice(b"[");
    for (index, number) in vector.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{number:?}");
    }
    out.put_slice(b"]");
}
