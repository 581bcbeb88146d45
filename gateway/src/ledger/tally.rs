//! Sums over entries and attempts: what a rollup row and a line of a summary hold.
//!
//! **Invariants:** money is summed exactly; an unknown cost is counted and adds nothing; an attempt
//! adds its tokens and cost to its own route's row, a request its outcome and times to the row of
//! the attempt that answered (or, without one, of the last), so that rows sum to the whole.

use super::{
    adjusted::Adjusted,
    entry::{Attempt, Outcome},
};
use crate::store::{
    codec::Row,
    columns::{Leg, Line},
};
use policies::{PicoUsd, PicoUsdTotal, Usage};
use serde::{Deserialize, Serialize};
use sketches_ddsketch::{Config, DDSketch};
use std::fmt;

/// Number of [`Outcome`]s.
pub(crate) const OUTCOMES: usize = 7;

/// Sums over some requests and attempts.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) outcomes: [u64; OUTCOMES],
    pub(crate) attempts: u64,
    pub(crate) usage: Usage,
    pub(crate) cost: PicoUsdTotal,
    pub(crate) unknown_cost: u64,
    pub(crate) avoided_cost: PicoUsdTotal,
    /// What answers that were given again had cost before.
    pub(crate) saved_cost: PicoUsdTotal,
    /// Client's TTFT in microseconds, TPOT in nanoseconds, whole request in microseconds.
    pub(crate) ttft: DDSketch,
    pub(crate) tpot: DDSketch,
    pub(crate) total: DDSketch,
}

/// What a tally takes of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) usage: Option<Usage>,
    pub(crate) cost: Option<PicoUsd>,
    pub(crate) avoided: Option<PicoUsd>,
}

/// What a tally takes of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) saved: Option<PicoUsd>,
    pub(crate) ttft_us: Option<u64>,
    pub(crate) tpot_ns: Option<u64>,
    /// `None` for a request whose process died: nobody knows how long it took.
    pub(crate) total_us: Option<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        // 1 % relative error.
        let sketch = || DDSketch::new(Config::defaults());
        Self {
            requests: 0,
            outcomes: [0; OUTCOMES],
            attempts: 0,
            usage: Usage::default(),
            cost: PicoUsdTotal::ZERO,
            unknown_cost: 0,
            avoided_cost: PicoUsdTotal::ZERO,
            saved_cost: PicoUsdTotal::ZERO,
            ttft: sketch(),
            tpot: sketch(),
            total: sketch(),
        }
    }
}

impl From<&Attempt> for Spent {
    fn from(attempt: &Attempt) -> Self {
        Self { usage: attempt.usage, cost: attempt.cost, avoided: attempt.avoided_cost }
    }
}

impl From<&Leg> for Spent {
    fn from(leg: &Leg) -> Self {
        Self { usage: leg.usage, cost: leg.cost, avoided: leg.avoided }
    }
}

impl From<&Row> for Ended {
    fn from(row: &Row) -> Self {
        Self {
            outcome: row.outcome,
            saved: row.notes.saved_cost,
            ttft_us: row.ttft_us,
            tpot_ns: row.tpot_ns,
            total_us: (row.outcome != Outcome::Crashed).then(|| row.stages.total_us()),
        }
    }
}

impl From<&Line> for Ended {
    fn from(line: &Line) -> Self {
        Self {
            outcome: line.outcome,
            saved: line.saved,
            ttft_us: line.ttft_us,
            tpot_ns: line.tpot_ns,
            total_us: (line.outcome != Outcome::Crashed).then_some(line.total_us),
        }
    }
}

impl Tally {
    /// The attempt that stands for its request: the one that answered, or the last.
    pub(crate) fn face(row: &Row) -> Option<&Attempt> {
        let answered = row.answered_by.and_then(|index| row.attempts.get(usize::from(index)));
        answered.or(row.attempts.last())
    }

    pub(crate) fn attempt(&mut self, spent: impl Into<Spent>) {
        let spent = spent.into();
        self.attempts += 1;
        if let Some(usage) = &spent.usage {
            self.usage = self.usage.plus(usage);
        }
        match spent.cost {
            Some(cost) => self.cost = self.cost.plus(cost),
            None => self.unknown_cost += 1,
        }
        if let Some(avoided) = spent.avoided {
            self.avoided_cost = self.avoided_cost.plus(avoided);
        }
    }

    /// Puts what an attempt costs now in place of what it was booked with; `false` where that is not
    /// in here.
    pub(crate) fn correct(&mut self, adjusted: &Adjusted) -> bool {
        let (mut cost, mut unknown) = (self.cost.pico(), self.unknown_cost);
        let taken = match adjusted.booked {
            Some(booked) => cost.checked_sub(booked.pico().into()).map(|left| cost = left),
            None => unknown.checked_sub(1).map(|left| unknown = left),
        };
        match adjusted.cost {
            Some(now) => cost = cost.saturating_add(now.pico().into()),
            None => unknown += 1,
        }
        if taken.is_some() {
            (self.cost, self.unknown_cost) = (PicoUsdTotal::from_pico(cost), unknown);
        }
        taken.is_some()
    }

    /// Counts a request and adds its times to the sketches.
    pub(crate) fn entry(&mut self, ended: impl Into<Ended>) {
        let ended = ended.into();
        self.count(&ended);
        let sketches = [&mut self.ttft, &mut self.tpot, &mut self.total];
        let values = [ended.ttft_us, ended.tpot_ns, ended.total_us];
        for (sketch, value) in sketches.into_iter().zip(values) {
            if let Some(value) = value {
                sketch.add(number(value));
            }
        }
    }

    /// Counts a request without its times.
    pub(crate) fn count(&mut self, ended: &Ended) {
        self.requests += 1;
        self.outcomes[ended.outcome as usize] += 1;
        if let Some(saved) = ended.saved {
            self.saved_cost = self.saved_cost.plus(saved);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        for (sum, part) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += part;
        }
        self.attempts += other.attempts;
        self.usage = self.usage.plus(&other.usage);
        self.unknown_cost += other.unknown_cost;
        for (sum, part) in [
            (&mut self.cost, other.cost),
            (&mut self.avoided_cost, other.avoided_cost),
            (&mut self.saved_cost, other.saved_cost),
        ] {
            *sum = PicoUsdTotal::from_pico(sum.pico().saturating_add(part.pico()));
        }
        for (sum, part) in [
            (&mut self.ttft, &other.ttft),
            (&mut self.tpot, &other.tpot),
            (&mut self.total, &other.total),
        ] {
            // Sketches of one configuration always merge.
            if let Err(error) = sum.merge(part) {
                tracing::error!(%error, "latency sketches do not merge");
            }
        }
    }

    /// Sums without the sketches, to compare.
    pub(crate) fn figures(&self) -> (u64, [u64; OUTCOMES], u64, Usage, [u128; 3], u64) {
        let money = [self.cost.pico(), self.avoided_cost.pico(), self.saved_cost.pico()];
        (self.requests, self.outcomes, self.attempts, self.usage, money, self.unknown_cost)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tally").field(&self.figures()).finish()
    }
}

/// A sketch's nearest-rank percentile; `None` when it is empty.
pub(crate) fn percentile(sketch: &DDSketch, percent: u64) -> Option<u64> {
    let last = (sketch.count() as u64).checked_sub(1)?;
    let rank = (last + 1).saturating_mul(percent).div_ceil(100).saturating_sub(1);
    // Asked for q the sketch takes the rank floor(q x last), which is another one where there are few.
    let q = if rank < last { (number(rank) + 0.5) / number(last) } else { 1.0 };
    let value = sketch.quantile(q).ok().flatten()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a duration: not negative, saturating"
    )]
    Some(value.round() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "durations, within 1 % anyway")]
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use sketches_ddsketch::Config;

    #[test]
    fn a_sketch_has_the_percentiles_of_the_nearest_rank_also_of_few_values() {
        for count in [1_u64, 2, 3, 9, 10, 20, 21, 99, 100, 101, 1_000] {
            // Each is ten per cent above the one before, so that no other rank is near.
            let value = |rank: u64| 1.1_f64.powi(i32::try_from(rank % 150).unwrap()) * 1_000.0;
            let mut values: Vec<f64> = (0..count).map(value).collect();
            let mut sketch = DDSketch::new(Config::defaults());
            values.iter().for_each(|value| sketch.add(*value));
            values.sort_by(f64::total_cmp);
            for percent in [1, 50, 90, 95, 99, 100] {
                let rank = (count * percent).div_ceil(100);
                let expected = values[usize::try_from(rank).unwrap() - 1];
                let found = number(percentile(&sketch, percent).unwrap());
                assert!((found / expected - 1.0).abs() < 0.011, "{count} {percent}: {found}");
            }
        }
        assert_eq!(percentile(&DDSketch::new(Config::defaults()), 50), None);
    }
}
