//! A draft model on scripted devices: what comes out is what comes out without one, in fewer steps,
//! whatever it proposes and whatever becomes of the jobs. The scripted device refuses a batch that
//! leaves a gap in a sequence, so a seat that was not cut right fails these tests.

use crate::{
    config::{EngineConfig, KvLayout},
    device::BatchToken,
    draft::{Drafter, Want},
    generation::Generation,
    job::Scheduling,
    load::can_be_drafted_for,
    scheduler_tests::{A, Bench, Faults, Script, events, finish, greedy, text},
    speculation::{DraftLength, RequestClass, Speculation, Timed},
};

/// The letters after `a`.
const REST: &str = "bcdefghijklmnopqrstuvwxyz";

fn on(config: &mut EngineConfig) {
    let file = "draft".into();
    config.speculation = Speculation::Draft { file, tokens_max: 4, streams_max: 2 };
    config.prefill_chunk = Some(32);
}

/// An engine whose draft model is wrong after some tokens and may break.
fn drafting(wrong: fn(i32) -> bool, faults: Faults, change: fn(&mut EngineConfig)) -> Bench {
    let mut of_draft = None;
    let mut bench = Bench::new(|config| {
        on(config);
        change(config);
        of_draft = config.of_draft();
    });
    bench.draft_by(&of_draft.expect("there is one"), wrong, faults);
    bench
}

/// An engine with a draft model that is right, on a device that is changed, and the settings of both.
fn drafting_on(change: fn(&mut Script)) -> (Bench, EngineConfig) {
    let mut settings = None;
    let mut bench = Bench::new(|config| {
        on(config);
        settings = Some(config.clone());
    });
    let config = settings.expect("they were seen");
    let of_draft = config.of_draft().expect("there is one");
    let mut script = Script::new(&of_draft, Faults::default());
    change(&mut script);
    bench.draft_with(script, of_draft.slots, of_draft.context_tokens);
    (bench, config)
}

fn right() -> Bench {
    drafting(|_| false, Faults::default(), |_| {})
}

/// The batches that the draft model has computed.
fn drafts(bench: &Bench) -> &[Vec<BatchToken>] {
    &bench.scheduler.drafter.as_ref().expect("it is there").device().decodes
}

fn tokens_drafted(bench: &Bench) -> usize {
    drafts(bench).iter().map(Vec::len).sum()
}

/// Takes turns until a job has ended; its text, and the steps that took.
fn to_the_end(bench: &mut Bench, job: &mut Generation) -> (String, usize) {
    let before = bench.decodes().len();
    let mut told = Vec::new();
    for _ in 0..60 {
        bench.turn();
        told.extend(events(job));
        if finish(&told).is_some() {
            break;
        }
    }
    assert!(finish(&told).is_some(), "{told:?}");
    let read = bench.shared.gauges.read();
    assert_eq!(read.busy, read.attributed, "every nanosecond is somebody's");
    let tree = bench.scheduler.tree.cells();
    assert_eq!(tree, bench.scheduler.device.cells_used(), "what is thought to be in the cells is");
    (text(&told), bench.decodes().len() - before)
}

#[test]
fn right_proposals_spare_steps_and_change_nothing() {
    let mut plain = Bench::new(|config| config.prefill_chunk = Some(32));
    let mut job = plain.job(&[A], 100);
    let (expected, steps) = to_the_end(&mut plain, &mut job);
    assert_eq!(expected, REST);
    let mut bench = right();
    let mut job = bench.job(&[A], 100);
    let (drafted, fewer) = to_the_end(&mut bench, &mut job);
    assert_eq!(drafted, expected);
    assert!(fewer + 10 < steps, "{fewer} steps and not {steps}");
    let status = bench.shared.gauges.read();
    let [told] = status.speculation.as_slice() else { panic!("one class: {status:?}") };
    assert_eq!(told.accepted, told.drafted, "all were right");
    let draft = status.draft.expect("its numbers are told");
    assert_eq!(usize::try_from(draft.tokens), Ok(tokens_drafted(&bench)));
    assert!(draft.busy <= status.busy && !draft.busy.is_zero());
    assert!(draft.kv_used > 0 && draft.kv_used <= draft.kv_total);
    assert_eq!(status.decode_tokens, 25, "what it computes is no token of an answer");
}

#[test]
fn wrong_proposals_are_taken_back_from_both_caches() {
    let wrong: [fn(i32) -> bool; 4] =
        [|_| true, |token| token % 2 == 0, |token| token % 3 == 0, |token| token % 7 == 0];
    for (at, wrong) in wrong.into_iter().enumerate() {
        let mut bench = drafting(wrong, Faults::default(), |_| {});
        let mut job = bench.job(&[A], 100);
        assert_eq!(to_the_end(&mut bench, &mut job).0, REST, "the {at}th way to be wrong");
        let read = bench.shared.gauges.read();
        assert!(read.speculation.iter().all(|told| told.accepted < told.drafted), "{read:?}");
    }
}

#[test]
fn an_answer_ends_at_its_cap_among_right_proposals() {
    for max_tokens in 1..20 {
        let mut bench = right();
        let mut job = bench.job(&[A], max_tokens);
        let (drafted, _) = to_the_end(&mut bench, &mut job);
        assert_eq!(drafted, REST[..max_tokens as usize]);
    }
}

#[test]
fn several_are_proposed_for_at_once_and_one_may_leave() {
    let mut bench = right();
    let mut stays = bench.job(&[A], 60);
    let leaves = bench.job(&[A + 1], 60);
    bench.turns(7);
    assert!(
        drafts(&bench).iter().any(|batch| batch.iter().any(|token| token.slot != batch[0].slot)),
        "in one batch"
    );
    drop(leaves);
    // Another job with a history of its own takes the slot, and the seat.
    let mut next = bench.job(&[A + 7, A + 3], 60);
    let (whole, _) = to_the_end(&mut bench, &mut stays);
    assert_eq!(whole, REST);
    assert_eq!(to_the_end(&mut bench, &mut next).0, REST[3..]);
}

#[test]
fn a_job_that_waited_outside_is_proposed_for_again() {
    let mut of_draft = None;
    let full = Faults { full_at: Some(9), ..Faults::default() };
    let mut bench = Bench::faulty(
        |config| {
            on(config);
            of_draft = config.of_draft();
        },
        full,
    );
    bench.draft_by(&of_draft.expect("there is one"), |token| token % 5 == 0, Faults::default());
    let mut first = bench.job(&[A], 24);
    let mut second = bench.job(&[A + 2], 22);
    bench.turns(60);
    assert_eq!(bench.shared.gauges.read().preemptions, 1);
    assert_eq!(text(&events(&mut first)), REST[..24]);
    assert_eq!(text(&events(&mut second)), REST[2..24]);
}

#[test]
fn a_long_prompt_is_read_in_pieces_before_anything_is_proposed() {
    let mut bench = drafting(|_| false, Faults::default(), |config| config.prefill_chunk = Some(8));
    let mut job = bench.job(&[A; 100], 20);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST[..20]);
    let longest = drafts(&bench).iter().map(Vec::len).max();
    assert_eq!(longest, Some(8), "no step waits for more");
}

#[test]
fn the_next_turn_goes_on_from_what_was_read_and_others_do_not() {
    let from = |caller| Scheduling { caller, ..Scheduling::default() };
    let mut bench =
        drafting(|_| false, Faults::default(), |config| config.prefill_chunk = Some(32));
    let mut read = |caller| {
        let before = tokens_drafted(&bench);
        let job = bench.submit_for(from(caller), &[A; 60], 12);
        to_the_end(&mut bench, &mut job.expect("taken"));
        tokens_drafted(&bench) - before
    };
    let (first, again, other) = (read(1), read(1), read(2));
    assert!(first >= 60, "all of the prompt: {first}");
    assert!(again < 30, "none of it: {again}");
    assert!(other >= 60, "another caller's is read anew: {other}");
}

#[test]
fn cells_that_run_out_cost_proposals_and_no_answer() {
    let mut bench = right();
    let mut of_draft = None;
    let _config = Bench::new(|config| {
        on(config);
        config.context_tokens = 20;
        of_draft = config.of_draft();
    });
    bench.draft_by(&of_draft.expect("there is one"), |_| false, Faults::default());
    // Either fits into the draft model's cells, and not both.
    let mut first = bench.job(&[A; 8], 11);
    let mut second = bench.job(&[A + 1; 9], 10);
    bench.turns(40);
    assert_eq!(text(&events(&mut first)), REST[..11]);
    assert_eq!(text(&events(&mut second)), REST[1..11]);
    assert!(tokens_drafted(&bench) > 0, "who came first had them");
    let draft = bench.shared.gauges.read().draft.expect("it is there");
    assert!(draft.kv_used <= draft.kv_total, "{draft:?}");
}

#[test]
fn a_draft_model_that_breaks_is_given_up_and_the_answer_is_whole() {
    let faults = Faults { breaks_at: Some(3), ..Faults::default() };
    let mut bench = drafting(|_| false, faults, |_| {});
    let mut job = bench.job(&[A], 100);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST);
    assert!(bench.scheduler.drafter.is_none());
    assert_eq!(bench.shared.gauges.read().draft, None, "and it is told");
}

#[test]
fn what_it_has_read_is_given_up_when_asked() {
    let mut bench = right();
    let mut job = bench.job(&[A], 20);
    to_the_end(&mut bench, &mut job);
    assert!(bench.shared.gauges.read().draft.is_some_and(|draft| draft.kv_used > 0));
    bench.shared.forget.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.turn();
    assert_eq!(bench.shared.gauges.read().draft.map(|draft| draft.kv_used), Some(0));
    let mut job = bench.job(&[A], 20);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST[..20]);
}

#[test]
fn neither_model_may_be_one_whose_cells_cannot_be_taken_back() {
    let refusal = |target: bool, draft: fn(&mut Script)| {
        let (mut bench, config) = drafting_on(draft);
        bench.scheduler.device.rewinds = target;
        can_be_drafted_for(&bench.scheduler, &config).err().map(|refused| refused.to_string())
    };
    assert_eq!(refusal(true, |_| {}), None);
    let own = refusal(true, |script| script.rewinds = false).expect("it is refused");
    assert!(own.contains(": it is a model with a sliding window"), "{own}");
    let others = refusal(false, |_| {}).expect("it is refused");
    assert!(others.contains("the other one is a model with a sliding window"), "{others}");
    assert!(refusal(false, |script| script.rewinds = false).is_some());
}

#[test]
fn where_cells_are_not_reused_every_job_is_read_from_its_beginning() {
    let (mut bench, _) = drafting_on(|script| script.reuses = false);
    for turn in 0..3 {
        let before = tokens_drafted(&bench);
        let mut job = bench.job(&[A; 60], 12);
        to_the_end(&mut bench, &mut job);
        let read = tokens_drafted(&bench) - before;
        assert!(read >= 60, "all of the prompt again, in turn {turn}: {read}");
    }
}

#[test]
fn a_seat_whose_cells_are_lost_with_a_wrong_guess_is_read_again() {
    let (mut bench, _) = drafting_on(|script| {
        script.truncates = false;
        script.wrong = |token| token % 5 == 0;
    });
    let mut job = bench.job(&[A; 8], 22);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST[..22]);
    assert!(tokens_drafted(&bench) > 3 * 8, "the prompt too");
}

#[test]
fn nothing_is_computed_beyond_what_the_draft_model_was_made_for() {
    let mut bench = right();
    let (_, config) = drafting_on(|_| {});
    let of_draft = config.of_draft().expect("there is one");
    bench.draft_with(Script::new(&of_draft, Faults::default()), of_draft.slots, 12);
    let mut job = bench.job(&[A], 24);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST[..24]);
    let last = drafts(&bench).iter().flatten().map(|token| token.position).max();
    assert_eq!(last, Some(11), "up to there it drafts");
}

#[test]
fn it_computes_nothing_for_a_class_that_rests() {
    let mut bench = right();
    let class = RequestClass::of(&greedy(&[A]));
    let gauges = &bench.shared.gauges.classes;
    let speculator = bench.scheduler.speculator.as_mut().expect("it is on");
    let part = |ns: f64| Timed { class, streams: 1, ns };
    let rests = |speculator: &crate::speculation::Speculator| {
        speculator.length(class, DraftLength::default(), 4) == 0
    };
    for _ in 0..4 {
        speculator.observe_plain(part(1e6), gauges);
    }
    let mut tries = 0;
    while !rests(speculator) {
        // Two tokens are computed, and none of them was right.
        speculator.observe(part(2e6), (2, 0), &mut DraftLength::default(), gauges);
        tries += 1;
        assert!(tries <= 100, "it is never given up");
    }
    let mut job = bench.job(&[A], 20);
    assert_eq!(to_the_end(&mut bench, &mut job).0, REST[..20]);
    assert_eq!(tokens_drafted(&bench), 0, "it rests, and so does its model");
    let gauges = &bench.shared.gauges.classes;
    let speculator = bench.scheduler.speculator.as_mut().expect("it is on");
    while rests(speculator) {
        speculator.observe_plain(part(1e6), gauges);
    }
    let mut job = bench.job(&[A], 20);
    to_the_end(&mut bench, &mut job);
    assert!(tokens_drafted(&bench) > 0, "and is tried again");
}

/// A draft model by itself, with so many seats and cells, made for so many tokens of a sequence.
fn by_itself(seats: u32, cells: u32, context_tokens: u32) -> Drafter<Script> {
    let mut config = drafting_on(|_| {}).1;
    (config.slots, config.context_tokens) = (seats, cells);
    config.kv_layout = KvLayout::Unified;
    Drafter::new(Script::new(&config, Faults::default()), seats, context_tokens)
}

fn want(job: u64, domain: u64, history: &[i32], most: usize) -> Want<'_> {
    Want { slot: 0, job, domain, history, most }
}

/// What each got, and how many tokens were computed for it.
fn proposed(drafter: &mut Drafter<Script>, wants: &[Want<'_>]) -> Vec<(usize, usize)> {
    let drafts = drafter.propose(wants, 1_000).expect("the device is there");
    drafts.iter().map(|draft| (draft.tokens.len(), draft.computed)).collect()
}

const STORY: [i32; 3] = [A, A + 1, A + 2];

#[test]
fn who_has_a_seat_keeps_it_from_a_newcomer_of_the_same_words() {
    let mut drafter = by_itself(2, 100, 100);
    assert_eq!(proposed(&mut drafter, &[want(1, 7, &STORY, 1)]), [(1, 3)]);
    let longer = [A, A + 1, A + 2, A + 3];
    let both = [want(2, 7, &STORY, 1), want(1, 7, &longer, 1)];
    assert_eq!(proposed(&mut drafter, &both), [(1, 3), (1, 1)], "it reads the one token more");
}

#[test]
fn two_newcomers_never_go_on_from_one_seat() {
    let mut drafter = by_itself(2, 100, 100);
    assert_eq!(proposed(&mut drafter, &[want(1, 7, &STORY, 1)]), [(1, 3)]);
    let both = [want(2, 7, &STORY, 1), want(3, 7, &STORY, 1)];
    assert_eq!(proposed(&mut drafter, &both), [(1, 1), (1, 3)], "the first has the seat");
}

#[test]
fn nobody_goes_on_from_the_words_of_another_domain() {
    let mut drafter = by_itself(1, 100, 100);
    assert_eq!(proposed(&mut drafter, &[want(1, 7, &STORY, 1)]), [(1, 3)]);
    assert_eq!(proposed(&mut drafter, &[want(2, 8, &STORY, 1)]), [(1, 3)]);
    assert_eq!(proposed(&mut drafter, &[want(3, 8, &STORY, 1)]), [(1, 1)], "its own they are");
}

#[test]
fn where_cells_are_short_the_first_is_proposed_for() {
    let mut drafter = by_itself(2, 4, 100);
    let both = [want(1, 7, &STORY, 1), want(2, 7, &STORY, 1)];
    assert_eq!(proposed(&mut drafter, &both), [(1, 3), (0, 0)]);
}

#[test]
fn nothing_is_proposed_past_the_draft_models_context() {
    let mut drafter = by_itself(1, 100, 4);
    // Two after the three: the fourth is computed, and none behind it.
    assert_eq!(proposed(&mut drafter, &[want(1, 7, &STORY, 8)]), [(2, 4)]);
}
