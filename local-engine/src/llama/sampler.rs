//! How one job draws its tokens: its chain, under what its answer must match.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::Model;
use crate::{
    constraint::Constraint,
    device::Fault,
    draw::{Breakers, Chain, Scratch, Undrawn},
    job::Job,
};

/// How one job draws.
#[derive(Debug)]
pub(crate) struct Sampler {
    chain: Chain,
    constraint: Option<Constraint>,
}

impl Sampler {
    /// The sampler of a checked job.
    pub(super) fn new(model: &Model, job: &Job) -> Sampler {
        let breakers = job.sampling.dry.as_ref().map(|dry| &dry.breakers);
        let find =
            |breakers: &Breakers| breakers.heads().unwrap_or_else(|| model.heads(breakers.texts()));
        let heads = breakers.map(find).unwrap_or_default();
        let seed = RandomState::new().build_hasher().finish();
        Sampler {
            chain: Chain::new(&job.sampling, &job.prompt, seed, heads),
            constraint: job.constraint.clone(),
        }
    }

    /// Draws from a row of logits and remembers what it drew.
    pub(super) fn draw(&mut self, row: &[f32], scratch: &mut Scratch) -> Result<i32, Fault> {
        let undrawn = |undrawn| match undrawn {
            Undrawn::NoNumbers => Fault::Broken("the model computed no numbers".to_owned()),
            Undrawn::NoneAllowed => {
                Fault::Sequence("no token can go on under the request's constraint".to_owned())
            }
        };
        let Some(constraint) = &mut self.constraint else {
            return self.chain.draw(row, None, scratch).map_err(undrawn);
        };
        let allowed = constraint.allowed().map_err(Fault::Sequence)?;
        let token = self.chain.draw(row, Some(&allowed), scratch).map_err(undrawn)?;
        constraint.accept(token).map_err(Fault::Sequence)?;
        Ok(token)
    }
}
