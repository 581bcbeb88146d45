//! What ends the process when llama.cpp sees it is stopped before: each case runs in a child, which
//! must say that it was refused and end in order.

use std::{path::PathBuf, process::Command};

use crate::{
    config::{EngineConfig, KvLayout},
    device::{BatchToken, Device, Fault},
    llama::{LlamaDevice, Model},
    offload::CPU,
    scheduler_tests::greedy,
};

/// Which case the child is to try.
const CASE: &str = "TOLLGATE_GUARD_CASE";
const CASES: [&str; 7] = [
    "batch-too-long",
    "batch-empty",
    "token-outside-vocabulary",
    "slot-outside-context",
    "row-without-logits",
    "row-outside-batch",
    "part-of-separate-cache",
];

fn config(kv_layout: KvLayout) -> EngineConfig {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    assert!(file.is_file(), "no model at {}: run `make model`", file.display());
    let mut config = EngineConfig::new(file);
    config.threads = Some(1);
    (config.context_tokens, config.slots, config.kv_layout) = (512, 2, kv_layout);
    config.batch_tokens = Some(64);
    config
}

fn token(token: i32, position: u32, slot: u32) -> BatchToken {
    BatchToken { token, position, slot, logits: false }
}

/// Tries one case; says whether it was refused.
fn refused(case: &str) -> bool {
    let separate = case == "part-of-separate-cache";
    let config = config(if separate { KvLayout::Separate } else { KvLayout::Unified });
    let model = Model::load(&config.file, CPU, false).expect("loads");
    let mut device = LlamaDevice::new(&model, &config).expect("loads");
    let outside = i32::try_from(model.vocabulary()).expect("small");
    let broken = |result: Result<(), Fault>| matches!(result, Err(Fault::Broken(_)));
    match case {
        "batch-too-long" => {
            let batch: Vec<BatchToken> = (0..65).map(|at| token(1, at, 0)).collect();
            broken(device.decode(&batch))
        }
        "batch-empty" => broken(device.decode(&[])),
        "token-outside-vocabulary" => [-1, outside, i32::MAX, i32::MIN]
            .iter()
            .all(|id| broken(device.decode(&[token(*id, 0, 0)]))),
        "slot-outside-context" => broken(device.decode(&[token(1, 0, 10_000)])),
        "row-without-logits" | "row-outside-batch" => {
            let logits = BatchToken { logits: true, ..token(1, 1, 0) };
            device.decode(&[token(1, 0, 0), logits]).expect("computed");
            let row = if case == "row-without-logits" { 0 } else { 1_000_000 };
            let mut sampler = device.sampler(&greedy(&[1]));
            device.sample(&mut sampler, row).is_err()
        }
        "part-of-separate-cache" => {
            let batch: Vec<BatchToken> = (0..8).map(|at| token(1, at, 0)).collect();
            device.decode(&batch).expect("computed");
            // Refused or copied by other means: what must not happen is the abort.
            let _shared = device.share(0, 1, 3, None);
            true
        }
        other => panic!("no such case: {other}"),
    }
}

/// Runs twice: the second time in a child, which tries one case and may die of it.
#[test]
fn what_aborts_llama_cpp_is_stopped_before_it() {
    if let Ok(case) = std::env::var(CASE) {
        assert!(refused(&case), "{case} is refused");
        return;
    }
    for case in CASES {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "guard_tests::what_aborts_llama_cpp_is_stopped_before_it"])
            .env(CASE, case)
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{case}: {}: {said}", child.status);
        assert!(said.contains("1 passed"), "{case} was really tried: {said}");
    }
}
