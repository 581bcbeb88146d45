//! How jobs end: by the model, by a stop text, by a limit, by their reader, by a full queue.

use std::time::Duration;

use local_engine::{Finish, JobEvent, SubmitError};

use crate::harness::{answer, ask, engine, first_text, never_ending, read, reproducible, small};

#[tokio::test]
async fn max_tokens_end_with_length_and_are_counted_exactly() {
    let engine = engine(&small());
    let answer = answer(&engine, ask(&engine, "Tell me a long story.", 9)).await;
    assert_eq!(answer.finish(), Finish::Length);
    assert_eq!(answer.usage().generated_tokens, 9);
    assert_eq!(answer.tokens_told, 9, "every token is told with some text");
}

#[tokio::test]
async fn the_end_of_turn_is_a_stop_and_counts_as_a_token() {
    let engine = engine(&small());
    let mut job = ask(&engine, "Say hello.", 20);
    job.sampling.logit_bias = vec![(engine.info().end_tokens[0], 100.0)];
    let answer = answer(&engine, job).await;
    assert_eq!(answer.finish(), Finish::Stop);
    assert_eq!(answer.usage().generated_tokens, 1);
    assert_eq!(answer.text(), "");
}

#[tokio::test]
async fn a_stop_text_and_what_follows_are_never_shown() {
    let engine = engine(&reproducible());
    let whole = answer(&engine, ask(&engine, "Count from one to twenty.", 24)).await;
    let text = whole.text();
    // Every stop text that straddles a token boundary, from the end of one piece into the next.
    for (at, pair) in whole.texts.windows(2).enumerate().skip(3).step_by(5).take(3) {
        let tail = pair[0].chars().last().expect("not empty");
        let stop = format!("{tail}{}", pair[1].chars().take(2).collect::<String>());
        let begins = text.find(&stop).expect("it is in the text");
        let mut job = ask(&engine, "Count from one to twenty.", 24);
        job.stop = vec!["never there".to_owned(), stop.clone()];
        let answer = answer(&engine, job).await;
        assert_eq!(answer.finish(), Finish::StopText(1), "stop {stop:?} after piece {at}");
        assert_eq!(answer.text(), &text[..begins], "stop {stop:?}");
        assert!(answer.usage().generated_tokens <= whole.usage().generated_tokens);
    }
}

#[tokio::test]
async fn a_stop_text_that_never_completes_is_shown() {
    let engine = engine(&reproducible());
    let whole = answer(&engine, ask(&engine, "Name a color.", 6)).await;
    let mut job = ask(&engine, "Name a color.", 6);
    job.stop = vec![whole.text() + "\u{10FFFF}"];
    let held = answer(&engine, job).await;
    assert_eq!(held.text(), whole.text());
    assert_eq!(held.finish(), whole.finish());
}

#[tokio::test]
async fn engine_time_has_a_bound() {
    let engine = engine(&small());
    let mut job = ask(&engine, "Tell me a long story.", 200);
    job.engine_time_max = Duration::from_nanos(1);
    let answer = answer(&engine, job).await;
    assert_eq!(answer.finish(), Finish::EngineTime);
    assert!(answer.usage().generated_tokens <= 1);
}

#[tokio::test]
async fn a_job_that_is_dropped_is_computed_no_further_than_one_step() {
    let engine = engine(&small());
    let mut job = engine.submit(ask(&engine, "Tell me a long story.", 300)).expect("taken");
    first_text(&mut job).await;
    drop(job);
    let at_drop = engine.status().decode_tokens;
    // The next job's answer is proof that the scheduler has been round since; its one token comes
    // from its prompt.
    answer(&engine, ask(&engine, "Say hello.", 1)).await;
    let after = engine.status();
    assert!(after.decode_tokens - at_drop <= 1, "only the step that ran is finished");
    assert_eq!((after.running, after.cancelled), (0, 1));
}

#[tokio::test]
async fn a_full_queue_is_refused_at_once_and_a_cancelled_place_is_free_again() {
    let mut config = small();
    config.slots = 1;
    config.queue_max = 1;
    let engine = engine(&config);
    let mut running = engine.submit(ask(&engine, "Tell me a long story.", 300)).expect("taken");
    first_text(&mut running).await;
    let queued = engine.submit(ask(&engine, "Say hello.", 1)).expect("one may wait");
    let refused = engine.submit(ask(&engine, "Say hello.", 1)).expect_err("two may not");
    assert_eq!(refused, SubmitError::QueueFull { queued: 1 });
    drop(queued);
    let queued = engine.submit(ask(&engine, "Say hello.", 1)).expect("the place is free");
    drop(running);
    assert_eq!(read(queued).await.usage().generated_tokens, 1);
}

#[tokio::test]
async fn what_cannot_fit_is_refused_with_the_numbers() {
    let engine = engine(&small());
    let mut job = ask(&engine, "Say hello.", 1);
    job.max_tokens = 1_024;
    let prompt_tokens = u32::try_from(job.prompt.len()).expect("small");
    let refused = engine.submit(job).expect_err("too long");
    let numbers =
        SubmitError::ContextOverflow { prompt_tokens, max_tokens: 1_024, context_tokens: 1_024 };
    assert_eq!(refused, numbers);
}

#[tokio::test]
async fn the_whole_context_can_be_used() {
    let mut config = small();
    config.context_tokens = 256;
    let engine = engine(&config);
    let mut job = ask(&engine, "hello", 8);
    job.prompt = vec![job.prompt[job.prompt.len() / 2]; 256 - 8];
    job.sampling.logit_bias = never_ending(&engine);
    let answer = answer(&engine, job).await;
    assert_eq!(answer.finish(), Finish::Length);
    assert_eq!(answer.usage().prompt_tokens, 248);
    assert_eq!(answer.usage().generated_tokens, 8);
}

#[tokio::test]
async fn shutdown_lets_running_jobs_finish_and_refuses_new_ones() {
    let engine = engine(&small());
    let mut job = engine.submit(ask(&engine, "Name a color.", 5)).expect("taken");
    first_text(&mut job).await;
    engine.shutdown(Duration::from_secs(600));
    assert_eq!(read(job).await.usage().generated_tokens, 5);
    let refused = engine.submit(ask(&engine, "Say hello.", 1)).expect_err("no more");
    assert_eq!(refused, SubmitError::Stopped);
    engine.shutdown(Duration::ZERO);
}

#[tokio::test]
async fn dropping_the_engine_ends_its_jobs_with_an_event() {
    let engine = engine(&small());
    let mut job = engine.submit(ask(&engine, "Tell me a long story.", 300)).expect("taken");
    first_text(&mut job).await;
    drop(engine);
    let end = read(job).await.end;
    assert!(matches!(end, JobEvent::Stopped { .. }), "{end:?}");
}
