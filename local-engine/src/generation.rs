//! The reader's end of a job. Dropping it cancels the job before its next decode.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use tokio::sync::mpsc::Receiver;

use crate::{
    job::{JobEvent, JobUsage},
    meter::Meter,
    shared::Shared,
};

/// A submitted job.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<JobEvent>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Generation {
    pub(crate) fn new(
        events: Receiver<JobEvent>,
        meter: Arc<Meter>,
        shared: Arc<Shared>,
    ) -> Generation {
        Generation { events, meter, shared, ended: false }
    }

    /// The next event; `None` after the last one. Safe to drop between polls: no event is lost.
    pub async fn next(&mut self) -> Option<JobEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await;
        if self.meter.paused.swap(false, SeqCst) {
            self.shared.wake();
        }
        let event = event.unwrap_or_else(|| JobEvent::Failed {
            reason: "the engine ended".to_owned(),
            usage: self.meter.usage(),
        });
        self.ended = !matches!(event, JobEvent::Started { .. } | JobEvent::Text { .. });
        Some(event)
    }

    /// What the job has taken so far, exact up to the last finished step: what a job that is about
    /// to be dropped must be charged for. A step that runs at that moment is not in it.
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.meter.usage()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.meter.cancelled.store(true, SeqCst);
        self.shared.wake();
    }
}
