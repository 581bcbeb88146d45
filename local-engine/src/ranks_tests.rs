//! Running jobs stay beside each other in separate caches, on the scripted device: it checks that
//! every batch goes on where its sequence ends, whatever changed places before.

use crate::{
    cells_tests::{cached, caller, numbered},
    config::KvLayout,
    generation::Generation,
    scheduler_tests::{A, Bench, Faults, events, text},
};

fn separate(slots: u32) -> Bench {
    Bench::new(|config| {
        (config.slots, config.context_tokens) = (slots, slots * 200);
        (config.kv_layout, config.queue_max) = (KvLayout::Separate, 16);
        config.batch_tokens = Some(64);
    })
}

/// The slots of the last batch, each once.
fn computed(bench: &Bench) -> Vec<u32> {
    let mut slots: Vec<u32> =
        bench.decodes().last().expect("computed").iter().map(|entry| entry.slot).collect();
    slots.dedup();
    slots
}

fn are_beside_each_other(slots: &[u32]) -> bool {
    slots.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

fn prompt(from: i32) -> Vec<i32> {
    numbered(from, 20).into_iter().chain([A]).collect()
}

#[test]
fn who_ends_between_others_leaves_no_gap() {
    let mut bench = separate(4);
    let mut jobs: Vec<Generation> =
        [20, 3, 20].iter().zip(1..).map(|(most, n)| bench.job(&prompt(10 * n), *most)).collect();
    bench.turns(12);
    assert_eq!(bench.shared.gauges.read().running, 2);
    assert!(are_beside_each_other(&computed(&bench)), "{:?}", computed(&bench));
    assert_eq!(bench.shared.gauges.read().moves, 1);
    bench.turns(20);
    let texts: Vec<String> = jobs.iter_mut().map(|job| text(&events(job))).collect();
    assert_eq!(texts, ["bcdefghijklmnopqrstu", "bcd", "bcdefghijklmnopqrstu"]);
}

#[test]
fn a_batch_goes_from_slot_to_slot_whoever_reads_or_generates() {
    let mut bench = separate(3);
    let _generating = bench.job(&prompt(10), 40);
    bench.turns(4);
    let _reading = bench.job(&numbered(20, 100), 40);
    let _short = bench.job(&[30, 31, A], 40);
    bench.turns(3);
    let read = bench.decodes().last().expect("computed").iter().filter(|entry| !entry.logits);
    assert!(read.count() > 0, "the one between them reads");
    assert_eq!(computed(&bench), [0, 1, 2]);
}

#[test]
fn an_idle_prefix_that_changed_places_is_found_there() {
    let mut bench = separate(3);
    let (first, second) = (prompt(10), prompt(20));
    cached(&mut bench, 1, &first, 1);
    cached(&mut bench, 1, &second, 1);
    // The third slot is empty; the second's prefix makes room beside it.
    let mut one = bench.job(&first, 40);
    bench.turn();
    let mut other = bench.job(&prompt(30), 40);
    bench.turns(2);
    assert_eq!(bench.shared.gauges.read().moves, 1);
    assert!(are_beside_each_other(&computed(&bench)), "{:?}", computed(&bench));
    bench.turns(45);
    assert_eq!((text(&events(&mut one)).len(), text(&events(&mut other)).len()), (25, 25));
    assert_eq!(cached(&mut bench, 1, &second, 1), 20, "it is there still");
}

#[test]
fn what_cannot_be_put_back_is_read_again() {
    let mut bench = Bench::faulty(
        |config| {
            (config.slots, config.context_tokens) = (4, 800);
            config.kv_layout = KvLayout::Separate;
        },
        Faults { restores: false, ..Faults::default() },
    );
    let mut jobs: Vec<Generation> =
        [20, 3, 20].iter().zip(1..).map(|(most, n)| bench.job(&prompt(10 * n), *most)).collect();
    bench.turns(60);
    assert!(bench.shared.gauges.read().moves > 0);
    let texts: Vec<String> = jobs.iter_mut().map(|job| text(&events(job))).collect();
    assert_eq!(texts, ["bcdefghijklmnopqrstu", "bcd", "bcdefghijklmnopqrstu"]);
    let read = bench.shared.gauges.read();
    assert_eq!((read.failed, read.attributed), (0, read.busy));
}

#[test]
fn nothing_changes_places_without_room_to_save_it() {
    let mut bench = Bench::new(|config| {
        (config.slots, config.context_tokens, config.swap_bytes_max) = (4, 800, 0);
        config.kv_layout = KvLayout::Separate;
    });
    let _jobs: Vec<Generation> =
        [20, 3, 20].iter().zip(1..).map(|(most, n)| bench.job(&prompt(10 * n), *most)).collect();
    bench.turns(12);
    assert_eq!(bench.shared.gauges.read().moves, 0);
    assert!(!are_beside_each_other(&computed(&bench)));
}

#[test]
fn nothing_changes_places_in_one_pool() {
    let mut bench = Bench::new(|config| (config.slots, config.context_tokens) = (4, 800));
    let _jobs: Vec<Generation> =
        [20, 3, 20].iter().zip(1..).map(|(most, n)| bench.job(&prompt(10 * n), *most)).collect();
    bench.turns(12);
    assert_eq!(bench.shared.gauges.read().moves, 0);
    assert!(!are_beside_each_other(&computed(&bench)), "there it costs nothing");
}

/// Chats come back, jobs come and go in any order: they stay beside each other, every answer is the
/// one it would be alone, and tokens and checkpoints are where they are said to be.
#[test]
fn whoever_comes_and_goes_all_stay_beside_each_other() {
    for rewinds in [true, false] {
        let mut bench = separate(6);
        bench.scheduler.device.rewinds = rewinds;
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            i32::try_from((state >> 33) % limit).expect("small")
        };
        let mut jobs: Vec<(Generation, usize, String)> = Vec::new();
        let mut apart = 0;
        for _ in 0..3_000 {
            if jobs.len() < 5 && below(4) == 0 {
                let mut prompt = numbered(10 * (1 + below(3)), 70);
                prompt.extend(numbered(50, usize::try_from(below(9)).expect("small")));
                prompt.push(A);
                let most = 1 + below(24);
                let by = caller(1 + u64::from(below(2).unsigned_abs()));
                let job = bench.submit_for(by, &prompt, most.unsigned_abs()).expect("taken");
                jobs.push((job, usize::try_from(most).expect("small"), String::new()));
            }
            if below(40) == 0 && !jobs.is_empty() {
                jobs.swap_remove(0);
            }
            bench.turn();
            bench.scheduler.close_ranks();
            let running: Vec<u32> =
                bench.scheduler.running().map(|(at, _)| u32::try_from(at).expect("few")).collect();
            apart += usize::from(!are_beside_each_other(&running));
            for slot in 0..6 {
                assert_eq!(bench.scheduler.tree.tokens(slot), bench.scheduler.device.tokens(slot));
            }
            jobs.retain_mut(|(job, most, so_far)| {
                let events = events(job);
                *so_far += &text(&events);
                let ended = crate::scheduler_tests::finish(&events).is_some();
                assert!(!ended || *so_far == "bcdefghijklmnopqrstuvwxyz"[..*most], "{so_far}");
                !ended
            });
        }
        let read = bench.shared.gauges.read();
        assert!(read.moves > 100 && read.prefix_hits > 100, "{read:?}");
        // A job about to end is not worth copying for.
        assert!(apart < 200, "{apart} of 3,000 turns");
    }
}
