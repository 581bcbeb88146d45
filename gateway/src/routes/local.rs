//! The model in this process as a route: a chat request becomes a job, its tokens become events.

use super::{Fault, FaultKind};
use crate::{
    config::LocalConfig,
    wire::{self, BadRequest, ChatRequest, Delta, DeltaKind, Event, FinishReason},
};
use local_engine::{
    Engine, EngineState, Finish, Generation, Job, JobEvent, JobUsage, PromptError, Scheduling,
    SubmitError,
};
use policies::{RouteState, Usage, UsageSource, WorstCase};
use std::time::Duration;

/// Bodies up to this size are tokenised on the request's own thread (mostly well under a
/// millisecond); longer ones on a blocking thread, so that they do not hold up others.
const TOKENIZE_INLINE_BYTES_MAX: usize = 4 * 1024;
/// Prompt tokens the engine reads in the time of about one generated token: what expected engine
/// time is computed with when a route is compared with others by price.
const PREFILL_PER_DECODE: u32 = 2;

/// A loaded model and how it is asked.
#[derive(Debug)]
pub struct LocalRoute {
    engine: Engine,
    config: LocalConfig,
}

/// A request turned into the engine's terms.
#[derive(Debug)]
pub struct LocalJob {
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
    /// A route over a loaded engine.
    #[must_use]
    pub fn new(engine: Engine, config: LocalConfig) -> Self {
        Self { engine, config }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Renders and tokenises the conversation and settles the output cap: never above what the
    /// context leaves, and never below what the caller asked for unless the context forces it.
    ///
    /// # Errors
    /// [`FaultKind::Unfit`] when the engine cannot do what is asked or the prompt is too long.
    pub async fn prepare(&self, request: &ChatRequest, output_cap: u64) -> Result<LocalJob, Fault> {
        let ask = wire::local_ask(request).map_err(unfit)?;
        let prompt = if request.body.len() <= TOKENIZE_INLINE_BYTES_MAX {
            self.engine.tokenize_chat(&ask.messages)
        } else {
            let engine = self.engine.clone();
            let messages = ask.messages;
            tokio::task::spawn_blocking(move || engine.tokenize_chat(&messages))
                .await
                .map_err(|died| Fault::new(FaultKind::Engine, died.to_string()))?
        }
        .map_err(|error| prompt_fault(&error))?;
        let context = self.engine.info().context_tokens;
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
    pub fn start(&self, job: LocalJob) -> Result<LocalAnswer, Fault> {
        match self.engine.submit(job.job) {
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
        let status = self.engine.status();
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

    /// Whether it can take a job now.
    #[must_use]
    pub fn state(&self) -> RouteState {
        let status = self.engine.status();
        match status.state {
            EngineState::Running if status.queued as usize >= self.config.queue_max => {
                RouteState::Busy
            }
            EngineState::Running => RouteState::Ready,
            EngineState::Draining | EngineState::Stopped | EngineState::Failed { .. } => {
                RouteState::Unavailable
            }
        }
    }

    /// The model and the engine as `/ready` tells them.
    #[must_use]
    pub fn report(&self) -> serde_json::Value {
        let (info, status) = (self.engine.info(), self.engine.status());
        serde_json::json!({
            "model": info.name,
            "file": info.file.file_name().map(|name| name.to_string_lossy()),
            "sha256": self.engine.sha256(),
            "quantisation": info.quantisation,
            "backend": info.backend(),
            "devices": info.devices.iter().map(|device| &device.name).collect::<Vec<_>>(),
            "layers": info.layers,
            "layers_offloaded": info.layers_offloaded,
            "context_tokens": info.context_tokens,
            "slots_running": status.running,
            "queued": status.queued,
            "kv_used": status.kv_used,
            "kv_total": status.kv_total,
            "heartbeat_age_ms": u64::try_from(status.heartbeat_age.as_millis()).unwrap_or(u64::MAX),
            "load_ms": u64::try_from(info.load_time.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Jobs waiting for a slot.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.engine.status().queued
    }
}

// === impl LocalJob ===

impl LocalJob {
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
