//! Embeddings: texts in, one vector of length 1 for each.
//!
//! They are computed on the scheduler's thread, in a context of their own that is made for the first
//! of them, one batch a turn (`batch.rs`): a piece of a long text, so that it stalls nobody's tokens
//! for longer than a prompt's chunk does, or as many short ones as have room beside each other. Time
//! is attributed as for any job.

mod batch;
#[cfg(test)]
mod batch_tests;
mod line;
mod room;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender, error::TrySendError};

pub(crate) use line::Embeds;
pub(crate) use room::Room;

use crate::{
    engine_time::EngineTime,
    error::SubmitError,
    job::{JobUsage, Scheduling},
    meter::Meter,
    shared::Shared,
    status::EngineState,
};

/// Most texts of one job.
pub const EMBED_INPUTS_MAX: usize = 2_048;

/// How a text's token vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    First,
    /// The last one.
    Last,
}

/// Texts to be embedded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EmbedJob {
    /// Their tokens, from [`crate::Engine::tokenize_text`]: each at least one, and no more than
    /// [`crate::Engine::embed_tokens_max`].
    pub inputs: Vec<Vec<i32>>,
    /// How token vectors are pooled; `None` is as the engine is configured, else what the model's file
    /// says, else the mean.
    pub pooling: Option<Pooling>,
    /// Attributed engine time after which the job fails: the bound a reservation was computed from.
    pub engine_time_max: Duration,
    /// Whether that bound may be raised while the job runs: then it tells
    /// [`EmbedEvent::EngineTimeLow`] before, and waits at the bound for its owner's word on
    /// [`Embedding::engine_time`].
    pub engine_time_may_grow: bool,
    /// Whose job it is and how urgent.
    pub scheduling: Scheduling,
}

/// Vectors that are being computed. Dropping it cancels the job before its next chunk.
#[derive(Debug)]
pub struct Embedding {
    events: Receiver<EmbedEvent>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
}

/// What a job tells.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbedEvent {
    /// Three quarters of its engine time are used, where the bound may be raised.
    EngineTimeLow,
    /// The last: the vectors, one for each input in its order, or why there are none.
    Ended(Result<Vec<Vec<f32>>, EmbedError>),
}

/// Why there are no vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum EmbedError {
    /// It waited in the queue for `queue_wait_max`, and nothing was computed.
    #[error("waited {} ms for the engine", .0.as_millis())]
    Expired(Duration),
    /// `engine_time_max` was reached.
    #[error("the bound of its engine time was reached")]
    EngineTime,
    /// This model, or this machine's memory, gives no embeddings.
    #[error("no embeddings can be computed: {0}")]
    Unable(String),
    /// The engine was ended as somebody wanted: its model is unloaded or exchanged.
    #[error("the engine was stopped")]
    Stopped,
    /// The engine ended.
    #[error("the engine ended")]
    Ended,
}

/// What becomes of a job.
pub(crate) type Vectors = Result<Vec<Vec<f32>>, EmbedError>;

/// A job in the queue or under way.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) job: EmbedJob,
    done: Vec<Vec<f32>>,
    /// Tokens of the current text that were read, and what their vectors made so far.
    read: usize,
    pooled: Vec<f32>,
    submitted: Instant,
    /// When its engine time was used up and its owner had yet to say whether there is more.
    waits_since: Option<Instant>,
    /// Whether its texts have no company: a batch that they were in could not be computed.
    alone: bool,
    /// Counts it as open until it has ended.
    _open: Arc<()>,
    pub(crate) meter: Arc<Meter>,
    events: Sender<EmbedEvent>,
    for_last_event: OwnedPermit<EmbedEvent>,
}

// === impl Embedding ===

impl Embedding {
    /// The next event; nothing comes after [`EmbedEvent::Ended`]. Safe to drop between polls.
    pub async fn next(&mut self) -> EmbedEvent {
        if let Some(event) = self.events.recv().await {
            return event;
        }
        EmbedEvent::Ended(Err(match self.shared.gauges.state() {
            EngineState::Stopped => EmbedError::Stopped,
            _ => EmbedError::Ended,
        }))
    }

    /// Waits for the vectors, one for each input in its order. Whoever waits so adds no engine time.
    ///
    /// # Errors
    /// They could not be computed.
    pub async fn vectors(&mut self) -> Result<Vec<Vec<f32>>, EmbedError> {
        loop {
            match self.next().await {
                EmbedEvent::EngineTimeLow => self.engine_time().no_more(),
                EmbedEvent::Ended(vectors) => return vectors,
            }
        }
    }

    /// The bound of the job's engine time.
    #[must_use]
    pub fn engine_time(&self) -> EngineTime<'_> {
        EngineTime::of(&self.meter, &self.shared)
    }

    /// What the job has taken so far, as [`crate::Generation::usage`] has it.
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.meter.usage_of_who_leaves()
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        self.meter.cancelled.store(true, SeqCst);
        self.shared.wake();
    }
}

/// Queues a checked job, unless the engine takes none.
pub(crate) fn submit(
    shared: &Arc<Shared>,
    job: EmbedJob,
    now: Instant,
) -> Result<Embedding, SubmitError> {
    let mut line = shared.embeds.line();
    // Under the line's lock: whoever ends the engine says so before they clear the line, and what came
    // after that would never be told.
    match shared.gauges.state() {
        EngineState::Running => {}
        EngineState::Failed { reason } => return Err(SubmitError::Failed { reason }),
        EngineState::Draining | EngineState::Stopped => return Err(SubmitError::Stopped),
    }
    if !line.has_room() {
        // The scheduler may be in a long step: those who left make room at once.
        drop(line.take_out(Reading::is_left));
    }
    let queued = line.len();
    if !line.has_room() {
        return Err(SubmitError::QueueFull { queued });
    }
    // Room for the last event, and for one that says that the time is low.
    let (sender, events) = mpsc::channel(2);
    let for_last_event =
        sender.clone().try_reserve_owned().map_err(|_| SubmitError::QueueFull { queued })?;
    let meter = Arc::new(Meter::bounded(job.engine_time_max, job.engine_time_may_grow));
    line.push(Reading {
        done: Vec::with_capacity(job.inputs.len()),
        job,
        read: 0,
        pooled: Vec::new(),
        submitted: now,
        waits_since: None,
        alone: false,
        _open: shared.open_job(),
        meter: Arc::clone(&meter),
        events: sender,
        for_last_event,
    });
    drop(line);
    shared.wake();
    Ok(Embedding { events, meter, shared: Arc::clone(shared) })
}

// === impl Reading ===

impl Reading {
    /// Says what has become of it. Nobody may wait any more: it is all the same.
    pub(crate) fn tell(self, vectors: Vectors) {
        self.for_last_event.send(EmbedEvent::Ended(vectors));
    }

    /// Tells the owner when the bound is near, once for each bound.
    pub(crate) fn tell_if_low(&self) {
        if self.meter.is_low() {
            self.tell_low();
        }
    }

    /// Tells the owner that the bound is near, unless it was told of this one.
    pub(crate) fn tell_low(&self) {
        // Before it is sent: whoever hears of it takes this back at once with a new bound.
        if self.meter.told_low.swap(true, SeqCst) {
            return;
        }
        // An owner that was told before and said nothing has no room, and need not be told again.
        if let Err(TrySendError::Full(_)) = self.events.try_send(EmbedEvent::EngineTimeLow) {
            tracing::debug!("the owner of texts has not read that their time is low");
        }
    }

    /// Whether it waits for its owner to say whether there is more engine time.
    fn waits(&self, now: Instant, stall_max: Duration) -> bool {
        let waits = self.waits_since.is_some() && self.meter.waits_for_time();
        waits && !self.is_left() && !self.is_stalled(now, stall_max)
    }

    /// Whether it has waited and there is no more, or its owner has said nothing for too long.
    fn gets_no_more(&self, now: Instant, stall_max: Duration) -> bool {
        let over = self.meter.is_overspent() || self.is_stalled(now, stall_max);
        self.waits_since.is_some() && over
    }

    fn is_stalled(&self, now: Instant, stall_max: Duration) -> bool {
        let since = self.waits_since.filter(|_| self.meter.waits_for_time());
        since.is_some_and(|since| now.saturating_duration_since(since) >= stall_max)
    }

    /// Gives up what was read of the current text: another one's takes its cells.
    fn lose_cells(&mut self) {
        self.meter.unread(u32::try_from(self.read).unwrap_or(u32::MAX));
        self.read = 0;
        self.pooled.clear();
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_left(&self) -> bool {
        self.meter.cancelled.load(SeqCst)
    }

    /// How long it has waited.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.submitted)
    }

    /// How long it may wait before anything is computed for it.
    pub(crate) fn wait_max(&self, queue_wait_max: Duration) -> Duration {
        self.job.scheduling.queue_wait_max.map_or(queue_wait_max, |own| own.min(queue_wait_max))
    }

    /// Whether it has waited too long for its first chunk.
    fn is_expired(&self, now: Instant, queue_wait_max: Duration) -> bool {
        self.is_new() && self.waited(now) >= self.wait_max(queue_wait_max)
    }

    /// Whether nothing was computed for it.
    fn is_new(&self) -> bool {
        self.read == 0 && self.done.is_empty() && self.waits_since.is_none()
    }

    /// Whether all its texts are done.
    fn is_done(&self) -> bool {
        self.done.len() == self.job.inputs.len()
    }

    /// The current text was read up to `end`, and this is what its vectors made so far.
    fn has_read(&mut self, end: usize, pooled: Vec<f32>) {
        let whole = self.job.inputs.get(self.done.len()).is_some_and(|text| end == text.len());
        (self.read, self.pooled) = (end, pooled);
        if whole {
            self.done.push(normalised(std::mem::take(&mut self.pooled)));
            self.read = 0;
        }
    }
}

/// The vector brought to length 1: the mean's divisor falls out. One of zeros stays.
fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let square: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let length = square.sqrt();
    if length > 0.0 && length.is_finite() {
        for value in &mut vector {
            #[expect(clippy::cast_possible_truncation, reason = "a part of a vector of length 1")]
            let part = (f64::from(*value) / length) as f32;
            *value = part;
        }
    }
    vector
}
