//! What a step teaches about guessing: a draft model's time counts, whether or not its guesses were
//! used.

use super::Part;
use crate::{
    generation::Generation,
    scheduler_tests::{A, Bench},
    sequence::Drawn,
    speculation::Speculation,
};

const STEP_NS: u64 = 1_000_000;

/// A job that generates, and four steps without guesses, a millisecond each.
fn begun() -> (Bench, Generation) {
    let mut bench = Bench::new(|config| {
        let file = "draft".into();
        config.speculation = Speculation::Draft { file, tokens_max: 4, streams_max: 1 };
    });
    let job = bench.job(&[A], 20);
    bench.turn();
    for _ in 0..4 {
        taught(&mut bench, 0, 0);
    }
    (bench, job)
}

/// A step that took a millisecond, in which so many guesses were right; drafting took some steps' time
/// before.
fn taught(bench: &mut Bench, guessed: usize, drafting_steps: u64) {
    let tokens = 1 + guessed;
    let sequence = bench.scheduler.slots[0].running.as_mut().expect("it runs");
    sequence.drafting_ns = drafting_steps * STEP_NS;
    bench.scheduler.learn(&[Part {
        slot: 0,
        tokens: vec![A; tokens],
        decode: true,
        rows: 0..tokens,
        drawn: vec![Drawn { token: A, logprob: None }; tokens],
        failed: None,
        ns: STEP_NS,
    }]);
}

fn gain_permille(bench: &Bench) -> Option<u64> {
    bench.shared.gauges.read().speculation.first()?.gain_permille
}

#[test]
fn drafting_takes_its_time() {
    for (drafting_steps, gain) in [(0, 4_000), (1, 2_000), (3, 1_000)] {
        let (mut bench, _job) = begun();
        taught(&mut bench, 3, drafting_steps);
        assert_eq!(gain_permille(&bench), Some(gain), "4 tokens in {} steps", 1 + drafting_steps);
    }
}

#[test]
fn so_does_drafting_of_which_nothing_came() {
    let (mut bench, _job) = begun();
    taught(&mut bench, 0, 4);
    taught(&mut bench, 3, 0);
    // What is older weighs a hundredth less.
    assert_eq!(gain_permille(&bench), Some(806), "4 tokens in 3.96 steps and one");
}
