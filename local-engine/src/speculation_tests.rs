//! Guessed tokens on the scripted device: what comes out is what comes out without guesses, in fewer
//! steps, and no wrong guess stays in a cell.

use crate::{
    config::EngineConfig,
    device::BatchToken,
    job::{Finish, Job, JobEvent},
    scheduler_tests::{A, Bench, events, finish, greedy, text},
    speculation::Speculation,
};

fn on(config: &mut EngineConfig) {
    config.speculation = Speculation::Lookup { tokens_max: 8, streams_max: 1 };
    config.prefill_chunk = Some(32);
}

/// The letters from one to another.
fn letters(from: u8, to: u8) -> Vec<i32> {
    (from..=to).map(i32::from).collect()
}

/// Answers a job; also the steps that took, and the cells that are left in use.
fn answered(job: Job, change: fn(&mut EngineConfig)) -> (Vec<JobEvent>, usize, usize) {
    let mut bench = Bench::new(change);
    let (events_of, meter) = bench.shared.enqueue(job, bench.now).expect("taken");
    let shared = std::sync::Arc::clone(&bench.shared);
    let mut generation = crate::generation::Generation::new(events_of, meter, shared);
    bench.turns(40);
    let told = events(&mut generation);
    let cells = bench.scheduler.tree.cells();
    assert_eq!(cells, bench.scheduler.device.cells_used(), "what is thought to be in the cells is");
    (told, bench.decodes().len(), cells)
}

/// The alphabet once, then its beginning: what follows was there.
fn recited(max_tokens: u32) -> Job {
    let prompt = [letters(b'a', b'y'), letters(b'a', b'b')].concat();
    Job { max_tokens, ..greedy(&prompt) }
}

fn both(job: &Job) -> [(Vec<JobEvent>, usize, usize); 2] {
    [answered(job.clone(), |config| config.prefill_chunk = Some(32)), answered(job.clone(), on)]
}

#[test]
fn right_guesses_spare_steps_and_change_nothing() {
    let [plain, guessed] = both(&recited(100));
    assert_eq!(text(&plain.0), "cdefghijklmnopqrstuvwxyz");
    assert_eq!(text(&guessed.0), text(&plain.0));
    assert_eq!(finish(&guessed.0), Some(Finish::Stop));
    assert_eq!(guessed.2, plain.2, "the same cells");
    assert!(guessed.1 + 10 < plain.1, "{} steps and not {}", guessed.1, plain.1);
}

#[test]
fn wrong_guesses_are_taken_back() {
    // After each pair of letters came a third that does not come again.
    let once: Vec<i32> = (b'a'..b'y').flat_map(|at| [at, at + 1, b'A']).map(i32::from).collect();
    let job = Job { max_tokens: 30, ..greedy(&[once, letters(b'a', b'b')].concat()) };
    let [plain, guessed] = both(&job);
    assert_eq!(text(&guessed.0), text(&plain.0));
    assert_eq!((finish(&guessed.0), guessed.2), (finish(&plain.0), plain.2));
}

#[test]
fn an_answer_ends_where_it_would_have_among_right_guesses() {
    for max_tokens in 1..20 {
        let [plain, guessed] = both(&recited(max_tokens));
        assert_eq!(text(&guessed.0), text(&plain.0));
        assert_eq!(finish(&guessed.0), Some(Finish::Length));
        assert_eq!(guessed.2, plain.2);
    }
    let job = Job { stop: vec!["lmn".to_owned()], logprobs: Some(0), ..recited(100) };
    let [plain, guessed] = both(&job);
    assert_eq!(text(&guessed.0), "cdefghijk");
    assert_eq!(finish(&guessed.0), Some(Finish::StopText(0)));
    let told = |events: &[JobEvent]| -> Vec<i32> {
        let of = |event: &JobEvent| match event {
            JobEvent::Text { logprobs, .. } => {
                logprobs.iter().map(|one| one.chosen.token).collect()
            }
            _ => Vec::new(),
        };
        events.iter().flat_map(of).collect()
    };
    assert_eq!(told(&guessed.0), letters(b'c', b'k'), "a probability for each token shown");
    assert_eq!(told(&guessed.0), told(&plain.0));
}

#[test]
fn what_was_guessed_and_drawn_is_counted() {
    let mut bench = Bench::new(on);
    let mut job = bench.job(&[letters(b'a', b'y'), letters(b'a', b'b')].concat(), 100);
    bench.turns(40);
    assert!(finish(&events(&mut job)).is_some());
    let status = bench.shared.gauges.read();
    let [told] = status.speculation.as_slice() else { panic!("one class: {status:?}") };
    assert!(!told.class.sampled && !told.class.constrained && !told.class.long_prompt);
    // The last guess is a letter short: `z` was not there.
    assert!(told.accepted > 10 && told.accepted <= told.drafted, "{told:?}");
    assert_eq!(status.decode_tokens, 24, "each token counts once, guessed or not");
    assert_eq!(status.busy, status.attributed);
}

#[test]
fn nothing_is_guessed_while_others_generate_or_read() {
    let prompt = [letters(b'a', b'y'), letters(b'a', b'b')].concat();
    let guessed = |bench: &Bench| {
        // Of the first job, after its prompt: more than the one token that was drawn.
        let drawn =
            |token: &&BatchToken| token.slot == 0 && token.position as usize >= prompt.len();
        bench.decodes().iter().any(|batch| batch.iter().filter(drawn).count() > 1)
    };
    for (other, max_tokens) in [(letters(b'a', b'c'), 20), (vec![A; 150], 1)] {
        let mut bench = Bench::new(|config| {
            on(config);
            (config.context_tokens, config.prefill_chunk) = (400, Some(8));
        });
        let _first = bench.job(&prompt, 20);
        // The prompt is read, and four tokens are drawn plainly.
        bench.turns(5);
        assert!(!guessed(&bench), "not before it is known what a token takes");
        let _other = bench.job(&other, max_tokens);
        bench.turns(6);
        assert!(!guessed(&bench));
    }
    let mut bench = Bench::new(on);
    let _alone = bench.job(&prompt, 20);
    bench.turns(12);
    assert!(guessed(&bench), "alone it is guessed for");
}

#[test]
fn no_prefix_is_given_up_for_a_guess() {
    let mut bench = Bench::new(|config| {
        on(config);
        // A kept prefix, a prompt and its answer, and not a cell more.
        config.context_tokens = 20 + 33 + 24;
    });
    let mut kept = bench.job(&[A; 20], 1);
    bench.turns(4);
    assert!(finish(&events(&mut kept)).is_some());
    // What is guessed near the end is wrong, and long.
    let prompt = [letters(b'a', b'w'), vec![i32::from(b'A'); 8], letters(b'a', b'b')].concat();
    let mut job = bench.job(&prompt, 26);
    bench.turns(40);
    assert_eq!(text(&events(&mut job)), "cdefghijklmnopqrstuvwxyz");
    assert_eq!(bench.shared.gauges.read().evictions, 0);
}
