//! Guessed tokens on the real model: the same answers, fewer steps, and it is told how it went.

use local_engine::{
    Engine, EngineConfig, Finish, Job, Rule, Sampling, Speculation, SpeculationStatus,
};

use super::harness::{Answer, answer, ask, engine, reproducible};

/// What is to be repeated: the longer the same words go on, the more can be guessed.
const SAID: &str = "Say this again and again: the red fox and the blue bird met the old bear by the \
                    river. The red fox and the blue bird met the old bear by the river. The red fox";

fn guessing() -> EngineConfig {
    let speculation = Speculation::Lookup { tokens_max: 8, streams_max: 2 };
    EngineConfig { speculation, ..reproducible() }
}

fn told(engine: &Engine) -> Vec<SpeculationStatus> {
    engine.status().speculation
}

/// Answers the same job with and without guesses.
async fn both(job: impl Fn(&Engine) -> Job) -> (Answer, Answer, Vec<SpeculationStatus>) {
    let (without, with) = (engine(&reproducible()), engine(&guessing()));
    let plain = answer(&without, job(&without)).await;
    let guessed = answer(&with, job(&with)).await;
    assert_eq!(told(&without), [], "off, nothing is guessed");
    (plain, guessed, told(&with))
}

#[tokio::test]
async fn the_likeliest_tokens_are_the_same_ones() {
    let (plain, guessed, told) = both(|engine| ask(engine, SAID, 48)).await;
    assert_eq!(guessed.text(), plain.text());
    assert_eq!((guessed.finish(), guessed.tokens_told), (plain.finish(), plain.tokens_told));
    let [of_class] = told.as_slice() else { panic!("one class: {told:?}") };
    assert!(of_class.accepted > 0 && of_class.accepted <= of_class.drafted, "{of_class:?}");
    assert!(of_class.gain_permille.is_some());
}

#[tokio::test]
async fn a_seed_draws_the_same_tokens() {
    let sampling = Sampling {
        temperature: 0.4,
        top_k: Some(40),
        top_p: 0.95,
        min_p: 0.05,
        frequency_penalty: 0.01,
        seed: Some(3),
        ..Sampling::default()
    };
    let job = |engine: &Engine| Job { sampling: sampling.clone(), ..ask(engine, SAID, 40) };
    let (plain, guessed, told) = both(job).await;
    assert_eq!(guessed.text(), plain.text());
    assert!(told.iter().all(|told| told.class.sampled), "{told:?}");
}

#[tokio::test]
async fn a_rule_and_a_stop_text_hold_for_guesses_too() {
    let constrained = |engine: &Engine| {
        let rule = Rule::Regex("(the red fox and )+".to_owned());
        let constraint = Some(engine.constrain(&rule).expect("compiles"));
        Job { constraint, ..ask(engine, SAID, 30) }
    };
    let (plain, guessed, told) = both(constrained).await;
    assert_eq!(guessed.text(), plain.text());
    assert!(guessed.text().starts_with("the red fox and the red fox"), "{}", guessed.text());
    assert!(told.iter().all(|told| told.class.constrained && told.accepted > 0), "{told:?}");
    let stopped = |engine: &Engine| Job {
        stop: vec!["and the red".to_owned()],
        logprobs: Some(1),
        ..constrained(engine)
    };
    let (plain, guessed, _) = both(stopped).await;
    assert_eq!(guessed.finish(), Finish::StopText(0));
    assert_eq!(guessed.text(), plain.text());
}
