//! Jobs are computed together, join and leave between decodes, and do not disturb each other.

use local_engine::KvLayout;

use crate::harness::{
    answer, ask, engine, first_text, never_ending, read, reproducible, small, warm,
};

#[tokio::test]
async fn a_greedy_answer_is_the_same_alone_and_in_company() {
    let engine = engine(&reproducible());
    let (first, second) = ("Name three colors.", "Write one sentence about dogs.");
    let alone = answer(&engine, ask(&engine, first, 12)).await;
    let other_alone = answer(&engine, ask(&engine, second, 12)).await;

    let together = engine.submit(ask(&engine, first, 12)).expect("taken");
    let mut company = engine.submit(ask(&engine, second, 12)).expect("taken");
    // The company is generating while the first answer is read.
    let begin = first_text(&mut company).await;
    let together = read(together).await;
    let company = begin + &read(company).await.text();

    assert_eq!(together.text(), alone.text());
    assert_eq!(company, other_alone.text());
    assert_eq!(together.usage().generated_tokens, alone.usage().generated_tokens);
}

#[tokio::test]
async fn jobs_join_and_leave_while_others_run() {
    let engine = engine(&small());
    let mut long = ask(&engine, "Tell me a long story.", 60);
    long.sampling.logit_bias = never_ending(&engine);
    let mut long = engine.submit(long).expect("taken");
    first_text(&mut long).await;
    for _ in 0..3 {
        let mut short = ask(&engine, "Say hello.", 3);
        short.sampling.logit_bias = never_ending(&engine);
        assert_eq!(answer(&engine, short).await.usage().generated_tokens, 3);
    }
    assert_eq!(engine.status().running, 1, "the long job is still running");
    let long = read(long).await;
    assert_eq!(long.usage().generated_tokens, 60);
    assert_eq!(engine.status().running, 0);
}

#[tokio::test]
async fn the_same_seed_draws_the_same_answer() {
    let engine = engine(&reproducible());
    let draw = async |seed| {
        let mut job = ask(&engine, "Write a line of poetry.", 16);
        job.sampling = warm(seed);
        answer(&engine, job).await.text()
    };
    let (one, again, other) = (draw(7).await, draw(7).await, draw(8).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[tokio::test]
async fn the_next_turn_of_a_chat_pays_only_for_its_new_tokens() {
    let engine = engine(&small());
    let job = ask(&engine, "Name a color.", 4);
    let prompt_tokens = job.prompt.len();
    let first = answer(&engine, job.clone()).await;
    assert_eq!(first.usage().prompt_tokens as usize, prompt_tokens);
    let second = answer(&engine, job).await;
    assert_eq!(second.cached as usize, prompt_tokens - 1, "all but the last token are there");
    assert_eq!(second.usage().cached_tokens, second.cached);
    assert_eq!(second.text(), first.text());
}

#[tokio::test]
async fn a_running_job_lends_its_prefix() {
    let engine = engine(&small());
    let mut running = engine.submit(ask(&engine, "Tell me a long story.", 40)).expect("taken");
    first_text(&mut running).await;
    let neighbour = answer(&engine, ask(&engine, "Say hello.", 2)).await;
    assert!(neighbour.cached > 5, "the system prompt is shared, got {}", neighbour.cached);
    drop(running);
}

#[tokio::test]
async fn separate_caches_give_the_same_answers() {
    let mut config = reproducible();
    config.kv_layout = KvLayout::Separate;
    let separate = engine(&config);
    assert_eq!(separate.info().context_tokens, 512, "each slot has its part");
    let unified = engine(&reproducible());
    let job = ask(&unified, "Name three colors.", 6);
    let here = answer(&unified, job.clone()).await;
    let there = answer(&separate, job.clone()).await;
    assert_eq!(here.text(), there.text());
    let again = answer(&separate, job).await;
    assert!(again.cached > 0, "a slot's own prefix is reused");
}

#[tokio::test]
async fn jobs_that_change_places_answer_as_before() {
    let mut config = reproducible();
    (config.kv_layout, config.slots) = (KvLayout::Separate, 4);
    config.context_tokens = 2_048;
    let engine = engine(&config);
    let asked = ["Name a color.", "Write a poem about the sea.", "Say hello.", "Count to ten."];
    let job = |n: usize| {
        let mut job = ask(&engine, asked[n], [4, 40, 8, 24][n]);
        job.sampling.logit_bias = never_ending(&engine);
        job
    };
    let mut alone = Vec::new();
    for n in 0..asked.len() {
        alone.push(answer(&engine, job(n)).await.text());
    }
    for _ in 0..2 {
        let together: Vec<_> =
            (0..asked.len()).map(|n| engine.submit(job(n)).expect("taken")).collect();
        let mut answers = Vec::new();
        for generation in together {
            answers.push(read(generation).await.text());
        }
        assert_eq!(answers, alone);
    }
    let status = engine.status();
    assert!(status.moves > 0, "those that ended first left gaps");
    assert_eq!((status.failed, status.attributed), (0, status.busy));
}

#[tokio::test]
async fn a_slow_reader_stalls_nobody_else() {
    let mut config = small();
    config.reader_lag_max = 2;
    let engine = engine(&config);
    let mut slow = ask(&engine, "Tell me a long story.", 40);
    slow.sampling.logit_bias = never_ending(&engine);
    let mut slow = engine.submit(slow).expect("taken");
    let begin = first_text(&mut slow).await;
    // Nobody reads `slow`, and the others still get their whole answers.
    for _ in 0..2 {
        let other = answer(&engine, ask(&engine, "Say hello.", 20)).await;
        assert!(other.usage().generated_tokens > 1);
    }
    let taken = slow.usage().generated_tokens;
    assert!(taken < 10, "the slow job pauses instead of running ahead, it is at {taken}");
    let slow = read(slow).await;
    assert_eq!(slow.usage().generated_tokens, 40, "and goes on when it is read");
    assert!((begin + &slow.text()).len() > 40);
}
