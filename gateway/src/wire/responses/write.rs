//! An answer as a response object, or as the events of its stream in their order.

use super::{
    ResponsesAsk, Turn,
    output::{Call, Item, ItemKind, Part, Progress, as_chat, put_reasoning},
};
use crate::{
    refusal::Refusal,
    wire::{
        Delta, DeltaKind, FinishReason, Gathered,
        chat::{AnswerHead, Cost, completion_details, prompt_details, put_details, put_tokens},
        put::{List, Object},
    },
};
use bytes::Bytes;
use policies::{ServiceTier, Usage};
use serde_json::json;

/// Most items of one answer: what a provider writes beyond is left out.
const ITEMS_MAX: usize = 512;

/// Writes one answer. A response has one choice: others are left out.
#[derive(Debug)]
pub struct Responses {
    head: AnswerHead,
    ask: ResponsesAsk,
    /// The number of the next event.
    sequence: u64,
    begun: bool,
    items: Vec<Item>,
    finish: Option<FinishReason>,
    /// The service tier that served it, where that was told.
    served: Option<ServiceTier>,
}

/// How the response stands.
#[derive(Clone, Copy)]
enum Standing<'a> {
    InProgress,
    Ended { usage: &'a Usage, cost: Option<&'a Cost> },
    Failed(&'a Refusal),
}

/// How the events of what was thought are called.
struct Thought {
    added: &'static str,
    delta: &'static str,
    done: &'static str,
    part_done: &'static str,
    /// The member with the number of its part.
    index: &'static str,
}

// === impl Thought ===

impl Thought {
    /// As a summary, which clients show, or as the reasoning itself.
    const fn told(summary: bool) -> Self {
        if summary {
            return Self {
                added: "response.reasoning_summary_part.added",
                delta: "response.reasoning_summary_text.delta",
                done: "response.reasoning_summary_text.done",
                part_done: "response.reasoning_summary_part.done",
                index: "summary_index",
            };
        }
        Self {
            added: "response.content_part.added",
            delta: "response.reasoning_text.delta",
            done: "response.reasoning_text.done",
            part_done: "response.content_part.done",
            index: "content_index",
        }
    }
}

// === impl Responses ===

impl Responses {
    /// A writer for one answer.
    #[must_use]
    pub fn new(head: AnswerHead, ask: ResponsesAsk) -> Self {
        Self { head, ask, sequence: 0, begun: false, items: Vec::new(), finish: None, served: None }
    }

    /// Notes the service tier that served the answer.
    pub fn served(&mut self, service: ServiceTier) {
        self.served = Some(service).filter(|service| *service != ServiceTier::Unknown);
    }

    /// Writes a piece of a streamed answer.
    pub fn delta(&mut self, delta: &Delta, out: &mut impl FnMut(Bytes)) {
        if delta.choice > 0 {
            return;
        }
        self.begin(out);
        match &delta.kind {
            DeltaKind::Text(text) => self.said(delta, false, text, out),
            DeltaKind::Refusal(text) => self.said(delta, true, text, out),
            DeltaKind::Reasoning(text) => self.thought(text, out),
            DeltaKind::Signature(piece) => {
                if let Some(Item { kind: ItemKind::Reasoning { signature, .. }, .. }) =
                    self.items.last_mut()
                {
                    signature.push_str(piece);
                }
            }
            DeltaKind::ToolCall { index, id, name } => {
                let call = Call {
                    number: *index,
                    call_id: id.clone(),
                    name: name.clone(),
                    input: String::new(),
                    custom: self.ask.custom.contains(name),
                };
                self.open("fc", ItemKind::Call(call), out);
            }
            DeltaKind::ToolArguments { index, json } => self.argued(*index, json, out),
            DeltaKind::Finish(finish) => self.finish = Some(finish.clone()),
        }
    }

    /// Writes the end of a streamed answer.
    pub fn end(&mut self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        let mut last = Vec::new();
        let mut out = |frame: Bytes| last.extend_from_slice(&frame);
        self.begin(&mut out);
        self.close_all(&mut out);
        let standing = Standing::Ended { usage, cost };
        let response = self.response(standing);
        self.keep(&response);
        let name = match self.status(standing) {
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        out(self.event(name, |it| it.member("response").extend_from_slice(&response)));
        Bytes::from(last)
    }

    /// Writes the end of a stream that broke.
    pub fn broken(&mut self, refusal: &Refusal) -> Bytes {
        let mut last = Vec::new();
        self.begin(&mut |frame| last.extend_from_slice(&frame));
        let response = self.response(Standing::Failed(refusal));
        let failed = self.event("response.failed", |it| {
            it.member("response").extend_from_slice(&response);
        });
        last.extend_from_slice(&failed);
        Bytes::from(last)
    }

    /// Writes the whole unstreamed answer.
    #[must_use]
    pub fn whole(mut self, answer: Gathered, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        for delta in answer.into_deltas() {
            self.delta(&delta, &mut |_| {});
        }
        self.close_all(&mut |_| {});
        let response = Bytes::from(self.response(Standing::Ended { usage, cost }));
        self.keep(&response);
        response
    }

    /// The first two events, where they are not out yet.
    fn begin(&mut self, out: &mut impl FnMut(Bytes)) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let response = self.response(Standing::InProgress);
        for name in ["response.created", "response.in_progress"] {
            out(self.event(name, |it| it.member("response").extend_from_slice(&response)));
        }
    }

    fn said(&mut self, delta: &Delta, refusal: bool, text: &str, out: &mut impl FnMut(Bytes)) {
        if !self.goes_on(|kind| matches!(kind, ItemKind::Message { .. })) {
            self.open("msg", ItemKind::Message { parts: Vec::new() }, out);
        }
        if self.last_part().is_none_or(|(_, part)| part.refusal != refusal) {
            self.close_part(out);
            let part = Part { refusal, text: String::new(), logprobs: Vec::new() };
            if let Some(Item { kind: ItemKind::Message { parts }, .. }) = self.items.last_mut() {
                parts.push(part.clone());
            }
            let at = self.last_part().map_or(0, |(at, _)| at);
            self.item_event("response.content_part.added", out, |it| {
                it.raw("content_index", &at.to_string());
                part.put(it.member("part"));
            });
        }
        let at = self.last_part().map_or(0, |(at, _)| at);
        if let Some(Item { kind: ItemKind::Message { parts }, .. }) = self.items.last_mut()
            && let Some(part) = parts.last_mut()
        {
            part.text.push_str(text);
            part.logprobs.extend(delta.logprobs.iter().cloned());
        }
        let name = if refusal { "response.refusal.delta" } else { "response.output_text.delta" };
        self.item_event(name, out, |it| {
            it.raw("content_index", &at.to_string());
            it.text("delta", text);
            if !refusal {
                put_tokens(&delta.logprobs, it.member("logprobs"));
            }
        });
    }

    fn thought(&mut self, text: &str, out: &mut impl FnMut(Bytes)) {
        let summary = self.ask.summary;
        let told = Thought::told(summary);
        if !self.goes_on(|kind| matches!(kind, ItemKind::Reasoning { .. })) {
            let empty =
                ItemKind::Reasoning { text: String::new(), signature: String::new(), summary };
            self.open("rs", empty, out);
            self.item_event(told.added, out, |it| {
                it.raw(told.index, "0");
                put_reasoning("", summary, it.member("part"));
            });
        }
        if let Some(Item { kind: ItemKind::Reasoning { text: all, .. }, .. }) =
            self.items.last_mut()
        {
            all.push_str(text);
        }
        self.item_event(told.delta, out, |it| {
            it.raw(told.index, "0");
            it.text("delta", text);
        });
    }

    fn argued(&mut self, number: u32, piece: &str, out: &mut impl FnMut(Bytes)) {
        let of =
            |item: &&mut Item| matches!(&item.kind, ItemKind::Call(call) if call.number == number);
        let mut found = self.items.iter_mut().enumerate();
        let Some((index, item)) = found.rfind(|(_, item)| of(item)) else { return };
        // One that was whole has been told so: what follows is white space.
        if item.progress != Progress::Open {
            return;
        }
        let ItemKind::Call(call) = &mut item.kind else { return };
        call.input.push_str(piece);
        let (id, name) = (item.id.clone(), [call.event(), ".delta"].concat());
        out(self.event(&name, |it| {
            it.text("item_id", &id);
            it.raw("output_index", &index.to_string());
            it.text("delta", piece);
        }));
    }

    /// Whether the last item is open and of this kind.
    fn goes_on(&self, is_kind: impl Fn(&ItemKind) -> bool) -> bool {
        let last = self.items.last();
        last.is_some_and(|item| item.progress == Progress::Open && is_kind(&item.kind))
    }

    /// Opens an item, after closing those before it of which no more can come.
    fn open(&mut self, prefix: &str, kind: ItemKind, out: &mut impl FnMut(Bytes)) {
        for at in 0..self.items.len() {
            if self.items.get(at).is_some_and(|item| !item.is_open_call()) {
                self.close(at, out);
            }
        }
        if self.items.len() >= ITEMS_MAX {
            return;
        }
        let number = self.items.len();
        let of = self.head.id.strip_prefix("resp_").unwrap_or(&self.head.id);
        let item =
            Item { id: format!("{prefix}_{of}{number:02x}"), kind, progress: Progress::Open };
        let mut written = Vec::new();
        item.put(Progress::Open, &mut written);
        self.items.push(item);
        out(self.event("response.output_item.added", |it| {
            it.raw("output_index", &number.to_string());
            it.member("item").extend_from_slice(&written);
        }));
    }

    /// Closes every item that is open.
    fn close_all(&mut self, out: &mut impl FnMut(Bytes)) {
        for at in 0..self.items.len() {
            self.close(at, out);
        }
    }

    /// Closes an item, where it is open.
    fn close(&mut self, at: usize, out: &mut impl FnMut(Bytes)) {
        let is_last = at + 1 == self.items.len();
        let cut = self.is_cut();
        let Some(item) = self.items.get_mut(at) else { return };
        if item.progress != Progress::Open {
            return;
        }
        let is_cut = cut && (is_last || item.is_open_call());
        // Some write nothing where a function takes nothing; its arguments are an object all the same.
        let completes = !is_cut && item.complete_call();
        item.progress = if is_cut { Progress::Cut } else { Progress::Whole };
        let item = item.clone();
        match &item.kind {
            ItemKind::Message { .. } => self.close_part(out),
            ItemKind::Reasoning { text, summary, .. } => {
                let told = Thought::told(*summary);
                self.event_of(at, told.done, out, |it| {
                    it.raw(told.index, "0");
                    it.text("text", text);
                });
                self.event_of(at, told.part_done, out, |it| {
                    it.raw(told.index, "0");
                    put_reasoning(text, *summary, it.member("part"));
                });
            }
            ItemKind::Call(call) => {
                if completes {
                    let name = [call.event(), ".delta"].concat();
                    self.event_of(at, &name, out, |it| it.text("delta", &call.input));
                }
                let name = [call.event(), ".done"].concat();
                self.event_of(at, &name, out, |it| {
                    it.text("name", &call.name);
                    it.text(call.member(), &call.input);
                });
            }
        }
        out(self.event("response.output_item.done", |it| {
            it.raw("output_index", &at.to_string());
            item.put(item.progress, it.member("item"));
        }));
    }

    /// Closes the last part of a message.
    fn close_part(&mut self, out: &mut impl FnMut(Bytes)) {
        let Some((at, part)) = self.last_part().map(|(at, part)| (at, part.clone())) else {
            return;
        };
        let (name, member) = if part.refusal {
            ("response.refusal.done", "refusal")
        } else {
            ("response.output_text.done", "text")
        };
        self.item_event(name, out, |it| {
            it.raw("content_index", &at.to_string());
            it.text(member, &part.text);
            if !part.refusal {
                put_tokens(&part.logprobs, it.member("logprobs"));
            }
        });
        self.item_event("response.content_part.done", out, |it| {
            it.raw("content_index", &at.to_string());
            part.put(it.member("part"));
        });
    }

    /// The last part of the last item, where that is a message, and its place.
    fn last_part(&self) -> Option<(usize, &Part)> {
        match &self.items.last()?.kind {
            ItemKind::Message { parts } => parts.last().map(|part| (parts.len() - 1, part)),
            _ => None,
        }
    }

    /// An event of the last item.
    fn item_event(
        &mut self,
        name: &str,
        out: &mut impl FnMut(Bytes),
        fill: impl FnOnce(&mut Object<'_>),
    ) {
        let Some(last) = self.items.len().checked_sub(1) else { return };
        self.event_of(last, name, out, fill);
    }

    /// An event of an item.
    fn event_of(
        &mut self,
        at: usize,
        name: &str,
        out: &mut impl FnMut(Bytes),
        fill: impl FnOnce(&mut Object<'_>),
    ) {
        let Some(item) = self.items.get(at) else { return };
        let id = item.id.clone();
        out(self.event(name, |it| {
            it.text("item_id", &id);
            it.raw("output_index", &at.to_string());
            fill(it);
        }));
    }

    /// An event: its name, and an object that begins with it and its number.
    fn event(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) -> Bytes {
        let mut frame = Vec::with_capacity(256);
        frame.extend_from_slice(b"event: ");
        frame.extend_from_slice(name.as_bytes());
        frame.extend_from_slice(b"\ndata: ");
        let mut data = Object::begin(&mut frame);
        data.text("type", name);
        data.raw("sequence_number", &self.sequence.to_string());
        fill(&mut data);
        data.end();
        frame.extend_from_slice(b"\n\n");
        self.sequence += 1;
        Bytes::from(frame)
    }

    /// Whether the answer ended before its own end.
    fn is_cut(&self) -> bool {
        self.finish.as_ref().is_some_and(FinishReason::is_cut)
    }

    fn status(&self, standing: Standing<'_>) -> &'static str {
        match standing {
            Standing::InProgress => "in_progress",
            Standing::Failed(_) => "failed",
            Standing::Ended { .. } if self.is_cut() => "incomplete",
            Standing::Ended { .. } => "completed",
        }
    }

    /// The service tier as JSON: the one that served, once that can be known; `auto` serves none.
    fn service_tier(&self, standing: Standing<'_>) -> &str {
        match (standing, self.served) {
            (Standing::Ended { .. }, Some(ServiceTier::Standard)) => "\"default\"",
            (Standing::Ended { .. }, Some(ServiceTier::Flex)) => "\"flex\"",
            (Standing::Ended { .. }, Some(ServiceTier::Priority)) => "\"priority\"",
            (Standing::Ended { .. }, None) if self.ask.service_tier == "\"auto\"" => "\"default\"",
            _ => &self.ask.service_tier,
        }
    }

    /// The response object as it stands.
    fn response(&self, standing: Standing<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ask.echo.len() + 1024);
        let status = self.status(standing);
        let mut object = Object::begin(&mut out);
        object.text("id", &self.head.id);
        object.text("object", "response");
        object.raw("created_at", &self.head.created.to_string());
        object.text("status", status);
        let error = match standing {
            Standing::Failed(refusal) => {
                json!({"code": "server_error", "message": refusal.to_string()})
            }
            _ => json!(null),
        };
        object.raw("error", &error.to_string());
        let why = match (status, &self.finish) {
            ("incomplete", Some(FinishReason::ContentFilter)) => {
                json!({"reason": "content_filter"})
            }
            ("incomplete", _) => json!({"reason": "max_output_tokens"}),
            _ => json!(null),
        };
        object.raw("incomplete_details", &why.to_string());
        object.text("model", &self.head.model);
        let mut output = List::begin(object.member("output"));
        for item in &self.items {
            let progress = match item.progress {
                Progress::Open if status == "failed" => Progress::Cut,
                progress => progress,
            };
            item.put(progress, output.next());
        }
        output.end();
        match standing {
            Standing::Ended { usage, cost } => put_usage(object.member("usage"), usage, cost),
            _ => object.raw("usage", "null"),
        }
        object.raw("service_tier", self.service_tier(standing));
        object.end();
        // The rest repeats the request.
        out.pop();
        out.push(b',');
        out.extend_from_slice(self.ask.echo.as_bytes());
        out.push(b'}');
        out
    }

    /// Keeps the answer, where answers are kept.
    fn keep(&self, response: &[u8]) {
        let Some(keep) = &self.ask.keep else { return };
        let mut conversation = keep.conversation.to_vec();
        if !conversation.is_empty() {
            conversation.push(b',');
        }
        conversation.extend_from_slice(&as_chat(&self.items));
        let (id, response) = (&self.head.id, Bytes::copy_from_slice(response));
        let (conversation, input) = (Bytes::from(conversation), keep.input.clone());
        let marks = keep.marks.clone();
        keep.kept.put(id, keep.owner.clone(), Turn { conversation, input, response, marks });
    }
}

fn put_usage(out: &mut Vec<u8>, usage: &Usage, cost: Option<&Cost>) {
    let mut object = Object::begin(out);
    object.raw("input_tokens", &usage.prompt().to_string());
    object.raw("input_tokens_details", &prompt_details(usage));
    object.raw("output_tokens", &usage.completion().to_string());
    object.raw("output_tokens_details", &completion_details(usage));
    object.raw("total_tokens", &usage.total().to_string());
    if let Some(cost) = cost {
        object.raw("cost", &cost.total.to_plain());
        if !cost.details.is_empty() {
            let mut details = String::new();
            put_details(&mut details, cost);
            object.raw("cost_details", &details);
        }
    }
    object.end();
}
