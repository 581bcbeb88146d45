//! One dated price row: what a provider charges for one model.
//!
//! **Invariants:** a cost is exact; a worst case is never below the cost of any use within its
//! bounds, whichever hour and service tier it is billed by; a service tier that the row does not
//! price costs its dearest, never nothing.

use super::{PriceId, RateTable, ServiceTier, TiersError, Used, WorstCase};
use crate::{MoneyError, PicoUsd, Usage};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Minutes in a day.
const DAY_MINUTES: u16 = 24 * 60;

/// A dated price row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPrice {
    /// Hash of the canonical row.
    pub id: PriceId,
    /// The standard service tier's rates.
    pub standard: RateTable,
    /// Other rates at hours of the day; the first that matches holds, for the standard tier.
    pub hours: Vec<HoursRates>,
    /// Other service tiers' rates, at any hour.
    pub services: Vec<(ServiceTier, RateTable)>,
    /// What is charged beside tokens.
    pub fees: Fees,
}

/// Rates for some hours of the UTC day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoursRates {
    /// The first minute of the UTC day, 0 to 1439.
    pub from_minute: u16,
    /// The minute after the last one; before `from_minute` where midnight lies between.
    pub to_minute: u16,
    /// The rates.
    pub rates: RateTable,
}

/// What is charged beside tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fees {
    /// Once per attempt, whatever its tokens.
    pub per_request: PicoUsd,
    /// For each image in the request.
    pub per_image: PicoUsd,
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

/// Everything a row says about money.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowRates {
    /// See [`TokenPrice::standard`].
    pub standard: RateTable,
    /// See [`TokenPrice::hours`].
    pub hours: Vec<HoursRates>,
    /// See [`TokenPrice::services`].
    pub services: Vec<(ServiceTier, RateTable)>,
    /// See [`TokenPrice::fees`].
    pub fees: Fees,
}

// === impl TokenPrice ===

impl TokenPrice {
    /// A price row. Its id is the hash of everything that is given here, so the same row always has
    /// the same id and any change makes a new one.
    ///
    /// # Errors
    /// [`TiersError`] if hours are empty or a service tier is priced twice.
    pub fn new(name: PriceName<'_>, rates: RowRates) -> Result<Self, TiersError> {
        let RowRates { standard, hours, services, fees } = rates;
        for HoursRates { from_minute, to_minute, .. } in &hours {
            if from_minute == to_minute || *from_minute.max(to_minute) >= DAY_MINUTES {
                return Err(TiersError::Hours);
            }
        }
        for (at, (tier, _)) in services.iter().enumerate() {
            let twice = services.iter().take(at).any(|(other, _)| other == tier);
            if twice || matches!(tier, ServiceTier::Standard | ServiceTier::Unknown) {
                return Err(TiersError::Service);
            }
        }
        let mut row = name.canonical();
        let _ = writeln!(row, "per_request={}", fees.per_request.pico());
        if !fees.per_image.is_zero() {
            let _ = writeln!(row, "per_image={}", fees.per_image.pico());
        }
        standard.write_canonical(&mut row);
        for HoursRates { from_minute, to_minute, rates } in &hours {
            let _ = writeln!(row, "hours={from_minute}-{to_minute}");
            rates.write_canonical(&mut row);
        }
        for (tier, rates) in &services {
            let _ = writeln!(row, "service={}", tier.as_str());
            rates.write_canonical(&mut row);
        }
        Ok(Self { id: PriceId::of(&row), standard, hours, services, fees })
    }

    /// The exact cost of what was used.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn cost(&self, used: &Used) -> Result<PicoUsd, MoneyError> {
        self.tokens(used, &used.usage)?.add(self.fees(used.images)?)
    }

    /// The exact cost by its parts, which sum to [`Self::cost`]: the prompt's tokens, the answer's,
    /// and what is charged beside tokens.
    ///
    /// # Errors
    /// [`MoneyError`] if one does not fit an amount.
    pub fn parts(&self, used: &Used) -> Result<[(&'static str, PicoUsd); 3], MoneyError> {
        let prompt = Usage { output: 0, reasoning: 0, audio_output: 0, ..used.usage };
        let prompt_cost = self.tokens(used, &prompt)?;
        let answer_cost = self.tokens(used, &used.usage)?.less(prompt_cost);
        Ok([
            ("prompt_cost", prompt_cost),
            ("completion_cost", answer_cost),
            ("request_cost", self.fees(used.images)?),
        ])
    }

    /// The most an attempt within `bounds` can cost: every prompt token at the dearest prompt rate,
    /// every answer token at the dearest answer rate, over every length of prompt, hour and service
    /// tier by which it can be billed.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn worst_case(&self, bounds: &WorstCase) -> Result<PicoUsd, MoneyError> {
        let output = bounds.output_tokens.checked_mul(bounds.choices.max(1)).ok_or(MoneyError)?;
        let mut worst = PicoUsd::ZERO;
        for table in self.reachable(bounds.service) {
            worst = worst.max(table.worst(bounds.prompt_tokens, output)?);
        }
        worst.add(self.fees(bounds.images)?)
    }

    /// Whether nothing it prices ever costs anything.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.fees == Fees::default() && self.tables().all(RateTable::is_free)
    }

    /// Whether the row has rates for a service tier.
    #[must_use]
    pub fn prices(&self, service: ServiceTier) -> bool {
        matches!(service, ServiceTier::Standard | ServiceTier::Unknown)
            || self.services.iter().any(|(tier, _)| *tier == service)
    }

    /// The tokens of `usage`, which are some of those of `used`.
    fn tokens(&self, used: &Used, usage: &Usage) -> Result<PicoUsd, MoneyError> {
        // By which rates it is billed depends on the whole prompt.
        let prompt = used.usage.prompt();
        let Some(table) = self.table(used) else {
            let dearest = |table: &RateTable| table.at(prompt).cost(usage);
            return self
                .tables()
                .try_fold(PicoUsd::ZERO, |most, table| dearest(table).map(|cost| most.max(cost)));
        };
        table.at(prompt).cost(usage)
    }

    /// The table by which `used` is billed; `None` where that is not known.
    fn table(&self, used: &Used) -> Option<&RateTable> {
        match used.service {
            ServiceTier::Standard => Some(self.standard_at(used.at_unix_s)),
            ServiceTier::Unknown if self.services.is_empty() => {
                Some(self.standard_at(used.at_unix_s))
            }
            ServiceTier::Unknown => None,
            tier => self.services.iter().find(|(other, _)| *other == tier).map(|(_, rates)| rates),
        }
    }

    fn standard_at(&self, unix_s: u64) -> &RateTable {
        let minute = u16::try_from(unix_s / 60 % u64::from(DAY_MINUTES)).unwrap_or_default();
        let now = self.hours.iter().find(|hours| hours.holds(minute));
        now.map_or(&self.standard, |hours| &hours.rates)
    }

    /// Every table by which an attempt that asks for `service` can be billed.
    fn reachable(&self, service: ServiceTier) -> impl Iterator<Item = &RateTable> {
        let any = !self.prices(service) || service == ServiceTier::Unknown;
        let standard = any || service == ServiceTier::Standard;
        let of_day = self.hours.iter().map(|hours| &hours.rates);
        let services = self.services.iter().filter(move |(tier, _)| any || *tier == service);
        std::iter::once(&self.standard)
            .chain(of_day)
            .filter(move |_| standard)
            .chain(services.map(|(_, rates)| rates))
    }

    fn tables(&self) -> impl Iterator<Item = &RateTable> {
        self.reachable(ServiceTier::Unknown)
    }

    fn fees(&self, images: u32) -> Result<PicoUsd, MoneyError> {
        self.fees.per_request.add(self.fees.per_image.times(u64::from(images))?)
    }
}

impl HoursRates {
    const fn holds(&self, minute: u16) -> bool {
        let Self { from_minute, to_minute, .. } = *self;
        if from_minute < to_minute {
            from_minute <= minute && minute < to_minute
        } else {
            from_minute <= minute || minute < to_minute
        }
    }
}

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
