//! A provider's usage object into disjoint buckets.
//!
//! **Invariant:** no bucket is negative, no token is in two, and an object that says nothing (no
//! counts, or a prompt and an answer of nothing) is unknown, never zero.

use crate::wire::json::{self, Cursor, Kind, Malformed};
use policies::Usage;

/// The counts of a usage object as providers write it.
#[derive(Default)]
struct Written {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    /// DeepSeek's name for cached prompt tokens.
    prompt_cache_hit_tokens: Count,
    prompt: PromptDetails,
    completion: CompletionDetails,
}

#[derive(Default)]
struct PromptDetails {
    cached_tokens: Count,
    /// OpenAI's and OpenRouter's name.
    cache_write_tokens: Count,
    /// LiteLLM's name for the same.
    cache_creation_tokens: Count,
    /// Cache writes that live for an hour, as gateways to Anthropic pass them on.
    ephemeral_1h_input_tokens: Count,
    audio_tokens: Count,
    image_tokens: Count,
}

#[derive(Default)]
struct CompletionDetails {
    reasoning_tokens: Count,
    audio_tokens: Count,
}

/// A count that may be absent, null or of a type that is no count.
#[derive(Clone, Copy, Default)]
struct Count {
    tokens: Option<u64>,
    /// Whether it stands there.
    stands: bool,
}

/// Reads a usage object; `None` where it does not say what was used.
pub(super) fn read(raw: &str) -> Option<Usage> {
    let mut cursor = Cursor::new(raw);
    let written = Written::read(&mut cursor).ok()?;
    cursor.end().ok()?;
    let total = written.total_tokens.tokens;
    let (prompt, completion) =
        match (written.prompt_tokens.tokens, written.completion_tokens.tokens) {
            (Some(prompt), Some(completion)) => (prompt, completion),
            (Some(prompt), None) => (prompt, total?.checked_sub(prompt)?),
            (None, Some(completion)) => (total?.checked_sub(completion)?, completion),
            (None, None) => return None,
        };
    if prompt == 0 && completion == 0 {
        return None;
    }
    let details = &written.prompt;
    let mut prompt_left = prompt;
    // Each bucket takes what the ones before it left, so that none is negative.
    let mut take = |count: Option<u64>| {
        let taken = count.unwrap_or(0).min(prompt_left);
        prompt_left -= taken;
        taken
    };
    let cache_read = take(details.cached_tokens.tokens.or(written.prompt_cache_hit_tokens.tokens));
    let cache_write_1h = take(details.ephemeral_1h_input_tokens.tokens);
    let writes = details.cache_write_tokens.tokens.or(details.cache_creation_tokens.tokens);
    let cache_write_5m = take(writes.map(|all| all.saturating_sub(cache_write_1h)));
    let audio = take(details.audio_tokens.tokens);
    let image = take(details.image_tokens.tokens);
    let reasoning = written.completion.reasoning_tokens.tokens.unwrap_or(0);
    // Some providers count reasoning beside the completion and not in it: their total says so, or
    // there is more reasoning than completion.
    let beside = reasoning > completion
        || reasoning > 0
            && total.is_some_and(|total| {
                Some(total)
                    == prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning))
            });
    let visible = if beside { completion } else { completion - reasoning };
    let audio_output = written.completion.audio_tokens.tokens.unwrap_or(0).min(visible);
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

impl Written {
    /// Reads the object that the cursor stands at. A count that stands twice has no meaning that all
    /// readers share.
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut written = Self::default();
        cursor.object(|cursor, key| {
            let slot = match key {
                "prompt_tokens" => &mut written.prompt_tokens,
                "completion_tokens" => &mut written.completion_tokens,
                "total_tokens" => &mut written.total_tokens,
                "prompt_cache_hit_tokens" => &mut written.prompt_cache_hit_tokens,
                "prompt_tokens_details" => return written.prompt.read(cursor),
                "completion_tokens_details" => return written.completion.read(cursor),
                _ => return cursor.skip(),
            };
            slot.read(cursor)
        })?;
        Ok(written)
    }
}

impl PromptDetails {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        details(cursor, |cursor, key| {
            let slot = match key {
                "cached_tokens" => &mut self.cached_tokens,
                "cache_write_tokens" => &mut self.cache_write_tokens,
                "cache_creation_tokens" => &mut self.cache_creation_tokens,
                "audio_tokens" => &mut self.audio_tokens,
                "image_tokens" => &mut self.image_tokens,
                "cache_creation_token_details" => {
                    return details(cursor, |cursor, key| match key {
                        "ephemeral_1h_input_tokens" => self.ephemeral_1h_input_tokens.read(cursor),
                        _ => cursor.skip(),
                    });
                }
                _ => return cursor.skip(),
            };
            slot.read(cursor)
        })
    }
}

impl CompletionDetails {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        details(cursor, |cursor, key| {
            let slot = match key {
                "reasoning_tokens" => &mut self.reasoning_tokens,
                "audio_tokens" => &mut self.audio_tokens,
                _ => return cursor.skip(),
            };
            slot.read(cursor)
        })
    }
}

/// Walks an object that may be null instead.
fn details(
    cursor: &mut Cursor<'_>,
    each: impl FnMut(&mut Cursor<'_>, &str) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    match cursor.kind() {
        Kind::Null => cursor.skip(),
        _ => cursor.object(each),
    }
}

impl Count {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        if std::mem::replace(&mut self.stands, true) {
            return Err(Malformed);
        }
        self.tokens = count(cursor.value()?);
        Ok(())
    }
}

/// A count as it is written; `None` of what is no count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number within range"
)]
fn count(raw: &str) -> Option<u64> {
    if let Ok(count) = raw.parse() {
        return Some(count);
    }
    // A whole number that a provider wrote as `12.0`.
    let count: f64 = (json::kind(raw) == Kind::Number).then(|| raw.parse().ok()).flatten()?;
    (count.fract() == 0.0 && (0.0..=9.0e15).contains(&count)).then_some(count as u64)
}
