//! GET /idle: what local models cost while they were loaded and worked for nobody, by day (UTC) and
//! route. No request pays it, and no sum of requests has it.

use super::{
    Answer, answer,
    asked::check_order,
    read::{Params, bad},
    reading,
};
use crate::{ledger::StoodDay, openapi::types::UsdTotal, serve::Gateway};
use axum::extract::State;
use policies::{PicoUsdTotal, PriceId, RouteId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct IdleParams {
    since: Option<String>,
    until: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "IdleCosts")]
pub(super) struct IdleView {
    object: &'static str,
    data: Vec<IdleRow>,
    #[schemars(with = "UsdTotal")]
    total_idle_cost_usd: PicoUsdTotal,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "IdleCost")]
struct IdleRow {
    /// The day (UTC).
    day: String,
    #[schemars(with = "crate::openapi::types::Name")]
    route: RouteId,
    /// The price of its engine time.
    #[schemars(with = "crate::openapi::types::Name")]
    price: PriceId,
    /// What an hour costs in which the engine is idle: the machine's, without the power that only a
    /// working engine draws.
    #[schemars(with = "UsdTotal")]
    idle_usd_per_hour: PicoUsdTotal,
    /// Milliseconds for which the model was loaded.
    loaded_ms: u64,
    /// Milliseconds of engine time attributed to requests.
    engine_ms: u64,
    /// Milliseconds loaded and no request's.
    idle_ms: u64,
    #[schemars(with = "UsdTotal")]
    idle_cost_usd: PicoUsdTotal,
}

/// GET /idle?since=2026-11-01&until=2026-12-01: whole days, `until` not among them.
pub(super) async fn show(
    State(gateway): State<Arc<Gateway>>,
    Params(params): Params<IdleParams>,
) -> Answer {
    let from = day("since", params.since, 0)?;
    let to = day("until", params.until, u64::MAX)?;
    check_order(("since", Some(from)), ("until", Some(to)))?;
    let days = reading(&gateway, move |gateway| gateway.books.standing(from, to)).await?;
    let total = days.iter().map(|day| day.stood.idle_pico()).sum();
    answer(&IdleView {
        object: "list",
        data: days.into_iter().map(row).collect(),
        total_idle_cost_usd: PicoUsdTotal::from_pico(total),
    })
}

fn row(StoodDay { day, stood }: StoodDay) -> IdleRow {
    IdleRow {
        day: crate::clock::day_of(day * DAY_MS),
        idle_usd_per_hour: stood.idle_per_hour.into(),
        loaded_ms: stood.loaded_ns / 1_000_000,
        engine_ms: stood.engine_ns / 1_000_000,
        idle_ms: stood.idle_ns() / 1_000_000,
        idle_cost_usd: PicoUsdTotal::from_pico(stood.idle_pico()),
        route: stood.route,
        price: stood.price,
    }
}

/// A day as it is written, in days since the Unix epoch.
fn day(name: &str, written: Option<String>, absent: u64) -> Result<u64, crate::refusal::Refusal> {
    let Some(written) = written else { return Ok(absent) };
    let day: jiff::civil::Date = written
        .parse()
        .map_err(|_| bad(Some(name), format!("`{name}` is a day such as 2026-11-01")))?;
    let at = day.to_zoned(jiff::tz::TimeZone::UTC).map(|at| at.timestamp().as_millisecond());
    Ok(at.ok().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0) / DAY_MS)
}
