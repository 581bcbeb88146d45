//! What readers of formats other than OpenAI's hand on.
//!
//! **Invariant:** usage that was not reported is estimated from what was sent and seen and says so;
//! it is never zero.

use crate::wire::{Event, estimate_tokens};
use policies::{ServiceTier, Usage, UsageSource};

/// What a piece of an answer came to.
#[derive(Debug)]
pub(crate) enum Read {
    /// These events; the answer goes on.
    Events(Vec<Event>),
    /// These events, and the answer is whole.
    Last {
        /// The events.
        events: Vec<Event>,
        /// The service tier that is said to have served it.
        service: Option<ServiceTier>,
    },
    /// An error in place of an answer.
    Failed,
}

/// What was seen so far, for answers whose usage nobody reports.
#[derive(Debug)]
pub(crate) struct Tally {
    prompt_tokens: u64,
    visible_bytes: u64,
    reasoning_bytes: u64,
}

impl Tally {
    pub(crate) fn new(prompt_tokens: u64) -> Self {
        Self { prompt_tokens, visible_bytes: 0, reasoning_bytes: 0 }
    }

    /// Counts what the events show.
    pub(crate) fn note(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Delta(delta) = event {
                self.visible_bytes += delta.visible_bytes();
                self.reasoning_bytes += delta.reasoning_bytes();
            }
        }
    }

    /// The answer's end: as reported, or estimated beside what is known of the prompt.
    pub(crate) fn end(&self, reported: Option<Usage>, prompt: Option<Usage>) -> Event {
        if let Some(usage) = reported {
            return Event::End { usage, source: UsageSource::Reported, engine: None };
        }
        let prompt = prompt.unwrap_or(Usage { input: self.prompt_tokens, ..Usage::default() });
        let usage = Usage {
            output: estimate_tokens(self.visible_bytes),
            reasoning: estimate_tokens(self.reasoning_bytes),
            ..prompt
        };
        Event::End { usage, source: UsageSource::Estimated, engine: None }
    }
}
