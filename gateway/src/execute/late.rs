//! Work that cannot end in time is refused before it costs anything.
//!
//! What is predicted: the wait for a place (see [`Route::predicted_wait`]) and the route's median
//! TTFT, or where it does not stream the median time of its whole answers. Nothing is refused on a guess: a route that has not been seen enough predicts nothing.

use super::{Execution, miss::Miss};
use crate::routes::{Fault, FaultKind, Route};
use std::time::Duration;
use tokio::time::Instant;

/// Older medians predict nothing: else a route that was slow once would be refused for ever to those
/// who are in a hurry, who alone could show that it is not.
const FRESH: Duration = Duration::from_secs(30);

impl Execution<'_> {
    /// The miss of a route that would answer too late: past the caller's deadline, or after a wait
    /// for a place that it does not grant.
    pub(super) fn too_late(&self, route: &Route) -> Option<Miss> {
        let wait = route.predicted_wait(self.book.key().as_ref(), self.request);
        if wait.is_some_and(|wait| wait > route.wait_max()) {
            let detail = "the wait for a place would be longer than it may be";
            return Some(Miss::Fault(Fault::new(FaultKind::Busy, detail)));
        }
        let by = self.bounds.deadline?;
        let left = by.saturating_duration_since(Instant::now());
        let p50 = route.live.fresh_p50_us(route.streams(self.request), FRESH);
        let needed = wait
            .unwrap_or_default()
            .saturating_add(p50.map(Duration::from_micros).unwrap_or_default());
        (left.is_zero() || needed > left).then_some(Miss::TooLate { needed, left })
    }
}
