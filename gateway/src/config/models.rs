//! What the configuration says about single models: limits over everyone who asks for one.
//!
//! A model is what callers write as `model`: an alias of the policy, an alias of routes, or a
//! route's name. A name that nothing goes by is refused, so that no limit silently holds nothing.

use super::error::{Finding, closest};
use crate::caller::KeyLimits;
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashSet},
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};
use toml::Spanned;

/// The limits of one model over all callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// The name that callers write.
    pub model: Arc<str>,
    /// What may be asked of it; it has no limit on the cost of a request.
    pub limits: KeyLimits,
}

/// `[[limit]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    model: Spanned<String>,
    #[serde(default)]
    requests_per_minute: Option<NonZeroU32>,
    #[serde(default)]
    tokens_per_minute: Option<NonZeroU64>,
    #[serde(default)]
    concurrency: Option<NonZeroU32>,
}

/// Checks every `[[limit]]`; `known` are the names that callers may write.
pub(super) fn checked(
    written: &[Spanned<Limit>],
    known: &BTreeSet<&str>,
) -> Result<Vec<ModelLimits>, Finding> {
    let mut models = HashSet::new();
    let checked = |written: &Spanned<Limit>| {
        let limit = written.get_ref();
        let model = limit.model.get_ref().as_str();
        if !known.contains(model) {
            let all: Vec<&str> = known.iter().copied().collect();
            let hint = closest(model, &all).map(|near| format!("; did you mean {near:?}?"));
            let message = format!(
                "no caller can ask for the model {model:?}: a limit names an alias of the policy, \
                 an alias of a route or a route{}",
                hint.unwrap_or_default()
            );
            return Err(Finding::at(limit.model.span(), message));
        }
        if !models.insert(model.to_owned()) {
            return Err(Finding::at(limit.model.span(), "another [[limit]] is of this model"));
        }
        let limits = KeyLimits {
            requests_per_minute: limit.requests_per_minute.map(Into::into),
            tokens_per_minute: limit.tokens_per_minute.map(Into::into),
            concurrency: limit.concurrency.map(Into::into),
            request_cost_max: None,
        };
        if limits == KeyLimits::default() {
            let message = "a limit has `requests_per_minute`, `tokens_per_minute` or \
                           `concurrency`, or several of them";
            return Err(Finding::at(written.span(), message));
        }
        Ok(ModelLimits { model: model.into(), limits })
    };
    written.iter().map(checked).collect()
}
