//! Rates: what one token of each disjoint bucket costs, and how that grows with the prompt.

use crate::{MoneyError, PicoUsd, Usage};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Rates per token for each disjoint bucket of [`Usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRates {
    /// One uncached prompt token.
    pub input: PicoUsd,
    /// One prompt token read from cache.
    pub cache_read: PicoUsd,
    /// One prompt token written to the five-minute cache.
    pub cache_write_5m: PicoUsd,
    /// One prompt token written to the one-hour cache.
    pub cache_write_1h: PicoUsd,
    /// One visible answer token.
    pub output: PicoUsd,
    /// One hidden reasoning token.
    pub reasoning: PicoUsd,
    /// One prompt token of an image, where the provider counts them apart.
    pub image: PicoUsd,
    /// One prompt token of audio, where the provider counts them apart.
    pub audio: PicoUsd,
    /// One answer token of audio.
    pub audio_output: PicoUsd,
}

/// Rates that apply to the whole attempt once its prompt is longer than a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// The tier applies when the prompt has more tokens than this.
    pub above_prompt_tokens: u64,
    /// The rates then.
    pub rates: TokenRates,
}

/// Rates by the length of the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateTable {
    /// The rates below every tier.
    pub base: TokenRates,
    /// Higher rates for long prompts, ascending by `above_prompt_tokens`. The highest tier reached
    /// applies to **all** tokens of the attempt.
    pub tiers: Vec<Tier>,
}

/// Rates that are no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TiersError {
    /// Two tiers begin at the same bound, or a later one begins earlier.
    #[error("tiers must ascend by `above_prompt_tokens`")]
    Order,
    /// A tier is cheaper than the one below it, so that a longer prompt could cost less.
    #[error("a tier must not be cheaper than the rates below it")]
    Cheaper,
    /// The same service tier is priced twice, or the standard one apart from the row itself.
    #[error("each service tier is priced once, and the standard one by the row itself")]
    Service,
    /// Hours of the day that begin where they end, or lie outside of the day.
    #[error("`from` and `to` are two different times of the day")]
    Hours,
}

// === impl TokenRates ===

impl TokenRates {
    /// What a provider charges that names only these two: a cached or written prompt token, an
    /// image's and audio's like any other of the prompt, a reasoning token like an answer's.
    #[must_use]
    pub const fn plain(input: PicoUsd, output: PicoUsd) -> Self {
        Self {
            input,
            cache_read: input,
            cache_write_5m: input,
            cache_write_1h: input,
            output,
            reasoning: output,
            image: input,
            audio: input,
            audio_output: output,
        }
    }

    /// What no prompt token costs more than.
    pub(super) fn prompt_max(&self) -> PicoUsd {
        let Self { input, cache_read, cache_write_5m, cache_write_1h, image, audio, .. } = *self;
        input.max(cache_read).max(cache_write_5m).max(cache_write_1h).max(image).max(audio)
    }

    /// What no answer token costs more than.
    pub(super) fn answer_max(&self) -> PicoUsd {
        self.output.max(self.reasoning).max(self.audio_output)
    }

    /// The exact cost of the tokens of `usage`.
    pub(super) fn cost(&self, usage: &Usage) -> Result<PicoUsd, MoneyError> {
        self.all()
            .into_iter()
            .zip(usage.all())
            .try_fold(PicoUsd::ZERO, |sum, (rate, tokens)| sum.add(rate.times(tokens)?))
    }

    /// In the order of [`Usage::all`].
    const fn all(&self) -> [PicoUsd; 9] {
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

    /// Whether `other` is at least as dear in every bucket.
    fn covered_by(&self, other: &Self) -> bool {
        self.all().iter().zip(other.all()).all(|(mine, theirs)| *mine <= theirs)
    }
}

// === impl RateTable ===

impl RateTable {
    /// Rates by the length of the prompt.
    ///
    /// # Errors
    /// [`TiersError`] if the tiers do not ascend in bounds and rates.
    pub fn new(base: TokenRates, tiers: Vec<Tier>) -> Result<Self, TiersError> {
        let mut below: Option<&Tier> = None;
        for tier in &tiers {
            if below.is_some_and(|below| below.above_prompt_tokens >= tier.above_prompt_tokens) {
                return Err(TiersError::Order);
            }
            if !below.map_or(&base, |below| &below.rates).covered_by(&tier.rates) {
                return Err(TiersError::Cheaper);
            }
            below = Some(tier);
        }
        Ok(Self { base, tiers })
    }

    /// The rates of a prompt of this length.
    #[must_use]
    pub fn at(&self, prompt_tokens: u64) -> &TokenRates {
        self.tiers
            .iter()
            .rev()
            .find(|tier| prompt_tokens > tier.above_prompt_tokens)
            .map_or(&self.base, |tier| &tier.rates)
    }

    /// The most that up to `prompt` and `output` tokens cost.
    pub(super) fn worst(&self, prompt: u64, output: u64) -> Result<PicoUsd, MoneyError> {
        let reachable = self.tiers.iter().filter(|tier| prompt > tier.above_prompt_tokens);
        let mut worst = PicoUsd::ZERO;
        for rates in std::iter::once(&self.base).chain(reachable.map(|tier| &tier.rates)) {
            let cost = rates.prompt_max().times(prompt)?.add(rates.answer_max().times(output)?)?;
            worst = worst.max(cost);
        }
        Ok(worst)
    }

    pub(super) fn is_free(&self) -> bool {
        let free = |rates: &TokenRates| *rates == TokenRates::default();
        free(&self.base) && self.tiers.iter().all(|tier| free(&tier.rates))
    }

    /// Appends the canonical form that ids are hashes of. Rates that came later are only written
    /// where they are not what a row without them means, so that old rows keep their ids.
    pub(super) fn write_canonical(&self, out: &mut String) {
        let zero = Tier { above_prompt_tokens: 0, rates: self.base };
        for Tier { above_prompt_tokens, rates } in std::iter::once(&zero).chain(&self.tiers) {
            let _ = write!(out, "above={above_prompt_tokens}");
            let [first @ .., image, audio, audio_output] = rates.all();
            for rate in first {
                let _ = write!(out, " {}", rate.pico());
            }
            let later = [
                ("image", image, rates.input),
                ("audio", audio, rates.input),
                ("audio_output", audio_output, rates.output),
            ];
            for (name, rate, plain) in later {
                if rate != plain {
                    let _ = write!(out, " {name}={}", rate.pico());
                }
            }
            out.push('\n');
        }
    }
}
