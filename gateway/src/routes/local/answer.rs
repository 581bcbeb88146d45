//! The engine's answer: the jobs of its choices, read together, become deltas.
//!
//! **Invariant:** every choice has one finish, the end comes after the last, and what was used is
//! the sum over the choices with the prompt counted once.

use super::{Fault, FaultKind, growth::Growth, vectors::Vectors};
use crate::wire::{
    BadRequest, Delta, DeltaKind, EngineUse, Event, FinishReason, Likely, TokenLogprob,
};
use local_engine::{CallEvent, CallReader, Finish, Generation, JobEvent, JobUsage, ToolFormat};
use policies::{Usage, UsageSource};
use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

/// The engine's answer.
#[derive(Debug)]
pub enum LocalAnswer {
    /// Texts, or calls of tools.
    Texts(Texts),
    /// Vectors.
    Vectors(Vectors),
}

/// The texts of all choices.
#[derive(Debug)]
pub struct Texts {
    choices: Vec<Generation>,
    /// Choices that have one prompt.
    per_prompt: usize,
    /// What tells text from calls, choice by choice, where tools were offered.
    readers: Vec<CallReader>,
    asked: Asked,
    /// Choices that go on.
    going: usize,
    /// The choice that is read first, so that none is read last for ever.
    first: usize,
    growth: Box<Growth>,
    /// Events that have come and not gone.
    ready: VecDeque<Event>,
    ended: bool,
}

/// What the request asked for, as far as it is needed to read the answer.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The stop strings, to say which one was met.
    pub(super) stops: Vec<String>,
    /// Where tools were offered.
    pub(super) calls: Option<Calls>,
    /// The parameter of what the answer must match.
    pub(super) rule: Option<&'static str>,
}

/// How calls of tools are read and told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls {
    /// How the model writes them.
    pub(super) format: ToolFormat,
    /// Whether the caller asked in the older format of functions.
    pub(super) legacy: bool,
}

// === impl LocalAnswer ===

impl LocalAnswer {
    /// The answer of jobs that were submitted together, `per_prompt` of them to each prompt.
    pub(super) fn texts(
        choices: Vec<Generation>,
        per_prompt: u32,
        asked: Asked,
        growth: Growth,
    ) -> Self {
        Self::Texts(Texts::new(choices, per_prompt, asked, growth))
    }

    /// What the jobs have taken so far: what they are charged when they are dropped now.
    #[must_use]
    pub fn metered(&self) -> (Usage, EngineUse) {
        match self {
            Self::Texts(texts) => texts.metered(),
            Self::Vectors(vectors) => vectors.metered(),
        }
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        match self {
            Self::Texts(texts) => texts.next().await,
            Self::Vectors(vectors) => vectors.next().await,
        }
    }
}

// === impl Texts ===

impl Texts {
    fn new(choices: Vec<Generation>, per_prompt: u32, asked: Asked, growth: Growth) -> Self {
        let reader = |calls: Calls| CallReader::new(calls.format, asked.stops.clone());
        let readers = asked
            .calls
            .map(|calls| choices.iter().map(|_| reader(calls)).collect::<Vec<CallReader>>());
        Self {
            going: choices.len(),
            per_prompt: per_prompt.max(1) as usize,
            choices,
            readers: readers.unwrap_or_default(),
            asked,
            growth: Box::new(growth),
            first: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    fn metered(&self) -> (Usage, EngineUse) {
        metered(self.choices.iter().map(Generation::usage), self.per_prompt)
    }

    async fn next(&mut self) -> Option<Result<Event, Fault>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            let (choice, event) = poll_fn(|context| self.poll_choices(context)).await;
            if let Err(fault) = self.take(choice, event) {
                self.ended = true;
                return Some(Err(fault));
            }
        }
    }

    /// The next event of any choice.
    fn poll_choices(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<JobEvent>)> {
        let count = self.choices.len();
        for offset in 0..count {
            let at = (self.first + offset) % count;
            let Some(choice) = self.choices.get_mut(at) else { continue };
            match choice.poll_next(context) {
                // It has ended; the others go on.
                Poll::Ready(None) | Poll::Pending => {}
                Poll::Ready(event) => {
                    self.first = (at + 1) % count;
                    return Poll::Ready((at, event));
                }
            }
        }
        if self.going == 0 { Poll::Ready((0, None)) } else { Poll::Pending }
    }

    /// Turns a job's event into the answer's.
    fn take(&mut self, choice: usize, event: Option<JobEvent>) -> Result<(), Fault> {
        let index = u32::try_from(choice).unwrap_or(u32::MAX);
        match event {
            Some(JobEvent::Started { .. }) => {}
            Some(JobEvent::EngineTimeLow) => {
                if let Some(generation) = self.choices.get(choice) {
                    self.growth.grow(generation.engine_time());
                }
            }
            Some(JobEvent::Text { text, tokens, logprobs }) => {
                if let Some(reader) = self.readers.get_mut(choice) {
                    let mut events = Vec::new();
                    reader.push(&text, &mut events);
                    let stopped = reader.stopped();
                    self.calls_told(index, events, tokens);
                    if let Some(stop) = stopped {
                        if let Some(generation) = self.choices.get_mut(choice) {
                            generation.cancel();
                        }
                        self.finished(index, self.finish_reason(Finish::StopText(stop)));
                    }
                    return Ok(());
                }
                let logprobs = logprobs.into_iter().map(logprob).collect();
                let delta = Delta::new(index, DeltaKind::Text(text));
                self.ready.push_back(Event::Delta(Delta { tokens, logprobs, ..delta }));
            }
            Some(JobEvent::Finished { finish, .. }) => {
                let mut finish = self.finish_reason(finish);
                if let Some(reader) = self.readers.get_mut(choice) {
                    let mut events = Vec::new();
                    reader.end(&mut events);
                    // A call that was cut by the cap says so.
                    if reader.is_cut() {
                        finish = FinishReason::Length;
                    } else if reader.complete() > 0 && finish == FinishReason::Stop {
                        finish = match self.asked.calls {
                            Some(Calls { legacy: true, .. }) => FinishReason::from("function_call"),
                            _ => FinishReason::ToolCalls,
                        };
                    }
                    self.calls_told(index, events, 0);
                }
                self.finished(index, finish);
            }
            Some(JobEvent::Expired { queued }) => {
                let detail = format!("waited {} ms for a slot", queued.as_millis());
                return Err(Fault::new(FaultKind::Busy, detail));
            }
            // The request's own fault: the route is as good as before.
            Some(JobEvent::Refused { reason, .. }) => {
                let param = self.asked.rule.unwrap_or("response_format");
                let bad = BadRequest::unsupported(param, reason);
                return Err(Fault::new(FaultKind::TooDear(bad), "its rule takes too much"));
            }
            Some(JobEvent::Unread { .. }) => {
                return Err(Fault::new(FaultKind::Unread, "its reader stopped reading"));
            }
            Some(JobEvent::Stopped { .. }) => {
                return Err(Fault::new(FaultKind::Stopped, "the engine was stopped"));
            }
            Some(JobEvent::Failed { reason, .. }) => {
                return Err(Fault::new(FaultKind::Engine, reason));
            }
            None => return Err(Fault::new(FaultKind::Engine, "the engine stopped in the middle")),
        }
        Ok(())
    }

    /// A choice has ended; with the last one the answer has.
    fn finished(&mut self, choice: u32, finish: FinishReason) {
        let finish = DeltaKind::Finish(finish);
        self.ready.push_back(Event::Delta(Delta::new(choice, finish)));
        self.going = self.going.saturating_sub(1);
        if self.going == 0 {
            let (usage, engine) = self.metered();
            let source = UsageSource::Counted;
            self.ready.push_back(Event::End { usage, source, engine: Some(engine) });
            self.ended = true;
        }
    }

    /// Tells what a reader made of a text of `tokens` tokens.
    fn calls_told(&mut self, choice: u32, events: Vec<CallEvent>, tokens: u32) {
        let mut tokens = tokens;
        for event in events {
            let kind = match event {
                CallEvent::Text(text) => DeltaKind::Text(text),
                CallEvent::Call { index, name } => {
                    // The older format of functions knows no ids.
                    let legacy = self.asked.calls.is_some_and(|calls| calls.legacy);
                    let id = || format!("call_{}", uuid::Uuid::now_v7().simple());
                    let id = if legacy { String::new() } else { id() };
                    DeltaKind::ToolCall { index, id, name }
                }
                CallEvent::Arguments { index, json } => DeltaKind::ToolArguments { index, json },
            };
            let delta = Delta { tokens: std::mem::take(&mut tokens), ..Delta::new(choice, kind) };
            self.ready.push_back(Event::Delta(delta));
        }
    }

    fn finish_reason(&self, finish: Finish) -> FinishReason {
        match finish {
            Finish::Stop => FinishReason::Stop,
            Finish::StopText(stop) => self
                .asked
                .stops
                .get(stop)
                .map_or(FinishReason::Stop, |text| FinishReason::StopString(text.clone())),
            Finish::Length | Finish::EngineTime => FinishReason::Length,
        }
    }
}

fn logprob(token: local_engine::TokenLogprob) -> TokenLogprob {
    let likely =
        |token: local_engine::Likely| Likely { bytes: token.bytes, logprob: token.logprob };
    TokenLogprob { chosen: likely(token.chosen), top: token.top.into_iter().map(likely).collect() }
}

/// The sum over the choices. Each `per_prompt` of them have one prompt, which the first has read and
/// the others share: it is counted once, as it is where a provider counts.
fn metered(choices: impl Iterator<Item = JobUsage>, per_prompt: usize) -> (Usage, EngineUse) {
    let (mut usage, mut engine) = (Usage::default(), EngineUse::default());
    for (index, choice) in choices.enumerate() {
        if index % per_prompt == 0 {
            usage.input += u64::from(choice.prompt_tokens.saturating_sub(choice.cached_tokens));
            usage.cache_read += u64::from(choice.cached_tokens);
        }
        usage.output += u64::from(choice.generated_tokens);
        let time = choice.prefill_time.saturating_add(choice.decode_time);
        engine.ns = engine.ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        engine.drafted += u64::from(choice.drafted_tokens);
        engine.accepted += u64::from(choice.accepted_tokens);
    }
    (usage, engine)
}

#[cfg(test)]
mod tests {
    use super::{EngineUse, metered};
    use local_engine::JobUsage;
    use std::time::Duration;

    #[test]
    fn choices_count_their_prompt_once_and_their_time_in_full() {
        let choice = |cached_tokens, generated_tokens| JobUsage {
            prompt_tokens: 10,
            cached_tokens,
            generated_tokens,
            prefill_time: Duration::from_nanos(5),
            decode_time: Duration::from_nanos(2),
            drafted_tokens: 5,
            accepted_tokens: 3,
        };
        let (usage, engine) = metered([choice(4, 3), choice(9, 2)].into_iter(), 2);
        assert_eq!((usage.input, usage.cache_read, usage.output), (6, 4, 5));
        assert_eq!(engine, EngineUse { ns: 14, drafted: 10, accepted: 6 });
        let (usage, _) = metered([choice(4, 3), choice(4, 2)].into_iter(), 1);
        assert_eq!((usage.input, usage.cache_read), (12, 8), "two prompts are two");
    }
}
