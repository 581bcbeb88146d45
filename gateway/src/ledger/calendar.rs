//! Where budget windows begin.
//!
//! **Invariant:** a window's start is a function of the time, the budget's time zone and the changes
//! of that zone alone, so nothing is ever reset by a job, and a clock that steps back finds the same
//! windows again. A window that runs when its zone is changed ends as it would have.

use crate::caller::{BudgetSpec, Turn, Window, Zone};
use jiff::{Timestamp, ToSpan as _, Zoned, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Kinds of calendar windows.
const CALENDAR_WINDOWS: [Window; 4] = [Window::Hour, Window::Day, Window::Week, Window::Month];
/// Changes of the configured zone that are remembered; a window that ran through more of them is
/// taken to have ended.
const CHANGES_MAX: usize = 8;
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

/// The configured zone, and those it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ZoneHistory {
    pub(crate) zone: Zone,
    /// Former zones, the oldest first, each with the time at which it was given up.
    pub(crate) before: Vec<(Zone, u64)>,
}

/// Finds windows; remembers the last of each kind and zone, so that most answers cost two
/// comparisons.
#[derive(Debug)]
pub(crate) struct Calendar {
    usual: Zone,
    /// Those of the usual zone, which most budgets follow: found without looking for the zone.
    of_usual: Spans,
    /// For each calendar window: the zones that still ruled it, each until when.
    turns: [Vec<Turn>; CALENDAR_WINDOWS.len()],
    zones: HashMap<Zone, Spans>,
}

/// The windows of one zone.
#[derive(Debug)]
struct Spans {
    rules: TimeZone,
    last: [Option<Span>; CALENDAR_WINDOWS.len()],
}

impl ZoneHistory {
    /// A zone that never was another.
    pub(crate) fn new(zone: Zone) -> Self {
        Self { zone, before: Vec::new() }
    }

    /// The configured zone is `zone` from `unix_ms` on.
    pub(crate) fn change(&mut self, zone: Zone, unix_ms: u64) {
        if self.zone == zone {
            return;
        }
        self.before.push((std::mem::replace(&mut self.zone, zone), unix_ms));
        if self.before.len() > CHANGES_MAX {
            self.before.remove(0);
        }
    }
}

impl Calendar {
    pub(crate) fn new(history: &ZoneHistory) -> Self {
        let mut calendar = Self {
            usual: history.zone.clone(),
            of_usual: Spans::of(&history.zone),
            turns: Default::default(),
            zones: HashMap::default(),
        };
        for (at, window) in CALENDAR_WINDOWS.into_iter().enumerate() {
            let mut turns: Vec<Turn> = Vec::new();
            for (zone, given_up_ms) in &history.before {
                // Given up before a window of it began: the one before ran on.
                if turns.last().is_some_and(|turn| *given_up_ms < turn.until_unix_ms) {
                    continue;
                }
                if let Some(until_unix_ms) = calendar.in_zone(zone, window, *given_up_ms).end {
                    turns.push(Turn { before: zone.clone(), until_unix_ms });
                }
            }
            calendar.turns[at] = turns;
        }
        calendar
    }

    /// The window of a budget at `unix_ms`.
    pub(crate) fn span(&mut self, spec: &BudgetSpec, unix_ms: u64) -> Span {
        let window = spec.window;
        if let Some(length) = window.sub_bucket_ms() {
            let start = unix_ms - unix_ms % length.max(1);
            return Span { start, end: start.checked_add(length) };
        }
        let Some(slot) = slot(window) else { return Span { start: 0, end: None } };
        if spec.zone.is_none() && spec.turn.is_none() && self.turns[slot].is_empty() {
            return self.of_usual.span(window, slot, unix_ms);
        }
        let usual = if spec.zone.is_none() { &self.turns[slot][..] } else { &[] };
        let ruled = |turn: &&Turn| unix_ms < turn.until_unix_ms;
        let turn = spec.turn.iter().find(ruled).or_else(|| usual.iter().find(ruled));
        let zone = match turn {
            Some(turn) => turn.before.clone(),
            None => spec.zone.as_ref().unwrap_or(&self.usual).clone(),
        };
        self.in_zone(&zone, window, unix_ms)
    }

    /// What a budget's change of zone means for the window that runs; `None`: nothing. `before` is
    /// the budget as it was, if it was there.
    pub(crate) fn turn(
        &mut self,
        before: Option<&BudgetSpec>,
        after: &BudgetSpec,
        unix_ms: u64,
    ) -> Option<Turn> {
        let before = before.filter(|_| after.window.is_calendar())?;
        let running = before.turn.clone().filter(|turn| unix_ms < turn.until_unix_ms);
        if running.is_some() || before.zone == after.zone {
            return running;
        }
        let until_unix_ms = self.span(before, unix_ms).end?;
        let slot = slot(before.window)?;
        let ruling = self.turns[slot].iter().find(|turn| unix_ms < turn.until_unix_ms);
        let zone = match (&before.zone, ruling) {
            (Some(zone), _) => zone,
            (None, Some(turn)) => &turn.before,
            (None, None) => &self.usual,
        };
        Some(Turn { before: zone.clone(), until_unix_ms })
    }

    fn in_zone(&mut self, zone: &Zone, window: Window, unix_ms: u64) -> Span {
        let Some(slot) = slot(window) else { return Span { start: 0, end: None } };
        if *zone == self.usual {
            return self.of_usual.span(window, slot, unix_ms);
        }
        let spans = self.zones.entry(zone.clone()).or_insert_with(|| Spans::of(zone));
        spans.span(window, slot, unix_ms)
    }
}

impl Spans {
    fn of(zone: &Zone) -> Self {
        Self { rules: zone.rules(), last: Default::default() }
    }

    fn span(&mut self, window: Window, slot: usize, unix_ms: u64) -> Span {
        let last = &mut self.last[slot];
        if let Some(span) = last
            && span.start <= unix_ms
            && span.end.is_none_or(|end| unix_ms < end)
        {
            return *span;
        }
        let span = find(&self.rules, window, unix_ms);
        *last = Some(span);
        span
    }
}

/// Its place among [`CALENDAR_WINDOWS`].
fn slot(window: Window) -> Option<usize> {
    match window {
        Window::Hour => Some(0),
        Window::Day => Some(1),
        Window::Week => Some(2),
        Window::Month => Some(3),
        Window::Total | Window::Rolling(_) => None,
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
            Some(within_changes(zone, instant, (start, start + HOUR_MS)))
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

/// An hour of the clock that ends, or begins, where the clock changes by a part of an hour: hours
/// are adjacent in any zone.
fn within_changes(zone: &TimeZone, at: Timestamp, (start, end): (i64, i64)) -> (i64, i64) {
    let before = Timestamp::from_millisecond(start).ok();
    let change = before.and_then(|before| zone.following(before).next());
    match change.map(|change| change.timestamp().as_millisecond()) {
        Some(change) if change <= at.as_millisecond() => (change, end),
        Some(change) if change < end => (start, change),
        _ => (start, end),
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

    fn calendar(zone: &str) -> Calendar {
        Calendar::new(&ZoneHistory::new(zone.parse().unwrap()))
    }

    fn budget(window: Window, zone: Option<&str>) -> BudgetSpec {
        BudgetSpec {
            window,
            money: None,
            tokens: Some(1),
            hard: true,
            requests: None,
            zone: zone.map(|zone| zone.parse().unwrap()),
            turn: None,
        }
    }

    /// In Berlin, where the configured zone is another.
    fn span(window: Window, at: &str) -> (u64, Option<u64>) {
        let budget = budget(window, Some("Europe/Berlin"));
        let span = calendar("America/New_York").span(&budget, ms(at));
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
        let hour = budget(Window::Hour, None);
        let hour = calendar("Asia/Kolkata").span(&hour, ms("2026-01-01T00:10:00Z"));
        assert_eq!(hour.start, ms("2025-12-31T23:30:00Z"));
    }

    #[test]
    fn an_hour_ends_where_the_clock_changes_a_minute_after_it_began() {
        // On 14 March 2010 the clocks of St. John's went from 00:01 to 01:01.
        let (mut calendar, hour) = (calendar("America/St_Johns"), budget(Window::Hour, None));
        let cut = calendar.span(&hour, ms("2010-03-14T03:30:30Z"));
        let (began, change) = (ms("2010-03-14T03:30:00Z"), ms("2010-03-14T03:31:00Z"));
        assert_eq!(cut, Span { start: began, end: Some(change) });
        assert_eq!(calendar.span(&hour, change).start, change);
    }

    #[test]
    fn going_back_in_time_finds_the_same_window() {
        let (mut calendar, day) = (calendar("UTC"), budget(Window::Day, None));
        let first = calendar.span(&day, ms("2026-05-01T10:00:00Z"));
        calendar.span(&day, ms("2026-05-02T10:00:00Z"));
        assert_eq!(calendar.span(&day, ms("2026-05-01T23:00:00Z")), first);
    }

    #[test]
    fn a_change_of_zone_lets_the_window_that_runs_end_as_it_would_have() {
        let mut calendar = calendar("UTC");
        let before = budget(Window::Day, None);
        let at = ms("2026-06-10T10:00:00Z");
        let mut after = budget(Window::Day, Some("Europe/Berlin"));
        after.turn = calendar.turn(Some(&before), &after, at);
        let running = calendar.span(&before, at);
        assert_eq!(calendar.span(&after, at), running);
        assert_eq!(calendar.span(&after, ms("2026-06-10T23:59:59Z")), running);
        // The day in Berlin has begun at 22:00 UTC; the budget's own begins with what is left of it.
        let next = calendar.span(&after, ms("2026-06-11T00:00:00Z"));
        assert_eq!(next.start, ms("2026-06-10T22:00:00Z"));
        assert_eq!(next.end, Some(ms("2026-06-11T22:00:00Z")));
    }

    #[test]
    fn a_second_change_while_the_window_runs_does_not_cut_it_short() {
        let mut calendar = calendar("UTC");
        let (first, at) = (budget(Window::Month, None), ms("2026-06-10T10:00:00Z"));
        let mut second = budget(Window::Month, Some("Asia/Tokyo"));
        second.turn = calendar.turn(Some(&first), &second, at);
        let mut third = budget(Window::Month, Some("Pacific/Honolulu"));
        third.turn = calendar.turn(Some(&second), &third, at + 1_000);
        assert_eq!(calendar.span(&third, at + 2_000), calendar.span(&first, at));
        // Taken back, it is as if nothing had been.
        let mut back = budget(Window::Month, None);
        back.turn = calendar.turn(Some(&third), &back, at + 3_000);
        for day in ["2026-06-30T23:00:00Z", "2026-07-01T00:00:00Z"] {
            assert_eq!(calendar.span(&back, ms(day)), calendar.span(&first, ms(day)), "{day}");
        }
    }

    #[test]
    fn a_change_of_the_configured_zone_does_the_same_for_budgets_that_follow_it() {
        let mut history = ZoneHistory::new("UTC".parse().unwrap());
        history.change("America/New_York".parse().unwrap(), ms("2026-06-10T10:00:00Z"));
        let mut calendar = Calendar::new(&history);
        let utc = budget(Window::Day, Some("UTC"));
        let day = budget(Window::Day, None);
        let at = ms("2026-06-10T12:00:00Z");
        assert_eq!(calendar.span(&day, at), calendar.span(&utc, at));
        let after = calendar.span(&day, ms("2026-06-11T00:00:00Z"));
        assert_eq!(after.start, ms("2026-06-10T04:00:00Z"));
        let own = budget(Window::Day, Some("Asia/Tokyo"));
        assert_eq!(calendar.span(&own, at).start, ms("2026-06-09T15:00:00Z"));
    }

    #[test]
    fn windows_of_any_zone_are_adjacent_and_hold_their_time_through_a_year_of_clock_changes() {
        let zones = [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kolkata",
            "America/Santiago",
            "Africa/Cairo",
            "Pacific/Apia",
        ];
        let (hour, year) = (3_600_000, 366 * 24 * 3_600_000);
        let begin = ms("2026-01-01T00:00:00Z");
        for zone in zones {
            for (window, lengths) in [
                (Window::Hour, 1..=1),
                (Window::Day, 23..=25),
                (Window::Week, 7 * 24 - 1..=7 * 24 + 1),
                (Window::Month, 28 * 24 - 1..=31 * 24 + 1),
            ] {
                let (mut calendar, spec) = (calendar(zone), budget(window, None));
                let mut span = calendar.span(&spec, begin);
                let mut days = std::collections::BTreeSet::new();
                while span.start < begin + year {
                    let end = span.end.unwrap();
                    let length = (end - span.start).div_ceil(hour);
                    assert!(lengths.contains(&length), "{zone} {window}: {length} h");
                    days.insert((end - span.start) * 2 / hour);
                    assert_eq!(calendar.span(&spec, end - 1), span, "{zone} {window}");
                    let next = calendar.span(&spec, end);
                    assert_eq!(next.start, end, "{zone} {window}: a gap");
                    span = next;
                }
                if window == Window::Day && zone == "Europe/Berlin" {
                    assert_eq!(days.into_iter().collect::<Vec<_>>(), [46, 48, 50]);
                }
            }
        }
    }
}
