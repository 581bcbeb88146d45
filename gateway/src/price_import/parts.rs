//! The parts of a foreign price on their way to a rate table.
//!
//! **Invariant:** a part that the file does not give means what it means in our own price files;
//! a price without an input rate, or without an output rate where there is output, is no price.

use super::decimal::Amount;
use policies::{PicoUsd, RateTable, Tier, TokenRates};
use std::collections::{BTreeMap, BTreeSet};

/// A bucket of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bucket {
    Input,
    CacheRead,
    CacheWrite5m,
    CacheWrite1h,
    Output,
    Reasoning,
    Image,
    Audio,
    AudioOutput,
}

/// The rate of one bucket: from so many prompt tokens on so much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// By the number of prompt tokens that must be exceeded; 0 is the base.
    rates: BTreeMap<u64, PicoUsd>,
}

/// What was found about one service tier, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    by: BTreeMap<Bucket, Part>,
    /// Whether an amount was finer than a pico-USD.
    pub(super) rounded: bool,
}

impl Parts {
    /// Adds a rate above so many prompt tokens.
    pub(super) fn put(&mut self, bucket: Bucket, above: u64, amount: Amount) {
        self.rounded |= amount.rounded;
        self.by.entry(bucket).or_default().rates.insert(above, amount.pico);
    }

    /// These parts, and those of `base` that are not given here.
    pub(super) fn over(mut self, base: &Self) -> Self {
        self.rounded |= base.rounded;
        for (bucket, part) in &base.by {
            self.by.entry(*bucket).or_insert_with(|| part.clone());
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// The rates; `outputs` says whether the model generates anything.
    pub(super) fn table(&self, outputs: bool) -> Result<RateTable, String> {
        let bounds: BTreeSet<u64> =
            self.by.values().flat_map(|part| part.rates.keys().copied()).collect();
        let base = self.rates(0, outputs)?;
        let tiers: Result<Vec<Tier>, String> = bounds
            .into_iter()
            .filter(|above| *above > 0)
            .map(|above| {
                Ok(Tier { above_prompt_tokens: above, rates: self.rates(above, outputs)? })
            })
            .collect();
        RateTable::new(base, tiers?).map_err(|error| error.to_string())
    }

    fn rates(&self, above: u64, outputs: bool) -> Result<TokenRates, String> {
        let get = |bucket: Bucket| {
            let part = self.by.get(&bucket)?;
            part.rates.range(..=above).next_back().map(|(_, rate)| *rate)
        };
        let input = get(Bucket::Input).ok_or("it has no price for input tokens")?;
        let output = match get(Bucket::Output) {
            Some(output) => output,
            None if outputs => return Err("it has no price for output tokens".to_owned()),
            None => PicoUsd::ZERO,
        };
        let write = get(Bucket::CacheWrite5m).unwrap_or(input);
        Ok(TokenRates {
            input,
            cache_read: get(Bucket::CacheRead).unwrap_or(input),
            cache_write_5m: write,
            cache_write_1h: get(Bucket::CacheWrite1h).unwrap_or(write),
            output,
            reasoning: get(Bucket::Reasoning).unwrap_or(output),
            image: get(Bucket::Image).unwrap_or(input),
            audio: get(Bucket::Audio).unwrap_or(input),
            audio_output: get(Bucket::AudioOutput).unwrap_or(output),
        })
    }
}
