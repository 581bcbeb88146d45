//! Active health checks, where the operator wants them: a route that is resting is tried by a check
//! instead of a caller's request, and one that fails is found before a caller does.
//!
//! **Invariant:** a check carries nothing of any request; it feeds the same breaker as traffic does.

use super::{Route, Source};
use crate::config::{HealthConfig, RouteSource};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Checks `route` until `ended`; returns at once where no checks are configured.
pub async fn watch(route: Arc<Route>, ended: CancellationToken) {
    let Some(health) = route.config.health else { return };
    let round = async {
        loop {
            tokio::time::sleep(health.interval).await;
            check(&route, health).await;
        }
    };
    ended.run_until_cancelled(round).await;
}

async fn check(route: &Route, health: HealthConfig) {
    let (Source::Cloud(cloud), RouteSource::Cloud(config)) = (&route.source, &route.config.source)
    else {
        return;
    };
    match cloud.check(&config.base_url, health.timeout).await {
        Ok(()) => route.breaker.well(),
        Err(fault) => {
            tracing::warn!(route = %route.id(), %fault, "health check failed");
            if fault.is_upstreams() {
                route.breaker.failed();
            }
        }
    }
}
