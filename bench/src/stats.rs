//! The arithmetic behind every number shown: percentiles, spreads, rotation of the order.
//!
//! Invariant: a figure that cannot be computed is `None`, never 0.

use serde::Serialize;

/// Nearest-rank percentile of sorted samples: the smallest sample with at least
/// `per_10_000 / 100` percent of all samples at or below it. `None` without samples.
pub(crate) fn percentile(sorted: &[u64], per_10_000: u16) -> Option<u64> {
    let wanted = (sorted.len() as u128 * u128::from(per_10_000)).div_ceil(10_000);
    let rank = usize::try_from(wanted).ok()?.max(1);
    sorted.get(rank - 1).copied()
}

/// What is kept of one phase's samples, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ladder {
    pub(crate) n: usize,
    pub(crate) min: u64,
    pub(crate) p10: u64,
    pub(crate) p25: u64,
    pub(crate) p50: u64,
    pub(crate) p75: u64,
    pub(crate) p90: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Ladder {
    /// Sorts the samples in place and reads the ladder off them.
    pub(crate) fn of(samples: &mut [u64]) -> Option<Ladder> {
        samples.sort_unstable();
        let at = |per_10_000| percentile(samples, per_10_000);
        Some(Ladder {
            n: samples.len(),
            min: *samples.first()?,
            p10: at(1_000)?,
            p25: at(2_500)?,
            p50: at(5_000)?,
            p75: at(7_500)?,
            p90: at(9_000)?,
            p95: at(9_500)?,
            p99: at(9_900)?,
            p999: at(9_990)?,
            max: *samples.last()?,
        })
    }
}

/// One figure over several rounds: every round's value, and what they amount to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) values: Vec<f64>,
    /// Middle value; the mean of the two middle ones when their number is even.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without values or when one of them is not a finite number.
    pub(crate) fn of(values: Vec<f64>) -> Option<Spread> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Spread { values, median: f64::midpoint(lower, upper), min, max })
    }
}

/// The items in the order of one round: every item stands first, second, ... equally often.
pub(crate) fn rotated<T: Copy>(items: &[T], round: usize) -> Vec<T> {
    let mut order = items.to_vec();
    if !order.is_empty() {
        let shift = round % order.len();
        order.rotate_left(shift);
    }
    order
}

/// `part / whole`, absent when nothing is there to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of one run stay below 2^53")]
pub(crate) fn per(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_always_a_sample_that_was_taken() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 5_000), Some(50));
        assert_eq!(percentile(&sorted, 9_900), Some(99));
        assert_eq!(percentile(&sorted, 9_990), Some(100));
        assert_eq!(percentile(&sorted, 0), Some(1));
        assert_eq!(percentile(&sorted, 10_000), Some(100));
        assert_eq!(percentile(&[7], 5_000), Some(7));
        assert_eq!(percentile(&[3, 9], 5_000), Some(3));
        assert_eq!(percentile(&[3, 9], 5_001), Some(9));
    }

    #[test]
    fn nothing_measured_gives_no_number() {
        assert_eq!(percentile(&[], 5_000), None);
        assert_eq!(Ladder::of(&mut []), None);
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![1.0, f64::NAN]), None);
        assert_eq!(per(4, 0), None);
        assert_eq!(per(4, 8), Some(0.5));
    }

    #[test]
    fn a_ladder_does_not_depend_on_the_order_of_samples() {
        let mut falling: Vec<u64> = (1..=1_000).rev().collect();
        let ladder = Ladder::of(&mut falling).unwrap();
        assert_eq!((ladder.n, ladder.min, ladder.max), (1_000, 1, 1_000));
        assert_eq!((ladder.p50, ladder.p99, ladder.p999), (500, 990, 999));
    }

    #[test]
    fn a_spread_keeps_the_rounds_in_their_order() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread.values, [3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 9.0]).map(|spread| spread.median), Some(3.0));
    }

    #[test]
    fn rotation_gives_everyone_every_place() {
        let rounds: Vec<Vec<char>> = (0..3).map(|round| rotated(&['a', 'b', 'c'], round)).collect();
        assert_eq!(rounds, [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b']]);
        assert_eq!(rotated(&['a', 'b', 'c'], 3), ['a', 'b', 'c']);
        assert!(rotated::<char>(&[], 5).is_empty());
    }
}
