//! Budgets and limits as the admin API takes and shows them, for keys, teams, users and tags alike.

use super::read::{Object, bad};
use crate::{
    caller::{BudgetSpec, KeyLimits, NotABudget, TooManyBudgets, Window, Zone, too_many},
    ledger::{NONE, OTHER},
    openapi::types::{AtLeastOne, AtLeastOneToken, Usd, WindowText, ZoneName},
    refusal::Refusal,
};
use policies::PicoUsd;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::HashSet;

/// Longest label, user or team, in bytes.
const NAME_BYTES_MAX: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub(super) struct BudgetBody {
    #[schemars(with = "WindowText")]
    pub(super) window: Window,
    #[serde(default)]
    #[schemars(with = "Option<Usd>")]
    pub(super) money_usd: Option<PicoUsd>,
    #[serde(default)]
    pub(super) tokens: Option<u64>,
    #[serde(default)]
    pub(super) requests: Option<u64>,
    #[serde(default = "yes")]
    pub(super) hard: bool,
    /// The time zone of a calendar window; where it is absent, the configured one.
    #[serde(default)]
    #[schemars(with = "Option<ZoneName>")]
    pub(super) timezone: Option<Zone>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsBody {
    #[schemars(with = "AtLeastOne")]
    requests_per_minute: Option<u32>,
    #[schemars(with = "AtLeastOneToken")]
    tokens_per_minute: Option<u64>,
    #[schemars(with = "AtLeastOne")]
    concurrency: Option<u32>,
    #[schemars(with = "Option<Usd>")]
    request_cost_max_usd: Option<PicoUsd>,
}

/// What is absent stays; what is null is cleared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeLimits {
    #[schemars(with = "AtLeastOne")]
    #[serde(deserialize_with = "given")]
    requests_per_minute: Option<Option<u32>>,
    #[schemars(with = "AtLeastOneToken")]
    #[serde(deserialize_with = "given")]
    tokens_per_minute: Option<Option<u64>>,
    #[schemars(with = "AtLeastOne")]
    #[serde(deserialize_with = "given")]
    concurrency: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<Usd>")]
    request_cost_max_usd: Option<Option<PicoUsd>>,
}

/// Limits as they are shown.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Limits")]
pub(super) struct LimitsView {
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrency: Option<u32>,
    #[schemars(with = "Option<Usd>")]
    request_cost_max_usd: Option<PicoUsd>,
}

impl LimitsBody {
    pub(super) fn check(self) -> Result<KeyLimits, Refusal> {
        Ok(KeyLimits {
            requests_per_minute: at_least_one(
                "limits.requests_per_minute",
                self.requests_per_minute,
            )?,
            tokens_per_minute: at_least_one("limits.tokens_per_minute", self.tokens_per_minute)?,
            concurrency: at_least_one("limits.concurrency", self.concurrency)?,
            request_cost_max: self.request_cost_max_usd,
        })
    }
}

impl ChangeLimits {
    /// `limits` with what is given.
    pub(super) fn apply(self, mut limits: KeyLimits) -> Result<KeyLimits, Refusal> {
        if let Some(limit) = self.requests_per_minute {
            limits.requests_per_minute = at_least_one("limits.requests_per_minute", limit)?;
        }
        if let Some(limit) = self.tokens_per_minute {
            limits.tokens_per_minute = at_least_one("limits.tokens_per_minute", limit)?;
        }
        if let Some(limit) = self.concurrency {
            limits.concurrency = at_least_one("limits.concurrency", limit)?;
        }
        if let Some(limit) = self.request_cost_max_usd {
            limits.request_cost_max = limit;
        }
        Ok(limits)
    }
}

impl From<&KeyLimits> for LimitsView {
    fn from(limits: &KeyLimits) -> Self {
        Self {
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            concurrency: limits.concurrency,
            request_cost_max_usd: limits.request_cost_max,
        }
    }
}

impl BudgetBody {
    pub(super) fn check(self) -> Result<BudgetSpec, Refusal> {
        let spec = BudgetSpec {
            window: self.window,
            money: self.money_usd,
            tokens: self.tokens,
            hard: self.hard,
            requests: self.requests,
            zone: self.timezone,
            turn: None,
        };
        spec.checked().map_err(|wrong| {
            let param = match wrong {
                NotABudget::Nothing => "budgets",
                NotABudget::Zone => "timezone",
            };
            bad(Some(param), wrong.to_string())
        })
    }
}

impl From<&BudgetSpec> for BudgetBody {
    fn from(spec: &BudgetSpec) -> Self {
        Self {
            window: spec.window,
            money_usd: spec.money,
            tokens: spec.tokens,
            requests: spec.requests,
            hard: spec.hard,
            timezone: spec.zone.clone(),
        }
    }
}

/// All budgets of one scope, checked.
pub(super) fn budgets(written: Vec<Object<BudgetBody>>) -> Result<Vec<BudgetSpec>, Refusal> {
    let specs: Vec<BudgetSpec> =
        written.into_iter().map(|body| body.0.check()).collect::<Result<_, _>>()?;
    check_all(&specs)?;
    Ok(specs)
}

/// Whether these budgets can stand beside each other.
pub(super) fn check_all(specs: &[BudgetSpec]) -> Result<(), Refusal> {
    let windows: HashSet<Window> = specs.iter().map(|spec| spec.window).collect();
    if windows.len() < specs.len() {
        return Err(bad(Some("budgets"), "there is at most one budget for each window"));
    }
    if too_many(windows.into_iter()) {
        return Err(bad(Some("budgets"), TooManyBudgets.to_string()));
    }
    Ok(())
}

pub(super) fn views(specs: &[BudgetSpec]) -> Vec<BudgetBody> {
    specs.iter().map(BudgetBody::from).collect()
}

/// The tags of a key, each once, in order.
pub(super) fn tags(written: Vec<String>) -> Result<Vec<String>, Refusal> {
    crate::wire::check_tags(written).map_err(|message| bad(Some("tags"), message))
}

/// The name of a tag that is to be set up: one that no request can bear would limit nothing.
pub(super) fn tag(param: &str, name: &str) -> Result<(), Refusal> {
    let checked = crate::wire::check_tags(vec![name.to_owned()]);
    checked.map(drop).map_err(|message| bad(Some(param), message))
}

/// A label, user, team or tag.
pub(super) fn name(param: &str, text: String) -> Result<String, Refusal> {
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("`{param}` has at most {NAME_BYTES_MAX} bytes of plain text");
        return Err(bad(Some(param), message));
    }
    Ok(text)
}

/// The user or the team of something; who has none says so by null.
pub(super) fn filled(param: &str, text: String) -> Result<String, Refusal> {
    if text.is_empty() {
        return Err(bad(Some(param), format!("`{param}` is not empty; null is none")));
    }
    let text = addressable(param, name(param, text)?)?;
    unmistakable(param, &text)?;
    Ok(text)
}

/// A name that has a path of its own: without one it could be neither set up nor shown.
pub(super) fn addressable(param: &str, text: String) -> Result<String, Refusal> {
    if text.trim().is_empty() || text.contains('/') || text == "." || text == ".." {
        let message = format!("`{param}` is not empty, has no `/` in it and is not `.` or `..`");
        return Err(bad(Some(param), message));
    }
    Ok(text)
}

/// A team or user whose group in a summary is its own.
pub(super) fn unmistakable(param: &str, text: &str) -> Result<(), Refusal> {
    if [NONE, OTHER].contains(&text) {
        let message = format!(
            "`{param}` is not `{NONE}` or `{OTHER}`: in summaries these are who has none, and the rest"
        );
        return Err(bad(Some(param), message));
    }
    Ok(())
}

fn at_least_one<T: PartialEq + From<u8>>(
    param: &str,
    limit: Option<T>,
) -> Result<Option<T>, Refusal> {
    if limit.as_ref().is_some_and(|limit| *limit == T::from(0)) {
        let message = format!("`{param}` is at least 1; to stop it, disable it");
        return Err(bad(Some(param), message));
    }
    Ok(limit)
}

pub(super) fn within<T>(
    change: Option<Option<T>>,
    check: impl FnOnce(T) -> Result<T, Refusal>,
) -> Result<Option<Option<T>>, Refusal> {
    match change {
        Some(Some(value)) => check(value).map(|value| Some(Some(value))),
        other => Ok(other),
    }
}

pub(super) fn yes() -> bool {
    true
}

/// A field of which null is nothing that could be cleared: there it is refused.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A field that is there, null or not.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
