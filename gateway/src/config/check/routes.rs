//! Routes: local ones with what their engine may use, and those to providers.

use super::{at_most, count, millis, name_is_sound, resolve, sent};
use crate::{
    config::{
        CapField, Capabilities, CloudConfig, Environment, LocalConfig, RouteConfig, RouteSource,
        Unpriced,
        document::{Kind, Route},
        error::Finding,
        price,
        survive::{self, BreakerConfig, RetryConfig},
        written::Money,
        written_routes,
    },
    providers::Kind as ProviderKind,
};
use local_engine::{
    DRAFT_STREAMS_MAX, DRAFT_TOKENS_MAX, Drill, Keep, KvLayout, LoadWhen, Pooling, PrefixSharing,
    Speculation,
};
use policies::{PicoUsd, PriceList, RouteId};
use secrecy::SecretString;
use std::{collections::HashSet, path::Path, time::Duration};
use toml::Spanned;

/// Most slots, and most tokens of the KV cache over all of them.
const SLOTS_MAX: u32 = 256;
const CONTEXT_TOKENS_MAX: u32 = 16_777_216;
/// Most threads of an engine: ggml's own bound (`GGML_MAX_N_THREADS`).
const THREADS_MAX: u32 = 512;

/// What a route is checked against.
pub(super) struct Around<'a> {
    /// Names that are taken.
    pub(super) names: HashSet<String>,
    pub(super) base: &'a Path,
    pub(super) prices: &'a PriceList,
    pub(super) environment: Environment,
    /// The second of the Unix epoch for which it is said whether a price is known.
    pub(super) now_s: u64,
}

/// A route as the program uses it; what is odd about it goes into the warnings.
pub(super) fn route(
    written: Route,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<RouteConfig, Finding> {
    let unlisted = match &written.kind {
        Kind::Cloud(cloud) => price::unlisted(cloud, around.prices),
        Kind::Local(_) => None,
    };
    let route = match written.kind {
        Kind::Local(local) => local_route(written.name.get_ref(), &local, around, warnings)?,
        Kind::Cloud(cloud) => cloud_route(written.name.get_ref(), &cloud, around, warnings)?,
    };
    if let Some(Unpriced { so, set }) = route.unpriced(around.now_s) {
        if route.budgeted && route.is_local() && route.unknown_price_max.is_none() {
            let message = format!(
                "`budgeted` needs a price, or no attempt could be reserved: set {set}, or \
                 `unknown_price_max_usd`"
            );
            return Err(Finding::at(written.name.span(), message));
        }
        let (id, to_do) = (&route.id, format!("set {set} to change that"));
        let to_do = unlisted.unwrap_or(to_do);
        warnings.push(format!("the price of route `{id}` is unknown: {so}; {to_do}"));
    }
    Ok(route)
}

fn local_route(
    name: &str,
    written: &written_routes::Local,
    around: &Around<'_>,
    warnings: &mut Vec<String>,
) -> Result<RouteConfig, Finding> {
    let slots = at_most("slots", &written.slots, SLOTS_MAX)?;
    let context_tokens = at_most("context_tokens", &written.context_tokens, CONTEXT_TOKENS_MAX)?;
    let threads = written.threads.as_ref().map(|threads| at_most("threads", threads, THREADS_MAX));
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
    let by_file =
        || file.file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into());
    let model = written.model.as_ref().map(|model| filled(model, "`model`", around.environment));
    let model = model.transpose()?.unwrap_or_else(by_file);
    Ok(RouteConfig {
        id: RouteId::new(name),
        aliases: aliases(&written.aliases, &around.names)?,
        price: price::of_local(written)?,
        unknown_price_max: unknown_price_max(written.unknown_price_max_usd.as_ref())?,
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
            queue_max: count(written.queue_max.get_ref().get()),
            queue_wait_max: millis(written.queue_wait_max_ms),
            threads: threads.transpose()?,
            prefill_chunk: written.prefill_chunk_tokens.map(Into::into),
            gap_target: Some(Duration::from_millis(written.gap_target_ms))
                .filter(|target| !target.is_zero()),
            kv_layout: kv_layout(written.kv_layout),
            prefix_sharing: match written.prefix_sharing {
                written_routes::PrefixSharing::Caller => PrefixSharing::Caller,
                written_routes::PrefixSharing::All => PrefixSharing::All,
            },
            prefixes_max: written.prefixes_max,
            overcommit_percent: overcommit,
            swap_bytes_max: count(written.swap_max_mib).saturating_mul(1 << 20),
            checkpoint_bytes_max: count(written.checkpoints_max_mib).saturating_mul(1 << 20),
            speculation: speculation(written, around.base)?,
            pooling: written.pooling.map(pooling),
            gpu_layers: written.gpu_layers.0,
            gpu_device: written.gpu_device.clone(),
            keep: keep(written),
            isolated: written.isolation == written_routes::Isolation::Process,
            stuck_after: millis(written.stuck_after_ms),
            verify_load: written.verify_load,
            mmap: written.mmap,
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

fn kv_layout(written: written_routes::KvLayout) -> KvLayout {
    match written {
        written_routes::KvLayout::Auto => KvLayout::Auto,
        written_routes::KvLayout::Unified => KvLayout::Unified,
        written_routes::KvLayout::Separate => KvLayout::Separate,
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
    let tokens_max = at_most("draft_tokens_max", &written.draft_tokens_max, DRAFT_TOKENS_MAX)?;
    let streams_max = at_most("draft_streams_max", &written.draft_streams_max, DRAFT_STREAMS_MAX)?;
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
    let environment = around.environment;
    let base_url = address(written, kind, environment)?;
    let provider = provider(written, kind, environment)?;
    if let Some(version) = written.api_version.as_ref().filter(|_| !kind.is_versioned()) {
        let message = "`api_version` is for routes of kind \"azure\"";
        return Err(Finding::at(version.span(), message));
    }
    let missing_key = sent::missing_key(written, kind);
    warnings.extend(missing_key.map(|variable| {
        format!("route `{name}` has no key and is unavailable: set {variable} or its `api_key`")
    }));
    let api_key = api_key(written, environment)?;
    if api_key.is_some() && base_url.starts_with("http://") && !is_loopback(&base_url) {
        warnings.push(format!("route `{name}` sends its key in clear: its base_url is http"));
    }
    let headers = sent::headers(written, kind)?;
    let price = price::of_cloud(written, &provider, around.prices)?;
    let api_version = written.api_version.as_ref().map(|text| text.get_ref().clone());
    Ok(RouteConfig {
        id: RouteId::new(name),
        aliases: aliases(&written.aliases, &around.names)?,
        price,
        unknown_price_max: unknown_price_max(written.unknown_price_max_usd.as_ref())?,
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
            api_version: api_version.clone(),
            drop_fields: sent::left_out(&written.drop_fields)?,
            base_url,
            api_key,
            lacks_key: missing_key.is_some(),
            model: filled(&written.model, "`model`", environment)?,
            headers,
            in_flight_max: count(written.in_flight_max.get()),
            pool_wait_max: millis(written.pool_wait_max_ms),
            connect_timeout: millis(written.connect_timeout_ms),
            first_token_timeout: millis(written.first_token_timeout_ms),
            idle_timeout: millis(written.idle_timeout_ms),
            total_timeout: millis(written.total_timeout_ms),
            cap_field: match written.cap_field {
                None => kind.cap_field(api_version.as_deref(), written.model.get_ref()),
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

/// Its key. A variable that is set and empty is the usual slip.
fn api_key(
    written: &written_routes::Cloud,
    environment: Environment,
) -> Result<Option<SecretString>, Finding> {
    let Some(key) = &written.api_key else { return Ok(None) };
    match (key.get_ref().trim().is_empty(), environment) {
        (false, _) => sent::header_value(key, "`api_key`").map(Some),
        (true, Environment::Spared) => Ok(None),
        (true, Environment::Needed) => {
            let message = "`api_key` is empty: set its variable, or remove this key where the \
                           provider takes none";
            Err(Finding::at(key.span(), message))
        }
    }
}

/// The kind of provider; the reader has seen that it is one.
fn provider_kind(written: &Spanned<String>) -> Result<ProviderKind, Finding> {
    ProviderKind::find(written.get_ref())
        .ok_or_else(|| Finding::at(written.span(), "this is no kind of provider"))
}

/// Where the provider is.
fn address(
    written: &written_routes::Cloud,
    kind: ProviderKind,
    environment: Environment,
) -> Result<String, Finding> {
    match (&written.base_url, kind.base_url()) {
        (Some(own), _) => match base_url(own) {
            // What is left of one without its variables.
            Err(_) if environment == Environment::Spared => Ok(String::new()),
            address => address,
        },
        (None, Some(usual)) => Ok(usual.to_owned()),
        (None, None) => {
            let message = format!("a route of kind {:?} needs a `base_url`", kind.name());
            Err(Finding::at(written.kind.span(), message))
        }
    }
}

/// The provider's name in the ledger and in the price list: the kind's own, unless it is another's
/// server that speaks OpenAI's format.
fn provider(
    written: &written_routes::Cloud,
    kind: ProviderKind,
    environment: Environment,
) -> Result<String, Finding> {
    let anybody = kind.name() == "openai" && written.base_url.is_some();
    match (&written.provider, kind.provider().filter(|_| !anybody)) {
        (Some(own), _) => filled(own, "`provider`", environment),
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
    // It knows more of addresses, such as how large a port can be.
    if reqwest::Url::parse(written.get_ref()).is_err() {
        return wrong("`base_url` has a host or a port that cannot be");
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

/// A name that goes into answers and the ledger.
fn filled(
    written: &Spanned<String>,
    what: &str,
    environment: Environment,
) -> Result<String, Finding> {
    if written.get_ref().is_empty() && environment == Environment::Needed {
        return Err(Finding::at(written.span(), format!("{what} is empty")));
    }
    if written.get_ref().chars().any(char::is_control) {
        return Err(Finding::at(written.span(), format!("{what} is one line of plain text")));
    }
    Ok(written.get_ref().clone())
}

/// What is reserved for an attempt of unknown price; nothing would let a budget pay without end.
fn unknown_price_max(written: Option<&Spanned<Money>>) -> Result<Option<PicoUsd>, Finding> {
    let Some(written) = written else { return Ok(None) };
    if written.get_ref().0 == PicoUsd::ZERO {
        let message = "`unknown_price_max_usd` is more than 0: what is unknown is not free";
        return Err(Finding::at(written.span(), message));
    }
    Ok(Some(written.get_ref().0))
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
