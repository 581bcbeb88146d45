//! What a step costs, fitted while it runs: a fixed part, a part for each generated token, and a
//! part for each prompt token. From it follows how many prompt tokens lengthen the gap between
//! other jobs' tokens by no more than they may.
//!
//! Least squares over recent steps: each step the past counts a little less, so that the fit
//! follows a machine that gets busy or a cache that fills.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::status::{StepCosts, nanoseconds};

/// What the past still counts after one more step.
const FORGET: f64 = 0.97;
/// Pull towards costs in proportion to tokens, in steps' worth: decides what data cannot, for
/// example while no step mixed prompts and generation yet.
const PULL: f64 = 0.05;

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    /// Sums of products of (1, decodes, prefills), and of each with the seconds.
    products: [[f64; 3]; 3],
    seconds: [f64; 3],
}

/// A fit, in seconds: a step costs `fixed + decode * decodes + prefill * prefills`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fit {
    pub(crate) fixed: f64,
    pub(crate) decode: f64,
    pub(crate) prefill: f64,
}

impl Costs {
    /// A step took so long.
    pub(crate) fn observe(&mut self, decodes: usize, prefills: usize, took: Duration) {
        let x = [1.0, as_float(decodes), as_float(prefills)];
        for (row, x_row) in x.iter().enumerate() {
            for (column, x_column) in x.iter().enumerate() {
                let sum = &mut self.products[row][column];
                *sum = *sum * FORGET + x_row * x_column;
            }
            self.seconds[row] = self.seconds[row] * FORGET + x_row * took.as_secs_f64();
        }
    }

    /// The fit so far; none before the first step with a token in it.
    pub(crate) fn fit(&self) -> Option<Fit> {
        let tokens = 2.0 * self.products[0][1] + self.products[0][2];
        if tokens <= 0.0 {
            return None;
        }
        let each = self.seconds[0] / tokens;
        let prior = [0.0, 2.0 * each, each];
        let mut left = self.products;
        let mut right = self.seconds;
        for (at, prior) in prior.iter().enumerate() {
            let pull = PULL * (1.0 + self.products[at][at] / self.products[0][0].max(1.0));
            left[at][at] += pull;
            right[at] += pull * prior;
        }
        let [fixed, decode, prefill] = solve(left, right)?;
        // Noise can make a part negative; a token that costs nothing would make steps endless.
        let least = each * 0.05;
        Some(Fit { fixed: fixed.max(0.0), decode: decode.max(least), prefill: prefill.max(least) })
    }
}

impl Costs {
    /// What such a step is expected to take, in nanoseconds; 0 before the first.
    pub(crate) fn expected_ns(&self, decodes: usize, prefills: usize) -> u64 {
        self.fit().map_or(0, |fit| {
            let seconds =
                fit.fixed + fit.decode * as_float(decodes) + fit.prefill * as_float(prefills);
            nanoseconds(Duration::try_from_secs_f64(seconds).unwrap_or_default())
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "tokens of one step are few")]
fn as_float(tokens: usize) -> f64 {
    tokens as f64
}

impl Fit {
    /// As it is published.
    pub(crate) fn durations(&self) -> StepCosts {
        let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        StepCosts {
            fixed: duration(self.fixed),
            decode: duration(self.decode),
            prefill: duration(self.prefill),
        }
    }

    /// Prompt tokens that lengthen a step by `target`; at least 1, or prompts would wait for ever.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 1 and a million"
    )]
    pub(crate) fn prefills_within(&self, target: Duration) -> usize {
        if self.prefill <= 0.0 {
            return 1_000_000;
        }
        (target.as_secs_f64() / self.prefill).clamp(1.0, 1e6) as usize
    }
}

/// Solves three equations by elimination; none if they do not determine three numbers.
fn solve(mut left: [[f64; 3]; 3], mut right: [f64; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot =
            (column..3).max_by(|a, b| left[*a][column].abs().total_cmp(&left[*b][column].abs()))?;
        left.swap(column, pivot);
        right.swap(column, pivot);
        let pivot_row = left[column];
        if pivot_row[column].abs() < 1e-300 {
            return None;
        }
        for row in column + 1..3 {
            let factor = left[row][column] / pivot_row[column];
            for (at, value) in pivot_row.iter().enumerate() {
                left[row][at] -= factor * value;
            }
            right[row] -= factor * right[column];
        }
    }
    let mut solution = [0.0; 3];
    for row in (0..3).rev() {
        let known: f64 = (row + 1..3).map(|at| left[row][at] * solution[at]).sum();
        solution[row] = (right[row] - known) / left[row][row];
    }
    solution.iter().all(|value| value.is_finite()).then_some(solution)
}

#[cfg(test)]
mod tests {
    use super::Costs;
    use std::time::Duration;

    fn step(decodes: u32, prefills: u32) -> Duration {
        Duration::from_micros(2_500)
            + Duration::from_micros(5_000) * decodes
            + Duration::from_micros(2_800) * prefills
    }

    fn observe(costs: &mut Costs, decodes: u32, prefills: u32) {
        costs.observe(decodes as usize, prefills as usize, step(decodes, prefills));
    }

    #[test]
    fn nothing_is_known_before_the_first_step() {
        assert_eq!(Costs::default().fit(), None);
    }

    #[test]
    fn the_parts_are_found_from_mixed_steps() {
        let mut costs = Costs::default();
        for n in 0..200_u32 {
            observe(&mut costs, n % 5, (n * 7) % 130);
        }
        let fit = costs.fit().expect("steps were seen");
        assert!((fit.decode - 0.005).abs() < 0.000_5, "{fit:?}");
        assert!((fit.prefill - 0.002_8).abs() < 0.000_1, "{fit:?}");
        let chunk = fit.prefills_within(Duration::from_millis(250));
        let expected = 250_000 / 2_800;
        assert!(chunk.abs_diff(expected) <= 2, "{chunk} for {expected}");
    }

    #[test]
    fn one_step_is_enough_for_a_first_guess() {
        let mut costs = Costs::default();
        observe(&mut costs, 0, 200);
        let fit = costs.fit().expect("a step was seen");
        let chunk = fit.prefills_within(Duration::from_millis(280));
        assert!((90..=110).contains(&chunk), "{chunk}");
    }

    #[test]
    fn the_fit_follows_a_machine_that_slows_down() {
        let mut costs = Costs::default();
        for n in 0..300_u32 {
            let slower = if n < 150 { 1 } else { 3 };
            costs.observe(2, (n % 64) as usize, step(2, n % 64) * slower);
        }
        let fit = costs.fit().expect("steps were seen");
        assert!((fit.prefill - 0.008_4).abs() < 0.000_5, "{fit:?}");
    }

    #[test]
    fn a_step_is_never_without_a_prompt_token() {
        let mut costs = Costs::default();
        observe(&mut costs, 100, 10);
        let fit = costs.fit().expect("a step was seen");
        assert_eq!(fit.prefills_within(Duration::from_millis(1)), 1);
    }
}
