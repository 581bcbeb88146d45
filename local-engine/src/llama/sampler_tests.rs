//! Our chain beside llama.cpp's: the same logits, settings and seed give the same tokens.

use std::path::PathBuf;

use llama_cpp_2::{
    sampling::LlamaSampler,
    token::{
        LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray,
        logit_bias::LlamaLogitBias,
    },
};

use super::Model;
use crate::{
    draw::{Breakers, Chain, Heads, Scratch},
    job::{Dry, Sampling},
    offload::CPU,
};

/// Tokens drawn with each setting: what was drawn counts for the next.
const TOKENS: usize = 24;

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from((self.0 >> 33) % u64::from(limit)).expect("below it")
    }

    /// From 0 to below 1.
    fn fraction(&mut self) -> f32 {
        f32::from(u16::try_from(self.below(1 << 16)).expect("16 bits")) / 65_536.0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(u32::try_from(all.len()).expect("few")) as usize]
    }

    /// A row of logits without two that are equal, shaped as a model's are: a few far above the rest.
    fn row(&mut self, vocabulary: i32) -> Vec<f32> {
        let spread = 1.0 + self.fraction() * 5.0;
        let mut row: Vec<f32> = (0..vocabulary)
            .map(|_| {
                let bell: f32 = (0..6).map(|_| self.fraction()).sum();
                (bell - 3.0) * spread + self.fraction() * 1e-3
            })
            .collect();
        for _ in 0..self.below(20) {
            let at = self.below(vocabulary.unsigned_abs()) as usize;
            row[at] += self.fraction() * 12.0;
        }
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*a].total_cmp(&row[*b]));
        for pair in order.windows(2) {
            row[pair[1]] = row[pair[1]].max(row[pair[0]].next_up());
        }
        row
    }

    fn sampling(&mut self, vocabulary: i32) -> Sampling {
        let token = |numbers: &mut Numbers| {
            i32::try_from(numbers.below(vocabulary.unsigned_abs())).expect("small")
        };
        let biases = self.one_of(&[0, 0, 1, 30]);
        Sampling {
            temperature: self.one_of(&[0.0, 0.3, 0.8, 1.0, 1.7]),
            top_p: self.one_of(&[1.0, 0.95, 0.5, 0.999, f32::EPSILON]),
            top_k: self.one_of(&[None, Some(40), Some(1), Some(300), Some(u32::MAX)]),
            min_p: self.one_of(&[0.0, 0.05, 0.4, 1.0]),
            typical_p: self.one_of(&[1.0, 1.0, 1.0, 0.9, 0.2]),
            repeat_penalty: self.one_of(&[1.0, 1.0, 1.3, 0.8]),
            presence_penalty: self.one_of(&[0.0, 0.0, 1.5, -0.5]),
            frequency_penalty: self.one_of(&[0.0, 0.0, 0.7, -0.2]),
            repeat_last_n: self.one_of(&[64, 5, 0, 1_000]),
            dry: None,
            logit_bias: (0..biases).map(|_| (token(self), self.fraction() * 20.0 - 10.0)).collect(),
            seed: Some(u64::from(self.below(1_000_000))),
        }
    }
}

/// llama.cpp's chain for the same settings.
fn theirs(
    model: Option<&Model>,
    vocabulary: i32,
    sampling: &Sampling,
    prompt: &[i32],
) -> LlamaSampler {
    let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let last = |count: u32| {
        let recent = &prompt[prompt.len().saturating_sub(count as usize)..];
        recent.iter().map(|token| LlamaToken::new(*token))
    };
    let bias = |(token, bias): &(i32, f32)| LlamaLogitBias::new(LlamaToken::new(*token), *bias);
    let biases: Vec<LlamaLogitBias> = sampling.logit_bias.iter().map(bias).collect();
    let window = sampling.repeat_last_n;
    let penalties = LlamaSampler::penalties(
        vocabulary,
        signed(window),
        sampling.repeat_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    );
    let mut chain =
        vec![LlamaSampler::logit_bias(vocabulary, &biases), penalties.with_tokens(last(window))];
    if let (Some(dry), Some(model)) = (&sampling.dry, model) {
        let (base, allowed) = (dry.base, signed(dry.allowed_length));
        let (multiplier, window) = (dry.multiplier, signed(dry.last_n));
        let texts = dry.breakers.texts();
        let dry = LlamaSampler::dry(&model.model, multiplier, base, allowed, window, texts);
        chain.push(dry.with_tokens(last(window.unsigned_abs())));
    }
    if sampling.temperature <= 0.0 {
        chain.push(LlamaSampler::greedy());
        return LlamaSampler::chain(chain, true);
    }
    chain.extend([
        LlamaSampler::top_k(sampling.top_k.map_or(0, signed)),
        LlamaSampler::typical(sampling.typical_p, 1),
        LlamaSampler::top_p(sampling.top_p, 1),
        LlamaSampler::min_p(sampling.min_p, 1),
        LlamaSampler::temp(sampling.temperature),
        LlamaSampler::dist(u32::try_from(sampling.seed.expect("given")).expect("32 bits")),
    ]);
    LlamaSampler::chain(chain, true)
}

fn drawn_by_theirs(chain: &mut LlamaSampler, row: &[f32]) -> i32 {
    let all = (0..)
        .zip(row)
        .map(|(token, logit)| LlamaTokenData::new(LlamaToken::new(token), *logit, 0.0));
    let mut data = LlamaTokenDataArray::from_iter(all, false);
    data.apply_sampler(chain);
    let token = data.selected_token().expect("one is drawn");
    chain.accept(token);
    token.0
}

#[test]
fn the_same_tokens_are_drawn_as_by_llama_cpp() {
    let mut numbers = Numbers(1);
    let mut scratch = Scratch::default();
    for case in 0..400 {
        let vocabulary = numbers.one_of(&[50, 1_000, 1_100, 5_000]);
        let sampling = numbers.sampling(vocabulary);
        let prompt: Vec<i32> =
            (0..numbers.below(120)).map(|at| i32::try_from(at % 40).expect("small")).collect();
        let mut chain = Chain::new(&sampling, &prompt, 0, Heads::default());
        let mut reference = theirs(None, vocabulary, &sampling, &prompt);
        for at in 0..TOKENS {
            let row = numbers.row(vocabulary);
            let token = chain.draw(&row, None, &mut scratch).expect("one is drawn");
            let wanted = drawn_by_theirs(&mut reference, &row);
            assert_eq!(token, wanted, "case {case}, token {at}, {vocabulary} tokens, {sampling:?}");
        }
    }
}

#[test]
fn repetitions_cost_what_they_cost_in_llama_cpp() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/SmolLM2-135M-Instruct-Q4_1.gguf");
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(|| default.into(), PathBuf::from);
    let model = Model::load(&file, CPU, false).expect("run `make model`");
    let vocabulary = model.vocabulary;
    let mut numbers = Numbers(2);
    let mut scratch = Scratch::default();
    let words = model
        .tokenize(&["one two\n three: \"four\" one two\n three".to_owned()], &|| true)
        .expect("wanted");
    for case in 0..40 {
        let breakers: Vec<String> =
            [vec!["\n", ":", "\"", "*"], vec!["three"], vec![" th", "our\" o"], vec![]]
                [numbers.below(4) as usize]
                .iter()
                .map(|text| (*text).to_owned())
                .collect();
        let dry = Dry {
            multiplier: 0.5 + numbers.fraction() * 3.0,
            base: 1.0 + numbers.fraction(),
            allowed_length: numbers.below(3),
            last_n: numbers.one_of(&[10, 64, 65_536]),
            breakers: Breakers::from(breakers.clone()),
        };
        let sampling = Sampling { dry: Some(dry), ..numbers.sampling(vocabulary) };
        let prompt: Vec<i32> = (0..60).map(|_| numbers.one_of(&words)).collect();
        let mut chain = Chain::new(&sampling, &prompt, 0, model.heads(&breakers));
        let mut reference = theirs(Some(&model), vocabulary, &sampling, &prompt);
        for at in 0..TOKENS {
            let mut row = numbers.row(vocabulary);
            for word in &words {
                row[usize::try_from(*word).expect("an id")] += 20.0;
            }
            let token = chain.draw(&row, None, &mut scratch).expect("one is drawn");
            let wanted = drawn_by_theirs(&mut reference, &row);
            assert_eq!(token, wanted, "case {case}, token {at}, {sampling:?}");
        }
    }
}
