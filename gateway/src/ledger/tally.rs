//! Sums over entries and attempts: what a rollup row and a line of a summary hold.
//!
//! **Invariants:** money is summed exactly; an unknown cost is counted and adds nothing; an attempt
//! adds its tokens and cost to its own route's row, a request its outcome and times to the row of
//! the attempt that answered (or, without one, of the last), so that rows sum to the whole.

use super::entry::{Attempt, Outcome};
use crate::store::codec::Row;
use policies::{PicoUsdTotal, Usage};
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
    /// Client's TTFT in microseconds, TPOT in nanoseconds, whole request in microseconds.
    pub(crate) ttft: DDSketch,
    pub(crate) tpot: DDSketch,
    pub(crate) total: DDSketch,
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
            ttft: sketch(),
            tpot: sketch(),
            total: sketch(),
        }
    }
}

impl Tally {
    /// The attempt that stands for its request: the one that answered, or the last.
    pub(crate) fn face(row: &Row) -> Option<&Attempt> {
        let answered = row.answered_by.and_then(|index| row.attempts.get(usize::from(index)));
        answered.or(row.attempts.last())
    }

    pub(crate) fn attempt(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        if let Some(usage) = &attempt.usage {
            self.usage = self.usage.plus(usage);
        }
        match attempt.cost {
            Some(cost) => self.cost = self.cost.plus(cost),
            None => self.unknown_cost += 1,
        }
        if let Some(avoided) = attempt.avoided_cost {
            self.avoided_cost = self.avoided_cost.plus(avoided);
        }
    }

    pub(crate) fn entry(&mut self, row: &Row) {
        self.requests += 1;
        self.outcomes[row.outcome as usize] += 1;
        if let Some(ttft) = row.ttft_us {
            self.ttft.add(number(ttft));
        }
        if let Some(tpot) = row.tpot_ns {
            self.tpot.add(number(tpot));
        }
        if row.outcome != Outcome::Crashed {
            self.total.add(number(row.stages.total_us()));
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        for (sum, part) in self.outcomes.iter_mut().zip(other.outcomes) {
            *sum += part;
        }
        self.attempts += other.attempts;
        self.usage = self.usage.plus(&other.usage);
        self.cost = PicoUsdTotal::from_pico(self.cost.pico().saturating_add(other.cost.pico()));
        self.unknown_cost += other.unknown_cost;
        self.avoided_cost = PicoUsdTotal::from_pico(
            self.avoided_cost.pico().saturating_add(other.avoided_cost.pico()),
        );
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
    pub(crate) fn figures(&self) -> (u64, [u64; OUTCOMES], u64, Usage, [u128; 2], u64) {
        let money = [self.cost.pico(), self.avoided_cost.pico()];
        (self.requests, self.outcomes, self.attempts, self.usage, money, self.unknown_cost)
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tally").field(&self.figures()).finish()
    }
}

/// A sketch's quantile; `None` when it is empty.
pub(crate) fn quantile(sketch: &DDSketch, q: f64) -> Option<u64> {
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
