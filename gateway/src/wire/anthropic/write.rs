//! An answer in Anthropic's shapes: one message, or the events of its stream in their order.

use super::read::THREAD_UNSUPPORTED;
use crate::{
    ledger::Endpoint,
    refusal::Refusal,
    wire::{
        Choice, Delta, DeltaKind, FinishReason, Gathered, Pieces, ToolCall,
        chat::{self, AnswerHead, Cost},
        id_prefix,
        json::is_whole_object,
        put::{List, Object},
        sse,
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use policies::Usage;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::collections::VecDeque;

/// Writes one answer. A message has one choice: others are left out.
#[derive(Debug)]
pub struct Messages {
    head: AnswerHead,
    /// Tokens of the prompt as far as they are known before the answer's end.
    prompt_tokens: u64,
    begun: bool,
    /// Whether a provider's own events pass: all that is left to write is their end.
    passes: bool,
    /// The block that is open.
    open: Option<Block>,
    /// Blocks begun so far.
    blocks: u32,
    /// Whether there was a call.
    called: bool,
    /// What the call of the last block has said.
    said: String,
    /// What came while a call was written that is not whole: blocks come one after the other.
    waiting: VecDeque<Waiting>,
    finish: Option<FinishReason>,
}

/// What waits for its block.
#[derive(Debug)]
enum Waiting {
    Call { call: u32, id: String, name: String, said: String },
    Words(Words, String),
}

/// What is said in a block that is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Text,
    Thinking,
    Signature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Tool(u32),
}

// === impl Messages ===

impl Messages {
    /// A writer for one answer.
    #[must_use]
    pub fn new(head: AnswerHead, prompt_tokens: u64) -> Self {
        Self {
            head,
            prompt_tokens,
            begun: false,
            passes: false,
            open: None,
            blocks: 0,
            called: false,
            said: String::new(),
            waiting: VecDeque::new(),
            finish: None,
        }
    }

    /// An event of a stream as a provider wrote it.
    pub fn own(&mut self, data: &[u8]) -> Bytes {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(rename = "type")]
            name: &'a str,
        }
        self.passes = true;
        // It has been read before, and a borrowed name has no escapes: no line breaks.
        match serde_json::from_slice::<Named<'_>>(data) {
            Ok(Named { name }) => sse::named(name, data),
            Err(_) => sse::event(data),
        }
    }

    /// Writes a piece of a streamed answer.
    pub fn delta(&mut self, delta: &Delta, out: &mut impl FnMut(Bytes)) {
        if delta.choice > 0 {
            return;
        }
        self.begin(out);
        match &delta.kind {
            DeltaKind::Text(text) | DeltaKind::Refusal(text) => self.say(Words::Text, text, out),
            DeltaKind::Reasoning(text) => self.say(Words::Thinking, text, out),
            DeltaKind::Signature(text) => self.say(Words::Signature, text, out),
            DeltaKind::ToolCall { index, id, name } => {
                let (call, id, name) = (*index, id.clone(), name.clone());
                self.waiting.push_back(Waiting::Call { call, id, name, said: String::new() });
                self.whose_turn_it_is(out);
            }
            DeltaKind::ToolArguments { index, json } => self.argued(*index, json, out),
            DeltaKind::Finish(finish) => self.finish = Some(finish.clone()),
        }
    }

    /// Writes the end of a streamed answer.
    pub fn end(&mut self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        if self.passes {
            return event("message_stop", |_| {});
        }
        let mut last = BytesMut::new();
        let mut out = |frame: Bytes| last.put_slice(&frame);
        self.begin(&mut out);
        // Whatever becomes of the call that it waits for.
        while self.next(&mut out) {}
        self.close(&mut out);
        let (reason, sequence) = stop(self.finish.as_ref(), self.called);
        out(event("message_delta", |it| {
            let mut delta = Object::begin(it.member("delta"));
            delta.text("stop_reason", reason);
            delta.raw("stop_sequence", &json!(sequence).to_string());
            delta.end();
            put_usage(it.member("usage"), usage, cost);
        }));
        out(event("message_stop", |_| {}));
        last.freeze()
    }

    /// Writes the end of a stream that broke.
    #[must_use]
    pub fn broken(&self, refusal: &Refusal) -> Bytes {
        let mut frame = BytesMut::from(&b"event: error\ndata: "[..]);
        // An answer has its request's number.
        let number = self.head.id.strip_prefix(id_prefix(Endpoint::Messages));
        let request = number.map(|number| format!("req_{number}"));
        frame.put_slice(error_body(refusal, refusal.status(), request.as_deref()).as_bytes());
        frame.put_slice(b"\n\n");
        frame.freeze()
    }

    /// Writes the whole unstreamed answer.
    #[must_use]
    pub fn whole(&self, answer: &Gathered, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        let text = answer.choices.first().map_or(0, |choice| choice.text.len());
        let mut body = Vec::with_capacity(text + 512);
        let mut message = Object::begin(&mut body);
        self.put_head(&mut message);
        put_said(&mut message, answer);
        put_usage(message.member("usage"), usage, cost);
        message.end();
        Bytes::from(body)
    }

    /// What such answers have in common that say the same.
    pub(in crate::wire) fn content(answer: &Gathered) -> Bytes {
        let mut content = Vec::new();
        put_said(&mut Object::begin(&mut content), answer);
        // Its members stand in the answer's own object.
        Bytes::from(content).slice(1..)
    }

    /// The whole answer around that.
    pub(in crate::wire) fn around(
        &self,
        content: Bytes,
        usage: &Usage,
        cost: Option<&Cost>,
    ) -> Pieces {
        let (mut before, mut end) = (Vec::with_capacity(256), b",\"usage\":".to_vec());
        self.put_head(&mut Object::begin(&mut before));
        before.push(b',');
        put_usage(&mut end, usage, cost);
        end.push(b'}');
        Pieces::of([before.into(), content, end.into()])
    }

    fn put_head(&self, message: &mut Object<'_>) {
        message.text("id", &self.head.id);
        message.text("type", "message");
        message.text("role", "assistant");
        message.text("model", &self.head.model);
    }

    /// The first event, where it is not out yet.
    fn begin(&mut self, out: &mut impl FnMut(Bytes)) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        out(event("message_start", |it| {
            let mut message = Object::begin(it.member("message"));
            self.put_head(&mut message);
            message.raw("content", "[]");
            message.raw("stop_reason", "null");
            message.raw("stop_sequence", "null");
            let usage = Usage { input: self.prompt_tokens, ..Usage::default() };
            put_usage(message.member("usage"), &usage, None);
            message.end();
        }));
    }

    /// Words: written, or kept while a call goes on that may say more.
    fn say(&mut self, words: Words, text: &str, out: &mut impl FnMut(Bytes)) {
        if self.waiting.is_empty() && !self.call_goes_on() {
            return self.write(words, text, out);
        }
        match self.waiting.back_mut() {
            Some(Waiting::Words(last, all)) if *last == words => all.push_str(text),
            _ => self.waiting.push_back(Waiting::Words(words, text.to_owned())),
        }
    }

    /// Arguments of a call: written where it is the one that is written, or kept until it is. A call
    /// whose block has ended was whole: what follows is white space.
    fn argued(&mut self, index: u32, json: &str, out: &mut impl FnMut(Bytes)) {
        let of = |waiting: &&mut Waiting| matches!(waiting, Waiting::Call { call, .. } if *call == index);
        if let Some(Waiting::Call { said, .. }) = self.waiting.iter_mut().rfind(of) {
            said.push_str(json);
        } else if self.open == Some(Block::Tool(index)) {
            out(piece(self.index(), "input_json_delta", "partial_json", json));
            self.said.push_str(json);
            self.whose_turn_it_is(out);
        }
    }

    /// Whether the block that is open is a call's that is not whole.
    fn call_goes_on(&self) -> bool {
        matches!(self.open, Some(Block::Tool(_))) && !is_whole_object(&self.said)
    }

    /// Writes what waits, up to a call that is not whole.
    fn whose_turn_it_is(&mut self, out: &mut impl FnMut(Bytes)) {
        while !self.waiting.is_empty() && !self.call_goes_on() {
            self.next(out);
        }
    }

    /// Writes what has waited longest; says whether there was anything.
    fn next(&mut self, out: &mut impl FnMut(Bytes)) -> bool {
        match self.waiting.pop_front() {
            Some(Waiting::Words(words, text)) => self.write(words, &text, out),
            Some(Waiting::Call { call, id, name, said }) => {
                self.close(out);
                self.called = true;
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open(Block::Tool(call), &block, out);
                if !said.is_empty() {
                    out(piece(self.index(), "input_json_delta", "partial_json", &said));
                }
                self.said = said;
            }
            None => return false,
        }
        true
    }

    /// Writes words into a block of their kind.
    fn write(&mut self, words: Words, text: &str, out: &mut impl FnMut(Bytes)) {
        let (block, kind, member) = match words {
            Words::Text => (Block::Text, "text_delta", "text"),
            Words::Thinking => (Block::Thinking, "thinking_delta", "thinking"),
            Words::Signature => (Block::Thinking, "signature_delta", "signature"),
        };
        if self.open != Some(block) {
            self.close(out);
            let empty = match block {
                Block::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                Block::Text | Block::Tool(_) => json!({"type": "text", "text": ""}),
            };
            self.open(block, &empty, out);
        }
        out(piece(self.index(), kind, member, text));
    }

    fn open(&mut self, block: Block, empty: &Value, out: &mut impl FnMut(Bytes)) {
        let index = self.blocks;
        self.blocks = self.blocks.saturating_add(1);
        self.open = Some(block);
        out(event("content_block_start", |it| {
            it.raw("index", &index.to_string());
            it.raw("content_block", &empty.to_string());
        }));
        if index == 0 {
            out(event("ping", |_| {}));
        }
    }

    fn close(&mut self, out: &mut impl FnMut(Bytes)) {
        if self.open.take().is_some() {
            let index = self.index();
            out(event("content_block_stop", |it| it.raw("index", &index.to_string())));
        }
    }

    /// The number of the last block.
    const fn index(&self) -> u32 {
        self.blocks.saturating_sub(1)
    }
}

/// An event: its name, and an object that begins with it.
fn event(name: &str, fill: impl FnOnce(&mut Object<'_>)) -> Bytes {
    let mut frame = Vec::with_capacity(192);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(name.as_bytes());
    frame.extend_from_slice(b"\ndata: ");
    let mut data = Object::begin(&mut frame);
    data.text("type", name);
    fill(&mut data);
    data.end();
    frame.extend_from_slice(b"\n\n");
    Bytes::from(frame)
}

/// A piece of a block.
fn piece(index: u32, kind: &str, member: &str, text: &str) -> Bytes {
    event("content_block_delta", |it| {
        it.raw("index", &index.to_string());
        let mut delta = Object::begin(it.member("delta"));
        delta.text("type", kind);
        delta.text(member, text);
        delta.end();
    })
}

/// The content, and why it ended.
fn put_said(message: &mut Object<'_>, answer: &Gathered) {
    let quiet = Choice::default();
    let choice = answer.choices.first().unwrap_or(&quiet);
    put_content(message.member("content"), choice);
    let (reason, sequence) = stop(choice.finish.as_ref(), !choice.calls.is_empty());
    message.text("stop_reason", reason);
    message.raw("stop_sequence", &json!(sequence).to_string());
}

fn put_content(out: &mut Vec<u8>, choice: &Choice) {
    let mut blocks = List::begin(out);
    if !choice.reasoning.is_empty() || !choice.signature.is_empty() {
        let mut block = Object::begin(blocks.next());
        block.text("type", "thinking");
        block.text("thinking", &choice.reasoning);
        block.text("signature", &choice.signature);
        block.end();
    }
    for text in [&choice.text, &choice.refusal].into_iter().filter(|text| !text.is_empty()) {
        put_text(blocks.next(), text);
    }
    for call in &choice.calls {
        let mut block = Object::begin(blocks.next());
        block.text("type", "tool_use");
        block.text("id", &call.id);
        block.text("name", &call.name);
        block.raw("input", &input(call, choice.finish.as_ref()));
        block.end();
    }
    // Applications look at the first block.
    if blocks.is_empty() {
        put_text(blocks.next(), "");
    }
    blocks.end();
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut block = Object::begin(out);
    block.text("type", "text");
    block.text("text", text);
    block.end();
}

/// A call's arguments as the object that this format has. Of one that the cap cut, the members that
/// are whole; where the model wrote no object, its text as the only member.
fn input(call: &ToolCall, finish: Option<&FinishReason>) -> String {
    match serde_json::from_str::<&RawValue>(&call.arguments) {
        Ok(raw) if raw.get().starts_with('{') => raw.get().to_owned(),
        _ if call.arguments.trim().is_empty() => "{}".to_owned(),
        _ if finish == Some(&FinishReason::Length) => whole_members(&call.arguments),
        _ => json!({ "arguments": call.arguments }).to_string(),
    }
}

/// The object that `cut` begins, up to its last member that has a comma after it.
fn whole_members(cut: &str) -> String {
    let (mut depth, mut in_string, mut escaped, mut whole) = (0_usize, false, false, 0);
    for (at, byte) in cut.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => whole = at,
            _ => {}
        }
    }
    let object = format!("{}}}", cut.get(..whole).unwrap_or_default());
    if serde_json::from_str::<&RawValue>(&object).is_ok() { object } else { "{}".to_owned() }
}

/// The stop reason, and the stop sequence where it is known which was met. An answer that calls stops
/// for that here, also where its provider says that it just stopped, as OpenAI does of a forced call.
fn stop(finish: Option<&FinishReason>, calls: bool) -> (&str, Option<&str>) {
    match finish {
        None | Some(FinishReason::Stop) if calls => ("tool_use", None),
        None | Some(FinishReason::Stop) => ("end_turn", None),
        Some(FinishReason::StopString(met)) => ("stop_sequence", Some(met)),
        Some(FinishReason::Length) => ("max_tokens", None),
        Some(FinishReason::ToolCalls) => ("tool_use", None),
        Some(FinishReason::ContentFilter) => ("refusal", None),
        Some(FinishReason::Other(word)) => match word.as_str() {
            "function_call" => ("tool_use", None),
            // DeepSeek's of an answer that it could not bring to its end.
            "insufficient_system_resource" => ("max_tokens", None),
            "pause_turn" | "refusal" | "model_context_window_exceeded" => (word, None),
            _ => ("end_turn", None),
        },
    }
}

fn put_usage(out: &mut Vec<u8>, usage: &Usage, cost: Option<&Cost>) {
    let writes = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
    // This format does not tell images and sound from text.
    let input = usage.input.saturating_add(usage.image).saturating_add(usage.audio);
    let mut object = Object::begin(out);
    for (name, tokens) in [
        ("input_tokens", input),
        ("cache_creation_input_tokens", writes),
        ("cache_read_input_tokens", usage.cache_read),
        ("output_tokens", usage.completion()),
    ] {
        object.raw(name, &tokens.to_string());
    }
    let kinds = json!({
        "ephemeral_5m_input_tokens": usage.cache_write_5m,
        "ephemeral_1h_input_tokens": usage.cache_write_1h,
    });
    object.raw("cache_creation", &kinds.to_string());
    if let Some(cost) = cost {
        object.raw("cost", &cost.total.to_plain());
        let mut details = String::new();
        chat::put_details(&mut details, cost);
        if !cost.details.is_empty() {
            object.raw("cost_details", &details);
        }
    }
    object.end();
}

/// The body of a count of tokens.
#[must_use]
pub fn counted(tokens: u64) -> Bytes {
    Bytes::from(json!({ "input_tokens": tokens }).to_string())
}

/// A message that names the parameter it is about: an error of this format has no member for it.
fn naming(param: Option<&str>, message: &str) -> String {
    match param.filter(|param| !message.contains(param)) {
        Some(param) => format!("{param}: {message}"),
        None => message.to_owned(),
    }
}

/// The body of an error that is told with this status, by which its type goes.
#[must_use]
pub fn error_body(refusal: &Refusal, status: StatusCode, request_id: Option<&str>) -> String {
    let message = naming(refusal.param(), &refusal.to_string());
    let mut error = json!({"type": Refusal::anthropic_kind_of(status), "message": message});
    if refusal.code() == Some(THREAD_UNSUPPORTED) {
        error["details"] = json!({"error_code": THREAD_UNSUPPORTED, "unsupported": ["thread"]});
    }
    json!({"type": "error", "error": error, "request_id": request_id}).to_string()
}

/// An error in OpenAI's shape in this one.
#[must_use]
pub fn error_from_openai(body: &[u8], status: StatusCode, request_id: Option<&str>) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("the request was refused");
    let message = naming(body["error"]["param"].as_str(), message);
    let error = json!({"type": Refusal::anthropic_kind_of(status), "message": message});
    json!({"type": "error", "error": error, "request_id": request_id}).to_string()
}
