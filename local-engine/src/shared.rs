//! What the scheduler's thread shares with everybody else: the bounded queue of jobs, the live
//! numbers, and the way to wake the thread. No lock is held while anything is computed.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::Thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::Receiver;

use crate::{
    embedding::Embeds,
    error::SubmitError,
    evictions::Evictions,
    job::{Job, JobEvent, JobUsage, Scheduling},
    meter::Meter,
    outbox::Outbox,
    predict::Forecast,
    queue::FairQueue,
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
    /// How long its first token was expected to take when it came.
    pub(crate) predicted: Option<Duration>,
    /// The job whose prompt this one shares: the first choice of its request.
    pub(crate) after: Option<Arc<Meter>>,
    /// Whether a running job is reading what this one would read again.
    pub(crate) behind: bool,
}

impl Waiting {
    /// Whether it waits for cells that it will share: those of the first choice of its request, or of
    /// a job with the same beginning.
    pub(crate) fn held(&self) -> bool {
        self.behind || self.after.as_ref().is_some_and(|first| !first.releases())
    }
}

impl Waiting {
    /// How long it has waited.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.submitted)
    }

    /// How long it may wait.
    pub(crate) fn wait_max(&self, queue_wait_max: Duration) -> Duration {
        self.job.scheduling.queue_wait_max.map_or(queue_wait_max, |own| own.min(queue_wait_max))
    }

    /// Whether it is a part of a request that has another, without which that would be no answer.
    pub(crate) fn is_part(&self) -> bool {
        self.after.is_some() || self.job.scheduling.follows
    }

    /// Tells the job that it waited in vain.
    pub(crate) fn expire(self, now: Instant) {
        let queued = self.waited(now);
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
    /// What waits are predicted from.
    pub(crate) forecast: Forecast,
    pub(crate) evictions: Evictions,
    /// Embedding jobs.
    pub(crate) embeds: Embeds,
    /// Every kept prefix is to be given up.
    pub(crate) forget: AtomicBool,
    /// Set with `end_at`, so that the scheduler looks at the lock only when it must.
    pub(crate) ending: AtomicBool,
    thread: OnceLock<Thread>,
    /// Somebody wants the scheduler to look around.
    woken: AtomicBool,
    /// Other models share the device.
    crowded: AtomicBool,
    /// One more of it exists for each job that has not ended.
    open_jobs: Arc<()>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Shared {
    pub(crate) fn new(queue_max: usize, lag_max: usize) -> Shared {
        Shared {
            queue: Mutex::new(Queue { jobs: FairQueue::new(queue_max), open: true, end_at: None }),
            lag_max,
            gauges: Gauges::new(),
            forecast: Forecast::default(),
            evictions: Evictions::default(),
            embeds: Embeds::new(queue_max),
            forget: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            thread: OnceLock::new(),
            woken: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            open_jobs: Arc::new(()),
            ended: Mutex::new(false),
            end: Condvar::new(),
        }
    }

    /// The thread that [`Shared::wake`] wakes.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    pub(crate) fn wake(&self) {
        self.woken.store(true, SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// What a job is told that ends with the engine: whether that failed, or ended as it was told to.
    pub(crate) fn last_event(&self, reason: &str, usage: JobUsage) -> JobEvent {
        match self.gauges.state() {
            EngineState::Stopped => JobEvent::Stopped { usage },
            _ => JobEvent::Failed { reason: reason.to_owned(), usage },
        }
    }

    /// Whether it was woken since the last time this was asked.
    pub(crate) fn was_woken(&self) -> bool {
        self.woken.load(Relaxed) && self.woken.swap(false, SeqCst)
    }

    /// Whether no job waits or runs. Exact, unlike the numbers, which follow a step later.
    pub(crate) fn has_no_jobs(&self) -> bool {
        Arc::strong_count(&self.open_jobs) == 1
    }

    /// What counts a job as open while it is kept.
    pub(crate) fn open_job(&self) -> Arc<()> {
        Arc::clone(&self.open_jobs)
    }

    /// Says whether other models share the device.
    pub(crate) fn set_crowded(&self, crowded: bool) {
        self.crowded.store(crowded, Relaxed);
    }

    /// Whether other models share the device: then no step may take long, even if nobody of this
    /// model waits.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Relaxed)
    }

    /// The model has left the device's thread, and its memory is free.
    pub(crate) fn set_ended(&self) {
        self.embeds.free_room();
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for [`Shared::set_ended`].
    pub(crate) fn wait_ended(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_while(ended, |ended| !*ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
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
        // Only the first one's wait is compared with what comes: the others read no prompt.
        let first = jobs.first().and_then(|job| self.predict(&job.scheduling, job.prompt.len()));
        let mut predicted = first.map(|expected| expected.ttft);
        let mut queue = self.queue();
        if !queue.open {
            return Err(match self.gauges.state() {
                EngineState::Failed { reason } => SubmitError::Failed { reason },
                _ => SubmitError::Stopped,
            });
        }
        if !queue.jobs.has_room_for(jobs.len()) {
            // The scheduler may be in a long step: those who left make room at once.
            let left = queue.jobs.take(|waiting| waiting.outbox.abandoned()).len();
            self.gauges.cancelled.fetch_add(u64::try_from(left).unwrap_or(0), Relaxed);
        }
        if !queue.jobs.has_room_for(jobs.len()) {
            // Who floods the queue makes room for the others.
            let one = jobs.first().map(|job| job.scheduling).filter(|_| jobs.len() == 1);
            let displace = |of: Scheduling| queue.jobs.displace_for(of.caller, of.priority);
            let Some(displaced) = one.and_then(displace) else {
                return Err(SubmitError::QueueFull { queued: queue.jobs.len() });
            };
            self.gauges.expired.fetch_add(1, Relaxed);
            displaced.expire(now);
        }
        let mut queued: Vec<Queued> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let meter = Arc::new(Meter::bounded(job.engine_time_max, job.engine_time_may_grow));
            let (mut outbox, events) =
                Outbox::new(self.lag_max, Arc::clone(&meter)).ok_or(SubmitError::Stopped)?;
            outbox.count_in(Arc::clone(&self.open_jobs));
            let after = queued.first().map(|(_, first)| Arc::clone(first));
            queue.jobs.push(Waiting {
                job,
                outbox,
                submitted: now,
                predicted: predicted.take(),
                after,
                behind: false,
            });
            queued.push((events, meter));
        }
        self.count_queue(&queue);
        drop(queue);
        self.wake();
        Ok(queued)
    }

    /// Drops queued jobs whose reader left and tells those who waited too long.
    pub(crate) fn tidy_queue(&self, now: Instant, queue_wait_max: Duration) {
        if self.gauges.queued.load(Relaxed) == 0 {
            return;
        }
        // A part of a request that runs does not expire: the answer would break.
        let over = |waiting: &Waiting| {
            !waiting.is_part() && waiting.waited(now) >= waiting.wait_max(queue_wait_max)
        };
        let mut queue = self.queue();
        for gone in queue.jobs.take(|waiting| waiting.outbox.abandoned() || over(waiting)) {
            if gone.outbox.abandoned() {
                self.gauges.cancelled.fetch_add(1, Relaxed);
            } else {
                self.gauges.expired.fetch_add(1, Relaxed);
                gone.expire(now);
            }
        }
        self.count_queue(&queue);
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
