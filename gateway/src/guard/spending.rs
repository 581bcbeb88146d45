//! How fast one key, user or team spends, against its own history.
//!
//! **Invariant:** rates are statistics and never money that is booked: floats stay in here. What is
//! spent while an effect holds teaches the history nothing, so that abuse does not become the new
//! normal.

use super::{seen::Seen, settings::Settings};
use serde::{Deserialize, Serialize};

const MINUTE_MS: f64 = 60_000.0;
const FAST_MS: f64 = 5.0 * MINUTE_MS;
const HOUR_MS: f64 = 60.0 * MINUTE_MS;
pub(super) const DAY_MS: u64 = 86_400_000;
/// Time constant of the history.
const SLOW_MS: f64 = 72.0 * HOUR_MS;
/// What a day takes of what was usual at an hour of it: after a weekend a Monday is no surprise.
const DAY_FADES: f64 = 0.9;
/// What is usual is reckoned anew after this.
const USUAL_MS: u64 = 60_000;
/// The bucket holds so many times what is too much, so that it empties soon after.
const BUCKET_MAX: f64 = 1.5;

/// A sum that fades with time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fading {
    sum: f64,
    at_ms: u64,
}

/// What was spent at one hour of the day.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct HourOfDay {
    /// The most of former days, fading.
    peak: f64,
    /// The day of `sum`, since the Unix epoch.
    day: u64,
    sum: f64,
}

/// The history and the present.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Spending {
    first_ms: u64,
    fast: Fading,
    hour: Fading,
    slow: Fading,
    hours: [HourOfDay; 24],
    /// What was spent above what is usual, in a bucket that leaks.
    bucket: f64,
    bucket_ms: u64,
    /// What is usual, as of `usual_ms`: it changes slowly and is asked for with every request.
    #[serde(skip)]
    usual: f64,
    #[serde(skip)]
    usual_ms: u64,
}

impl Fading {
    fn at(self, now_ms: u64, tau: f64) -> f64 {
        let age = f64_of(now_ms.saturating_sub(self.at_ms));
        self.sum * (-age / tau).exp()
    }

    fn add(&mut self, now_ms: u64, tau: f64, amount: f64) {
        self.sum = self.at(now_ms, tau) + amount;
        self.at_ms = self.at_ms.max(now_ms);
    }

    /// The last hour's sum, fading.
    pub(super) fn of_hour(self, now_ms: u64) -> f64 {
        self.at(now_ms, HOUR_MS)
    }

    pub(super) fn add_to_hour(&mut self, now_ms: u64, amount: f64) {
        self.add(now_ms, HOUR_MS, amount);
    }

    pub(super) fn add_to_days(&mut self, now_ms: u64, amount: f64) {
        self.add(now_ms, SLOW_MS, amount);
    }
}

impl HourOfDay {
    /// What is usual at this hour, seen on `day`.
    fn usual(&self, day: u64) -> f64 {
        let days = day.saturating_sub(self.day);
        if days == 0 {
            return self.peak;
        }
        let fades = DAY_FADES.powi(i32::try_from(days).unwrap_or(i32::MAX));
        // Yesterday's sum is whole.
        (self.peak * fades).max(self.sum * fades / DAY_FADES)
    }

    fn add(&mut self, day: u64, amount: f64) {
        if day > self.day {
            self.peak = self.usual(day);
            (self.day, self.sum) = (day, 0.0);
        }
        self.sum += amount;
    }
}

impl Spending {
    /// The first request of all.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.first_ms = now_ms;
    }

    /// How old the history is, in milliseconds.
    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.first_ms)
    }

    /// Adds what was spent, or would have been. `teaches`: it belongs to the history.
    pub(super) fn add(&mut self, now_ms: u64, cost: f64, teaches: bool, settings: &Settings) {
        self.fast.add(now_ms, FAST_MS, cost);
        self.hour.add(now_ms, HOUR_MS, cost);
        let (leaks, holds) = self.bucket_of(now_ms, settings);
        let passed = f64_of(now_ms.saturating_sub(self.bucket_ms));
        let left = (self.bucket - leaks * passed / HOUR_MS).max(0.0);
        self.bucket = (left + cost).min(holds * BUCKET_MAX);
        self.bucket_ms = self.bucket_ms.max(now_ms);
        if teaches {
            self.slow.add(now_ms, SLOW_MS, cost);
            let (day, hour) = day_and_hour(now_ms);
            if let Some(hour) = self.hours.get_mut(hour) {
                hour.add(day, cost);
            }
        }
    }

    /// What is usual now, pico-USD an hour: the average of the last days, or what former days had
    /// at this hour and those beside it, whichever is more; never less than is anybody's concern.
    pub(super) fn usual(&mut self, now_ms: u64, settings: &Settings) -> f64 {
        if self.usual_ms == 0 || now_ms >= self.usual_ms.saturating_add(USUAL_MS) {
            (self.usual, self.usual_ms) = (self.reckoned(now_ms, settings), now_ms.max(1));
        }
        self.usual
    }

    fn reckoned(&self, now_ms: u64, settings: &Settings) -> f64 {
        let (day, hour) = day_and_hour(now_ms);
        let at = |hour: usize| self.hours[hour % 24].usual(day);
        let by_hour = at(hour).max(at(hour + 1)).max(at(hour + 23));
        self.average(self.slow, now_ms).max(by_hour).max(f64_of(settings.floor_per_hour.pico()))
    }

    /// The average over the last days of a sum of [`Fading::add_to_days`], in an hour.
    pub(super) fn average(&self, sum: Fading, now_ms: u64) -> f64 {
        sum.at(now_ms, SLOW_MS) / self.weight(now_ms) * HOUR_MS
    }

    /// Milliseconds that the average stands for.
    fn weight(&self, now_ms: u64) -> f64 {
        let age = f64_of(self.age_ms(now_ms));
        // An hour of history at least: a first burst is not a habit.
        (SLOW_MS * (1.0 - (-age / SLOW_MS).exp())).max(HOUR_MS)
    }

    /// What the bucket loses in an hour, and what it holds until it is too much: an hour at
    /// `hour_factor` times the usual fills it, and less than half of that excess never does. In its
    /// first day a history does not know the hours of a day: only what is above `hour_factor` counts.
    fn bucket_of(&mut self, now_ms: u64, settings: &Settings) -> (f64, f64) {
        let usual = self.usual(now_ms, settings);
        let half = (settings.hour_factor - 1.0) / 2.0;
        let knows = self.age_ms(now_ms) >= DAY_MS;
        let leaks = if knows { 1.0 + half } else { settings.hour_factor };
        (leaks * usual, half * usual)
    }

    /// The spending over the last five minutes and over the last hour, with `running`, pico-USD an
    /// hour.
    pub(super) fn rates(&self, now_ms: u64, running: f64) -> (f64, f64) {
        let fast = (self.fast.at(now_ms, FAST_MS) + running) / FAST_MS * HOUR_MS;
        (fast, self.hour.at(now_ms, HOUR_MS) + running)
    }

    /// What is too much of the spending, if anything is.
    pub(super) fn too_much(
        &mut self,
        now_ms: u64,
        running: f64,
        settings: &Settings,
    ) -> Option<Seen> {
        let usual = self.usual(now_ms, settings);
        let (fast, hour) = self.rates(now_ms, running);
        let (leaks, holds) = self.bucket_of(now_ms, settings);
        let passed = f64_of(now_ms.saturating_sub(self.bucket_ms));
        let bucket = (self.bucket - leaks * passed / HOUR_MS).max(0.0) + running;
        if fast > usual * settings.fast_factor {
            return Some(Seen::Fast { rate: fast, usual, factor: settings.fast_factor });
        }
        let factor = settings.hour_factor;
        (bucket > holds).then_some(Seen::Above { above: bucket, hour, usual, factor })
    }

    /// A history in which so much an hour is usual.
    pub(super) fn accepted(&self, per_hour: f64, now_ms: u64) -> Fading {
        Fading { sum: per_hour / HOUR_MS * self.weight(now_ms), at_ms: now_ms }
    }

    /// The operator says that it is all right: what was seen becomes usual.
    pub(super) fn accept(&mut self, now_ms: u64, running: f64) {
        // Both rates: were it the hour's alone, five minutes that have just begun to be too much
        // would be found again with the very next request.
        let (fast, hour) = self.rates(now_ms, running);
        let usual = self.accepted(fast.max(hour), now_ms);
        let before = self.slow.at(now_ms, SLOW_MS);
        self.slow = Fading { sum: usual.sum.max(before), at_ms: now_ms };
        (self.bucket, self.bucket_ms, self.usual_ms) = (0.0, now_ms, 0);
    }
}

/// The day since the Unix epoch and the hour of it, in UTC: any cycle of a day tells usual hours.
fn day_and_hour(unix_ms: u64) -> (u64, usize) {
    let hour = unix_ms % DAY_MS / 3_600_000;
    (unix_ms / DAY_MS, usize::try_from(hour).unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "statistics, not money")]
pub(super) fn f64_of(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const USD: f64 = 1e12;

    /// `per_hour` dollars an hour from `from` for so many hours, in 60 pieces each; says whether it
    /// was ever too much.
    fn spend(spending: &mut Spending, from: u64, hours: u64, per_hour: f64) -> bool {
        let settings = Settings::default();
        (0..hours * 60).fold(false, |seen, minute| {
            let now = from + minute * 60_000;
            spending.add(now, per_hour * USD / 60.0, true, &settings);
            seen || spending.too_much(now, 0.0, &settings).is_some()
        })
    }

    /// Days of 2 USD an hour by day and a quarter of it by night.
    fn days(spending: &mut Spending, from_day: u64, count: u64) -> bool {
        (from_day..from_day + count).fold(false, |seen, day| {
            let night = spend(spending, day * DAY_MS, 8, 0.5);
            let morning = spend(spending, day * DAY_MS + 8 * HOUR, 16, 2.0);
            seen || night || morning
        })
    }

    #[test]
    fn a_day_is_like_the_day_before_and_a_monday_like_a_friday() {
        let mut spending = Spending::default();
        spending.begin(0);
        // The first day teaches.
        days(&mut spending, 0, 1);
        assert!(!days(&mut spending, 1, 4), "a week");
        assert!(!spend(&mut spending, 5 * DAY_MS, 48, 0.2), "a weekend");
        assert!(!days(&mut spending, 7, 1), "a Monday");
    }

    #[test]
    fn twice_the_usual_is_seen_in_time_and_a_third_more_never() {
        let mut spending = Spending::default();
        spending.begin(0);
        assert!(!spend(&mut spending, 0, 72, 2.0));
        let mut more = spending.clone();
        assert!(!spend(&mut more, 72 * HOUR, 48, 2.6), "a third more");
        assert!(!spend(&mut spending.clone(), 72 * HOUR, 1, 4.0), "not within the hour");
        assert!(spend(&mut spending, 72 * HOUR, 3, 4.0), "twice as much");
    }
}
