//! Embeddings of the real model: one vector of length 1 for each text, the same however they are
//! asked for, and nobody's tokens wait for them.

use std::time::Duration;

use local_engine::{
    EmbedError, EmbedJob, Engine, EngineConfig, Host, HostConfig, JobEvent, Keep, Pooling,
    Scheduling, SubmitError,
};

use super::harness::{ask, engine, first_text, model_file, small};

fn texts(engine: &Engine, texts: &[&str], pooling: Option<Pooling>) -> EmbedJob {
    let tokens = |text: &&str| engine.tokenize_text(text).expect("fits");
    EmbedJob {
        inputs: texts.iter().map(tokens).collect(),
        pooling,
        engine_time_max: Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    }
}

async fn vectors(engine: &Engine, job: EmbedJob) -> Vec<Vec<f32>> {
    engine.embed(job).expect("taken").vectors().await.expect("computed")
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn vectors_have_length_one_and_do_not_depend_on_their_company() {
    let engine = engine(&small());
    let long = "The quick brown fox jumps over the lazy dog and runs away. ".repeat(8);
    let all = ["The cat sat on the mat.", "Interest rates rose again.", long.as_str()];
    let together = vectors(&engine, texts(&engine, &all, None)).await;
    assert_eq!(together.len(), 3);
    for (at, text) in all.iter().enumerate() {
        let length = cosine(&together[at], &together[at]);
        assert!((length - 1.0).abs() < 1e-3, "{length}");
        let alone = vectors(&engine, texts(&engine, &[text], None)).await;
        assert!(cosine(&alone[0], &together[at]) > 0.9999, "text {at}");
    }
    // Read in chunks of 32 or in one piece: the same text is the same vector.
    let mut config = small();
    config.prefill_chunk = Some(256);
    let whole = vectors(&super::harness::engine(&config), texts(&engine, &[&long], None)).await;
    assert!(cosine(&whole[0], &together[2]) > 0.999);
}

/// Texts of many lengths, of tokens that every model has.
fn some_texts(salt: i32) -> EmbedJob {
    let text = |length: i32| (0..length).map(|n| 300 + (n * 37 + salt * 101) % 5_000).collect();
    EmbedJob {
        inputs: [3, 40, 9, 1, 17].map(|length| text(length + salt)).to_vec(),
        pooling: None,
        engine_time_max: Duration::from_secs(600),
        engine_time_may_grow: false,
        scheduling: Scheduling { caller: u64::from(salt.unsigned_abs()), ..Scheduling::default() },
    }
}

#[tokio::test]
async fn texts_that_share_batches_have_the_vectors_that_they_have_alone() {
    // The second model has few bits, and every row is rounded otherwise beside others: 0.998 was seen, 0.9998 of the first.
    let models = [Some((small(), 0.999)), super::sliding::config().map(|model| (model, 0.995))];
    for (mut config, near) in models.into_iter().flatten() {
        config.prefill_chunk = Some(256);
        let engine = engine(&config);
        let jobs: Vec<EmbedJob> = (0..6).map(some_texts).collect();
        let submitted = jobs.iter().map(|job| engine.embed(job.clone()).expect("taken"));
        let submitted: Vec<_> = submitted.collect();
        for (job, mut asked) in jobs.into_iter().zip(submitted) {
            let together = asked.vectors().await.expect("computed");
            assert_eq!(together.len(), job.inputs.len());
            for (at, input) in job.inputs.iter().enumerate() {
                let alone = EmbedJob { inputs: vec![input.clone()], ..job.clone() };
                let alone = vectors(&engine, alone).await;
                let mut like: Vec<f32> = together.iter().map(|v| cosine(&alone[0], v)).collect();
                let own = like.remove(at);
                let others = like.into_iter().fold(0.0, f32::max);
                assert!(own > near && own > others, "{} tokens: {own}, {others}", input.len());
            }
        }
        let status = engine.status();
        assert_eq!(status.busy, status.attributed);
    }
}

/// The same model with a word in its file that its attention looks both ways.
fn looks_both_ways(directory: &std::path::Path) -> EngineConfig {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let named = |key: &str, kind: u32| [&string(key)[..], &kind.to_le_bytes()].concat();
    let mut bytes = std::fs::read(model_file()).expect("the model");
    let name = [named("general.name", 8), string("Smollm2 135M 8k Lc100K Mix1 Ep2")].concat();
    let at = bytes.windows(name.len()).position(|window| window == name).expect("its name");
    let causal = [&named("llama.attention.causal", 7)[..], &[0]].concat();
    let rest = [named("x", 8), string("1234567")].concat();
    let two = [causal, rest].concat();
    bytes[at..at + name.len()].copy_from_slice(&two);
    bytes[16] += 1;
    let config = EngineConfig { file: directory.join("both.gguf"), ..small() };
    std::fs::write(&config.file, bytes).expect("written");
    config
}

#[tokio::test]
async fn a_model_that_looks_both_ways_reads_texts_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = engine(&looks_both_ways(directory.path()));
    assert_eq!(engine.embed_tokens_max(), 512);
    let long = "The quick brown fox jumps over the lazy dog and runs away. ".repeat(8);
    let all = ["The cat sat.", "The dog ran.", long.as_str(), "Yes."];
    let together = vectors(&engine, texts(&engine, &all, Some(Pooling::First))).await;
    for (text, vector) in all.iter().zip(&together) {
        let alone = vectors(&engine, texts(&engine, &[text], Some(Pooling::First))).await;
        assert!(cosine(&alone[0], vector) > 0.999, "{text}");
    }
    let same_word = cosine(&together[0], &together[1]);
    assert!(same_word < 0.999, "the first word sees what follows: {same_word}");
}

#[tokio::test]
async fn pooling_is_what_was_asked_for() {
    let engine = engine(&small());
    let text = ["A sentence of some words."];
    let mean = vectors(&engine, texts(&engine, &text, Some(Pooling::Mean))).await;
    let first = vectors(&engine, texts(&engine, &text, Some(Pooling::First))).await;
    let last = vectors(&engine, texts(&engine, &text, Some(Pooling::Last))).await;
    let default = vectors(&engine, texts(&engine, &text, None)).await;
    assert!(cosine(&mean[0], &default[0]) > 0.9999, "the file says nothing: the mean");
    assert!(cosine(&mean[0], &last[0]) < 0.999 && cosine(&first[0], &last[0]) < 0.999);
    let configured = EngineConfig { pooling: Some(Pooling::Last), ..small() };
    let configured = super::harness::engine(&configured);
    let as_configured = vectors(&configured, texts(&configured, &text, None)).await;
    assert!(cosine(&as_configured[0], &last[0]) > 0.9999, "the operator says the last token");
}

#[tokio::test]
async fn their_context_counts_against_the_memory_of_all_models() {
    let host = |memory_max| Host::start(&HostConfig { memory_max }).expect("a host");
    let first = host(None);
    let model = first.keep("edge", small(), Keep::default()).expect("kept");
    let engine = model.engine().await.expect("loaded");
    let without = engine.memory_bytes();
    vectors(&engine, texts(&engine, &["hello"], None)).await;
    assert!(engine.memory_bytes() > without + (32 << 20));
    assert_eq!(first.status().memory_used, engine.memory_bytes());
    drop((engine, model, first));

    let second = host(Some(without + (32 << 20)));
    let model = second.keep("edge", small(), Keep::default()).expect("kept");
    let engine = model.engine().await.expect("loaded");
    let mut asked = engine.embed(texts(&engine, &["hello"], None)).expect("taken");
    let refused = asked.vectors().await.expect_err("there is no room");
    assert!(matches!(&refused, EmbedError::Unable(why) if why.contains("MiB")), "{refused}");
    assert_eq!(asked.usage().prompt_tokens, 0);
    let job = ask(&engine, "Name a color.", 3);
    assert_eq!(super::harness::answer(&engine, job).await.usage().generated_tokens, 3);
    assert_eq!(second.status().memory_used, without);
}

#[test]
fn texts_have_the_marks_that_the_file_asks_for() {
    let plain = engine(&small());
    let words = plain.tokenize_text("hello world").expect("fits");
    assert_eq!(words, plain.tokenize_raw("hello world").expect("fits"));
    // The same model, whose file asks for an end.
    let mut bytes = std::fs::read(model_file()).expect("the model");
    let name = b"tokenizer.ggml.add_bos_token";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("its key");
    bytes[at..at + name.len()].copy_from_slice(b"tokenizer.ggml.add_eos_token");
    bytes[at + name.len() + 4] = 1;
    let directory = tempfile::tempdir().expect("a directory");
    let config = EngineConfig { file: directory.path().join("marked.gguf"), ..small() };
    std::fs::write(&config.file, bytes).expect("written");
    let marked = engine(&config);
    let text = marked.tokenize_text("hello world").expect("fits");
    assert_eq!(text.split_last().map(|(_, before)| before), Some(&words[..]));
    assert!(text.last().is_some_and(|end| marked.info().end_tokens.contains(end)), "{text:?}");
    assert_eq!(marked.tokenize_raw("hello world").expect("fits"), words, "a prompt goes on");
}

#[tokio::test]
async fn a_running_answer_goes_on_between_the_chunks() {
    let engine = engine(&small());
    let mut job = ask(&engine, "Tell me a long story.", 60);
    job.sampling.logit_bias = super::harness::never_ending(&engine);
    let mut running = engine.submit(job).expect("taken");
    first_text(&mut running).await;
    let long = "one two three four five six seven eight nine ten ".repeat(12);
    let mut embedding = engine.embed(texts(&engine, &[&long], None)).expect("taken");
    let before = engine.status().decode_tokens;
    embedding.vectors().await.expect("computed");
    assert!(engine.status().decode_tokens > before, "tokens came while the text was read");
    let usage = embedding.usage();
    assert!(usage.prompt_tokens > 100 && usage.prefill_time > Duration::ZERO);
    let status = engine.status();
    assert_eq!(status.busy, status.attributed, "all time is somebody's");
    drop(running);
}

#[tokio::test]
async fn what_is_too_long_or_empty_is_refused_with_the_numbers() {
    let engine = engine(&small());
    let most = engine.embed_tokens_max();
    let job = |inputs| EmbedJob {
        inputs,
        pooling: None,
        engine_time_max: Duration::MAX,
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    };
    let too_long = vec![5; most as usize + 1];
    let refused = engine.embed(job(vec![too_long])).expect_err("too long");
    let numbers = SubmitError::ContextOverflow {
        prompt_tokens: most + 1,
        max_tokens: 0,
        context_tokens: most,
    };
    assert_eq!(refused, numbers);
    assert_eq!(engine.embed(job(vec![vec![]])).expect_err("empty"), SubmitError::EmptyPrompt);
    assert!(engine.embed(job(vec![vec![-1]])).is_err());
    assert!(engine.embed(job(Vec::new())).is_err());
}

#[tokio::test]
async fn an_answer_goes_on_with_what_the_assistant_began() {
    let engine = engine(&small());
    let mut begun = super::harness::user("The three primary colors are");
    begun.role = local_engine::Role::Assistant;
    let messages = vec![super::harness::user("Name the primary colors."), begun];
    let chat = local_engine::Chat { messages, continued: true, ..Default::default() };
    let mut job = ask(&engine, "unused", 12);
    job.prompt = engine.tokenize(&chat).expect("renders");
    let mut generation = engine.submit(job).expect("taken");
    let mut ended = false;
    while let Some(event) = generation.next().await {
        ended = matches!(event, JobEvent::Finished { .. });
    }
    assert!(ended);
}
