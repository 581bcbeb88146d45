//! The model in this process as a route: a chat request becomes a job, its tokens become events.

use super::{Fault, FaultKind};
use crate::{
    config::LocalConfig,
    ledger::ModelFile,
    wire::{self, BadRequest, ChatRequest, Delta, DeltaKind, Event, FinishReason},
};
use local_engine::{
    Engine, EngineState, Finish, Generation, HostedModel, Job, JobEvent, JobUsage, LoadError,
    LoadWhen, ModelState, NotLoaded, PromptError, Scheduling, SubmitError,
};
use policies::{RouteState, Usage, UsageSource, WorstCase};
use std::time::Duration;

/// Bodies up to this size are tokenised on the request's own thread (mostly well under a
/// millisecond); longer ones on a blocking thread, so that they do not hold up others.
const TOKENIZE_INLINE_BYTES_MAX: usize = 4 * 1024;
/// Prompt tokens the engine reads in the time of about one generated token: what expected engine
/// time is computed with when a route is compared with others by price.
const PREFILL_PER_DECODE: u32 = 2;

/// A model the engine keeps, and how it is asked.
#[derive(Debug)]
pub struct LocalRoute {
    model: HostedModel,
    config: LocalConfig,
}

/// A request turned into the engine's terms.
#[derive(Debug)]
pub struct LocalJob {
    /// The model the prompt was tokenised for: another file may have the name by now.
    engine: Engine,
    job: Job,
    one_step: Duration,
}

/// The engine's answer.
#[derive(Debug)]
pub struct LocalAnswer {
    generation: Generation,
    /// The answer's end, once its choice has finished.
    end: Option<Event>,
    ended: bool,
}

// === impl LocalRoute ===

impl LocalRoute {
    /// A route over a kept model.
    #[must_use]
    pub fn new(model: HostedModel, config: LocalConfig) -> Self {
        Self { model, config }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &HostedModel {
        &self.model
    }

    /// Loads the model, if it is to be there from the start. Blocks.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn load_at_start(&self) -> Result<(), LoadError> {
        match self.config.keep.load {
            LoadWhen::Start => self.model.load_blocking(),
            LoadWhen::FirstUse => Ok(()),
        }
    }

    /// Most tokens one job may have, once a model has been loaded.
    #[must_use]
    pub fn context_tokens(&self) -> Option<u64> {
        self.model.loaded().map(|engine| u64::from(engine.info().context_tokens))
    }

    /// Renders and tokenises the conversation and settles the output cap: never above what the
    /// context leaves, and never below what the caller asked for unless the context forces it.
    ///
    /// # Errors
    /// [`FaultKind::Unfit`] when the engine cannot do what is asked or the prompt is too long,
    /// [`FaultKind::Busy`] and [`FaultKind::Engine`] when the model is not there.
    pub async fn prepare(&self, request: &ChatRequest, output_cap: u64) -> Result<LocalJob, Fault> {
        let ask = wire::local_ask(request).map_err(unfit)?;
        let engine = self.model.engine().await.map_err(|error| not_loaded(&error))?;
        let prompt = if request.body.len() <= TOKENIZE_INLINE_BYTES_MAX {
            engine.tokenize_chat(&ask.messages)
        } else {
            let engine = engine.clone();
            let messages = ask.messages;
            tokio::task::spawn_blocking(move || engine.tokenize_chat(&messages))
                .await
                .map_err(|died| Fault::new(FaultKind::Engine, died.to_string()))?
        }
        .map_err(|error| prompt_fault(&error))?;
        let context = engine.info().context_tokens;
        let room = usize::try_from(context).unwrap_or(usize::MAX).saturating_sub(prompt.len());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if room == 0 {
            return Err(unfit(too_long(prompt.len(), context)));
        }
        let max_tokens = u32::try_from(output_cap).unwrap_or(u32::MAX).min(room);
        let engine_time_max = self.engine_time_max(prompt.len() as u64, u64::from(max_tokens));
        // The engine looks at the clock between steps: a job can go over by its part of one.
        let one_step = self.engine_time_max(u64::from(self.config.prefill_chunk), 1);
        Ok(LocalJob {
            engine,
            one_step,
            job: Job {
                prompt,
                max_tokens,
                stop: ask.stop,
                sampling: ask.sampling,
                engine_time_max,
                scheduling: Scheduling::default(),
            },
        })
    }

    /// Hands the job to the scheduler.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when the queue is full, [`FaultKind::Engine`] when the engine is down.
    pub fn start(job: LocalJob) -> Result<LocalAnswer, Fault> {
        match job.engine.submit(job.job) {
            Ok(generation) => Ok(LocalAnswer { generation, end: None, ended: false }),
            Err(SubmitError::QueueFull { .. }) => {
                Err(Fault::new(FaultKind::Busy, "the engine's queue is full"))
            }
            Err(SubmitError::ContextOverflow { prompt_tokens, context_tokens, .. }) => {
                Err(unfit(too_long(prompt_tokens as usize, context_tokens)))
            }
            Err(error) => Err(Fault::new(FaultKind::Engine, error.to_string())),
        }
    }

    /// The bound of a job's engine time, which the engine enforces.
    #[must_use]
    pub fn engine_time_max(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        times(self.config.prefill_per_token_max, prompt_tokens)
            .saturating_add(times(self.config.decode_per_token_max, output_tokens))
    }

    /// Engine time of a usual job, from what the engine has done so far; its configured maximum
    /// before it has done anything.
    #[must_use]
    pub fn engine_time_expected(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        let Some(status) = self.model.loaded().map(|engine| engine.status()) else {
            return self.engine_time_max(prompt_tokens, output_tokens);
        };
        let weight = |prompt: u64, output: u64| prompt / u64::from(PREFILL_PER_DECODE) + output;
        let done = weight(status.prefill_tokens, status.decode_tokens);
        match done {
            0 => self.engine_time_max(prompt_tokens, output_tokens),
            done => {
                let per_weight = status.busy.as_nanos() / u128::from(done);
                let nanos = per_weight * u128::from(weight(prompt_tokens, output_tokens));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }

    /// Whether it can take a job now. A model that will be loaded by the next request can.
    #[must_use]
    pub fn state(&self) -> RouteState {
        if !self.model.is_available() {
            return RouteState::Unavailable;
        }
        let full = match self.model.loaded().map(|engine| engine.status()) {
            None => self.model.waiting() >= self.config.keep.load_waiting_max,
            Some(status) if status.state == EngineState::Running => {
                status.queued as usize >= self.config.queue_max
            }
            Some(_) => return RouteState::Unavailable,
        };
        if full { RouteState::Busy } else { RouteState::Ready }
    }

    /// The model and the engine as `/ready` and the admin API tell them.
    #[must_use]
    pub fn report(&self) -> serde_json::Value {
        let counts = self.model.counts();
        let mut report = serde_json::json!({
            "state": state_name(&self.model.state()),
            "file": self.model.file().file_name().map(|name| name.to_string_lossy().into_owned()),
            "loads": counts.loads,
            "unloads": counts.unloads,
            "faults": counts.faults,
            "failed_loads": counts.failed_loads,
            "waiting_for_load": self.model.waiting(),
        });
        if let ModelState::Failed { reason, retry_in } = self.model.state() {
            report["reason"] = reason.into();
            report["retry_ms"] = millis(retry_in).into();
        }
        if let Some(engine) = self.model.loaded() {
            loaded_report(&mut report, &engine);
        }
        report
    }

    /// Jobs waiting for a slot, and requests waiting for the model.
    #[must_use]
    pub fn queued(&self) -> u32 {
        let queued = self.model.loaded().map_or(0, |engine| engine.status().queued);
        queued.saturating_add(u32::try_from(self.model.waiting()).unwrap_or(u32::MAX))
    }
}

// === impl LocalJob ===

impl LocalJob {
    /// The file behind the answer, for the ledger; `None` if it can no longer be read.
    #[must_use]
    pub fn model_file(&self) -> Option<ModelFile> {
        let info = self.engine.info();
        Some(ModelFile {
            sha256: self.engine.sha256()?.to_owned(),
            quantisation: info.quantisation.clone(),
            template_hash: info.template_sha256.clone().unwrap_or_default(),
        })
    }

    /// Says whose job it is and how urgent.
    pub fn schedule(&mut self, scheduling: Scheduling) {
        self.job.scheduling = scheduling;
    }

    /// The bounds of this job; the prompt's tokens are exact.
    #[must_use]
    pub fn bounds(&self) -> WorstCase {
        WorstCase {
            prompt_tokens: self.job.prompt.len() as u64,
            output_tokens: u64::from(self.job.max_tokens),
            choices: 1,
            engine_time: self.job.engine_time_max.saturating_add(self.one_step),
        }
    }
}

// === impl LocalAnswer ===

impl LocalAnswer {
    /// What the job has taken so far, and its engine time in nanoseconds: what it is charged when
    /// it is dropped now.
    #[must_use]
    pub fn metered(&self) -> (Usage, u64) {
        metered(&self.generation.usage())
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        if let Some(end) = self.end.take() {
            self.ended = true;
            return Some(Ok(end));
        }
        if self.ended {
            return None;
        }
        loop {
            let event = match self.generation.next().await {
                Some(JobEvent::Started { .. }) => continue,
                Some(JobEvent::Text { text, tokens }) => {
                    Ok(Event::Delta(Delta { tokens, ..Delta::new(0, DeltaKind::Text(text)) }))
                }
                Some(JobEvent::Finished { finish, usage }) => {
                    self.end = Some(end(&usage));
                    Ok(Event::Delta(Delta::new(0, DeltaKind::Finish(finish_reason(finish)))))
                }
                Some(JobEvent::Expired { queued }) => {
                    let detail = format!("waited {} ms for a slot", queued.as_millis());
                    Err(Fault::new(FaultKind::Busy, detail))
                }
                Some(JobEvent::Failed { reason, .. }) => Err(Fault::new(FaultKind::Engine, reason)),
                None => Err(Fault::new(FaultKind::Engine, "the engine stopped in the middle")),
            };
            self.ended = event.is_err();
            return Some(event);
        }
    }
}

fn finish_reason(finish: Finish) -> FinishReason {
    match finish {
        Finish::Stop => FinishReason::Stop,
        Finish::Length | Finish::EngineTime => FinishReason::Length,
    }
}

fn end(usage: &JobUsage) -> Event {
    let (usage, engine_ns) = metered(usage);
    Event::End { usage, source: UsageSource::Counted, engine_ns: Some(engine_ns) }
}

fn metered(usage: &JobUsage) -> (Usage, u64) {
    let engine_time = usage.prefill_time.saturating_add(usage.decode_time);
    let buckets = Usage {
        input: u64::from(usage.prompt_tokens.saturating_sub(usage.cached_tokens)),
        cache_read: u64::from(usage.cached_tokens),
        output: u64::from(usage.generated_tokens),
        ..Usage::default()
    };
    (buckets, u64::try_from(engine_time.as_nanos()).unwrap_or(u64::MAX))
}

/// A model that is not there: full and slow are the load's, the rest is the engine's fault.
fn not_loaded(error: &NotLoaded) -> Fault {
    let kind = match error {
        NotLoaded::TooManyWait | NotLoaded::Timeout { .. } => FaultKind::Busy,
        NotLoaded::Failed { .. } | NotLoaded::Unloaded | NotLoaded::Stopped => FaultKind::Engine,
    };
    Fault::new(kind, error.to_string())
}

/// A model's state as it is told.
fn state_name(state: &ModelState) -> &'static str {
    match state {
        ModelState::Unloaded { .. } => "unloaded",
        ModelState::Loading { .. } => "loading",
        ModelState::Loaded => "loaded",
        ModelState::Failed { .. } => "failed",
        ModelState::Stopped => "stopped",
    }
}

/// What is known about a model while it is loaded.
fn loaded_report(report: &mut serde_json::Value, engine: &Engine) {
    let (info, status) = (engine.info(), engine.status());
    report["model"] = info.name.as_str().into();
    report["sha256"] = engine.sha256().into();
    report["quantisation"] = info.quantisation.as_str().into();
    report["template_sha256"] = info.template_sha256.as_deref().into();
    report["backend"] = info.backend().into();
    report["devices"] = info.devices.iter().map(|device| device.name.as_str()).collect();
    report["layers"] = info.layers.into();
    report["layers_offloaded"] = info.layers_offloaded.into();
    report["context_tokens"] = info.context_tokens.into();
    report["slots_running"] = status.running.into();
    report["queued"] = status.queued.into();
    report["kv_used"] = status.kv_used.into();
    report["kv_total"] = status.kv_total.into();
    report["heartbeat_age_ms"] = millis(status.heartbeat_age).into();
    report["load_ms"] = millis(info.load_time).into();
    report["isolation"] = if engine.process().is_some() { "process" } else { "in_process" }.into();
    report["process"] = engine.process().into();
    report["memory_bytes"] = info.memory_bytes.into();
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn times(each: Duration, count: u64) -> Duration {
    let nanos = each.as_nanos().saturating_mul(u128::from(count));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn unfit(bad: BadRequest) -> Fault {
    let detail = bad.code;
    Fault::new(FaultKind::Unfit(bad), detail)
}

fn too_long(prompt_tokens: usize, context_tokens: u32) -> BadRequest {
    BadRequest {
        param: Some("messages".to_owned()),
        message: format!(
            "this model's context holds {context_tokens} tokens and the prompt alone has \
             {prompt_tokens}; shorten the conversation"
        ),
        code: "context_length_exceeded",
    }
}

fn prompt_fault(error: &PromptError) -> Fault {
    unfit(BadRequest {
        param: Some("messages".to_owned()),
        message: error.to_string(),
        code: "invalid_value",
    })
}
