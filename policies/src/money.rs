//! Money as integers: pico-USD (1e-12 USD).
//!
//! Every per-token price in public catalogues is a whole number of pico-USD, so token costs never
//! round. Derived prices (compute time) round half-even once, in [`crate::ComputePrice`].
//! **Invariant:** no float ever holds money, and no operation wraps: overflow is an error.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, iter::Sum, str::FromStr};

/// Digits after the point of a US dollar.
const DECIMALS: usize = 12;
/// Pico-USD in one US dollar.
const PER_USD: u64 = 1_000_000_000_000;

/// An amount of money in pico-USD. One attempt's cost fits: the largest value is 18.4 million USD.
///
/// In human-readable formats it is a decimal string of US dollars with all twelve places
/// (`"0.000412500000"`), so that no reader passes it through a float; in binary ones an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsd(u64);

/// A sum of many amounts, in pico-USD. Written like [`PicoUsd`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PicoUsdTotal(u128);

/// An amount that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount is larger than {} USD", PicoUsd::MAX)]
pub struct MoneyError;

/// A text that is not an amount of US dollars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseMoneyError {
    /// Not `digits[.digits]`.
    #[error("`{0}` is not an amount in USD such as \"12.50\"")]
    Shape(String),
    /// More than twelve decimal places.
    #[error("`{0}` has more than 12 decimal places; the smallest unit is 1e-12 USD")]
    TooFine(String),
    /// A rate per million whose millionth part is no whole number of pico-USD.
    #[error("`{0}` has more than 6 decimal places; a rate per million is exact to 1e-6 USD")]
    TooFineRate(String),
    /// Above [`PicoUsd::MAX`].
    #[error("`{0}` is larger than the largest amount, {max} USD", max = PicoUsd::MAX)]
    TooLarge(String),
}

// === impl PicoUsd ===

impl PicoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount, about 18.4 million USD.
    pub const MAX: Self = Self(u64::MAX);

    /// An amount of `pico` times 1e-12 USD.
    #[must_use]
    pub const fn from_pico(pico: u64) -> Self {
        Self(pico)
    }

    /// Whole US dollars.
    ///
    /// # Errors
    /// [`MoneyError`] above [`PicoUsd::MAX`].
    pub const fn from_usd(usd: u64) -> Result<Self, MoneyError> {
        match usd.checked_mul(PER_USD) {
            Some(pico) => Ok(Self(pico)),
            None => Err(MoneyError),
        }
    }

    /// The price of one token from the catalogue's price of a million, such as `"1.25"`; exact.
    ///
    /// # Errors
    /// A text that is not an amount, or one with more than six decimal places.
    pub fn from_usd_per_million(text: &str) -> Result<Self, ParseMoneyError> {
        const MILLION: u128 = 1_000_000;
        let PicoUsdTotal(pico) = text.parse()?;
        if !pico.is_multiple_of(MILLION) {
            return Err(ParseMoneyError::TooFineRate(text.to_owned()));
        }
        let each = u64::try_from(pico / MILLION);
        each.map(Self).map_err(|_| ParseMoneyError::TooLarge(text.to_owned()))
    }

    /// The amount in pico-USD.
    #[must_use]
    pub const fn pico(self) -> u64 {
        self.0
    }

    /// Whether this is no money at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit.
    pub const fn add(self, other: Self) -> Result<Self, MoneyError> {
        match self.0.checked_add(other.0) {
            Some(pico) => Ok(Self(pico)),
            None => Err(MoneyError),
        }
    }

    /// This amount `count` times.
    ///
    /// # Errors
    /// [`MoneyError`] if it does not fit.
    pub const fn times(self, count: u64) -> Result<Self, MoneyError> {
        match self.0.checked_mul(count) {
            Some(pico) => Ok(Self(pico)),
            None => Err(MoneyError),
        }
    }

    /// What is left after taking `other` away; nothing, if `other` is larger.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl PicoUsd {
    /// Appends the amount in US dollars as a plain number without needless zeros: `0.0004125`,
    /// `12`. Exact, and an exact JSON number. Digit by digit, because it stands on the hot path.
    pub fn write_plain(self, out: &mut String) {
        let mut digits = [0u8; 32];
        let text = self.digits(&mut digits);
        // A point always stands before the zeros: it goes with them.
        let last = text.bytes().rposition(|byte| byte != b'0').unwrap_or(0);
        let is_whole = text.as_bytes().get(last) == Some(&b'.');
        out.push_str(&text[..if is_whole { last } else { last + 1 }]);
    }

    /// [`Self::write_plain`] as a text of its own.
    #[must_use]
    pub fn to_plain(self) -> String {
        let mut out = String::with_capacity(24);
        self.write_plain(&mut out);
        out
    }

    /// All digits, twelve places, written from the right into `buffer`.
    fn digits(self, buffer: &mut [u8; 32]) -> &str {
        let mut rest = self.0;
        let mut at = buffer.len();
        while at > buffer.len() - DECIMALS - 2 || rest > 0 {
            at -= 1;
            if at == buffer.len() - DECIMALS - 1 {
                buffer[at] = b'.';
                continue;
            }
            buffer[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        // ASCII digits and a point.
        std::str::from_utf8(&buffer[at..]).unwrap_or_default()
    }
}

impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits(&mut [0u8; 32]))
    }
}

impl FromStr for PicoUsd {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let total: PicoUsdTotal = text.parse()?;
        u64::try_from(total.0).map(Self).map_err(|_| ParseMoneyError::TooLarge(text.to_owned()))
    }
}

impl Serialize for PicoUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for PicoUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

// === impl PicoUsdTotal ===

impl PicoUsdTotal {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// An amount of `pico` times 1e-12 USD.
    #[must_use]
    pub const fn from_pico(pico: u128) -> Self {
        Self(pico)
    }

    /// The amount in pico-USD.
    #[must_use]
    pub const fn pico(self) -> u128 {
        self.0
    }

    /// Adds one amount. A u128 holds 1.8e19 times the largest [`PicoUsd`], so this never saturates
    /// in practice.
    #[must_use]
    pub const fn plus(self, amount: PicoUsd) -> Self {
        Self(self.0.saturating_add(amount.0 as u128))
    }
}

impl From<PicoUsd> for PicoUsdTotal {
    fn from(amount: PicoUsd) -> Self {
        Self(u128::from(amount.0))
    }
}

impl Sum<PicoUsd> for PicoUsdTotal {
    fn sum<I: Iterator<Item = PicoUsd>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for PicoUsdTotal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_usd = u128::from(PER_USD);
        write!(f, "{}.{:012}", self.0 / per_usd, self.0 % per_usd)
    }
}

impl FromStr for PicoUsdTotal {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || ParseMoneyError::Shape(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(shape());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > DECIMALS {
            return Err(ParseMoneyError::TooFine(text.to_owned()));
        }
        let too_large = || ParseMoneyError::TooLarge(text.to_owned());
        let usd: u128 = whole.parse().map_err(|_| too_large())?;
        let pico: u128 = format!("{fraction:0<DECIMALS$}").parse().map_err(|_| shape())?;
        usd.checked_mul(u128::from(PER_USD))
            .and_then(|whole| whole.checked_add(pico))
            .map(Self)
            .ok_or_else(too_large)
    }
}

impl Serialize for PicoUsdTotal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u128(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for PicoUsdTotal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u128::deserialize(deserializer).map(Self)
        }
    }
}
