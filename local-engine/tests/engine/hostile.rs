//! A model file or a request made to do harm is refused before llama.cpp sees it. The files are the
//! real model with one thing in its header changed. A child process opens them all, or takes all
//! requests, and must end in order.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
};

use local_engine::{EmbedJob, Engine, Job, LoadError, PromptError, Rule, Sampling, Scheduling};

use crate::harness::{answer, ask, engine, model_file, small, user};

/// Where the child finds the files.
const DIRECTORY: &str = "TOLLGATE_HOSTILE_DIRECTORY";
/// Says that this is the child that takes requests.
const REQUESTS: &str = "TOLLGATE_HOSTILE_REQUESTS";
/// More than the model's header.
const HEAD_BYTES: u64 = 4 << 20;

/// The beginning of the model's file.
struct Head(Vec<u8>);

impl Head {
    fn read() -> Head {
        let mut head = Vec::new();
        let file = File::open(model_file()).expect("the model");
        file.take(HEAD_BYTES).read_to_end(&mut head).expect("read");
        Head(head)
    }

    /// The place after the last occurrence of a name: what is written about it.
    fn after(&self, name: &str) -> usize {
        let name = name.as_bytes();
        let at = self.0.windows(name.len()).position(|window| window == name);
        at.expect("the name is in the header") + name.len()
    }

    /// The place of a key's value.
    fn value(&self, key: &str) -> usize {
        self.after(key) + 4
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Head {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn set(self, key: &str, number: u32) -> Head {
        let at = self.value(key);
        self.put(at, &number.to_le_bytes())
    }

    /// Changes the tensor `token_embd.weight`, whose entry is: dimensions, two sizes, type, offset.
    fn tensor(self, offset: usize, bytes: &[u8]) -> Head {
        let at = self.after("token_embd.weight");
        self.put(at + offset, bytes)
    }
}

/// Every way to break the header, by name.
fn broken() -> Vec<(&'static str, Head)> {
    let head = Head::read;
    let most = u64::MAX.to_le_bytes();
    vec![
        ("magic", head().put(0, b"GGML")),
        ("version-1", head().put(4, &1_u32.to_le_bytes())),
        ("version-9", head().put(4, &9_u32.to_le_bytes())),
        ("big-endian", head().put(4, &3_u32.to_be_bytes())),
        ("tensor-count", head().put(8, &most)),
        ("value-count", head().put(16, &most)),
        ("value-count-large", head().put(16, &(1_u64 << 60).to_le_bytes())),
        ("key-length", head().put(24, &most)),
        ("value-type", {
            let at = head().after("llama.block_count");
            head().put(at, &77_u32.to_le_bytes())
        }),
        ("no-layers", head().set("llama.block_count", 0)),
        ("many-layers", head().set("llama.block_count", 513)),
        ("layers-overflow", head().set("llama.block_count", u32::MAX)),
        ("no-context", head().set("llama.context_length", 0)),
        ("no-embedding", head().set("llama.embedding_length", 0)),
        ("uneven-heads", head().set("llama.attention.head_count_kv", 2)),
        ("vocabulary-length", {
            let at = head().after("tokenizer.ggml.tokens") + 8;
            head().put(at, &(1_u64 << 62).to_le_bytes())
        }),
        ("twin-tokens", twin_tokens(head())),
        ("dimensions", head().tensor(0, &5_u32.to_le_bytes())),
        ("no-elements", head().tensor(4, &0_u64.to_le_bytes())),
        ("elements-overflow", head().tensor(4, &most)),
        ("elements-beyond", head().tensor(12, &(1_u64 << 39).to_le_bytes())),
        ("tensor-type", head().tensor(20, &999_u32.to_le_bytes())),
        ("tensor-of-bytes", head().tensor(20, &24_u32.to_le_bytes())),
        ("tensor-offset", head().tensor(24, &most)),
    ]
}

/// Gives two one-byte tokens that follow each other the same text.
fn twin_tokens(head: Head) -> Head {
    let one = 1_u64.to_le_bytes();
    let pair = |window: &[u8]| window[..8] == one && window[9..17] == one;
    let at = head.0.windows(18).position(pair).expect("one-byte tokens");
    let text = head.0[at + 8];
    head.put(at + 17, &[text])
}

/// Writes a head as long a file as the model's, with nothing behind it: sparse, so it takes no room.
fn write(directory: &Path, name: &str, head: &[u8], bytes: u64) -> PathBuf {
    let path = directory.join(name);
    let mut file = File::create(&path).expect("a file");
    file.write_all(head).expect("written");
    file.set_len(bytes).expect("as long");
    path
}

fn load_error(file: &Path) -> LoadError {
    let mut config = small();
    config.file = file.to_owned();
    Engine::load(&config).expect_err("it is refused")
}

/// Runs twice: the second time in a child, which opens the files and may die.
#[test]
fn no_header_brings_the_process_down() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return open_all(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let whole = model_file().metadata().expect("the model").len();
    let mut names = Vec::new();
    for (name, head) in broken() {
        write(directory.path(), name, &head.0, whole);
        names.push(name.to_owned());
    }
    let head = Head::read().0;
    for bytes in [0, 3, 12, 24, 100, 10_000, 1_000_000, whole / 2, whole - 1] {
        let name = format!("cut-at-{bytes}");
        let kept = usize::try_from(bytes).expect("small").min(head.len());
        write(directory.path(), &name, &head[..kept], bytes);
        names.push(name);
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hostile::no_header_brings_the_process_down", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {said}\n{errors}", child.status);
    for name in names {
        assert!(said.contains(&format!("refused {name}: ")), "{name} is refused: {said}");
    }
}

fn open_all(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let error = load_error(&path);
        assert!(matches!(error, LoadError::Model { .. }), "{name}: {error}");
        writeln!(std::io::stdout(), "refused {name}: {error}").expect("the parent reads");
    }
}

#[test]
fn a_refusal_says_what_is_wrong_and_where() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = model_file().metadata().expect("the model").len();
    let head = Head::read().set("llama.block_count", 0);
    let path = write(directory.path(), "layers.gguf", &head.0, whole);
    let said = load_error(&path).to_string();
    assert!(said.contains("layers.gguf") && said.contains("`llama.block_count` is 0"), "{said}");
    let path = write(directory.path(), "half.gguf", &Head::read().0, whole / 2);
    assert!(load_error(&path).to_string().contains("is cut off"));
}

/// Rules that would run a parser out of its stack, or that no answer can match.
fn hostile_rules() -> Vec<Rule> {
    let nested = |open: &str, core: &str, close: &str, depth: usize| {
        format!("{}{core}{}", open.repeat(depth), close.repeat(depth))
    };
    vec![
        Rule::JsonSchema(nested(r#"{"type":"object","properties":{"a":"#, "true", "}}", 20_000)),
        Rule::JsonSchema(nested(r#"{"anyOf":["#, "true", "]}", 50)),
        Rule::JsonSchema(nested("[", "", "]", 100_000)),
        Rule::Gbnf(format!("root ::= {}", nested("(", "\"a\"", ")", 50_000))),
        Rule::Gbnf(format!("root ::= {}", "\"a\" | ".repeat(20_000))),
        Rule::Gbnf("root ::= a\na ::= b\nb ::= a".to_owned()),
        Rule::Gbnf("root ::= [^\\x00-\\U0010FFFF]".to_owned()),
        Rule::Regex(nested("(", "a", ")", 2_000)),
        Rule::Regex("[^\\x00-\\x{10FFFF}]".to_owned()),
    ]
}

/// Templates that would run a parser out of its stack, never end, or fill the memory.
fn hostile_templates() -> Vec<String> {
    let each = |name: char| format!("{{% for {name} in range(99999) %}}");
    vec![
        format!("{{{{ {}", "(".repeat(200)),
        format!("{}{}{}x{}", each('a'), each('b'), each('c'), "{% endfor %}".repeat(3)),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{{ range(99999999999) | list }}".to_owned(),
        "{{ 'x' * 999999999999 }}".to_owned(),
        "{{ 'x'.ljust(999999999999) }}".to_owned(),
        "{% include 'itself' %}".to_owned(),
        // The name under which it is compiled.
        "{% include 'chat' %}".to_owned(),
        "{% import 'chat' as again %}{{ again }}".to_owned(),
    ]
}

/// Loads the model with another template, or renders by it: one of them says why not.
fn try_template(template: &str) {
    let head = Head::read();
    let at = head.value("tokenizer.chat_template");
    let length = u64::from_le_bytes(head.0[at..at + 8].try_into().expect("eight"));
    let length = usize::try_from(length).expect("small");
    let padded = format!("{template:length$}");
    assert_eq!(padded.len(), length, "it fits where the model's own stands");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("template.gguf");
    std::fs::copy(model_file(), &file).expect("copied");
    let mut opened = std::fs::OpenOptions::new().write(true).open(&file).expect("opened");
    opened.seek(SeekFrom::Start(at as u64 + 8)).expect("there");
    opened.write_all(padded.as_bytes()).expect("written");
    let mut config = small();
    config.file = file;
    // It is there and refused, by what reads it or by what runs it; the model serves texts.
    let engine = Engine::load(&config).expect("loads");
    let said = match engine.tokenize_chat(&[user("Hello?")]) {
        Err(PromptError::Refused(reason) | PromptError::Template(reason)) => reason,
        Err(other) => panic!("{template}: {other}"),
        Ok(tokens) => panic!("{template} gave {} tokens", tokens.len()),
    };
    engine.tokenize_raw("Hello?").expect("needs no template");
    assert!(!said.is_empty(), "{template} is refused with a reason");
}

/// Two vocabularies that llama.cpp cuts by `std::regex`, and one that it cuts by code of its own.
const PATTERNS: [&str; 3] = ["gpt-4o", "viking", "smollm"];

/// Words on which `std::regex` overflows the stack are tokens like others.
fn tokenise_long_words(pattern: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pattern.gguf");
    std::fs::copy(model_file(), &file).expect("copied");
    let at = Head::read().value("tokenizer.ggml.pre") as u64 + 8;
    let mut opened = std::fs::OpenOptions::new().write(true).open(&file).expect("opened");
    opened.seek(SeekFrom::Start(at)).expect("there");
    opened.write_all(pattern.as_bytes()).expect("written");
    let mut config = small();
    config.file = file;
    let engine = engine(&config);
    for word in ["ACGT", "é", "字", " ", "\n", "\r", "1", "=", "aA", "=\n", "a1=", "e\u{301}"] {
        // As many as a context of the model's could hold, were they one token each.
        let tokens = engine.tokenize_raw(&word.repeat(8000)).expect("tokens");
        assert!(tokens.len() > 100, "{pattern}: {word:?} gave {}", tokens.len());
    }
    let (before, after) = ("A few words, ".repeat(10), " and 'tis well.\n");
    let tokens = |text: &str| engine.tokenize_raw(text).expect("tokens");
    let alone = tokens(&before);
    let together = tokens(&format!("{before}{}{after}", "/word".repeat(1000)));
    assert_eq!(together[..alone.len() - 1], alone[..alone.len() - 1], "what is usual is as before");
}

/// Runs twice, as above.
#[test]
fn no_request_brings_the_process_down() {
    if std::env::var_os(REQUESTS).is_some() {
        return take_all();
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "hostile::no_request_brings_the_process_down", "--nocapture"])
        .env(REQUESTS, "1")
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {said}\n{errors}", child.status);
    assert!(said.contains("all taken or refused"), "{said}");
}

#[tokio::main(flavor = "current_thread")]
async fn take_all() {
    let engine = engine(&small());
    let usual = ask(&engine, "Say hello.", 4);
    for rule in hostile_rules() {
        let Ok(constraint) = engine.constrain(&rule) else { continue };
        // Every sampler after it: none may drop what alone is allowed.
        let sampling = Sampling {
            temperature: 2.0,
            top_k: Some(1),
            min_p: 1.0,
            typical_p: 0.01,
            top_p: f32::EPSILON,
            ..Sampling::default()
        };
        let job = Job { constraint: Some(constraint), sampling, ..usual.clone() };
        super::harness::read(engine.submit(job).expect("taken")).await;
    }
    let outside = i32::try_from(engine.info().vocabulary).expect("small");
    for id in [-1, outside, i32::MIN, i32::MAX] {
        let prompt = vec![1, id, 2];
        let job = Job { prompt: prompt.clone(), ..usual.clone() };
        assert!(engine.submit(job).is_err(), "{id} in a prompt");
        let mut job = usual.clone();
        job.sampling.logit_bias = vec![(id, 1.0)];
        assert!(engine.submit(job).is_err(), "{id} in a bias");
        let (pooling, scheduling) = (None, Scheduling::default());
        let (engine_time_max, engine_time_may_grow) = (std::time::Duration::MAX, false);
        let texts = EmbedJob {
            inputs: vec![prompt],
            pooling,
            engine_time_max,
            engine_time_may_grow,
            scheduling,
        };
        assert!(engine.embed(texts).is_err(), "{id} in a text");
    }
    let endless = Job { prompt: vec![1; 1_000_000], ..usual.clone() };
    assert!(engine.submit(endless).is_err());
    PATTERNS.into_iter().for_each(tokenise_long_words);
    for template in hostile_templates() {
        try_template(&template);
    }
    assert!(answer(&engine, usual).await.usage().generated_tokens > 0, "it goes on");
    writeln!(std::io::stdout(), "all taken or refused").expect("the parent reads");
}

/// Weights that were mapped from the file would end the process at the next token.
#[tokio::test]
async fn a_file_that_is_cut_while_it_is_loaded_harms_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = small();
    config.file = directory.path().join("model.gguf");
    std::fs::copy(model_file(), &config.file).expect("a copy");
    let engine = engine(&config);
    let before = answer(&engine, ask(&engine, "Name a color.", 8)).await;
    File::create(&config.file).expect("it is cut to nothing");
    let after = answer(&engine, ask(&engine, "Name a color.", 8)).await;
    assert!(before.usage().generated_tokens > 0);
    assert_eq!(after.text(), before.text());
}
