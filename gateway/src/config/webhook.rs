//! What the configuration says about webhooks: who is told of events, and how persistently.

use super::{
    Environment,
    error::{Finding, closest},
    survive::in_order,
    written::{nonzero64, unplaced},
};
use crate::ledger::NOTICE_KINDS;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::{collections::HashSet, num::NonZeroU64, time::Duration};
use toml::Spanned;

/// Webhooks that may be configured.
const WEBHOOKS_MAX: usize = 32;
/// Shortest secret that signs anything.
const SECRET_BYTES_MIN: usize = 16;

/// One receiver of events.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Its name: what the journal knows it by, so that its place survives a restart.
    pub name: String,
    /// Where events are posted. It may hold a secret of the receiver's.
    pub url: SecretString,
    /// Signs every delivery.
    pub secret: SecretString,
    /// Kinds of events, or families of them, that it is told of; empty: all.
    pub events: Vec<String>,
    /// The longest wait for its answer.
    pub timeout: Duration,
    /// The wait after the first failure; each later one is twice as long, and every one is jittered.
    pub backoff: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// How old an event may become before it is given up.
    pub give_up_after: Duration,
}

/// `[[webhook]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhook {
    name: Spanned<String>,
    url: Spanned<String>,
    secret: Spanned<String>,
    #[serde(default)]
    events: Vec<Spanned<String>>,
    #[serde(default = "timeout_ms")]
    timeout_ms: NonZeroU64,
    #[serde(default = "backoff_ms")]
    backoff_ms: Spanned<NonZeroU64>,
    #[serde(default = "backoff_max_ms")]
    backoff_max_ms: Spanned<NonZeroU64>,
    #[serde(default = "give_up_after_s")]
    give_up_after_s: NonZeroU64,
}

fn timeout_ms() -> NonZeroU64 {
    nonzero64(10_000)
}
fn backoff_ms() -> Spanned<NonZeroU64> {
    unplaced(nonzero64(1_000))
}
fn backoff_max_ms() -> Spanned<NonZeroU64> {
    unplaced(nonzero64(300_000))
}
fn give_up_after_s() -> NonZeroU64 {
    nonzero64(3 * 24 * 3_600)
}

/// Checks every `[[webhook]]`. `warnings` gets what is allowed and worth saying.
pub(super) fn checked(
    written: &[Webhook],
    environment: Environment,
    warnings: &mut Vec<String>,
) -> Result<Vec<WebhookConfig>, Finding> {
    let mut names = HashSet::new();
    for webhook in written {
        if !names.insert(webhook.name.get_ref()) {
            return Err(Finding::at(webhook.name.span(), "another webhook has this name"));
        }
    }
    if let Some(one_more) = written.get(WEBHOOKS_MAX) {
        let message = format!("at most {WEBHOOKS_MAX} webhooks");
        return Err(Finding::at(one_more.name.span(), message));
    }
    written.iter().map(|webhook| webhook.checked(environment, warnings)).collect()
}

impl Webhook {
    fn checked(
        &self,
        environment: Environment,
        warnings: &mut Vec<String>,
    ) -> Result<WebhookConfig, Finding> {
        super::check::name_is_sound(&self.name, "a webhook's name")?;
        let name = self.name.get_ref().clone();
        // Where variables are spared (`tollgate ledger`), what is one is empty.
        let spared = |text: &str| text.is_empty() && environment == Environment::Spared;
        if !spared(self.url.get_ref()) && !sends_safely(&self.url)? {
            warnings
                .push(format!("webhook `{name}` is told in clear: its events travel without TLS"));
        }
        let secret = self.secret.get_ref();
        if !spared(secret) && secret.len() < SECRET_BYTES_MIN {
            let message = format!("`secret` has at least {SECRET_BYTES_MIN} bytes");
            return Err(Finding::at(self.secret.span(), message));
        }
        in_order(("backoff_ms", &self.backoff_ms), ("backoff_max_ms", &self.backoff_max_ms))?;
        for event in &self.events {
            known(event)?;
        }
        Ok(WebhookConfig {
            name,
            url: self.url.get_ref().clone().into(),
            secret: secret.clone().into(),
            events: self.events.iter().map(|event| event.get_ref().clone()).collect(),
            timeout: Duration::from_millis(self.timeout_ms.get()),
            backoff: Duration::from_millis(self.backoff_ms.get_ref().get()),
            backoff_max: Duration::from_millis(self.backoff_max_ms.get_ref().get()),
            give_up_after: Duration::from_secs(self.give_up_after_s.get()),
        })
    }
}

impl WebhookConfig {
    /// Scheme, host and port: what may be shown of its address.
    #[must_use]
    pub fn origin(&self) -> String {
        let url = reqwest::Url::parse(self.url.expose_secret()).ok();
        url.map_or_else(String::new, |url| url.origin().ascii_serialization())
    }
}

/// Whether what is sent there cannot be read on the way.
fn sends_safely(written: &Spanned<String>) -> Result<bool, Finding> {
    let wrong = || {
        let message = "`url` begins with https:// (or http://) and names a host";
        Finding::at(written.span(), message)
    };
    let url = reqwest::Url::parse(written.get_ref()).map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?;
    let here =
        host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(true),
        "http" => Ok(here),
        _ => Err(wrong()),
    }
}

fn known(event: &Spanned<String>) -> Result<(), Finding> {
    let families = NOTICE_KINDS.iter().filter_map(|kind| kind.split('.').next());
    let mut all: Vec<&str> = NOTICE_KINDS.into_iter().chain(families).collect();
    all.sort_unstable();
    all.dedup();
    if all.contains(&event.get_ref().as_str()) {
        return Ok(());
    }
    let hint = closest(event.get_ref(), &all)
        .map(|near| format!("; did you mean {near:?}?"))
        .unwrap_or_default();
    let message =
        format!("unknown event {:?}; there are {}{hint}", event.get_ref(), all.join(", "));
    Err(Finding::at(event.span(), message))
}
