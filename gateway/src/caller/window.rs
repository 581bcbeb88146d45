//! The window of a budget: calendar or rolling.
//!
//! **Invariant:** the written form (`day`, `rolling:24h`) and the stored form name the same window;
//! new windows join at the end of the stored form, so that old journals read as they were written.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Sub-buckets of a rolling window; the oldest is counted whole.
pub(crate) const SUB_BUCKETS: u64 = 60;
/// Shortest and longest rolling window, in seconds: a minute and a year.
const ROLLING_SECONDS: std::ops::RangeInclusive<u32> = 60..=31_622_400;

/// The window of a budget. Calendar windows begin in the budget's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// Each hour of the clock.
    Hour,
    /// Each day.
    Day,
    /// Each month.
    Month,
    /// Since the budget exists.
    Total,
    /// Each week, from Monday.
    Week,
    /// The last so many seconds, in 60 sub-buckets of which the oldest is counted whole.
    Rolling(u32),
}

/// A window that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a window: hour, day, week, month, total, or rolling with a span from 1m to 366d \
     such as rolling:24h"
)]
pub struct NotAWindow(String);

/// The stored form.
#[derive(Serialize, Deserialize)]
enum Stored {
    Hour,
    Day,
    Month,
    Total,
    Week,
    Rolling(u32),
}

impl Window {
    /// Whether its start depends on a time zone.
    pub(crate) fn is_calendar(self) -> bool {
        !matches!(self, Self::Total | Self::Rolling(_))
    }

    /// Length of a rolling window's sub-bucket in milliseconds; `None` for a calendar window.
    pub(crate) fn sub_bucket_ms(self) -> Option<u64> {
        match self {
            Self::Rolling(seconds) => Some((u64::from(seconds) * 1_000).div_ceil(SUB_BUCKETS)),
            _ => None,
        }
    }
}

impl Window {
    /// Appends its name, such as `day` or `rolling:24h`.
    pub(crate) fn write(self, out: &mut String) {
        out.push_str(match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
            Self::Rolling(seconds) => {
                let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
                let whole = units.iter().find(|(unit, _)| seconds % unit == 0);
                let (unit, name) = whole.copied().unwrap_or((1, 's'));
                out.push_str(&format!("rolling:{}{name}", seconds / unit));
                return;
            }
        });
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = String::new();
        self.write(&mut name);
        f.write_str(&name)
    }
}

impl FromStr for Window {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, NotAWindow> {
        let wrong = || NotAWindow(text.chars().take(64).collect());
        Ok(match text {
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "total" => Self::Total,
            _ => {
                let span = text.strip_prefix("rolling:").ok_or_else(wrong)?;
                let unit = match span.chars().last() {
                    Some('s') => 1,
                    Some('m') => 60,
                    Some('h') => 3_600,
                    Some('d') => 86_400,
                    _ => return Err(wrong()),
                };
                let count: u32 = span[..span.len() - 1].parse().map_err(|_| wrong())?;
                let seconds = count.checked_mul(unit).ok_or_else(wrong)?;
                if !ROLLING_SECONDS.contains(&seconds) {
                    return Err(wrong());
                }
                Self::Rolling(seconds)
            }
        })
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let stored = match self {
            Self::Hour => Stored::Hour,
            Self::Day => Stored::Day,
            Self::Month => Stored::Month,
            Self::Total => Stored::Total,
            Self::Week => Stored::Week,
            Self::Rolling(seconds) => Stored::Rolling(*seconds),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(de::Error::custom);
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::Hour => Self::Hour,
            Stored::Day => Self::Day,
            Stored::Month => Self::Month,
            Stored::Total => Self::Total,
            Stored::Week => Self::Week,
            Stored::Rolling(seconds) => Self::Rolling(seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_reads_as_it_is_written() {
        for text in ["hour", "day", "week", "month", "total", "rolling:24h", "rolling:90m"] {
            let window: Window = text.parse().unwrap();
            let stored = postcard::to_allocvec(&window).unwrap();
            assert_eq!(postcard::from_bytes::<Window>(&stored).unwrap(), window);
            let shown = window.to_string();
            assert_eq!(shown.parse::<Window>().unwrap(), window, "{shown}");
        }
        assert_eq!("rolling:24h".parse::<Window>().unwrap().to_string(), "rolling:1d");
        for wrong in ["year", "rolling:", "rolling:1s", "rolling:9999d", "rolling:-1h"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_stored_form_of_the_first_windows_is_that_of_the_first_journal() {
        for (window, byte) in
            [(Window::Hour, 0), (Window::Day, 1), (Window::Month, 2), (Window::Total, 3)]
        {
            assert_eq!(postcard::to_allocvec(&window).unwrap(), [byte]);
        }
    }
}
