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
    embedding::Embeds,
    error::SubmitError,
    evictions::Evictions,
    job::{Job, JobEvent},
    meter::Meter,
    outbox::Outbox,
    status::{EngineState, Gauges},
};

/// The reader's end of a queued job.
pub(crate) type Queued = (Receiver<JobEvent>, Arc<Meter>);

/// A job in the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) job: Job,
    pub(crate) outbox: Outbox,
    pub(crate) submitted: Instant,
    /// The job whose prompt this one shares: the first choice of its request.
    pub(crate) after: Option<Arc<Meter>>,
}

impl Waiting {
    /// Whether it waits for the first choice of its request, whose cells it will share.
    pub(crate) fn held(&self) -> bool {
        self.after.as_ref().is_some_and(|first| !first.releases())
    }
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
    /// Embedding jobs.
    pub(crate) embeds: Embeds,
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
            embeds: Embeds::new(queue_max),
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
    pub(crate) fn enqueue(&self, job: Job, now: Instant) -> Result<Queued, SubmitError> {
        let mut queued = self.enqueue_choices(vec![job], now)?;
        queued.pop().ok_or(SubmitError::Stopped)
    }

    /// Queues the checked jobs of one request, all or none. They have one prompt: all but the first
    /// wait until it is read.
    pub(crate) fn enqueue_choices(
        &self,
        jobs: Vec<Job>,
        now: Instant,
    ) -> Result<Vec<Queued>, SubmitError> {
        let mut queue = self.queue();
        if !queue.open {
            return Err(match self.gauges.state() {
                EngineState::Failed { reason } => SubmitError::Failed { reason },
                _ => SubmitError::Stopped,
            });
        }
        let room = |queue: &Queue| queue.jobs.len().saturating_add(jobs.len()) <= self.queue_max;
        if !room(&queue) {
            // The scheduler may be in a long step: those who left make room at once.
            let before = queue.jobs.len();
            queue.jobs.retain(|waiting| !waiting.outbox.abandoned());
            let left = u64::try_from(before - queue.jobs.len()).unwrap_or(0);
            self.gauges.cancelled.fetch_add(left, Relaxed);
        }
        if !room(&queue) {
            return Err(SubmitError::QueueFull { queued: queue.jobs.len() });
        }
        let mut queued: Vec<Queued> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let meter = Arc::new(Meter::default());
            let (outbox, events) =
                Outbox::new(self.lag_max, Arc::clone(&meter)).ok_or(SubmitError::Stopped)?;
            let after = queued.first().map(|(_, first)| Arc::clone(first));
            queue.jobs.push_back(Waiting { job, outbox, submitted: now, after });
            queued.push((events, meter));
        }
        self.count_queue(&queue);
        drop(queue);
        self.wake();
        Ok(queued)
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
