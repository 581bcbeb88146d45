//! POST /prices/rerate: past attempts rated anew, with the prices of the configuration as it is now.
//!
//! **Invariant:** nothing is written unless that is asked for; what is asked for twice is done once.

use super::{
    Answer, answer,
    asked::Asked,
    ledger_of,
    read::{Body, bad},
    reading,
    times::rfc3339,
    unreadable,
};
use crate::{
    config::{Config, RouteConfig, RouteSource},
    ledger::{Attempt, Difference, Entry, RatedFrom, Rerate, Rerated},
    openapi::types::{Name, UsdSigned, UsdTotal},
    serve::Gateway,
};
use axum::extract::State;
use policies::{PicoUsdTotal, PriceId, RoutePrice};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 500;

/// Which attempts, and whether they are adjusted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RerateBody {
    /// Ended at or after this: RFC 3339, a day, or a span such as `30d`.
    since: Option<String>,
    /// Ended before this.
    until: Option<String>,
    key: Option<String>,
    route: Option<String>,
    model: Option<String>,
    provider: Option<String>,
    /// Writes the adjustments; without it nothing is changed.
    apply: bool,
    /// Why, for the ledger; needed with `apply`.
    reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Rerated")]
pub(super) struct RerateView {
    /// Whether adjustments were written.
    applied: bool,
    /// Attempts that cost something else by the prices of now.
    changed: u64,
    /// Attempts that cost already what they should.
    unchanged: u64,
    /// Attempts that cannot be rated exactly.
    left_out: Vec<LeftOutView>,
    /// Attempts of requests that ended before this keep their cost: their entries were dropped.
    dropped_before: Option<String>,
    #[serde(flatten)]
    sums: DifferenceView,
    by: Vec<ByView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RerateLeftOut")]
struct LeftOutView {
    reason: String,
    attempts: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RerateDifference")]
struct DifferenceView {
    /// Sum of the changed attempts' known costs before.
    #[schemars(with = "UsdTotal")]
    cost_before_usd: PicoUsdTotal,
    /// Changed attempts whose cost was unknown before.
    unknown_before: u64,
    /// Sum of the changed attempts' costs now.
    #[schemars(with = "UsdTotal")]
    cost_usd: PicoUsdTotal,
    #[schemars(with = "UsdSigned")]
    difference_usd: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RerateBy")]
struct ByView {
    provider: String,
    model: String,
    #[schemars(with = "Option<Name>")]
    price_before: Option<PriceId>,
    #[schemars(with = "Option<Name>")]
    price: Option<PriceId>,
    attempts: u64,
    #[serde(flatten)]
    sums: DifferenceView,
}

/// POST /prices/rerate
pub(super) async fn rerate(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<RerateBody>,
) -> Answer {
    let reason = body.reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        let message = format!("`reason` has at most {REASON_BYTES_MAX} bytes of plain text");
        return Err(bad(Some("reason"), message));
    }
    if body.apply && reason.trim().is_empty() {
        return Err(bad(Some("reason"), "`reason` says why: each adjustment keeps it"));
    }
    if body.since.is_none() {
        return Err(bad(Some("since"), "`since` says from when on attempts are rated anew"));
    }
    let named = [
        ("since", body.since),
        ("until", body.until),
        ("key", body.key),
        ("route", body.route),
        ("model", body.model),
        ("provider", body.provider),
    ];
    let filter = Asked::of_body(named).filter(&ledger_of(&gateway))?;
    let apply = body.apply;
    let rated = reading(&gateway, move |gateway| {
        let price = |entry: &Entry, attempt: &Attempt| price_of(&gateway.config, entry, attempt);
        let apply = apply.then_some(reason.as_str());
        gateway.books.rerate(&Rerate { filter: &filter, price: &price, apply })
    });
    answer(&view(&rated.await?.map_err(unreadable)?, apply))
}

/// The price that an attempt should have had: its route's, where the route still asks that provider
/// for that model, else the price list's row for them.
fn price_of(config: &Config, entry: &Entry, attempt: &Attempt) -> Option<RoutePrice> {
    let admitted_s = entry.arrived_unix_ms / 1_000;
    let same = |route: &&RouteConfig| {
        let (provider, model) = match &route.source {
            RouteSource::Local(local) => ("local", &local.model),
            RouteSource::Cloud(cloud) => (cloud.provider.as_str(), &cloud.model),
        };
        route.id == attempt.route && provider == attempt.provider && *model == attempt.model
    };
    if let Some(route) = config.routes.iter().find(same) {
        return Some(route.price.at(admitted_s));
    }
    let day = crate::clock::day_of(entry.arrived_unix_ms);
    config.prices.find(&attempt.provider, &attempt.model, &day).map(RoutePrice::Tokens)
}

fn view(rated: &Rerated, applied: bool) -> RerateView {
    let left_out = rated.left_out.iter();
    let by = |(from, sums): (&RatedFrom, &Difference)| ByView {
        provider: from.provider.clone(),
        model: from.model.clone(),
        price_before: from.price_before.clone(),
        price: from.price.clone(),
        attempts: sums.attempts,
        sums: difference(sums),
    };
    RerateView {
        applied,
        changed: rated.changed,
        unchanged: rated.unchanged,
        left_out: left_out
            .map(|(reason, attempts)| LeftOutView {
                reason: (*reason).to_owned(),
                attempts: *attempts,
            })
            .collect(),
        dropped_before: rated.dropped_before_unix_ms.map(rfc3339),
        sums: difference(&rated.sums),
        by: rated.by.iter().map(by).collect(),
    }
}

fn difference(sums: &Difference) -> DifferenceView {
    DifferenceView {
        cost_before_usd: sums.before,
        unknown_before: sums.unknown_before,
        cost_usd: sums.now,
        difference_usd: sums.signed(),
    }
}
