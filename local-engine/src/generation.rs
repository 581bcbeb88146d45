//! The reader's end of a job. Dropping it cancels the job before its next decode.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll},
};

use tokio::sync::mpsc::Receiver;

use crate::{
    engine_time::EngineTime,
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
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Generation::next`] for whoever reads several jobs at once.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(event) = self.events.poll_recv(context) else { return Poll::Pending };
        if self.meter.paused.swap(false, SeqCst) {
            self.shared.wake();
        }
        let event = event.unwrap_or_else(|| JobEvent::Failed {
            reason: "the engine ended".to_owned(),
            usage: self.meter.usage(),
        });
        self.ended = !matches!(
            event,
            JobEvent::Started { .. } | JobEvent::Text { .. } | JobEvent::EngineTimeLow
        );
        Poll::Ready(Some(event))
    }

    /// Ends the job before its next decode; no event comes any more. What it has taken stays known.
    pub fn cancel(&mut self) {
        self.ended = true;
        self.meter.cancelled.store(true, SeqCst);
        self.shared.wake();
    }

    /// The bound of the job's engine time.
    #[must_use]
    pub fn engine_time(&self) -> EngineTime<'_> {
        EngineTime::of(&self.meter, &self.shared)
    }

    /// What the job has taken so far, which a job that is about to be dropped must be charged for:
    /// exact up to the last finished step. A step that runs at that moment is computed to its end, and
    /// counts with what it is expected to take. Exact once the job has ended.
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.meter.usage_of_who_leaves()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel();
    }
}
