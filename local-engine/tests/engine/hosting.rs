//! Several models on one device: loaded when needed, unloaded when not, exchanged while they
//! answer, lost by a fault and loaded again, and never two that compute at once.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use local_engine::{
    Engine, EngineConfig, Finish, Generation, Host, HostConfig, HostedModel, JobEvent, Keep,
    LoadError, LoadWhen, ModelState, NotLoaded,
};

use crate::harness::{answer, ask, first_text, model_file, never_ending, read, small};

fn host() -> Host {
    Host::start(&HostConfig::default()).expect("a host")
}

fn on_use() -> Keep {
    Keep { load: LoadWhen::FirstUse, ..Keep::default() }
}

fn drilled(drill: &str) -> EngineConfig {
    let mut config = small();
    config.drill = Some(drill.parse().expect("a drill"));
    config
}

/// A job that goes on for long.
fn long(engine: &Engine, tokens: u32) -> Generation {
    let mut job = ask(engine, "Tell me a long story.", tokens);
    job.sampling.logit_bias = never_ending(engine);
    engine.submit(job).expect("taken")
}

/// Waits for a state that comes in its own time.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The model's file under another name.
fn copy(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("other.gguf");
    std::fs::copy(model_file(), &path).expect("copied");
    path
}

async fn finishes(model: &HostedModel) {
    let engine = model.engine().await.expect("loaded");
    let job = ask(&engine, "Name a color.", 3);
    assert_eq!(answer(&engine, job).await.usage().generated_tokens, 3);
}

/// A host with memory for two small models.
fn host_for_two() -> Host {
    let probe = Engine::load(&small()).expect("loads");
    let one = probe.info().memory_bytes;
    drop(probe);
    Host::start(&HostConfig { memory_max: Some(one * 2 + 1) }).expect("a host")
}

#[tokio::test]
async fn a_panic_fails_its_jobs_and_the_model_comes_back() {
    for (drill, said) in [("panic:4", "a rehearsed panic"), ("fault:4", "a rehearsed fault")] {
        let host = host();
        let neighbour = host.keep("neighbour", small(), Keep::default()).expect("kept");
        neighbour.load().await.expect("loads");
        let keep = Keep { reload_after: Duration::from_millis(50), ..Keep::default() };
        let model = host.keep("edge", drilled(drill), keep).expect("kept");
        let engine = model.engine().await.expect("loaded");
        let other = neighbour.engine().await.expect("loaded");
        let neighbours = long(&other, 40);

        let lost = read(long(&engine, 200)).await;
        match lost.end {
            JobEvent::Failed { reason, .. } => assert!(reason.contains(said), "{reason}"),
            other => panic!("the job did not fail: {other:?}"),
        }
        until("it is loaded again", || model.counts().loads == 2).await;
        assert_eq!(model.counts().faults, 1, "the fault is counted");
        finishes(&model).await;
        assert_eq!(read(neighbours).await.usage().generated_tokens, 40, "nobody else noticed");
        assert_eq!(neighbour.counts().faults, 0);
    }
}

#[tokio::test]
async fn a_failed_model_is_told_at_once_until_its_next_try() {
    let host = host();
    let keep = Keep { reload_after: Duration::from_secs(3_600), ..on_use() };
    let model = host.keep("edge", drilled("fault:1"), keep).expect("kept");
    let engine = model.engine().await.expect("loaded");
    assert!(matches!(read(long(&engine, 50)).await.end, JobEvent::Failed { .. }));
    assert!(!model.is_available());
    let refused = model.engine().await.expect_err("it waits for its next try");
    assert!(matches!(refused, NotLoaded::Failed { .. }), "{refused}");
    assert!(engine.submit(ask(&engine, "Hello.", 1)).is_err(), "the old one takes no jobs");
    model.unload(Duration::ZERO).await.expect("unloaded");
    assert_eq!(model.state(), ModelState::Unloaded { on_use: true }, "an operator clears it away");
    finishes(&model).await;
}

#[tokio::test]
async fn a_model_that_failed_once_and_was_unloaded_in_order_has_proved_itself() {
    let host = host();
    let keep = Keep { reload_after: Duration::ZERO, ..on_use() };
    let model = host.keep("edge", drilled("fault:1"), keep).expect("kept");
    let engine = model.engine().await.expect("loaded");
    assert!(matches!(read(long(&engine, 50)).await.end, JobEvent::Failed { .. }));
    drop(engine);
    until("the fault is noticed", || model.counts().faults == 1).await;
    let is_loading = || matches!(model.state(), ModelState::Loading { .. });
    for (loads, available) in [(2, false), (3, true), (4, true)] {
        let look = async {
            until("it is being loaded", || is_loading() || model.counts().loads == loads).await;
            assert!(!is_loading() || model.is_available() == available, "load {loads}");
        };
        let (loaded, ()) = tokio::join!(model.engine(), look);
        drop(loaded.expect("loaded"));
        finishes(&model).await;
        model.unload(Duration::ZERO).await.expect("unloaded");
    }
}

#[tokio::test]
async fn an_answer_is_use_to_its_end() {
    let host = host();
    let keep = Keep { unload_after: Some(Duration::from_secs(3)), ..on_use() };
    let model = host.keep("edge", small(), keep).expect("kept");
    let running = long(&model.engine().await.expect("loaded"), 900);
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    drop(running);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(model.counts().unloads, 0, "it was used until a moment ago");
    until("it is unloaded", || model.counts().unloads == 1).await;
}

#[tokio::test]
async fn a_failed_model_that_is_unloaded_stays_so() {
    let host = host();
    let keep = Keep { reload_after: Duration::from_millis(300), ..Keep::default() };
    let model = host.keep("edge", drilled("fault:1"), keep).expect("kept");
    let engine = model.engine().await.expect("loaded");
    assert!(matches!(read(long(&engine, 50)).await.end, JobEvent::Failed { .. }));
    model.unload(Duration::ZERO).await.expect("unloaded");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(model.state(), ModelState::Unloaded { on_use: false });
    assert_eq!(model.counts().loads, 1, "until an operator loads it");
}

#[tokio::test]
async fn a_model_is_loaded_on_first_use_and_unloaded_when_nobody_uses_it() {
    let host = host();
    let keep = Keep { unload_after: Some(Duration::from_millis(100)), ..on_use() };
    let model = host.keep("edge", small(), keep).expect("kept");
    assert_eq!(model.state(), ModelState::Unloaded { on_use: true });
    assert_eq!(host.status().memory_used, 0);
    let engine = model.engine().await.expect("loaded");
    assert!(engine.info().load_time > Duration::ZERO && engine.info().memory_bytes > 90 << 20);
    assert_eq!(host.status().memory_used, engine.info().memory_bytes);
    let running = long(&engine, 30);
    drop(engine);
    assert_eq!(read(running).await.usage().generated_tokens, 30, "work keeps it loaded");
    until("it is unloaded", || model.counts().unloads == 1).await;
    until("its memory is free", || host.status().memory_used == 0).await;
    finishes(&model).await;
    assert_eq!(model.counts().loads, 2, "and loaded again by the next request");
}

#[tokio::test]
async fn the_one_unused_longest_makes_room_and_never_one_with_work() {
    let host = host_for_two();
    let keep = |name| host.keep(name, small(), on_use()).expect("kept");
    let (a, b, c) = (keep("a"), keep("b"), keep("c"));
    finishes(&a).await;
    finishes(&b).await;
    finishes(&a).await;
    finishes(&c).await;
    assert_eq!(b.state(), ModelState::Unloaded { on_use: true }, "b was unused longest");
    assert_eq!(a.state(), ModelState::Loaded);

    let (of_a, of_c) = (a.engine().await.expect("loaded"), c.engine().await.expect("loaded"));
    let (mut first, mut second) = (long(&of_a, 400), long(&of_c, 400));
    first_text(&mut first).await;
    first_text(&mut second).await;
    // Who orders it is told so; a request waits, as for any load.
    let refused = b.load().await.expect_err("there is no room");
    assert!(refused.to_string().contains("MiB"), "it says how much: {refused}");
    let hurried = Keep { load_wait_max: Duration::from_millis(50), ..on_use() };
    let hurried = host.keep("hurried", small(), hurried).expect("kept");
    let refused = hurried.engine().await.expect_err("there is no room in time");
    assert!(matches!(refused, NotLoaded::Timeout { .. }), "{refused}");
    let leave = async {
        until("it is waited for", || b.waiting() == 1).await;
        drop((first, second, of_a, of_c));
    };
    let (loaded, ()) = tokio::join!(b.engine(), leave);
    loaded.expect("there is room when the work is over");
    for model in [&b, &hurried] {
        assert_eq!(model.counts().failed_loads, 0, "nothing is wrong with it");
        assert!(model.is_available());
    }
    finishes(&b).await;
}

#[tokio::test]
async fn no_model_is_unloaded_for_one_that_would_have_no_room_all_the_same() {
    let needed = |config: &EngineConfig| Engine::load(config).expect("loads").info().memory_bytes;
    let mut large = small();
    large.context_tokens = 20_480;
    let (one, most) = (needed(&small()), needed(&large));
    assert!(one * 2 <= most, "{one} {most}");
    let host = Host::start(&HostConfig { memory_max: Some(most) }).expect("a host");
    let keep = |name, config| host.keep(name, config, on_use()).expect("kept");
    let larger = keep("d", EngineConfig { context_tokens: 40_960, ..large.clone() });
    let (busy, idle, large) = (keep("a", small()), keep("b", small()), keep("c", large));
    let engine = busy.engine().await.expect("loaded");
    finishes(&idle).await;
    assert!(matches!(larger.load().await, Err(LoadError::Memory { .. })), "it never has room");
    assert!(matches!(larger.state(), ModelState::Failed { .. }));
    let mut running = long(&engine, 400);
    first_text(&mut running).await;
    assert!(matches!(large.load().await, Err(LoadError::Memory { .. })));
    assert_eq!(large.state(), ModelState::Unloaded { on_use: true });
    for model in [&busy, &idle] {
        assert_eq!((model.state(), model.counts().unloads), (ModelState::Loaded, 0));
    }
    drop((running, engine));
    finishes(&large).await;
    assert_eq!((busy.counts().unloads, idle.counts().unloads), (1, 1));
}

#[tokio::test]
async fn a_swap_drains_the_old_file_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = host();
    let model = host.keep("edge", small(), Keep::default()).expect("kept");
    let old = model.engine().await.expect("loaded");
    let mut running = long(&old, 60);
    first_text(&mut running).await;

    let bad = directory.path().join("bad.gguf");
    std::fs::write(&bad, b"GGUF and nothing else").expect("written");
    let refused = model.swap(bad, Duration::from_secs(60)).await.expect_err("it is no model");
    assert!(refused.to_string().contains("bad.gguf"), "{refused}");
    assert_eq!((model.state(), model.file()), (ModelState::Loaded, model_file()));

    let other = copy(&directory);
    model.swap(other.clone(), Duration::from_secs(60)).await.expect("swapped");
    assert_eq!(model.file(), other);
    let new = model.engine().await.expect("loaded");
    assert_eq!(new.info().file, other);
    // A request prepared before the swap may still ask the old one.
    assert_eq!(read(long(&old, 5)).await.usage().generated_tokens, 5);
    assert_eq!(read(running).await.finish(), Finish::Length, "the old answer goes on to its end");
    finishes(&model).await;
    drop(old);
    until("the old memory is free", || host.status().memory_used == new.info().memory_bytes).await;
}

#[tokio::test]
async fn a_model_that_was_exchanged_is_as_good_as_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = host();
    let keep = Keep { unload_after: Some(Duration::from_secs(3)), ..on_use() };
    let model = host.keep("edge", small(), keep).expect("kept");
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    model.swap(copy(&directory), Duration::ZERO).await.expect("swapped");
    // It is answered after the keeper has looked who is idle.
    model.load().await.expect("it is loaded");
    let counts = model.counts();
    assert_eq!((counts.loads, counts.unloads), (1, 0), "nobody has had time to use it");
}

#[tokio::test]
async fn an_unloaded_model_stays_so_until_it_is_loaded() {
    let host = host();
    let model = host.keep("edge", small(), Keep::default()).expect("kept");
    finishes(&model).await;
    model.unload(Duration::ZERO).await.expect("unloaded");
    assert_eq!(model.state(), ModelState::Unloaded { on_use: false });
    assert_eq!(model.engine().await.expect_err("nobody loads it"), NotLoaded::Unloaded);
    model.load().await.expect("loads");
    finishes(&model).await;
}

#[tokio::test]
async fn the_memory_of_a_model_that_is_ending_is_waited_for() {
    let host = host_for_two();
    let keep = |name| host.keep(name, small(), on_use()).expect("kept");
    let (a, b, c) = (keep("a"), keep("b"), keep("c"));
    let (of_a, of_b) = (a.engine().await.expect("loaded"), b.engine().await.expect("loaded"));
    let (mut first, mut second) = (long(&of_a, 400), long(&of_b, 400));
    first_text(&mut first).await;
    first_text(&mut second).await;
    a.unload(Duration::ZERO).await.expect("unloaded");
    c.load().await.expect("its place is free as soon as the step that runs is over");
    finishes(&c).await;
    assert_eq!(b.state(), ModelState::Loaded, "it works");
    assert!(matches!(read(first).await.end, JobEvent::Stopped { .. }), "as was asked");
    drop(second);
}

#[tokio::test]
async fn who_waits_for_a_load_that_is_called_off_is_told() {
    let probe = Engine::load(&small()).expect("loads");
    let one = probe.info().memory_bytes;
    drop(probe);
    let host = Host::start(&HostConfig { memory_max: Some(one + 1) }).expect("a host");
    let works = host.keep("works", small(), on_use()).expect("kept");
    let engine = works.engine().await.expect("loaded");
    let mut running = long(&engine, 400);
    first_text(&mut running).await;
    let waits = host.keep("waits", small(), Keep::default()).expect("kept");
    let unload = async {
        until("it is waited for", || waits.waiting() == 1).await;
        waits.unload(Duration::ZERO).await.expect("unloaded");
    };
    let (told, ()) = tokio::join!(waits.engine(), unload);
    assert_eq!(told.expect_err("nobody loads it"), NotLoaded::Unloaded);
    drop(running);
}

#[tokio::test]
async fn waits_for_a_load_are_bounded_in_number_and_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = host();
    let mut config = small();
    config.file = directory.path().join("missing.gguf");
    let keep = Keep { load_waiting_max: 0, ..on_use() };
    let crowded = host.keep("crowded", config.clone(), keep).expect("kept");
    assert_eq!(crowded.engine().await.expect_err("no place"), NotLoaded::TooManyWait);
    let missing = host.keep("missing", config, on_use()).expect("kept");
    let refused = missing.engine().await.expect_err("there is no file");
    assert!(refused.to_string().contains("cannot be read"), "{refused}");
    assert_eq!((missing.counts().failed_loads, missing.waiting()), (1, 0));
    let keep = Keep { load_wait_max: Duration::ZERO, ..on_use() };
    let hurried = host.keep("hurried", small(), keep).expect("kept");
    let refused = hurried.engine().await.expect_err("no time");
    assert!(matches!(refused, NotLoaded::Timeout { .. }), "{refused}");
}

#[tokio::test]
async fn two_models_never_compute_at_once_and_share_by_time() {
    let host = host();
    let keep = |name| host.keep(name, small(), Keep::default()).expect("kept");
    let (a, b) = (keep("a"), keep("b"));
    let (of_a, of_b) = (a.engine().await.expect("loaded"), b.engine().await.expect("loaded"));
    let begun = Instant::now();
    let (mut first, mut second) = (long(&of_a, 120), long(&of_b, 120));
    first_text(&mut first).await;
    first_text(&mut second).await;
    let busy = |engine: &Engine| engine.status().busy;
    let from = (busy(&of_a), busy(&of_b));
    // Both are read: a job whose reader lags would pause.
    let until_the_end = async {
        let first = read(first).await;
        (first, (busy(&of_a) - from.0, busy(&of_b) - from.1))
    };
    let ((first, at_end_of_first), second) = tokio::join!(until_the_end, read(second));
    let wall = begun.elapsed();
    let used = |usage: local_engine::JobUsage| usage.prefill_time + usage.decode_time;
    let both = used(first.usage()) + used(second.usage());
    assert!(both <= wall, "no second is booked twice: {both:?} of {wall:?}");
    let (more, less) =
        (at_end_of_first.0.max(at_end_of_first.1), at_end_of_first.0.min(at_end_of_first.1));
    assert!(less * 2 > more, "while both had work they had like times: {at_end_of_first:?}");
}

#[tokio::test]
async fn health_answers_while_the_device_is_stuck() {
    let host = host();
    let model = host.keep("edge", drilled("block:2:6000"), Keep::default()).expect("kept");
    let engine = model.engine().await.expect("loaded");
    let running = long(&engine, 10);
    until("the heartbeat ages", || {
        let status = engine.status();
        status.steps == 2 && host.status().heartbeat_age > Duration::from_millis(500)
    })
    .await;
    let queued = engine.submit(ask(&engine, "Hello.", 1)).expect("taken while it is stuck");
    assert_eq!(model.state(), ModelState::Loaded);
    assert!(engine.status().heartbeat_age > Duration::from_millis(500));
    assert_eq!(engine.status().steps, 2, "nothing waited for the device, which is still stuck");
    assert_eq!(read(running).await.usage().generated_tokens, 10, "and it goes on afterwards");
    read(queued).await;
}
