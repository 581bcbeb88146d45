//! How one job draws its tokens: the order of llama.cpp's own server, with the constraint before
//! everything else, so that no other sampler can drop what alone is allowed.

use std::hash::{BuildHasher, Hasher, RandomState};

use llama_cpp_2::{
    context::LlamaContext,
    sampling::LlamaSampler,
    token::{
        LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray,
        logit_bias::LlamaLogitBias,
    },
};

use super::Model;
use crate::{
    constraint::Constraint,
    device::Fault,
    job::{Job, Sampling},
};

/// Below this a temperature means greedy: dividing logits by less overflows.
const TEMPERATURE_MIN: f32 = 1e-5;

/// How one job draws.
#[derive(Debug)]
pub(crate) struct Sampler {
    draw: Draw,
    constraint: Option<Constraint>,
}

#[derive(Debug)]
enum Draw {
    /// The likeliest token, found without llama.cpp's candidate array.
    Greedy,
    /// llama.cpp's chain.
    Chain(LlamaSampler),
}

impl Sampler {
    /// The sampler of a checked job.
    pub(super) fn new(model: &Model, job: &Job) -> Sampler {
        Sampler {
            draw: build(model, &job.sampling, &job.prompt),
            constraint: job.constraint.clone(),
        }
    }

    /// Draws from the logits at `index`, which are there, and remembers what it drew.
    pub(super) fn draw(&mut self, context: &LlamaContext<'_>, index: i32) -> Result<i32, Fault> {
        let logits = context.get_logits_ith(index);
        let likeliest = likeliest(logits)
            .ok_or_else(|| Fault::Broken("the model computed no numbers".to_owned()))?;
        let Some(constraint) = &mut self.constraint else {
            return Ok(match &mut self.draw {
                Draw::Greedy => likeliest,
                Draw::Chain(chain) => chain.sample(context, index).0,
            });
        };
        let allowed = constraint.allowed().map_err(Fault::Sequence)?;
        let candidates = (0_i32..).zip(logits).filter(|(token, _)| allowed.has(*token));
        let token = match &mut self.draw {
            Draw::Greedy => candidates.max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| token),
            Draw::Chain(chain) => {
                let candidate = |(token, logit): (i32, &f32)| {
                    LlamaTokenData::new(LlamaToken::new(token), *logit, 0.0)
                };
                let mut data = LlamaTokenDataArray::from_iter(candidates.map(candidate), false);
                if data.data.is_empty() {
                    None
                } else {
                    data.apply_sampler(chain);
                    data.selected_token().inspect(|token| chain.accept(*token)).map(|token| token.0)
                }
            }
        };
        let token = token.ok_or_else(|| {
            Fault::Sequence("no token can go on under the request's constraint".to_owned())
        })?;
        constraint.accept(token).map_err(Fault::Sequence)?;
        Ok(token)
    }
}

/// The token with the highest logit; `None` if any is not a number.
fn likeliest(logits: &[f32]) -> Option<i32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0_i32..).zip(logits) {
        if logit.is_nan() {
            return None;
        }
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.1.is_finite().then_some(best.0)
}

/// Biases, penalties, DRY, top-k, typical, top-p, min-p, temperature, draw.
fn build(model: &Model, sampling: &Sampling, prompt: &[i32]) -> Draw {
    let mut chain = Vec::new();
    if !sampling.logit_bias.is_empty() {
        let bias = |(token, bias): &(i32, f32)| LlamaLogitBias::new(LlamaToken::new(*token), *bias);
        let biases: Vec<LlamaLogitBias> = sampling.logit_bias.iter().map(bias).collect();
        chain.push(LlamaSampler::logit_bias(model.vocabulary, &biases));
    }
    penalties(model, sampling, prompt, &mut chain);
    if sampling.temperature < TEMPERATURE_MIN {
        if chain.is_empty() {
            return Draw::Greedy;
        }
        chain.push(LlamaSampler::greedy());
        return Draw::Chain(LlamaSampler::chain(chain, true));
    }
    if let Some(k) = sampling.top_k {
        chain.push(LlamaSampler::top_k(i32::try_from(k).unwrap_or(i32::MAX)));
    }
    if sampling.typical_p < 1.0 {
        chain.push(LlamaSampler::typical(sampling.typical_p, 1));
    }
    if sampling.top_p < 1.0 {
        chain.push(LlamaSampler::top_p(sampling.top_p, 1));
    }
    if sampling.min_p > 0.0 {
        chain.push(LlamaSampler::min_p(sampling.min_p, 1));
    }
    chain.push(LlamaSampler::temp(sampling.temperature));
    chain.push(LlamaSampler::dist(seed(sampling.seed)));
    Draw::Chain(LlamaSampler::chain(chain, true))
}

/// The samplers that look back, with the end of the prompt behind them.
fn penalties(model: &Model, sampling: &Sampling, prompt: &[i32], chain: &mut Vec<LlamaSampler>) {
    let last = |count: u32| {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let recent = &prompt[prompt.len().saturating_sub(count)..];
        recent.iter().map(|token| LlamaToken::new(*token))
    };
    let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let (repeat, window) = (sampling.repeat_penalty, sampling.repeat_last_n);
    let (frequency, presence) = (sampling.frequency_penalty, sampling.presence_penalty);
    let asked = [repeat - 1.0, frequency, presence].iter().any(|value| value.abs() > f32::EPSILON);
    if asked && window > 0 {
        let penalties =
            LlamaSampler::penalties(model.vocabulary, signed(window), repeat, frequency, presence);
        chain.push(penalties.with_tokens(last(window)));
    }
    if let Some(dry) = &sampling.dry
        && dry.multiplier > 0.0
        && dry.last_n > 0
    {
        let sampler = LlamaSampler::dry(
            &model.model,
            dry.multiplier,
            dry.base,
            signed(dry.allowed_length),
            signed(dry.last_n),
            &dry.breakers,
        );
        chain.push(sampler.with_tokens(last(dry.last_n)));
    }
}

/// llama.cpp's seeds have 32 bits, and all ones mean "draw one".
fn seed(wanted: Option<u64>) -> u32 {
    let wanted = wanted.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let folded = (wanted ^ (wanted >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or(0).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::{likeliest, seed};

    #[test]
    fn logits_that_are_not_numbers_are_refused() {
        assert_eq!(likeliest(&[0.5, 2.0, -1.0]), Some(1));
        assert_eq!(likeliest(&[0.5, f32::NAN]), None);
        assert_eq!(likeliest(&[f32::NEG_INFINITY]), None);
        assert_eq!(likeliest(&[1.0, f32::INFINITY]), None);
    }

    #[test]
    fn a_seed_never_means_a_random_one() {
        assert_eq!(seed(Some(7)), 7);
        assert_eq!(seed(Some(u64::from(u32::MAX))), u32::MAX - 1);
    }
}
