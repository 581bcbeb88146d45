//! A model with a sliding window forgets the cells before it: going back in its cache must be
//! noticed, never answered from what is no longer there. On Gemma 3 270M, which `make test-all`
//! fetches; without it these tests say that they were skipped.

use std::{path::PathBuf, time::Duration};

use local_engine::{Engine, EngineConfig, Job, JobEvent, KvLayout, Likely, Scheduling};

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
        scheduling: Scheduling::default(),
        constraint: None,
        logprobs: None,
    }
}

/// The likeliest tokens after a prompt, by their logarithms.
async fn first_place(engine: &Engine, prompt: &[i32]) -> Vec<Likely> {
    let mut asked = job(prompt);
    asked.logprobs = Some(20);
    let mut generation = engine.submit(asked).expect("taken");
    loop {
        match generation.next().await.expect("a token comes before the end") {
            JobEvent::Text { logprobs, .. } if !logprobs.is_empty() => {
                return logprobs[0].top.clone();
            }
            JobEvent::Started { .. } | JobEvent::Text { .. } => {}
            other => panic!("ended before the first token: {other:?}"),
        }
    }
}

/// Ordinary tokens after the one that begins a text.
fn tokens(count: usize, salt: i32) -> Vec<i32> {
    let numbers = (0_i32..).map(|n| 2_000 + (n * 37 + salt * 101) % 5_000);
    std::iter::once(2).chain(numbers).take(count).collect()
}

/// How far apart two lists say a token is, at most, of the five likeliest of the first.
fn apart(one: &[Likely], other: &[Likely]) -> f32 {
    let far = |likely: &Likely| {
        let same = other.iter().find(|other| other.token == likely.token);
        same.map_or(f32::INFINITY, |same| (same.logprob - likely.logprob).abs())
    };
    one.iter().take(5).map(far).fold(0.0, f32::max)
}

#[tokio::test]
async fn going_back_behind_the_window_never_changes_an_answer() {
    let Some(mut config) = config() else { return };
    let reusing = engine(&config);
    config.prefix_reuse = false;
    let fresh: Engine = engine(&config);
    config.batch_tokens = 64;
    let in_other_batches = engine(&config);
    let long = tokens(WINDOW + 300, 1);
    answer(&reusing, job(&long)).await;
    // Back by a little, to inside the window, to its edge, far behind it; then on from there.
    for keep in [long.len() - 3, long.len() - 200, WINDOW, 20, 700] {
        let mut prompt = long[..keep.min(long.len())].to_vec();
        prompt.extend(&tokens(12, 7)[1..]);
        let alone = first_place(&fresh, &prompt).await;
        // What other batches change is rounding; cells that are missing change more.
        let rounding = apart(&alone, &first_place(&in_other_batches, &prompt).await);
        let again = apart(&alone, &first_place(&reusing, &prompt).await);
        assert!(
            again <= 2.0 * rounding + 0.1,
            "back to {keep}: {again} apart, rounding {rounding}"
        );
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
