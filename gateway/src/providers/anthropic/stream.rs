//! Anthropic's answers, streamed and whole, as inner events.
//!
//! **Invariant:** an answer ends well only with its reason to stop, which `message_stop` follows; a call's arguments are one JSON
//! object, also where none came.

use super::usage::Written as UsageWritten;
use crate::{
    providers::{
        call_ids::new_id,
        reading::{Read, Tally},
    },
    wire::{
        Delta, DeltaKind, Event, FinishReason,
        json::{or_default, shown, shown_or_empty},
    },
};
use policies::{ServiceTier, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default, deserialize_with = "or_default")]
    index: u32,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    content_block: Option<Block<'a>>,
    #[serde(default)]
    delta: Option<Piece>,
    #[serde(default)]
    usage: Option<UsageWritten>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default, deserialize_with = "shown_or_empty")]
    id: String,
    #[serde(borrow, default, deserialize_with = "or_default")]
    content: Vec<Block<'a>>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default, deserialize_with = "shown")]
    stop_sequence: Option<String>,
    #[serde(default)]
    usage: Option<UsageWritten>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "shown_or_empty")]
    text: String,
    #[serde(default, deserialize_with = "shown_or_empty")]
    thinking: String,
    #[serde(default, deserialize_with = "shown_or_empty")]
    signature: String,
    #[serde(default, deserialize_with = "shown_or_empty")]
    id: String,
    #[serde(default, deserialize_with = "shown_or_empty")]
    name: String,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Piece {
    #[serde(deserialize_with = "shown")]
    text: Option<String>,
    #[serde(deserialize_with = "shown")]
    thinking: Option<String>,
    #[serde(deserialize_with = "shown")]
    signature: Option<String>,
    #[serde(deserialize_with = "shown")]
    partial_json: Option<String>,
    stop_reason: Option<String>,
    #[serde(deserialize_with = "shown")]
    stop_sequence: Option<String>,
}

/// A stream being read.
#[derive(Debug)]
pub(crate) struct Stream {
    tally: Tally,
    usage: UsageWritten,
    /// The block that is a call: its place, its number, and whether arguments came.
    call: Option<(u32, u32, bool)>,
    calls: u32,
    finished: bool,
}

impl Stream {
    pub(crate) fn new(prompt_tokens: u64) -> Self {
        Self {
            tally: Tally::new(prompt_tokens),
            usage: UsageWritten::default(),
            call: None,
            calls: 0,
            finished: false,
        }
    }

    /// What has been told of the usage so far: the prompt's at the beginning, the answer's near its
    /// end.
    pub(crate) fn told(&self) -> Option<Usage> {
        self.usage.read().or_else(|| self.usage.prompt())
    }

    /// Reads one event of the stream.
    ///
    /// # Errors
    /// What is no event of this format, never with its text.
    pub(crate) fn read(&mut self, data: &[u8]) -> Result<Read, &'static str> {
        let frame: Frame<'_> = serde_json::from_slice(data)
            .map_err(|_| "an event of the stream is no message event")?;
        let mut events = Vec::new();
        match frame.kind {
            "error" => return Ok(Read::Failed),
            "message_start" => {
                let message = frame.message.ok_or("a message began without a message")?;
                let usage = message.usage.unwrap_or_default();
                self.usage.update(usage.without_output());
                events.push(Event::Begin { id: message.id });
            }
            "content_block_start" => {
                let block = frame.content_block.ok_or("a block began without a block")?;
                self.begin(frame.index, &block, &mut events);
            }
            "content_block_delta" => self.piece(frame.delta.unwrap_or_default(), &mut events),
            "content_block_stop" => self.close(&mut events),
            "message_delta" => {
                self.usage.update(frame.usage.unwrap_or_default());
                let delta = frame.delta.unwrap_or_default();
                if let Some(reason) = delta.stop_reason {
                    self.close(&mut events);
                    self.finished = true;
                    let finish = finish(&reason, delta.stop_sequence);
                    events.push(Event::Delta(Delta::new(0, DeltaKind::Finish(finish))));
                }
            }
            "message_stop" => {
                if !self.finished {
                    return Err("the message ended without a reason");
                }
                events.extend(self.end());
                return Ok(Read::Last { events, service: self.service() });
            }
            // `ping`, and kinds that are yet to come.
            _ => {}
        }
        self.tally.note(&events);
        Ok(Read::Events(events))
    }

    /// Whether the answer has its reason to end.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// No more comes: the answer's end, if it was whole.
    pub(crate) fn end(&self) -> Option<Event> {
        let end = || self.tally.end(self.usage.read(), self.usage.prompt());
        self.finished.then(end)
    }

    /// The service tier that is said to have served it.
    pub(crate) fn service(&self) -> Option<ServiceTier> {
        self.usage.service()
    }

    /// Usage and tier, once the answer has its reason to end and both sides are known.
    pub(crate) fn told_of_whole(&self) -> Option<(Usage, Option<ServiceTier>)> {
        let usage = self.usage.read().filter(|_| self.finished)?;
        Some((usage, self.service()))
    }

    fn begin(&mut self, index: u32, block: &Block<'_>, events: &mut Vec<Event>) {
        self.close(events);
        if block.kind == "tool_use" {
            let number = self.calls;
            self.calls += 1;
            events.push(call(number, block));
            let input = block.input.map(RawValue::get).filter(|raw| raw.len() > 2);
            if let Some(json) = input {
                let json = json.to_owned();
                events.push(delta(DeltaKind::ToolArguments { index: number, json }));
            }
            self.call = Some((index, number, input.is_some()));
        }
        spoken(&block.text, &block.thinking, &block.signature, events);
    }

    fn piece(&mut self, piece: Piece, events: &mut Vec<Event>) {
        let text = |text: Option<String>| text.unwrap_or_default();
        let (thinking, signature) = (text(piece.thinking), text(piece.signature));
        spoken(&text(piece.text), &thinking, &signature, events);
        if let (Some((_, index, came)), Some(json)) = (&mut self.call, piece.partial_json)
            && !json.is_empty()
        {
            *came = true;
            events.push(delta(DeltaKind::ToolArguments { index: *index, json }));
        }
    }

    /// A call that had no arguments has an empty object of them.
    fn close(&mut self, events: &mut Vec<Event>) {
        if let Some((_, index, false)) = self.call.take() {
            events.push(delta(DeltaKind::ToolArguments { index, json: "{}".to_owned() }));
        }
    }
}

/// Reads a whole answer.
///
/// # Errors
/// What is no message, never with its text.
pub(crate) fn whole(body: &[u8], prompt_tokens: u64) -> Result<Read, &'static str> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(rename = "type", default)]
        kind: &'a str,
    }
    let kind: Kind<'_> = serde_json::from_slice(body).map_err(|_| "the body is no message")?;
    if kind.kind == "error" {
        return Ok(Read::Failed);
    }
    let message: Message<'_> =
        serde_json::from_slice(body).map_err(|_| "the body is no message")?;
    let reason = message.stop_reason.ok_or("the body is a message without an end")?;
    let mut tally = Tally::new(prompt_tokens);
    let mut events = vec![Event::Begin { id: message.id }];
    let mut calls = 0;
    for block in &message.content {
        spoken(&block.text, &block.thinking, &block.signature, &mut events);
        if block.kind == "tool_use" {
            events.push(call(calls, block));
            let json = block.input.map_or("{}", RawValue::get).to_owned();
            events.push(delta(DeltaKind::ToolArguments { index: calls, json }));
            calls += 1;
        }
    }
    events.push(delta(DeltaKind::Finish(finish(&reason, message.stop_sequence))));
    tally.note(&events);
    let usage = message.usage.unwrap_or_default();
    events.push(tally.end(usage.read(), usage.prompt()));
    Ok(Read::Last { events, service: usage.service() })
}

fn delta(kind: DeltaKind) -> Event {
    Event::Delta(Delta::new(0, kind))
}

fn call(index: u32, block: &Block<'_>) -> Event {
    let id = if block.id.is_empty() { new_id() } else { block.id.clone() };
    delta(DeltaKind::ToolCall { index, id, name: block.name.clone() })
}

fn spoken(text: &str, thinking: &str, signature: &str, events: &mut Vec<Event>) {
    if !thinking.is_empty() {
        events.push(delta(DeltaKind::Reasoning(thinking.to_owned())));
    }
    if !signature.is_empty() {
        events.push(delta(DeltaKind::Signature(signature.to_owned())));
    }
    if !text.is_empty() {
        events.push(delta(DeltaKind::Text(text.to_owned())));
    }
}

fn finish(reason: &str, stop_sequence: Option<String>) -> FinishReason {
    match (reason, stop_sequence) {
        ("stop_sequence", Some(stop)) => FinishReason::StopString(stop),
        ("end_turn" | "stop_sequence", _) => FinishReason::Stop,
        ("max_tokens" | "model_context_window_exceeded", _) => FinishReason::Length,
        ("tool_use", _) => FinishReason::ToolCalls,
        ("refusal", _) => FinishReason::ContentFilter,
        (other, _) => FinishReason::Other(other.to_owned()),
    }
}
