//! What the configuration says about keeping answers: the cache, off unless it is switched on, and
//! the answers of requests that carry an `Idempotency-Key`.

use super::error::Finding;
use serde::Deserialize;
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};
use toml::Spanned;

/// The longest time for which anything is kept: 1,000 years, which is all that the store takes.
const TTL_S_MAX: u64 = 1_000 * 365 * 24 * 3_600;

/// How answers are kept for like requests.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// For which requests.
    pub mode: CacheMode,
    /// How long an answer is kept.
    pub ttl: Duration,
    /// Bytes of all kept answers.
    pub bytes_max: u64,
    /// Bytes of one answer that is kept.
    pub answer_bytes_max: usize,
}

/// Which requests the cache is for. A request that says `x-tollgate-cache: on` or `off` decides for
/// itself, unless the cache is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// For none: nothing is kept.
    #[default]
    Off,
    /// For those that ask for it.
    Asked,
    /// For those with temperature 0 too.
    TemperatureZero,
    /// For all.
    All,
}

/// How answers are kept for a repeated `Idempotency-Key`.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyConfig {
    /// How long a key is remembered.
    pub ttl: Duration,
    /// Bytes of all answers remembered; 0 refuses such keys.
    pub bytes_max: u64,
}

/// `[cache]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    mode: CacheMode,
    ttl_s: Spanned<NonZeroU64>,
    memory_mib: NonZeroU32,
    answer_kib_max: NonZeroU32,
}

/// `[idempotency]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Idempotency {
    ttl_s: Spanned<NonZeroU64>,
    memory_mib: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            mode: CacheMode::Off,
            ttl_s: Spanned::new(0..0, super::survive::nonzero64(300)),
            memory_mib: super::survive::nonzero32(64),
            answer_kib_max: super::survive::nonzero32(1024),
        }
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { ttl_s: Spanned::new(0..0, super::survive::nonzero64(3600)), memory_mib: 32 }
    }
}

impl Cache {
    pub(super) fn checked(&self) -> Result<CacheConfig, Finding> {
        Ok(CacheConfig {
            mode: self.mode,
            ttl: ttl(&self.ttl_s)?,
            bytes_max: u64::from(self.memory_mib.get()) << 20,
            answer_bytes_max: usize::try_from(self.answer_kib_max.get())
                .unwrap_or(usize::MAX)
                .saturating_mul(1024),
        })
    }
}

impl Idempotency {
    pub(super) fn checked(&self) -> Result<IdempotencyConfig, Finding> {
        Ok(IdempotencyConfig {
            ttl: ttl(&self.ttl_s)?,
            bytes_max: u64::from(self.memory_mib) << 20,
        })
    }
}

fn ttl(written: &Spanned<NonZeroU64>) -> Result<Duration, Finding> {
    kept_for("ttl_s", written, 1)
}

/// How long something is kept, written in units of so many seconds.
pub(super) fn kept_for(
    name: &str,
    written: &Spanned<NonZeroU64>,
    unit_s: u64,
) -> Result<Duration, Finding> {
    let max = TTL_S_MAX / unit_s;
    if written.get_ref().get() > max {
        let message = format!("`{name}` is at most {max} (1,000 years)");
        return Err(Finding::at(written.span(), message));
    }
    Ok(Duration::from_secs(written.get_ref().get().saturating_mul(unit_s)))
}
