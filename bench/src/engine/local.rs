//! The engine itself, without a server: jobs submitted at once, their events timed.

use std::time::Instant;

use clap::ValueEnum;
use local_engine::{
    Engine, EngineConfig, Generation, Job, JobEvent, JobUsage, KvLayout, Message, Role, Sampling,
    Scheduling, Speculation,
};
use tokio::task::JoinSet;

use super::prompt::{Prompt, prompt};
use super::{Answer, EngineArgs, Watch};

/// Layout of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    /// As the engine chooses by its slots.
    Auto,
    /// One pool.
    Unified,
    /// Equal parts.
    Separate,
}

/// Most filler words tried to reach a number of tokens.
const WORDS_MAX: usize = 4_000;

/// A loaded engine.
#[derive(Debug)]
pub(crate) struct Local {
    engine: Engine,
    config: EngineConfig,
}

impl Local {
    /// Loads the model.
    pub(crate) fn load(args: &EngineArgs) -> Result<Local, String> {
        Local::load_with(args, |_| Ok(()))
    }

    /// The same with something changed.
    pub(crate) fn load_with(
        args: &EngineArgs,
        change: impl FnOnce(&mut EngineConfig) -> Result<(), String>,
    ) -> Result<Local, String> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut config = EngineConfig::new(args.file.clone());
        config.slots = args.slots;
        config.context_tokens = args.context_tokens;
        config.threads = args.threads.or(u32::try_from(cores).ok());
        config.kv_layout = match args.kv {
            Kv::Auto => KvLayout::Auto,
            Kv::Unified => KvLayout::Unified,
            Kv::Separate => KvLayout::Separate,
        };
        config.prefill_chunk = args.prefill_chunk;
        config.batch_tokens = args.batch_tokens;
        change(&mut config)?;
        let engine = Engine::load(&config).map_err(|e| e.to_string())?;
        Ok(Local { engine, config })
    }

    /// What was measured.
    pub(crate) fn in_words(&self) -> String {
        let info = self.engine.info();
        let layout = if info.kv_unified { "unified" } else { "separate" };
        format!(
            "local_engine without HTTP: {} {}, {} threads on {}, {} of {} layers offloaded, {} \
             slots, KV cache of {} tokens ({layout}), prefill chunk {} of at most {} tokens a step, \
             prefix reuse {}, speculation {}, in {}",
            info.name,
            info.quantisation,
            info.threads,
            self.computes_on(),
            info.layers_offloaded,
            info.layers,
            self.config.slots,
            info.kv_cells,
            info.prefill_chunk,
            info.batch_tokens,
            if self.config.prefix_reuse { "on" } else { "off" },
            self.guesses_by(),
            if self.engine.process().is_some() { "a child process" } else { "this process" },
        )
    }

    fn guesses_by(&self) -> String {
        match (&self.config.speculation, &self.engine.info().draft) {
            (Speculation::Off, _) => "off".to_owned(),
            (Speculation::Lookup { .. }, _) => "by lookup".to_owned(),
            (Speculation::Draft { .. }, draft) => {
                let name = draft.as_ref().map_or("?", |draft| &draft.name);
                format!("by a draft model ({name})")
            }
        }
    }

    /// Tokens guessed so far, and those of them that were drawn.
    pub(crate) fn guesses(&self) -> (u64, u64) {
        let classes = self.engine.status().speculation;
        let sum =
            |pick: fn(&local_engine::SpeculationStatus) -> u64| classes.iter().map(pick).sum();
        (sum(|class| class.drafted), sum(|class| class.accepted))
    }

    /// The device by its maker's name, or the processor.
    fn computes_on(&self) -> String {
        let info = self.engine.info();
        let first = info.offloaded_to.first();
        let device = info.devices.iter().find(|device| Some(&device.name) == first);
        device.map_or_else(
            || "CPU".to_owned(),
            |device| format!("{} ({})", device.name, device.description),
        )
    }

    /// Filler words that bring a prompt nearest to so many tokens from below.
    pub(crate) fn words_for(&self, tokens: usize) -> Result<usize, String> {
        let mut fitting = None;
        for words in 0..WORDS_MAX {
            if self.tokens(&prompt(0, words, false))?.len() > tokens {
                break;
            }
            fitting = Some(words);
        }
        fitting.ok_or_else(|| format!("no prompt is as short as {tokens} tokens"))
    }

    fn tokens(&self, prompt: &Prompt) -> Result<Vec<i32>, String> {
        let message = |role, content: &String| Message {
            role,
            content: content.clone(),
            name: None,
            tool_calls_json: None,
            tool_call_id: None,
        };
        let messages = [message(Role::System, &prompt.system), message(Role::User, &prompt.user)];
        self.engine.tokenize_chat(&messages).map_err(|e| e.to_string())
    }

    /// Submits all prompts at once and reads all answers.
    pub(crate) async fn batch(
        &self,
        args: &EngineArgs,
        prompts: &[Prompt],
    ) -> Result<Vec<Answer>, String> {
        let jobs: Vec<Job> = prompts
            .iter()
            .map(|prompt| Ok(job(args, self.tokens(prompt)?)))
            .collect::<Result<_, String>>()?;
        let start = Instant::now();
        let mut readers = JoinSet::new();
        for job in jobs {
            let generation = self.engine.submit(job).map_err(|e| e.to_string())?;
            readers.spawn(read(generation, Watch::new(start)));
        }
        let mut answers = Vec::new();
        while let Some(answer) = readers.join_next().await {
            answers.push(answer.map_err(|e| format!("reader: {e}"))??);
        }
        Ok(answers)
    }
}

fn job(args: &EngineArgs, prompt: Vec<i32>) -> Job {
    Job {
        prompt,
        max_tokens: args.output_tokens,
        stop: Vec::new(),
        sampling: Sampling {
            logit_bias: args.never_tokens.iter().map(|token| (*token, -100.0)).collect(),
            seed: Some(1),
            ..Sampling::default()
        },
        constraint: None,
        logprobs: None,
        engine_time_max: std::time::Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    }
}

async fn read(mut generation: Generation, mut watch: Watch) -> Result<Answer, String> {
    while let Some(event) = generation.next().await {
        match event {
            JobEvent::Started { .. } => {}
            JobEvent::Text { .. } => watch.text(),
            JobEvent::Finished { usage, .. } => return ended(watch, usage),
            JobEvent::Failed { reason, .. } => return Err(format!("the engine failed: {reason}")),
            other => return Err(format!("the engine did not answer: {other:?}")),
        }
    }
    Err("the engine's events ended without an end".to_owned())
}

fn ended(watch: Watch, usage: JobUsage) -> Result<Answer, String> {
    watch.end(usage.prompt_tokens.into(), usage.cached_tokens.into(), usage.generated_tokens.into())
}
