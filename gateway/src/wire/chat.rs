//! Writing chat answers in OpenAI's shape: the local route's chunks and whole answers, and the
//! cost put into a provider's own.
//!
//! **Invariant:** money is written from the integer, digit by digit, and what is unknown is
//! absent. A provider's payload stays as it is to the byte, but for the cost in its `usage`.

use super::{
    FinishReason,
    json::{self, Span},
};
use bytes::{BufMut, Bytes, BytesMut};
use policies::{PicoUsd, Usage};
use std::{fmt::Write as _, ops::Range};

/// Bytes of stream that share one allocation.
const BUFFER_BYTES: usize = 4096;

/// What every chunk of one answer, or the whole of it, begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// Such as `chatcmpl-0198…`.
    pub id: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The model that answers.
    pub model: String,
}

/// What an answer cost, as its `usage` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// `usage.cost`, in US dollars.
    pub total: PicoUsd,
    /// `usage.cost_details`, by name, in US dollars; left out if empty. The names are written as
    /// they are: plain words.
    pub details: Vec<(&'static str, PicoUsd)>,
}

/// Writes the events of one streamed answer, each a whole `data: …` event ready for the socket.
#[derive(Debug)]
pub struct Chunks {
    /// `data: {"id":…,"model":…,`.
    head: Vec<u8>,
    /// `,"usage":null` where the client asked for usage: every other chunk has it as null.
    tail: &'static [u8],
    buffer: BytesMut,
}

// === impl Chunks ===

impl Chunks {
    /// A writer for one answer.
    #[must_use]
    pub fn new(head: &AnswerHead, include_usage: bool) -> Self {
        let mut start = Vec::with_capacity(128);
        start.extend_from_slice(b"data: ");
        put_head(&mut start, head, "chat.completion.chunk");
        let tail: &[u8] = if include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" };
        Self { head: start, tail, buffer: BytesMut::with_capacity(BUFFER_BYTES) }
    }

    /// The first chunk: who speaks.
    #[must_use]
    pub fn role(&mut self) -> Bytes {
        self.put(br#""choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null"#);
        self.take(self.tail)
    }

    /// A chunk of text.
    #[must_use]
    pub fn text(&mut self, text: &str) -> Bytes {
        self.put(br#""choices":[{"index":0,"delta":{"content":"#);
        put_string(&mut self.buffer, text);
        self.buffer.put_slice(br#"},"logprobs":null,"finish_reason":null"#);
        self.take(self.tail)
    }

    /// The chunk that says why the answer ended.
    #[must_use]
    pub fn finish(&mut self, finish: &FinishReason) -> Bytes {
        self.put(br#""choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"#);
        put_string(&mut self.buffer, finish.as_str());
        self.take(self.tail)
    }

    /// The usage chunk: no choices.
    #[must_use]
    pub fn usage(&mut self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        self.put(br#""choices":[],"usage":"#);
        put_usage(&mut self.buffer, usage, cost);
        self.take(b"}\n\n")
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(&self.head);
        self.buffer.put_slice(bytes);
    }

    fn take(&mut self, tail: &[u8]) -> Bytes {
        self.buffer.put_slice(tail);
        let event = self.buffer.split().freeze();
        if self.buffer.capacity() < BUFFER_BYTES / 4 {
            self.buffer.reserve(BUFFER_BYTES);
        }
        event
    }
}

/// A whole unstreamed answer of one choice.
#[must_use]
pub fn whole(
    head: &AnswerHead,
    text: &str,
    finish: &FinishReason,
    usage: &Usage,
    cost: Option<&Cost>,
) -> Bytes {
    let mut body = BytesMut::with_capacity(text.len() + text.len() / 8 + 640);
    put_head(&mut body, head, "chat.completion");
    body.put_slice(br#""choices":[{"index":0,"message":{"role":"assistant","content":"#);
    put_string(&mut body, text);
    body.put_slice(br#","refusal":null},"logprobs":null,"finish_reason":"#);
    put_string(&mut body, finish.as_str());
    body.put_slice(br#"}],"usage":"#);
    put_usage(&mut body, usage, cost);
    body.put_slice(b"}");
    body.freeze()
}

/// A provider's payload with our cost in its usage object, which stands at `usage_at`; everything
/// else as it was. A cost the provider wrote there is replaced by ours.
#[must_use]
pub fn with_cost(payload: &Bytes, usage_at: &Range<usize>, cost: &Cost) -> Bytes {
    match usage_edits(payload, usage_at, cost) {
        Some(edits) => splice(payload, &edits),
        None => payload.clone(),
    }
}

/// One replacement of a range of bytes.
struct Edit {
    at: Span,
    with: Vec<u8>,
}

/// The edits that put `cost` into the usage object, in ascending order.
fn usage_edits(payload: &Bytes, usage_at: &Range<usize>, cost: &Cost) -> Option<Vec<Edit>> {
    let raw = std::str::from_utf8(payload.get(usage_at.clone())?).ok()?;
    let mut edits = Vec::with_capacity(3);
    let (mut has_cost, mut has_details, mut is_empty) = (false, false, true);
    json::members::<serde_json::Error>(raw, |key, member| {
        is_empty = false;
        let (start, end) = (usage_at.start + member.value.start, usage_at.start + member.value.end);
        let mut replace = |with: String| {
            edits.push(Edit { at: Span { start, end }, with: with.into_bytes() });
        };
        if key == "cost" {
            has_cost = true;
            replace(cost.total.to_plain());
        } else if key == "cost_details" && !cost.details.is_empty() {
            has_details = true;
            let mut with = String::new();
            put_details(&mut with, cost);
            replace(with);
        }
        Ok(())
    })
    .ok()?;
    let mut added = String::with_capacity(160);
    if !has_cost {
        added.push_str(if is_empty { "\"cost\":" } else { ",\"cost\":" });
        cost.total.write_plain(&mut added);
    }
    if !has_details && !cost.details.is_empty() {
        added.push_str(",\"cost_details\":");
        put_details(&mut added, cost);
    }
    let end = usage_at.end - 1;
    edits.push(Edit { at: Span { start: end, end }, with: added.into_bytes() });
    Some(edits)
}

fn splice(payload: &Bytes, edits: &[Edit]) -> Bytes {
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut out = BytesMut::with_capacity(payload.len() + added);
    let mut from = 0;
    for edit in edits {
        out.put_slice(payload.get(from..edit.at.start).unwrap_or_default());
        out.put_slice(&edit.with);
        from = edit.at.end;
    }
    out.put_slice(payload.get(from..).unwrap_or_default());
    out.freeze()
}

/// `{"id":…,"object":…,"created":…,"model":…,`.
fn put_head(out: &mut impl BufMut, head: &AnswerHead, object: &str) {
    out.put_slice(b"{\"id\":");
    put_string(out, &head.id);
    out.put_slice(
        format!(r#","object":"{object}","created":{},"model":"#, head.created).as_bytes(),
    );
    put_string(out, &head.model);
    out.put_slice(b",");
}

/// `usage` in OpenAI's shape: its buckets overlap where ours are disjoint.
fn put_usage(out: &mut BytesMut, usage: &Usage, cost: Option<&Cost>) {
    // Writing to a BytesMut that grows cannot fail.
    let _ = write!(
        out,
        r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}},"completion_tokens_details":{{"reasoning_tokens":{}}}"#,
        usage.prompt(),
        usage.completion(),
        usage.total(),
        usage.cache_read,
        usage.reasoning
    );
    if let Some(cost) = cost {
        let mut text = String::with_capacity(160);
        text.push_str(",\"cost\":");
        cost.total.write_plain(&mut text);
        if !cost.details.is_empty() {
            text.push_str(",\"cost_details\":");
            put_details(&mut text, cost);
        }
        out.put_slice(text.as_bytes());
    }
    out.put_slice(b"}");
}

/// `{"name":0.0001,…}`.
fn put_details(out: &mut String, cost: &Cost) {
    out.push('{');
    for (index, (name, amount)) in cost.details.iter().enumerate() {
        out.push_str(if index == 0 { "\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        amount.write_plain(out);
    }
    out.push('}');
}

fn put_string(out: &mut impl BufMut, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out.writer(), text);
}
