//! What the scheduler's thread shares with everybody else: the bounded queue of jobs, the live
//! numbers, and the way to wake the thread. No lock is held while anything is computed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::Thread,
    time::Instant,
};

use tokio::sync::mpsc::Receiver;

use crate::{
    error::SubmitError,
    evictions::Evictions,
    job::{Job, JobEvent},
    meter::Meter,
    outbox::Outbox,
    status::{EngineState, Gauges},
};

/// A job in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) job: Job,
    pub(crate) outbox: Outbox,
    pub(crate) submitted: Instant,
}

/// The jobs in the queue, oldest first.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) jobs: VecDeque<Waiting>,
    /// Whether jobs are taken.
    pub(crate) open: bool,
    /// When to end with jobs unfinished; set by the first shutdown.
    pub(crate) end_at: Option<Instant>,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    queue_max: usize,
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
            queue: Mutex::new(Queue { jobs: VecDeque::new(), open: true, end_at: None }),
            queue_max,
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
        if queue.jobs.len() >= self.queue_max {
            // The scheduler may be in a long step: those who left make room at once.
            let before = queue.jobs.len();
            queue.jobs.retain(|waiting| !waiting.outbox.abandoned());
            let left = u64::try_from(before - queue.jobs.len()).unwrap_or(0);
            self.gauges.cancelled.fetch_add(left, Relaxed);
        }
        if queue.jobs.len() >= self.queue_max {
            return Err(SubmitError::QueueFull { queued: queue.jobs.len() });
        }
        let meter = Arc::new(Meter::default());
        let (outbox, events) =
            Outbox::new(self.lag_max, Arc::clone(&meter)).ok_or(SubmitError::Stopped)?;
        queue.jobs.push_back(Waiting { job, outbox, submitted: now });
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
