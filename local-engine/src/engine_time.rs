//! The bound of a job's engine time in the hands of its owner, who set money aside for it: answers and
//! texts that are embedded have the same.

use std::time::Duration;

use crate::{meter::Meter, shared::Shared};

/// See the file's head.
#[derive(Clone, Copy, Debug)]
pub struct EngineTime<'a> {
    meter: &'a Meter,
    shared: &'a Shared,
}

impl<'a> EngineTime<'a> {
    pub(crate) fn of(meter: &'a Meter, shared: &'a Shared) -> EngineTime<'a> {
        EngineTime { meter, shared }
    }

    /// The bound, as it was raised last.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.meter.engine_time_max()
    }

    /// Raises the bound, where the job's `engine_time_may_grow`. A job that waits at its bound goes on.
    pub fn extend(&self, more: Duration) {
        self.bound(self.max().saturating_add(more), false);
    }

    /// Says that the bound is the last one: the job ends there.
    pub fn no_more(&self) {
        self.bound(self.max(), true);
    }

    pub(crate) fn bound(&self, engine_time_max: Duration, last: bool) {
        self.meter.bound(engine_time_max, last);
        self.shared.wake();
    }
}
