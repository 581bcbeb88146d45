//! How tokens are drawn: penalties, biases, probabilities, several choices of one prompt.

use local_engine::{Dry, Finish, Rule, Sampling, SubmitError, TokenLogprob};

use super::harness::{answer, ask, engine, greedy, never_ending, read, reproducible, small, warm};

#[tokio::test]
async fn every_sampler_changes_the_answer_and_none_its_repeatability() {
    let engine = engine(&reproducible());
    let base = warm(7);
    let dry = Dry {
        multiplier: 5.0,
        base: 1.75,
        allowed_length: 1,
        last_n: 1_024,
        breakers: vec!["\n".to_owned()].into(),
    };
    let narrow = Sampling { temperature: 1.5, seed: Some(7), ..greedy() };
    let mut seen = Vec::new();
    for (name, sampling) in [
        ("warm", base.clone()),
        ("typical", Sampling { typical_p: 0.2, ..narrow.clone() }),
        ("min_p", Sampling { min_p: 0.9, ..narrow.clone() }),
        ("repeat", Sampling { repeat_penalty: 1.8, ..base.clone() }),
        ("presence", Sampling { presence_penalty: 2.0, repeat_last_n: 256, ..greedy() }),
        ("dry", Sampling { dry: Some(dry), ..greedy() }),
    ] {
        let mut job = ask(&engine, "Write the word apple ten times.", 24);
        job.sampling = sampling;
        job.sampling.logit_bias.extend(never_ending(&engine));
        let first = answer(&engine, job.clone()).await.text();
        assert_eq!(first, answer(&engine, job).await.text(), "{name} is not repeatable");
        seen.push((name, first));
    }
    for (at, (name, text)) in seen.iter().enumerate() {
        let others = seen[..at].iter().filter(|(_, other)| other == text);
        assert_eq!(others.count(), 0, "{name} changed nothing");
    }
}

#[tokio::test]
async fn penalties_count_the_prompt_within_their_window() {
    let engine = engine(&reproducible());
    let mut job = ask(&engine, "Repeat: banana banana banana banana banana", 8);
    let plain = answer(&engine, job.clone()).await.text();
    job.sampling.frequency_penalty = 2.0;
    let counted = answer(&engine, job.clone()).await.text();
    job.sampling.repeat_last_n = 0;
    assert_eq!(answer(&engine, job).await.text(), plain, "no window, no penalty");
    assert_ne!(counted, plain);
}

#[tokio::test]
async fn probabilities_are_told_for_the_text_and_for_nothing_else() {
    let engine = engine(&small());
    let mut job = ask(&engine, "Count from one to ten.", 12);
    job.logprobs = Some(3);
    let bytes = |told: &[TokenLogprob]| -> Vec<u8> {
        told.iter().flat_map(|token| token.chosen.bytes.clone()).collect()
    };
    let whole = answer(&engine, job.clone()).await;
    assert_eq!(String::from_utf8_lossy(&bytes(&whole.logprobs)), whole.text());
    for token in &whole.logprobs {
        assert_eq!(token.top.len(), 3);
        assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        assert_eq!(token.top[0].token, token.chosen.token, "greedy takes the likeliest");
        assert!(token.chosen.logprob <= 0.0 && token.chosen.logprob > -20.0);
    }
    // A stop text is shown neither as text nor as probabilities.
    let middle = whole.logprobs.len() / 2;
    let stop = String::from_utf8(whole.logprobs[middle].chosen.bytes.clone()).expect("a word");
    job.stop = vec![stop.clone()];
    let shown = answer(&engine, job.clone()).await;
    assert_eq!(shown.finish(), Finish::StopText(0));
    assert!(!shown.text().contains(&stop));
    assert_eq!(String::from_utf8_lossy(&bytes(&shown.logprobs)), shown.text());
    job.logprobs = None;
    assert_eq!(answer(&engine, job).await.logprobs, []);
}

#[tokio::test]
async fn every_token_has_its_probabilities_also_those_of_a_character_that_is_cut() {
    let engine = engine(&small());
    let emoji = |text: &str, max_tokens| {
        let mut job = ask(&engine, "An emoji, please.", max_tokens);
        let grammar = Rule::Gbnf(format!("root ::= \"{text}\""));
        job.constraint = Some(engine.constrain(&grammar).expect("enforced"));
        job.logprobs = Some(2);
        job
    };
    let whole = answer(&engine, emoji("ab😀", 10)).await;
    let bytes = |told: &[TokenLogprob]| -> Vec<u8> {
        told.iter().flat_map(|token| token.chosen.bytes.clone()).collect()
    };
    assert_eq!((whole.finish(), whole.text().as_str()), (Finish::Stop, "ab😀"));
    assert_eq!(bytes(&whole.logprobs), "ab😀".as_bytes());
    for max_tokens in 1..whole.logprobs.len() {
        let cap = u32::try_from(max_tokens).expect("small");
        let cut = answer(&engine, emoji("ab😀", cap)).await;
        assert_eq!((cut.finish(), cut.logprobs.len()), (Finish::Length, max_tokens));
        assert_eq!(bytes(&cut.logprobs), bytes(&whole.logprobs[..max_tokens]));
        assert!("ab".starts_with(&cut.text()), "{}", cut.text());
    }
    let cut = answer(&engine, emoji("😀", 1)).await;
    assert_eq!((cut.text().as_str(), cut.logprobs.len()), ("", 1));
    // Nothing of a stop text is told, not even the tokens that begin its first character.
    let mut stopped = emoji("ab😀", 10);
    stopped.stop = vec!["😀".to_owned()];
    let stopped = answer(&engine, stopped).await;
    assert_eq!((stopped.finish(), stopped.text().as_str()), (Finish::StopText(0), "ab"));
    assert_eq!(bytes(&stopped.logprobs), b"ab");
}

#[tokio::test]
async fn choices_share_the_prompt_and_draw_by_themselves() {
    let mut config = small();
    config.slots = 4;
    config.context_tokens = 2_048;
    let engine = engine(&config);
    let mut job = ask(&engine, "Name an animal and say what it does all day long.", 8);
    job.sampling = warm(11);
    job.sampling.logit_bias = never_ending(&engine);
    let alone = answer(&engine, job.clone()).await;
    let prompt = alone.usage().prompt_tokens;
    let mut answers = Vec::new();
    for choice in engine.submit_choices(&job, 4).expect("taken") {
        answers.push(read(choice).await);
    }
    assert_eq!(answers.len(), 4);
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer.usage().generated_tokens, 8);
        assert_eq!(answer.cached, prompt - 1, "choice {at} reads one token of the prompt");
        let others = answers[..at].iter().filter(|other| other.text() == answer.text());
        assert_eq!(others.count(), 0, "choice {at} draws with a seed of its own");
    }
}

#[tokio::test]
async fn more_choices_than_slots_are_refused_by_name() {
    let engine = engine(&small());
    let job = ask(&engine, "Say hello.", 1);
    for choices in [0, 3] {
        let refused = engine.submit_choices(&job, choices).expect_err("too many");
        assert!(matches!(refused, SubmitError::Invalid { parameter: "n", .. }), "{refused:?}");
    }
}
