//! The configuration as it is written: one struct per section, unknown keys refused. Nothing
//! outside `config/` sees these types; `check` turns them into what the program uses.
//!
//! A field that can still be wrong after it has been read is `Spanned`, so that the check can
//! point at it.

use super::survive;
use policies::PicoUsd;
use serde::{Deserialize, Deserializer, de};
use std::{
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
    pub(super) limit: Vec<Spanned<super::models::Limit>>,
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
    /// Taken out before: here it is among the known sections, of which an unknown one may be meant.
    routes: Option<de::IgnoredAny>,
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
    pub(super) data_dir: Spanned<String>,
    pub(super) time_zone: Spanned<String>,
    pub(super) body_bytes_max: NonZeroU32,
    pub(super) body_read_timeout_ms: NonZeroU64,
    pub(super) header_read_timeout_ms: NonZeroU64,
    pub(super) idle_timeout_ms: NonZeroU64,
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
    pub(super) bodies_mib: Spanned<NonZeroU32>,
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
    pub(super) new_keys_max: Spanned<NonZeroU32>,
    pub(super) fast_percent: NonZeroU32,
    pub(super) hour_percent: NonZeroU32,
    pub(super) shape_percent: NonZeroU32,
    pub(super) floor_usd_per_hour: Money,
    pub(super) loop_max: Spanned<NonZeroU32>,
    pub(super) learn_ms: u64,
    pub(super) hold_ms: NonZeroU64,
    pub(super) allow: Vec<Spanned<String>>,
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
    #[serde(default)]
    pub(super) timezone: Option<Spanned<String>>,
}

/// `[responses]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Responses {
    pub(super) store: bool,
    pub(super) entries_max: NonZeroU32,
    pub(super) store_mib: NonZeroU32,
    pub(super) ttl_minutes: Spanned<NonZeroU64>,
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

/// An amount in USD, written as a decimal string so that no float ever holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Money(pub(super) PicoUsd);

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: unplaced("127.0.0.1:8655".to_owned()),
            data_dir: unplaced("data".to_owned()),
            time_zone: unplaced("UTC".to_owned()),
            body_bytes_max: nonzero32(10 * 1024 * 1024),
            body_read_timeout_ms: nonzero64(30_000),
            header_read_timeout_ms: nonzero64(60_000),
            idle_timeout_ms: nonzero64(60_000),
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
            bodies_mib: unplaced(nonzero32(256)),
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
            ttl_minutes: Spanned::new(0..0, nonzero64(24 * 60)),
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
            new_keys_max: unplaced(nonzero32(4)),
            fast_percent: nonzero32(500),
            hour_percent: nonzero32(220),
            shape_percent: nonzero32(400),
            floor_usd_per_hour: Money(PicoUsd::from_pico(500_000_000_000)),
            loop_max: unplaced(nonzero32(20)),
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

pub(super) fn yes() -> bool {
    true
}

/// A default: it stands nowhere in the file, and no check refuses it.
pub(super) fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

pub(super) const fn nonzero32(number: u32) -> NonZeroU32 {
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
