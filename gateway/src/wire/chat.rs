//! Writing chat answers in OpenAI's shape: the local route's chunks and whole answers, and the
//! cost put into a provider's own.
//!
//! **Invariant:** money is written from the integer, digit by digit, and what is unknown is
//! absent. A provider's payload stays as it is to the byte, but for the cost in its `usage`.

use super::{
    Choice, Delta, DeltaKind, FinishReason, Gathered, Likely, Pieces, TokenLogprob, ToolCall,
    json::{self, Span},
};
use bytes::{BufMut, Bytes, BytesMut};
use policies::{PicoUsd, Usage};
use std::{fmt::Write as _, ops::Range};

/// Bytes of stream that share one allocation.
const BUFFER_BYTES: usize = 4096;
/// What OpenAI writes for the logarithm of a probability of zero.
const LOGPROB_LEAST: f32 = -9999.0;

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
    /// Choices whose first chunk is out, a bit each: there are at most 128.
    begun: u128,
    /// Whether calls go out in the older format of functions.
    legacy: bool,
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
        Self {
            head: start,
            tail,
            begun: 0,
            legacy: false,
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
        }
    }

    /// The chunk of a piece, after the one that says who speaks where the choice begins with it;
    /// nothing for a piece that this format has no place for.
    pub fn delta(&mut self, delta: &Delta, out: &mut impl FnMut(Bytes)) {
        self.role(delta.choice, out);
        match &delta.kind {
            DeltaKind::Text(text) => self.put_text(delta.choice, "content", text),
            DeltaKind::Reasoning(text) => self.put_text(delta.choice, "reasoning_content", text),
            DeltaKind::Refusal(text) => self.put_text(delta.choice, "refusal", text),
            DeltaKind::ToolCall { index, id, name } => {
                self.put_choice(delta.choice);
                self.legacy = id.is_empty();
                self.put_call_start(*index, id, name);
            }
            DeltaKind::ToolArguments { json, .. } if self.legacy => {
                self.put_choice(delta.choice);
                self.buffer.put_slice(br#""function_call":{"arguments":"#);
                put_string(&mut self.buffer, json);
                self.buffer.put_slice(b"}");
            }
            DeltaKind::ToolArguments { index, json } => {
                self.put_choice(delta.choice);
                let _ = write!(
                    self.buffer,
                    r#""tool_calls":[{{"index":{index},"function":{{"arguments":"#
                );
                put_string(&mut self.buffer, json);
                self.buffer.put_slice(b"}}]");
            }
            DeltaKind::Finish(_) => self.put_choice(delta.choice),
            DeltaKind::Signature(_) => return,
        }
        self.buffer.put_slice(b"},\"logprobs\":");
        put_logprobs(&mut self.buffer, &delta.logprobs);
        self.buffer.put_slice(b",\"finish_reason\":");
        match &delta.kind {
            DeltaKind::Finish(finish) => put_string(&mut self.buffer, finish.as_str()),
            _ => self.buffer.put_slice(b"null"),
        }
        out(self.take(self.tail));
    }

    /// A choice's first chunk: who speaks.
    fn role(&mut self, choice: u32, out: &mut impl FnMut(Bytes)) {
        let bit = 1_u128.checked_shl(choice).unwrap_or(0);
        if self.begun & bit != 0 {
            return;
        }
        self.begun |= bit;
        self.put_choice(choice);
        self.buffer.put_slice(br#""role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null"#);
        out(self.take(self.tail));
    }

    /// The usage chunk: no choices.
    #[must_use]
    pub fn usage(&mut self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        self.buffer.put_slice(&self.head);
        self.buffer.put_slice(br#""choices":[],"usage":"#);
        put_usage(&mut self.buffer, usage, cost);
        self.take(b"}\n\n")
    }

    fn put_choice(&mut self, choice: u32) {
        self.buffer.put_slice(&self.head);
        // Writing to a BytesMut that grows cannot fail.
        let _ = write!(self.buffer, r#""choices":[{{"index":{choice},"delta":{{"#);
    }

    fn put_text(&mut self, choice: u32, name: &str, text: &str) {
        self.put_choice(choice);
        let _ = write!(self.buffer, "\"{name}\":");
        put_string(&mut self.buffer, text);
    }

    /// The beginning of a call; one without an id is of the older format of functions.
    fn put_call_start(&mut self, index: u32, id: &str, name: &str) {
        if id.is_empty() {
            self.buffer.put_slice(br#""function_call":{"name":"#);
            put_string(&mut self.buffer, name);
            self.buffer.put_slice(br#","arguments":""}"#);
            return;
        }
        let _ = write!(self.buffer, r#""tool_calls":[{{"index":{index},"id":"#);
        put_string(&mut self.buffer, id);
        self.buffer.put_slice(br#","type":"function","function":{"name":"#);
        put_string(&mut self.buffer, name);
        self.buffer.put_slice(br#","arguments":""}}]"#);
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

/// A whole unstreamed answer.
#[must_use]
pub fn whole(head: &AnswerHead, answer: &Gathered, usage: &Usage, cost: Option<&Cost>) -> Bytes {
    let text: usize = answer.choices.iter().map(|choice| choice.text.len()).sum();
    let mut body = BytesMut::with_capacity(text + text / 8 + 640);
    put_head(&mut body, head, "chat.completion");
    put_whole_choices(&mut body, answer);
    put_end(&mut body, usage, cost);
    body.freeze()
}

/// What such answers have in common that say the same.
pub(super) fn content(answer: &Gathered) -> Bytes {
    let mut content = BytesMut::new();
    put_whole_choices(&mut content, answer);
    content.freeze()
}

/// The whole answer around that.
pub(super) fn around(
    head: &AnswerHead,
    content: Bytes,
    usage: &Usage,
    cost: Option<&Cost>,
) -> Pieces {
    let mut body = BytesMut::with_capacity(640);
    put_head(&mut body, head, "chat.completion");
    let before = body.split().freeze();
    put_end(&mut body, usage, cost);
    Pieces::of([before, content, body.freeze()])
}

fn put_whole_choices(out: &mut BytesMut, answer: &Gathered) {
    out.put_slice(b"\"choices\":[");
    for (index, choice) in answer.choices.iter().enumerate() {
        put_whole_choice(out, index, choice);
    }
    out.put_slice(b"]");
}

/// What follows the choices.
pub(super) fn put_end(out: &mut BytesMut, usage: &Usage, cost: Option<&Cost>) {
    out.put_slice(br#","usage":"#);
    put_usage(out, usage, cost);
    out.put_slice(b"}");
}

fn put_whole_choice(out: &mut BytesMut, index: usize, choice: &Choice) {
    let comma = if index == 0 { "" } else { "," };
    let _ = write!(out, r#"{comma}{{"index":{index},"message":{{"role":"assistant","content":"#);
    // As OpenAI has it: a message of tool calls or a refusal alone has no content.
    let silent = !choice.calls.is_empty() || !choice.refusal.is_empty();
    put_string_or_null(out, &choice.text, choice.text.is_empty() && silent);
    out.put_slice(b",\"refusal\":");
    put_string_or_null(out, &choice.refusal, choice.refusal.is_empty());
    if !choice.reasoning.is_empty() {
        out.put_slice(b",\"reasoning_content\":");
        put_string(out, &choice.reasoning);
    }
    if let [call] = choice.calls.as_slice()
        && call.id.is_empty()
    {
        out.put_slice(b",\"function_call\":");
        put_function(out, call);
    } else {
        put_calls(out, &choice.calls);
    }
    out.put_slice(b"},\"logprobs\":");
    put_logprobs(out, &choice.logprobs);
    out.put_slice(b",\"finish_reason\":");
    put_string(out, choice.finish.as_ref().map_or("stop", FinishReason::as_str));
    out.put_slice(b"}");
}

fn put_calls(out: &mut BytesMut, calls: &[ToolCall]) {
    for (at, call) in calls.iter().enumerate() {
        out.put_slice(if at == 0 { b",\"tool_calls\":[" } else { b"," });
        out.put_slice(b"{\"id\":");
        put_string(out, &call.id);
        out.put_slice(br#","type":"function","function":"#);
        put_function(out, call);
        out.put_slice(b"}");
    }
    if !calls.is_empty() {
        out.put_slice(b"]");
    }
}

/// `{"name":…,"arguments":…}`.
fn put_function(out: &mut BytesMut, call: &ToolCall) {
    out.put_slice(b"{\"name\":");
    put_string(out, &call.name);
    out.put_slice(b",\"arguments\":");
    put_string(out, &call.arguments);
    out.put_slice(b"}");
}

/// `{"content":[…],"refusal":null}`, or null where there are none.
fn put_logprobs(out: &mut BytesMut, logprobs: &[TokenLogprob]) {
    if logprobs.is_empty() {
        out.put_slice(b"null");
        return;
    }
    out.put_slice(b"{\"content\":");
    put_tokens(logprobs, out);
    out.put_slice(b",\"refusal\":null}");
}

/// Tokens and how likely they were, as a list.
pub(super) fn put_tokens(logprobs: &[TokenLogprob], out: &mut impl BufMut) {
    out.put_slice(b"[");
    for (index, token) in logprobs.iter().enumerate() {
        out.put_slice(if index == 0 { b"{" } else { b",{" });
        put_likely(out, &token.chosen);
        out.put_slice(b",\"top_logprobs\":[");
        for (rank, likely) in token.top.iter().enumerate() {
            out.put_slice(if rank == 0 { b"{" } else { b",{" });
            put_likely(out, likely);
            out.put_slice(b"}");
        }
        out.put_slice(b"]}");
    }
    out.put_slice(b"]");
}

/// A logarithm that JSON can hold: it has no infinity.
pub(super) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOGPROB_LEAST }
}

/// `"token":…,"logprob":…,"bytes":[…]`: a token that is not whole characters is shown with
/// replacement characters, its bytes as they are.
fn put_likely(out: &mut impl BufMut, likely: &Likely) {
    out.put_slice(b"\"token\":");
    put_string(out, &String::from_utf8_lossy(&likely.bytes));
    let logprob = finite(likely.logprob);
    out.put_slice(format!(",\"logprob\":{logprob:?},\"bytes\":[").as_bytes());
    for (index, byte) in likely.bytes.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out.put_slice(format!("{comma}{byte}").as_bytes());
    }
    out.put_slice(b"]");
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

/// The same of a whole answer, whose bytes are not copied where they are many.
pub fn with_cost_whole(payload: &Bytes, usage_at: &Range<usize>, cost: &Cost) -> Pieces {
    if !Pieces::stays(payload.len()) {
        return with_cost(payload, usage_at, cost).into();
    }
    let Some(edits) = usage_edits(payload, usage_at, cost) else { return payload.clone().into() };
    let part =
        |at: Range<usize>| payload.get(at).map_or_else(Bytes::new, |it| payload.slice_ref(it));
    let (mut pieces, mut from) = (Vec::with_capacity(2 * edits.len() + 1), 0);
    for edit in edits {
        pieces.extend([part(from..edit.at.start), Bytes::from(edit.with)]);
        from = edit.at.end;
    }
    pieces.push(part(from..payload.len()));
    Pieces::of(pieces)
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
pub(super) fn put_head(out: &mut impl BufMut, head: &AnswerHead, object: &str) {
    out.put_slice(b"{\"id\":");
    put_string(out, &head.id);
    out.put_slice(
        format!(r#","object":"{object}","created":{},"model":"#, head.created).as_bytes(),
    );
    put_string(out, &head.model);
    out.put_slice(b",");
}

/// `usage` in OpenAI's shape: its buckets overlap where ours are disjoint.
pub(super) fn put_usage(out: &mut BytesMut, usage: &Usage, cost: Option<&Cost>) {
    // Writing to a BytesMut that grows cannot fail.
    let _ = write!(
        out,
        r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{},"completion_tokens_details":{}"#,
        usage.prompt(),
        usage.completion(),
        usage.total(),
        prompt_details(usage),
        completion_details(usage),
    );
    put_cost(out, cost);
    out.put_slice(b"}");
}

/// What the prompt's tokens were, beside plain text: what is nothing is left out, but for the cached ones.
pub(super) fn prompt_details(usage: &Usage) -> String {
    let one_hour = usage.cache_write_1h;
    let mut details = format!(r#"{{"cached_tokens":{}"#, usage.cache_read);
    put_some(&mut details, "cache_write_tokens", usage.cache_write_5m.saturating_add(one_hour));
    put_some(&mut details, "audio_tokens", usage.audio);
    put_some(&mut details, "image_tokens", usage.image);
    if one_hour > 0 {
        // Under the name that other gateways to Anthropic have for it.
        details.push_str(r#","cache_creation_token_details":{"ephemeral_1h_input_tokens":"#);
        details.push_str(&one_hour.to_string());
        details.push('}');
    }
    details.push('}');
    details
}

/// The same of the answer's tokens.
pub(super) fn completion_details(usage: &Usage) -> String {
    let mut details = format!(r#"{{"reasoning_tokens":{}"#, usage.reasoning);
    put_some(&mut details, "audio_tokens", usage.audio_output);
    details.push('}');
    details
}

fn put_some(details: &mut String, name: &str, tokens: u64) {
    if tokens > 0 {
        // Writing to memory cannot fail.
        let _ = std::fmt::Write::write_fmt(details, format_args!(r#","{name}":{tokens}"#));
    }
}

/// `,"cost":…,"cost_details":{…}` inside a usage object; nothing where it is unknown.
pub(super) fn put_cost(out: &mut BytesMut, cost: Option<&Cost>) {
    let Some(cost) = cost else { return };
    let mut text = String::with_capacity(160);
    text.push_str(",\"cost\":");
    cost.total.write_plain(&mut text);
    if !cost.details.is_empty() {
        text.push_str(",\"cost_details\":");
        put_details(&mut text, cost);
    }
    out.put_slice(text.as_bytes());
}

/// `{"name":0.0001,…}`.
pub(super) fn put_details(out: &mut String, cost: &Cost) {
    out.push('{');
    for (index, (name, amount)) in cost.details.iter().enumerate() {
        out.push_str(if index == 0 { "\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        amount.write_plain(out);
    }
    out.push('}');
}

pub(super) fn put_string(out: &mut impl BufMut, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out.writer(), text);
}

fn put_string_or_null(out: &mut impl BufMut, text: &str, is_null: bool) {
    if is_null { out.put_slice(b"null") } else { put_string(out, text) }
}
