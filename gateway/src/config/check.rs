//! From what is written to what the program uses: everything that can be wrong is found here, once,
//! at start, and points at its line.

mod routes;
mod sent;

use super::{
    Config, DailyExport, Durability, Environment, KeepAliveConfig, LedgerConfig, Limits,
    PolicyConfig, PolicySource, RouteConfig, Surroundings,
    document::{Document, Route, not_set},
    error::{Finding, FromEnv, closest},
    models, price, shipped, webhook, written,
};
use crate::{
    caller::{BudgetSpec, NotABudget, NotAZone, TooManyBudgets, Zone, too_many},
    guard,
    wire::KeptLimits,
};
use std::{
    collections::{BTreeSet, HashSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

/// Where nobody listens.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Checks a document whose relative paths start from `base`.
pub(super) fn check(
    document: Document,
    base: &Path,
    surroundings: Surroundings<'_>,
    from_env: &FromEnv,
) -> Result<Config, Finding> {
    let Surroundings { environment, now_s, .. } = surroundings;
    let Document { written, routes } = document;
    let mut warnings = Vec::new();
    let policy = policy(&written.policy, base, environment)?;
    let names = names(&routes, &policy)?;
    let prices = price::list(&written.prices, base, from_env)?;
    let around = routes::Around { names, base, prices: &prices, environment, now_s };
    let routes: Vec<RouteConfig> = routes
        .into_iter()
        .map(|written| routes::route(written, &around, &mut warnings))
        .collect::<Result<_, _>>()?;
    let server = &written.server;
    let listen = listen(&server.listen, environment)?;
    let admin_listen = written.admin.checked(environment)?;
    for at in std::iter::once(listen).chain(admin_listen) {
        if !at.ip().is_loopback() && written.tls.is_none() {
            warnings.push(format!(
                "listening on {at}, which others can reach, without TLS: keys travel in clear"
            ));
        }
    }
    let model_limits = models::checked(&written.limit, &asked_for(&policy, &routes))?;
    let webhooks = webhook::checked(&written.webhook, environment, &mut warnings)?;
    let config = Config {
        listen,
        data_dir: resolve(base, path(&server.data_dir, "`data_dir`", from_env)?),
        time_zone: time_zone(&server.time_zone)?.rules(),
        limits: limits(&written)?,
        ledger: ledger(&written.ledger)?,
        guard: guard_settings(&written.guard)?,
        metrics_public: server.metrics_public,
        cors_origins: cors_origins(&server.cors_origins)?,
        keep_alive: KeepAliveConfig {
            every: (server.keep_alive_ms > 0).then(|| Duration::from_millis(server.keep_alive_ms)),
            early: server.keep_alive_early,
        },
        responses: responses(&written.responses)?,
        model_limits,
        global_budgets: budgets(&written.budget)?,
        engine_memory_max: written
            .engine
            .memory_max_mib
            .map(|mib| mib.get().saturating_mul(1 << 20)),
        policy,
        routes,
        prices,
        attempts: written.attempts.checked(),
        hedge: written.hedge.checked()?,
        tls: written.tls.as_ref().map(|tls| tls.checked(base)),
        admin_listen,
        cache: written.cache.checked()?,
        idempotency: written.idempotency.checked()?,
        webhooks,
        warnings,
    };
    if config.routes.is_empty() {
        return Err(Finding {
            span: None,
            message: "no route is configured: write at least one [routes.<name>]".to_owned(),
        });
    }
    Ok(config)
}

fn listen(written: &Spanned<String>, environment: Environment) -> Result<SocketAddr, Finding> {
    match (written.get_ref().parse(), environment) {
        (Ok(address), _) => Ok(address),
        // What is left of one without its variables; nobody is going to listen.
        (Err(_), Environment::Spared) => Ok(NOWHERE),
        (Err(_), Environment::Needed) => {
            let message = "`listen` is an address and a port such as \"127.0.0.1:8655\"";
            Err(Finding::at(written.span(), message))
        }
    }
}

fn time_zone(written: &Spanned<String>) -> Result<Zone, Finding> {
    written
        .get_ref()
        .parse()
        .map_err(|unknown: NotAZone| Finding::at(written.span(), unknown.to_string()))
}

/// Origins as a browser writes them: a scheme and an authority, nothing after it; or `*`.
fn cors_origins(written: &[Spanned<String>]) -> Result<Vec<String>, Finding> {
    let origin = |written: &Spanned<String>| {
        let text = written.get_ref();
        let after = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_origin = after.is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        });
        if text == "*" || is_origin {
            return Ok(text.to_ascii_lowercase());
        }
        let message = "an origin is \"*\" or such as \"https://app.example.com\"";
        Err(Finding::at(written.span(), message))
    };
    written.iter().map(origin).collect()
}

fn responses(written: &written::Responses) -> Result<Option<KeptLimits>, Finding> {
    let ttl = super::cache::kept_for("ttl_minutes", &written.ttl_minutes, 60)?;
    Ok(written.store.then(|| KeptLimits {
        entries_max: count(written.entries_max.get()),
        bytes_max: count(written.store_mib.get()).saturating_mul(1024 * 1024),
        ttl,
    }))
}

fn limits(written: &written::Written) -> Result<Limits, Finding> {
    let (server, limits) = (&written.server, &written.limits);
    let bodies_bytes_max = count(limits.bodies_mib.get_ref().get()).saturating_mul(1 << 20);
    if bodies_bytes_max < count(server.body_bytes_max.get()) {
        let message = "`bodies_mib` has no room for one body of `body_bytes_max`";
        return Err(Finding::at(limits.bodies_mib.span(), message));
    }
    Ok(Limits {
        body_bytes_max: count(server.body_bytes_max.get()),
        body_read_max: millis(server.body_read_timeout_ms),
        header_read_max: millis(server.header_read_timeout_ms),
        idle_max: millis(server.idle_timeout_ms),
        write_stall_max: millis(server.write_stall_timeout_ms),
        connections_max: count(server.connections_max.get()),
        drain_max: millis(server.drain_timeout_ms),
        output_tokens_default: server.output_tokens_default.get(),
        requests_per_minute: limits.requests_per_minute.map(Into::into),
        tokens_per_minute: limits.tokens_per_minute.map(Into::into),
        in_flight_max: count(limits.in_flight_max.get()),
        bodies_bytes_max,
        failed_auth_per_minute: limits.failed_auth_per_minute.get(),
        budget_wait_max: Duration::from_millis(limits.budget_wait_max_ms),
    })
}

fn ledger(written: &written::Ledger) -> Result<LedgerConfig, Finding> {
    let budget_status = *written.budget_status.get_ref();
    if !matches!(budget_status, 402 | 429) {
        let message = "`budget_status` is 429 (as OpenAI answers) or 402";
        return Err(Finding::at(written.budget_status.span(), message));
    }
    Ok(LedgerConfig {
        durability: match written.durability {
            written::Durability::Strict => Durability::Strict,
            written::Durability::Grouped => Durability::Grouped,
        },
        low_water_bytes: written.low_water_mib.saturating_mul(1024 * 1024),
        ballast_bytes: written.ballast_mib.saturating_mul(1024 * 1024),
        keep_days: written.keep_days.map(std::num::NonZero::get),
        daily_export: written.daily_export.map(|form| match form {
            written::DailyExport::Csv => DailyExport::Csv,
            written::DailyExport::Jsonl => DailyExport::Jsonl,
            written::DailyExport::Focus => DailyExport::Focus,
        }),
        segment_entries_max: written.segment_entries_max.get(),
        budget_status,
    })
}

fn guard_settings(written: &written::Guard) -> Result<guard::Settings, Finding> {
    Ok(guard::Settings {
        enabled: written.enabled,
        spend: written.spend,
        prompt_loop: written.prompt_loop,
        session_growth: written.session_growth,
        model_spend: written.model_spend,
        new_keys_max: at_most("new_keys_max", &written.new_keys_max, guard::NEW_KEYS_MAX)?,
        fast_factor: f64::from(written.fast_percent.get()) / 100.0,
        hour_factor: f64::from(written.hour_percent.get()) / 100.0,
        shape_factor: f64::from(written.shape_percent.get()) / 100.0,
        floor_per_hour: written.floor_usd_per_hour.0,
        loop_max: at_most("loop_max", &written.loop_max, guard::LOOP_MAX)?,
        learn: Duration::from_millis(written.learn_ms),
        hold: millis(written.hold_ms),
        allow: written.allow.iter().map(allowed).collect::<Result<_, _>>()?,
    })
}

/// Whom the guard leaves alone: a name of another form would be nobody's.
fn allowed(written: &Spanned<String>) -> Result<String, Finding> {
    let text = written.get_ref();
    let known = ["key_", "user:", "team:"];
    if known.iter().any(|form| text.strip_prefix(form).is_some_and(|name| !name.is_empty())) {
        return Ok(text.clone());
    }
    let message = "`allow` has key ids, \"user:<name>\" and \"team:<name>\"";
    Err(Finding::at(written.span(), message))
}

fn budgets(written: &[Spanned<written::Budget>]) -> Result<Vec<BudgetSpec>, Finding> {
    let mut windows = HashSet::new();
    for budget in written {
        if !windows.insert(budget.get_ref().window) {
            let message = "there is another budget for this window: at most one for each";
            return Err(Finding::at(budget.span(), message));
        }
        if too_many(windows.iter().copied()) {
            return Err(Finding::at(budget.span(), TooManyBudgets.to_string()));
        }
    }
    written.iter().map(budget).collect()
}

fn budget(written: &Spanned<written::Budget>) -> Result<BudgetSpec, Finding> {
    let budget = written.get_ref();
    let spec = BudgetSpec {
        window: budget.window,
        money: budget.money_usd.map(|money| money.0),
        tokens: budget.tokens,
        hard: budget.hard,
        requests: budget.requests,
        zone: budget.timezone.as_ref().map(time_zone).transpose()?,
        turn: None,
    };
    spec.checked().map_err(|wrong| {
        let zone = budget.timezone.as_ref().filter(|_| wrong == NotABudget::Zone);
        let span = zone.map_or(written.span(), Spanned::span);
        Finding::at(span, wrong.to_string())
    })
}

/// What callers may write as `model`.
fn asked_for<'a>(policy: &'a PolicyConfig, routes: &'a [RouteConfig]) -> BTreeSet<&'a str> {
    let of_routes = routes.iter().flat_map(|route| {
        std::iter::once(route.id.as_str()).chain(route.aliases.iter().map(String::as_str))
    });
    policy.aliases.iter().map(String::as_str).chain(of_routes).collect()
}

fn policy(
    written: &written::Policy,
    base: &Path,
    environment: Environment,
) -> Result<PolicyConfig, Finding> {
    let source = match (&written.file, &written.shipped) {
        (Some(file), Some(_)) => {
            let message = "[policy] has both `file` and `shipped`: keep one";
            return Err(Finding::at(file.span(), message));
        }
        (Some(file), None) if file.get_ref().is_empty() && environment == Environment::Needed => {
            return Err(Finding::at(file.span(), "`file` of [policy] is empty"));
        }
        (Some(file), None) => PolicySource::File(resolve(base, file.get_ref())),
        (None, Some(name)) => PolicySource::Shipped(shipped_policy(name)?),
        (None, None) => PolicySource::Shipped(shipped::DEFAULT_POLICY),
    };
    let mut aliases = Vec::new();
    for alias in &written.aliases {
        name_is_sound(alias, "an alias")?;
        aliases.push(alias.get_ref().clone());
    }
    Ok(PolicyConfig { source, aliases })
}

fn shipped_policy(written: &Spanned<String>) -> Result<&'static str, Finding> {
    let known: Vec<&'static str> = shipped::policy_names().collect();
    if let Some(name) = known.iter().find(|name| *name == written.get_ref()) {
        return Ok(name);
    }
    let hint = closest(written.get_ref(), &known)
        .map(|near| format!("; did you mean {near:?}?"))
        .unwrap_or_default();
    let message = format!(
        "no policy named {:?} is shipped; there are {}{hint}",
        written.get_ref(),
        known.join(", ")
    );
    Err(Finding::at(written.span(), message))
}

/// Names of routes and of policy aliases, each of which may be taken once.
fn names(routes: &[Route], policy: &PolicyConfig) -> Result<HashSet<String>, Finding> {
    let mut taken: HashSet<String> = policy.aliases.iter().cloned().collect();
    for route in routes {
        name_is_sound(&route.name, "a route's name")?;
        if !taken.insert(route.name.get_ref().clone()) {
            let message = format!(
                "`{}` is an alias of the policy ([policy] aliases) and cannot name a route too",
                route.name.get_ref()
            );
            return Err(Finding::at(route.name.span(), message));
        }
    }
    Ok(taken)
}

/// A number that is at most `max`.
fn at_most(name: &str, written: &Spanned<NonZeroU32>, max: u32) -> Result<u32, Finding> {
    let number = written.get_ref().get();
    let message = || format!("`{name}` is at most {max}");
    (number <= max).then_some(number).ok_or_else(|| Finding::at(written.span(), message()))
}

/// Names go into URLs, headers and metric labels.
pub(super) fn name_is_sound(name: &Spanned<String>, what: &str) -> Result<(), Finding> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:".contains(&byte);
    let text = name.get_ref();
    if text.is_empty() || text.len() > 128 || !text.bytes().all(sound) {
        let message = format!("{what} has 1 to 128 characters of a-z A-Z 0-9 - _ . / :");
        return Err(Finding::at(name.span(), message));
    }
    Ok(())
}

/// A path that is needed whatever is asked: one without its variable would be another place.
pub(super) fn path<'a>(
    written: &'a Spanned<String>,
    what: &str,
    from_env: &FromEnv,
) -> Result<&'a str, Finding> {
    if let Some(name) = from_env.missing_at(&written.span()) {
        return Err(Finding::at(written.span(), not_set(name)));
    }
    if written.get_ref().is_empty() {
        let message = format!("{what} is empty: write a path");
        return Err(Finding::at(written.span(), message));
    }
    Ok(written.get_ref())
}

fn resolve(base: &Path, written: &str) -> PathBuf {
    base.join(written)
}

fn millis(written: NonZeroU64) -> Duration {
    Duration::from_millis(written.get())
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
