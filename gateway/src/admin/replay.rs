//! POST /policies/replay: a policy tried out on the requests of the past.

use super::{
    Answer, answer,
    asked::Asked,
    ledger_of,
    policies::{UNNAMED, as_configured, text_of},
    read::{Body, bad},
    reading, unreadable,
};
use crate::{
    config::{Config, RouteConfig},
    ledger::{Cost, Costs, Entry, Move, Moved, Replay, ReplayReport, Spread, Times, signed},
    openapi::types::{Name, UsdSigned, UsdTotal},
    refusal::Refusal,
    serve::Gateway,
};
use axum::extract::State;
use policies::{
    NotReplayable, PicoUsdTotal, PolicyName, PolicyVersion, RouteId, RoutePrice, RuleName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The policy, and which requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// The policy's text.
    text: String,
    /// Its name, for errors.
    name: Option<String>,
    /// Ended at or after this: RFC 3339, a day, or a span such as `30d`.
    since: String,
    /// Ended before this.
    until: Option<String>,
    key: Option<String>,
    user: Option<String>,
    team: Option<String>,
    session: Option<String>,
    tag: Option<String>,
    /// Tried this route.
    route: Option<String>,
    model: Option<String>,
    /// Sent there by this rule.
    rule: Option<String>,
    /// Decided by this version.
    policy_version: Option<String>,
    /// Configured routes that are taken to have been there, and ready, where a request was decided
    /// before they were.
    #[serde(default)]
    #[schemars(with = "Vec<Name>")]
    assume: Vec<RouteId>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Replayed")]
pub(super) struct ReplayView {
    #[schemars(with = "Name")]
    policy: PolicyName,
    #[schemars(with = "Name")]
    version: PolicyVersion,
    /// Requests that were meant.
    requests: u64,
    /// Those that can be replayed.
    replayed: u64,
    not_replayable: Vec<NotReplayableView>,
    /// Replayed requests that were decided before a route was there, which was assumed.
    assumed: Vec<AssumedView>,
    /// Answered by the route that answered then, or by none as then.
    unchanged: u64,
    /// Answered by another route.
    moved: u64,
    /// Refused by the policy, or left with routes alone that were passed over then, for want of money,
    /// say.
    refused: u64,
    /// Did not fail then, and left with attempts alone that failed: an error. They are in no time of `after`.
    failed: u64,
    before: SideView,
    after: SideView,
    /// What they would have cost more, of those whose cost is known on both sides.
    #[schemars(with = "UsdSigned")]
    difference_usd: String,
    /// Replayed requests by the rule that would have matched; the most first.
    rules: Vec<RuleView>,
    /// From where to where requests would have gone; the most first, and no more than 1,000.
    moves: Vec<MoveView>,
    /// Signals that rules looked at and that were not known then: their conditions do not hold.
    missing_signals: Vec<MissingView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayNot")]
struct NotReplayableView {
    reason: String,
    /// The route that was not there, where that is the reason: it may be assumed.
    #[schemars(with = "Option<Name>")]
    route: Option<RouteId>,
    requests: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayAssumed")]
struct AssumedView {
    #[schemars(with = "Name")]
    route: RouteId,
    requests: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayRule")]
struct RuleView {
    /// Absent: no rule matched.
    #[schemars(with = "Option<Name>")]
    rule: Option<RuleName>,
    requests: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayMissing")]
struct MissingView {
    signal: String,
    requests: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplaySide")]
struct SideView {
    #[serde(flatten)]
    cost: CostView,
    /// TTFT of streamed answers as the caller saw it.
    ttft: SpreadView,
    /// Arrival to the end of the answer.
    total: SpreadView,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayCost")]
struct CostView {
    /// Sum of what is known.
    #[schemars(with = "UsdTotal")]
    cost_usd: PicoUsdTotal,
    /// Requests whose cost is unknown, and not in the sum.
    cost_unknown: u64,
    /// Requests whose cost is estimated, and in the sum.
    cost_estimated: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplaySpread")]
struct SpreadView {
    p50_us: Option<u64>,
    p95_us: Option<u64>,
    p99_us: Option<u64>,
    /// Requests of which it is unknown.
    unknown: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ReplayMove")]
struct MoveView {
    /// The route that answered, or was asked last; absent where a cache answered.
    #[schemars(with = "Option<Name>")]
    from: Option<RouteId>,
    /// The route that would, or would be asked last; absent where the request is refused.
    #[schemars(with = "Option<Name>")]
    to: Option<RouteId>,
    /// Whether it would have failed there.
    failed: bool,
    #[schemars(with = "Name")]
    rule_before: RuleName,
    #[schemars(with = "Option<Name>")]
    rule: Option<RuleName>,
    requests: u64,
    before: CostView,
    after: CostView,
    #[schemars(with = "UsdSigned")]
    difference_usd: String,
    /// Some of them.
    examples: Vec<String>,
}

/// POST /policies/replay
pub(super) async fn replay(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<ReplayBody>,
) -> Answer {
    let text = text_of(body.text)?;
    let named = [
        ("since", Some(body.since)),
        ("until", body.until),
        ("key", body.key),
        ("user", body.user),
        ("team", body.team),
        ("session", body.session),
        ("tag", body.tag),
        ("route", body.route),
        ("model", body.model),
        ("rule", body.rule),
        ("policy_version", body.policy_version),
    ];
    let filter = Asked::of_body(named).filter(&ledger_of(&gateway))?;
    let assume = configured(&gateway.config, &body.assume)?;
    let replayed = reading(&gateway, move |gateway| {
        let name = body.name.as_deref().unwrap_or(UNNAMED);
        let (policy, _) = as_configured(name, &text, gateway)
            .map_err(|error| bad(Some("text"), error.to_string()))?;
        let price = |entry: &Entry, route: &RouteId| price_of(&gateway.config, entry, route);
        let assumed = |entry: &Entry, usual_output: Option<u64>| {
            let at_unix_s = entry.arrived_unix_ms / 1_000;
            let request = &entry.decision.facts.request;
            assume.iter().map(|route| route.assumed(request, at_unix_s, usual_output)).collect()
        };
        let asked = Replay { filter: &filter, policy: &policy, price: &price, assumed: &assumed };
        let report = gateway.books.reader().replay(&asked).map_err(unreadable)?;
        Ok::<_, Refusal>((policy.name().clone(), policy.version().clone(), report))
    });
    let (policy, version, report) = replayed.await??;
    answer(&view(policy, version, report))
}

/// The routes of these names.
///
/// # Errors
/// [`Refusal::Bad`] where there is none.
fn configured(config: &Config, names: &[RouteId]) -> Result<Vec<RouteConfig>, Refusal> {
    let is_there = |name: &&RouteId| config.routes.iter().any(|route| route.id == **name);
    if let Some(unknown) = names.iter().find(|name| !is_there(name)) {
        return Err(bad(Some("assume"), format!("there is no route `{unknown}`")));
    }
    Ok(config.routes.iter().filter(|route| names.contains(&route.id)).cloned().collect())
}

/// The price of a route as it is configured, when the request was admitted.
fn price_of(config: &Config, entry: &Entry, route: &RouteId) -> Option<RoutePrice> {
    let route = config.routes.iter().find(|configured| configured.id == *route)?;
    Some(route.price.at(entry.arrived_unix_ms / 1_000))
}

fn view(policy: PolicyName, version: PolicyVersion, report: ReplayReport) -> ReplayView {
    let not: u64 = report.not_replayable.values().sum();
    let mut moves: Vec<(Move, Moved)> = report.moves.into_iter().collect();
    moves.sort_by_key(|(_, moved)| std::cmp::Reverse(moved.requests));
    ReplayView {
        policy,
        version,
        requests: report.requests,
        replayed: report.requests - not,
        not_replayable: most_first(report.not_replayable)
            .map(|(why, requests)| NotReplayableView {
                reason: why.to_string(),
                route: match why {
                    NotReplayable::Route(route) => Some(route),
                    NotReplayable::Facts(_) => None,
                },
                requests,
            })
            .collect(),
        assumed: most_first(report.assumed)
            .map(|(route, requests)| AssumedView { route, requests })
            .collect(),
        unchanged: report.unchanged,
        moved: report.moved,
        refused: report.refused,
        failed: report.failed,
        difference_usd: difference(&report.costs),
        before: side(&report.costs.before, &report.before),
        after: side(&report.costs.after, &report.after),
        rules: most_first(report.rules)
            .map(|(rule, requests)| RuleView { rule, requests })
            .collect(),
        moves: moves.into_iter().map(move_view).collect(),
        missing_signals: most_first(report.missing_signals)
            .map(|(signal, requests)| MissingView { signal, requests })
            .collect(),
    }
}

fn most_first<K: Ord>(counts: BTreeMap<K, u64>) -> impl Iterator<Item = (K, u64)> {
    let mut counts: Vec<(K, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter()
}

fn move_view((way, moved): (Move, Moved)) -> MoveView {
    MoveView {
        from: way.from,
        to: way.to,
        failed: way.failed,
        rule_before: way.rule_before,
        rule: way.rule,
        requests: moved.requests,
        difference_usd: difference(&moved.costs),
        before: cost(&moved.costs.before),
        after: cost(&moved.costs.after),
        examples: moved.examples.iter().map(ToString::to_string).collect(),
    }
}

fn side(money: &Cost, times: &Times) -> SideView {
    let spread = |of: &Spread| SpreadView {
        p50_us: of.p50_us,
        p95_us: of.p95_us,
        p99_us: of.p99_us,
        unknown: of.unknown,
    };
    SideView { cost: cost(money), ttft: spread(&times.ttft), total: spread(&times.total) }
}

fn cost(cost: &Cost) -> CostView {
    CostView { cost_usd: cost.known, cost_unknown: cost.unknown, cost_estimated: cost.estimated }
}

fn difference(costs: &Costs) -> String {
    signed(costs.compared.0.pico(), costs.compared.1.pico())
}
