//! A `[routes.<name>]` as it is written: what its keys are depends on its kind.

use super::{
    survive,
    written::{Money, nonzero32, nonzero64, unplaced, yes},
};
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroU64},
};
use toml::Spanned;

/// `[routes.<name>]` with `kind = "local"`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Local {
    #[expect(dead_code, reason = "read before, to choose this type")]
    pub(super) kind: String,
    pub(super) file: String,
    #[serde(default)]
    pub(super) model: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) aliases: Vec<Spanned<String>>,
    #[serde(default = "local::context_tokens")]
    pub(super) context_tokens: Spanned<NonZeroU32>,
    #[serde(default = "local::slots")]
    pub(super) slots: Spanned<NonZeroU32>,
    #[serde(default = "local::queue_max")]
    pub(super) queue_max: Spanned<NonZeroU32>,
    #[serde(default = "local::queue_wait_max_ms")]
    pub(super) queue_wait_max_ms: NonZeroU64,
    #[serde(default)]
    pub(super) threads: Option<Spanned<NonZeroU32>>,
    pub(super) prefill_chunk_tokens: Option<NonZeroU32>,
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
    #[serde(default = "local::checkpoints_max_mib")]
    pub(super) checkpoints_max_mib: u32,
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
    pub(super) mmap: bool,
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
    pub(super) usd_per_kwh: Option<Spanned<Money>>,
    #[serde(default)]
    pub(super) unknown_price_max_usd: Option<Spanned<Money>>,
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
    pub(super) drop_fields: Vec<Spanned<String>>,
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
    pub(super) unknown_price_max_usd: Option<Spanned<Money>>,
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

/// Defaults of a local route.
mod local {
    use super::{NonZeroU32, NonZeroU64, Spanned, Speculation, nonzero32, nonzero64, unplaced};

    pub(super) fn context_tokens() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(8192))
    }
    pub(super) fn slots() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(8))
    }
    pub(super) fn queue_max() -> Spanned<NonZeroU32> {
        unplaced(nonzero32(64))
    }
    pub(super) fn queue_wait_max_ms() -> NonZeroU64 {
        nonzero64(30_000)
    }
    pub(super) fn gap_target_ms() -> u64 {
        100
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
    pub(super) fn checkpoints_max_mib() -> u32 {
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
