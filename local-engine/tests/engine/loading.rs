//! A file that is no model is an error, not a crash, and a loaded one says what it is.

use std::{io::Write, path::Path};

use local_engine::{Engine, EngineState, KvLayout, LoadError};

use crate::harness::{answer, ask, engine, model_file, reproducible, small};

fn load_error(file: &Path) -> LoadError {
    let mut config = small();
    config.file = file.to_owned();
    Engine::load(&config).expect_err("it is no model")
}

#[test]
fn what_is_no_model_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = load_error(&directory.path().join("missing.gguf"));
    assert!(matches!(missing, LoadError::Unreadable { .. }), "{missing}");
    let folder = load_error(directory.path());
    assert!(matches!(folder, LoadError::Unreadable { .. }), "{folder}");
    let head = std::fs::read(model_file()).expect("the model")[..3_000_000].to_vec();
    for (name, bytes) in [("empty", Vec::new()), ("garbage", vec![7; 4_096]), ("truncated", head)] {
        let path = directory.path().join(name);
        std::fs::File::create(&path).expect("a file").write_all(&bytes).expect("written");
        let error = load_error(&path);
        assert!(matches!(error, LoadError::Model { .. }), "{name}: {error}");
        assert!(!error.to_string().contains("no reason"), "llama.cpp says why: {error}");
    }
}

#[test]
fn settings_that_would_abort_the_process_are_refused() {
    let refused = |change: fn(&mut local_engine::EngineConfig)| {
        let mut config = small();
        change(&mut config);
        matches!(Engine::load(&config), Err(LoadError::Config(_)))
    };
    assert!(refused(|config| config.slots = 0));
    assert!(refused(|config| config.slots = 257));
    assert!(refused(|config| config.queue_max = 0));
    assert!(refused(|config| config.batch_tokens = Some(0)));
    assert!(refused(|config| config.prefill_chunk = Some(0)));
    assert!(refused(|config| config.context_tokens = 0));
    assert!(refused(|config| config.context_tokens = u32::MAX));
    assert!(refused(|config| config.reader_lag_max = 0));
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The chat template in a model's file: behind its key stand the type, the length and the text.
fn template(file: &[u8]) -> &[u8] {
    let key = b"tokenizer.chat_template";
    let at = file.windows(key.len()).position(|window| window == key).expect("a template");
    let (length, text) = file[at + key.len() + 4..].split_first_chunk().expect("its length");
    &text[..usize::try_from(u64::from_le_bytes(*length)).expect("a length")]
}

#[tokio::test]
async fn a_loaded_model_says_what_it_is() {
    let mut config = small();
    config.kv_layout = KvLayout::Unified;
    let engine = engine(&config);
    let info = engine.info();
    assert_eq!(info.architecture, "llama");
    assert_eq!(info.quantisation, "Q4_1");
    assert_eq!((info.context_tokens, info.kv_cells), (1_024, 1_024));
    assert_eq!(info.layers, 31);
    assert!(info.parameters > 100_000_000 && info.vocabulary > 40_000);
    let file = std::fs::read(model_file()).expect("the model");
    assert_eq!(info.template_sha256, Some(sha256(template(&file))));
    assert!(info.layers_offloaded == 0 || info.backend() != "CPU");
    assert_eq!(engine.sha256_blocking(), Ok(sha256(&file).as_str()));
    assert_eq!(engine.sha256(), engine.sha256_blocking().ok());
    let status = engine.status();
    assert_eq!(status.state, EngineState::Running);
    assert_eq!((status.kv_total, status.kv_used), (1_024, 0));
}

#[tokio::test]
async fn two_engines_live_side_by_side() {
    let (one, two) = (engine(&small()), engine(&small()));
    let first = answer(&one, ask(&one, "Name a color.", 3)).await;
    drop(one);
    let second = answer(&two, ask(&two, "Name a color.", 3)).await;
    assert_eq!(first.text(), second.text());
}

/// What a build for AVX-512 computed. With other instructions (AMX: off by up to 0.22) it rounds
/// otherwise, but kernels that multiply wrongly say something else.
#[tokio::test]
async fn every_build_computes_the_same_model() {
    let computed = [
        [("The", -1.2308), ("I", -2.5028), ("This", -2.6356)],
        [(" sea", -0.4194), (" ocean", -3.1386), (" sky", -4.043)],
        [(" was", -0.3105), (" is", -1.7665), (",", -4.5145)],
    ];
    let engine = engine(&reproducible());
    let mut job = ask(&engine, &"The sea was calm that morning. ".repeat(20), 3);
    job.logprobs = Some(10);
    let told = answer(&engine, job).await.logprobs;
    assert_eq!(told.len(), computed.len());
    for (token, likeliest) in told.iter().zip(computed) {
        assert_eq!(token.chosen.bytes, likeliest[0].0.as_bytes());
        for (text, logprob) in likeliest {
            let here = token.top.iter().find(|likely| likely.bytes == text.as_bytes());
            let off = here.map(|here| (here.logprob - logprob).abs());
            assert!(off.is_some_and(|off| off <= 0.3), "{text:?} is off by {off:?}");
        }
    }
}

/// OpenMP keeps computing threads for every thread that ever computed. More of them than processors,
/// and all sleep at each barrier.
#[cfg(target_os = "linux")]
#[test]
fn loading_leaves_no_computing_thread_behind() {
    let ids = || -> std::collections::BTreeSet<std::ffi::OsString> {
        let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
        tasks.flatten().map(|task| task.file_name()).collect()
    };
    // A name that only what this thread starts has.
    let loaded = std::thread::Builder::new().name("loads-a-model".to_owned()).spawn(move || {
        let _engine = engine(&local_engine::EngineConfig { threads: Some(2), ..small() });
        let named = || {
            let of = |id: &std::ffi::OsString| {
                std::fs::read_to_string(Path::new("/proc/self/task").join(id).join("comm"))
            };
            let names = ids().iter().filter_map(|id| of(id).ok()).collect::<Vec<_>>();
            names.iter().filter(|name| name.trim_end() == "loads-a-model").count()
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while named() > 1 && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        named()
    });
    assert_eq!(loaded.expect("a thread").join().expect("it ends"), 1, "the thread itself");
}

/// Bytes of this process's memory for which huge pages were asked.
#[cfg(target_os = "linux")]
fn asked_huge() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells");
    let mut size = 0;
    let mut huge = 0;
    for line in maps.lines() {
        if let Some(kib) = line.strip_prefix("Size:") {
            size = kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10;
        }
        let flags = line.strip_prefix("VmFlags:").unwrap_or_default();
        if flags.split_whitespace().any(|flag| flag == "hg") {
            huge += size;
        }
    }
    huge
}

#[cfg(target_os = "linux")]
#[test]
fn weights_are_in_huge_pages_where_the_kernel_has_them() {
    let had = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !had.is_ok_and(|modes| !modes.contains("[never]")) {
        return crate::harness::not_checked("huge-pages", "the kernel gives no huge pages");
    }
    let weights = std::fs::metadata(model_file()).expect("the model").len();
    let before = asked_huge();
    let mapped = engine(&local_engine::EngineConfig { mmap: true, ..small() });
    let of_mapped = asked_huge() - before;
    assert!(
        of_mapped > 0,
        "not even its KV cache: llama.cpp is of a build before scripts/pages.h?"
    );
    drop(mapped);
    let before = asked_huge();
    let _read = engine(&small());
    let of_read = asked_huge() - before;
    // The file's head, and what does not fill a page, are not among them.
    assert!(of_read > weights / 10 * 9, "{of_read} of {weights}");
    assert!(of_read > of_mapped, "a mapped file has the pages of the file");
}
