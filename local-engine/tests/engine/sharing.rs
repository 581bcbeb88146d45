//! Jobs share cells and give way to each other, and no answer changes by it.

use local_engine::{Engine, EvictionKind, Job, KvLayout, Scheduling};

use crate::harness::{Answer, answer, ask, engine, first_text, never_ending, read, small};

/// Tokens of an answer of which three, shared beginnings counted once, do not fit into 256 cells.
const LONG: u32 = 100;

/// A job that runs to its cap.
fn long_answer(engine: &Engine, number: u32, max_tokens: u32) -> Job {
    let mut job = ask(engine, &format!("Tell me about the number {number}."), max_tokens);
    job.sampling.logit_bias = never_ending(engine);
    job
}

/// Three long answers at once.
async fn three(engine: &Engine) -> Vec<Answer> {
    let jobs: Vec<_> = (1..4)
        .map(|number| engine.submit(long_answer(engine, number, LONG)).expect("taken"))
        .collect();
    let mut answers = Vec::new();
    for job in jobs {
        answers.push(read(job).await);
    }
    answers
}

#[tokio::test]
async fn a_job_that_waited_outside_the_cache_answers_the_same() {
    let mut config = small();
    (config.slots, config.kv_layout) = (3, KvLayout::Unified);
    let roomy = engine(&config);
    let undisturbed = three(&roomy).await;
    assert_eq!(roomy.status().preemptions, 0);

    (config.context_tokens, config.overcommit_percent) = (256, 300);
    let crowded = engine(&config);
    let answers = three(&crowded).await;
    let status = crowded.status();
    assert!(status.preemptions > 0, "the cells did run out: {status:?}");
    assert_eq!((status.recomputed, status.swapped), (0, 0));
    let swapped = |event: &local_engine::Eviction| event.kind == EvictionKind::Swapped;
    assert!(crowded.evictions().iter().any(swapped), "and who gave way is told");
    for (answer, undisturbed) in answers.iter().zip(&undisturbed) {
        assert_eq!(answer.usage().generated_tokens, LONG);
        // Who is outside changes the shape of the others' batches, which rounds differently: whole
        // answers are compared where the shape is the same, in `src/state_tests.rs`.
        let head = |text: String| text.chars().take(24).collect::<String>();
        assert_eq!(head(answer.text()), head(undisturbed.text()));
    }
}

#[tokio::test]
async fn a_caller_learns_nothing_of_another_ones_prompts() {
    let engine = engine(&small());
    let of = |caller| {
        let mut job = ask(&engine, "My secret is a number.", 3);
        job.scheduling = Scheduling { caller, ..Scheduling::default() };
        job
    };
    answer(&engine, of(1)).await;
    assert_eq!(answer(&engine, of(2)).await.cached, 0);
    assert!(answer(&engine, of(1)).await.cached > 10);
}

#[tokio::test]
async fn chats_beyond_the_slots_keep_their_prefixes() {
    let engine = engine(&small());
    let chats: Vec<Job> =
        (0..5_u32).map(|n| ask(&engine, &format!("{n} is a number I like."), 2)).collect();
    for chat in &chats {
        answer(&engine, chat.clone()).await;
    }
    for chat in &chats {
        let again = answer(&engine, chat.clone()).await;
        assert_eq!(again.cached as usize, chat.prompt.len() - 1, "all but the last token");
    }
}

#[tokio::test]
async fn separate_caches_copy_a_long_prefix_from_a_running_job() {
    let mut config = small();
    config.kv_layout = KvLayout::Separate;
    let engine = engine(&config);
    let story = "Once upon a time there was a number. ".repeat(10);
    let mut running = ask(&engine, &format!("{story} Go on."), 60);
    running.sampling.logit_bias = never_ending(&engine);
    let mut running = engine.submit(running).expect("taken");
    first_text(&mut running).await;
    let other = ask(&engine, &format!("{story} What was it?"), 6);
    let copied = answer(&engine, other.clone()).await;
    assert!(copied.cached > 64, "got {}", copied.cached);
    drop(running);
    config.prefix_reuse = false;
    let alone = answer(&self::engine(&config), other).await;
    assert_eq!(copied.text(), alone.text());
}
