//! The configuration as it is written: one struct per section, unknown keys refused. Nothing
//! outside `config/` sees these types; `check` turns them into what the program uses.
//!
//! A field that can still be wrong after it has been read is `Spanned`, so that the check can
//! point at it.

use super::survive;
use policies::PicoUsd;
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroU64},
};
use toml::Spanned;

/// The whole file but `[routes]`, which is read route by route: the keys of a route depend on its
/// kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Written {
    pub(super) server: Server,
    pub(super) limits: Limits,
    pub(super) ledger: Ledger,
    pub(super) guard: Guard,
    pub(super) budget: Vec<Spanned<Budget>>,
    pub(super) policy: Policy,
    pub(super) prices: Prices,
    pub(super) responses: Responses,
    pub(super) attempts: survive::Attempts,
    pub(super) hedge: survive::Hedge,
    pub(super) tls: Option<super::listeners::Tls>,
    pub(super) admin: super::listeners::Admin,
    pub(super) cache: super::cache::Cache,
    pub(super) idempotency: super::cache::Idempotency,
    pub(super) engine: Engine,
    pub(super) webhook: Vec<super::webhook::Webhook>,
}

/// `[engine]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Engine {
    pub(super) memory_max_mib: Option<NonZeroU64>,
}

/// `[server]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub(super) listen: Spanned<String>,
    pub(super) data_dir: String,
    pub(super) time_zone: Spanned<String>,
    pub(super) body_bytes_max: NonZeroU32,
    pub(super) body_read_timeout_ms: NonZeroU64,
    pub(super) header_read_timeout_ms: NonZeroU64,
    pub(super) write_stall_timeout_ms: NonZeroU64,
    pub(super) connections_max: NonZeroU32,
    pub(super) drain_timeout_ms: NonZeroU64,
    pub(super) output_tokens_default: NonZeroU64,
    pub(super) metrics_public: bool,
    pub(super) cors_origins: Vec<Spanned<String>>,
    pub(super) keep_alive_ms: u64,
    pub(super) keep_alive_early: bool,
}

/// `[limits]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) requests_per_minute: Option<NonZeroU32>,
    pub(super) tokens_per_minute: Option<NonZeroU64>,
    pub(super) in_flight_max: NonZeroU32,
    pub(super) failed_auth_per_minute: NonZeroU32,
    pub(super) budget_wait_max_ms: u64,
}

/// Form of the file of a day.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DailyExport {
    Csv,
    Jsonl,
    Focus,
}

/// `[ledger]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ledger {
    pub(super) durability: Durability,
    pub(super) low_water_mib: u64,
    pub(super) ballast_mib: u64,
    pub(super) segment_entries_max: NonZeroU32,
    pub(super) keep_days: Option<NonZeroU32>,
    pub(super) daily_export: Option<DailyExport>,
    pub(super) budget_status: Spanned<u16>,
}

/// `[guard]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Guard {
    pub(super) enabled: bool,
    pub(super) spend: crate::ledger::GuardEffect,
    pub(super) prompt_loop: crate::ledger::GuardEffect,
    pub(super) session_growth: crate::ledger::GuardEffect,
    pub(super) model_spend: crate::ledger::GuardEffect,
    pub(super) new_keys_max: NonZeroU32,
    pub(super) fast_percent: NonZeroU32,
    pub(super) hour_percent: NonZeroU32,
    pub(super) shape_percent: NonZeroU32,
    pub(super) floor_usd_per_hour: Money,
    pub(super) loop_max: NonZeroU32,
    pub(super) learn_ms: u64,
    pub(super) hold_ms: NonZeroU64,
    pub(super) allow: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Durability {
    Strict,
    Grouped,
}

/// `[[budget]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    pub(super) window: crate::caller::Window,
    #[serde(default)]
    pub(super) money_usd: Option<Money>,
    #[serde(default)]
    pub(super) tokens: Option<u64>,
    #[serde(default)]
    pub(super) requests: Option<u64>,
    #[serde(default = "yes")]
    pub(super) hard: bool,
}

/// `[responses]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Responses {
    pub(super) store: bool,
    pub(super) entries_max: NonZeroU32,
    pub(super) store_mib: NonZeroU32,
    pub(super) ttl_minutes: NonZeroU64,
}

/// `[policy]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) file: Option<Spanned<String>>,
    pub(super) shipped: Option<Spanned<String>>,
    pub(super) aliases: Vec<Spanned<String>>,
}

/// `[prices]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Prices {
    pub(super) file: Option<Spanned<String>>,
}

/// `[routes.<name>]` with `kind = "local"`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Local {
    #[expect(dead_code, reason = "read before, to choose this type")]
    pub(super) kind: String,
    pub(super) file: String,
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) aliases: Vec<Spanned<String>>,
    #[serde(default = "local::context_tokens")]
    pub(super) context_tokens: Spanned<NonZeroU32>,
    #[serde(default = "local::slots")]
    pub(super) slots: Spanned<NonZeroU32>,
    #[serde(default = "local::queue_max")]
    pub(super) queue_max: u32,
    #[serde(default = "local::queue_wait_max_ms")]
    pub(super) queue_wait_max_ms: NonZeroU64,
    #[serde(default)]
    pub(super) threads: Option<NonZeroU32>,
    #[serde(default = "local::prefill_chunk_tokens")]
    pub(super) prefill_chunk_tokens: NonZeroU32,
    #[serde(default = "local::gap_target_ms")]
    pub(super) gap_target_ms: u64,
    #[serde(default)]
    pub(super) kv_layout: KvLayout,
    #[serde(default)]
    pub(super) prefix_sharing: PrefixSharing,
    #[serde(default = "local::prefixes_max")]
    pub(super) prefixes_max: u32,
    #[serde(default = "local::overcommit_percent")]
    pub(super) overcommit_percent: Spanned<NonZeroU32>,
    #[serde(default = "local::swap_max_mib")]
    pub(super) swap_max_mib: u32,
    #[serde(default = "local::speculation")]
    pub(super) speculation: Spanned<Speculation>,
    #[serde(default)]
    pub(super) draft_model: Option<Spanned<String>>,
    #[serde(default = "local::draft_tokens_max")]
    pub(super) draft_tokens_max: Spanned<NonZeroU32>,
    #[serde(default = "local::draft_streams_max")]
    pub(super) draft_streams_max: Spanned<NonZeroU32>,
    #[serde(default)]
    pub(super) pooling: Option<Pooling>,
    #[serde(default)]
    pub(super) gpu_layers: GpuLayers,
    #[serde(default)]
    pub(super) gpu_device: Option<String>,
    #[serde(default)]
    pub(super) load: Load,
    #[serde(default)]
    pub(super) unload_after_ms: Option<NonZeroU64>,
    #[serde(default = "local::load_wait_max_ms")]
    pub(super) load_wait_max_ms: NonZeroU64,
    #[serde(default = "local::load_waiting_max")]
    pub(super) load_waiting_max: u32,
    #[serde(default)]
    pub(super) isolation: Isolation,
    #[serde(default = "local::stuck_after_ms")]
    pub(super) stuck_after_ms: NonZeroU64,
    #[serde(default)]
    pub(super) verify_load: bool,
    #[serde(default)]
    pub(super) drill: Option<Spanned<String>>,
    #[serde(default = "local::prefill_token_max_us")]
    pub(super) prefill_token_max_us: NonZeroU64,
    #[serde(default = "local::decode_token_max_us")]
    pub(super) decode_token_max_us: NonZeroU64,
    #[serde(default)]
    pub(super) usd_per_hour: Option<Money>,
    #[serde(default)]
    pub(super) watts: Option<Spanned<NonZeroU32>>,
    #[serde(default)]
    pub(super) usd_per_kwh: Option<Money>,
    #[serde(default)]
    pub(super) unknown_price_max_usd: Option<Money>,
    #[serde(default)]
    pub(super) budgeted: bool,
}

/// How the KV cache of a local route is laid out.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KvLayout {
    #[default]
    Auto,
    Unified,
    Separate,
}

/// Whether a local route guesses tokens before they are computed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Speculation {
    #[default]
    Off,
    Lookup,
    Draft,
}

/// How a local model's token vectors become one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pooling {
    Mean,
    First,
    Last,
}

/// Who may go on from whose cached prefix.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PrefixSharing {
    #[default]
    Caller,
    All,
}

/// `[routes.<name>]` with the `kind` of a provider
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cloud {
    pub(super) kind: Spanned<String>,
    #[serde(default)]
    pub(super) provider: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) base_url: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) api_version: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) drop_fields: Vec<String>,
    pub(super) model: Spanned<String>,
    #[serde(default)]
    pub(super) api_key: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub(super) aliases: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) price: Option<Spanned<Price>>,
    #[serde(default)]
    pub(super) unknown_price_max_usd: Option<Money>,
    #[serde(default = "yes")]
    pub(super) budgeted: bool,
    #[serde(default)]
    pub(super) context_tokens: Option<NonZeroU64>,
    #[serde(default)]
    pub(super) tools: Option<bool>,
    #[serde(default)]
    pub(super) images: Option<bool>,
    #[serde(default)]
    pub(super) structured: Option<bool>,
    #[serde(default)]
    pub(super) logprobs: Option<bool>,
    #[serde(default = "cloud::in_flight_max")]
    pub(super) in_flight_max: NonZeroU32,
    #[serde(default = "cloud::pool_wait_max_ms")]
    pub(super) pool_wait_max_ms: NonZeroU64,
    #[serde(default = "cloud::connect_timeout_ms")]
    pub(super) connect_timeout_ms: NonZeroU64,
    #[serde(default = "cloud::first_token_timeout_ms")]
    pub(super) first_token_timeout_ms: NonZeroU64,
    #[serde(default = "cloud::idle_timeout_ms")]
    pub(super) idle_timeout_ms: NonZeroU64,
    #[serde(default = "cloud::total_timeout_ms")]
    pub(super) total_timeout_ms: NonZeroU64,
    #[serde(default)]
    pub(super) retry: survive::Retry,
    #[serde(default)]
    pub(super) breaker: survive::Breaker,
    #[serde(default)]
    pub(super) health: Option<survive::Health>,
    #[serde(default)]
    pub(super) cap_field: Option<CapField>,
    #[serde(default)]
    pub(super) reasoning: bool,
}

/// When a local route's model is loaded.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    #[default]
    Start,
    FirstUse,
}

/// Where a local route's model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Isolation {
    #[default]
    InProcess,
    Process,
}

/// `price`: a row of the price list, or the rates themselves.
#[derive(Debug)]
pub(super) enum Price {
    /// `"provider/model"`
    Listed(String),
    /// `[routes.<name>.price]`
    Inline(Box<Rates>),
}

/// `[routes.<name>.price]`: US dollars per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rates {
    pub(super) input: Spanned<Money>,
    pub(super) output: Spanned<Money>,
    #[serde(default)]
    pub(super) cache_read: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) cache_write_5m: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) cache_write_1h: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) reasoning: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) per_request_usd: Option<Money>,
    #[serde(default)]
    pub(super) per_image_usd: Option<Money>,
    #[serde(default)]
    pub(super) image: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) audio: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) audio_output: Option<Spanned<Money>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CapField {
    MaxCompletionTokens,
    MaxTokens,
}

/// Layers on a GPU: as many as fit, or a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GpuLayers(pub(super) Option<u32>);

/// An amount in USD, written as a decimal string so that no float ever holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Money(pub(super) PicoUsd);

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: unplaced("127.0.0.1:8655".to_owned()),
            data_dir: "data".to_owned(),
            time_zone: unplaced("UTC".to_owned()),
            body_bytes_max: nonzero32(10 * 1024 * 1024),
            body_read_timeout_ms: nonzero64(30_000),
            header_read_timeout_ms: nonzero64(60_000),
            write_stall_timeout_ms: nonzero64(60_000),
            connections_max: nonzero32(4096),
            drain_timeout_ms: nonzero64(30_000),
            output_tokens_default: nonzero64(1024),
            metrics_public: false,
            cors_origins: vec![unplaced("*".to_owned())],
            keep_alive_ms: 15_000,
            keep_alive_early: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            in_flight_max: nonzero32(512),
            failed_auth_per_minute: nonzero32(30),
            budget_wait_max_ms: 10_000,
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            durability: Durability::Strict,
            low_water_mib: 256,
            ballast_mib: 64,
            keep_days: None,
            daily_export: None,
            segment_entries_max: nonzero32(250_000),
            budget_status: unplaced(429),
        }
    }
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            store: false,
            entries_max: nonzero32(10_000),
            store_mib: nonzero32(64),
            ttl_minutes: nonzero64(24 * 60),
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        use crate::ledger::GuardEffect::{LocalOnly, Logged, Throttled};
        Self {
            enabled: true,
            spend: LocalOnly,
            prompt_loop: Throttled,
            session_growth: Logged,
            model_spend: Logged,
            new_keys_max: nonzero32(4),
            fast_percent: nonzero32(500),
            hour_percent: nonzero32(220),
            shape_percent: nonzero32(400),
            floor_usd_per_hour: Money(PicoUsd::from_pico(500_000_000_000)),
            loop_max: nonzero32(20),
            learn_ms: 86_400_000,
            hold_ms: nonzero64(1_800_000),
            allow: Vec::new(),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { file: None, shipped: None, aliases: vec![unplaced("auto".to_owned())] }
    }
}

/// Defaults of a local route.
mod local {
    use super::{NonZeroU32, NonZeroU64, Spanned, Speculation, nonzero32, nonzero64, unplaced};

    pub(super) fn context_tokens() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(8192))
    }
    pub(super) fn slots() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(8))
    }
    pub(super) fn queue_max() -> u32 {
        64
    }
    pub(super) fn queue_wait_max_ms() -> NonZeroU64 {
        nonzero64(30_000)
    }
    pub(super) fn prefill_chunk_tokens() -> NonZeroU32 {
        nonzero32(256)
    }
    pub(super) fn gap_target_ms() -> u64 {
        250
    }
    pub(super) fn prefixes_max() -> u32 {
        32
    }
    pub(super) fn overcommit_percent() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(150))
    }
    pub(super) fn swap_max_mib() -> u32 {
        512
    }
    pub(super) fn speculation() -> Spanned<Speculation> {
        unplaced(Speculation::Off)
    }
    pub(super) fn draft_tokens_max() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(8))
    }
    pub(super) fn draft_streams_max() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(2))
    }
    pub(super) fn stuck_after_ms() -> NonZeroU64 {
        nonzero64(120_000)
    }
    pub(super) fn load_wait_max_ms() -> NonZeroU64 {
        nonzero64(60_000)
    }
    pub(super) fn load_waiting_max() -> u32 {
        64
    }
    pub(super) fn prefill_token_max_us() -> NonZeroU64 {
        nonzero64(50_000)
    }
    pub(super) fn decode_token_max_us() -> NonZeroU64 {
        nonzero64(500_000)
    }
}

/// Defaults of a cloud route.
mod cloud {
    use super::{NonZeroU32, NonZeroU64, nonzero32, nonzero64};

    pub(super) fn in_flight_max() -> NonZeroU32 {
        nonzero32(128)
    }
    pub(super) fn pool_wait_max_ms() -> NonZeroU64 {
        nonzero64(2_000)
    }
    pub(super) fn connect_timeout_ms() -> NonZeroU64 {
        nonzero64(3_000)
    }
    pub(super) fn first_token_timeout_ms() -> NonZeroU64 {
        nonzero64(30_000)
    }
    pub(super) fn idle_timeout_ms() -> NonZeroU64 {
        nonzero64(30_000)
    }
    pub(super) fn total_timeout_ms() -> NonZeroU64 {
        nonzero64(600_000)
    }
}

impl<'de> Deserialize<'de> for GpuLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrNumber;
        impl de::Visitor<'_> for AutoOrNumber {
            type Value = GpuLayers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number of layers")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GpuLayers, E> {
                match text {
                    "auto" => Ok(GpuLayers(None)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, layers: i64) -> Result<GpuLayers, E> {
                let wrong = || E::invalid_value(de::Unexpected::Signed(layers), &self);
                Ok(GpuLayers(Some(u32::try_from(layers).map_err(|_| wrong())?)))
            }

            fn visit_u64<E: de::Error>(self, layers: u64) -> Result<GpuLayers, E> {
                let wrong = || E::invalid_value(de::Unexpected::Unsigned(layers), &self);
                Ok(GpuLayers(Some(u32::try_from(layers).map_err(|_| wrong())?)))
            }
        }
        deserializer.deserialize_any(AutoOrNumber)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl de::Visitor<'_> for Amount {
            type Value = Money;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount in USD as a decimal string such as \"12.50\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Money, E> {
                text.parse().map(Money).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Amount)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Price;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"provider/model\" of the price list, or a table of rates")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Price, E> {
                Ok(Price::Listed(text.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Price, A::Error> {
                Rates::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|rates| Price::Inline(Box::new(rates)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

fn yes() -> bool {
    true
}

/// A default: it stands nowhere in the file, and no check refuses it.
fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

const fn nonzero32(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

pub(super) const fn nonzero64(number: u64) -> NonZeroU64 {
    match NonZeroU64::new(number) {
        Some(number) => number,
        None => NonZeroU64::MIN,
    }
}
