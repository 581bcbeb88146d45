//! How things stand now: budgets, reservations, refusals, routes, prices.

use super::{Answer, engine_view, list, read::Params, reading, times::rfc3339};
use crate::{
    caller::{Window, Zone},
    config::{RouteConfig, RouteSource},
    ledger::Scope,
    ledger::{BudgetState, Side},
    openapi::types::{Name, UsdTotal, WindowText, ZoneName},
    routes::{Route, Source},
    serve::Gateway,
};
use axum::extract::State;
use policies::{
    HoursRates, PicoUsd, PicoUsdTotal, PriceList, PriceRow, Pricing, RateTable, RoutePrice,
    TokenPrice, TokenRates,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Tokens to which a shown rate refers.
const TOKENS: u64 = 1_000_000;

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "BudgetState")]
pub(super) struct BudgetView {
    #[schemars(with = "Name")]
    id: Arc<str>,
    scope: &'static str,
    name: Option<String>,
    key: Option<String>,
    #[schemars(with = "WindowText")]
    window: Window,
    hard: bool,
    #[schemars(with = "Option<UsdTotal>")]
    limit_usd: Option<PicoUsdTotal>,
    #[schemars(with = "Option<UsdTotal>")]
    spent_usd: Option<PicoUsdTotal>,
    #[schemars(with = "Option<UsdTotal>")]
    reserved_usd: Option<PicoUsdTotal>,
    #[schemars(with = "Option<UsdTotal>")]
    left_usd: Option<PicoUsdTotal>,
    limit_tokens: Option<u64>,
    spent_tokens: Option<u64>,
    reserved_tokens: Option<u64>,
    left_tokens: Option<u64>,
    limit_requests: Option<u64>,
    spent_requests: Option<u64>,
    reserved_requests: Option<u64>,
    left_requests: Option<u64>,
    waiting: u64,
    /// Lost events whose charges may be missing from what is spent: how much is not known, until a
    /// correction is booked. Absent where nothing is missing.
    uncounted_events: Option<u64>,
    /// The time zone of its windows, where it has its own.
    #[schemars(with = "Option<ZoneName>")]
    timezone: Option<Zone>,
    /// Where its time zone was changed and the window that ran then still runs: that one's zone.
    #[schemars(with = "Option<ZoneName>")]
    timezone_until_reset: Option<Zone>,
    began: String,
    began_unix_ms: u64,
    resets: Option<String>,
    resets_unix_ms: Option<u64>,
}

/// A budget in its current window, as it is shown.
pub(super) fn budget(state: BudgetState) -> BudgetView {
    let key = match &state.scope {
        Scope::Key(key) | Scope::Session(key, _) => Some(key.to_string()),
        _ => None,
    };
    let money = |part: fn(&Side<PicoUsdTotal>) -> PicoUsdTotal| state.money.as_ref().map(part);
    let tokens = |part: fn(&Side<u64>) -> u64| state.tokens.as_ref().map(part);
    let requests = |part: fn(&Side<u64>) -> u64| state.requests.as_ref().map(part);
    BudgetView {
        scope: state.scope.kind(),
        name: state.scope.name().map(str::to_owned),
        key,
        window: state.window,
        hard: state.hard,
        limit_usd: money(|side| side.limit),
        spent_usd: money(|side| side.spent),
        reserved_usd: money(|side| side.reserved),
        left_usd: money(|side| side.left),
        limit_tokens: tokens(|side| side.limit),
        spent_tokens: tokens(|side| side.spent),
        reserved_tokens: tokens(|side| side.reserved),
        left_tokens: tokens(|side| side.left),
        limit_requests: requests(|side| side.limit),
        spent_requests: requests(|side| side.spent),
        reserved_requests: requests(|side| side.reserved),
        left_requests: requests(|side| side.left),
        waiting: state.waiting,
        uncounted_events: Some(state.uncounted_events).filter(|events| *events > 0),
        timezone: state.zone,
        timezone_until_reset: state.turn.map(|turn| turn.before),
        began: rfc3339(state.began_unix_ms),
        began_unix_ms: state.began_unix_ms,
        resets: state.resets_unix_ms.map(rfc3339),
        resets_unix_ms: state.resets_unix_ms,
        id: state.id,
    }
}

/// GET /reservations: every attempt that holds money or tokens.
pub(super) async fn reservations(State(gateway): State<Arc<Gateway>>) -> Answer {
    let open = reading(&gateway, |gateway| gateway.books.reservations()).await?;
    let view = |held: &crate::ledger::OpenReservation| {
        json!({
            "request": held.id.to_string(),
            "attempt": held.attempt,
            "key": held.key,
            "reserved_usd": held.money,
            "reserved_tokens": held.tokens,
        })
    };
    list(open.iter().map(view).collect())
}

/// GET /refusals: requests that were turned away, by code, since the ledger began, and by the policy's
/// rule where one refused them.
pub(super) async fn refusals(State(gateway): State<Arc<Gateway>>) -> Answer {
    let read = |gateway: &Gateway| (gateway.books.refusals(), gateway.books.refusals_by_rule());
    let (counts, by_rule) = reading(&gateway, read).await?;
    let view = |(code, count): &(String, u64)| {
        let rules = by_rule.iter().filter(|(of, ..)| of == code);
        let rules: Vec<Value> =
            rules.map(|(_, rule, count)| json!({ "rule": rule, "count": count })).collect();
        let mut view = json!({ "code": code, "count": count });
        if !rules.is_empty() {
            view["rules"] = json!(rules);
        }
        view
    };
    list(counts.iter().map(view).collect())
}

/// GET /routes: every configured route and its live state.
pub(super) async fn routes(State(gateway): State<Arc<Gateway>>) -> Answer {
    let now_s = gateway.clock.unix_ms() / 1000;
    let view = |config: &RouteConfig| {
        let mut view = configured(config, now_s);
        match gateway.routes.get(&config.id) {
            Some(route) => live(&gateway, &mut view, route, now_s),
            // The ledger is open without the routes: the command line looks into it.
            None => view["state"] = json!("not_running"),
        }
        view
    };
    list(gateway.config.routes.iter().map(view).collect())
}

fn configured(config: &RouteConfig, now_s: u64) -> Value {
    let (kind, provider, model) = match &config.source {
        RouteSource::Local(local) => ("local", "local", &local.model),
        RouteSource::Cloud(cloud) => (cloud.kind.name(), cloud.provider.as_str(), &cloud.model),
    };
    json!({
        "id": config.id,
        "kind": kind,
        "provider": provider,
        "model": model,
        "aliases": config.aliases,
        "context_tokens": config.context_tokens,
        "budgeted": config.budgeted,
        "price": price(&config.price, now_s),
        "unknown_price_max_usd": config.unknown_price_max,
    })
}

fn live(gateway: &Gateway, view: &mut Value, route: &Route, now_s: u64) {
    let lately = route.live.lately();
    view["state"] = route.shown_state(now_s);
    view["context_tokens"] = json!(route.context_tokens());
    view["queued"] = json!(route.queued());
    view["in_flight"] = json!(route.live.in_flight());
    view["ttft_p50_us"] = json!(lately.ttft_p50_us);
    view["ttft_p95_us"] = json!(lately.ttft_p95_us);
    view["breaker"] = route.breaker.report();
    view["predicted_wait_us"] = json!(route.places_wait().map(crate::timeline::micros));
    view["failed_permille"] = json!(lately.failed_permille);
    if let Source::Cloud(cloud) = &route.source {
        view["provider_rate"] = json!(cloud.rate());
    }
    if let Source::Local(local) = &route.source {
        view["model_state"] = local.report();
        if let Some(engine) = local.model().loaded() {
            view["engine"] = engine_view::engine(gateway, &engine);
        }
    }
}

/// The price at a second of the Unix epoch.
fn price(price: &Pricing, now_s: u64) -> Value {
    match price.at(now_s) {
        RoutePrice::Tokens(price) => {
            let mut view = token_price(&price);
            view["kind"] = json!("tokens");
            view
        }
        RoutePrice::Compute(price) => {
            json!({
                "kind": "compute",
                "id": price.id,
                "usd_per_hour": price.per_hour,
                "power_usd_per_hour": price.power_per_hour,
            })
        }
        RoutePrice::Unknown => json!({ "kind": "unknown" }),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PriceParams {
    provider: Option<String>,
    model: Option<String>,
}

/// GET /prices: the dated list, the operator's rows included.
pub(super) async fn prices(
    State(gateway): State<Arc<Gateway>>,
    Params(params): Params<PriceParams>,
) -> Answer {
    let (provider, model) = (params.provider.as_deref(), params.model.as_deref());
    list(price_rows(&gateway.config.prices, provider, model, &gateway.clock.day()))
}

/// The rows of a price list, as they are shown on a day (`YYYY-MM-DD`).
pub(crate) fn price_rows(
    prices: &PriceList,
    provider: Option<&str>,
    model: Option<&str>,
    today: &str,
) -> Vec<Value> {
    let view = |row: &PriceRow| {
        let mut view = token_price(&row.price);
        let holding = prices.find(&row.provider, &row.model, today);
        view["holds_today"] = json!(holding.is_some_and(|price| price.id == row.price.id));
        view["provider"] = json!(row.provider);
        view["model"] = json!(row.model);
        view["effective_from"] = json!(row.effective_from);
        view["snapshots"] = json!(row.snapshots);
        view["source"] = json!(row.source);
        view["source_date"] = json!(row.source_date);
        view
    };
    let wanted = |row: &&PriceRow| {
        provider.is_none_or(|provider| row.provider == provider)
            && model.is_none_or(|model| row.model == model)
    };
    prices.rows().iter().filter(wanted).map(view).collect()
}

/// Rates in USD per million tokens, as providers publish them.
fn token_price(price: &TokenPrice) -> Value {
    let hours = |hours: &HoursRates| {
        let mut view = table(&hours.rates);
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        view["from"] = json!(time(hours.from_minute));
        view["to"] = json!(time(hours.to_minute));
        view
    };
    let mut view = table(&price.standard);
    view["id"] = json!(price.id);
    view["per_request_usd"] = json!(price.fees.per_request);
    view["per_image_usd"] = json!(price.fees.per_image);
    view["hours"] = price.hours.iter().map(hours).collect();
    let services = price.services.iter();
    let services: serde_json::Map<String, Value> =
        services.map(|(tier, rates)| (tier.as_str().to_owned(), table(rates))).collect();
    view["services"] = Value::Object(services);
    view
}

/// Rates by the length of the prompt.
fn table(table: &RateTable) -> Value {
    let tiers: Vec<Value> = table
        .tiers
        .iter()
        .map(|tier| {
            json!({
                "above_prompt_tokens": tier.above_prompt_tokens,
                "per_million_usd": rates(&tier.rates),
            })
        })
        .collect();
    json!({ "per_million_usd": rates(&table.base), "tiers": tiers })
}

fn rates(rates: &TokenRates) -> Value {
    let million = |rate: PicoUsd| rate.times(TOKENS).ok();
    json!({
        "input": million(rates.input),
        "cache_read": million(rates.cache_read),
        "cache_write_5m": million(rates.cache_write_5m),
        "cache_write_1h": million(rates.cache_write_1h),
        "output": million(rates.output),
        "reasoning": million(rates.reasoning),
        "image": million(rates.image),
        "audio": million(rates.audio),
        "audio_output": million(rates.audio_output),
    })
}
