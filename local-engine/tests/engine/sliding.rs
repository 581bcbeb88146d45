//! A model with a sliding window forgets the cells before it: it never goes on from a cache
//! that may have holes. On Gemma 3 270M, which `make test-all`
//! fetches; without it these tests say that they were skipped.

use std::{path::PathBuf, time::Duration};

use local_engine::{Engine, EngineConfig, Job, KvLayout, Scheduling, Speculation};

use crate::harness::{answer, engine, greedy, small};

/// The window of this model.
const WINDOW: usize = 512;

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn config() -> Option<EngineConfig> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/gemma-3-270m-q4_k_m.gguf");
    let named = std::env::var_os("TOLLGATE_SLIDING_MODEL");
    let file = named.map_or_else(|| default.into(), PathBuf::from);
    if !file.is_file() {
        eprintln!("skipped: no model at {}: run scripts/gemma.sh", file.display());
        return None;
    }
    let mut config = small();
    (config.file, config.context_tokens, config.kv_layout) = (file, 2_048, KvLayout::Unified);
    Some(config)
}

/// A job over plain tokens: a base model has no chat template.
fn job(tokens: &[i32]) -> Job {
    Job {
        prompt: tokens.to_vec(),
        max_tokens: 5,
        stop: Vec::new(),
        sampling: greedy(),
        engine_time_max: Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
        constraint: None,
        logprobs: None,
    }
}

/// Ordinary tokens after the one that begins a text.
fn tokens(count: usize, salt: i32) -> Vec<i32> {
    let numbers = (0_i32..).map(|n| 2_000 + (n * 37 + salt * 101) % 5_000);
    std::iter::once(2).chain(numbers).take(count).collect()
}

#[tokio::test]
async fn going_back_behind_the_window_reads_the_prompt_anew() {
    let Some(config) = config() else { return };
    let engine = engine(&config);
    let long = tokens(WINDOW + 300, 1);
    answer(&engine, job(&long)).await;
    // Back by a little, to inside the window, to its edge, far behind it; then on from there.
    for keep in [long.len() - 3, long.len() - 200, WINDOW, 20, 700] {
        let mut prompt = long[..keep.min(long.len())].to_vec();
        prompt.extend(&tokens(12, 7)[1..]);
        let again = answer(&engine, job(&prompt)).await;
        assert_eq!(again.cached, 0, "back to {keep}");
        let usage = again.usage();
        assert_eq!((usage.prompt_tokens as usize, usage.generated_tokens), (prompt.len(), 5));
    }
}

#[tokio::test]
async fn the_next_turn_is_read_anew() {
    let Some(config) = config() else { return };
    let engine = engine(&config);
    let mut prompt = tokens(100, 3);
    answer(&engine, job(&prompt)).await;
    prompt.extend(tokens(10, 4));
    let next = answer(&engine, job(&prompt)).await;
    assert_eq!(next.cached, 0, "nothing is taken from a cache that may have holes");
}

#[tokio::test]
async fn nothing_is_guessed_whose_cells_could_not_be_taken_back() {
    let Some(mut config) = config() else { return };
    config.speculation = Speculation::Lookup { tokens_max: 8, streams_max: 2 };
    let engine = engine(&config);
    let tokens = engine.tokenize_raw("one two three one two three one two three").expect("fits");
    let mut job = job(&tokens);
    job.max_tokens = 20;
    answer(&engine, job).await;
    assert_eq!(engine.status().speculation, []);
}

#[test]
fn it_neither_drafts_nor_is_drafted_for() {
    let Some(config) = config() else { return };
    let drafted = |target: &EngineConfig, file: PathBuf| {
        let speculation = Speculation::Draft { file, tokens_max: 4, streams_max: 1 };
        let config = EngineConfig { speculation, ..target.clone() };
        Engine::load(&config).expect_err("it is refused").to_string()
    };
    let refused = drafted(&config, config.file.clone());
    assert!(refused.contains("sliding window"), "{refused}");
    let refused = drafted(&small(), config.file);
    assert!(refused.contains("vocabulary has"), "{refused}");
}
