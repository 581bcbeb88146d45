//! Anthropic's usage into disjoint buckets.
//!
//! **Invariants:** `input_tokens` there is without what was read from or written to the cache, so
//! nothing is taken off it (a peer that did counted cache reads twice); counts of a `message_delta`
//! are cumulative, so the later one replaces the earlier; one-hour writes are told apart.

use policies::{ServiceTier, Usage};
use serde::Deserialize;

/// Usage as it is written; in a stream in pieces.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<Creation>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
    service_tier: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Creation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Written {
    /// Takes over whatever the later one says.
    pub(super) fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens =
            later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation = later.cache_creation.or(self.cache_creation);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.output_tokens_details = later.output_tokens_details.or(self.output_tokens_details);
        self.service_tier = later.service_tier.or_else(|| self.service_tier.take());
    }

    /// Forgets the count of the answer so far, which a stream's beginning gives before there is one.
    pub(super) fn without_output(mut self) -> Self {
        self.output_tokens = None;
        self
    }

    /// The buckets, where both sides are known.
    pub(super) fn read(&self) -> Option<Usage> {
        let output = self.output_tokens?;
        let reasoning = self.output_tokens_details.and_then(|details| details.thinking_tokens);
        let reasoning = reasoning.unwrap_or(0).min(output);
        Some(Usage { output: output - reasoning, reasoning, ..self.prompt()? })
    }

    /// The prompt's buckets alone.
    pub(super) fn prompt(&self) -> Option<Usage> {
        let creation = self.cache_creation.unwrap_or_default();
        let one_hour = creation.ephemeral_1h_input_tokens.unwrap_or(0);
        let five_minutes = creation.ephemeral_5m_input_tokens.unwrap_or(0);
        let all = self
            .cache_creation_input_tokens
            .unwrap_or(0)
            .max(one_hour.saturating_add(five_minutes));
        Some(Usage {
            input: self.input_tokens?,
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write_5m: all - one_hour,
            cache_write_1h: one_hour,
            ..Usage::default()
        })
    }

    /// The tier that served it.
    pub(super) fn service(&self) -> Option<ServiceTier> {
        self.service_tier.as_deref().map(ServiceTier::from_word)
    }
}
