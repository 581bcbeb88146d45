//! What an answer from the local model spares.

use crate::{
    routes::{Route, Routes},
    wire::ChatRequest,
};
use policies::{Decision, LeaveOut, RoutePrice, TokenPrice, Usage, Used};
use std::sync::Arc;

/// The price of the cheapest cloud route that the decision allowed, chosen or not, by what this
/// request would likely cost there: what a local answer spares.
#[must_use]
pub fn cheapest_cloud(
    routes: &Routes,
    request: &ChatRequest,
    decision: &Decision,
) -> Option<Arc<TokenPrice>> {
    let allowed = |route: &Route| {
        let reason = decision.left_out.iter().find(|left| left.route == *route.id());
        reason.is_none_or(|left| matches!(left.reason, LeaveOut::NotChosen | LeaveOut::Pinned))
    };
    let usage = Usage {
        input: request.prompt_tokens_estimate,
        output: request.output_cap,
        ..Usage::default()
    };
    let used = Used { images: request.images, ..Used::tokens(usage) };
    routes
        .iter()
        .filter(|route| allowed(route))
        .filter_map(|route| match route.price(request) {
            RoutePrice::Tokens(price) if !route.is_local() => {
                price.cost(&used).ok().map(|cost| (cost, price))
            }
            _ => None,
        })
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, price)| price)
}
