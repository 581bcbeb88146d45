//! What the model in this process costs: the machine's hour, by attributed engine time.
//!
//! **Invariant:** a cost rounds half-even once, in [`ComputePrice::cost`]; a worst case rounds up.

use super::{PriceId, WorstCase};
use crate::{MoneyError, PicoUsd};
use serde::{Deserialize, Serialize};
use std::{fmt::Write, time::Duration};

/// Nanoseconds in one hour.
const HOUR_NS: u128 = 3_600_000_000_000;
/// Milliwatts in one kilowatt.
const KILOWATT_MW: u128 = 1_000_000;

/// The operator's price of engine time: the machine's amortised cost and its power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputePrice {
    /// Hash of the canonical row.
    pub id: PriceId,
    /// US dollars per hour of busy engine, power included.
    pub per_hour: PicoUsd,
    /// What of it is the power it draws.
    pub power_per_hour: PicoUsd,
}

/// The power a machine draws while its engine works, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// Milliwatts, above what it draws anyway.
    pub milliwatts: u64,
    /// US dollars per kilowatt-hour.
    pub usd_per_kwh: PicoUsd,
}

// === impl ComputePrice ===

impl ComputePrice {
    /// The price of engine time from what the machine costs in an hour.
    #[must_use]
    pub fn from_usd_per_hour(per_hour: PicoUsd) -> Self {
        Self::with_id(per_hour, PicoUsd::ZERO)
    }

    /// The price of engine time from what the machine costs in an hour without its power, and the
    /// power. The product of watts and price rounds up to a pico-USD an hour.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn with_power(machine_per_hour: PicoUsd, power: Power) -> Result<Self, MoneyError> {
        let Power { milliwatts, usd_per_kwh } = power;
        let product = u128::from(milliwatts).checked_mul(u128::from(usd_per_kwh.pico()));
        let power = amount(product.ok_or(MoneyError)?.div_ceil(KILOWATT_MW))?;
        Ok(Self::with_id(machine_per_hour.add(power)?, power))
    }

    fn with_id(per_hour: PicoUsd, power_per_hour: PicoUsd) -> Self {
        let mut row = format!("compute price 1\nper_hour={}\n", per_hour.pico());
        if !power_per_hour.is_zero() {
            let _ = writeln!(row, "power={}", power_per_hour.pico());
        }
        Self { id: PriceId::of(&row), per_hour, power_per_hour }
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

    /// What the machine costs, without the power of a working engine, while its engine is idle for
    /// `idle`; rounded half-even. No request pays it: it is reported apart.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit an amount.
    pub fn idle_cost(&self, idle: Duration) -> Result<PicoUsd, MoneyError> {
        Self { per_hour: self.per_hour.less(self.power_per_hour), ..self.clone() }.cost(idle)
    }

    fn product(&self, engine_time: Duration) -> Result<u128, MoneyError> {
        u128::from(self.per_hour.pico()).checked_mul(engine_time.as_nanos()).ok_or(MoneyError)
    }
}

fn amount(pico: u128) -> Result<PicoUsd, MoneyError> {
    u64::try_from(pico).map(PicoUsd::from_pico).map_err(|_| MoneyError)
}
