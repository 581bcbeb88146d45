//! What the scheduler's thread shares with everybody else: the bounded queue of jobs, the live
//! numbers, and the way to wake the thread. No lock is held while anything is computed.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::Receiver;

use crate::{
    error::SubmitError,
    evictions::Evictions,
    job::{Job, JobEvent},
    meter::Meter,
    outbox::Outbox,
    queue::FairQueue,
    status::{EngineState, Gauges},
};

/// A job in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) job: Job,
    pub(crate) outbox: Outbox,
    pub(crate) submitted: Instant,
    /// How long its first token was expected to take when it came.
    pub(crate) predicted: Option<Duration>,
}

impl Waiting {
    /// How long it may wait.
    pub(crate) fn wait_max(&self, queue_wait_max: Duration) -> Duration {
        self.job.scheduling.queue_wait_max.map_or(queue_wait_max, |own| own.min(queue_wait_max))
    }

    /// Tells the job that it waited in vain.
    pub(crate) fn expire(self, now: Instant) {
        let queued = now.saturating_duration_since(self.submitted);
        self.outbox.close("", |_| JobEvent::Expired { queued });
    }
}

/// The jobs in the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) jobs: FairQueue,
    /// Whether jobs are taken.
    pub(crate) open: bool,
    /// When to end with jobs unfinished; set by the first shutdown.
    pub(crate) end_at: Option<Instant>,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    lag_max: usize,
    pub(crate) gauges: Gauges,
    pub(crate) evictions: Evictions,
    /// Set with `end_at`, so that the scheduler looks at the lock only when it must.
    pub(crate) ending: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Shared {
    pub(crate) fn new(queue_max: usize, lag_max: usize) -> Shared {
        Shared {
            queue: Mutex::new(Queue { jobs: FairQueue::new(queue_max), open: true, end_at: None }),
            lag_max,
            gauges: Gauges::new(),
            evictions: Evictions::default(),
            ending: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// The thread that [`Shared::wake`] wakes.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a checked job, or says why not.
    pub(crate) fn enqueue(
        &self,
        job: Job,
        now: Instant,
    ) -> Result<(Receiver<JobEvent>, Arc<Meter>), SubmitError> {
        let mut queue = self.queue();
        if !queue.open {
            return Err(match self.gauges.state() {
                EngineState::Failed { reason } => SubmitError::Failed { reason },
                _ => SubmitError::Stopped,
            });
        }
        if queue.jobs.is_full() {
            // The scheduler may be in a long step: those who left make room at once.
            let left = queue.jobs.take(|waiting| waiting.outbox.abandoned()).len();
            self.gauges.cancelled.fetch_add(u64::try_from(left).unwrap_or(0), Relaxed);
        }
        if queue.jobs.is_full() {
            // Who floods the queue makes room for the others.
            let Some(displaced) = queue.jobs.displace_for(job.scheduling.caller) else {
                return Err(SubmitError::QueueFull { queued: queue.jobs.len() });
            };
            self.gauges.expired.fetch_add(1, Relaxed);
            displaced.expire(now);
        }
        let meter = Arc::new(Meter::default());
        let (outbox, events) =
            Outbox::new(self.lag_max, Arc::clone(&meter)).ok_or(SubmitError::Stopped)?;
        let predicted = self.gauges.predict(job.prompt.len()).map(|expected| expected.ttft);
        queue.jobs.push(Waiting { job, outbox, submitted: now, predicted });
        self.count_queue(&queue);
        drop(queue);
        self.wake();
        Ok((events, meter))
    }

    /// Publishes the queue's length.
    pub(crate) fn count_queue(&self, queue: &Queue) {
        self.gauges.queued.store(u32::try_from(queue.jobs.len()).unwrap_or(u32::MAX), Relaxed);
    }

    /// No more jobs; what is there may go on until `end_at`.
    pub(crate) fn end(&self, end_at: Instant) {
        let mut queue = self.queue();
        queue.open = false;
        queue.end_at = Some(queue.end_at.map_or(end_at, |earlier| earlier.min(end_at)));
        drop(queue);
        self.gauges.drain();
        self.ending.store(true, Relaxed);
        self.wake();
    }
}
