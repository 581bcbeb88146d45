//! What one job has taken so far, readable while it runs: the scheduler stores after every step,
//! the job's owner loads, so that a job that was left early can still be charged for what it took.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use crate::{job::JobUsage, status::nanoseconds};

/// The state shared between a running job and its [`crate::Generation`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Set by the owner: end before the next decode.
    pub(crate) cancelled: AtomicBool,
    /// Set by the scheduler: wake it when an event was read.
    pub(crate) paused: AtomicBool,
    /// Set by the scheduler with the last event.
    pub(crate) closed: AtomicBool,
    /// The bound of its engine time; raised by the owner.
    engine_time_max_ns: AtomicU64,
    /// Whether that may be raised.
    may_grow: bool,
    /// Set by the owner: the bound is the last one.
    last_bound: AtomicBool,
    /// Set by the scheduler: the owner was told that the bound is near. Taken back with a new bound.
    pub(crate) told_low: AtomicBool,
    /// Set by the owner with a new bound, for who has to hand it on.
    bound_changed: AtomicBool,
    prompt_tokens: AtomicU32,
    cached_tokens: AtomicU32,
    generated_tokens: AtomicU32,
    prefill_ns: AtomicU64,
    decode_ns: AtomicU64,
    /// What the step that runs is expected to take of it; 0 between steps.
    step_ns: AtomicU64,
    drafted_tokens: AtomicU32,
    accepted_tokens: AtomicU32,
}

impl Meter {
    /// The meter of a job with so much engine time, which may be raised or not.
    pub(crate) fn bounded(engine_time_max: Duration, may_grow: bool) -> Meter {
        let engine_time_max_ns = nanoseconds(engine_time_max).into();
        Meter { engine_time_max_ns, may_grow, ..Meter::default() }
    }

    pub(crate) fn engine_time_max(&self) -> Duration {
        Duration::from_nanos(self.engine_time_max_ns.load(SeqCst))
    }

    /// Sets a new bound; `last`: there will be no other.
    pub(crate) fn bound(&self, engine_time_max: Duration, last: bool) {
        self.engine_time_max_ns.store(nanoseconds(engine_time_max), SeqCst);
        self.last_bound.store(last, SeqCst);
        self.told_low.store(false, SeqCst);
        self.bound_changed.store(true, SeqCst);
    }

    pub(crate) fn has_last_bound(&self) -> bool {
        self.last_bound.load(SeqCst)
    }

    /// Whether it has used up its engine time for good.
    pub(crate) fn is_overspent(&self) -> bool {
        self.is_spent() && !self.may_get_more()
    }

    /// Whether it has used up its engine time, and its owner has yet to say whether there is more.
    pub(crate) fn waits_for_time(&self) -> bool {
        self.is_spent() && self.may_get_more()
    }

    /// Whether most of its engine time is used, and there may be more.
    pub(crate) fn is_low(&self) -> bool {
        let max = self.engine_time_max();
        self.may_get_more() && self.spent() >= max.saturating_sub(max / 4)
    }

    /// Whether it has used up its engine time.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent() >= self.engine_time_max()
    }

    fn may_get_more(&self) -> bool {
        self.may_grow && !self.has_last_bound()
    }

    /// Whether there is a new bound since this was last asked.
    pub(crate) fn take_bound_changed(&self) -> bool {
        self.bound_changed.swap(false, SeqCst)
    }

    pub(crate) fn admitted(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.prompt_tokens.store(prompt_tokens, Relaxed);
        self.cached_tokens.store(cached_tokens, Relaxed);
    }

    /// Counts tokens of texts to embed as they are read.
    pub(crate) fn read(&self, tokens: u32) {
        self.prompt_tokens.fetch_add(tokens, Relaxed);
    }

    /// Takes back tokens that are read anew.
    pub(crate) fn unread(&self, tokens: u32) {
        self.prompt_tokens.fetch_sub(tokens, Relaxed);
    }

    pub(crate) fn generated(&self) {
        self.generated_tokens.fetch_add(1, Relaxed);
    }

    /// A step begins, and so much of it will be this job's.
    pub(crate) fn begin_step(&self, expected_ns: u64) {
        self.step_ns.store(expected_ns, Relaxed);
    }

    /// The step is over: what it took is known.
    pub(crate) fn end_step(&self) {
        self.step_ns.store(0, Relaxed);
    }

    pub(crate) fn spend_prefill(&self, ns: u64) {
        self.prefill_ns.fetch_add(ns, Relaxed);
    }

    pub(crate) fn spend_decode(&self, ns: u64) {
        self.decode_ns.fetch_add(ns, Relaxed);
    }

    /// Counts what was guessed, and what of it was drawn.
    pub(crate) fn guessed(&self, drafted: u32, accepted: u32) {
        self.drafted_tokens.fetch_add(drafted, Relaxed);
        self.accepted_tokens.fetch_add(accepted, Relaxed);
    }

    /// Whether the other choices of its request may come in: its prompt is in the cache, or never
    /// will be.
    pub(crate) fn releases(&self) -> bool {
        self.generated_tokens() > 0 || self.closed.load(SeqCst) || self.cancelled.load(SeqCst)
    }

    pub(crate) fn generated_tokens(&self) -> u32 {
        self.generated_tokens.load(Relaxed)
    }

    /// Engine time attributed so far.
    pub(crate) fn spent(&self) -> Duration {
        let decode = self.decode_ns.load(Relaxed);
        Duration::from_nanos(self.prefill_ns.load(Relaxed).saturating_add(decode))
    }

    /// What a child process has counted.
    pub(crate) fn set(&self, usage: &JobUsage) {
        self.prompt_tokens.store(usage.prompt_tokens, Relaxed);
        self.cached_tokens.store(usage.cached_tokens, Relaxed);
        self.generated_tokens.store(usage.generated_tokens, Relaxed);
        self.prefill_ns.store(nanoseconds(usage.prefill_time), Relaxed);
        self.decode_ns.store(nanoseconds(usage.decode_time), Relaxed);
        self.drafted_tokens.store(usage.drafted_tokens, Relaxed);
        self.accepted_tokens.store(usage.accepted_tokens, Relaxed);
    }

    /// What the job takes if its owner leaves now: the step that runs is computed to its end, and
    /// nobody waits to see what it took.
    pub(crate) fn usage_of_who_leaves(&self) -> JobUsage {
        let mut usage = self.usage();
        if !self.closed.load(SeqCst) {
            let step = Duration::from_nanos(self.step_ns.load(Relaxed));
            let time = match usage.generated_tokens {
                0 => &mut usage.prefill_time,
                _ => &mut usage.decode_time,
            };
            *time = time.saturating_add(step);
        }
        usage
    }

    pub(crate) fn usage(&self) -> JobUsage {
        JobUsage {
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            generated_tokens: self.generated_tokens.load(Relaxed),
            prefill_time: Duration::from_nanos(self.prefill_ns.load(Relaxed)),
            decode_time: Duration::from_nanos(self.decode_ns.load(Relaxed)),
            drafted_tokens: self.drafted_tokens.load(Relaxed),
            accepted_tokens: self.accepted_tokens.load(Relaxed),
        }
    }
}
