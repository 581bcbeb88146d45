//! What this module guards against really ends the process: each case is done to llama.cpp without
//! the guard, in a child, which must die by a signal. A case that a later llama.cpp survives needs its
//! guard no more.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::Command};

use super::*;
use crate::{config::KvLayout, offload::CPU};

/// Which case the child is to try.
const CASE: &str = "TOLLGATE_UNGUARDED_CASE";
const CASES: [&str; 3] = ["batch-too-long", "part-of-separate-cache", "row-without-logits"];

/// Does it; returning means that the process survived.
fn unguarded(case: &str) {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    let mut config = EngineConfig::new(file);
    config.threads = Some(1);
    (config.context_tokens, config.slots, config.batch_tokens) = (512, 2, Some(64));
    config.kv_layout = KvLayout::Separate;
    let model = Model::load(&config.file, CPU, false).expect("loads");
    let mut device = LlamaDevice::new(&model, &config).expect("loads");
    let tokens = if case == "batch-too-long" { 65 } else { 8 };
    let mut batch = LlamaBatch::new(tokens, 1);
    for at in 0..i32::try_from(tokens).expect("small") {
        batch.add(LlamaToken::new(1), at, &[0], false).expect("room");
    }
    device.context.decode(&mut batch).expect("computed");
    match case {
        "batch-too-long" => {}
        "part-of-separate-cache" => {
            device.context.kv_cache_seq_cp(0, 1, Some(0), Some(3)).expect("copied");
        }
        // The wrapper panics, where a panic is an abort.
        "row-without-logits" => {
            std::panic::set_hook(Box::new(|_| std::process::abort()));
            let _row = device.context.get_logits_ith(0);
        }
        other => panic!("no such case: {other}"),
    }
}

/// Runs twice: the second time in a child, which dies.
#[test]
fn what_is_guarded_really_ends_the_process() {
    if let Ok(case) = std::env::var(CASE) {
        unguarded(&case);
        return;
    }
    for case in CASES {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "llama::context::unguarded_tests::what_is_guarded_really_ends_the_process",
            ])
            .env(CASE, case)
            .env("GGML_NO_BACKTRACE", "1")
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.signal().is_some(), "{case}: {}: {said}", child.status);
    }
}
