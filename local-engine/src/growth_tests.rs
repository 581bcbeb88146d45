//! A bound of engine time that may be raised: the job tells in time, waits at the bound, goes on with
//! more, and ends where there is none. A bound of a nanosecond is passed by any step, however fast
//! the machine.

use std::time::Duration;

use crate::{
    generation::Generation,
    job::{Finish, Job, JobEvent},
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
    job.extend(Duration::from_secs(60));
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
            job.extend(job.usage().prefill_time + job.usage().decode_time);
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
    job.no_more_time();
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
    assert!(matches!(events(&mut job).last(), Some(JobEvent::Failed { .. })));
    assert_eq!(bench.shared.gauges.read().running, 0);
}
