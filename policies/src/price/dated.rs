//! A route's price over time: which row holds when a request is admitted.
//!
//! **Invariants:** a row that becomes effective later takes effect by itself, at the first second of
//! its UTC day; before the first row the price is unknown, never the nearest one's.

use super::{RoutePrice, TokenPrice};
use std::sync::Arc;

/// Seconds in a day.
const DAY_S: u64 = 86_400;

/// The price of a route, now and later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// The same at any time.
    Always(RoutePrice),
    /// By the day.
    Dated(Arc<DatedPrices>),
}

/// One model's rows with the seconds from which they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedPrices {
    /// Ascending by the second of the Unix epoch.
    rows: Vec<(u64, Arc<TokenPrice>)>,
}

// === impl Pricing, DatedPrices ===

impl Pricing {
    /// The price of a request admitted at this second of the Unix epoch.
    #[must_use]
    pub fn at(&self, unix_s: u64) -> RoutePrice {
        match self {
            Self::Always(price) => price.clone(),
            Self::Dated(dated) => dated.at(unix_s).map_or(RoutePrice::Unknown, RoutePrice::Tokens),
        }
    }

    /// When the price changes next after a second of the Unix epoch, if it is known to.
    #[must_use]
    pub fn changes_after(&self, unix_s: u64) -> Option<u64> {
        match self {
            Self::Always(_) => None,
            Self::Dated(dated) => {
                dated.rows.iter().map(|(from, _)| *from).find(|from| *from > unix_s)
            }
        }
    }
}

impl DatedPrices {
    /// Rows by their first days (`YYYY-MM-DD`); `None` without a single row, or where a day is none.
    #[must_use]
    pub fn new<'a>(rows: impl Iterator<Item = (&'a str, Arc<TokenPrice>)>) -> Option<Self> {
        let mut dated: Vec<_> = rows
            .map(|(day, price)| first_second(day).map(|from| (from, price)))
            .collect::<Option<_>>()?;
        dated.sort_by_key(|(from, _)| *from);
        (!dated.is_empty()).then_some(Self { rows: dated })
    }

    /// The row that holds at this second of the Unix epoch.
    #[must_use]
    pub fn at(&self, unix_s: u64) -> Option<Arc<TokenPrice>> {
        let after = self.rows.partition_point(|(from, _)| *from <= unix_s);
        self.rows.get(after.checked_sub(1)?).map(|(_, price)| Arc::clone(price))
    }
}

/// The first second of a UTC day (`YYYY-MM-DD`) since the Unix epoch; 0 for days before it.
pub(crate) fn first_second(day: &str) -> Option<u64> {
    let number = |range| day.get(range).and_then(|part: &str| part.parse::<i64>().ok());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Days of the proleptic Gregorian calendar, counted in years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(u64::try_from(days).unwrap_or(0) * DAY_S)
}

#[cfg(test)]
mod tests {
    use super::first_second;

    #[test]
    fn days_begin_at_their_first_second() {
        for (day, seconds) in [
            ("1970-01-01", 0),
            ("1970-01-02", 86_400),
            ("1969-12-31", 0),
            ("2000-02-29", 951_782_400),
            ("2024-03-01", 1_709_251_200),
            ("2026-11-26", 1_795_651_200),
        ] {
            assert_eq!(first_second(day), Some(seconds), "{day}");
        }
        assert_eq!(first_second("today"), None);
    }
}
