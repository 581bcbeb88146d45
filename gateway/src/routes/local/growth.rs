//! More engine time for an answer, of text or of vectors, that takes longer than was expected, for as
//! long as it can be paid.
//!
//! The time that is set aside for an answer at first is computed from configured rates. A busy machine
//! can be slower than those, and then an answer is not cut for that: before its bound is reached, as
//! much again is set aside, or what the budgets still have. Only where that is nothing is the bound
//! the last one.

use crate::ledger::Extension;
use local_engine::EngineTime;
use std::time::Duration;

/// See the file's head.
#[derive(Debug)]
pub(super) struct Growth {
    /// `None`: nobody pays by time, and there is always more.
    extension: Option<Extension>,
    /// Engine time of all jobs that is paid for by now.
    covered: Duration,
}

impl Growth {
    pub(super) fn new(extension: Option<Extension>, covered: Duration) -> Self {
        Self { extension, covered }
    }

    /// Gives a job whose time is nearly used as much again, or what there is money for.
    pub(super) fn grow(&mut self, time: EngineTime<'_>) {
        let wanted = time.max();
        let more = match &self.extension {
            Some(extension) => extension.more(self.covered, wanted),
            None => wanted,
        };
        if more.is_zero() {
            time.no_more();
            return;
        }
        self.covered = self.covered.saturating_add(more);
        time.extend(more);
    }
}
