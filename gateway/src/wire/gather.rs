//! Deltas gathered into the whole answer that they are pieces of.
//!
//! **Invariant:** bounded: choices and tool calls beyond what a request can ask for are dropped, so a
//! provider that numbers them wildly takes no memory.

use super::{Delta, DeltaKind, FinishReason, TokenLogprob};

/// Most choices of one answer.
const CHOICES_MAX: usize = 128;
/// Most tool calls of one choice.
const CALLS_MAX: usize = 256;

/// What it takes to write one number of a vector, and a token with its likelihood.
const NUMBER_BYTES: usize = 12;
const LIKELY_BYTES: usize = 64;

/// An answer as far as it has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// Its choices, in order.
    pub choices: Vec<Choice>,
    /// Its vectors, in order, of an embedding request.
    pub vectors: Vec<Vec<f32>>,
}

/// One choice as far as it has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Visible text.
    pub text: String,
    /// Reasoning text.
    pub reasoning: String,
    /// The provider's signature over the reasoning.
    pub signature: String,
    /// Text of a refusal.
    pub refusal: String,
    /// Tool calls, in order.
    pub calls: Vec<ToolCall>,
    /// Log probabilities of the text's tokens.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish: Option<FinishReason>,
}

/// One call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON text of its arguments.
    pub arguments: String,
}

// === impl Gathered ===

impl Gathered {
    /// Adds a piece.
    pub fn add(&mut self, delta: Delta) {
        let Some(choice) = grown(&mut self.choices, delta.choice, CHOICES_MAX) else { return };
        choice.logprobs.extend(delta.logprobs);
        match delta.kind {
            DeltaKind::Text(text) => append(&mut choice.text, text),
            DeltaKind::Reasoning(text) => append(&mut choice.reasoning, text),
            DeltaKind::Signature(text) => append(&mut choice.signature, text),
            DeltaKind::Refusal(text) => append(&mut choice.refusal, text),
            DeltaKind::ToolCall { index, id, name } => {
                if let Some(call) = grown(&mut choice.calls, index, CALLS_MAX) {
                    call.id = id;
                    call.name = name;
                }
            }
            DeltaKind::ToolArguments { index, json } => {
                if let Some(call) = grown(&mut choice.calls, index, CALLS_MAX) {
                    append(&mut call.arguments, json);
                }
            }
            DeltaKind::Finish(finish) => choice.finish = Some(finish),
        }
    }
}

impl Gathered {
    /// Bytes that it takes to write it, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let numbers: usize = self.vectors.iter().map(|vector| NUMBER_BYTES * vector.len()).sum();
        self.choices.iter().map(Choice::bytes).sum::<usize>() + numbers
    }

    /// The pieces again: each choice whole, in the order in which a stream has them.
    pub fn into_deltas(self) -> impl Iterator<Item = Delta> {
        self.choices.into_iter().zip(0_u32..).flat_map(|(choice, number)| {
            let Choice { text, reasoning, signature, refusal, calls, logprobs, finish } = choice;
            let text = Delta { logprobs, ..Delta::new(number, DeltaKind::Text(text)) };
            let before = [DeltaKind::Reasoning(reasoning), DeltaKind::Signature(signature)];
            let calls = calls.into_iter().zip(0_u32..).flat_map(|(call, index)| {
                let ToolCall { id, name, arguments: json } = call;
                [DeltaKind::ToolCall { index, id, name }, DeltaKind::ToolArguments { index, json }]
            });
            let after = [DeltaKind::Refusal(refusal)].into_iter().chain(calls);
            let after = after.chain(finish.map(DeltaKind::Finish));
            let said = move |kind| Delta::new(number, kind);
            let before = before.into_iter().map(said);
            before.chain([text]).chain(after.map(said)).filter(|delta| !delta.is_empty())
        })
    }
}

/// The element at `index`, made with those before it where it is not there yet.
fn grown<T: Default>(list: &mut Vec<T>, index: u32, most: usize) -> Option<&mut T> {
    let index = usize::try_from(index).ok().filter(|index| *index < most)?;
    while list.len() <= index {
        list.push(T::default());
    }
    list.get_mut(index)
}

impl Choice {
    fn bytes(&self) -> usize {
        let texts = [&self.text, &self.reasoning, &self.signature, &self.refusal];
        let texts: usize = texts.into_iter().map(String::len).sum();
        let calls: usize = self.calls.iter().map(|call| call.arguments.len()).sum();
        let likely: usize =
            self.logprobs.iter().map(|token| LIKELY_BYTES * (1 + token.top.len())).sum();
        texts + calls + likely
    }
}

fn append(whole: &mut String, piece: String) {
    if whole.is_empty() {
        *whole = piece;
    } else {
        whole.push_str(&piece);
    }
}
