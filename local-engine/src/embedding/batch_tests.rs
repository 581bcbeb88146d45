//! Whose texts are read beside each other, and that none of them notices.

use std::time::Duration;

use super::{EmbedError, EmbedEvent, EmbedJob, Embedding, submit};
use crate::{
    job::Scheduling,
    scheduler_tests::{A, Bench, POISON},
};

fn bench(chunk: u32) -> Bench {
    Bench::new(|config| config.prefill_chunk = Some(chunk))
}

fn ask(bench: &Bench, caller: u64, inputs: Vec<Vec<i32>>) -> Embedding {
    let job = EmbedJob {
        inputs,
        pooling: None,
        engine_time_max: Duration::MAX,
        engine_time_may_grow: false,
        scheduling: Scheduling { caller, ..Scheduling::default() },
    };
    submit(&bench.shared, job, bench.now).expect("taken")
}

fn texts(lengths: &[usize]) -> Vec<Vec<i32>> {
    lengths.iter().map(|length| vec![A; *length]).collect()
}

/// What became of it, if that is known now.
fn told(embedding: &mut Embedding) -> Option<Result<Vec<Vec<f32>>, EmbedError>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(embedding.next()).poll(&mut context) {
        std::task::Poll::Ready(EmbedEvent::Ended(vectors)) => Some(vectors),
        std::task::Poll::Ready(EmbedEvent::EngineTimeLow) | std::task::Poll::Pending => None,
    }
}

/// The first number of a text's vector: the mean of 3 and of zeros, beside 4, brought to length 1.
#[expect(clippy::cast_precision_loss, reason = "a few tokens")]
fn first_number(tokens: usize) -> f32 {
    let mean = 3.0 / tokens as f32;
    mean / mean.hypot(4.0)
}

fn assert_vectors(embedding: &mut Embedding, lengths: &[usize]) {
    let vectors = told(embedding).expect("it is done").expect("computed");
    assert_eq!(vectors.len(), lengths.len());
    for (vector, tokens) in vectors.iter().zip(lengths) {
        assert!((vector[0] - first_number(*tokens)).abs() < 1e-6, "{vectors:?} of {lengths:?}");
    }
    let all = u32::try_from(lengths.iter().sum::<usize>()).expect("few");
    assert_eq!(embedding.usage().prompt_tokens, all);
}

#[test]
fn short_texts_of_a_job_are_one_batch() {
    let mut bench = bench(16);
    let mut job = ask(&bench, 1, texts(&[2, 3, 4, 5]));
    bench.turns(3);
    assert_eq!(bench.scheduler.device.embedded, [vec![2, 3, 4], vec![5]], "three have room");
    assert_vectors(&mut job, &[2, 3, 4, 5]);
}

#[test]
fn no_batch_is_longer_than_a_turn_may_read() {
    let mut bench = bench(8);
    let mut job = ask(&bench, 1, texts(&[5, 3, 1, 8, 1]));
    bench.turns(5);
    assert_eq!(bench.scheduler.device.embedded, [vec![5, 3], vec![1], vec![8], vec![1]]);
    assert_vectors(&mut job, &[5, 3, 1, 8, 1]);
}

#[test]
fn texts_of_several_callers_are_one_batch_whose_time_is_split() {
    let mut bench = bench(16);
    let mut jobs = [(1, &[2_usize, 6][..]), (2, &[4])]
        .map(|(caller, lengths)| (ask(&bench, caller, texts(lengths)), lengths));
    bench.turn();
    assert_eq!(bench.scheduler.device.embedded, [[2, 6, 4]]);
    let read = bench.shared.gauges.read();
    let spent: Duration = jobs.iter().map(|(job, _)| job.usage().prefill_time).sum();
    assert_eq!((spent, read.attributed), (read.busy, read.busy), "without a rest");
    let [first, second] = jobs.each_ref().map(|(job, _)| job.usage().prefill_time);
    assert!(first >= second && second > Duration::ZERO, "by tokens: {first:?}, {second:?}");
    for (job, lengths) in &mut jobs {
        assert_vectors(job, lengths);
    }
    assert!(bench.shared.embeds.is_empty());
}

#[test]
fn a_text_that_is_read_in_pieces_has_no_company() {
    let mut bench = bench(8);
    let (mut long, mut short) = (ask(&bench, 1, texts(&[10, 2])), ask(&bench, 2, texts(&[2])));
    bench.turns(5);
    let read = &bench.scheduler.device.embedded;
    assert_eq!(read, &[vec![8], vec![2], vec![2, 2]], "it ends before any other begins");
    assert_vectors(&mut long, &[10, 2]);
    assert_vectors(&mut short, &[2]);
}

#[test]
fn a_text_that_cannot_be_embedded_harms_only_its_own_job() {
    let mut bench = bench(16);
    let mut well = ask(&bench, 1, texts(&[2]));
    let mut ill = ask(&bench, 2, vec![vec![A, POISON], vec![A; 3]]);
    bench.turn();
    assert_eq!(bench.scheduler.device.embedded, [[2, 2, 3]]);
    bench.turns(3);
    assert_vectors(&mut well, &[2]);
    assert_eq!(told(&mut ill), Some(Err(EmbedError::Unable("poison".to_owned()))));
    assert!(bench.shared.embeds.is_empty());
    let read = bench.shared.gauges.read();
    assert_eq!(read.attributed, read.busy, "what was tried in vain is somebody's too");
}

#[test]
fn who_leaves_takes_no_part_in_the_next_batch() {
    let mut bench = bench(4);
    let (gone, mut stays) = (ask(&bench, 1, texts(&[4, 4])), ask(&bench, 2, texts(&[4, 4])));
    bench.turn();
    drop(gone);
    bench.turns(3);
    assert_eq!(bench.scheduler.device.embedded.len(), 3);
    assert_vectors(&mut stays, &[4, 4]);
    assert!(bench.shared.has_no_jobs());
}
