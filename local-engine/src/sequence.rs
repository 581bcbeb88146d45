//! A job in a slot, and the slot. What the slot's KV cells hold is in the prefix tree; it outlives
//! the job as a prefix for the next one.

use std::time::{Duration, Instant};

use crate::{
    device::Device,
    evictions::JobRef,
    job::{Finish, JobEvent, Scheduling, TokenLogprob},
    logprobs::Pending,
    outbox::Outbox,
    shared::{Shared, Waiting},
    speculation::{DraftLength, RequestClass},
    text::TextStream,
};

/// A place for one sequence.
#[derive(Debug)]
pub(crate) struct Slot<S> {
    /// The admission that last had use of it; 0 when it is empty.
    pub(crate) used_at: u64,
    /// The job that last ran in it.
    pub(crate) owner: JobRef,
    /// The job in it.
    pub(crate) running: Option<Sequence<S>>,
}

/// A token drawn for a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub(crate) token: i32,
    /// How likely it was, where the job asked.
    pub(crate) logprob: Option<TokenLogprob>,
}

/// A job in a slot.
#[derive(Debug)]
pub(crate) struct Sequence<S> {
    /// The prompt, then what was generated.
    pub(crate) history: Vec<i32>,
    pub(crate) prompt_tokens: usize,
    pub(crate) max_tokens: u32,
    pub(crate) scheduling: Scheduling,
    pub(crate) class: RequestClass,
    /// How many tokens to guess next.
    pub(crate) draft: DraftLength,
    /// What a draft model proposes for this step, and what that took.
    pub(crate) drafted: Vec<i32>,
    pub(crate) drafting_ns: u64,
    pub(crate) submitted: Instant,
    /// How long its first token was expected to take when it came.
    pub(crate) predicted: Option<Duration>,
    /// Since when it has waited for more engine time at its bound.
    pub(crate) waits_since: Option<Instant>,
    /// The order of admission.
    pub(crate) order: u64,
    pub(crate) sampler: S,
    pub(crate) text: TextStream,
    /// How many alternatives are told for each token, where log probabilities are.
    pub(crate) logprobs: Option<u32>,
    pending: Pending,
    /// Sampled, and not computed yet: the history's last; `None` while the prompt is read.
    pub(crate) next: Option<i32>,
    pub(crate) outbox: Outbox,
}

impl<S> Sequence<S> {
    pub(crate) fn new(waiting: Waiting, sampler: S, order: u64) -> Sequence<S> {
        Sequence {
            class: RequestClass::of(&waiting.job),
            draft: DraftLength::default(),
            drafted: Vec::new(),
            drafting_ns: 0,
            prompt_tokens: waiting.job.prompt.len(),
            history: waiting.job.prompt,
            scheduling: waiting.job.scheduling,
            submitted: waiting.submitted,
            predicted: waiting.predicted,
            max_tokens: waiting.job.max_tokens,
            waits_since: None,
            order,
            sampler,
            text: TextStream::new(waiting.job.stop),
            logprobs: waiting.job.logprobs,
            pending: Pending::default(),
            next: None,
            outbox: waiting.outbox,
        }
    }

    /// The cells it may come to need.
    pub(crate) fn cells(&self) -> usize {
        cells(self.prompt_tokens, self.max_tokens)
    }

    /// The tokens that must be in its cells before it goes on to generate. More than are there
    /// only while the prompt is read, or read again after its cells were given up.
    pub(crate) fn to_read(&self) -> usize {
        self.history.len() - usize::from(self.next.is_some())
    }

    /// Tokens it may still generate.
    pub(crate) fn left(&self) -> usize {
        let left = self.max_tokens.saturating_sub(self.outbox.meter().generated_tokens());
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// How it appears in events.
    pub(crate) fn job_ref(&self) -> JobRef {
        JobRef { caller: self.scheduling.caller, number: self.order }
    }

    /// Takes a sampled token; says whether the job ends with it.
    pub(crate) fn take<D>(&mut self, drawn: Drawn, device: &D, now: Instant) -> Option<Finish>
    where
        D: Device<Sampler = S>,
    {
        let Drawn { token, logprob } = drawn;
        self.outbox.meter().generated();
        if device.is_end(token) {
            return Some(Finish::Stop);
        }
        let mut piece = Vec::new();
        device.piece(token, &mut piece);
        let before = self.text.taken();
        let text = self.text.push(&piece);
        if let Some(logprob) = logprob {
            self.pending.push(before..self.text.taken(), logprob);
        }
        let (stopped, shown) = (self.text.stopped(), self.text.shown());
        self.outbox.logprobs(match stopped {
            Some(_) => self.pending.before_stop(shown),
            None => self.pending.shown(shown),
        });
        self.outbox.token(&text, now);
        if let Some(stop) = stopped {
            return Some(Finish::StopText(stop));
        }
        if self.outbox.meter().generated_tokens() >= self.max_tokens {
            return Some(Finish::Length);
        }
        self.history.push(token);
        self.next = Some(token);
        self.overspent()
    }

    /// Whether the job has used up its engine time for good.
    pub(crate) fn overspent(&self) -> Option<Finish> {
        self.outbox.meter().is_overspent().then_some(Finish::EngineTime)
    }

    /// Whether it has used up its engine time, and its owner has yet to say whether there is more.
    pub(crate) fn waits_for_time(&self) -> bool {
        self.outbox.meter().waits_for_time()
    }

    /// Tells the owner when the bound is near, so that more may be there before it is reached.
    pub(crate) fn tell_if_low(&mut self) {
        if self.outbox.meter().is_low() {
            self.outbox.low();
        }
    }

    /// Says the last words of a job that ended well.
    pub(crate) fn finish(mut self, finish: Finish) {
        let rest = self.text.rest();
        self.outbox.logprobs(self.pending.rest());
        self.outbox.close(&rest, |usage| JobEvent::Finished { finish, usage });
    }

    /// Says the last words of a job that nobody reads.
    pub(crate) fn leave_unread(self) {
        self.outbox.close("", |usage| JobEvent::Unread { usage });
    }

    /// Says the last words of a job whose own demands keep it from going on.
    pub(crate) fn refuse(self, reason: &str) {
        self.outbox.close("", |usage| JobEvent::Refused { reason: reason.to_owned(), usage });
    }

    /// Says the last words of a job that ends with the engine.
    pub(crate) fn end_with(self, shared: &Shared, reason: &str) {
        self.outbox.close("", |usage| shared.last_event(reason, usage));
    }

    /// Says the last words of a job that could not go on.
    pub(crate) fn fail(self, reason: &str) {
        self.outbox.close("", |usage| JobEvent::Failed { reason: reason.to_owned(), usage });
    }
}

/// The cells of a prompt and its longest answer.
pub(crate) fn cells(prompt_tokens: usize, max_tokens: u32) -> usize {
    prompt_tokens.saturating_add(usize::try_from(max_tokens).unwrap_or(usize::MAX))
}
