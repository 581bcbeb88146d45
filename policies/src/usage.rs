//! Tokens of one attempt, in disjoint buckets.

use serde::{Deserialize, Serialize};

/// Tokens used by one attempt. **The buckets are disjoint**: a token is counted in exactly one, so
/// a price is a sum of products and nothing is charged twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens read anew.
    pub input: u64,
    /// Prompt tokens served from a prefix cache.
    pub cache_read: u64,
    /// Prompt tokens written to a cache that lives five minutes (or of unstated life).
    pub cache_write_5m: u64,
    /// Prompt tokens written to a cache that lives one hour.
    pub cache_write_1h: u64,
    /// Answer tokens the caller can see.
    pub output: u64,
    /// Answer tokens spent on hidden reasoning.
    pub reasoning: u64,
    /// Prompt tokens of images, where the provider counts them apart and has a rate for them.
    #[serde(default)]
    pub image: u64,
    /// Prompt tokens of audio, likewise.
    #[serde(default)]
    pub audio: u64,
    /// Answer tokens of audio, likewise.
    #[serde(default)]
    pub audio_output: u64,
}

/// Who counted the tokens. The ledger never mixes these silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider's own usage field.
    Reported,
    /// Counted exactly by the tokenizer of the model that answered.
    Counted,
    /// Estimated from what was sent and seen, because the provider reported nothing.
    Estimated,
    /// The process died while the attempt ran: booked by the recovery rule, not by observation.
    CrashedUnknown,
}

impl Usage {
    /// All prompt tokens, whichever way they were read.
    #[must_use]
    pub const fn prompt(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
            .saturating_add(self.image)
            .saturating_add(self.audio)
    }

    /// All answer tokens, seen and hidden.
    #[must_use]
    pub const fn completion(&self) -> u64 {
        self.output.saturating_add(self.reasoning).saturating_add(self.audio_output)
    }

    /// Every bucket once, in the order of the fields.
    #[must_use]
    pub const fn all(&self) -> [u64; 9] {
        let Self {
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            image,
            audio,
            audio_output,
        } = *self;
        [
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            image,
            audio,
            audio_output,
        ]
    }

    /// Prompt and answer together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.prompt().saturating_add(self.completion())
    }

    /// Bucket-wise sum.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write_5m: self.cache_write_5m.saturating_add(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            image: self.image.saturating_add(other.image),
            audio: self.audio.saturating_add(other.audio),
            audio_output: self.audio_output.saturating_add(other.audio_output),
        }
    }
}
