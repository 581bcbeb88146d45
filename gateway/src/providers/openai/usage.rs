//! A provider's usage object into disjoint buckets.
//!
//! **Invariant:** no bucket is negative, no token is in two, and an object that says nothing (no
//! counts, or a prompt and an answer of nothing) is unknown, never zero.

use policies::Usage;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use std::fmt;

/// The counts of a usage object as providers write it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    prompt_tokens_details: PromptDetails,
    #[serde(deserialize_with = "or_default")]
    completion_tokens_details: CompletionDetails,
    /// DeepSeek's name for cached prompt tokens.
    prompt_cache_hit_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Count,
    /// OpenAI's and OpenRouter's name.
    cache_write_tokens: Count,
    /// LiteLLM's name for the same.
    cache_creation_tokens: Count,
    #[serde(deserialize_with = "or_default")]
    cache_creation_token_details: CacheCreation,
    audio_tokens: Count,
    image_tokens: Count,
}

/// Cache writes by how long they live, as gateways to Anthropic pass them on.
#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_1h_input_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Count,
    audio_tokens: Count,
}

/// A count that may be absent, null or of a type that is no count.
#[derive(Clone, Copy, Default)]
struct Count(Option<u64>);

/// Reads a usage object; `None` where it does not say what was used.
pub(super) fn read(raw: &str) -> Option<Usage> {
    let written: Written = serde_json::from_str(raw).ok()?;
    let total = written.total_tokens.0;
    let (prompt, completion) = match (written.prompt_tokens.0, written.completion_tokens.0) {
        (Some(prompt), Some(completion)) => (prompt, completion),
        (Some(prompt), None) => (prompt, total?.checked_sub(prompt)?),
        (None, Some(completion)) => (total?.checked_sub(completion)?, completion),
        (None, None) => return None,
    };
    if prompt == 0 && completion == 0 {
        return None;
    }
    let details = &written.prompt_tokens_details;
    let mut prompt_left = prompt;
    // Each bucket takes what the ones before it left, so that none is negative.
    let mut take = |count: Option<u64>| {
        let taken = count.unwrap_or(0).min(prompt_left);
        prompt_left -= taken;
        taken
    };
    let cache_read = take(details.cached_tokens.0.or(written.prompt_cache_hit_tokens.0));
    let cache_write_1h = take(details.cache_creation_token_details.ephemeral_1h_input_tokens.0);
    let writes = details.cache_write_tokens.0.or(details.cache_creation_tokens.0);
    let cache_write_5m = take(writes.map(|all| all.saturating_sub(cache_write_1h)));
    let audio = take(details.audio_tokens.0);
    let image = take(details.image_tokens.0);
    let reasoning = written.completion_tokens_details.reasoning_tokens.0.unwrap_or(0);
    // Some providers count reasoning beside the completion and not in it: their total says so, or
    // there is more reasoning than completion.
    let beside = reasoning > completion
        || reasoning > 0
            && total.is_some_and(|total| {
                Some(total)
                    == prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning))
            });
    let visible = if beside { completion } else { completion - reasoning };
    let audio_output = written.completion_tokens_details.audio_tokens.0.unwrap_or(0).min(visible);
    Some(Usage {
        input: prompt_left,
        cache_read,
        cache_write_5m,
        cache_write_1h,
        output: visible - audio_output,
        reasoning,
        image,
        audio,
        audio_output,
    })
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a count")
    }

    fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
        Ok(Count(Some(count)))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Count, E> {
        Ok(Count(None))
    }

    /// A whole number that a provider wrote as `12.0`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within range"
    )]
    fn visit_f64<E>(self, count: f64) -> Result<Count, E> {
        let whole = count.fract() == 0.0 && (0.0..=9.0e15).contains(&count);
        Ok(Count(whole.then_some(count as u64)))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Count, A::Error> {
        de::IgnoredAny.visit_seq(seq).map(|_| Count(None))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Count, A::Error> {
        de::IgnoredAny.visit_map(map).map(|_| Count(None))
    }
}
