//! What readers of formats other than OpenAI's hand on.
//!
//! **Invariant:** usage that was not reported is estimated from what was sent and seen and says so;
//! it is never zero.

use crate::wire::{Event, estimate_tokens};
use policies::{ServiceTier, Usage, UsageSource};
use std::collections::BTreeSet;

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

    /// The end of an answer of which no more than this has been told: what came since is beside it.
    pub(crate) fn end_of_cut(&self, told: Usage) -> Event {
        let output = told.output.max(estimate_tokens(self.visible_bytes));
        let reasoning = told.reasoning.max(estimate_tokens(self.reasoning_bytes));
        let usage = Usage { output, reasoning, ..told };
        Event::End { usage, source: UsageSource::Estimated, engine: None }
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

/// The choices of an answer that have ended. One that says so twice is one; providers number them as
/// they like.
#[derive(Debug)]
pub(crate) struct Ended {
    asked: u32,
    numbers: BTreeSet<u32>,
    /// Whether none of them is awaited any more.
    all: bool,
}

impl Ended {
    /// None yet, of so many.
    pub(crate) fn of(asked: u32) -> Self {
        Self { asked, numbers: BTreeSet::new(), all: false }
    }

    /// One has ended.
    pub(crate) fn note(&mut self, choice: u32) {
        if self.asked > 1 && !self.all {
            self.numbers.insert(choice);
        }
        self.all |= self.asked <= 1 || self.numbers.len() >= self.asked as usize;
    }

    /// All have ended, whatever their numbers.
    pub(crate) fn note_all(&mut self) {
        self.all = true;
    }

    /// Whether all have.
    pub(crate) fn are_all(&self) -> bool {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_that_ends_twice_ends_once() {
        let mut ended = Ended::of(2);
        for (choice, all) in [(0, false), (0, false), (7, true), (8, true)] {
            ended.note(choice);
            assert_eq!(ended.are_all(), all, "{choice}");
        }
        assert_eq!(ended.numbers.len(), 2, "no more are kept than were asked for");
        let mut blocked = Ended::of(3);
        blocked.note_all();
        assert!(blocked.are_all());
    }
}
