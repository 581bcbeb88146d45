//! What an attempt costs: per token for a provider, per engine second for the model in this
//! process.
//!
//! **Invariants:** an unknown price is [`RoutePrice::Unknown`], never zero; a cost is exact, and
//! where it is derived (compute time) it rounds half-even once in [`ComputePrice::cost`]; a worst
//! case rounds up and is never below the cost of any usage within its bounds.

use crate::{MoneyError, PicoUsd, Usage};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

/// Names a price row for ever: hash of its canonical form. Entries carry it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceId(pub Arc<str>);

/// The price of a route's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePrice {
    /// Per token, from a dated row.
    Tokens(Arc<TokenPrice>),
    /// Per second of engine time, from the operator's cost of the machine.
    Compute(Arc<ComputePrice>),
    /// Nobody said. A policy refuses, or reserves a configured maximum; it is never zero.
    Unknown,
}

/// A dated price row: rates per token, with tiers by prompt size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// Hash of the canonical row.
    pub id: PriceId,
    /// The rates below every tier.
    pub base: TokenRates,
    /// Higher rates for long prompts, ascending by `above_prompt_tokens`. The highest tier reached
    /// applies to **all** tokens of the attempt.
    pub tiers: Vec<Tier>,
    /// Charged once per attempt, whatever its tokens.
    pub per_request: PicoUsd,
}

/// What a price row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceName<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The model, by the provider's name.
    pub model: &'a str,
    /// First day on which it holds, `YYYY-MM-DD`.
    pub effective_from: &'a str,
}

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
}

/// Rates that apply to the whole attempt once its prompt is longer than a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// The tier applies when the prompt has more tokens than this.
    pub above_prompt_tokens: u64,
    /// The rates then.
    pub rates: TokenRates,
}

/// The operator's price of engine time: the machine's amortised cost and its power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputePrice {
    /// Hash of the canonical row.
    pub id: PriceId,
    /// US dollars per hour of busy engine, power included.
    pub per_hour: PicoUsd,
}

/// The bounds within which an attempt can end; what a reservation is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// No more prompt tokens than this.
    pub prompt_tokens: u64,
    /// No more answer tokens (seen and hidden) than this per choice.
    pub output_tokens: u64,
    /// Choices asked for (`n`), at least 1.
    pub choices: u64,
    /// Engine time the job may take before the engine stops it (compute prices only).
    pub engine_time: Duration,
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
}

// === impl TokenPrice ===

impl TokenPrice {
    /// A price row. Its id is the hash of everything that is given here, so the same row always has
    /// the same id and any change makes a new one.
    ///
    /// # Errors
    /// [`TiersError`] if the tiers do not ascend in bounds and rates.
    pub fn new(
        name: PriceName<'_>,
        base: TokenRates,
        tiers: Vec<Tier>,
        per_request: PicoUsd,
    ) -> Result<Self, TiersError> {
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
        let mut row = name.canonical();
        let _ = writeln!(row, "per_request={}", per_request.pico());
        let zero = Tier { above_prompt_tokens: 0, rates: base };
        for Tier { above_prompt_tokens, rates } in std::iter::once(&zero).chain(&tiers) {
            let _ = write!(row, "above={above_prompt_tokens}");
            for rate in rates.all() {
                let _ = write!(row, " {}", rate.pico());
            }
            row.push('\n');
        }
        Ok(Self { id: PriceId::of(&row), base, tiers, per_request })
    }

    /// The exact cost of `usage`.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn cost(&self, usage: &Usage) -> Result<PicoUsd, MoneyError> {
        let rates = self.rates(usage.prompt());
        [
            (rates.input, usage.input),
            (rates.cache_read, usage.cache_read),
            (rates.cache_write_5m, usage.cache_write_5m),
            (rates.cache_write_1h, usage.cache_write_1h),
            (rates.output, usage.output),
            (rates.reasoning, usage.reasoning),
        ]
        .into_iter()
        .try_fold(self.per_request, |sum, (rate, tokens)| sum.add(rate.times(tokens)?))
    }

    /// The exact cost of `usage` by its parts, which sum to [`Self::cost`]: the prompt's tokens, the
    /// answer's, and what is charged per request.
    ///
    /// # Errors
    /// [`MoneyError`] if one does not fit an amount.
    pub fn parts(&self, usage: &Usage) -> Result<[(&'static str, PicoUsd); 3], MoneyError> {
        let prompt = Usage { output: 0, reasoning: 0, ..*usage };
        let prompt_cost = self.cost(&prompt)?.less(self.per_request);
        let answer_cost = self.cost(usage)?.less(self.per_request).less(prompt_cost);
        Ok([
            ("prompt_cost", prompt_cost),
            ("completion_cost", answer_cost),
            ("request_cost", self.per_request),
        ])
    }

    /// The most an attempt within `bounds` can cost: every prompt token at the dearest prompt rate,
    /// every answer token at the dearest answer rate, over every tier the prompt can reach.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn worst_case(&self, bounds: &WorstCase) -> Result<PicoUsd, MoneyError> {
        let output = bounds.output_tokens.checked_mul(bounds.choices.max(1)).ok_or(MoneyError)?;
        let reachable = self
            .tiers
            .iter()
            .filter(|tier| bounds.prompt_tokens > tier.above_prompt_tokens)
            .map(|tier| tier.rates);
        let mut worst = PicoUsd::ZERO;
        for rates in std::iter::once(self.base).chain(reachable) {
            let prompt = rates
                .input
                .max(rates.cache_read)
                .max(rates.cache_write_5m)
                .max(rates.cache_write_1h)
                .times(bounds.prompt_tokens)?;
            let answer = rates.output.max(rates.reasoning).times(output)?;
            worst = worst.max(prompt.add(answer)?);
        }
        worst.add(self.per_request)
    }

    fn rates(&self, prompt_tokens: u64) -> &TokenRates {
        self.tiers
            .iter()
            .rev()
            .find(|tier| prompt_tokens > tier.above_prompt_tokens)
            .map_or(&self.base, |tier| &tier.rates)
    }
}

// === impl PriceName, PriceId, TokenRates ===

impl PriceName<'_> {
    /// Lengths stand before the words, so that no two names look the same.
    fn canonical(&self) -> String {
        let Self { provider, model, effective_from } = self;
        format!(
            "token price 1\nprovider={}:{provider}\nmodel={}:{model}\nfrom={effective_from}\n",
            provider.len(),
            model.len()
        )
    }
}

impl PriceId {
    fn of(canonical: &str) -> Self {
        Self(Arc::from(&blake3::hash(canonical.as_bytes()).to_hex()[..16]))
    }
}

impl TokenRates {
    const fn all(&self) -> [PicoUsd; 6] {
        let Self { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning } = *self;
        [input, cache_read, cache_write_5m, cache_write_1h, output, reasoning]
    }

    /// Whether `other` is at least as dear in every bucket.
    fn covered_by(&self, other: &Self) -> bool {
        self.all().iter().zip(other.all()).all(|(mine, theirs)| *mine <= theirs)
    }
}

// === impl ComputePrice ===

/// Nanoseconds in one hour.
const HOUR_NS: u128 = 3_600_000_000_000;

impl ComputePrice {
    /// The price of engine time from what the machine costs in an hour.
    #[must_use]
    pub fn from_usd_per_hour(per_hour: PicoUsd) -> Self {
        let id = PriceId::of(&format!("compute price 1\nper_hour={}\n", per_hour.pico()));
        Self { id, per_hour }
    }

    /// The cost of `engine_time`, rounded half-even to a pico-USD. The one place where a derived
    /// price rounds.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn cost(&self, engine_time: Duration) -> Result<PicoUsd, MoneyError> {
        let product = self.product(engine_time)?;
        let (quotient, rest) = (product / HOUR_NS, product % HOUR_NS);
        let up = match (rest * 2).cmp(&HOUR_NS) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => quotient % 2 == 1,
        };
        amount(quotient + u128::from(up))
    }

    /// The most that engine time within `bounds` can cost, rounded up.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn worst_case(&self, bounds: &WorstCase) -> Result<PicoUsd, MoneyError> {
        amount(self.product(bounds.engine_time)?.div_ceil(HOUR_NS))
    }

    fn product(&self, engine_time: Duration) -> Result<u128, MoneyError> {
        u128::from(self.per_hour.pico()).checked_mul(engine_time.as_nanos()).ok_or(MoneyError)
    }
}

fn amount(pico: u128) -> Result<PicoUsd, MoneyError> {
    u64::try_from(pico).map(PicoUsd::from_pico).map_err(|_| MoneyError)
}

// === impl RoutePrice ===

impl RoutePrice {
    /// The id an entry carries; `None` when the price is unknown.
    #[must_use]
    pub fn id(&self) -> Option<&PriceId> {
        match self {
            Self::Tokens(price) => Some(&price.id),
            Self::Compute(price) => Some(&price.id),
            Self::Unknown => None,
        }
    }

    /// The most an attempt within `bounds` can cost; `None` when the price is unknown.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn worst_case(&self, bounds: &WorstCase) -> Result<Option<PicoUsd>, MoneyError> {
        match self {
            Self::Tokens(price) => price.worst_case(bounds).map(Some),
            Self::Compute(price) => price.worst_case(bounds).map(Some),
            Self::Unknown => Ok(None),
        }
    }

    /// What was used, priced; `None` when the price is unknown.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn cost(
        &self,
        usage: &Usage,
        engine_time: Duration,
    ) -> Result<Option<PicoUsd>, MoneyError> {
        match self {
            Self::Tokens(price) => price.cost(usage).map(Some),
            Self::Compute(price) => price.cost(engine_time).map(Some),
            Self::Unknown => Ok(None),
        }
    }

    /// Whether every answer of this route is free: such a route is never blocked by an exhausted
    /// money budget.
    #[must_use]
    pub fn is_free(&self) -> bool {
        match self {
            Self::Tokens(price) => {
                let free = |rates: &TokenRates| *rates == TokenRates::default();
                price.per_request.is_zero()
                    && free(&price.base)
                    && price.tiers.iter().all(|tier| free(&tier.rates))
            }
            Self::Compute(price) => price.per_hour.is_zero(),
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for PriceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
