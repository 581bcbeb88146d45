//! GET /limits: the limits of single models over all callers, and what they have let through.

use super::{Answer, limits::LimitsView};
use crate::serve::Gateway;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// One model's limits, as the configuration set them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ModelLimits")]
pub(super) struct ModelLimitsView {
    /// The name that callers write as `model`.
    model: String,
    limits: LimitsView,
    /// Requests in flight that asked for it.
    in_flight: usize,
    /// Requests that could come now.
    remaining_requests: Option<u64>,
    /// Tokens that could be reserved now.
    remaining_tokens: Option<u64>,
}

/// GET /limits
pub(super) async fn list(State(gateway): State<Arc<Gateway>>) -> Answer {
    let view = |of: &crate::config::ModelLimits| {
        let state = gateway.admission.model(&of.model);
        let rate = state.and_then(|state| state.rate);
        let tokens = gateway.books.model_token_rate(&of.model);
        ModelLimitsView {
            model: (*of.model).to_owned(),
            limits: LimitsView::from(&of.limits),
            in_flight: state.map_or(0, |state| state.in_flight),
            remaining_requests: rate.map(|rate| rate.remaining),
            remaining_tokens: tokens.map(|rate| rate.remaining),
        }
    };
    super::list(gateway.config.model_limits.iter().map(view).collect())
}
