//! The price of an answer that is another request's.

use crate::{execute::Started, wire::ChatRequest};
use policies::{RoutePrice, Used};

/// What an answer costs that somebody else books: a flight's, of which this relay is one waiter.
#[derive(Debug)]
pub(super) struct SharedPrice {
    pub(super) price: RoutePrice,
    /// What was asked for; its usage and time come with the answer.
    pub(super) used: Used,
}

impl SharedPrice {
    pub(super) fn of(started: &Started, request: &ChatRequest) -> Self {
        let used = Used {
            service: request.service,
            images: request.images,
            at_unix_s: request.admitted_unix_s,
            ..Used::default()
        };
        Self { price: started.route.price(request), used }
    }
}
