//! From what is written to what the program uses: everything that can be wrong is found here, once,
//! at start, and points at its line.

use super::{
    CapField, Capabilities, CloudConfig, Config, DailyExport, Durability, KeepAliveConfig,
    LedgerConfig, Limits, LocalConfig, PolicyConfig, PolicySource, RouteConfig, RouteSource,
    document::{Document, Kind, Route},
    error::{Finding, closest},
    models, price, shipped,
    survive::{self, BreakerConfig, RetryConfig},
    webhook, written, written_routes,
};
use crate::{
    caller::{BudgetSpec, NotABudget, NotAZone, Zone},
    providers::Kind as ProviderKind,
    wire::KeptLimits,
};
use local_engine::{
    DRAFT_STREAMS_MAX, DRAFT_TOKENS_MAX, Drill, Keep, KvLayout, LoadWhen, Pooling, PrefixSharing,
    Speculation,
};
use policies::{PriceList, RouteId, RoutePrice};
use secrecy::SecretString;
use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

/// Checks a document whose relative paths start from `base`.
pub(super) fn check(document: Document, base: &Path, now_s: u64) -> Result<Config, Finding> {
    let Document { written, routes } = document;
    let mut warnings = Vec::new();
    let policy = policy(&written.policy, base)?;
    let names = names(&routes, &policy)?;
    let prices = price::list(&written.prices, base)?;
    let around = Around { names, base, prices: &prices, now_s };
    let routes: Vec<RouteConfig> = routes
        .into_iter()
        .map(|written| route(written, &around, &mut warnings))
        .collect::<Result<_, _>>()?;
    let server = &written.server;
    let listen = listen(&server.listen)?;
    if !listen.ip().is_loopback() && written.tls.is_none() {
        warnings.push(format!(
            "listening on {listen}, which others can reach, without TLS: keys travel in clear"
        ));
    }
    let model_limits = models::checked(&written.limit, &asked_for(&policy, &routes))?;
    let webhooks = webhook::checked(&written.webhook, &mut warnings)?;
    let config = Config {
        listen,
        data_dir: resolve(base, &server.data_dir),
        time_zone: time_zone(&server.time_zone)?.rules(),
        limits: limits(&written),
        ledger: ledger(&written.ledger)?,
        guard: guard(&written.guard),
        metrics_public: server.metrics_public,
        cors_origins: cors_origins(&server.cors_origins)?,
        keep_alive: KeepAliveConfig {
            every: (server.keep_alive_ms > 0).then(|| Duration::from_millis(server.keep_alive_ms)),
            early: server.keep_alive_early,
        },
        responses: responses(&written.responses),
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
        admin_listen: written.admin.checked()?,
        cache: written.cache.checked(),
        idempotency: written.idempotency.checked(),
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

fn listen(written: &Spanned<String>) -> Result<SocketAddr, Finding> {
    written.get_ref().parse().map_err(|_| {
        let message = "`listen` is an address and a port such as \"127.0.0.1:8655\"";
        Finding::at(written.span(), message)
    })
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

fn responses(written: &written::Responses) -> Option<KeptLimits> {
    written.store.then(|| KeptLimits {
        entries_max: count(written.entries_max.get()),
        bytes_max: count(written.store_mib.get()).saturating_mul(1024 * 1024),
        ttl: Duration::from_secs(written.ttl_minutes.get().saturating_mul(60)),
    })
}

fn limits(written: &written::Written) -> Limits {
    let (server, limits) = (&written.server, &written.limits);
    Limits {
        body_bytes_max: count(server.body_bytes_max.get()),
        body_read_max: millis(server.body_read_timeout_ms),
        header_read_max: millis(server.header_read_timeout_ms),
        write_stall_max: millis(server.write_stall_timeout_ms),
        connections_max: count(server.connections_max.get()),
        drain_max: millis(server.drain_timeout_ms),
        output_tokens_default: server.output_tokens_default.get(),
        requests_per_minute: limits.requests_per_minute.map(Into::into),
        tokens_per_minute: limits.tokens_per_minute.map(Into::into),
        in_flight_max: count(limits.in_flight_max.get()),
        failed_auth_per_minute: limits.failed_auth_per_minute.get(),
        budget_wait_max: Duration::from_millis(limits.budget_wait_max_ms),
    }
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

fn guard(written: &written::Guard) -> crate::guard::Settings {
    crate::guard::Settings {
        enabled: written.enabled,
        spend: written.spend,
        prompt_loop: written.prompt_loop,
        session_growth: written.session_growth,
        model_spend: written.model_spend,
        new_keys_max: written.new_keys_max.get(),
        fast_factor: f64::from(written.fast_percent.get()) / 100.0,
        hour_factor: f64::from(written.hour_percent.get()) / 100.0,
        shape_factor: f64::from(written.shape_percent.get()) / 100.0,
        floor_per_hour: written.floor_usd_per_hour.0,
        loop_max: written.loop_max.get(),
        learn: Duration::from_millis(written.learn_ms),
        hold: millis(written.hold_ms),
        allow: written.allow.iter().cloned().collect(),
    }
}

fn budgets(written: &[Spanned<written::Budget>]) -> Result<Vec<BudgetSpec>, Finding> {
    let mut windows = HashSet::new();
    for budget in written {
        if !windows.insert(budget.get_ref().window) {
            let message = "there is another budget for this window: at most one for each";
            return Err(Finding::at(budget.span(), message));
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

fn policy(written: &written::Policy, base: &Path) -> Result<PolicyConfig, Finding> {
    let source = match (&written.file, &written.shipped) {
        (Some(file), Some(_)) => {
            let message = "[policy] has both `file` and `shipped`: keep one";
            return Err(Finding::at(file.span(), message));
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

/// What callers may write as `model`.
fn asked_for<'a>(policy: &'a PolicyConfig, routes: &'a [RouteConfig]) -> BTreeSet<&'a str> {
    let of_routes = routes.iter().flat_map(|route| {
        std::iter::once(route.id.as_str()).chain(route.aliases.iter().map(String::as_str))
    });
    policy.aliases.iter().map(String::as_str).chain(of_routes).collect()
}

/// What a route is checked against.
struct Around<'a> {
    /// Names that are taken.
    names: HashSet<String>,
    base: &'a Path,
    prices: &'a PriceList,
    /// The second of the Unix epoch for which it is said whether a price is known.
    now_s: u64,
}

fn route(
    written: Route,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<RouteConfig, Finding> {
    let route = match written.kind {
        Kind::Local(local) => local_route(written.name.get_ref(), &local, around, warnings)?,
        Kind::Cloud(cloud) => cloud_route(written.name.get_ref(), &cloud, around, warnings)?,
    };
    if matches!(route.price.at(around.now_s), RoutePrice::Unknown) {
        warnings.push(unknown_price(&route));
    }
    Ok(route)
}

fn unknown_price(route: &RouteConfig) -> String {
    let (local, set) = match &route.source {
        RouteSource::Local(_) => (true, "`usd_per_hour`"),
        RouteSource::Cloud(_) => (false, "`price`"),
    };
    let so = match (route.unknown_price_max, local) {
        (Some(amount), _) => format!("each attempt reserves {amount} USD"),
        (None, true) => "its entries carry no cost".to_owned(),
        (None, false) => "policies leave it out".to_owned(),
    };
    format!("the price of route `{}` is unknown: {so}; set {set} to change that", route.id)
}

fn local_route(
    name: &str,
    written: &written_routes::Local,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<RouteConfig, Finding> {
    let slots = written.slots.get_ref().get();
    let context_tokens = written.context_tokens.get_ref().get();
    if slots > 256 {
        return Err(Finding::at(written.slots.span(), "`slots` is at most 256"));
    }
    let overcommit = written.overcommit_percent.get_ref().get();
    if !(100..=1000).contains(&overcommit) {
        let message = "`overcommit_percent` is 100 to 1000";
        return Err(Finding::at(written.overcommit_percent.span(), message));
    }
    if context_tokens < 64 * slots {
        let message = format!("`context_tokens` is at least 64 for each of the {slots} slots");
        return Err(Finding::at(written.context_tokens.span(), message));
    }
    let file = resolve(around.base, &written.file);
    let model = written.model.clone().unwrap_or_else(|| {
        file.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into())
    });
    Ok(RouteConfig {
        id: RouteId::new(name),
        aliases: aliases(&written.aliases, &around.names)?,
        price: price::of_local(written)?,
        unknown_price_max: written.unknown_price_max_usd.map(|money| money.0),
        budgeted: written.budgeted,
        context_tokens: Some(u64::from(context_tokens)),
        can: Capabilities {
            tools: Some(true),
            images: Some(false),
            structured: Some(true),
            logprobs: Some(true),
        },
        retry: RetryConfig::never(),
        breaker: BreakerConfig::default(),
        health: None,
        source: RouteSource::Local(LocalConfig {
            file,
            model,
            context_tokens,
            slots,
            queue_max: count(written.queue_max),
            queue_wait_max: millis(written.queue_wait_max_ms),
            threads: written.threads.map(Into::into),
            prefill_chunk: written.prefill_chunk_tokens.get(),
            gap_target: Some(Duration::from_millis(written.gap_target_ms))
                .filter(|target| !target.is_zero()),
            kv_layout: match written.kv_layout {
                written_routes::KvLayout::Auto => KvLayout::Auto,
                written_routes::KvLayout::Unified => KvLayout::Unified,
                written_routes::KvLayout::Separate => KvLayout::Separate,
            },
            prefix_sharing: match written.prefix_sharing {
                written_routes::PrefixSharing::Caller => PrefixSharing::Caller,
                written_routes::PrefixSharing::All => PrefixSharing::All,
            },
            prefixes_max: written.prefixes_max,
            overcommit_percent: overcommit,
            swap_bytes_max: count(written.swap_max_mib).saturating_mul(1 << 20),
            speculation: speculation(written, around.base)?,
            pooling: written.pooling.map(pooling),
            gpu_layers: written.gpu_layers.0,
            gpu_device: written.gpu_device.clone(),
            keep: keep(written),
            isolated: written.isolation == written_routes::Isolation::Process,
            stuck_after: millis(written.stuck_after_ms),
            verify_load: written.verify_load,
            drill: drill(written, warnings)?,
            prefill_per_token_max: Duration::from_micros(written.prefill_token_max_us.get()),
            decode_per_token_max: Duration::from_micros(written.decode_token_max_us.get()),
        }),
    })
}

/// When a local model is loaded, unloaded and waited for.
fn keep(written: &written_routes::Local) -> Keep {
    Keep {
        load: match written.load {
            written_routes::Load::Start => LoadWhen::Start,
            written_routes::Load::FirstUse => LoadWhen::FirstUse,
        },
        unload_after: written.unload_after_ms.map(millis),
        load_wait_max: millis(written.load_wait_max_ms),
        load_waiting_max: count(written.load_waiting_max),
        ..Keep::default()
    }
}

fn pooling(written: written_routes::Pooling) -> Pooling {
    match written {
        written_routes::Pooling::Mean => Pooling::Mean,
        written_routes::Pooling::First => Pooling::First,
        written_routes::Pooling::Last => Pooling::Last,
    }
}

/// Its numbers are checked whether it is on or not.
fn speculation(written: &written_routes::Local, base: &Path) -> Result<Speculation, Finding> {
    let within = |name, value: &Spanned<NonZeroU32>, max| {
        let count = value.get_ref().get();
        let message = || format!("`{name}` is at most {max}");
        (count <= max).then_some(count).ok_or_else(|| Finding::at(value.span(), message()))
    };
    let tokens_max = within("draft_tokens_max", &written.draft_tokens_max, DRAFT_TOKENS_MAX)?;
    let streams_max = within("draft_streams_max", &written.draft_streams_max, DRAFT_STREAMS_MAX)?;
    match (written.speculation.get_ref(), &written.draft_model) {
        (written_routes::Speculation::Draft, Some(file)) => {
            Ok(Speculation::Draft { file: resolve(base, file.get_ref()), tokens_max, streams_max })
        }
        (written_routes::Speculation::Draft, None) => {
            let message = "`speculation = \"draft\"` needs a `draft_model`: a smaller GGUF file of \
                           the same vocabulary";
            Err(Finding::at(written.speculation.span(), message))
        }
        (written_routes::Speculation::Off, _) => Ok(Speculation::Off),
        (written_routes::Speculation::Lookup, _) => {
            Ok(Speculation::Lookup { tokens_max, streams_max })
        }
    }
}

fn drill(
    written: &written_routes::Local,
    warnings: &mut Vec<String>,
) -> Result<Option<Drill>, Finding> {
    let Some(text) = &written.drill else { return Ok(None) };
    let drill: Drill =
        text.get_ref().parse().map_err(|wrong: String| Finding::at(text.span(), wrong))?;
    if drill.aborts() && written.isolation == written_routes::Isolation::InProcess {
        let message = "an abort would end the gateway: set `isolation = \"process\"` too";
        return Err(Finding::at(text.span(), message));
    }
    warnings.push(format!("a fault of the engine is rehearsed: drill = {:?}", text.get_ref()));
    Ok(Some(drill))
}

fn cloud_route(
    name: &str,
    written: &written_routes::Cloud,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<RouteConfig, Finding> {
    let kind = provider_kind(&written.kind)?;
    let base_url = address(written, kind)?;
    let provider = provider(written, kind)?;
    if let Some(version) = written.api_version.as_ref().filter(|_| kind.name() != "azure") {
        let message = "`api_version` is for routes of kind \"azure\"";
        return Err(Finding::at(version.span(), message));
    }
    if let (None, None, Some(variable)) = (&written.api_key, &written.base_url, kind.key_env()) {
        warnings.push(format!("route `{name}` has no key: set {variable} or its `api_key`"));
    }
    let api_key = match &written.api_key {
        Some(key) => Some(header_value(key, "`api_key`")?),
        None => None,
    };
    if api_key.is_some() && base_url.starts_with("http://") && !is_loopback(&base_url) {
        warnings.push(format!("route `{name}` sends its key in clear: its base_url is http"));
    }
    let mut headers = Vec::new();
    for (header, value) in &written.headers {
        if http::HeaderName::try_from(header.get_ref()).is_err() {
            return Err(Finding::at(header.span(), "this is not the name of a header"));
        }
        headers.push((header.get_ref().clone(), header_value(value, "a header's value")?));
    }
    let price = price::of_cloud(written, &provider, around.prices)?;
    Ok(RouteConfig {
        id: RouteId::new(name),
        aliases: aliases(&written.aliases, &around.names)?,
        price,
        unknown_price_max: written.unknown_price_max_usd.map(|money| money.0),
        budgeted: written.budgeted,
        context_tokens: written.context_tokens.map(Into::into),
        can: Capabilities {
            tools: written.tools,
            images: written.images,
            structured: written.structured,
            logprobs: written.logprobs,
        },
        source: RouteSource::Cloud(CloudConfig {
            provider,
            kind,
            api_version: written.api_version.as_ref().map(|text| text.get_ref().clone()),
            drop_fields: written.drop_fields.clone(),
            base_url,
            api_key,
            model: filled(&written.model, "`model`")?,
            headers,
            in_flight_max: count(written.in_flight_max.get()),
            pool_wait_max: millis(written.pool_wait_max_ms),
            connect_timeout: millis(written.connect_timeout_ms),
            first_token_timeout: millis(written.first_token_timeout_ms),
            idle_timeout: millis(written.idle_timeout_ms),
            total_timeout: millis(written.total_timeout_ms),
            cap_field: match written.cap_field {
                None => kind.cap_field(),
                Some(written_routes::CapField::MaxCompletionTokens) => {
                    CapField::MaxCompletionTokens
                }
                Some(written_routes::CapField::MaxTokens) => CapField::MaxTokens,
            },
            reasoning: written.reasoning,
        }),
        retry: written.retry.checked()?,
        breaker: written.breaker.checked()?,
        health: written.health.map(survive::Health::checked),
    })
}

/// The kind of provider; the reader has seen that it is one.
fn provider_kind(written: &Spanned<String>) -> Result<ProviderKind, Finding> {
    ProviderKind::find(written.get_ref())
        .ok_or_else(|| Finding::at(written.span(), "this is no kind of provider"))
}

/// Where the provider is.
fn address(written: &written_routes::Cloud, kind: ProviderKind) -> Result<String, Finding> {
    match (&written.base_url, kind.base_url()) {
        (Some(own), _) => base_url(own),
        (None, Some(usual)) => Ok(usual.to_owned()),
        (None, None) => {
            let message = format!("a route of kind {:?} needs a `base_url`", kind.name());
            Err(Finding::at(written.kind.span(), message))
        }
    }
}

/// The provider's name in the ledger and in the price list: the kind's own, unless it is another's
/// server that speaks OpenAI's format.
fn provider(written: &written_routes::Cloud, kind: ProviderKind) -> Result<String, Finding> {
    let anybody = kind.name() == "openai" && written.base_url.is_some();
    match (&written.provider, kind.provider().filter(|_| !anybody)) {
        (Some(own), _) => filled(own, "`provider`"),
        (None, Some(usual)) => Ok(usual.to_owned()),
        (None, None) => {
            let message =
                "missing key `provider`: whose server it is, for the ledger and the prices";
            Err(Finding::at(written.kind.span(), message))
        }
    }
}

/// A base URL without its trailing slash. It may have come from the environment, so no message
/// quotes it.
fn base_url(written: &Spanned<String>) -> Result<String, Finding> {
    let wrong = |message: &str| Err(Finding::at(written.span(), message));
    let Ok(uri) = written.get_ref().parse::<http::Uri>() else {
        return wrong("`base_url` is a URL such as \"https://api.openai.com/v1\"");
    };
    let Some(authority) = uri
        .authority()
        .filter(|_| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none())
    else {
        return wrong("`base_url` is an http or https URL up to /v1, without a query");
    };
    if authority.as_str().contains('@') {
        return wrong("`base_url` has a user or password in it: put the key into `api_key`");
    }
    Ok(written.get_ref().trim_end_matches('/').to_owned())
}

fn is_loopback(base_url: &str) -> bool {
    base_url.parse::<http::Uri>().ok().is_some_and(|uri| {
        uri.host().is_some_and(|host| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
    })
}

fn header_value(written: &Spanned<String>, what: &str) -> Result<SecretString, Finding> {
    if http::HeaderValue::from_str(written.get_ref()).is_err() {
        let message = format!("{what} holds a character that no header may carry");
        return Err(Finding::at(written.span(), message));
    }
    Ok(SecretString::from(written.get_ref().as_str()))
}

fn filled(written: &Spanned<String>, what: &str) -> Result<String, Finding> {
    if written.get_ref().is_empty() {
        return Err(Finding::at(written.span(), format!("{what} is empty")));
    }
    Ok(written.get_ref().clone())
}

/// Other names of `model` for a route. Several routes may share one (a caller who writes it gets
/// whichever of them the policy chooses), but none may be taken by a route or a policy alias.
fn aliases(written: &[Spanned<String>], names: &HashSet<String>) -> Result<Vec<String>, Finding> {
    let mut aliases = Vec::new();
    for alias in written {
        name_is_sound(alias, "an alias")?;
        if names.contains(alias.get_ref()) {
            let message =
                format!("`{}` already names a route or an alias of the policy", alias.get_ref());
            return Err(Finding::at(alias.span(), message));
        }
        aliases.push(alias.get_ref().clone());
    }
    Ok(aliases)
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

fn resolve(base: &Path, written: &str) -> PathBuf {
    base.join(written)
}

fn millis(written: NonZeroU64) -> Duration {
    Duration::from_millis(written.get())
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
