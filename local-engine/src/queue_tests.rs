//! Waiting, on the scripted device: callers get equal shares, a job's own deadline counts, a job
//! that leaves is noticed wherever it is, and what a newcomer would wait is told.

use std::time::Duration;

use crate::{
    error::SubmitError,
    generation::Generation,
    job::{JobEvent, Priority, Scheduling},
    predict::Prediction,
    scheduler_tests::{A, Bench, events, finish},
};

fn of(caller: u64) -> Scheduling {
    Scheduling { caller, ..Scheduling::default() }
}

fn one_slot() -> Bench {
    Bench::new(|config| (config.slots, config.queue_max) = (1, 8))
}

#[test]
fn a_flood_of_one_caller_does_not_hold_up_another() {
    let mut bench = one_slot();
    let flood: Vec<_> =
        (0..6).map(|_| bench.submit_for(of(1), &[A; 20], 4).expect("taken")).collect();
    bench.turn();
    let mut other = bench.submit_for(of(2), &[A; 20], 4).expect("taken");
    let mut turns = 0;
    while finish(&events(&mut other)).is_none() {
        bench.turn();
        turns += 1;
        assert!(turns < 40, "it is not kept waiting");
    }
    assert!(bench.shared.gauges.read().queued >= 3, "the flood still waits");
    drop(flood);
}

/// Its answers end long before their caps, and another one of its jobs always waits.
#[test]
fn who_keeps_two_requests_going_does_not_shut_out_another() {
    for cancels in [false, true] {
        let mut bench = one_slot();
        let keep = |bench: &Bench| bench.submit_for(of(1), &[A + 20], 40).expect("taken");
        let mut kept = vec![keep(&bench), keep(&bench)];
        bench.turn();
        let other = bench.submit_for(of(2), &[A; 9], 40).expect("taken");
        let mut ended = 0;
        while other.usage().generated_tokens == 0 {
            bench.turn();
            if cancels && kept[0].usage().generated_tokens > 2 {
                drop(kept.remove(0));
                kept.push(keep(&bench));
                ended += 1;
            }
            if finish(&events(&mut kept[0])).is_some() {
                kept.remove(0);
                kept.push(keep(&bench));
                ended += 1;
            }
            assert!(ended <= 3, "the other one is served in its turn");
        }
    }
}

#[test]
fn a_full_queue_takes_the_job_of_who_has_fewer() {
    let mut bench = one_slot();
    let mut flood: Vec<_> =
        (0..9).map(|_| bench.submit_for(of(1), &[A; 5], 90)).filter_map(Result::ok).collect();
    assert_eq!(flood.len(), 8);
    assert!(matches!(bench.submit_for(of(1), &[A], 1), Err(SubmitError::QueueFull { queued: 8 })));
    let mut other = bench.submit_for(of(2), &[A], 1).expect("taken");
    let newest = flood.last_mut().expect("eight");
    assert!(matches!(events(newest).last(), Some(JobEvent::Expired { .. })), "and it is told");
    bench.turns(60);
    assert!(finish(&events(&mut other)).is_some());
}

#[test]
fn a_high_priority_leaves_the_queue_first() {
    let mut bench = one_slot();
    let _running = bench.job(&[A], 3);
    bench.turn();
    let usual = bench.job(&[A], 5);
    let high = Scheduling { priority: Priority::High, ..Scheduling::default() };
    let urgent = bench.submit_for(high, &[A], 5).expect("taken");
    bench.turns(5);
    assert!(urgent.usage().generated_tokens > 0);
    assert_eq!(usual.usage().generated_tokens, 0);
}

#[test]
fn a_jobs_own_deadline_is_kept() {
    let mut bench = one_slot();
    let _running = bench.job(&[A], 20);
    bench.turn();
    let own = Scheduling { queue_wait_max: Some(Duration::from_secs(2)), ..Scheduling::default() };
    let mut hasty = bench.submit_for(own, &[A], 1).expect("taken");
    let mut patient = bench.job(&[A], 1);
    assert_eq!(bench.turn(), crate::scheduler::Turn::Again);
    bench.now += Duration::from_secs(2);
    bench.turn();
    assert_eq!(events(&mut hasty), [JobEvent::Expired { queued: Duration::from_secs(2) }]);
    assert_eq!(events(&mut patient), []);
}

#[test]
fn a_part_of_a_request_waits_as_long_as_the_others_take() {
    let mut bench = one_slot();
    let _running = bench.job(&[A], 20);
    bench.turn();
    let of_one = Scheduling { follows: true, ..Scheduling::default() };
    let mut part = bench.submit_for(of_one, &[A], 1).expect("taken");
    let mut whole = bench.job(&[A], 1);
    bench.now += Duration::from_secs(3600);
    bench.turn();
    assert!(matches!(events(&mut whole)[..], [JobEvent::Expired { .. }]));
    assert_eq!(events(&mut part), []);
    assert!(
        bench.scheduler.idle_time(bench.now) > Duration::ZERO,
        "nothing is to be done for it now"
    );
}

#[test]
fn what_waits_elsewhere_counts() {
    let bench = one_slot();
    bench.shared.queue().jobs.elsewhere = 6;
    let _two = [bench.job(&[A], 1), bench.job(&[A], 1)];
    assert!(matches!(bench.submit(&[A], 1), Err(SubmitError::QueueFull { .. })));
    bench.shared.queue().jobs.elsewhere = 5;
    bench.submit(&[A], 1).expect("there is room again");
}

#[test]
fn time_is_attributed_without_a_rest_also_when_jobs_leave_anywhere() {
    let mut bench = Bench::new(|config| {
        (config.slots, config.context_tokens, config.overcommit_percent) = (3, 64, 300);
        config.queue_max = 8;
    });
    let jobs: Vec<Generation> = (1..8)
        .map(|n| bench.submit_for(of(n % 3), &[A + 1; 12], 3 * u32::try_from(n).expect("small")))
        .filter_map(Result::ok)
        .collect();
    let mut spent = Duration::ZERO;
    for (n, job) in jobs.into_iter().enumerate() {
        bench.turns(n);
        // The next turn notices: nothing more is spent on it.
        let usage = job.usage();
        spent += usage.prefill_time + usage.decode_time;
        drop(job);
    }
    bench.turns(3);
    let read = bench.shared.gauges.read();
    assert_eq!((read.running, read.queued, read.swapped), (0, 0, 0));
    assert_eq!((spent, read.attributed), (read.busy, read.busy));
}

/// The scripted device takes no time: what is told comes from these steps.
fn seen_steps(bench: &mut Bench) {
    for n in 0..60_u32 {
        let took = Duration::from_millis(2 + u64::from(5 * (n % 2)) + u64::from(n % 30));
        bench.scheduler.costs.observe((n % 2) as usize, (n % 30) as usize, took);
    }
}

fn predict(bench: &Bench, of: &Scheduling) -> Prediction {
    bench.shared.predict(of, 100).expect("known")
}

#[test]
fn what_a_newcomer_would_wait_grows_with_the_queue_and_goes_away_with_it() {
    let mut bench = one_slot();
    let behind_all = |bench: &Bench| bench.shared.wait_behind_all();
    assert_eq!(behind_all(&bench), None, "nothing was computed yet");
    seen_steps(&mut bench);
    let running = bench.job(&[A], 100);
    bench.scheduler.turn(bench.now).expect("no fault");
    let told = |bench: &Bench| behind_all(bench).expect("known");
    let behind_one = told(&bench);
    let queued: Vec<_> = (0..3).map(|_| bench.job(&[A; 50], 100)).collect();
    let behind_four = told(&bench);
    assert!(behind_one > Duration::from_millis(100), "{behind_one:?}");
    assert!(behind_four > behind_one * 3, "{behind_four:?} for {behind_one:?}");
    assert_eq!(predict(&bench, &of(0)).wait, behind_four, "it would be its caller's last");
    drop((running, queued));
    bench.turn();
    assert_eq!(told(&bench), Duration::ZERO);
    let expected = predict(&bench, &of(0));
    assert!(expected.ttft > expected.wait, "the prompt is read too");
}

#[test]
fn a_flood_of_one_caller_is_no_wait_for_another() {
    let mut bench = one_slot();
    seen_steps(&mut bench);
    let flood: Vec<_> =
        (0..7).map(|_| bench.submit_for(of(1), &[A; 20], 100).expect("taken")).collect();
    bench.scheduler.turn(bench.now).expect("no fault");
    let flex = Scheduling { priority: Priority::Low, ..of(2) };
    let wait = |of: &Scheduling| predict(&bench, of).wait;
    let (own, other, behind_all) = (wait(&of(1)), wait(&of(2)), wait(&flex));
    assert!(other > Duration::ZERO, "somebody runs");
    assert!(own > other * 5, "{own:?} for the flood and {other:?} for the other");
    assert_eq!(behind_all, own, "what waits behind all others waits behind the flood");

    // And so it comes: the other one's job is the next.
    let mut other = bench.submit_for(of(2), &[A; 20], 1).expect("taken");
    drop(flood.into_iter().next());
    bench.turns(3);
    assert!(finish(&events(&mut other)).is_some());
}

/// Between a step's beginning and its end a job that has just come in is in no queue.
#[test]
fn a_job_that_has_just_come_in_is_ahead_of_a_newcomer() {
    let mut bench = one_slot();
    seen_steps(&mut bench);
    let _job = bench.job(&[A; 20], 100);
    bench.scheduler.let_in(bench.now);
    assert!(predict(&bench, &of(2)).wait > Duration::from_millis(100));
}
