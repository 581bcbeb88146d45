//! `bench engine`: tokens per second, time to first token and gaps at several numbers of
//! concurrent streams, on the engine itself or over HTTP against a running server.
//!
//! Invariant: every prompt of a run differs from its first token on (after the template's own),
//! unless shared prefixes are what is measured; how many prompt tokens came from the KV cache is
//! shown beside every figure.

mod beside;
mod http;
mod local;
mod prompt;
mod report;
mod versus;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::machine::Birthplace;
use crate::output;
use crate::stats::{Ladder, Spread, percentile, rotated};

/// What the flags of `bench engine` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EngineArgs {
    /// The GGUF file [default: the one `make run` fetches].
    #[arg(long, env = "TOLLGATE_MODEL", default_value = "models/SmolLM2-135M-Instruct-Q4_1.gguf")]
    file: PathBuf,
    /// Numbers of concurrent streams.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    streams: Vec<u32>,
    /// Rounds with prompts that share nothing.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Further rounds with prompts that share all but their last words.
    #[arg(long, default_value_t = 1)]
    shared_rounds: usize,
    /// Tokens of a prompt, template included (approached as near as words allow).
    #[arg(long, default_value_t = 235)]
    prompt_tokens: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 128)]
    output_tokens: u32,
    /// Tokens that are never drawn, so that all answers are equally long [default: SmolLM2's ends].
    #[arg(long, value_delimiter = ',', default_values_t = [0, 2])]
    never_tokens: Vec<i32>,
    /// Slots of the engine.
    #[arg(long, default_value_t = 16)]
    slots: u32,
    /// Tokens of the KV cache over all slots.
    #[arg(long, default_value_t = 8_192)]
    context_tokens: u32,
    /// Layout of the KV cache.
    #[arg(long, value_enum, default_value_t = local::Kv::Auto)]
    kv: local::Kv,
    /// Computing threads [default: all cores].
    #[arg(long)]
    threads: Option<u32>,
    /// Prompt tokens read in a step that also generates [default: the engine's].
    #[arg(long)]
    prefill_chunk: Option<u32>,
    /// Most tokens of a step [default: the engine's].
    #[arg(long)]
    batch_tokens: Option<u32>,
    /// Measure a running server at this base URL (http://host:port) instead of the engine itself;
    /// threads, slots and cache are then its own, and its answers may end early.
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    versus: versus::VersusArgs,
    #[command(flatten)]
    beside: beside::BesideArgs,
    /// Bearer key for --url.
    #[arg(long, env = "TOLLGATE_KEY", default_value = "none", hide_env_values = true)]
    key: String,
    /// Model name for --url.
    #[arg(long, default_value = "edge")]
    model: String,
    /// Date of the run, YYYY-MM-DD [default: today, UTC].
    #[arg(long)]
    date: Option<String>,
    /// Folder for the results; unset: `bench/runs/<date>-<machine>`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One answer as its reader saw it. Times in nanoseconds from the batch's start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answer {
    pub(crate) first_ns: u64,
    pub(crate) end_ns: u64,
    /// Between two texts that arrived one after the other.
    pub(crate) gaps_ns: Vec<u64>,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
}

/// All answers of one batch: as many requests at once as there are streams.
#[derive(Debug, Serialize)]
struct Batch {
    round: usize,
    shared_prefix: bool,
    streams: u32,
    answers: Vec<Answer>,
}

/// Figures of one number of streams over its rounds.
#[derive(Debug, Serialize)]
struct Row {
    streams: u32,
    shared_prefix: bool,
    answers: usize,
    /// Answers shorter than asked for.
    short_answers: usize,
    prompt_tokens: Spread,
    cached_tokens: Spread,
    /// Output tokens over the time from the first request to the last answer's end.
    tokens_per_s: Spread,
    ttft_p50_ms: Spread,
    ttft_p95_ms: Spread,
    gap_p50_ms: Option<Spread>,
    gap_p99_ms: Option<Spread>,
    gap_max_ms: Option<Spread>,
}

/// What `engine.json` holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    /// What was measured: engine, model and settings, in words.
    subject: String,
    rows: Vec<Row>,
    batches: Vec<Batch>,
}

/// What answers the prompts.
enum Subject {
    Engine(Box<local::Local>),
    Server(http::Server),
}

/// Runs everything and writes the results.
pub(crate) fn run(args: &EngineArgs) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    if args.rounds + args.shared_rounds == 0 || args.streams.contains(&0) || args.streams.is_empty()
    {
        return Err("there must be a round and each number of streams at least 1".to_owned());
    }
    if let Some(llama_server) = &args.versus.llama_server {
        return versus::run(args, llama_server);
    }
    if beside::is_asked(&args.beside) {
        return beside::run(args);
    }
    let subject = match &args.url {
        Some(url) => Subject::Server(http::Server::new(url, args)?),
        None => Subject::Engine(Box::new(local::Local::load(args)?)),
    };
    let batches = crate::one_thread()?.block_on(measured(args, &subject))?;
    let rows = rows(args, &batches);
    let subject = match &subject {
        Subject::Engine(engine) => engine.in_words(),
        Subject::Server(server) => server.in_words(),
    };
    let name = if args.url.is_some() { "engine-http" } else { "engine" };
    let folder = output::folder(args.out.as_deref(), &birthplace);
    let run = Run { birthplace, subject, rows, batches };
    let table = report::table(args, &run);
    crate::say(&table)?;
    output::write(&folder, name, &run, &table)
}

async fn measured(args: &EngineArgs, subject: &Subject) -> Result<Vec<Batch>, String> {
    let mut prompts = prompt::Prompts::new(words(args, subject)?);
    one(args, subject, &mut prompts, 1, false).await?;
    let mut batches = Vec::new();
    for round in 0..args.rounds + args.shared_rounds {
        let shared = round >= args.rounds;
        for streams in rotated(&args.streams, round) {
            let answers = one(args, subject, &mut prompts, streams, shared).await?;
            let batch = Batch { round, shared_prefix: shared, streams, answers };
            crate::progress(&format!(
                "round {} {streams:>3} streams{}: {:.1} tokens/s",
                round + 1,
                if shared { ", shared prefix" } else { "" },
                batch.tokens_per_s()
            ));
            batches.push(batch);
        }
    }
    Ok(batches)
}

async fn one(
    args: &EngineArgs,
    subject: &Subject,
    prompts: &mut prompt::Prompts,
    streams: u32,
    shared: bool,
) -> Result<Vec<Answer>, String> {
    let prompts: Vec<_> = (0..streams).map(|_| prompts.next(shared)).collect();
    match subject {
        Subject::Engine(engine) => engine.batch(args, &prompts).await,
        Subject::Server(server) => server.batch(args, &prompts).await,
    }
}

/// Filler words that bring a prompt nearest to the tokens asked for.
fn words(args: &EngineArgs, subject: &Subject) -> Result<usize, String> {
    match subject {
        Subject::Engine(engine) => engine.words_for(args.prompt_tokens),
        // A server's tokenizer cannot be asked: the answer's usage says what it came to.
        Subject::Server(_) => Ok(args.prompt_tokens.saturating_sub(45)),
    }
}

impl Batch {
    fn tokens_per_s(&self) -> f64 {
        let tokens: u64 = self.answers.iter().map(|answer| answer.output_tokens).sum();
        let end = self.answers.iter().map(|answer| answer.end_ns).max().unwrap_or(0);
        let seconds = Duration::from_nanos(end).as_secs_f64();
        f64::from(u32::try_from(tokens).unwrap_or(u32::MAX)) / seconds
    }

    fn percentile_ms(&self, pick: impl Fn(&Answer) -> Vec<u64>, per_10_000: u16) -> Option<f64> {
        let mut all: Vec<u64> = self.answers.iter().flat_map(pick).collect();
        all.sort_unstable();
        percentile(&all, per_10_000).map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e3)
    }

    fn mean(&self, pick: impl Fn(&Answer) -> u64) -> f64 {
        let values: Vec<u64> = self.answers.iter().map(pick).collect();
        let sum = u32::try_from(values.iter().sum::<u64>()).unwrap_or(u32::MAX);
        f64::from(sum) / f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX))
    }
}

fn rows(args: &EngineArgs, batches: &[Batch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for shared in [false, true] {
        for streams in &args.streams {
            let own: Vec<&Batch> = batches
                .iter()
                .filter(|b| b.streams == *streams && b.shared_prefix == shared)
                .collect();
            rows.extend(row(args, *streams, shared, &own));
        }
    }
    rows
}

fn row(args: &EngineArgs, streams: u32, shared_prefix: bool, own: &[&Batch]) -> Option<Row> {
    let over = |figure: &dyn Fn(&Batch) -> Option<f64>| {
        Spread::of(own.iter().map(|batch| figure(batch)).collect::<Option<Vec<f64>>>()?)
    };
    let first = |answer: &Answer| vec![answer.first_ns];
    let gaps = |answer: &Answer| answer.gaps_ns.clone();
    let answers = || own.iter().flat_map(|batch| &batch.answers);
    let wanted = u64::from(args.output_tokens);
    Some(Row {
        streams,
        shared_prefix,
        answers: answers().count(),
        short_answers: answers().filter(|answer| answer.output_tokens < wanted).count(),
        prompt_tokens: over(&|b| Some(b.mean(|answer| answer.prompt_tokens)))?,
        cached_tokens: over(&|b| Some(b.mean(|answer| answer.cached_tokens)))?,
        tokens_per_s: over(&|b| Some(b.tokens_per_s()))?,
        ttft_p50_ms: over(&|b| b.percentile_ms(first, 5_000))?,
        ttft_p95_ms: over(&|b| b.percentile_ms(first, 9_500))?,
        gap_p50_ms: over(&|b| b.percentile_ms(gaps, 5_000)),
        gap_p99_ms: over(&|b| b.percentile_ms(gaps, 9_900)),
        gap_max_ms: over(&|b| b.percentile_ms(gaps, 10_000)),
    })
}

/// Collects one answer's times as its texts arrive.
#[derive(Debug)]
pub(crate) struct Watch {
    start: std::time::Instant,
    first_ns: Option<u64>,
    last_ns: u64,
    gaps_ns: Vec<u64>,
}

impl Watch {
    /// Starts at the batch's start.
    pub(crate) fn new(start: std::time::Instant) -> Watch {
        Watch { start, first_ns: None, last_ns: 0, gaps_ns: Vec::new() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A text arrived.
    pub(crate) fn text(&mut self) {
        let now = self.now();
        if self.first_ns.is_some() {
            self.gaps_ns.push(now - self.last_ns);
        }
        self.first_ns.get_or_insert(now);
        self.last_ns = now;
    }

    /// The answer ended. An answer without any text is none.
    pub(crate) fn end(self, prompt: u64, cached: u64, output: u64) -> Result<Answer, String> {
        Ok(Answer {
            end_ns: self.now(),
            first_ns: self.first_ns.ok_or("an answer without text")?,
            gaps_ns: self.gaps_ns,
            prompt_tokens: prompt,
            cached_tokens: cached,
            output_tokens: output,
        })
    }
}

/// The ladder of all gaps of a set of batches, for the report.
fn gap_ladder(batches: &[Batch], streams: u32) -> Option<Ladder> {
    let own = batches.iter().filter(|batch| batch.streams == streams && !batch.shared_prefix);
    let mut gaps: Vec<u64> =
        own.flat_map(|batch| &batch.answers).flat_map(|answer| answer.gaps_ns.clone()).collect();
    Ladder::of(&mut gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first_ns: u64, end_ns: u64, gaps_ns: &[u64], output_tokens: u64) -> Answer {
        let gaps_ns = gaps_ns.to_vec();
        Answer { first_ns, end_ns, gaps_ns, prompt_tokens: 200, cached_tokens: 50, output_tokens }
    }

    #[test]
    fn throughput_counts_all_tokens_until_the_last_end() {
        let answers = vec![
            answer(500_000_000, 1_000_000_000, &[10_000_000, 20_000_000], 100),
            answer(600_000_000, 2_000_000_000, &[3_000_000_000], 200),
        ];
        let batch = Batch { round: 0, shared_prefix: false, streams: 2, answers };
        assert!((batch.tokens_per_s() - 150.0).abs() < 1e-9);
        assert_eq!(batch.percentile_ms(|a| vec![a.first_ns], 5_000), Some(500.0));
        assert_eq!(batch.percentile_ms(|a| a.gaps_ns.clone(), 10_000), Some(3_000.0));
        assert!((batch.mean(|a| a.cached_tokens) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn an_answer_without_text_is_an_error() {
        assert!(Watch::new(std::time::Instant::now()).end(1, 0, 1).is_err());
        let mut watch = Watch::new(std::time::Instant::now());
        watch.text();
        watch.text();
        let answer = watch.end(1, 0, 2).unwrap();
        assert_eq!(answer.gaps_ns.len(), 1);
        assert!(answer.end_ns >= answer.first_ns);
    }
}
