//! A payload in OpenAI's format as deltas, for a client that speaks another one.
//!
//! **Invariant:** nothing visible is lost (what cannot be read is an error), and the order within a
//! choice is kept: reasoning, text, calls, finish. What a provider leaves out is filled in (a call's
//! number, its id), and what it repeats is told once (a call's name, and in a last chunk the whole message
//! that was told in pieces). Half of a character costs that character alone ([`Shown`]).

use super::{
    calls::{Calls, Place},
    parts::{self, Part},
};
use crate::wire::{
    Delta, DeltaKind, FinishReason, Likely, TokenLogprob,
    json::{self, Kind, Shown, or_default},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};

/// What OpenAI writes of a token that is not among the likeliest; others write null.
const UNLIKELY: f32 = -9999.0;

/// Reads the payloads of one answer.
#[derive(Debug, Default)]
pub struct Reader {
    calls: Calls,
    /// What each choice has told in pieces.
    told: BTreeMap<u32, Told>,
}

/// What was told in pieces, so that a message with the whole of it tells nothing new.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    reasoning: bool,
    text: bool,
    refusal: bool,
    calls: bool,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default, deserialize_with = "or_default")]
    index: u32,
    #[serde(borrow, default)]
    delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    message: Option<Said<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<Shown<'a>>,
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

#[derive(Default, Deserialize)]
struct Call<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    id: Option<Shown<'a>>,
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(borrow, default)]
    custom: Option<Custom<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow, default)]
    name: Option<Shown<'a>>,
    /// A string; with some an object.
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Custom<'a> {
    #[serde(borrow, default)]
    name: Option<Shown<'a>>,
    #[serde(borrow, default)]
    input: Option<Shown<'a>>,
}

#[derive(Deserialize)]
struct Logprobs<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<Token<'a>>>,
}

#[derive(Deserialize)]
struct Token<'a> {
    #[serde(borrow)]
    token: Shown<'a>,
    #[serde(default)]
    logprob: Option<f32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(borrow, default)]
    top_logprobs: Option<Vec<Token<'a>>>,
}

// === impl Reader ===

impl Reader {
    /// The pieces in a chunk of a stream or in a whole answer.
    ///
    /// # Errors
    /// What is neither, or is written as no other provider does: never with its text.
    pub fn read(&mut self, payload: &[u8]) -> Result<Vec<Delta>, &'static str> {
        let written: Written<'_> = serde_json::from_slice(payload)
            .map_err(|_| "the answer cannot be read in OpenAI's format")?;
        let mut deltas = Vec::with_capacity(2);
        for choice in written.choices.unwrap_or_default() {
            self.choice(choice, &mut deltas)?;
        }
        Ok(deltas)
    }

    fn choice(&mut self, choice: Choice<'_>, deltas: &mut Vec<Delta>) -> Result<(), &'static str> {
        let index = choice.index;
        let mut kinds = Vec::with_capacity(2);
        if let Some(said) = choice.delta {
            self.pieces(said, |call, place| (index, call.index.unwrap_or(place)), &mut kinds);
        }
        if !kinds.is_empty() {
            self.told.entry(index).or_default().note(&kinds);
        }
        let told = self.told.get(&index).copied().unwrap_or_default();
        if let Some(said) = choice.message.map(|said| said.beyond(told)) {
            // All calls stand there, in their order: some providers give every one the same number.
            self.pieces(said, |_, place| (index, place), &mut kinds);
        }
        let text = kinds.iter().position(|kind| matches!(kind, DeltaKind::Text(_)));
        let mut logprobs = choice.logprobs.and_then(|it| it.content).unwrap_or_default();
        for (at, kind) in kinds.into_iter().enumerate() {
            let tokens = if text == Some(at) { std::mem::take(&mut logprobs) } else { Vec::new() };
            let logprobs = tokens.iter().map(likely).collect();
            deltas.push(Delta { logprobs, ..Delta::new(index, kind) });
        }
        if let Some(Shown(word)) = choice.finish_reason.filter(|word| !word.0.is_empty()) {
            if self.calls.lacks_names(index) {
                return Err("the answer has arguments of a call that nobody named");
            }
            let met = choice.stop_reason.and_then(|raw| Shown::of(raw.get()));
            let finish = match (FinishReason::from(word.as_ref()), met) {
                (FinishReason::Stop, Some(met)) => FinishReason::StopString(met.0.into_owned()),
                (finish, _) => finish,
            };
            deltas.push(Delta::new(index, DeltaKind::Finish(finish)));
        }
        Ok(())
    }

    /// What is said in a choice; each call stands at `place`.
    fn pieces(
        &mut self,
        said: Said<'_>,
        place: impl Fn(&Call<'_>, u32) -> Place,
        kinds: &mut Vec<DeltaKind>,
    ) {
        // Some write the reasoning under both names.
        let reasoning = said.reasoning_content.or(said.reasoning);
        let mut say = |raw: Option<&RawValue>, kind: fn(String) -> DeltaKind| {
            let text = text(raw);
            if !text.is_empty() {
                kinds.push(kind(text));
            }
        };
        say(reasoning, DeltaKind::Reasoning);
        say(said.content, DeltaKind::Text);
        say(said.refusal, DeltaKind::Refusal);
        let calls = said.tool_calls.unwrap_or_default();
        let older =
            said.function_call.map(|function| Call { function: Some(function), ..Call::default() });
        for (call, at) in calls.into_iter().zip(0_u32..).chain(older.map(|call| (call, 0))) {
            let place = place(&call, at);
            let (name, arguments) = match (call.function, call.custom) {
                (Some(function), _) => (function.name, function.arguments.map(arguments)),
                (None, Some(custom)) => (custom.name, custom.input),
                (None, None) => (None, None),
            };
            if let Some(Shown(name)) = name.filter(|name| !name.0.is_empty()) {
                self.calls.named(place, &call.id.unwrap_or_default().0, &name, kinds);
            }
            self.calls.argued(place, &arguments.unwrap_or_default().0, kinds);
        }
    }
}

// === impl Told ===

impl Told {
    fn note(&mut self, kinds: &[DeltaKind]) {
        for kind in kinds {
            match kind {
                DeltaKind::Reasoning(_) => self.reasoning = true,
                DeltaKind::Text(_) => self.text = true,
                DeltaKind::Refusal(_) => self.refusal = true,
                DeltaKind::ToolCall { .. } | DeltaKind::ToolArguments { .. } => self.calls = true,
                DeltaKind::Signature(_) | DeltaKind::Finish(_) => {}
            }
        }
    }
}

// === impl Said ===

impl Said<'_> {
    /// Without what was told.
    fn beyond(mut self, told: Told) -> Self {
        if told.reasoning {
            (self.reasoning_content, self.reasoning) = (None, None);
        }
        if told.text {
            self.content = None;
        }
        if told.refusal {
            self.refusal = None;
        }
        if told.calls {
            (self.tool_calls, self.function_call) = (None, None);
        }
        self
    }
}

/// The JSON text of a call's arguments: a string's own, or the object as it is written.
fn arguments(raw: &RawValue) -> Shown<'_> {
    let written = if json::kind(raw.get()) == Kind::Null { "" } else { raw.get() };
    Shown::of(raw.get()).unwrap_or(Shown(Cow::Borrowed(written)))
}

/// A string's text, or that of a list of parts; nothing of other values.
fn text(raw: Option<&RawValue>) -> String {
    let mut all = String::new();
    parts::each(raw, |part| {
        let text = match json::kind(part) {
            Kind::Object => serde_json::from_str(part).ok().and_then(|part: Part<'_>| part.text),
            _ => None,
        };
        all.push_str(&Shown::of(text.map_or(part, RawValue::get)).unwrap_or_default().0);
    });
    all
}

fn likely(token: &Token<'_>) -> TokenLogprob {
    let one = |token: &Token<'_>| Likely {
        bytes: token.bytes.clone().unwrap_or_else(|| token.token.0.as_bytes().to_vec()),
        logprob: token.logprob.unwrap_or(UNLIKELY),
    };
    let top = token.top_logprobs.iter().flatten().map(one).collect();
    TokenLogprob { chosen: one(token), top }
}
