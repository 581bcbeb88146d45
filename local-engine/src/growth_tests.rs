//! A bound of engine time that may be raised: the job tells in time, waits at the bound, goes on with
//! more, and ends where there is none. A bound of a nanosecond is passed by any step, however fast
//! the machine.

use std::time::Duration;

use crate::{
    embedding::{self, EmbedError, EmbedEvent, EmbedJob, Embedding},
    generation::Generation,
    job::{Finish, Job, JobEvent, Scheduling},
    scheduler::Turn,
    scheduler_tests::{A, Bench, events, finish, greedy, text},
};

const REST: &str = "bcdefghijklmnopqrstuvwxyz";

fn submit(bench: &Bench, may_grow: bool) -> Generation {
    let job = Job {
        max_tokens: 100,
        engine_time_max: Duration::from_nanos(1),
        engine_time_may_grow: may_grow,
        ..greedy(&[A])
    };
    let (told, meter) = bench.shared.enqueue(job, bench.now).expect("taken");
    Generation::new(told, meter, std::sync::Arc::clone(&bench.shared))
}

fn lows(events: &[JobEvent]) -> usize {
    events.iter().filter(|event| **event == JobEvent::EngineTimeLow).count()
}

#[test]
fn a_bound_that_may_not_grow_ends_the_answer() {
    let mut bench = Bench::new(|_| {});
    let mut job = submit(&bench, false);
    bench.turns(3);
    let told = events(&mut job);
    assert_eq!((text(&told).as_str(), finish(&told)), ("b", Some(Finish::EngineTime)));
    assert_eq!(lows(&told), 0);
}

#[test]
fn a_job_waits_at_its_bound_and_goes_on_with_more() {
    let mut bench = Bench::new(|_| {});
    let mut job = submit(&bench, true);
    bench.turns(5);
    assert_eq!(bench.decodes().len(), 1, "nothing is computed beyond the bound");
    let told = events(&mut job);
    assert_eq!((lows(&told), finish(&told)), (1, None), "it is asked for, once: {told:?}");
    assert!(matches!(bench.turn(), Turn::Park(_)), "it keeps nobody busy");
    job.engine_time().extend(Duration::from_secs(60));
    assert!(bench.shared.was_woken());
    bench.turns(30);
    let rest = events(&mut job);
    assert_eq!(text(&told) + &text(&rest), REST, "not a token is lost");
    assert_eq!((lows(&rest), finish(&rest)), (0, Some(Finish::Stop)));
}

#[test]
fn however_often_it_is_too_little_the_answer_is_whole() {
    let mut bench = Bench::new(|_| {});
    let mut job = submit(&bench, true);
    let mut told = Vec::new();
    for _ in 0..60 {
        bench.turn();
        let new = events(&mut job);
        if lows(&new) > 0 {
            job.engine_time().extend(job.usage().prefill_time + job.usage().decode_time);
        }
        told.extend(new);
    }
    assert_eq!((text(&told).as_str(), finish(&told)), (REST, Some(Finish::Stop)));
    assert!(lows(&told) > 1, "each bound was told of");
}

#[test]
fn where_there_is_no_more_it_ends_with_what_it_has() {
    let mut bench = Bench::new(|_| {});
    let mut job = submit(&bench, true);
    let mut other = bench.job(&[A], 20);
    bench.turns(3);
    job.engine_time().no_more();
    bench.turns(30);
    let told = events(&mut job);
    assert_eq!((text(&told).as_str(), finish(&told)), ("b", Some(Finish::EngineTime)));
    assert_eq!(text(&events(&mut other)), REST[..20], "the others go on meanwhile");
    let read = bench.shared.gauges.read();
    assert_eq!((read.finished, read.running), (2, 0));
}

#[test]
fn one_whose_owner_says_nothing_loses_its_slot() {
    let mut bench = Bench::new(|config| config.reader_stall_max = Duration::from_secs(9));
    let mut job = submit(&bench, true);
    bench.turns(4);
    bench.now += Duration::from_secs(9);
    bench.turn();
    assert!(matches!(events(&mut job).last(), Some(JobEvent::Unread { .. })));
    assert_eq!(bench.shared.gauges.read().running, 0);
}

/// A text whose bound any chunk passes.
fn text_of(bench: &Bench, tokens: usize) -> Embedding {
    let job = EmbedJob {
        inputs: vec![vec![A; tokens]],
        pooling: None,
        engine_time_max: Duration::from_nanos(1),
        engine_time_may_grow: true,
        scheduling: Scheduling::default(),
    };
    embedding::submit(&bench.shared, job, bench.now).expect("taken")
}

/// What it tells, if there is something now.
fn told(embedding: &mut Embedding) -> Option<EmbedEvent> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(embedding.next()).poll(&mut context) {
        std::task::Poll::Ready(event) => Some(event),
        std::task::Poll::Pending => None,
    }
}

fn in_chunks_of_four() -> Bench {
    Bench::new(|config| {
        config.prefill_chunk = Some(4);
        config.reader_stall_max = Duration::from_secs(9);
        config.queue_wait_max = Duration::from_secs(3);
    })
}

#[test]
fn a_text_waits_at_its_bound_and_goes_on_with_more() {
    let mut bench = in_chunks_of_four();
    let mut text = text_of(&bench, 10);
    bench.turns(5);
    assert_eq!(bench.scheduler.device.embedded, [[4]], "nothing is computed beyond the bound");
    assert_eq!(told(&mut text), Some(EmbedEvent::EngineTimeLow));
    assert_eq!(told(&mut text), None, "it is asked for once");
    assert!(matches!(bench.turn(), Turn::Park(_)), "it keeps nobody busy");
    text.engine_time().extend(Duration::from_secs(60));
    assert!(bench.shared.was_woken());
    bench.turns(5);
    assert_eq!(bench.scheduler.device.embedded, [[4], [4], [2]], "from where it stood");
    assert!(matches!(told(&mut text), Some(EmbedEvent::Ended(Ok(_)))));
}

#[test]
fn however_often_it_is_too_little_for_a_text_it_is_asked_for_again() {
    let mut bench = in_chunks_of_four();
    let mut text = text_of(&bench, 10);
    for _ in 0..3 {
        bench.turn();
        assert_eq!(told(&mut text), Some(EmbedEvent::EngineTimeLow));
        text.engine_time().extend(Duration::from_nanos(1));
    }
    assert_eq!(bench.scheduler.device.embedded, [[4]], "a nanosecond more is not enough");
    for _ in 0..20 {
        bench.turn();
        match told(&mut text) {
            Some(EmbedEvent::EngineTimeLow) => text.engine_time().extend(text.usage().prefill_time),
            Some(EmbedEvent::Ended(vectors)) => return assert!(vectors.is_ok()),
            None => {}
        }
    }
    panic!("it is never done");
}

#[test]
fn a_text_that_waits_holds_up_nobody_and_is_read_anew() {
    let mut bench = in_chunks_of_four();
    let mut waits = text_of(&bench, 10);
    bench.turn();
    let mut other = text_of(&bench, 3);
    bench.turns(3);
    assert_eq!(bench.scheduler.device.embedded, [[4], [3]]);
    assert!(matches!(told(&mut other), Some(EmbedEvent::Ended(Ok(_)))));
    // It was begun: for want of a turn it does not end any more.
    bench.now += Duration::from_secs(4);
    bench.turn();
    assert_eq!(told(&mut waits), Some(EmbedEvent::EngineTimeLow));
    waits.engine_time().extend(Duration::from_secs(60));
    bench.turns(5);
    assert_eq!(
        bench.scheduler.device.embedded,
        [[4], [3], [4], [4], [2]],
        "its cells were another's"
    );
    let Some(EmbedEvent::Ended(Ok(vectors))) = told(&mut waits) else { panic!("it is computed") };
    // The mean of (3, 4) and nine times (0, 4), brought to length 1.
    let length = (0.3_f32 * 0.3 + 16.0).sqrt();
    assert!((vectors[0][0] - 0.3 / length).abs() < 1e-6, "{vectors:?}");
    assert_eq!(waits.usage().prompt_tokens, 10, "each token counts once");
}

#[test]
fn a_text_without_more_time_ends_there() {
    let mut bench = in_chunks_of_four();
    let (mut refused, mut forgotten) = (text_of(&bench, 10), text_of(&bench, 10));
    bench.turns(3);
    assert_eq!(bench.scheduler.device.embedded, [[4], [4]]);
    refused.engine_time().no_more();
    bench.turn();
    let ended = EmbedEvent::Ended(Err(EmbedError::EngineTime));
    assert_eq!(told(&mut refused), Some(EmbedEvent::EngineTimeLow));
    assert_eq!(told(&mut refused), Some(ended.clone()));
    assert!(!bench.shared.embeds.is_empty(), "the other's owner may still say something");
    bench.now += Duration::from_secs(9);
    bench.turn();
    assert_eq!(told(&mut forgotten), Some(EmbedEvent::EngineTimeLow));
    assert_eq!(told(&mut forgotten), Some(ended), "and has not");
    assert!(bench.shared.embeds.is_empty());
    assert_eq!(bench.scheduler.device.embedded, [[4], [4]], "nothing is computed beyond the bound");
}
