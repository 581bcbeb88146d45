//! A model with a sliding window, scripted: it goes on from where a slot ends or from a checkpoint,
//! and from nothing else, which the script insists on.

use crate::{
    cells_tests::{cached, caller, numbered},
    config::{EngineConfig, KvLayout},
    scheduler_tests::{A, Bench},
};

fn sliding(change: impl FnOnce(&mut EngineConfig)) -> Bench {
    let mut bench = Bench::new(|config| {
        (config.context_tokens, config.batch_tokens) = (4_000, Some(200));
        change(config);
    });
    bench.scheduler.device.rewinds = false;
    bench
}

/// A prompt to which the script answers with letters.
fn prompt(from: i32, count: usize) -> Vec<i32> {
    let mut prompt = numbered(from, count - 1);
    prompt.push(A);
    prompt
}

fn counted_as_they_are(bench: &Bench) {
    assert_eq!(bench.scheduler.tree.cells(), bench.scheduler.device.cells_used());
}

#[test]
fn the_next_turn_goes_on_where_the_answer_ended() {
    let mut bench = sliding(|_| {});
    let mut chat = prompt(10, 30);
    assert_eq!(cached(&mut bench, 1, &chat, 5), 0);
    chat.extend(A + 1..=A + 4);
    chat.extend(numbered(20, 6));
    assert_eq!(cached(&mut bench, 1, &chat, 5), 34, "all but the last, which was never computed");
    assert_eq!(bench.scheduler.device.checkpoints, 0, "the prompts are too short for one");
    assert_eq!(cached(&mut bench, 2, &chat, 5), 0, "another caller does not");
}

#[test]
fn a_prompt_that_is_asked_again_goes_on_from_its_checkpoint() {
    for layout in [KvLayout::Unified, KvLayout::Separate] {
        let mut bench = sliding(|config| config.kv_layout = layout);
        let chat = prompt(10, 100);
        assert_eq!(cached(&mut bench, 1, &chat, 5), 0);
        assert_eq!(cached(&mut bench, 1, &chat, 5), 92, "{layout:?}");
        assert_eq!(bench.scheduler.device.checkpoints, 1, "it is still there");
        assert_eq!(bench.shared.gauges.read().checkpoint_bytes, 4 * 92);
        counted_as_they_are(&bench);
    }
}

#[test]
fn who_begins_like_another_goes_on_from_its_checkpoint_in_cells_of_its_own() {
    for layout in [KvLayout::Unified, KvLayout::Separate] {
        let mut bench = sliding(|config| (config.kv_layout, config.slots) = (layout, 3));
        let system = numbered(10, 600);
        let ask = |from| [system.clone(), prompt(from, 100)].concat();
        assert_eq!(cached(&mut bench, 1, &ask(20), 5), 0);
        assert_eq!(cached(&mut bench, 1, &ask(30), 5), 512, "{layout:?}");
        counted_as_they_are(&bench);
        assert_eq!(bench.scheduler.device.checkpoints, 3, "one at 512, one before each end");
        assert_eq!(bench.shared.gauges.read().checkpoint_bytes, 4 * (512 + 692 + 692));
        for slot in [0, 1] {
            assert_eq!(bench.scheduler.checkpoints.last_within(slot, 600), 512, "each has it");
        }
        for from in [20, 30] {
            let mut next_turn = ask(from);
            next_turn.extend([A + 1, A + 2, A + 3, A + 4, 5, 5]);
            assert_eq!(cached(&mut bench, 1, &next_turn, 1), 704, "each has its own");
        }
    }
}

#[test]
fn who_comes_with_another_one_waits_for_its_checkpoint() {
    let mut bench = sliding(|config| config.slots = 3);
    let system = numbered(10, 600);
    let ask = |from| [system.clone(), prompt(from, 100)].concat();
    let jobs = [20, 30, 40].map(|from| bench.submit_for(caller(1), &ask(from), 5).expect("taken"));
    bench.turns(1);
    assert_eq!(bench.shared.gauges.read().running, 1, "the others wait");
    bench.turns(40);
    assert_eq!(jobs.map(|job| job.usage().cached_tokens), [0, 512, 512]);
}

#[test]
fn nobody_waits_for_a_beginning_that_has_no_checkpoint() {
    let mut bench = sliding(|_| {});
    let ask = |from| [numbered(10, 300), prompt(from, 400)].concat();
    let _jobs = [20, 30].map(|from| bench.submit_for(caller(1), &ask(from), 5).expect("taken"));
    bench.turns(1);
    assert_eq!(bench.shared.gauges.read().running, 2);
}

#[test]
fn a_slot_keeps_no_checkpoints_of_what_it_held_before() {
    let mut bench = sliding(|config| (config.kv_layout, config.slots) = (KvLayout::Separate, 1));
    for from in [10, 20, 30] {
        let chat = prompt(from, 100);
        assert_eq!(cached(&mut bench, 1, &chat, 5), 0);
        assert_eq!(cached(&mut bench, 1, &chat, 5), 92);
        assert_eq!(bench.shared.gauges.read().checkpoint_bytes, 4 * 92);
    }
}

#[test]
fn without_room_for_checkpoints_there_is_only_the_end() {
    let mut bench = sliding(|config| config.checkpoint_bytes_max = 4 * 92 - 1);
    let mut chat = prompt(10, 100);
    cached(&mut bench, 1, &chat, 5);
    assert_eq!(bench.scheduler.device.checkpoints, 0, "one that has no room is not even taken");
    assert_eq!(cached(&mut bench, 1, &chat, 5), 0);
    chat.extend([A + 1, A + 2, A + 3, A + 4, 5, 5]);
    assert_eq!(cached(&mut bench, 1, &chat, 5), 104);
}

#[test]
fn a_copy_comes_in_only_when_there_are_cells_for_it() {
    let mut bench = sliding(|config| (config.slots, config.context_tokens) = (2, 500));
    let ask = prompt(10, 300);
    let _first = bench.job(&ask, 20);
    bench.turns(4);
    let _second = bench.job(&ask, 20);
    bench.turns(2);
    let read = bench.shared.gauges.read();
    assert_eq!((read.running, read.queued), (1, 1), "300 of the 320 are not the first one's");
}

#[test]
fn cells_that_are_short_take_a_prefix_back_to_a_checkpoint() {
    let mut bench = sliding(|config| config.context_tokens = 1_000);
    let long = prompt(10, 700);
    cached(&mut bench, 1, &long, 1);
    cached(&mut bench, 2, &prompt(20, 400), 1);
    counted_as_they_are(&bench);
    assert_eq!(cached(&mut bench, 1, &long, 1), 512, "100 were needed, 188 were given up");
}
