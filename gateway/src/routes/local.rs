//! The model in this process as a route: a chat request becomes a job, its tokens become events.

mod answer;

pub use answer::LocalAnswer;

use answer::Calls;

use super::{Fault, FaultKind};
use crate::{
    config::LocalConfig,
    wire::{self, BadRequest, ChatRequest},
};
use local_engine::{
    Chat, ConstraintError, Engine, EngineState, Job, PromptError, Scheduling, SubmitError,
};
use policies::{RouteState, WorstCase};
use std::time::Duration;

/// Bodies up to this size are tokenised on the request's own thread (mostly well under a
/// millisecond); longer ones on a blocking thread, so that they do not hold up others.
const TOKENIZE_INLINE_BYTES_MAX: usize = 4 * 1024;
/// Prompt tokens the engine reads in the time of about one generated token: what expected engine
/// time is computed with when a route is compared with others by price.
const PREFILL_PER_DECODE: u32 = 2;
/// A bias under which a token never comes while there is another.
const NEVER_BIAS: f32 = -100.0;

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
    choices: u32,
    calls: Option<Calls>,
    one_step: Duration,
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
        let chat = Chat { messages: ask.messages, tools: ask.tools, continued: ask.continued };
        let calls = chat.tools.is_some().then(|| self.engine.tool_format()).flatten();
        let tools_param = if ask.legacy_functions { "functions" } else { "tools" };
        let rule = ask.rule;
        let plain = rule.is_none() && calls.is_none();
        let make = move |engine: &Engine| {
            let prompt = engine.tokenize(&chat).map_err(|error| prompt_fault(&error))?;
            let constraint = match (&chat.tools, &rule) {
                (Some(tools), _) => {
                    engine.constrain_calls(tools).map_err(|error| rule_fault(tools_param, &error))
                }
                (None, Some((param, rule))) => {
                    engine.constrain(rule).map_err(|error| rule_fault(param, &error))
                }
                (None, None) => return Ok((prompt, None)),
            };
            constraint.map(|constraint| (prompt, Some(constraint)))
        };
        let (prompt, constraint) = if plain && request.body.len() <= TOKENIZE_INLINE_BYTES_MAX {
            make(&self.engine)?
        } else {
            let engine = self.engine.clone();
            let made = tokio::task::spawn_blocking(move || make(&engine)).await;
            made.map_err(|died| Fault::new(FaultKind::Engine, died.to_string()))??
        };
        let mut sampling = ask.sampling;
        if ask.ignore_end {
            let ends = self.engine.info().end_tokens.iter();
            sampling.logit_bias.extend(ends.map(|token| (*token, NEVER_BIAS)));
        }
        let max_tokens = self.room(prompt.len(), output_cap)?;
        let engine_time_max = self.engine_time_max(prompt.len() as u64, u64::from(max_tokens));
        // The engine looks at the clock between steps: a job can go over by its part of one.
        let one_step = self.engine_time_max(u64::from(self.config.prefill_chunk), 1);
        Ok(LocalJob {
            one_step,
            choices: ask.choices,
            calls: calls.map(|format| Calls { format, legacy: ask.legacy_functions }),
            job: Job {
                prompt,
                max_tokens,
                stop: ask.stop,
                sampling,
                constraint,
                logprobs: ask.logprobs,
                engine_time_max,
                scheduling: Scheduling::default(),
            },
        })
    }

    /// The tokens an answer may have: the cap, or what the context leaves.
    fn room(&self, prompt_tokens: usize, output_cap: u64) -> Result<u32, Fault> {
        let context = self.engine.info().context_tokens;
        let room = usize::try_from(context).unwrap_or(usize::MAX).saturating_sub(prompt_tokens);
        match u32::try_from(room).unwrap_or(u32::MAX) {
            0 => Err(unfit(too_long(prompt_tokens, context))),
            room => Ok(u32::try_from(output_cap).unwrap_or(u32::MAX).min(room)),
        }
    }

    /// Hands the job to the scheduler.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when the queue is full, [`FaultKind::Unfit`] when the engine cannot do
    /// what is asked, [`FaultKind::Engine`] when the engine is down.
    pub fn start(&self, job: LocalJob) -> Result<LocalAnswer, Fault> {
        let stops = job.job.stop.clone();
        let submitted = match job.choices {
            1 => self.engine.submit(job.job).map(|generation| vec![generation]),
            choices => self.engine.submit_choices(&job.job, choices),
        };
        match submitted {
            Ok(generations) => Ok(LocalAnswer::new(generations, stops, job.calls)),
            Err(SubmitError::QueueFull { .. }) => {
                Err(Fault::new(FaultKind::Busy, "the engine's queue is full"))
            }
            Err(SubmitError::ContextOverflow { prompt_tokens, context_tokens, .. }) => {
                Err(unfit(too_long(prompt_tokens as usize, context_tokens)))
            }
            Err(SubmitError::Invalid { parameter, reason }) => {
                Err(unfit(BadRequest::value(parameter, format!("`{parameter}` {reason}"))))
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
            choices: u64::from(self.choices),
            engine_time: self
                .job
                .engine_time_max
                .saturating_add(self.one_step)
                .saturating_mul(self.choices),
        }
    }
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

/// A rule that is not taken is the caller's fault, and never left out.
fn rule_fault(param: &'static str, error: &ConstraintError) -> Fault {
    match error {
        ConstraintError::Busy => Fault::new(FaultKind::Busy, error.to_string()),
        ConstraintError::Refused(_) | ConstraintError::TooDear => {
            let message = format!("`{param}` cannot be enforced by the local model: {error}");
            unfit(BadRequest::unsupported(param, message))
        }
    }
}
