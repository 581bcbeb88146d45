//! The items of an answer: what it thought, what it said, what it calls.

use crate::wire::{
    TokenLogprob,
    chat::{put_string, put_tokens},
    json::is_whole_object,
    put::{List, Object},
};

/// One item of the output.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: ItemKind,
    pub(super) progress: Progress,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind {
    /// `summary`: it is told as one.
    Reasoning {
        text: String,
        signature: String,
        summary: bool,
    },
    Message {
        parts: Vec<Part>,
    },
    Call(Call),
}

/// A part of a message.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) refusal: bool,
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprob>,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// Its number among the calls.
    pub(super) number: u32,
    pub(super) call_id: String,
    pub(super) name: String,
    /// Arguments, or the text that a custom tool takes.
    pub(super) input: String,
    pub(super) custom: bool,
}

/// How far an item has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More of it comes.
    Open,
    /// It is whole.
    Whole,
    /// The answer ended within it: arguments may be half a JSON text.
    Cut,
}

impl Item {
    /// Whether more of it may come though another item begins: of a call that is not whole, where a
    /// provider writes several side by side.
    pub(super) fn is_open_call(&self) -> bool {
        match &self.kind {
            ItemKind::Call(call) => self.progress == Progress::Open && !call.is_whole(),
            _ => false,
        }
    }

    /// Gives a call of a function that has no arguments an object without members; says whether it did.
    pub(super) fn complete_call(&mut self) -> bool {
        match &mut self.kind {
            ItemKind::Call(call) if !call.custom && call.input.trim().is_empty() => {
                "{}".clone_into(&mut call.input);
                true
            }
            _ => false,
        }
    }

    /// What was thought in it, unless that is its provider's alone to read.
    fn unsealed(&self) -> Option<&str> {
        match &self.kind {
            ItemKind::Reasoning { text, signature, .. } if signature.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Writes the item as it stands; an empty one as it begins.
    pub(super) fn put(&self, progress: Progress, out: &mut Vec<u8>) {
        let mut item = Object::begin(out);
        item.text("id", &self.id);
        match &self.kind {
            ItemKind::Reasoning { text, signature, summary } => {
                item.text("type", "reasoning");
                let is_told = progress != Progress::Open && !text.is_empty();
                for (member, holds) in [("summary", *summary), ("content", !*summary)] {
                    let mut parts = List::begin(item.member(member));
                    if is_told && holds {
                        put_reasoning(text, *summary, parts.next());
                    }
                    parts.end();
                }
                let sealed = item.member("encrypted_content");
                if signature.is_empty() {
                    sealed.extend_from_slice(b"null");
                } else {
                    put_string(sealed, signature);
                }
            }
            ItemKind::Message { parts } => {
                item.text("type", "message");
                item.text("role", "assistant");
                let mut list = List::begin(item.member("content"));
                for part in parts {
                    part.put(list.next());
                }
                list.end();
            }
            ItemKind::Call(call) => {
                item.text("type", call.item_type());
                item.text("call_id", &call.call_id);
                item.text("name", &call.name);
                item.text(call.member(), &call.input);
            }
        }
        let status = match progress {
            Progress::Open => "in_progress",
            Progress::Whole => "completed",
            Progress::Cut => "incomplete",
        };
        item.text("status", status);
        item.end();
    }
}

impl Part {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let mut part = Object::begin(out);
        if self.refusal {
            part.text("type", "refusal");
            part.text("refusal", &self.text);
        } else {
            part.text("type", "output_text");
            part.text("text", &self.text);
            part.raw("annotations", "[]");
            put_tokens(&self.logprobs, part.member("logprobs"));
        }
        part.end();
    }
}

impl Call {
    pub(super) const fn item_type(&self) -> &'static str {
        if self.custom { "custom_tool_call" } else { "function_call" }
    }

    /// Whether its arguments are: of a text nobody knows before the answer's end.
    fn is_whole(&self) -> bool {
        !self.custom && is_whole_object(&self.input)
    }

    /// The member that holds what the tool is called with.
    pub(super) const fn member(&self) -> &'static str {
        if self.custom { "input" } else { "arguments" }
    }

    /// What its events begin with.
    pub(super) const fn event(&self) -> &'static str {
        if self.custom {
            "response.custom_tool_call_input"
        } else {
            "response.function_call_arguments"
        }
    }
}

pub(super) fn put_reasoning(text: &str, summary: bool, out: &mut Vec<u8>) {
    let mut part = Object::begin(out);
    part.text("type", if summary { "summary_text" } else { "reasoning_text" });
    part.text("text", text);
    part.end();
}

/// The answer as the chat message that continues its conversation.
pub(super) fn as_chat(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut message = Object::begin(&mut out);
    message.text("role", "assistant");
    let parts = items.iter().filter_map(|item| match &item.kind {
        ItemKind::Message { parts } => Some(parts),
        _ => None,
    });
    let text: String = parts.flatten().map(|part| part.text.as_str()).collect();
    let calls: Vec<&Call> = items
        .iter()
        .filter_map(|item| match &item.kind {
            ItemKind::Call(call) => Some(call),
            _ => None,
        })
        .collect();
    if text.is_empty() && !calls.is_empty() {
        message.raw("content", "null");
    } else {
        message.text("content", &text);
    }
    if !calls.is_empty() {
        let mut list = List::begin(message.member("tool_calls"));
        for call in calls {
            let mut written = Object::begin(list.next());
            let kind = if call.custom { "custom" } else { "function" };
            written.text("id", &call.call_id);
            written.text("type", kind);
            let mut body = Object::begin(written.member(kind));
            body.text("name", &call.name);
            body.text(call.member(), &call.input);
            body.end();
            written.end();
        }
        list.end();
    }
    let thought: String = items.iter().filter_map(Item::unsealed).collect();
    if !thought.is_empty() {
        message.text("reasoning_content", &thought);
    }
    message.end();
    out
}
