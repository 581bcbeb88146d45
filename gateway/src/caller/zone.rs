//! The time zone of a budget's calendar windows.
//!
//! **Invariant:** a zone that was taken from an operator is one of the tz database, under its own
//! name; the stored form is that name.

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, sync::Arc};

/// A zone of the tz database, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(Arc<str>);

/// A budget's zone was changed while a window ran: that window ends as it would have, so that what
/// was spent in it stays spent. The windows of the new zone come after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The zone of the window that runs.
    pub before: Zone,
    /// When that window ends, milliseconds since the Unix epoch.
    pub until_unix_ms: u64,
}

/// A zone that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown time zone `{0}`: write a name of the tz database such as \"UTC\" or \"Europe/Berlin\""
)]
pub struct NotAZone(String);

impl Zone {
    /// Its rules. A name that this program's tz database lacks, which only a journal of another
    /// version can hold, is UTC.
    #[must_use]
    pub fn rules(&self) -> TimeZone {
        TimeZone::get(&self.0).unwrap_or_else(|error| {
            tracing::error!(%error, zone = %self.0, "taken for UTC");
            TimeZone::UTC
        })
    }
}

impl From<&TimeZone> for Zone {
    /// Every zone that a configuration can name has a name.
    fn from(rules: &TimeZone) -> Self {
        Self(rules.iana_name().unwrap_or("UTC").into())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Zone {
    type Err = NotAZone;

    fn from_str(text: &str) -> Result<Self, NotAZone> {
        match TimeZone::get(text) {
            Ok(rules) => Ok(Self(rules.iana_name().unwrap_or(text).into())),
            Err(_) => Err(NotAZone(text.chars().take(64).collect())),
        }
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let human = deserializer.is_human_readable();
        let text = String::deserialize(deserializer)?;
        // What was stored is believed: a journal must not become unreadable with the tz database.
        if human { text.parse().map_err(de::Error::custom) } else { Ok(Self(text.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_goes_by_its_own_name_and_no_other_is_one() {
        let zone: Zone = "europe/berlin".parse().unwrap();
        assert_eq!(zone.to_string(), "Europe/Berlin");
        assert_eq!(Zone::from(&zone.rules()), zone);
        let stored = postcard::to_allocvec(&zone).unwrap();
        assert_eq!(postcard::from_bytes::<Zone>(&stored).unwrap(), zone);
        for wrong in ["", "Mars/X", "+01:00"] {
            assert!(wrong.parse::<Zone>().is_err(), "{wrong}");
        }
    }
}
