//! An engine in a process of its own keeps to what one in this process promises to who reads and who
//! waits. Which faults it survives is told in the end-to-end tests.

use std::time::{Duration, Instant};

use local_engine::{
    EngineConfig, Finish, Generation, Isolation, Job, JobEvent, Priority, Rule, Scheduling, Worker,
};

use super::{
    harness::{ask, engine, first_text, never_ending, read, small},
    hosting::until,
};

/// A word to the test program that means nothing where nothing is shown.
const AS_CHILD: &str = "--color=never";

/// [`small`], computed by a child that is this program.
fn apart() -> EngineConfig {
    let worker = Worker {
        program: std::env::current_exe().expect("this program"),
        args: ["apart::serves_its_parent", "--exact", AS_CHILD].map(str::to_owned).to_vec(),
        load_max: Duration::from_secs(600),
        stuck_after: Duration::from_secs(600),
    };
    EngineConfig { isolation: Isolation::Process(worker), ..small() }
}

/// What the child runs; where nobody computes for this process it is no test.
#[test]
fn serves_its_parent() {
    if std::env::args().any(|word| word == AS_CHILD) {
        local_engine::serve_parent().expect("a parent");
    }
}

#[test]
fn what_it_holds_is_known_before_it_tells_of_itself() {
    let engine = engine(&apart());
    assert_eq!(engine.status().kv_total, engine.info().kv_cells);
}

#[tokio::test]
async fn a_job_whose_reader_has_no_room_pauses_and_goes_on_when_it_is_read() {
    let engine = engine(&EngineConfig { reader_lag_max: 2, ..apart() });
    let mut slow = ask(&engine, "Tell me a long story.", 900);
    slow.sampling.logit_bias = never_ending(&engine);
    let mut slow = engine.submit(slow).expect("taken");
    first_text(&mut slow).await;
    until("it pauses", || engine.status().paused == 1).await;
    let slow = read(slow).await;
    assert_eq!((slow.finish(), slow.usage().generated_tokens), (Finish::Length, 900));
}

#[tokio::test]
async fn a_job_that_nobody_reads_ends_as_one_whose_reader_left() {
    let stall_max = Duration::from_secs(1);
    let engine =
        engine(&EngineConfig { reader_lag_max: 2, reader_stall_max: stall_max, ..apart() });
    let mut unread = ask(&engine, "Tell me a long story.", 900);
    unread.sampling.logit_bias = never_ending(&engine);
    let unread = engine.submit(unread).expect("taken");
    let status = || engine.status();
    until("it is given up", || (status().cancelled, status().running) == (1, 0)).await;
    let told = read(unread).await;
    assert!(matches!(told.end, JobEvent::Unread { .. }), "{:?}", told.end);
    assert!(told.usage().generated_tokens < 900, "it paused before");
}

/// When a job left the queue.
async fn started(mut generation: Generation) -> Instant {
    match generation.next().await {
        Some(JobEvent::Started { .. }) => Instant::now(),
        other => panic!("it did not start: {other:?}"),
    }
}

#[tokio::test]
async fn the_more_urgent_goes_first_also_where_another_waits_in_the_child() {
    let engine = engine(&EngineConfig { slots: 1, ..apart() });
    let of = |priority, tokens| {
        let mut job = ask(&engine, "Tell me a long story.", tokens);
        job.sampling.logit_bias = never_ending(&engine);
        job.scheduling = Scheduling { priority, ..Scheduling::default() };
        engine.submit(job).expect("taken")
    };
    let mut runs = of(Priority::Normal, 400);
    first_text(&mut runs).await;
    let low = of(Priority::Low, 50);
    // Where it has not come to the child by then there is nothing to see.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let high = of(Priority::High, 50);
    let (_, low, high) = tokio::join!(read(runs), started(low), started(high));
    assert!(high < low, "by {:?}", high.saturating_duration_since(low));
}

#[tokio::test]
async fn every_choice_of_a_request_matches_its_rule() {
    let engine = engine(&apart());
    let constraint = engine.constrain(&Rule::Regex("(yes|no)!".to_owned())).expect("compiles");
    let job = Job { constraint: Some(constraint), ..ask(&engine, "Is it?", 8) };
    for choice in engine.submit_choices(&job, 2).expect("taken") {
        let text = read(choice).await.text();
        assert!(["yes!", "no!"].contains(&text.as_str()), "{text}");
    }
}
