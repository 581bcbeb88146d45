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
    pub(super) id: Option<String>,
    /// What it took of the engine in this process.
    pub(super) engine: Option<EngineUse>,
}

impl SeenSoFar {
    pub(super) fn note(&mut self, seen: &Seen) {
        self.visible_bytes += u64::from(seen.visible_bytes);
        self.reasoning_bytes += u64::from(seen.reasoning_bytes);
        if seen.finish.is_some() {
            self.finish.clone_from(&seen.finish);
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
            self.finish = Some(finish.clone());
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
