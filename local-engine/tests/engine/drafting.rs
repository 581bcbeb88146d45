//! A draft model beside the real one: the same answers, and what it takes is charged to those it
//! drafts for. The model drafts for itself, and so does a copy of it whose layers do nothing.

use std::{
    fs::OpenOptions,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use local_engine::{
    Engine, EngineConfig, Finish, Job, LoadError, Rule, Sampling, Speculation, SpeculationStatus,
};

use super::harness::{
    Answer, answer, ask, engine, model_file, never_ending, read, reproducible, small,
};

const ASKED: &str = "Write a paragraph about the sea and the ships on it.";

fn drafted_by(file: PathBuf) -> EngineConfig {
    let speculation = Speculation::Draft { file, tokens_max: 4, streams_max: 2 };
    EngineConfig { speculation, ..reproducible() }
}

fn told(engine: &Engine) -> Vec<SpeculationStatus> {
    engine.status().speculation
}

/// Answers the same job without and with a draft model.
async fn both(
    file: &Path,
    job: impl Fn(&Engine) -> Job,
) -> (Answer, Answer, Vec<SpeculationStatus>) {
    let (without, with) = (engine(&reproducible()), engine(&drafted_by(file.to_owned())));
    let plain = answer(&without, job(&without)).await;
    let drafted = answer(&with, job(&with)).await;
    assert_eq!(drafted.text(), plain.text());
    assert_eq!((drafted.finish(), drafted.tokens_told), (plain.finish(), plain.tokens_told));
    (plain, drafted, told(&with))
}

/// Where the tensors begin, and each one's name and place among them.
fn tensors(file: &Path) -> (u64, Vec<(String, u64)>) {
    let mut head = vec![0; 4 << 20];
    std::fs::File::open(file).expect("the model").read_exact(&mut head).expect("read");
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
    let name = b"token_embd.weight";
    let first = head.windows(name.len()).position(|window| window == name).expect("it is there");
    let (mut at, mut tensors) = (first - 8, Vec::new());
    for _ in 0..number(8) {
        let length = usize::try_from(number(at)).expect("small");
        let name = String::from_utf8(head[at + 8..at + 8 + length].to_vec()).expect("text");
        at += 8 + length;
        let dimensions = u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
        at += 4 + 8 * dimensions as usize + 4;
        tensors.push((name, number(at)));
        at += 8;
    }
    (at.next_multiple_of(32) as u64, tensors)
}

/// A copy of the model whose layers add nothing to what the embedding says.
fn idle_layers(directory: &Path) -> PathBuf {
    let copy = directory.join("idle.gguf");
    std::fs::copy(model_file(), &copy).expect("copied");
    let (begin, mut tensors) = tensors(&copy);
    tensors.sort_by_key(|(_, offset)| *offset);
    let ends = tensors.iter().skip(1).map(|(_, offset)| *offset);
    let spans: Vec<(u64, u64)> = tensors
        .iter()
        .zip(ends)
        .filter(|((name, _), _)| name.contains("attn_output") || name.contains("ffn_down"))
        .map(|((_, from), to)| (*from, to))
        .collect();
    assert!(!spans.is_empty());
    let mut file = OpenOptions::new().write(true).open(&copy).expect("opened");
    for (from, to) in spans {
        file.seek(SeekFrom::Start(begin + from)).expect("there");
        file.write_all(&vec![0; usize::try_from(to - from).expect("small")]).expect("written");
    }
    copy
}

#[tokio::test]
async fn the_likeliest_tokens_are_the_same_and_nearly_all_are_foreseen() {
    let (_, _, told) = both(&model_file(), |engine| ask(engine, ASKED, 48)).await;
    let [of_class] = told.as_slice() else { panic!("one class: {told:?}") };
    assert!(of_class.accepted > 10, "{of_class:?}");
    // A batch of another shape rounds differently, so a close call can fall otherwise.
    assert!(of_class.accepted * 10 >= of_class.drafted * 8, "{of_class:?}");
}

#[tokio::test]
async fn a_seed_draws_the_same_tokens() {
    let sampling =
        Sampling { temperature: 0.5, top_k: Some(40), seed: Some(5), ..Sampling::default() };
    let job = |engine: &Engine| Job { sampling: sampling.clone(), ..ask(engine, ASKED, 40) };
    let (_, _, told) = both(&model_file(), job).await;
    assert!(told.iter().all(|told| told.class.sampled && told.drafted > 0), "{told:?}");
}

#[tokio::test]
async fn a_rule_and_a_stop_text_hold_for_proposals_too() {
    let job = |engine: &Engine| {
        let rule = Rule::Regex("(the sea and the ){4}".to_owned());
        let constraint = Some(engine.constrain(&rule).expect("compiles"));
        Job { constraint, stop: vec!["the the".to_owned()], ..ask(engine, ASKED, 30) }
    };
    let (_, drafted, _) = both(&model_file(), job).await;
    assert_eq!(drafted.finish(), Finish::StopText(0));
}

#[tokio::test]
async fn a_poor_draft_changes_nothing_and_rests() {
    let directory = tempfile::tempdir().expect("a directory");
    let poor = idle_layers(directory.path());
    let long = |engine: &Engine| {
        let sampling = Sampling { logit_bias: never_ending(engine), ..Sampling::default() };
        Job { sampling, ..ask(engine, ASKED, 150) }
    };
    let (_, _, told) = both(&poor, long).await;
    let [of_class] = told.as_slice() else { panic!("one class: {told:?}") };
    assert!(of_class.accepted * 2 < of_class.drafted, "{of_class:?}");
    assert!(of_class.resting, "nobody goes on paying for it: {of_class:?}");
    assert!(of_class.gain_permille < Some(1_030), "{of_class:?}");
}

#[tokio::test]
async fn what_the_draft_model_takes_is_charged_to_those_it_drafts_for() {
    let engine = engine(&drafted_by(model_file()));
    let jobs: Vec<_> = (0..4_u32)
        .map(|n| engine.submit(ask(&engine, &format!("Tell me about {n}."), 20)).expect("taken"))
        .collect();
    let mut sum = Duration::ZERO;
    for job in jobs {
        let usage = read(job).await.usage();
        sum += usage.prefill_time + usage.decode_time;
    }
    let status = engine.status();
    let draft = status.draft.expect("there is one");
    assert!(draft.tokens > 0 && !draft.busy.is_zero(), "{draft:?}");
    assert_eq!(sum, status.busy, "to the nanosecond");
    assert_eq!(status.attributed, status.busy);
    assert_eq!(engine.info().draft.as_ref().map(|draft| &draft.file), Some(&model_file()));
}

#[test]
fn the_draft_models_memory_counts() {
    let alone = engine(&small()).info().memory_bytes;
    let both = engine(&drafted_by(model_file())).info().memory_bytes;
    assert!(both > alone + model_file().metadata().expect("the model").len(), "{both}, {alone}");
}

#[test]
fn another_vocabulary_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("other.gguf");
    std::fs::copy(model_file(), &other).expect("copied");
    let mut bytes = vec![0; 4 << 20];
    let mut file = OpenOptions::new().read(true).write(true).open(&other).expect("opened");
    file.read_exact(&mut bytes).expect("read");
    // A token of the vocabulary is spelled otherwise.
    let word = b"\xc4\xa0hello";
    let at = bytes.windows(word.len()).position(|window| window == word).expect("a token");
    file.seek(SeekFrom::Start(at as u64 + 2)).expect("there");
    file.write_all(b"hallo").expect("written");
    drop(file);
    let refused = Engine::load(&drafted_by(other.clone())).expect_err("it is refused");
    assert!(matches!(&refused, LoadError::Draft { file, .. } if *file == other), "{refused}");
    assert!(refused.to_string().contains("token"), "{refused}");
}

#[test]
fn a_draft_that_is_no_model_is_refused_before_it_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let cut = directory.path().join("cut.gguf");
    let head = &std::fs::read(model_file()).expect("the model")[..3_000_000];
    std::fs::write(&cut, head).expect("written");
    let refused = Engine::load(&drafted_by(cut)).expect_err("it is refused");
    assert!(matches!(refused, LoadError::Model { .. }), "{refused}");
}
