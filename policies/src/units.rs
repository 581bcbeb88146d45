//! Numbers of policy files with their units, exact.
//!
//! **Invariant:** a number is a fraction of two integers and compares by cross multiplication; no
//! float is ever made, so a boundary is where it was written.

use crate::{
    PicoUsd,
    file::{FileError, Node},
};
use std::cmp::Ordering;

/// A number that is not negative: `num / den`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) num: u64,
    /// Never 0.
    pub(crate) den: u64,
}

/// What a number counts, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Tokens, requests, messages: `4096`.
    Count,
    /// `"800ms"`; held in microseconds.
    Duration,
    /// `"1.00"` US dollars; held in pico-USD.
    Usd,
    /// `0.1`, from 0 to 1.
    Fraction,
    /// Hour of the day, 0 to 23.
    Hour,
    /// `"17:30"`; held in minutes.
    TimeOfDay,
    /// `"mon"` to `"sun"`; held as 1 to 7.
    Weekday,
}

/// Names of weekdays, Monday first.
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Units of time and their microseconds.
const DURATIONS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

// === impl Number ===

impl Number {
    pub(crate) const fn whole(num: u64) -> Self {
        Self { num, den: 1 }
    }

    /// `part` of `of`; nothing of nothing is nothing.
    pub(crate) const fn fraction(part: u64, of: u64) -> Self {
        if of == 0 { Self::whole(0) } else { Self { num: part, den: of } }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Number {}
impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let cross = |a: &Self, b: &Self| u128::from(a.num) * u128::from(b.den);
        cross(self, other).cmp(&cross(other, self))
    }
}

// === impl Unit ===

impl Unit {
    /// How a number of this unit is written.
    pub(crate) const fn example(self) -> &'static str {
        match self {
            Self::Count => "a whole number such as 4096",
            Self::Duration => "a time such as \"800ms\" or \"2s\"",
            Self::Usd => "US dollars as text such as \"1.00\"",
            Self::Fraction => "a fraction from 0 to 1 such as 0.1",
            Self::Hour => "an hour from 0 to 23",
            Self::TimeOfDay => "a time of day such as \"17:30\"",
            Self::Weekday => "a day such as \"mon\"",
        }
    }

    /// Reads a number of this unit.
    pub(crate) fn read(self, node: &Node<'_>) -> Result<Number, FileError> {
        let wrong = || node.value_error(format!("`{}` is not {}", node.written(), self.example()));
        let text = || node.text(self.example());
        let (num, den) = match self {
            Self::Count => (node.whole(self.example())?, 1),
            Self::Duration => (duration(text()?).ok_or_else(wrong)?, 1),
            Self::Usd => {
                let amount = text()?.parse::<PicoUsd>();
                (amount.map_err(|e| node.value_error(e.to_string()))?.pico(), 1)
            }
            Self::Fraction => {
                let digits = node.decimal(self.example())?;
                decimal(digits).filter(|(num, den)| num <= den).ok_or_else(wrong)?
            }
            Self::Hour => match node.whole(self.example())? {
                hour @ 0..24 => (hour, 1),
                _ => return Err(wrong()),
            },
            Self::TimeOfDay => (time_of_day(text()?).ok_or_else(wrong)?, 1),
            Self::Weekday => {
                let day = text()?;
                let known = WEEKDAYS.iter().position(|name| *name == day);
                let ix = known.ok_or_else(|| wrong().suggest(day, &WEEKDAYS))?;
                (ix as u64 + 1, 1)
            }
        };
        Ok(Number { num, den })
    }

    /// A number of this unit as an explanation shows it.
    pub(crate) fn show(self, number: Number) -> String {
        let Number { num, den } = number;
        match self {
            Self::Count | Self::Hour => num.to_string(),
            Self::Duration if num.is_multiple_of(1_000) => format!("{}ms", num / 1_000),
            Self::Duration => format!("{num}us"),
            Self::Usd => PicoUsd::from_pico(num).to_string(),
            Self::Fraction => {
                let shown = u128::from(num) * 1_000_000 / u128::from(den);
                format!("{}.{:06}", shown / 1_000_000, shown % 1_000_000)
            }
            Self::TimeOfDay => format!("{:02}:{:02}", num / 60, num % 60),
            Self::Weekday => usize::try_from(num)
                .ok()
                .and_then(|day| WEEKDAYS.get(day.wrapping_sub(1)))
                .map_or_else(|| num.to_string(), |day| (*day).to_owned()),
        }
    }
}

/// `12.50` as 1250 / 100; at most nine places.
fn decimal(text: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let den = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let places = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    Some((whole.parse::<u64>().ok()?.checked_mul(den)?.checked_add(places)?, den))
}

/// `1.5s` in microseconds; `None` unless it is a whole number of them.
fn duration(text: &str) -> Option<u64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(at)?;
    let (_, us) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    let (num, den) = decimal(number)?;
    let product = u128::from(num) * u128::from(*us);
    let den = u128::from(den);
    if product.is_multiple_of(den) { u64::try_from(product / den).ok() } else { None }
}

/// `17:30` in minutes.
fn time_of_day(text: &str) -> Option<u64> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_exactly() {
        assert_eq!(decimal("0.1"), Some((1, 10)));
        assert_eq!(decimal("12.50"), Some((1250, 100)));
        assert_eq!(decimal("1e-3"), None);
        assert_eq!(decimal("-1"), None);
        assert_eq!(duration("800ms"), Some(800_000));
        assert_eq!(duration("1.5s"), Some(1_500_000));
        assert_eq!(duration("0.5us"), None);
        assert_eq!(duration("800"), None);
        assert_eq!(time_of_day("09:30"), Some(570));
        assert_eq!(time_of_day("24:00"), None);
        assert_eq!(time_of_day("9:30"), None);
    }

    #[test]
    fn a_tenth_is_a_tenth_at_the_largest_amounts() {
        let tenth = Number { num: 1, den: 10 };
        let limit = u64::MAX - 5;
        assert_eq!(Number::fraction(limit / 10, limit), tenth);
        assert!(Number::fraction(limit / 10 - 1, limit) < tenth);
        assert!(Number::fraction(limit / 10 + 1, limit) > tenth);
        assert!(Number::fraction(0, 0) < tenth);
    }
}
