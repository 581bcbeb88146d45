//! Embeddings: texts in, one vector of length 1 for each.
//!
//! They are computed on the scheduler's thread, in a context of their own that is made for the first
//! of them, one chunk a turn, so that a long text stalls nobody's tokens for longer than a prompt's
//! chunk does. Time is attributed as for any job.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    device::{Device, Fault},
    error::SubmitError,
    job::JobUsage,
    meter::Meter,
    scheduler::Scheduler,
    shared::Shared,
    status::nanoseconds,
};

/// Most texts of one job.
pub const EMBED_INPUTS_MAX: usize = 2_048;

/// How a text's token vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    First,
    /// The last one.
    Last,
}

/// Texts to be embedded.
#[derive(Clone, Debug)]
pub struct EmbedJob {
    /// Their tokens, from [`crate::Engine::tokenize_raw`]: each at least one, and no more than
    /// [`crate::Engine::embed_tokens_max`].
    pub inputs: Vec<Vec<i32>>,
    /// How token vectors are pooled; `None` is what the model's file says, or the mean.
    pub pooling: Option<Pooling>,
    /// Attributed engine time after which the job fails: the bound a reservation was computed from.
    pub engine_time_max: Duration,
}

/// Vectors that are being computed. Dropping it cancels the job before its next chunk.
#[derive(Debug)]
pub struct Embedding {
    vectors: oneshot::Receiver<Result<Vec<Vec<f32>>, EmbedError>>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
}

/// Why there are no vectors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The engine ended.
    #[error("the engine ended")]
    Ended,
}

/// A job in the queue or under way.
#[derive(Debug)]
struct Reading {
    job: EmbedJob,
    done: Vec<Vec<f32>>,
    /// Tokens of the current text that were read, and what their vectors made so far.
    read: usize,
    pooled: Vec<f32>,
    submitted: Instant,
    /// Counts it as open until it has ended.
    _open: Arc<()>,
    meter: Arc<Meter>,
    told: oneshot::Sender<Result<Vec<Vec<f32>>, EmbedError>>,
}

/// The embedding jobs that wait, oldest first; the first may be under way.
#[derive(Debug)]
pub(crate) struct Embeds {
    jobs: Mutex<VecDeque<Reading>>,
    most: usize,
}

// === impl Embedding ===

impl Embedding {
    /// Waits for the vectors, one for each input in its order.
    ///
    /// # Errors
    /// They could not be computed.
    pub async fn vectors(&mut self) -> Result<Vec<Vec<f32>>, EmbedError> {
        (&mut self.vectors).await.unwrap_or(Err(EmbedError::Ended))
    }

    /// What the job has taken so far.
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.meter.usage()
    }
}

impl Drop for Embedding {
    fn drop(&mut self) {
        self.meter.cancelled.store(true, SeqCst);
        self.shared.wake();
    }
}

// === impl Embeds ===

impl Embeds {
    pub(crate) fn new(most: usize) -> Embeds {
        Embeds { jobs: Mutex::default(), most }
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Reading>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs().is_empty()
    }

    /// Gives them all up: whoever waits is told that the engine ended.
    pub(crate) fn clear(&self) {
        self.jobs().clear();
    }
}

/// Queues a checked job.
pub(crate) fn submit(
    shared: &Arc<Shared>,
    job: EmbedJob,
    now: Instant,
) -> Result<Embedding, SubmitError> {
    let mut jobs = shared.embeds.jobs();
    if jobs.len() >= shared.embeds.most {
        return Err(SubmitError::QueueFull { queued: jobs.len() });
    }
    let (told, vectors) = oneshot::channel();
    let meter = Arc::new(Meter::default());
    jobs.push_back(Reading {
        done: Vec::with_capacity(job.inputs.len()),
        job,
        read: 0,
        pooled: Vec::new(),
        submitted: now,
        _open: shared.open_job(),
        meter: Arc::clone(&meter),
        told,
    });
    drop(jobs);
    shared.wake();
    Ok(Embedding { vectors, meter, shared: Arc::clone(shared) })
}

// === impl Scheduler ===

impl<D: Device> Scheduler<D> {
    /// Reads one chunk of the oldest embedding job. False: there is none. An error means that the
    /// device is lost.
    pub(crate) fn embed(&mut self, now: Instant) -> Result<bool, String> {
        let next = self.shared.embeds.jobs().pop_front();
        let Some(mut reading) = next else { return Ok(false) };
        if reading.meter.cancelled.load(SeqCst) {
            return Ok(true);
        }
        let waited = now.saturating_duration_since(reading.submitted);
        if reading.is_new() && waited >= self.queue_wait_max {
            let _ = reading.told.send(Err(EmbedError::Expired(waited)));
            return Ok(true);
        }
        let ready = self.device.ready_to_embed();
        let started = Instant::now();
        let read = ready.and_then(|()| reading.chunk(&mut self.device, self.prefill_chunk));
        let spent = nanoseconds(started.elapsed());
        reading.meter.spend_prefill(spent);
        let gauges = &self.shared.gauges;
        gauges.busy_ns.fetch_add(spent, Relaxed);
        gauges.attributed_ns.fetch_add(spent, Relaxed);
        let ended = match read {
            Ok(tokens) => {
                gauges.prefill_tokens.fetch_add(tokens, Relaxed);
                if reading.done.len() == reading.job.inputs.len() {
                    Some(Ok(std::mem::take(&mut reading.done)))
                } else if reading.meter.spent() >= reading.job.engine_time_max {
                    Some(Err(EmbedError::EngineTime))
                } else {
                    None
                }
            }
            Err(Fault::Full) => Some(Err(EmbedError::Unable("the text is too long".to_owned()))),
            Err(Fault::Sequence(reason)) => Some(Err(EmbedError::Unable(reason))),
            Err(Fault::Broken(reason)) => return Err(reason),
        };
        match ended {
            // Nobody may wait any more: it is all the same.
            Some(end) => drop(reading.told.send(end)),
            None => self.shared.embeds.jobs().push_front(reading),
        }
        Ok(true)
    }
}

impl Reading {
    fn is_new(&self) -> bool {
        self.read == 0 && self.done.is_empty()
    }

    /// Reads at most `most` tokens of the current text, and finishes it if they are its last.
    fn chunk<D: Device>(&mut self, device: &mut D, most: usize) -> Result<u64, Fault> {
        let Some(input) = self.job.inputs.get(self.done.len()) else { return Ok(0) };
        let most = if device.embeds_whole() { usize::MAX } else { most.max(1) };
        let end = self.read.saturating_add(most).min(input.len());
        let (from, last) = (self.read, input.len().saturating_sub(1));
        let pooling = self.job.pooling.unwrap_or_else(|| device.pooling());
        let pooled = &mut self.pooled;
        device.embed(&input[from..end], from, &mut |offset, vector| {
            let at = from + offset;
            match pooling {
                Pooling::First if at > 0 => {}
                Pooling::Last if at < last => {}
                Pooling::Mean if at > 0 => {
                    for (sum, value) in pooled.iter_mut().zip(vector) {
                        *sum += value;
                    }
                }
                Pooling::First | Pooling::Last | Pooling::Mean => *pooled = vector.to_vec(),
            }
        })?;
        self.read = end;
        let tokens = end - from;
        if end == input.len() {
            self.done.push(normalised(std::mem::take(&mut self.pooled)));
            self.read = 0;
        }
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.meter.read(tokens);
        Ok(u64::from(tokens))
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
