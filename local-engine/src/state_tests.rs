//! Cells that were saved, given up and put back elsewhere are the same cells: on the real model, a
//! drawn answer goes on token for token. In separate caches a copied prefix does too.

use std::path::PathBuf;

use crate::{
    config::{EngineConfig, KvLayout},
    device::{BatchToken, Device},
    job::{Job, Sampling},
    llama::{LlamaDevice, Model, Sampler},
    offload::CPU,
    scheduler_tests::greedy,
};

const PROMPT: &str = "Once upon a time there was a number that nobody could count to, and so";
const TOKENS: u32 = 24;

fn config(kv_layout: KvLayout) -> EngineConfig {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    assert!(file.is_file(), "no model at {}: run `make model`", file.display());
    let mut config = EngineConfig::new(file);
    config.threads = Some(1);
    (config.context_tokens, config.slots, config.kv_layout) = (1_024, 4, kv_layout);
    config
}

fn drawn(device: &LlamaDevice<'_>) -> Sampler {
    let sampling = Sampling { temperature: 1.2, top_p: 0.98, seed: Some(7), ..Sampling::default() };
    device.sampler(&Job { sampling, max_tokens: TOKENS, ..greedy(&[1]) })
}

fn compute(device: &mut LlamaDevice<'_>, slot: u32, from: u32, tokens: &[i32]) {
    let last = tokens.len() - 1;
    let batch: Vec<BatchToken> = (from..)
        .zip(tokens.iter().enumerate())
        .map(|(position, (at, token))| BatchToken {
            token: *token,
            position,
            slot,
            logits: at == last,
        })
        .collect();
    device.decode(&batch).expect("computed");
}

/// Draws an answer that begins after `token` at `position`.
fn answer(device: &mut LlamaDevice<'_>, slot: u32, position: u32, token: i32) -> Vec<i32> {
    let mut sampler = drawn(device);
    let (mut tokens, mut last) = (Vec::new(), token);
    for at in position..position + TOKENS {
        compute(device, slot, at, &[last]);
        last = device.sample(&mut sampler, 0).expect("drawn");
        tokens.push(last);
    }
    tokens
}

/// A prompt in slot 0 but for its last token, beside another sequence in slot 1.
fn begun(device: &mut LlamaDevice<'_>, model: &Model) -> (u32, i32) {
    let prompt = model.tokenize(&[PROMPT.to_owned()], &|| true).expect("wanted");
    let (last, before) = prompt.split_last().expect("tokens");
    compute(device, 1, 0, &prompt);
    compute(device, 0, 0, before);
    (u32::try_from(before.len()).expect("short"), *last)
}

#[test]
fn an_answer_goes_on_token_for_token_after_its_cells_were_put_back() {
    for layout in [KvLayout::Unified, KvLayout::Separate] {
        let config = config(layout);
        let model = Model::load(&config.file, CPU, false).expect("loads");
        let mut device = LlamaDevice::new(&model, &config).expect("loads");
        let (position, last) = begun(&mut device, &model);
        let saved = device.save(0).expect("saved");
        assert!(LlamaDevice::saved_bytes(&saved) > 0 && device.state_bytes(0) > 0);
        let undisturbed = answer(&mut device, 0, position, last);
        assert!(device.truncate(0, 0, None));
        assert!(device.restore(2, saved), "put back into another slot");
        assert_eq!(answer(&mut device, 2, position, last), undisturbed, "{layout:?}");
    }
}

#[test]
fn a_copied_prefix_answers_like_its_source() {
    let config = config(KvLayout::Separate);
    let model = Model::load(&config.file, CPU, false).expect("loads");
    let mut device = LlamaDevice::new(&model, &config).expect("loads");
    let (position, last) = begun(&mut device, &model);
    // Slot 1 has one token more than is kept of it.
    assert!(device.share(1, 3, position, None));
    assert!(device.save(3).is_none(), "its cells are copied with the next batch");
    let source = answer(&mut device, 0, position, last);
    let saved = device.save(3).expect("they are there now");
    assert_eq!(answer(&mut device, 3, position, last), source);
    device.truncate(2, 0, None);
    assert!(device.restore(2, saved));
    assert_eq!(answer(&mut device, 2, position, last), source);
}
