//! Embeddings: texts in, one vector of length 1 for each.
//!
//! They are computed on the scheduler's thread, in a context of their own that is made for the first
//! of them, one chunk a turn, so that a long text stalls nobody's tokens for longer than a prompt's
//! chunk does: where prompts are read too, each gets half of what a step may read. Between texts the
//! caller who has had least comes next. Time is attributed as for any job.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    device::{Device, Fault},
    error::SubmitError,
    job::{JobUsage, Scheduling},
    meter::Meter,
    scheduler::Scheduler,
    sequence::Sequence,
    shared::Shared,
    status::nanoseconds,
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
    /// Their tokens, from [`crate::Engine::tokenize_raw`]: each at least one, and no more than
    /// [`crate::Engine::embed_tokens_max`].
    pub inputs: Vec<Vec<i32>>,
    /// How token vectors are pooled; `None` is as the engine is configured, else what the model's file
    /// says, else the mean.
    pub pooling: Option<Pooling>,
    /// Attributed engine time after which the job fails: the bound a reservation was computed from.
    pub engine_time_max: Duration,
    /// Whose job it is and how urgent.
    pub scheduling: Scheduling,
}

/// Vectors that are being computed. Dropping it cancels the job before its next chunk.
#[derive(Debug)]
pub struct Embedding {
    vectors: oneshot::Receiver<Result<Vec<Vec<f32>>, EmbedError>>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
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
    /// Counts it as open until it has ended.
    _open: Arc<()>,
    pub(crate) meter: Arc<Meter>,
    told: oneshot::Sender<Vectors>,
}

/// The embedding jobs that wait; one may be under way.
#[derive(Debug)]
pub(crate) struct Embeds {
    line: Mutex<Line>,
    most: usize,
}

/// The jobs in the order they came, and the tokens that each waiting caller has had.
#[derive(Debug, Default)]
struct Line {
    jobs: Vec<Reading>,
    served: BTreeMap<u64, u64>,
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
        Embeds { line: Mutex::default(), most }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line().jobs.is_empty()
    }

    /// Gives them all up: whoever waits is told that the engine ended.
    pub(crate) fn clear(&self) {
        *self.line() = Line::default();
    }

    /// Takes out the job whose turn it is, to be computed elsewhere.
    pub(crate) fn take(&self) -> Option<Reading> {
        let mut line = self.line();
        let reading = line.next()?;
        line.done(reading.job.scheduling.caller, 0);
        Some(reading)
    }
}

impl Line {
    fn push(&mut self, reading: Reading) {
        // A newcomer has had what the others have had least: it waits for nobody's past.
        let least = self.served.values().copied().min().unwrap_or(0);
        self.served.entry(reading.job.scheduling.caller).or_insert(least);
        self.jobs.push(reading);
    }

    /// The job in the middle of a text, else the most urgent one of the caller who has had least.
    fn next(&mut self) -> Option<Reading> {
        let rank = |reading: &Reading| {
            let Scheduling { caller, priority, .. } = reading.job.scheduling;
            (reading.read == 0, priority, self.served.get(&caller).copied(), reading.submitted)
        };
        let jobs = self.jobs.iter().enumerate();
        let (at, _) = jobs.min_by_key(|(_, reading)| rank(reading))?;
        Some(self.jobs.remove(at))
    }

    /// Puts a job back that is not done, so many tokens further on.
    fn put_back(&mut self, reading: Reading, tokens: u64) {
        self.charge(reading.job.scheduling.caller, tokens);
        self.jobs.push(reading);
    }

    /// A caller's job is done: who does not wait saves nothing up.
    fn done(&mut self, caller: u64, tokens: u64) {
        self.charge(caller, tokens);
        if self.jobs.iter().all(|other| other.job.scheduling.caller != caller) {
            self.served.remove(&caller);
        }
    }

    fn charge(&mut self, caller: u64, tokens: u64) {
        if let Some(served) = self.served.get_mut(&caller) {
            *served = served.saturating_add(tokens);
        }
    }
}

/// Queues a checked job.
pub(crate) fn submit(
    shared: &Arc<Shared>,
    job: EmbedJob,
    now: Instant,
) -> Result<Embedding, SubmitError> {
    let mut line = shared.embeds.line();
    let queued = line.jobs.len();
    if queued >= shared.embeds.most {
        return Err(SubmitError::QueueFull { queued });
    }
    let (told, vectors) = oneshot::channel();
    let meter = Arc::new(Meter::default());
    line.push(Reading {
        done: Vec::with_capacity(job.inputs.len()),
        job,
        read: 0,
        pooled: Vec::new(),
        submitted: now,
        _open: shared.open_job(),
        meter: Arc::clone(&meter),
        told,
    });
    drop(line);
    shared.wake();
    Ok(Embedding { vectors, meter, shared: Arc::clone(shared) })
}

// === impl Scheduler ===

impl<D: Device> Scheduler<D> {
    /// Reads one chunk of the embedding job whose turn it is. False: there is none. An error means that
    /// the device is lost.
    pub(crate) fn embed(&mut self, now: Instant) -> Result<bool, String> {
        self.embedded = 0;
        let next = self.shared.embeds.line().next();
        let Some(mut reading) = next else { return Ok(false) };
        let Scheduling { caller, queue_wait_max, .. } = reading.job.scheduling;
        if reading.meter.cancelled.load(SeqCst) {
            self.shared.embeds.line().done(caller, 0);
            return Ok(true);
        }
        let waited = now.saturating_duration_since(reading.submitted);
        let wait_max = queue_wait_max.unwrap_or(Duration::MAX).min(self.queue_wait_max);
        if reading.is_new() && waited >= wait_max {
            self.shared.embeds.line().done(caller, 0);
            reading.tell(Err(EmbedError::Expired(waited)));
            return Ok(true);
        }
        let chunk = self.embed_bound();
        let ready = self.device.ready_to_embed();
        let started = Instant::now();
        let read = ready.and_then(|()| reading.chunk(&mut self.device, chunk));
        let spent = nanoseconds(started.elapsed());
        reading.meter.spend_prefill(spent);
        let gauges = &self.shared.gauges;
        gauges.busy_ns.fetch_add(spent, Relaxed);
        gauges.attributed_ns.fetch_add(spent, Relaxed);
        let tokens = *read.as_ref().unwrap_or(&0);
        self.embedded = usize::try_from(tokens).unwrap_or(usize::MAX);
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
            Some(end) => {
                self.shared.embeds.line().done(caller, tokens);
                reading.tell(end);
            }
            None => self.shared.embeds.line().put_back(reading, tokens),
        }
        Ok(true)
    }

    /// Tokens of a text that a turn may read: as many as of a prompt, half where there are prompts.
    fn embed_bound(&self) -> usize {
        let bound = self.prefill_bound(self.running().count()).min(self.prefill_chunk);
        let reads = |(at, job): (usize, &Sequence<D::Sampler>)| self.read(at) < job.to_read();
        if self.running().any(reads) { bound.div_ceil(2) } else { bound }
    }
}

impl Reading {
    /// Says what has become of it. Nobody may wait any more: it is all the same.
    pub(crate) fn tell(self, vectors: Vectors) {
        drop(self.told.send(vectors));
    }

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
