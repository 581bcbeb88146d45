//! What the configuration says about surviving a provider that fails: retries, the breaker, active
//! health checks, hedging. As written and as checked stand side by side: every value has a limit and
//! a default that suits a provider on the internet.

use super::{error::Finding, written::unplaced};
use serde::Deserialize;
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};
use toml::Spanned;

/// How often and how long one request is tried, over all routes of its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptsConfig {
    /// Attempts of one request, fallbacks and retries and hedges together.
    pub max: u32,
    /// No attempt begins later than this after the request's arrival.
    pub time_max: Duration,
}

/// How a route is asked again after a fault that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryConfig {
    /// Times that one request may ask it again; 0: never.
    pub max: u32,
    /// The first wait; each later one is twice as long, and every one is jittered.
    pub backoff: Duration,
    /// The longest wait of our own choosing.
    pub backoff_max: Duration,
    /// The longest `retry-after` that is waited out; a longer one ends the retries.
    pub retry_after_max: Duration,
    /// Retries in thousandths of this route's first attempts, over all requests, so that an outage
    /// is not met with a multiple of the traffic.
    pub extra_permille: u32,
}

/// When a route is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Upstream faults in a row that open it.
    pub failures_max: u32,
    /// Upstream faults in thousandths of the attempts of `window` that open it.
    pub failed_permille: u32,
    /// Attempts in the window below which the share says nothing.
    pub samples_min: u32,
    /// The time over which the share is taken.
    pub window: Duration,
    /// How long it stays open the first time; each time in a row twice as long.
    pub open: Duration,
    /// How long it stays open at most.
    pub open_max: Duration,
    /// Attempts let through at once while it is half open.
    pub probes_max: u32,
}

/// Active health checks: `GET {base_url}/models`, which costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// From one check's end to the next.
    pub interval: Duration,
    /// The longest wait for an answer.
    pub timeout: Duration,
}

/// What bounds a policy's `hedge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeConfig {
    /// Hedges in thousandths of the requests that may be hedged.
    pub extra_permille: u32,
    /// Hedges that may be saved up by requests that needed none.
    pub burst: u32,
    /// No hedge starts earlier than this, however fast the route usually is.
    pub delay_min: Duration,
    /// Requests in flight, in thousandths of `in_flight_max`, from which on nothing is hedged.
    pub loaded_permille: u32,
}

/// `[attempts]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Attempts {
    max: NonZeroU32,
    time_max_ms: NonZeroU64,
}

/// `retry = { ... }` of a route.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    max: u32,
    backoff_ms: Spanned<NonZeroU64>,
    backoff_max_ms: Spanned<NonZeroU64>,
    retry_after_max_ms: u64,
    extra_permille: Spanned<u32>,
}

/// `breaker = { ... }` of a route.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Breaker {
    failures_max: NonZeroU32,
    failed_permille: Spanned<u32>,
    samples_min: NonZeroU32,
    window_ms: NonZeroU64,
    open_ms: Spanned<NonZeroU64>,
    open_max_ms: Spanned<NonZeroU64>,
    probes_max: NonZeroU32,
}

/// `health = { ... }` of a route.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    interval_ms: NonZeroU64,
    #[serde(default = "health_timeout_ms")]
    timeout_ms: NonZeroU64,
}

/// `[hedge]`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Hedge {
    extra_permille: Spanned<u32>,
    burst: NonZeroU32,
    delay_min_ms: u64,
    loaded_permille: Spanned<u32>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { max: nonzero32(8), time_max_ms: nonzero64(60_000) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 2,
            backoff_ms: unplaced(nonzero64(250)),
            backoff_max_ms: unplaced(nonzero64(4_000)),
            retry_after_max_ms: 5_000,
            extra_permille: unplaced(200),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures_max: nonzero32(5),
            failed_permille: unplaced(500),
            samples_min: nonzero32(20),
            window_ms: nonzero64(30_000),
            open_ms: unplaced(nonzero64(5_000)),
            open_max_ms: unplaced(nonzero64(60_000)),
            probes_max: nonzero32(1),
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            extra_permille: unplaced(50),
            burst: nonzero32(10),
            delay_min_ms: 20,
            loaded_permille: unplaced(750),
        }
    }
}

impl Attempts {
    pub(super) fn checked(self) -> AttemptsConfig {
        AttemptsConfig { max: self.max.get(), time_max: millis(self.time_max_ms) }
    }
}

impl Retry {
    pub(super) fn checked(&self) -> Result<RetryConfig, Finding> {
        in_order(("backoff_ms", &self.backoff_ms), ("backoff_max_ms", &self.backoff_max_ms))?;
        Ok(RetryConfig {
            max: self.max,
            backoff: millis(*self.backoff_ms.get_ref()),
            backoff_max: millis(*self.backoff_max_ms.get_ref()),
            retry_after_max: Duration::from_millis(self.retry_after_max_ms),
            extra_permille: permille(&self.extra_permille, "`extra_permille`")?,
        })
    }
}

impl Breaker {
    pub(super) fn checked(&self) -> Result<BreakerConfig, Finding> {
        in_order(("open_ms", &self.open_ms), ("open_max_ms", &self.open_max_ms))?;
        let failed_permille = permille(&self.failed_permille, "`failed_permille`")?;
        if failed_permille == 0 {
            let message = "`failed_permille` is at least 1: with 1000 the share opens it only when \
                           every attempt failed";
            return Err(Finding::at(self.failed_permille.span(), message));
        }
        Ok(BreakerConfig {
            failures_max: self.failures_max.get(),
            failed_permille,
            samples_min: self.samples_min.get(),
            window: millis(self.window_ms),
            open: millis(*self.open_ms.get_ref()),
            open_max: millis(*self.open_max_ms.get_ref()),
            probes_max: self.probes_max.get(),
        })
    }
}

impl Health {
    pub(super) fn checked(self) -> HealthConfig {
        HealthConfig { interval: millis(self.interval_ms), timeout: millis(self.timeout_ms) }
    }
}

impl Hedge {
    pub(super) fn checked(&self) -> Result<HedgeConfig, Finding> {
        Ok(HedgeConfig {
            extra_permille: permille(&self.extra_permille, "`extra_permille`")?,
            burst: self.burst.get(),
            delay_min: Duration::from_millis(self.delay_min_ms),
            loaded_permille: permille(&self.loaded_permille, "`loaded_permille`")?,
        })
    }
}

impl RetryConfig {
    /// A route that is never asked again: the model in this process, whose own queue waits.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            max: 0,
            backoff: Duration::ZERO,
            backoff_max: Duration::ZERO,
            retry_after_max: Duration::ZERO,
            extra_permille: 0,
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        let written = Breaker::default();
        Self {
            failures_max: written.failures_max.get(),
            failed_permille: *written.failed_permille.get_ref(),
            samples_min: written.samples_min.get(),
            window: millis(written.window_ms),
            open: millis(*written.open_ms.get_ref()),
            open_max: millis(*written.open_max_ms.get_ref()),
            probes_max: written.probes_max.get(),
        }
    }
}

/// A time and the longest it may become. Where one of them is not written, the smaller holds.
pub(super) fn in_order(
    (name, first): (&str, &Spanned<NonZeroU64>),
    (max_name, max): (&str, &Spanned<NonZeroU64>),
) -> Result<(), Finding> {
    let written = !first.span().is_empty() && !max.span().is_empty();
    if written && first.get_ref() > max.get_ref() {
        let message = format!("`{name}` is more than `{max_name}`");
        return Err(Finding::at(first.span(), message));
    }
    Ok(())
}

fn permille(written: &Spanned<u32>, name: &str) -> Result<u32, Finding> {
    match *written.get_ref() {
        permille @ 0..=1000 => Ok(permille),
        _ => Err(Finding::at(written.span(), format!("{name} is in thousandths: 0 to 1000"))),
    }
}

fn millis(written: NonZeroU64) -> Duration {
    Duration::from_millis(written.get())
}

fn health_timeout_ms() -> NonZeroU64 {
    nonzero64(5_000)
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
