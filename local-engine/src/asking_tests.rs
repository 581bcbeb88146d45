//! What a request may ask of the scheduler beyond one answer, on the scripted device: choices that
//! share a prompt, and texts to embed.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    embedding::{self, EmbedError, EmbedJob},
    error::SubmitError,
    generation::Generation,
    job::Job,
    scheduler_tests::{A, Bench, greedy},
};

/// The value of what is ready.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it is not ready"),
    }
}

#[test]
fn other_choices_wait_until_the_prompt_is_read_and_share_its_cells() {
    let mut bench = Bench::new(|config| {
        config.slots = 3;
        config.batch_tokens = 32;
        config.prefill_chunk = 4;
    });
    let job = Job { max_tokens: 4, ..greedy(&[A; 10]) };
    let queued = bench.shared.enqueue_choices(vec![job.clone(), job.clone(), job], bench.now);
    let queued = queued.expect("taken");
    bench.turn();
    assert_eq!(bench.shared.gauges.queued.load(Relaxed), 2, "two wait for the first");
    bench.turns(20);
    for (at, (events, meter)) in queued.into_iter().enumerate() {
        let generation = Generation::new(events, meter, Arc::clone(&bench.shared));
        assert_eq!(generation.usage().cached_tokens, if at == 0 { 0 } else { 9 }, "choice {at}");
        assert_eq!(generation.usage().generated_tokens, 4);
    }
}

#[test]
fn choices_come_in_all_or_none() {
    let bench = Bench::new(|config| config.queue_max = 2);
    let job = greedy(&[A]);
    let refused = bench.shared.enqueue_choices(vec![job.clone(), job.clone(), job], bench.now);
    assert_eq!(refused.expect_err("no room for three"), SubmitError::QueueFull { queued: 0 });
    assert_eq!(bench.shared.gauges.queued.load(Relaxed), 0);
}

#[test]
fn a_text_is_embedded_chunk_by_chunk_between_the_steps() {
    let mut bench = Bench::new(|config| config.prefill_chunk = 4);
    let _running = bench.job(&[A], 20);
    let job = EmbedJob {
        inputs: vec![vec![A; 10], vec![A]],
        pooling: None,
        engine_time_max: Duration::from_secs(60),
    };
    let mut embedding = embedding::submit(&bench.shared, job, bench.now).expect("taken");
    for _ in 0..4 {
        bench.turn();
    }
    assert_eq!(bench.scheduler.device.embedded, [4, 4, 2, 1], "one chunk a turn");
    assert!(bench.decodes().len() >= 4, "and a token of the running job each");
    assert_eq!(embedding.usage().prompt_tokens, 11);
    let vectors = now(embedding.vectors()).expect("computed");
    assert_eq!(vectors.len(), 2);
    // The mean of (3, 4) and nine times (0, 4), brought to length 1.
    let length = (0.3_f32 * 0.3 + 16.0).sqrt();
    assert!((vectors[0][0] - 0.3 / length).abs() < 1e-6 && (vectors[1][1] - 0.8).abs() < 1e-6);
}

#[test]
fn an_embedding_that_nobody_waits_for_or_that_cost_too_much_goes_no_further() {
    let mut bench = Bench::new(|config| config.prefill_chunk = 4);
    let job = EmbedJob {
        inputs: vec![vec![A; 40]],
        pooling: None,
        engine_time_max: Duration::from_secs(60),
    };
    let left = embedding::submit(&bench.shared, job.clone(), bench.now).expect("taken");
    let bounded = EmbedJob { engine_time_max: Duration::ZERO, ..job };
    let mut bounded = embedding::submit(&bench.shared, bounded, bench.now).expect("taken");
    bench.turn();
    drop(left);
    bench.turns(10);
    assert_eq!(bench.scheduler.device.embedded, [4, 4], "one chunk of each");
    assert_eq!(now(bounded.vectors()), Err(EmbedError::EngineTime));
    assert!(bench.shared.embeds.is_empty());
}
