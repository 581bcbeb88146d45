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
        let mut was_well = true;
        loop {
            tokio::time::sleep(health.interval).await;
            was_well = check(&route, health, was_well).await;
        }
    };
    ended.run_until_cancelled(round).await;
}

/// Checks once; says whether it went well. Only what is new is told at large.
async fn check(route: &Route, health: HealthConfig, was_well: bool) -> bool {
    let (Source::Cloud(cloud), RouteSource::Cloud(config)) = (&route.source, &route.config.source)
    else {
        return true;
    };
    match cloud.check(&config.base_url, health.timeout).await {
        Ok(()) => {
            if !was_well {
                tracing::info!(route = %route.id(), "health check goes well again");
            }
            route.breaker.well();
            true
        }
        Err(fault) => {
            if was_well {
                tracing::warn!(route = %route.id(), %fault, "health check failed");
            } else {
                tracing::debug!(route = %route.id(), %fault, "health check failed again");
            }
            if fault.is_upstreams() {
                route.breaker.unwell();
            }
            false
        }
    }
}
