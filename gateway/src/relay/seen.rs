//! What an answer shows of itself while it flows: usage where it is told, else what an estimate goes by.

use crate::wire::{Delta, DeltaKind, EngineUse, FinishReason, Seen, estimate_tokens};
use policies::{ServiceTier, Usage, UsageSource};

/// What has been counted while the answer flowed.
#[derive(Debug, Default)]
pub(super) struct SeenSoFar {
    pub(super) usage: Option<(Usage, UsageSource)>,
    /// Whether that is of the whole answer.
    pub(super) usage_is_last: bool,
    pub(super) visible_bytes: u64,
    pub(super) reasoning_bytes: u64,
    /// Pieces of a stream with text in them: each is a token at least.
    pub(super) pieces: u64,
    pub(super) service: Option<ServiceTier>,
    pub(super) finish: Option<FinishReason>,
    /// Choices that were asked for.
    choices: u32,
    /// How each of them ended so far, where there are several.
    finishes: Vec<Option<FinishReason>>,
    pub(super) id: Option<String>,
    /// What it took of the engine in this process.
    pub(super) engine: Option<EngineUse>,
}

impl SeenSoFar {
    /// Before anything came of so many choices.
    pub(super) fn of(choices: u32) -> Self {
        Self { choices, ..Self::default() }
    }

    /// How each choice ended, in their order; empty where there is one.
    pub(super) fn finishes(&self) -> impl Iterator<Item = Option<&FinishReason>> {
        let all = if self.finishes.is_empty() { 0 } else { self.choices as usize };
        (0..all).map(|choice| self.finishes.get(choice)?.as_ref())
    }

    /// How long one choice of an answer is.
    pub(super) fn of_each_choice(&self, tokens: u64) -> u64 {
        tokens.div_ceil(u64::from(self.choices.max(1)))
    }

    fn ended(&mut self, choice: u32, finish: &FinishReason) {
        self.finish = Some(finish.clone());
        // Providers number them as they like.
        if self.choices < 2 || choice >= self.choices {
            return;
        }
        let at = choice as usize;
        if self.finishes.len() <= at {
            self.finishes.resize(at + 1, None);
        }
        self.finishes[at] = Some(finish.clone());
    }

    pub(super) fn note(&mut self, seen: &Seen) {
        self.visible_bytes += u64::from(seen.visible_bytes);
        self.reasoning_bytes += u64::from(seen.reasoning_bytes);
        for (choice, finish) in seen.ended() {
            self.ended(choice, finish);
        }
        if let Some(usage) = seen.usage {
            self.usage = Some((usage, UsageSource::Reported));
            // Some providers tell it in every chunk, or in the first.
            self.usage_is_last = seen.usage_only || self.finish.is_some();
        }
        if seen.service.is_some() {
            self.service = seen.service;
        }
        if self.id.is_none() {
            self.id.clone_from(&seen.id);
        }
    }

    pub(super) fn note_delta(&mut self, delta: &Delta) {
        self.visible_bytes += delta.visible_bytes();
        self.reasoning_bytes += delta.reasoning_bytes();
        if let DeltaKind::Finish(finish) = &delta.kind {
            self.ended(delta.choice, finish);
        }
    }

    /// What was used as far as it could be seen, where nobody reported it.
    pub(super) fn estimate(&self, prompt_tokens: u64) -> Usage {
        Usage {
            input: prompt_tokens,
            output: estimate_tokens(self.visible_bytes).max(self.pieces),
            reasoning: estimate_tokens(self.reasoning_bytes),
            ..Usage::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_ends_in_its_place_and_no_number_of_a_provider_makes_another() {
        let finishes = |seen: &SeenSoFar| -> Vec<_> {
            seen.finishes().map(|finish| finish.map(|it| it.as_str().to_owned())).collect()
        };
        let mut seen = SeenSoFar::of(3);
        assert!(finishes(&seen).is_empty());
        for choice in [2, u32::MAX, 3] {
            seen.note_delta(&Delta::new(choice, DeltaKind::Finish(FinishReason::Length)));
        }
        assert_eq!(finishes(&seen), [None, None, Some("length".to_owned())]);
        seen.note(&Seen { finish: Some(FinishReason::Stop), ..Seen::default() });
        let expected = [Some("stop"), None, Some("length")].map(|it| it.map(str::to_owned));
        assert_eq!(finishes(&seen), expected);

        let mut one = SeenSoFar::of(1);
        one.note_delta(&Delta::new(0, DeltaKind::Finish(FinishReason::Stop)));
        assert_eq!((finishes(&one), one.finish), (vec![], Some(FinishReason::Stop)));
        assert_eq!(
            (SeenSoFar::of(4).of_each_choice(401), SeenSoFar::of(0).of_each_choice(5)),
            (101, 5)
        );
    }
}
