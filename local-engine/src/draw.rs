//! How one job draws its tokens, from the logits to the token: biases, penalties, DRY, top-k,
//! typical, top-p, min-p, temperature, draw. The order, the arithmetic and the generator are those
//! of llama.cpp's own samplers, and `llama/sampler_tests.rs` compares the two token by token; but
//! what is not asked for is not computed, what touches a few tokens touches only those, and nothing
//! is allocated for a token.
//!
//! Two differences, both where llama.cpp leaves it to the C++ library: of equal logits the lower
//! token comes first, and the generator's numbers do not change with the compiler.

mod cut;
mod dry;
mod look;
mod mersenne;
mod penalties;
mod row;

pub use dry::Breakers;
pub(crate) use dry::{Heads, Texts};

use crate::{constraint::Allowed, job::Sampling};
use cut::{Candidates, Cut};
use dry::DryWindow;
use mersenne::Mersenne;
use penalties::Penalties;
use row::{Row, Touched};

/// Below this a temperature means greedy: dividing logits by less overflows.
const TEMPERATURE_MIN: f32 = 1e-5;

/// How one job draws, and what it has to remember for it.
#[derive(Debug)]
pub(crate) struct Chain {
    bias: Vec<(i32, f32)>,
    penalties: Option<Penalties>,
    dry: Option<DryWindow>,
    end: End,
}

#[derive(Debug)]
enum End {
    /// The likeliest token.
    Greedy,
    /// One of those that are left, by their probabilities.
    Draw { cut: Cut, generator: Box<Mersenne> },
}

/// Room to work in, of one device: kept from token to token.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    touched: Touched,
    candidates: Candidates,
}

/// No token could be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undrawn {
    /// The model computed no numbers.
    NoNumbers,
    /// None is allowed.
    NoneAllowed,
}

impl Chain {
    /// The chain of a checked job. `seed` is for a job that names none; `heads` are its DRY breakers'
    /// tokens.
    pub(crate) fn new(sampling: &Sampling, prompt: &[i32], seed: u64, heads: Heads) -> Chain {
        let cut = Cut {
            top_k: sampling.top_k.map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            typical_p: sampling.typical_p,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            temperature: sampling.temperature,
        };
        let greedy = sampling.temperature < TEMPERATURE_MIN;
        let seed = folded(sampling.seed.unwrap_or(seed));
        Chain {
            bias: sampling.logit_bias.clone(),
            penalties: Penalties::new(sampling, prompt),
            dry: sampling.dry.as_ref().and_then(|dry| DryWindow::new(dry, heads, prompt)),
            end: if greedy {
                End::Greedy
            } else {
                End::Draw { cut, generator: Box::new(Mersenne::new(seed)) }
            },
        }
    }

    /// Draws one of the allowed tokens from a row of logits, and remembers it.
    pub(crate) fn draw(
        &mut self,
        row: &[f32],
        allowed: Option<&Allowed>,
        scratch: &mut Scratch,
    ) -> Result<i32, Undrawn> {
        let peak = look::peak(row).ok_or(Undrawn::NoNumbers)?;
        let Scratch { touched, candidates } = scratch;
        touched.clear();
        self.touch(row, touched);
        let row = Row { computed: row, touched, peak };
        let token = match (&mut self.end, allowed) {
            (End::Greedy, None) => row.likeliest().map(|(token, _)| token),
            (End::Greedy, Some(allowed)) => row.likeliest_of(allowed),
            (End::Draw { cut, generator }, allowed) => {
                candidates.fill(row, allowed, cut);
                cut.apply(candidates);
                candidates.draw(generator)
            }
        };
        let token = token.ok_or(Undrawn::NoneAllowed)?;
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(token);
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
        Ok(token)
    }

    /// Changes the logits of the tokens that are named or were seen.
    fn touch(&mut self, row: &[f32], touched: &mut Touched) {
        for (token, bias) in &self.bias {
            touched.change(row, *token, |logit| logit + bias);
        }
        if let Some(penalties) = &self.penalties {
            penalties.apply(row, touched);
        }
        if let Some(dry) = &mut self.dry {
            dry.apply(row, touched);
        }
    }
}

/// llama.cpp's seeds have 32 bits. Those of 32 bits with or without a sign are its own; of others too
/// neighbours stay apart, since the choices of a request draw with such.
fn folded(seed: u64) -> u32 {
    /// Odd: the golden ratio's fraction.
    const SPREAD: u32 = 0x9e37_79b1;
    let part = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
    let (high, low) = (part(seed >> 32), part(seed));
    let beyond = if seed.cast_signed() < 0 { !high } else { high };
    low ^ beyond.wrapping_mul(SPREAD)
}

#[cfg(test)]
mod tests {
    use super::{Chain, Heads, Scratch, Undrawn, folded};
    use crate::{constraint::Allowed, job::Sampling};

    #[test]
    fn logits_that_are_not_numbers_are_refused() {
        let drawn = |row: &[f32]| {
            let mut chain = Chain::new(&Sampling::default(), &[], 1, Heads::default());
            chain.draw(row, None, &mut Scratch::default())
        };
        assert_eq!(drawn(&[0.5, 2.0, -1.0]), Ok(1));
        assert_eq!(drawn(&[0.5, f32::NAN]), Err(Undrawn::NoNumbers));
        assert_eq!(drawn(&[f32::NEG_INFINITY]), Err(Undrawn::NoNumbers));
        assert_eq!(drawn(&[1.0, f32::INFINITY]), Err(Undrawn::NoNumbers));
    }

    #[test]
    fn a_seed_is_all_a_draw_depends_on() {
        let row: Vec<f32> = (0_u8..100).map(|token| f32::from(token % 7)).collect();
        let draws = |seed| {
            let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
            let mut chain = Chain::new(&sampling, &[], seed, Heads::default());
            let mut scratch = Scratch::default();
            (0..20).map(|_| chain.draw(&row, None, &mut scratch)).collect::<Vec<_>>()
        };
        assert_eq!(draws(5), draws(5));
        assert_ne!(draws(5), draws(6));
    }

    /// Under a rule a draw is that of a model that finds everything else impossible.
    #[test]
    fn a_rule_leaves_what_it_allows_as_it_was() {
        let row: Vec<f32> = (0_u16..200).map(|token| f32::from(token * 37 % 91) / 9.0).collect();
        let tokens: Vec<u32> = (0..200).filter(|token| token % 3 == 1).collect();
        let allowed = Allowed::of(&tokens, 200);
        let masked: Vec<f32> = (0..)
            .zip(&row)
            .map(|(token, logit)| if token % 3 == 1 { *logit } else { f32::NEG_INFINITY })
            .collect();
        for case in 0_u8..60 {
            let sampling = Sampling {
                temperature: f32::from(case % 3) * 0.6,
                top_k: (case % 2 == 0).then_some(12),
                logit_bias: (0..i32::from(case % 5)).map(|n| (n * 7, 4.0)).collect(),
                presence_penalty: f32::from(case % 4),
                ..Sampling::default()
            };
            let draws = |row: &[f32], allowed: Option<&Allowed>| {
                let mut chain = Chain::new(&sampling, &[4, 5, 7], 9, Heads::default());
                let mut scratch = Scratch::default();
                (0..20).map(|_| chain.draw(row, allowed, &mut scratch)).collect::<Vec<_>>()
            };
            assert_eq!(draws(&row, Some(&allowed)), draws(&masked, None), "{sampling:?}");
        }
    }

    #[test]
    fn seeds_of_32_bits_are_llama_cpps_and_neighbours_are_apart() {
        assert_eq!((folded(7), folded(u64::from(u32::MAX))), (7, u32::MAX));
        assert_eq!(folded((-2_i64).cast_unsigned()), u32::MAX - 1);
        for first in [-9_i64, (1 << 32) - 4, 5 << 40, i64::MAX - 9, i64::MIN] {
            let seeds = (0..9).map(|choice| folded((first + choice).cast_unsigned()));
            let different: std::collections::BTreeSet<u32> = seeds.collect();
            assert_eq!(different.len(), 9, "from {first}");
        }
    }
}
