//! Where budget windows begin.
//!
//! **Invariant:** a window's start is a function of the time and the configured time zone alone,
//! so nothing is ever reset by a job, and a clock that steps back finds the same windows again.

use crate::caller::Window;
use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};

/// Kinds of calendar windows.
const CALENDAR_WINDOWS: usize = 5;
const HOUR_MS: i64 = 3_600_000;

/// One window in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its first millisecond since the Unix epoch.
    pub(crate) start: u64,
    /// The next window's first; `None` for [`Window::Total`]. For a rolling window the bounds are
    /// those of its current sub-bucket.
    pub(crate) end: Option<u64>,
}

/// Finds windows; remembers the last of each kind, so that most answers cost two comparisons.
#[derive(Debug)]
pub(crate) struct Calendar {
    zone: TimeZone,
    last: [Option<Span>; CALENDAR_WINDOWS],
}

impl Calendar {
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self { zone, last: [None; CALENDAR_WINDOWS] }
    }

    /// The window of `unix_ms`.
    pub(crate) fn span(&mut self, window: Window, unix_ms: u64) -> Span {
        if let Some(length) = window.sub_bucket_ms() {
            let start = unix_ms - unix_ms % length.max(1);
            return Span { start, end: start.checked_add(length) };
        }
        let slot = &mut self.last[slot(window)];
        if let Some(span) = slot
            && span.start <= unix_ms
            && span.end.is_none_or(|end| unix_ms < end)
        {
            return *span;
        }
        let span = find(&self.zone, window, unix_ms);
        *slot = Some(span);
        span
    }
}

fn slot(window: Window) -> usize {
    match window {
        Window::Hour => 0,
        Window::Day => 1,
        Window::Week => 2,
        Window::Month => 3,
        Window::Total | Window::Rolling(_) => 4,
    }
}

fn find(zone: &TimeZone, window: Window, unix_ms: u64) -> Span {
    let forever = Span { start: 0, end: None };
    let instant = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let Some(instant) = instant else { return forever };
    let now = instant.to_zoned(zone.clone());
    let bounds = match window {
        Window::Total | Window::Rolling(_) => return forever,
        Window::Hour => {
            // Hours of the local clock: offsets of half an hour move their starts.
            let offset_ms = i64::from(now.offset().seconds()) * 1000;
            let local = instant.as_millisecond() + offset_ms;
            let start = local - local.rem_euclid(HOUR_MS) - offset_ms;
            Some((start, start + HOUR_MS))
        }
        Window::Day => {
            let next = now.tomorrow().and_then(|day| day.start_of_day());
            between(now.start_of_day(), next)
        }
        Window::Week => {
            let back = i64::from(now.weekday().to_monday_zero_offset());
            let monday = now.date().checked_sub(back.days());
            let at = |day: jiff::civil::Date| day.to_zoned(zone.clone());
            let next = monday.clone().and_then(|day| day.checked_add(7.days())).and_then(at);
            between(monday.and_then(at), next)
        }
        Window::Month => {
            let start = now.first_of_month().and_then(|day| day.start_of_day());
            let next = now
                .last_of_month()
                .and_then(|day| day.tomorrow())
                .and_then(|day| day.start_of_day());
            between(start, next)
        }
    };
    match bounds {
        Some((start, end)) => {
            Span { start: u64::try_from(start).unwrap_or(0), end: u64::try_from(end).ok() }
        }
        None => forever,
    }
}

fn between(
    start: Result<Zoned, jiff::Error>,
    end: Result<Zoned, jiff::Error>,
) -> Option<(i64, i64)> {
    let ms = |at: Zoned| at.timestamp().as_millisecond();
    Some((ms(start.ok()?), ms(end.ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn span(window: Window, at: &str) -> (u64, Option<u64>) {
        let mut calendar = Calendar::new(TimeZone::get("Europe/Berlin").unwrap());
        let span = calendar.span(window, ms(at));
        (span.start, span.end)
    }

    #[test]
    fn days_are_23_and_25_hours_long_when_the_clocks_change() {
        // 29 March 2026: from +01:00 to +02:00. 25 October 2026: back.
        let spring = span(Window::Day, "2026-03-29T12:00:00Z");
        assert_eq!(spring, (ms("2026-03-28T23:00:00Z"), Some(ms("2026-03-29T22:00:00Z"))));
        let autumn = span(Window::Day, "2026-10-25T12:00:00Z");
        assert_eq!(autumn, (ms("2026-10-24T22:00:00Z"), Some(ms("2026-10-25T23:00:00Z"))));
    }

    #[test]
    fn months_begin_at_local_midnight() {
        let march = span(Window::Month, "2026-03-31T21:59:59Z");
        assert_eq!(march, (ms("2026-02-28T23:00:00Z"), Some(ms("2026-03-31T22:00:00Z"))));
        assert_eq!(span(Window::Month, "2026-03-31T22:00:00Z").0, ms("2026-03-31T22:00:00Z"));
    }

    #[test]
    fn weeks_begin_on_monday_and_lose_an_hour_in_spring() {
        // 29 March 2026 is a Sunday, the day the clocks go forward.
        let week = span(Window::Week, "2026-03-29T12:00:00Z");
        assert_eq!(week, (ms("2026-03-22T23:00:00Z"), Some(ms("2026-03-29T22:00:00Z"))));
        assert_eq!(span(Window::Week, "2026-03-29T22:00:00Z").0, ms("2026-03-29T22:00:00Z"));
    }

    #[test]
    fn a_rolling_window_moves_by_a_sixtieth() {
        let hour = span(Window::Rolling(3_600), "2026-05-01T10:00:30Z");
        assert_eq!(hour, (ms("2026-05-01T10:00:00Z"), Some(ms("2026-05-01T10:01:00Z"))));
    }

    #[test]
    fn hours_follow_half_hour_offsets() {
        let mut calendar = Calendar::new(TimeZone::get("Asia/Kolkata").unwrap());
        let hour = calendar.span(Window::Hour, ms("2026-01-01T00:10:00Z"));
        assert_eq!(hour.start, ms("2025-12-31T23:30:00Z"));
    }

    #[test]
    fn going_back_in_time_finds_the_same_window() {
        let mut calendar = Calendar::new(TimeZone::UTC);
        let first = calendar.span(Window::Day, ms("2026-05-01T10:00:00Z"));
        calendar.span(Window::Day, ms("2026-05-02T10:00:00Z"));
        assert_eq!(calendar.span(Window::Day, ms("2026-05-01T23:00:00Z")), first);
    }
}
