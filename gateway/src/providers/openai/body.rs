//! The body sent upstream: the client's own bytes with a few values replaced.
//!
//! **Invariant:** everything but `model`, the output cap, `stream_options.include_usage`, and ids of
//! calls, roles and earlier thoughts that the provider does not take stays as the client wrote it, to the byte:
//! unknown fields, their order, white space and escapes. The cap is always there, under the name the provider
//! takes.

use crate::{
    config::CapField,
    ledger::Endpoint,
    providers::{CallIds, Recalls, UNTAKEN},
    wire::{
        ChatRequest, Field, Place,
        json::{self, Kind, Span},
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A replacement of a range of the client's bytes.
struct Edit<'a> {
    at: Span,
    with: Cow<'a, str>,
}

/// Where providers of this format differ in what they take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Differs {
    /// The name of the output cap.
    pub(crate) cap_field: CapField,
    /// The ids of calls.
    pub(crate) call_ids: CallIds,
    /// Whether they know the role `developer`.
    pub(crate) has_developers: bool,
    /// What was thought in earlier turns.
    pub(crate) recalls: Recalls,
    /// The member that says not to think, for who says so in another format; [`UNTAKEN`] where no effort
    /// is taken.
    pub(crate) unthinking: Option<&'static str>,
}

/// The body for a provider: `model` is its name there, as a JSON string; the answer is capped at
/// `output_cap` tokens per choice.
#[must_use]
pub(crate) fn upstream_body(
    request: &ChatRequest,
    model: &str,
    Differs { cap_field, call_ids, has_developers, recalls, unthinking }: Differs,
    output_cap: u64,
) -> Bytes {
    let mut edits = Vec::with_capacity(4);
    let mut appended = String::new();
    if let Some(place) = request.fields.get(Field::Model) {
        edits.push(Edit { at: place.value, with: model.into() });
    }
    match request.endpoint {
        // The old endpoint knows the old name alone.
        Endpoint::Completions => {
            cap(request, CapField::MaxTokens, output_cap, &mut edits, &mut appended);
        }
        Endpoint::Embeddings => {}
        Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages => {
            cap(request, cap_field, output_cap, &mut edits, &mut appended);
            rename_calls(request, call_ids, &mut edits);
            recall(request, recalls, &mut edits);
            tell_effort(request, unthinking, &mut edits, &mut appended);
            if !has_developers {
                rename_developers(request, &mut edits);
            }
        }
    }
    if request.stream && !request.include_usage {
        ask_for_usage(request, &mut edits, &mut appended);
    }
    splice(&request.body, edits, &appended)
}

/// Writes the output cap under the provider's name for it, in the place of the client's.
fn cap(
    request: &ChatRequest,
    cap_field: CapField,
    output_cap: u64,
    edits: &mut Vec<Edit<'_>>,
    appended: &mut String,
) {
    let wanted = match cap_field {
        CapField::MaxCompletionTokens => Field::MaxCompletionTokens,
        CapField::MaxTokens => Field::MaxTokens,
    };
    let mut written = false;
    for place in request.fields.iter() {
        if !Field::CAPS.contains(&place.field) {
            continue;
        }
        if written {
            // Another name for the same cap: out, with the comma before it.
            let at = Span { start: place.gap_start, end: place.value.end };
            edits.push(Edit { at, with: "".into() });
            continue;
        }
        written = true;
        if place.field != wanted
            && let Some(at) = key_span(&request.body, place)
        {
            edits.push(Edit { at, with: format!("\"{}\"", wanted.name()).into() });
        }
        edits.push(Edit { at: place.value, with: output_cap.to_string().into() });
    }
    if !written {
        *appended += &format!(",\"{}\":{output_cap}", wanted.name());
    }
}

/// Gives calls and their results ids that the provider takes.
fn rename_calls(request: &ChatRequest, ids: CallIds, edits: &mut Vec<Edit<'_>>) {
    let Some(place) = request.fields.get(Field::Messages) else { return };
    let raw = request.written(Field::Messages).unwrap_or_default();
    // Most conversations have none, and are not read again.
    if memchr::memmem::find(raw, b"\"tool_call").is_none() {
        return;
    }
    for (at, with) in ids.in_chat(std::str::from_utf8(raw).unwrap_or_default()) {
        let from = place.value.start;
        let at = Span { start: from + at.start, end: from + at.end };
        edits.push(Edit { at, with: with.into() });
    }
}

/// Whether its caller wrote it in a format that is neither OpenAI's chat nor passes here.
fn is_converted(request: &ChatRequest) -> bool {
    matches!(request.endpoint, Endpoint::Responses | Endpoint::Messages)
}

/// Tells what was thought in earlier turns as the provider wants it.
fn recall(request: &ChatRequest, recalls: Recalls, edits: &mut Vec<Edit<'_>>) {
    let Some(place) = request.fields.get(Field::Messages) else { return };
    let raw = request.written(Field::Messages).unwrap_or_default();
    let raw = std::str::from_utf8(raw).unwrap_or_default();
    for (at, with) in recalls.in_chat(raw, is_converted(request)) {
        let from = place.value.start;
        let at = Span { start: from + at.start, end: from + at.end };
        edits.push(Edit { at, with: with.into() });
    }
}

/// Says in the provider's words that there is to be no thinking, as a Messages caller's
/// `thinking: {"type": "disabled"}` does, and nothing of what such a caller's budget amounts to where no
/// effort is taken.
fn tell_effort(
    request: &ChatRequest,
    unthinking: Option<&str>,
    edits: &mut Vec<Edit<'_>>,
    appended: &mut String,
) {
    let said = request.given(Field::ReasoningEffort);
    let ceases = request.endpoint == Endpoint::Messages && said == Some("\"none\"");
    let is_untaken = request.effort_is_hint && unthinking == Some(UNTAKEN);
    if !ceases && !is_untaken {
        return;
    }
    let Some(place) = request.fields.get(Field::ReasoningEffort) else { return };
    // The model's name stands before it.
    let at = Span { start: place.gap_start, end: place.value.end };
    edits.push(Edit { at, with: "".into() });
    // What the caller says of it in the provider's own words stays.
    let is_said = |field| request.given(field).is_some();
    let unthinking = unthinking.filter(|member| *member != UNTAKEN);
    if let Some(member) = unthinking.filter(|_| !is_said(Field::ChatTemplateKwargs)) {
        *appended += &format!(",{member}");
    }
}

/// Makes developers' messages the system's.
fn rename_developers(request: &ChatRequest, edits: &mut Vec<Edit<'_>>) {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default)]
        role: Option<&'a RawValue>,
    }
    let Some(place) = request.fields.get(Field::Messages) else { return };
    let raw = request.written(Field::Messages).unwrap_or_default();
    let text = std::str::from_utf8(raw).unwrap_or_default();
    // It may be written with escapes, which hardly anybody does.
    if memchr::memmem::find(raw, b"developer").is_none() && !text.contains("\\u00") {
        return;
    }
    // They have been read before.
    let messages: Vec<Message<'_>> = serde_json::from_str(text).unwrap_or_default();
    for role in messages.into_iter().filter_map(|message| message.role) {
        if json::text_of(role.get()).is_some_and(|role| role == "developer") {
            let within = (role.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            let start = place.value.start + within;
            let at = Span { start, end: start + role.get().len() };
            edits.push(Edit { at, with: "\"system\"".into() });
        }
    }
}

/// Where a member's key stands, quotes included.
fn key_span(body: &[u8], place: Place) -> Option<Span> {
    let gap = body.get(place.gap_start..place.value.start)?;
    let start = place.gap_start + memchr::memchr(b'"', gap)?;
    let end = place.gap_start + memchr::memrchr(b'"', gap)? + 1;
    Some(Span { start, end })
}

/// Asks for the usage chunk of a stream.
fn ask_for_usage(request: &ChatRequest, edits: &mut Vec<Edit<'_>>, appended: &mut String) {
    const ASKED: &str = "\"include_usage\":true";
    let Some(options) = request.fields.get(Field::StreamOptions).map(|place| place.value) else {
        *appended += &format!(",\"stream_options\":{{{ASKED}}}");
        return;
    };
    let Some(raw) = request.given(Field::StreamOptions) else {
        edits.push(Edit { at: options, with: format!("{{{ASKED}}}").into() });
        return;
    };
    let mut is_empty = true;
    let mut asked = None;
    // It has been read before: it is an object.
    let _ = json::members::<serde_json::Error>(raw, |key, member| {
        is_empty = false;
        if key == "include_usage" && json::kind(member.raw) != Kind::Object {
            asked = Some(member.value);
        }
        Ok(())
    });
    edits.push(match asked {
        Some(Span { start, end }) => Edit {
            at: Span { start: options.start + start, end: options.start + end },
            with: "true".into(),
        },
        None => {
            let start = options.start + 1;
            let comma = if is_empty { "" } else { "," };
            Edit { at: Span { start, end: start }, with: format!("{ASKED}{comma}").into() }
        }
    });
}

/// The body with `edits` made and `appended` before its closing brace.
fn splice(body: &Bytes, mut edits: Vec<Edit<'_>>, appended: &str) -> Bytes {
    edits.sort_by_key(|edit| edit.at.start);
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + added + appended.len());
    // A checked body is an object: white space may follow the brace.
    let brace = memchr::memrchr(b'}', body).unwrap_or(body.len());
    let mut from = 0;
    for edit in &edits {
        out.put_slice(body.get(from..edit.at.start).unwrap_or_default());
        out.put_slice(edit.with.as_bytes());
        from = edit.at.end;
    }
    out.put_slice(body.get(from..brace).unwrap_or_default());
    out.put_slice(appended.as_bytes());
    out.put_slice(body.get(brace..).unwrap_or_default());
    out.freeze()
}
