//! One line of a summary: sums, and what follows from them by division.
//!
//! **Invariant:** a figure that divides money rounds half-even once, at the pico-USD; what would be
//! divided by nothing, or by a number that is not known, is `None`, and so is a part of money that is
//! not wholly known.

use super::{
    Outcome,
    gather::Growing,
    tally::{OUTCOMES, percentile},
};
use crate::openapi::types::{Name, UsageWords, UsdTotal};
use policies::{PicoUsdTotal, Usage};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// Sums over some requests. Tokens and money are those of the attempts on the group's own route;
/// requests, outcomes and times belong to the group of the attempt that answered.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Sums")]
pub struct Line {
    /// Requests.
    pub requests: u64,
    /// How they ended; only what occurred.
    #[schemars(with = "BTreeMap<Name, u64>")]
    pub outcomes: Vec<(Outcome, u64)>,
    /// Attempts.
    pub attempts: u64,
    /// Tokens by bucket, as far as known.
    #[schemars(with = "UsageWords")]
    pub usage: Usage,
    /// Exact cost of the attempts whose cost is known.
    #[schemars(with = "UsdTotal")]
    pub cost_usd: PicoUsdTotal,
    /// Attempts whose cost is unknown.
    pub unknown_cost: u64,
    /// What the cheapest allowed cloud route would have cost instead of local attempts.
    #[schemars(with = "UsdTotal")]
    pub avoided_cost_usd: PicoUsdTotal,
    /// What answers that were given again had cost before.
    #[schemars(with = "UsdTotal")]
    pub saved_cost_usd: PicoUsdTotal,
    /// Cost divided by requests, by a thousand requests, by a million tokens; absent where the cost of
    /// an attempt is unknown: the rest, divided by all, would pass for less than it is.
    #[schemars(with = "Option<UsdTotal>")]
    pub cost_per_request_usd: Option<PicoUsdTotal>,
    /// See `cost_per_request_usd`.
    #[schemars(with = "Option<UsdTotal>")]
    pub cost_per_1k_requests_usd: Option<PicoUsdTotal>,
    /// See `cost_per_request_usd`.
    #[schemars(with = "Option<UsdTotal>")]
    pub cost_per_million_tokens_usd: Option<PicoUsdTotal>,
    /// Different sessions and users; `None` where rollups answered, which do not know them,
    /// and where there are too many.
    pub sessions: Option<u64>,
    /// See `sessions`.
    pub users: Option<u64>,
    /// Cost divided by sessions, by users: of all requests, those without one too.
    #[schemars(with = "Option<UsdTotal>")]
    pub cost_per_session_usd: Option<PicoUsdTotal>,
    /// See `cost_per_session_usd`.
    #[schemars(with = "Option<UsdTotal>")]
    pub cost_per_user_usd: Option<PicoUsdTotal>,
    /// Client's TTFT in microseconds.
    pub ttft_us: Quantiles,
    /// Client's TPOT in nanoseconds.
    pub tpot_ns: Quantiles,
    /// Whole request in microseconds: the sum of its stages.
    pub total_us: Quantiles,
}

/// A distribution: nearest-rank percentiles over `count` values; `None` without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Median.
    pub p50: Option<u64>,
    /// 90th percentile.
    pub p90: Option<u64>,
    /// 95th percentile.
    pub p95: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
}

/// All [`Outcome`]s in order.
const ALL_OUTCOMES: [Outcome; OUTCOMES] = [
    Outcome::Completed,
    Outcome::ClientGone,
    Outcome::Broken,
    Outcome::Failed,
    Outcome::Rejected,
    Outcome::Short,
    Outcome::Crashed,
];

impl Growing {
    /// `counted`: whether sessions and users of everything are known.
    pub(crate) fn line(&mut self, exact: bool, counted: bool) -> Line {
        let tally = &self.tally;
        let outcomes = ALL_OUTCOMES.into_iter().zip(tally.outcomes);
        let sketches = [&tally.ttft, &tally.tpot, &tally.total];
        let mut quantiles = self.values.iter_mut().zip(sketches).map(|(values, sketch)| {
            if exact {
                nearest_rank(values)
            } else {
                let at = |percent| percentile(sketch, percent);
                let count = sketch.count() as u64;
                Quantiles { count, p50: at(50), p90: at(90), p95: at(95), p99: at(99) }
            }
        });
        let mut next = || quantiles.next().unwrap_or_default();
        let (ttft_us, tpot_ns, total_us) = (next(), next(), next());
        let (cost, tokens) = (tally.cost, tally.usage.total());
        let whole = (tally.unknown_cost == 0).then_some(cost);
        let each = |times, parts| per(whole?, times, parts);
        let sessions = counted.then_some(self.sessions.len() as u64);
        let users = counted.then_some(self.users.len() as u64);
        Line {
            requests: tally.requests,
            outcomes: outcomes.filter(|(_, count)| *count > 0).collect(),
            attempts: tally.attempts,
            usage: tally.usage,
            cost_usd: cost,
            unknown_cost: tally.unknown_cost,
            avoided_cost_usd: tally.avoided_cost,
            saved_cost_usd: tally.saved_cost,
            cost_per_request_usd: each(1, tally.requests),
            cost_per_1k_requests_usd: each(1_000, tally.requests),
            cost_per_million_tokens_usd: each(1_000_000, tokens),
            sessions,
            users,
            cost_per_session_usd: sessions.and_then(|sessions| each(1, sessions)),
            cost_per_user_usd: users.and_then(|users| each(1, users)),
            ttft_us,
            tpot_ns,
            total_us,
        }
    }
}

/// `cost` x `times` / `parts`, rounded half-even.
fn per(cost: PicoUsdTotal, times: u128, parts: u64) -> Option<PicoUsdTotal> {
    let parts = u128::from(parts);
    let whole = cost.pico().checked_mul(times)?;
    let (quotient, rest) = (whole.checked_div(parts)?, whole % parts);
    let up = rest * 2 > parts || (rest * 2 == parts && quotient % 2 == 1);
    Some(PicoUsdTotal::from_pico(quotient + u128::from(up)))
}

fn nearest_rank(values: &mut [u64]) -> Quantiles {
    values.sort_unstable();
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied()
    };
    Quantiles { count: values.len() as u64, p50: at(50), p90: at(90), p95: at(95), p99: at(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_per_part_rounds_half_even_and_never_divides_by_nothing() {
        let cost = PicoUsdTotal::from_pico;
        assert_eq!(per(cost(5), 1, 2), Some(cost(2)));
        assert_eq!(per(cost(7), 1, 2), Some(cost(4)));
        assert_eq!(per(cost(8), 1, 3), Some(cost(3)));
        assert_eq!(per(cost(1), 1_000_000, 3), Some(cost(333_333)));
        assert_eq!(per(cost(1), 1, 0), None);
    }
}
