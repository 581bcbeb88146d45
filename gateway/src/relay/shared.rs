//! What a relay has whose answer is another request's too.

use crate::{admission::BodyRoom, execute::Started, wire::ChatRequest};
use policies::{RoutePrice, Used};

/// What only one of several has who share an answer.
#[derive(Debug)]
pub(super) enum Sharing {
    /// Its price, where there is no entry to ask.
    Price(SharedPrice),
    /// The room that it takes, where it has an entry and is written for itself although it is spared.
    Room(BodyRoom),
}

/// What an answer costs that somebody else books: a flight's, of which this relay is one waiter.
#[derive(Debug)]
pub(super) struct SharedPrice {
    pub(super) price: RoutePrice,
    /// What was asked for; its usage and time come with the answer.
    pub(super) used: Used,
}

impl Sharing {
    pub(super) fn price(started: &Started, request: &ChatRequest) -> Self {
        let used = Used {
            service: request.service,
            images: request.images,
            at_unix_s: request.admitted_unix_s,
            ..Used::default()
        };
        Self::Price(SharedPrice { price: started.route.price(request), used })
    }
}
