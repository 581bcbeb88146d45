//! What a provider's payload holds, read lightly: borrowed, unknown members skipped, text only
//! measured. It runs once per chunk of every stream.

use super::usage;
use crate::wire::{
    FinishReason, Seen,
    json::{self, Kind, TextBytes},
};
use policies::ServiceTier;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// A payload that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What it holds.
    pub seen: Seen,
    /// Choices that ended in it.
    pub finished: u32,
    /// Choices in it.
    pub choices: u32,
}

/// A chunk or a whole answer.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    choices: Choices,
    /// Of an answer of vectors.
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    service_tier: Option<&'a RawValue>,
}

/// What all choices of a payload hold together.
#[derive(Default)]
struct Choices {
    count: u32,
    finished: u32,
    finish: Option<FinishReason>,
    spoken: Spoken,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Of a completion.
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    /// Of a chunk.
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    /// Of a whole answer.
    #[serde(borrow, default)]
    message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    /// Reasoning under the name DeepSeek, vLLM and others use.
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    /// Reasoning under OpenRouter's name.
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
}

/// Bytes of text.
#[derive(Clone, Copy, Default)]
struct Spoken {
    visible: u32,
    reasoning: u32,
}

/// Reads one data payload of a stream. The id is only taken out where it is `wanted`: it is the
/// same in every chunk.
///
/// # Errors
/// A payload that is no chunk: never with its text in the message.
pub fn read_chunk(data: &[u8], id_wanted: bool) -> Result<Payload, &'static str> {
    let written = written(data).ok_or("an event of the stream is no chat chunk")?;
    Ok(payload(data, &written, id_wanted))
}

/// Reads a whole unstreamed answer.
///
/// # Errors
/// A body that is no answer: never with its text in the message.
pub fn read_whole(body: &[u8]) -> Result<Payload, &'static str> {
    let written = written(body).ok_or("the body is no chat completion")?;
    let read = payload(body, &written, true);
    if read.choices == 0 && !read.seen.error {
        return Err("the body is a chat completion without choices");
    }
    Ok(read)
}

/// Reads a whole answer of vectors.
///
/// # Errors
/// A body that is no such answer.
pub fn read_vectors(body: &[u8]) -> Result<Payload, &'static str> {
    let written = written(body).ok_or("the body is no list of vectors")?;
    let mut read = payload(body, &written, true);
    if !read.seen.error && !written.data.is_some_and(|raw| raw.get().starts_with('[')) {
        return Err("the body is a list of vectors without vectors");
    }
    read.seen.visible = true;
    Ok(read)
}

/// The members that matter, of an object; a derived reader would take a list for one.
fn written(data: &[u8]) -> Option<Written<'_>> {
    data.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(data).ok()).flatten()
}

fn payload(data: &[u8], written: &Written<'_>, id_wanted: bool) -> Payload {
    let usage_at = written.usage.map(RawValue::get).filter(|raw| raw.starts_with('{')).map(|raw| {
        // A borrowed value stands inside the bytes it was read from.
        let start = (raw.as_ptr() as usize).saturating_sub(data.as_ptr() as usize);
        start..start + raw.len()
    });
    let usage = written.usage.and_then(|raw| usage::read(raw.get()));
    let Choices { count, finished, ref finish, spoken } = written.choices;
    let id = written.id.filter(|_| id_wanted);
    let seen = Seen {
        visible: spoken.visible > 0,
        visible_bytes: spoken.visible,
        reasoning_bytes: spoken.reasoning,
        finish: finish.clone(),
        usage_only: count == 0 && written.usage.is_some(),
        usage,
        service: written.service_tier.and_then(|raw| service(raw.get())),
        usage_at,
        error: written.error.is_some_and(|raw| is_truthy(raw.get())),
        id: id
            .and_then(|raw| json::text_of(raw.get()))
            .filter(|id| !id.is_empty())
            .map(Cow::into_owned),
    };
    Payload { seen, finished, choices: count }
}

/// The tier that a provider says served the answer.
fn service(raw: &str) -> Option<ServiceTier> {
    json::text_of(raw).map(|word| ServiceTier::from_word(&word))
}

/// Clients take an event for an error when its `error` is truthy.
fn is_truthy(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "0" | "\"\"")
}

impl Choices {
    fn add(&mut self, choice: Choice<'_>) {
        self.count += 1;
        if let Some(word) = choice.finish_reason.filter(|word| !word.is_empty()) {
            self.finished += 1;
            self.finish = Some(FinishReason::from(word.as_ref()));
        }
        if let Some(text) = choice.text {
            self.spoken.visible = self.spoken.visible.saturating_add(text_bytes(text.get()));
        }
        for delta in [choice.delta, choice.message].into_iter().flatten() {
            let visible = [delta.content, delta.refusal, delta.tool_calls, delta.function_call];
            // Some write the reasoning under both names: it is counted once.
            let reasoning = delta.reasoning_content.or(delta.reasoning);
            let bytes = visible.into_iter().flatten().map(|raw| text_bytes(raw.get())).sum::<u32>();
            self.spoken.visible = self.spoken.visible.saturating_add(bytes);
            let bytes = reasoning.map_or(0, |raw| text_bytes(raw.get()));
            self.spoken.reasoning = self.spoken.reasoning.saturating_add(bytes);
        }
    }
}

/// Bytes of text in a value: a string's own, or those of a structure as it is written (a tool
/// call's part, a list of content parts).
fn text_bytes(raw: &str) -> u32 {
    let bytes = match json::kind(raw) {
        Kind::String => TextBytes::of_string(raw).total(),
        Kind::Array | Kind::Object if raw.len() > 2 => raw.len() as u64,
        _ => 0,
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoicesVisitor)
    }
}

struct ChoicesVisitor;

impl<'de> Visitor<'de> for ChoicesVisitor {
    type Value = Choices;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of choices")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Choices, A::Error> {
        let mut all = Choices::default();
        while let Some(choice) = seq.next_element::<Choice<'de>>()? {
            all.add(choice);
        }
        Ok(all)
    }

    fn visit_unit<E>(self) -> Result<Choices, E> {
        Ok(Choices::default())
    }
}
