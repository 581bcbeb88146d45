//! The engine's answer to texts to embed: all vectors, then the end.

use super::{Fault, FaultKind, growth::Growth};
use crate::wire::{BadRequest, EngineUse, Event};
use local_engine::{EmbedError, EmbedEvent, Embedding};
use policies::{Usage, UsageSource};

/// What a caller is told; the log has the reason.
const UNABLE: &str = "the local model can compute no embeddings here";

/// Vectors on their way.
#[derive(Debug)]
pub struct Vectors {
    embedding: Embedding,
    growth: Box<Growth>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Told,
    Ended,
}

impl Vectors {
    pub(super) fn new(embedding: Embedding, growth: Growth) -> Self {
        Self { embedding, growth: Box::new(growth), state: State::Waiting }
    }

    /// What the job has taken so far.
    pub(super) fn metered(&self) -> (Usage, EngineUse) {
        let usage = self.embedding.usage();
        let buckets = Usage { input: u64::from(usage.prompt_tokens), ..Usage::default() };
        let ns = u64::try_from(usage.prefill_time.as_nanos()).unwrap_or(u64::MAX);
        (buckets, EngineUse { ns, ..EngineUse::default() })
    }

    /// The vectors, whose job gets more engine time while that can be paid.
    async fn vectors(&mut self) -> Result<Vec<Vec<f32>>, EmbedError> {
        loop {
            match self.embedding.next().await {
                EmbedEvent::EngineTimeLow => self.growth.grow(self.embedding.engine_time()),
                EmbedEvent::Ended(vectors) => return vectors,
            }
        }
    }

    /// The next event; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<Event, Fault>> {
        match self.state {
            State::Ended => None,
            State::Told => {
                self.state = State::Ended;
                let (usage, engine) = self.metered();
                let source = UsageSource::Counted;
                Some(Ok(Event::End { usage, source, engine: Some(engine) }))
            }
            State::Waiting => match self.vectors().await {
                Ok(vectors) => {
                    self.state = State::Told;
                    Some(Ok(Event::Vectors(vectors)))
                }
                Err(error) => {
                    self.state = State::Ended;
                    let computed = self.embedding.usage().prompt_tokens > 0;
                    Some(Err(Fault::new(kind_of(&error, computed), error.to_string())))
                }
            },
        }
    }
}

/// What kept the vectors from being computed; `computed` says whether some texts were read by then.
fn kind_of(error: &EmbedError, computed: bool) -> FaultKind {
    // This model, or this machine's memory, gives none: its answers are as good as before.
    let unable = || BadRequest::unsupported("model", UNABLE);
    match error {
        EmbedError::Expired(_) => FaultKind::Busy,
        // It is cut only where its growth found no more money.
        EmbedError::EngineTime => FaultKind::Unpaid,
        EmbedError::Stopped => FaultKind::Stopped,
        EmbedError::Unable(_) if computed => FaultKind::TooDear(unable()),
        EmbedError::Unable(_) => FaultKind::Unfit(unable()),
        EmbedError::Ended => FaultKind::Engine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_vectors_answers_as_well_as_before() {
        let unable = EmbedError::Unable("no memory for a context".to_owned());
        let told = |computed| Fault::new(kind_of(&unable, computed), unable.to_string());
        assert!(!told(false).is_upstreams() && told(false).voids(), "nothing is owed");
        assert!(!told(true).is_upstreams() && !told(true).voids(), "what was computed is");
        assert!(Fault::new(kind_of(&EmbedError::Ended, false), "").is_upstreams());
    }
}
