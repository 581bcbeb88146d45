//! Texts beside each other on the real model, where no retry one by one hides that they had no room.

use std::path::PathBuf;

use super::*;
use crate::{device::Device, llama::LlamaDevice, offload::CPU};

/// The sum of each text's token vectors.
fn sums(device: &mut LlamaDevice<'_>, texts: &[&[i32]]) -> Vec<Vec<f32>> {
    let mut sums: Vec<Vec<f32>> = vec![Vec::new(); texts.len()];
    let mut shown = vec![0; texts.len()];
    let add = &mut |text: usize, offset: usize, vector: &[f32]| {
        assert_eq!(offset, shown[text], "in their order");
        shown[text] += 1;
        sums[text].resize(vector.len(), 0.0);
        sums[text].iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    };
    device.embed(texts, 0, add).expect("computed at once");
    assert!(shown.iter().zip(texts).all(|(shown, text)| *shown == text.len()));
    sums
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn as_many_texts_as_have_room_are_computed_at_once_and_see_nothing_of_each_other() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    let mut config = EngineConfig::new(file);
    config.threads = Some(1);
    (config.context_tokens, config.slots, config.batch_tokens) = (512, 2, Some(256));
    let model = Model::load(&config.file, CPU, false).expect("loads");
    let mut device = LlamaDevice::new(&model, &config).expect("loads");
    device.ready_to_embed().expect("a context");
    let room = device.room_to_embed();
    assert_eq!((room.texts, room.tokens), (32, 256));
    let text = |salt: i32| (0..2 + salt % 7).map(|n| 300 + n * 37 + salt * 101).collect();
    let texts: Vec<Vec<i32>> = (0..32).map(text).collect();
    let all: Vec<&[i32]> = texts.iter().map(Vec::as_slice).collect();
    let together = sums(&mut device, &all);
    for (text, together) in all.iter().zip(&together) {
        let alone = sums(&mut device, &[text]);
        assert!(cosine(&alone[0], together) > 0.999, "{text:?}");
    }
    let one_more: Vec<&[i32]> = all.iter().copied().chain([all[0]]).collect();
    assert!(device.embed(&one_more, 0, &mut |_, _, _| {}).is_err(), "it has no room");
    assert!(device.embed(&all[..2], 3, &mut |_, _, _| {}).is_err(), "a piece has no company");
}
