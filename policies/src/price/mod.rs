//! What an attempt costs: per token for a provider, per engine second for the model in this
//! process.
//!
//! **Invariants:** an unknown price is [`RoutePrice::Unknown`], never zero; a cost is exact, and
//! where it is derived (compute time) it rounds half-even once in [`ComputePrice::cost`]; a worst
//! case rounds up and is never below the cost of any usage within its bounds.

mod compute;
mod dated;
mod list;
mod rates;
mod token;
mod written;

pub use compute::{ComputePrice, Power};
pub use dated::{DatedPrices, Pricing};
pub use list::{PriceList, PriceRow, undated};
pub use rates::{RateTable, Tier, TiersError, TokenRates};
pub use token::{Fees, HoursRates, PriceName, RowRates, TokenPrice};
pub use written::write_rows;

use crate::{MoneyError, PicoUsd, Usage};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// Names a price row for ever: hash of its canonical form. Entries carry it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceId(pub Arc<str>);

/// The price of a route's answers, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutePrice {
    /// Per token, from a dated row.
    Tokens(Arc<TokenPrice>),
    /// Per second of engine time, from the operator's cost of the machine.
    Compute(Arc<ComputePrice>),
    /// Nobody said. A policy refuses, or reserves a configured maximum; it is never zero.
    Unknown,
}

/// How quickly and how surely a provider serves a request, which changes what it costs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// What is served when nothing is asked for.
    #[default]
    Standard,
    /// Asynchronously, within a day.
    Batch,
    /// Cheaper, slower, at times turned away.
    Flex,
    /// Dearer and faster.
    Priority,
    /// Faster output than priority.
    Fast,
    /// Not known which one: it costs as much as the dearest.
    Unknown,
}

/// What an attempt used, as far as prices look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens.
    pub usage: Usage,
    /// Engine time attributed to it (the model in this process).
    pub engine_time: Duration,
    /// The service tier that served it.
    pub service: ServiceTier,
    /// Images in the request.
    pub images: u32,
    /// When it is billed, second of the Unix epoch: prices by the hour of the day look at it.
    pub at_unix_s: u64,
}

/// The bounds within which an attempt can end; what a reservation is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorstCase {
    /// No more prompt tokens than this.
    pub prompt_tokens: u64,
    /// No more answer tokens (seen and hidden) than this per choice.
    pub output_tokens: u64,
    /// Choices asked for (`n`), at least 1.
    pub choices: u64,
    /// Engine time the job may take before the engine stops it (compute prices only).
    pub engine_time: Duration,
    /// The service tier that is asked for.
    pub service: ServiceTier,
    /// Images in the request.
    pub images: u32,
}

// === impl PriceId, ServiceTier, Used ===

impl PriceId {
    fn of(canonical: &str) -> Self {
        Self(Arc::from(&blake3::hash(canonical.as_bytes()).to_hex()[..16]))
    }
}

impl fmt::Display for PriceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServiceTier {
    /// The tier by a provider's word for it, in a request or an answer; [`Self::Unknown`] for a word
    /// that does not say (`auto`) or that nobody knows.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "default" | "standard" | "standard_only" | "on_demand" => Self::Standard,
            "batch" => Self::Batch,
            "flex" => Self::Flex,
            "priority" | "performance" => Self::Priority,
            "fast" => Self::Fast,
            _ => Self::Unknown,
        }
    }

    /// Its name in price files and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Fast => "fast",
            Self::Unknown => "unknown",
        }
    }
}

impl Used {
    /// Tokens alone, served as usual.
    #[must_use]
    pub fn tokens(usage: Usage) -> Self {
        Self { usage, ..Self::default() }
    }
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
    pub fn cost(&self, used: &Used) -> Result<Option<PicoUsd>, MoneyError> {
        match self {
            Self::Tokens(price) => price.cost(used).map(Some),
            Self::Compute(price) => price.cost(used.engine_time).map(Some),
            Self::Unknown => Ok(None),
        }
    }

    /// Whether it has rates for a service tier: one without is refused rather than guessed.
    #[must_use]
    pub fn prices(&self, service: ServiceTier) -> bool {
        match self {
            Self::Tokens(price) => price.prices(service),
            Self::Compute(_) => service == ServiceTier::Standard,
            Self::Unknown => matches!(service, ServiceTier::Standard | ServiceTier::Unknown),
        }
    }

    /// Whether every answer of this route is free: such a route is never blocked by an exhausted
    /// money budget.
    #[must_use]
    pub fn is_free(&self) -> bool {
        match self {
            Self::Tokens(price) => price.is_free(),
            Self::Compute(price) => price.per_hour.is_zero(),
            Self::Unknown => false,
        }
    }
}
