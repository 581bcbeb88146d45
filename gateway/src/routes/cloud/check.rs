//! Asking a provider how it is: `GET {base_url}/models`, which costs nothing and carries no prompt.

use super::{CloudRoute, endpoint};
use crate::routes::{Fault, FaultKind};
use reqwest::{Method, Request};
use std::time::Duration;

impl CloudRoute {
    /// Whether the provider answers. Its verdict on our request is not asked for: any status below
    /// 500 but 429 comes from a provider that is there.
    ///
    /// # Errors
    /// What is wrong with it, or with us ([`Fault::is_upstreams`]).
    pub async fn check(&self, base_url: &str, timeout: Duration) -> Result<(), Fault> {
        let url = endpoint(base_url, &["models"])
            .map_err(|reason| Fault::new(FaultKind::Connect, reason))?;
        let mut request = Request::new(Method::GET, url);
        request.headers_mut().clone_from(&self.unstreamed);
        request.headers_mut().remove(http::header::CONTENT_TYPE);
        match tokio::time::timeout(timeout, self.client.execute(request)).await {
            Err(_) => Err(self.late(FaultKind::FirstToken)),
            Ok(Err(error)) => Err(self.unsent_or_broken(error, false)),
            Ok(Ok(response)) => match response.status().as_u16() {
                status @ (429 | 500..) => {
                    let kind = FaultKind::Status { status, retry_after: None };
                    Err(Fault::new(kind, "health check"))
                }
                _ => Ok(()),
            },
        }
    }
}
