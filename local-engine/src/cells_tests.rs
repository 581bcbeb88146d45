//! Who gets which cells, on the scripted device: prefixes outlive their jobs, stay with their
//! caller, and are given up from their ends; overcommitted cells that run out lose nothing; a long
//! prompt takes only its chunk.

use std::time::Duration;

use crate::{
    config::PrefixSharing,
    evictions::EvictionKind,
    generation::Generation,
    job::{Finish, JobEvent, Scheduling},
    scheduler_tests::{A, Bench, Draw, events, finish, text},
};

pub(crate) fn numbered(from: i32, count: usize) -> Vec<i32> {
    // Below the letters, so that the script never ends a turn for them.
    (0..count).map(|n| from + i32::try_from(n % 7).expect("small")).collect()
}

pub(crate) fn caller(caller: u64) -> Scheduling {
    Scheduling { caller, ..Scheduling::default() }
}

/// Runs a job alone to its end; the prompt tokens it found in the cache.
pub(crate) fn cached(bench: &mut Bench, by: u64, prompt: &[i32], max_tokens: u32) -> u32 {
    let mut job = bench.submit_for(caller(by), prompt, max_tokens).expect("taken");
    bench.turns(40);
    assert!(finish(&events(&mut job)).is_some(), "it ended");
    job.usage().cached_tokens
}

#[test]
fn prefixes_of_more_chats_than_slots_are_kept() {
    let mut bench = Bench::new(|config| config.context_tokens = 400);
    let chats: Vec<Vec<i32>> = (0..6).map(|n| numbered(10 * (n + 1), 40)).collect();
    for chat in &chats {
        assert_eq!(cached(&mut bench, 1, chat, 1), 0);
    }
    for chat in &chats {
        let mut next_turn = chat.clone();
        next_turn.extend(numbered(2, 5));
        assert_eq!(cached(&mut bench, 1, &next_turn, 1), 40, "it pays only for what is new");
    }
    let read = bench.shared.gauges.read();
    assert_eq!((read.prefix_hits, read.prefix_misses, read.evictions), (6, 6, 0));
    assert_eq!(read.kv_used as usize, bench.scheduler.device.cells_used(), "counted as they are");
}

#[test]
fn a_caller_goes_on_from_its_own_prefixes_only_unless_told_otherwise() {
    let prompt = numbered(10, 40);
    let mut bench = Bench::new(|_| {});
    cached(&mut bench, 1, &prompt, 1);
    assert_eq!(cached(&mut bench, 2, &prompt, 1), 0, "not even how fast it is tells");
    assert_eq!(cached(&mut bench, 1, &prompt, 1), 39);

    let mut bench = Bench::new(|config| config.prefix_sharing = PrefixSharing::All);
    cached(&mut bench, 1, &prompt, 1);
    assert_eq!(cached(&mut bench, 2, &prompt, 1), 39);
}

#[test]
fn shared_cells_count_once_when_a_job_comes_in() {
    let mut bench = Bench::new(|config| config.slots = 4);
    let system = numbered(10, 100);
    let asks: Vec<Vec<i32>> =
        (0..4).map(|n| system.iter().copied().chain([50 + n, 60 + n]).collect()).collect();
    let _first = bench.job(&asks[0], 20);
    bench.turns(5);
    let _others = [bench.job(&asks[1], 20), bench.job(&asks[2], 20), bench.job(&asks[3], 20)];
    bench.turn();
    assert_eq!(bench.shared.gauges.read().running, 4, "4 x 122 cells, but 100 are the same");
}

#[test]
fn the_oldest_prefix_is_given_up_from_its_end_and_who_did_it_is_told() {
    let mut bench = Bench::new(|_| {});
    let (old, new) = (numbered(10, 100), numbered(20, 60));
    cached(&mut bench, 1, &old, 1);
    cached(&mut bench, 1, &new, 1);
    cached(&mut bench, 2, &numbered(30, 64), 1);
    let told = bench.shared.evictions.read(bench.now);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].kind, told[0].cells), (EvictionKind::Prefix, 24));
    assert_eq!((told[0].of.caller, told[0].by.caller), (1, 2));
    assert_eq!((told[0].of.number, told[0].by.number), (1, 3));
    assert_eq!(cached(&mut bench, 1, &new, 1), 59, "the newer one is whole");
    assert_eq!(cached(&mut bench, 1, &old, 1), 76, "the older one's beginning is still there");
}

/// Runs three jobs whose answers need more cells than there are; their texts.
fn crowded(swap_bytes_max: usize) -> (Bench, Vec<String>) {
    let mut bench = Bench::new(|config| {
        (config.slots, config.context_tokens, config.overcommit_percent) = (3, 64, 300);
        config.swap_bytes_max = swap_bytes_max;
    });
    let mut jobs: Vec<Generation> = (0..3)
        .map(|n| {
            bench.job(&numbered(10 * (n + 1), 16).into_iter().chain([A]).collect::<Vec<_>>(), 20)
        })
        .collect();
    bench.turns(120);
    let texts = jobs
        .iter_mut()
        .map(|job| {
            let events = events(job);
            assert_eq!(finish(&events), Some(Finish::Length), "{events:?}");
            assert_eq!(job.usage().generated_tokens, 20);
            text(&events)
        })
        .collect();
    (bench, texts)
}

#[test]
fn overcommitted_cells_that_run_out_lose_nothing() {
    let (bench, texts) = crowded(1 << 20);
    assert_eq!(texts, ["bcdefghijklmnopqrstu"; 3], "as if each had been alone");
    let read = bench.shared.gauges.read();
    assert!(read.preemptions > 0, "the cells did run out");
    assert_eq!((read.recomputed, read.swapped, read.swap_bytes), (0, 0, 0));
    assert_eq!((read.running, read.failed), (0, 0));
    let told = bench.shared.evictions.read(bench.now);
    let swapped = told.iter().find(|event| event.kind == EvictionKind::Swapped).expect("told");
    assert_eq!(swapped.of.number, 3, "the youngest gives way");
}

#[test]
fn cells_that_cannot_be_saved_are_computed_again() {
    let (bench, texts) = crowded(0);
    assert_eq!(texts, ["bcdefghijklmnopqrstu"; 3]);
    let read = bench.shared.gauges.read();
    assert!(read.preemptions > 0 && read.recomputed == read.preemptions, "{read:?}");
    assert_eq!(read.attributed, read.busy);
}

#[test]
fn who_is_outside_can_leave_and_be_ended() {
    for leaves in [true, false] {
        let mut bench = Bench::new(|config| {
            (config.slots, config.context_tokens, config.overcommit_percent) = (2, 64, 300);
        });
        let _older = bench.job(&numbered(10, 25), 30);
        let mut younger = bench.job(&numbered(20, 25), 30);
        while bench.shared.gauges.read().swapped == 0 {
            bench.turn();
        }
        if leaves {
            drop(younger);
            bench.turn();
            let read = bench.shared.gauges.read();
            assert_eq!((read.swapped, read.cancelled, read.running), (0, 1, 1));
        } else {
            bench.scheduler.end("over");
            assert!(matches!(events(&mut younger).last(), Some(JobEvent::Failed { .. })));
        }
    }
}

#[test]
fn nobody_new_comes_in_while_somebody_is_outside() {
    let mut bench = Bench::new(|config| {
        (config.slots, config.context_tokens, config.overcommit_percent) = (3, 64, 300);
    });
    let _older = bench.job(&numbered(10, 25), 30);
    let _younger = bench.job(&numbered(20, 25), 30);
    while bench.shared.gauges.read().swapped == 0 {
        bench.turn();
    }
    let _late = bench.job(&[A], 2);
    bench.turn();
    assert_eq!(bench.shared.gauges.read().queued, 1);
}

#[test]
fn while_4000_tokens_are_read_every_step_has_each_others_token_and_one_chunk() {
    let mut bench = Bench::new(|config| {
        (config.slots, config.context_tokens) = (4, 6_000);
        (config.batch_tokens, config.prefill_chunk) = (Some(512), Some(64));
        config.reader_lag_max = 500;
    });
    let streams: Vec<_> = (0..3).map(|n| bench.job(&numbered(10 * (n + 1), 5), 200)).collect();
    bench.turns(2);
    let before = bench.decodes().len();
    let long = bench.job(&numbered(50, 4_000), 1);
    while long.usage().generated_tokens == 0 {
        bench.turn();
    }
    let steps = &bench.decodes()[before..];
    assert_eq!(steps.len(), 4_000_usize.div_ceil(64));
    for step in steps {
        let decodes = step.iter().filter(|entry| entry.slot < 3).count();
        assert_eq!(decodes, 3, "no stream misses a step");
        assert!(step.len() - decodes <= 64, "and none waits for more than one chunk");
    }
    drop(streams);
}

#[test]
fn a_chunk_is_what_the_target_leaves_by_what_steps_have_cost() {
    let mut bench = Bench::new(|config| {
        (config.batch_tokens, config.prefill_chunk) = (Some(512), Some(400));
        config.gap_target = Some(Duration::from_millis(100));
    });
    assert_eq!(bench.scheduler.prefill_bound(2), 64, "before anything is known");
    for n in 0..100_u32 {
        let (decodes, prefills) = (n % 4, (n * 13) % 90);
        let took = Duration::from_millis(2 + u64::from(5 * decodes) + u64::from(prefills));
        bench.scheduler.costs.observe(decodes as usize, prefills as usize, took);
    }
    let bound = bench.scheduler.prefill_bound(2);
    assert!(bound.abs_diff(100) <= 2, "{bound}");
    let alone = bench.scheduler.prefill_bound(0);
    assert!(alone.abs_diff(200) <= 5, "nobody waits for a token: {alone}");
    bench.scheduler.gap_target = Some(Duration::from_millis(3));
    assert_eq!(bench.scheduler.prefill_bound(2), 16, "never so little that all lose");
}

/// Jobs of several callers with common beginnings, answers that need more cells than there are,
/// readers that leave: every text is what it would have been alone.
#[test]
fn whatever_happens_to_cells_no_answer_changes() {
    let preemptions = (1..5).map(|seed| whatever_happens(seed, 1, |_| {}));
    assert!(preemptions.sum::<u64>() > 0);
}

/// The same in a model with a sliding window, and with prompts that are long enough for checkpoints.
#[test]
fn nor_in_a_model_with_a_sliding_window() {
    let sliding = |bench: &mut Bench| bench.scheduler.device.rewinds = false;
    let preemptions = (1..5).map(|seed| whatever_happens(seed, 2, sliding));
    assert!(preemptions.sum::<u64>() > 0);
}

/// Says how often a job had to wait outside the cache.
fn whatever_happens(seed: u64, scale: usize, change: fn(&mut Bench)) -> u64 {
    let mut draw = Draw(seed);
    let times = u32::try_from(scale).expect("small");
    let mut bench = Bench::new(|config| {
        (config.slots, config.overcommit_percent) = (4, 400);
        (config.context_tokens, config.checkpoint_bytes_max) = (120 * times, 2_000);
        (config.queue_max, config.prefixes_max) = (16, 3);
        config.swap_bytes_max = if seed.is_multiple_of(2) { 160 * scale } else { 1 << 20 };
    });
    change(&mut bench);
    let mut jobs: Vec<(Generation, i32, u32, String)> = Vec::new();
    let mut ended = 0;
    for _ in 0..3_000 {
        match draw.below(8) {
            0 | 1 => {
                let letter = A + i32::try_from(draw.below(5)).expect("small");
                let mut prompt = numbered(10, scale * (4 + draw.below(40)));
                prompt.push(letter);
                let max_tokens = 1 + u32::try_from(draw.below(19)).expect("small");
                let by = caller(draw.below(2) as u64);
                if let Ok(job) = bench.submit_for(by, &prompt, max_tokens) {
                    jobs.push((job, letter, max_tokens, String::new()));
                }
            }
            2 if !jobs.is_empty() && draw.below(4) == 0 => {
                let at = draw.below(jobs.len() as u64);
                jobs.swap_remove(at);
            }
            _ => {
                bench.turn();
            }
        }
        jobs.retain_mut(|(job, letter, max_tokens, so_far)| {
            let events = events(job);
            so_far.push_str(&text(&events));
            if finish(&events).is_none() {
                return true;
            }
            let last = *letter + i32::try_from(*max_tokens).expect("small");
            let alone: String = (*letter + 1..=last)
                .map(|token| char::from(u8::try_from(token).expect("a letter")))
                .collect();
            assert_eq!(*so_far, alone);
            ended += 1;
            false
        });
        let counted = bench.scheduler.tree.cells();
        assert_eq!(counted, bench.scheduler.device.cells_used(), "cells are counted exactly");
        for slot in 0..bench.scheduler.slots.len() {
            let there = bench.scheduler.device.tokens(slot);
            assert_eq!(bench.scheduler.tree.tokens(slot), there, "and so are their tokens");
        }
    }
    let read = bench.shared.gauges.read();
    assert!(ended > 100 && read.prefix_hits > 0, "{ended} {read:?}");
    assert_eq!((read.failed, read.attributed), (0, read.busy));
    read.preemptions
}
