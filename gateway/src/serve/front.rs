//! What a listener hands its requests to: the router, and around it what all responses have in
//! common.
//!
//! It is a service of its own and not two layers of the router, because with each layer of axum every
//! request clones the stack below it and boxes another future.

use super::{Gateway, Planes, outside, router};
use axum::{Router, extract::Request, response::Response};
use futures::future::BoxFuture;
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

/// The planes of one listener, whole.
#[derive(Clone, Debug)]
pub struct Front {
    gateway: Arc<Gateway>,
    router: Router,
}

impl Front {
    /// Serves `planes` of the gateway.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, planes: Planes) -> Self {
        let router = router(&gateway, planes);
        Self { gateway, router }
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { gateway, mut router } = self.clone();
        Box::pin(async move {
            let next = |request: Request| async move {
                let Ok(response) = Service::call(&mut router, request).await;
                response
            };
            Ok(outside::finish(&gateway, request, next).await)
        })
    }
}
