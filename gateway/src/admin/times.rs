//! Times as they are shown and asked for.

use super::read::bad;
use crate::{clock::Clock, refusal::Refusal};
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// RFC 3339 in UTC with whole seconds.
pub(super) fn second(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time that a parameter names: milliseconds since the Unix epoch, RFC 3339, a day of the
/// configured time zone (its beginning), or a span before now such as `15m`, `24h` or `7d`.
pub(super) fn parse(
    clock: &Clock,
    zone: &TimeZone,
    param: &str,
    text: &str,
) -> Result<u64, Refusal> {
    read(text, clock.unix_ms(), zone).ok_or_else(|| {
        let message = format!(
            "`{param}` is not a time: write milliseconds since the Unix epoch, RFC 3339, a day \
             such as 2026-11-22, or a span before now such as 24h"
        );
        bad(Some(param), message)
    })
}

pub(super) fn read(text: &str, now_ms: u64, zone: &TimeZone) -> Option<u64> {
    if let Ok(unix_ms) = text.parse::<u64>() {
        return Some(unix_ms);
    }
    if let Some(ms) = span_ms(text) {
        return Some(now_ms.saturating_sub(ms));
    }
    let time = match text.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => text.parse::<Date>().ok()?.to_zoned(zone.clone()).ok()?.timestamp(),
    };
    u64::try_from(time.as_millisecond()).ok()
}

fn span_ms(text: &str) -> Option<u64> {
    let unit_ms = match text.chars().next_back()? {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    text.get(..text.len() - 1)?.parse::<u64>().ok()?.checked_mul(unit_ms)
}
