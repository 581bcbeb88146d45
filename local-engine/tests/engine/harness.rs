//! Builds small engines and reads answers, so that the tests read as sentences.

use std::{io::Write as _, path::PathBuf, time::Duration};

use local_engine::{
    Engine, EngineConfig, Finish, Generation, Job, JobEvent, JobUsage, Message, Role, Sampling,
    Scheduling, TokenLogprob,
};

/// The model file: `TOLLGATE_MODEL`, or where `make model` puts it.
pub(crate) fn model_file() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    assert!(file.is_file(), "no model at {}: run `make model`", file.display());
    file
}

/// Says that something could not be looked at here, and why: see `harness/mod.rs` of the end-to-end
/// tests, which says it in the same way.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn not_checked(needed: &str, why: &str) {
    let required = std::env::var("TOLLGATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == needed), "{needed} is required, and {why}");
    println!("{why}: not checked");
    if let Some(file) = std::env::var_os("TOLLGATE_SKIPPED") {
        let mut file =
            std::fs::File::options().append(true).create(true).open(file).expect("a file");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        writeln!(file, "{test}: {why}").expect("to write");
    }
}

/// A small set-up: two slots, a thousand cells.
pub(crate) fn small() -> EngineConfig {
    let mut config = EngineConfig::new(model_file());
    // Tests run beside each other, and threads that wait for one another do so by spinning.
    config.threads = Some(1);
    config.context_tokens = 1_024;
    config.slots = 2;
    config.batch_tokens = Some(256);
    config.prefill_chunk = Some(32);
    config.queue_wait_max = Duration::from_secs(600);
    config.reader_stall_max = Duration::from_secs(600);
    config
}

/// [`small`], on the processor whatever else there is: there a job's tokens do not depend on what is
/// computed with them. A GPU rounds otherwise for every shape of a batch, and for every place in
/// the cache.
pub(crate) fn reproducible() -> EngineConfig {
    EngineConfig { gpu_layers: Some(0), ..small() }
}

pub(crate) fn engine(config: &EngineConfig) -> Engine {
    Engine::load(config).expect("the model loads")
}

pub(crate) fn user(content: &str) -> Message {
    Message {
        role: Role::User,
        content: content.to_owned(),
        name: None,
        tool_calls_json: None,
        tool_call_id: None,
    }
}

pub(crate) fn greedy() -> Sampling {
    Sampling::default()
}

pub(crate) fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.5, top_p: 0.98, seed: Some(seed), ..greedy() }
}

/// A greedy job of a few tokens that answers a user.
pub(crate) fn ask(engine: &Engine, content: &str, max_tokens: u32) -> Job {
    Job {
        prompt: engine.tokenize_chat(&[user(content)]).expect("renders"),
        max_tokens,
        stop: Vec::new(),
        sampling: greedy(),
        constraint: None,
        logprobs: None,
        engine_time_max: Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    }
}

/// Biases that keep the model from ending its turn, for exact counts.
pub(crate) fn never_ending(engine: &Engine) -> Vec<(i32, f32)> {
    engine.info().end_tokens.iter().map(|token| (*token, -100.0)).collect()
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) texts: Vec<String>,
    pub(crate) tokens_told: u32,
    /// Where the job asked for them.
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) cached: u32,
    pub(crate) end: JobEvent,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        self.texts.concat()
    }

    pub(crate) fn finish(&self) -> Finish {
        match &self.end {
            JobEvent::Finished { finish, .. } => *finish,
            other => panic!("the job did not end well: {other:?}"),
        }
    }

    pub(crate) fn usage(&self) -> JobUsage {
        match &self.end {
            JobEvent::Finished { usage, .. }
            | JobEvent::Unread { usage }
            | JobEvent::Stopped { usage }
            | JobEvent::Refused { usage, .. }
            | JobEvent::Failed { usage, .. } => *usage,
            other => panic!("the job did not end: {other:?}"),
        }
    }
}

/// Reads a job to its end.
pub(crate) async fn read(mut generation: Generation) -> Answer {
    let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
    let (mut tokens_told, mut cached) = (0, 0);
    loop {
        match generation.next().await.expect("every job ends with an event") {
            JobEvent::Started { cached_tokens, .. } => cached = cached_tokens,
            JobEvent::Text { text, tokens, logprobs: told, .. } => {
                assert!(!text.is_empty() || !told.is_empty(), "it tells something");
                texts.push(text);
                tokens_told += tokens;
                logprobs.extend(told);
            }
            end => {
                assert_eq!(generation.next().await, None, "nothing follows the end");
                return Answer { texts, tokens_told, logprobs, cached, end };
            }
        }
    }
}

pub(crate) async fn answer(engine: &Engine, job: Job) -> Answer {
    read(engine.submit(job).expect("the engine takes the job")).await
}

/// Reads until the first text.
pub(crate) async fn first_text(generation: &mut Generation) -> String {
    loop {
        match generation.next().await.expect("a text comes before the end") {
            JobEvent::Text { text, .. } => return text,
            JobEvent::Started { .. } => {}
            other => panic!("ended before the first text: {other:?}"),
        }
    }
}
