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
    job::{Job, Scheduling},
    scheduler_tests::{A, Bench, events, finish, greedy},
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
        config.batch_tokens = Some(32);
        config.prefill_chunk = Some(4);
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
    let mut bench = Bench::new(|config| config.prefill_chunk = Some(4));
    let _running = bench.job(&[A], 20);
    bench.turn();
    let job = EmbedJob {
        inputs: vec![vec![A; 10], vec![A]],
        pooling: None,
        engine_time_max: Duration::from_secs(60),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    };
    let mut embedding = embedding::submit(&bench.shared, job, bench.now).expect("taken");
    for _ in 0..4 {
        bench.turn();
    }
    assert_eq!(bench.scheduler.device.embedded, [[4], [4], [2], [1]], "one chunk a turn");
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
    let mut bench = Bench::new(|config| config.prefill_chunk = Some(4));
    let job = EmbedJob {
        inputs: vec![vec![A; 40]],
        pooling: None,
        engine_time_max: Duration::from_secs(60),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    };
    let left = embedding::submit(&bench.shared, job.clone(), bench.now).expect("taken");
    let bounded = EmbedJob { engine_time_max: Duration::ZERO, ..job };
    let mut bounded = embedding::submit(&bench.shared, bounded, bench.now).expect("taken");
    bench.turn();
    drop(left);
    bench.turns(10);
    assert_eq!(bench.scheduler.device.embedded, [[4], [4]], "one chunk of each");
    assert_eq!(now(bounded.vectors()), Err(EmbedError::EngineTime));
    assert!(bench.shared.embeds.is_empty());
}

fn texts(caller: u64, inputs: Vec<Vec<i32>>) -> EmbedJob {
    EmbedJob {
        inputs,
        pooling: None,
        engine_time_max: Duration::from_secs(60),
        engine_time_may_grow: false,
        scheduling: Scheduling { caller, ..Scheduling::default() },
    }
}

#[test]
fn texts_that_waited_too_long_are_told_while_another_is_read_and_who_left_makes_room() {
    let mut bench = Bench::new(|config| {
        (config.prefill_chunk, config.queue_max) = (Some(4), 3);
        config.queue_wait_max = Duration::from_secs(3);
    });
    let submit = |bench: &Bench, tokens: usize| {
        embedding::submit(&bench.shared, texts(1, vec![vec![A; tokens]]), bench.now)
    };
    let mut long = submit(&bench, 90).expect("taken");
    bench.turn();
    let (mut waits, left) = (submit(&bench, 3).expect("taken"), submit(&bench, 3).expect("taken"));
    let full = submit(&bench, 3).expect_err("three wait");
    assert_eq!(full, SubmitError::QueueFull { queued: 3 });
    drop(left);
    let _other = submit(&bench, 3).expect("no turn was needed for that");
    bench.now += Duration::from_secs(3);
    bench.turn();
    assert_eq!(now(waits.vectors()), Err(EmbedError::Expired(Duration::from_secs(3))));
    assert_eq!(bench.scheduler.device.embedded, [[4], [4]], "the one under way is not done");
    bench.turns(30);
    assert!(now(long.vectors()).is_ok(), "what has begun does not expire");
    assert!(bench.shared.embeds.is_empty());
}

#[test]
fn an_engine_that_has_ended_takes_no_texts_and_tells_those_it_had() {
    for (stopped, told) in [(true, EmbedError::Stopped), (false, EmbedError::Ended)] {
        let mut bench = Bench::new(|_| {});
        let mut waits = embedding::submit(&bench.shared, texts(1, vec![vec![A]]), bench.now);
        if stopped {
            bench.shared.gauges.stop();
        } else {
            bench.shared.gauges.fail("broken".to_owned());
        }
        bench.scheduler.end("over");
        assert_eq!(now(waits.as_mut().expect("taken").vectors()), Err(told));
        let late = embedding::submit(&bench.shared, texts(1, vec![vec![A]]), bench.now);
        assert!(late.is_err(), "nobody would ever tell it");
    }
}

#[test]
fn a_caller_with_many_texts_does_not_hold_up_another() {
    let mut bench = Bench::new(|config| config.prefill_chunk = Some(4));
    let many = texts(1, vec![vec![A; 8]; 6]);
    let _many = embedding::submit(&bench.shared, many, bench.now).expect("taken");
    bench.turn();
    bench.now += Duration::from_millis(1);
    let mut few = embedding::submit(&bench.shared, texts(2, vec![vec![A; 3]]), bench.now);
    let few = few.as_mut().expect("taken");
    bench.turns(2);
    assert_eq!(
        bench.scheduler.device.embedded,
        [[4], [4], [3]],
        "its turn comes after the text under way"
    );
    assert_eq!(now(few.vectors()).expect("computed").len(), 1);
    bench.turns(20);
    assert_eq!(bench.scheduler.device.embedded.iter().flatten().sum::<usize>(), 6 * 8 + 3);
    assert!(bench.shared.embeds.is_empty());
}

#[test]
fn an_urgent_text_comes_first_but_never_in_the_middle_of_another() {
    let mut bench = Bench::new(|config| config.prefill_chunk = Some(4));
    let usual = texts(1, vec![vec![A; 8]; 2]);
    let _usual = embedding::submit(&bench.shared, usual, bench.now).expect("taken");
    bench.turn();
    bench.now += Duration::from_millis(1);
    let mut urgent = texts(1, vec![vec![A; 3]]);
    urgent.scheduling.priority = crate::job::Priority::High;
    let _urgent = embedding::submit(&bench.shared, urgent, bench.now).expect("taken");
    bench.turns(3);
    assert_eq!(bench.scheduler.device.embedded, [[4], [4], [3], [4]]);
}

#[test]
fn texts_and_prompts_share_what_a_turn_may_read() {
    let mut bench = Bench::new(|config| {
        (config.batch_tokens, config.prefill_chunk) = (Some(64), Some(40));
    });
    let _generates = bench.job(&[A], 50);
    bench.turns(2);
    let _reads = bench.job(&[A; 100], 1);
    bench.turn();
    let before = bench.decodes().len();
    let _embeds = embedding::submit(&bench.shared, texts(1, vec![vec![A; 90]]), bench.now);
    bench.turn();
    assert_eq!(bench.scheduler.device.embedded, [[20]], "half of 40");
    let prompt = bench.decodes()[before].iter().filter(|token| token.slot == 1).count();
    assert_eq!(prompt, 20, "and the other half");
}

/// A prompt that is read in several steps.
fn long() -> Vec<i32> {
    vec![A; 150]
}

fn reading(bench: &Bench) -> (usize, u32) {
    let prompt = |batch: &Vec<crate::device::BatchToken>| batch.len();
    (bench.decodes().iter().map(prompt).sum(), bench.shared.gauges.queued.load(Relaxed))
}

#[test]
fn several_who_ask_the_same_at_once_have_it_read_once() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (3, 600));
    let mut jobs: Vec<Generation> = (0..3).map(|_| bench.job(&long(), 1)).collect();
    bench.turn();
    assert_eq!(reading(&bench).1, 2, "two wait for the first to read it");
    bench.turns(20);
    for job in &mut jobs {
        assert!(finish(&events(job)).is_some());
    }
    let (computed, queued) = reading(&bench);
    assert_eq!((computed, queued), (150 + 2, 0), "the others read their last token");
}

#[test]
fn nobody_waits_for_what_it_may_not_share_or_what_is_short() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (3, 600));
    let of = |caller| Scheduling { caller, ..Scheduling::default() };
    let _first = bench.submit_for(of(1), &long(), 1).expect("taken");
    let _other = bench.submit_for(of(2), &long(), 1).expect("taken");
    let short = [vec![A; 60], vec![A + 1; 60]].concat();
    let _short = bench.submit_for(of(1), &short, 1).expect("taken");
    bench.turn();
    assert_eq!(reading(&bench).1, 0);
}

#[test]
fn who_waits_goes_on_when_the_reader_leaves() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (3, 600));
    let first = bench.job(&long(), 1);
    let mut second = bench.job(&long(), 1);
    bench.turn();
    assert_eq!(reading(&bench).1, 1);
    drop(first);
    bench.turns(20);
    assert!(finish(&events(&mut second)).is_some());
}

#[test]
fn prefixes_are_given_up_when_that_is_asked_for() {
    let mut bench = Bench::new(|_| {});
    let mut done = bench.job(&[A; 30], 1);
    bench.turns(8);
    assert!(finish(&events(&mut done)).is_some());
    let _running = bench.job(&[A + 1; 5], 20);
    bench.turns(2);
    let before = bench.scheduler.tree.cells();
    bench.shared.forget.store(true, Relaxed);
    bench.turn();
    let kept = bench.scheduler.tree.cells();
    assert!(before > 30 && kept < 10, "only the running job's: {before}, {kept}");
    assert_eq!(kept, bench.scheduler.device.cells_used());
}
