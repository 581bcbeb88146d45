//! A request turned into the engine's terms: prompts tokenised, caps settled, rules compiled, and
//! the bounds that a reservation is computed from.
//!
//! `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings` all come through
//! [`LocalRoute::prepare`] and [`LocalRoute::start`], told apart by `ChatRequest::ask`; an answer to
//! texts continued numbers its choices text by text, and one to texts embedded is one
//! `Event::Vectors`.

use super::{
    Fault, FaultKind, LocalRoute,
    answer::{Asked, Calls, LocalAnswer},
    growth::Growth,
    not_loaded,
    prompts::{all_tokens, is_little, prompt_fault, words},
    unfit,
    vectors::Vectors,
};
use crate::{
    ledger::{Extension, KeyId, ModelFile},
    makers::Wanted,
    wire::{self, Ask, BadRequest, ChatRequest, CompletionAsk, EmbeddingAsk},
};
use local_engine::{
    Chat, Constraint, ConstraintError, EmbedJob, Engine, Generation, Job, PromptError, Rule,
    Scheduling, SubmitError, Tools,
};
use policies::WorstCase;
use std::time::Duration;

/// A bias under which a token never comes while there is another.
const NEVER_BIAS: f32 = -100.0;

/// A request turned into the engine's terms.
#[derive(Debug)]
pub struct LocalJob {
    /// The model the prompt was tokenised for: another file may have the name by now.
    engine: Engine,
    work: Work,
    one_step: Duration,
    /// What sets more aside when the engine's time grows; `None`: nobody pays by time.
    extension: Option<Extension>,
}

#[derive(Debug)]
enum Work {
    /// A job for each prompt, each to be answered so many times.
    Answers {
        jobs: Vec<Job>,
        choices: u32,
        calls: Option<Calls>,
        /// Where a text ends for the caller.
        stops: Vec<String>,
        /// The parameter of what the answer must match.
        rule: Option<&'static str>,
        /// The parameter that the prompts come from.
        param: &'static str,
    },
    /// Texts to embed.
    Vectors(EmbedJob),
}

/// How every prompt of a request is answered.
struct Drawing {
    sampling: local_engine::Sampling,
    ignore_end: bool,
    stop: Vec<String>,
    logprobs: Option<u32>,
    constraint: Option<Constraint>,
}

/// A request, whose it is and the model that is asked.
#[derive(Clone, Copy)]
struct Of<'a> {
    engine: &'a Engine,
    key: Option<&'a KeyId>,
    request: &'a ChatRequest,
}

/// An answer's output cap in tokens.
#[derive(Clone, Copy)]
struct Cap {
    tokens: u64,
    /// Whether the caller named it: then it is a promise, and never lowered without a word.
    asked_for: bool,
}

impl Cap {
    fn of(request: &ChatRequest, tokens: u64) -> Self {
        Self { tokens, asked_for: request.output_cap_given }
    }
}

// === impl Work ===

impl Work {
    /// Tokens of its longest prompt or text.
    fn prompt_tokens_max(&self) -> u64 {
        let longest = match self {
            Work::Answers { jobs, .. } => jobs.iter().map(|job| job.prompt.len()).max(),
            Work::Vectors(job) => job.inputs.iter().map(Vec::len).max(),
        };
        longest.unwrap_or(0) as u64
    }
}

// === impl LocalRoute ===

impl LocalRoute {
    /// Tokenises what is asked, compiles its rules and settles the output cap: never above what the
    /// context leaves, and never below what the caller asked for unless the context forces it.
    ///
    /// # Errors
    /// [`FaultKind::Unfit`] when the engine cannot do what is asked or a prompt is too long,
    /// [`FaultKind::Busy`], [`FaultKind::Unloaded`] and [`FaultKind::Down`] when the model is not there.
    pub async fn prepare(
        &self,
        key: Option<&KeyId>,
        request: &ChatRequest,
        output_cap: u64,
    ) -> Result<LocalJob, Fault> {
        let engine = self.model().engine().await.map_err(|error| not_loaded(&error))?;
        let of = Of { engine: &engine, key, request };
        let work = match &request.ask {
            Ask::Chat => self.chat(of, output_cap).await?,
            Ask::Completion(asked) => self.completion(of, asked, output_cap).await?,
            Ask::Embedding(asked) => self.embedding(of, asked).await?,
        };
        // The engine looks at the clock between steps: a job can go over by its part of one.
        let part = u64::from(engine.info().prefill_chunk).min(work.prompt_tokens_max());
        let one_step = self.engine_time_max(part, 1);
        Ok(LocalJob { engine, work, one_step, extension: None })
    }

    /// The tokens of a conversation's prompt, also where the context does not hold them; `None` where
    /// it is so long that reading it would be too much work for a count.
    ///
    /// # Errors
    /// As [`LocalRoute::prepare`].
    pub async fn count(
        &self,
        key: Option<&KeyId>,
        request: &ChatRequest,
    ) -> Result<Option<u64>, Fault> {
        let engine = self.model().engine().await.map_err(|error| not_loaded(&error))?;
        let ask = wire::local_ask(request).map_err(unfit)?;
        let words = words(&engine, request.endpoint, ask.words)?;
        let (messages, tools, continued) = (ask.messages, ask.tools, ask.continued);
        let chat = Chat { messages, tools, continued, words };
        let count = move |wanted: &Wanted| {
            let tokens = engine.tokenize_while(&chat, &|| wanted.is_so());
            match tokens {
                Ok(tokens) => Ok(Some(tokens.len() as u64)),
                Err(PromptError::TooLong { .. }) => Ok(None),
                Err(error) => Err(prompt_fault("messages", &error)),
            }
        };
        self.prompts.make(key, is_little(request), count).await
    }

    async fn chat(&self, of: Of<'_>, output_cap: u64) -> Result<Work, Fault> {
        let Of { engine, key, request } = of;
        let ask = wire::local_ask(request).map_err(unfit)?;
        let words = words(engine, request.endpoint, ask.words)?;
        let (messages, tools, continued) = (ask.messages, ask.tools, ask.continued);
        let chat = Chat { messages, tools, continued, words };
        let calls = chat.tools.is_some().then(|| engine.tool_format()).flatten();
        let tools_param = if ask.legacy_functions { "functions" } else { "tools" };
        let rule = ask.rule;
        let rule_param = rule.as_ref().map(|(param, _)| *param);
        let rule_param = if chat.tools.is_some() { Some(tools_param) } else { rule_param };
        let tools = chat.tools.clone();
        let prompts_of = engine.clone();
        let make = move |wanted: &Wanted| {
            let tokens = prompts_of.tokenize_while(&chat, &|| wanted.is_so());
            tokens.map_err(|error| prompt_fault("messages", &error))
        };
        let prompt = self.prompts.make(key, is_little(request), make).await?;
        let constraint = match tools {
            Some(tools) => Some(self.calls_rule(of, tools, tools_param).await?),
            None => self.compiled(of, rule).await?,
        };
        let drawing = Drawing {
            sampling: wire::local_sampling(request, ask.sampling, &engine.info().sampling),
            ignore_end: ask.ignore_end,
            // Beside calls they are looked for in the text alone, by who tells it from calls.
            stop: if calls.is_some() { Vec::new() } else { ask.stop.clone() },
            logprobs: ask.logprobs,
            constraint,
        };
        let cap = Cap::of(request, output_cap);
        Ok(Work::Answers {
            jobs: vec![self.job(engine, &drawing, prompt, cap, "messages")?],
            choices: ask.choices,
            calls: calls.map(|format| Calls { format, legacy: ask.legacy_functions }),
            stops: ask.stop,
            rule: rule_param,
            param: "messages",
        })
    }

    async fn completion(
        &self,
        of: Of<'_>,
        asked: &CompletionAsk,
        output_cap: u64,
    ) -> Result<Work, Fault> {
        let Of { engine, key, request } = of;
        let ask = wire::local_completion(request, asked).map_err(unfit)?;
        let (prompts, rule) = (ask.prompts, ask.rule);
        let rule_param = rule.as_ref().map(|(param, _)| *param);
        let prompts_of = engine.clone();
        let make = move |wanted: &Wanted| {
            all_tokens(&prompts_of, "prompt", prompts, Engine::tokenize_raw, wanted)
        };
        let prompts = self.prompts.make(key, is_little(request), make).await?;
        let constraint = self.compiled(of, rule).await?;
        let drawing = Drawing {
            sampling: wire::local_sampling(request, ask.sampling, &engine.info().sampling),
            ignore_end: ask.ignore_end,
            stop: ask.stop.clone(),
            logprobs: ask.logprobs,
            constraint,
        };
        let (answers, most) = (prompts.len() * ask.choices as usize, engine.queue_max());
        // Another try would be refused too, however idle the engine is.
        if prompts.len() > 1 && answers > most {
            let message = format!("`prompt` asks for {answers} answers; this model takes {most}");
            return Err(unfit(BadRequest::value("prompt", message)));
        }
        let cap = Cap::of(request, output_cap);
        let job = |prompt| self.job(engine, &drawing, prompt, cap, "prompt");
        let jobs = prompts.into_iter().map(job).collect::<Result<Vec<_>, _>>()?;
        Ok(Work::Answers {
            jobs,
            choices: ask.choices,
            calls: None,
            stops: ask.stop,
            rule: rule_param,
            param: "prompt",
        })
    }

    async fn embedding(&self, of: Of<'_>, asked: &EmbeddingAsk) -> Result<Work, Fault> {
        let Of { engine, key, request } = of;
        let ask = wire::local_embedding(request, asked).map_err(unfit)?;
        let prompts_of = engine.clone();
        let make = move |wanted: &Wanted| {
            all_tokens(&prompts_of, "input", ask.texts, Engine::tokenize_text, wanted)
        };
        let inputs = self.prompts.make(key, is_little(request), make).await?;
        let most = engine.embed_tokens_max();
        if let Some(long) = inputs.iter().map(Vec::len).find(|tokens| *tokens > most as usize) {
            return Err(unfit(too_long("input", long, most)));
        }
        let prompt_tokens: usize = inputs.iter().map(Vec::len).sum();
        // Every text is a step of its own, however short.
        let engine_time_max = self.engine_time_max(prompt_tokens as u64, inputs.len() as u64);
        let scheduling = Scheduling::default();
        Ok(Work::Vectors(EmbedJob {
            inputs,
            pooling: ask.pooling,
            engine_time_max,
            engine_time_may_grow: true,
            scheduling,
        }))
    }

    /// What an answer must match, ready to be drawn by.
    async fn compiled(
        &self,
        of: Of<'_>,
        rule: Option<(&'static str, Rule)>,
    ) -> Result<Option<Constraint>, Fault> {
        let Some((param, rule)) = rule else { return Ok(None) };
        let engine = of.engine.clone();
        let compile =
            move |_: &Wanted| engine.constrain(&rule).map_err(|error| rule_fault(param, &error));
        self.rules.make(of.key, false, compile).await.map(Some)
    }

    /// What keeps an answer's calls well-formed.
    async fn calls_rule(
        &self,
        of: Of<'_>,
        tools: Tools,
        param: &'static str,
    ) -> Result<Constraint, Fault> {
        let engine = of.engine.clone();
        let compile = move |_: &Wanted| {
            engine.constrain_calls(&tools).map_err(|error| rule_fault(param, &error))
        };
        self.rules.make(of.key, false, compile).await
    }

    fn job(
        &self,
        engine: &Engine,
        drawing: &Drawing,
        prompt: Vec<i32>,
        cap: Cap,
        param: &'static str,
    ) -> Result<Job, Fault> {
        let context = engine.info().context_tokens;
        let room = usize::try_from(context).unwrap_or(usize::MAX).saturating_sub(prompt.len());
        if room == 0 {
            return Err(unfit(too_long(param, prompt.len(), context)));
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let wanted = u32::try_from(cap.tokens).unwrap_or(u32::MAX);
        if cap.asked_for && wanted > room {
            return Err(unfit(no_room(param, prompt.len(), cap.tokens, context)));
        }
        let max_tokens = wanted.min(room);
        let mut sampling = drawing.sampling.clone();
        if drawing.ignore_end {
            let ends = engine.info().end_tokens.iter();
            sampling.logit_bias.extend(ends.map(|token| (*token, NEVER_BIAS)));
        }
        Ok(Job {
            engine_time_max: self.engine_time_max(prompt.len() as u64, u64::from(max_tokens)),
            engine_time_may_grow: true,
            prompt,
            max_tokens,
            stop: drawing.stop.clone(),
            sampling,
            constraint: drawing.constraint.clone(),
            logprobs: drawing.logprobs,
            scheduling: Scheduling::default(),
        })
    }

    /// The bounds that a job made ready would have under a lower output cap.
    #[must_use]
    pub fn bounds_under(&self, job: &LocalJob, output_cap: u64) -> WorstCase {
        job.bounds_of(|job| {
            let tokens =
                u32::try_from(output_cap).map_or(job.max_tokens, |it| it.min(job.max_tokens));
            (tokens, self.engine_time_max(job.prompt.len() as u64, u64::from(tokens)))
        })
    }

    /// Hands the job to the scheduler.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when the queue is full, [`FaultKind::Unfit`] when the engine cannot do what
    /// is asked, [`FaultKind::Unloaded`] and [`FaultKind::Down`] when it has ended.
    pub fn start(job: LocalJob) -> Result<LocalAnswer, Fault> {
        let growth = Growth::new(job.extension.clone(), job.bounds().engine_time);
        let engine = job.engine;
        match job.work {
            Work::Vectors(job) => {
                let embedding = engine.embed(job).map_err(|error| submit_fault("input", error))?;
                Ok(LocalAnswer::Vectors(Vectors::new(embedding, growth)))
            }
            Work::Answers { jobs, choices, calls, stops, rule, param } => {
                let mut answers: Vec<Generation> = Vec::new();
                for mut job in jobs {
                    job.scheduling.follows = !answers.is_empty();
                    // Those already submitted are cancelled where one cannot be.
                    let submitted = match choices {
                        1 => engine.submit(job).map(|generation| vec![generation]),
                        choices => engine.submit_choices(&job, choices),
                    };
                    answers.extend(submitted.map_err(|error| submit_fault(param, error))?);
                }
                Ok(LocalAnswer::texts(answers, choices, Asked { stops, calls, rule }, growth))
            }
        }
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

    /// Says what sets more aside for it while it runs.
    pub fn extend_by(&mut self, extension: Option<Extension>) {
        self.extension = extension;
    }

    /// Says whose job it is and how urgent.
    pub fn schedule(&mut self, scheduling: Scheduling) {
        match &mut self.work {
            Work::Answers { jobs, .. } => {
                for job in jobs {
                    job.scheduling = scheduling;
                }
            }
            Work::Vectors(job) => job.scheduling = scheduling,
        }
    }

    /// The bounds of this job; the prompts' tokens are exact.
    #[must_use]
    pub fn bounds(&self) -> WorstCase {
        self.bounds_of(|job| (job.max_tokens, job.engine_time_max))
    }

    /// The same where each answer has the tokens and the engine time that `of` says.
    fn bounds_of(&self, of: impl Fn(&Job) -> (u32, Duration)) -> WorstCase {
        match &self.work {
            Work::Answers { jobs, choices, .. } => {
                let (mut output_tokens, mut engine_time) = (0, Duration::ZERO);
                for (tokens, time) in jobs.iter().map(of) {
                    output_tokens = u64::from(tokens).max(output_tokens);
                    let with_step = time.saturating_add(self.one_step);
                    engine_time = engine_time.saturating_add(with_step);
                }
                WorstCase {
                    prompt_tokens: jobs.iter().map(|job| job.prompt.len() as u64).sum(),
                    output_tokens,
                    choices: u64::from(*choices).saturating_mul(jobs.len() as u64),
                    engine_time: engine_time.saturating_mul(*choices),
                    ..WorstCase::default()
                }
            }
            Work::Vectors(job) => WorstCase {
                prompt_tokens: job.inputs.iter().map(|input| input.len() as u64).sum(),
                output_tokens: 0,
                choices: 1,
                engine_time: job.engine_time_max.saturating_add(self.one_step),
                ..WorstCase::default()
            },
        }
    }
}

fn submit_fault(param: &'static str, error: SubmitError) -> Fault {
    match error {
        SubmitError::QueueFull { .. } => Fault::new(FaultKind::Busy, "the engine's queue is full"),
        SubmitError::ContextOverflow { prompt_tokens, context_tokens, .. } => {
            unfit(too_long(param, prompt_tokens as usize, context_tokens))
        }
        SubmitError::Invalid { parameter, reason } => {
            unfit(BadRequest::value(parameter, format!("`{parameter}` {reason}")))
        }
        SubmitError::EmptyPrompt => {
            unfit(BadRequest::value(param, format!("`{param}` has no token")))
        }
        // Its model was unloaded or exchanged since: another try finds what is there now.
        SubmitError::Stopped => Fault::new(FaultKind::Unloaded, error.to_string()),
        SubmitError::Failed { .. } => Fault::new(FaultKind::Down, error.to_string()),
    }
}

fn too_long(param: &'static str, prompt_tokens: usize, context_tokens: u32) -> BadRequest {
    let advice = if param == "messages" { "; shorten the conversation" } else { "" };
    BadRequest {
        param: Some(param.to_owned()),
        message: format!(
            "this model's maximum context length is {context_tokens} tokens and the prompt alone \
             has {prompt_tokens}{advice}"
        ),
        code: "context_length_exceeded",
    }
}

/// The prompt fits, and with it not what may be answered.
fn no_room(
    param: &'static str,
    prompt_tokens: usize,
    output_cap: u64,
    context_tokens: u32,
) -> BadRequest {
    BadRequest {
        param: Some(param.to_owned()),
        message: format!(
            "this model's maximum context length is {context_tokens} tokens; the prompt has \
             {prompt_tokens} and an answer of up to {output_cap} was asked for"
        ),
        code: "context_length_exceeded",
    }
}

/// A rule that is not taken is the caller's fault, and never left out.
fn rule_fault(param: &'static str, error: &ConstraintError) -> Fault {
    match error {
        ConstraintError::Busy => Fault::new(FaultKind::Busy, error.to_string()),
        ConstraintError::Parameters { at, reason } => {
            let member = if param == "functions" { "" } else { ".function" };
            not_enforced(&format!("{param}[{at}]{member}.parameters"), reason)
        }
        ConstraintError::Refused(_) | ConstraintError::TooDear => {
            not_enforced(param, &error.to_string())
        }
    }
}

fn not_enforced(param: &str, why: &str) -> Fault {
    let message = format!("`{param}` cannot be enforced by the local model: {why}");
    unfit(BadRequest::unsupported(param, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_owed_for_what_the_engine_did_not_take_and_an_order_is_no_fault_of_the_route() {
        let stopped = submit_fault("messages", SubmitError::Stopped);
        assert!(!stopped.is_upstreams() && stopped.voids(), "{stopped}");
        let failed = SubmitError::Failed { reason: "a panic".to_owned() };
        let failed = submit_fault("messages", failed);
        assert!(failed.is_upstreams() && failed.voids(), "{failed}");
    }
}
