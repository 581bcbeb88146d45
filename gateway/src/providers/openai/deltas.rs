//! A payload in OpenAI's format as deltas, for a client that speaks another one.
//!
//! **Invariant:** nothing visible is lost (what cannot be read is an error), and the order within a
//! choice is kept: reasoning, text, calls, finish. What a provider leaves out (a call's number or id) is filled in the same way in
//! every chunk.

use crate::wire::{
    Delta, DeltaKind, FinishReason, Likely, TokenLogprob,
    json::{self, Kind},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    message: Option<Said<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
    /// vLLM's: the stop string that was met.
    #[serde(borrow, default)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<Logprobs<'a>>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow, default)]
    function_call: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(borrow, default)]
    custom: Option<Custom<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    /// A string; with some an object.
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Custom<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<Token<'a>>>,
}

#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(borrow, default)]
    top_logprobs: Option<Vec<Token<'a>>>,
}

/// The pieces in a chunk of a stream or in a whole answer.
///
/// # Errors
/// What is neither, or is written as no other provider does: never with its text.
pub fn deltas(payload: &[u8]) -> Result<Vec<Delta>, &'static str> {
    let written: Written<'_> = serde_json::from_slice(payload)
        .map_err(|_| "the answer cannot be read in OpenAI's format")?;
    let mut deltas = Vec::with_capacity(2);
    for choice in written.choices.unwrap_or_default() {
        let index = choice.index;
        let mut kinds = Vec::with_capacity(2);
        if let Some(said) = choice.delta {
            pieces(said, |call, place| call.index.unwrap_or(place), &mut kinds);
        }
        if let Some(said) = choice.message {
            // All calls stand there, in their order: some providers give every one the same number.
            pieces(said, |_, place| place, &mut kinds);
        }
        let text = kinds.iter().position(|kind| matches!(kind, DeltaKind::Text(_)));
        let mut logprobs = choice.logprobs.and_then(|it| it.content).unwrap_or_default();
        for (at, kind) in kinds.into_iter().enumerate() {
            let tokens = if text == Some(at) { std::mem::take(&mut logprobs) } else { Vec::new() };
            let logprobs = tokens.iter().map(likely).collect();
            deltas.push(Delta { logprobs, ..Delta::new(index, kind) });
        }
        if let Some(word) = choice.finish_reason.filter(|word| !word.is_empty()) {
            let met = choice.stop_reason.and_then(|raw| json::text_of(raw.get()));
            let finish = match (FinishReason::from(word.as_ref()), met) {
                (FinishReason::Stop, Some(met)) => FinishReason::StopString(met.into_owned()),
                (finish, _) => finish,
            };
            deltas.push(Delta::new(index, DeltaKind::Finish(finish)));
        }
    }
    Ok(deltas)
}

fn pieces(said: Said<'_>, number: impl Fn(&Call<'_>, u32) -> u32, kinds: &mut Vec<DeltaKind>) {
    // Some write the reasoning under both names.
    let reasoning = said.reasoning_content.or(said.reasoning);
    let mut say = |raw: Option<&RawValue>, kind: fn(String) -> DeltaKind| {
        let text = raw.map(|raw| text(raw.get())).unwrap_or_default();
        if !text.is_empty() {
            kinds.push(kind(text));
        }
    };
    say(reasoning, DeltaKind::Reasoning);
    say(said.content, DeltaKind::Text);
    say(said.refusal, DeltaKind::Refusal);
    for (call, place) in said.tool_calls.unwrap_or_default().into_iter().zip(0_u32..) {
        let index = number(&call, place);
        let (name, arguments) = match (call.function, call.custom) {
            (Some(function), _) => (function.name, function.arguments.map(arguments)),
            (None, Some(custom)) => (custom.name, custom.input),
            (None, None) => (None, None),
        };
        begin(index, call.id, name, kinds);
        go_on(index, arguments, kinds);
    }
    if let Some(function) = said.function_call {
        begin(0, None, function.name, kinds);
        go_on(0, function.arguments.map(arguments), kinds);
    }
}

fn begin(
    index: u32,
    id: Option<Cow<'_, str>>,
    name: Option<Cow<'_, str>>,
    kinds: &mut Vec<DeltaKind>,
) {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return };
    let id = id.filter(|id| !id.is_empty());
    let id = id.map_or_else(|| format!("call_{index}"), Cow::into_owned);
    kinds.push(DeltaKind::ToolCall { index, id, name: name.into_owned() });
}

/// The JSON text of a call's arguments.
fn arguments(raw: &RawValue) -> Cow<'_, str> {
    match json::kind(raw.get()) {
        Kind::String => json::text_of(raw.get()).unwrap_or_default(),
        Kind::Null => Cow::Borrowed(""),
        _ => Cow::Borrowed(raw.get()),
    }
}

fn go_on(index: u32, arguments: Option<Cow<'_, str>>, kinds: &mut Vec<DeltaKind>) {
    if let Some(json) = arguments.filter(|arguments| !arguments.is_empty()) {
        kinds.push(DeltaKind::ToolArguments { index, json: json.into_owned() });
    }
}

/// A string's text, or that of a list of parts.
fn text(raw: &str) -> String {
    match json::kind(raw) {
        Kind::String => json::text_of(raw).unwrap_or_default().into_owned(),
        Kind::Array => {
            let mut all = String::new();
            let _ = json::elements(raw, |_, part| {
                let part: Part<'_> = serde_json::from_str(part)?;
                all.push_str(&part.text.unwrap_or_default());
                Ok::<_, serde_json::Error>(())
            });
            all
        }
        _ => String::new(),
    }
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

fn likely(token: &Token<'_>) -> TokenLogprob {
    let one = |token: &Token<'_>| Likely {
        bytes: token.bytes.clone().unwrap_or_else(|| token.token.as_bytes().to_vec()),
        logprob: token.logprob,
    };
    let top = token.top_logprobs.iter().flatten().map(one).collect();
    TokenLogprob { chosen: one(token), top }
}
