//! The entry being written, shared by the attempts of one request.
//!
//! A hedge runs two attempts at once, in one task; each writes its own record. The lock is therefore
//! never waited for, and is never held across an await: every use is one closure.

use crate::ledger::{
    Ask, Attempt, AttemptIndex, AttemptOutcome, CommitTicket, Extension, Granted, KeyId, Lined,
    OpenEntry, Short,
};
use policies::{PicoUsd, Usage, UsageSource};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// An entry that several attempts write into.
#[derive(Debug)]
pub(super) struct Book<'e>(Mutex<Written<'e>>);

#[derive(Debug)]
struct Written<'e> {
    open: &'e mut OpenEntry,
    last: Option<AttemptIndex>,
}

impl<'e> Book<'e> {
    pub(super) fn new(open: &'e mut OpenEntry) -> Self {
        Self(Mutex::new(Written { open, last: None }))
    }

    fn with<T>(&self, write: impl FnOnce(&mut Written<'e>) -> T) -> T {
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The attempt that was begun last.
    pub(super) fn last(&self) -> Option<AttemptIndex> {
        self.with(|written| written.last)
    }

    /// The request's id as the log shows it.
    pub(super) fn request(&self) -> String {
        self.with(|written| written.open.id().map_or_else(String::new, |id| id.to_string()))
    }

    /// The key that asks.
    pub(super) fn key(&self) -> Option<KeyId> {
        self.with(|written| written.open.key().cloned())
    }

    /// Attempts so far.
    pub(super) fn attempts(&self) -> usize {
        self.with(|written| written.open.attempts())
    }

    /// Microseconds from the request's arrival to `instant`.
    pub(super) fn offset_us(&self, instant: Instant) -> u64 {
        self.with(|written| written.open.timeline.offset_us(instant))
    }

    pub(super) fn reserve(&self, ask: Ask) -> Result<(AttemptIndex, CommitTicket), Short> {
        self.with(|written| {
            let reserved = written.open.reserve(ask)?;
            written.last = Some(reserved.0);
            Ok(reserved)
        })
    }

    /// As [`Book::reserve`], or a place in the line where waiting may help.
    pub(super) fn line_up(&self, ask: Ask) -> Result<Lined, Short> {
        self.with(|written| {
            let lined = written.open.line_up(ask)?;
            if let Lined::Reserved(attempt, _) = &lined {
                written.last = Some(*attempt);
            }
            Ok(lined)
        })
    }

    /// Takes what the line granted.
    pub(super) fn take_up(
        &self,
        ask: Ask,
        granted: Granted,
    ) -> Result<(AttemptIndex, CommitTicket), Short> {
        self.with(|written| {
            let reserved = written.open.take_up(ask, granted)?;
            written.last = Some(reserved.0);
            Ok(reserved)
        })
    }

    /// What the request has cost so far and may yet cost.
    pub(super) fn committed(&self) -> PicoUsd {
        self.with(|written| written.open.committed())
    }

    /// What sets more aside for an attempt while it runs; `cost_max` is the request's own limit.
    pub(super) fn extension(
        &self,
        attempt: AttemptIndex,
        cost_max: Option<PicoUsd>,
    ) -> Option<Extension> {
        self.with(|written| written.open.extension(attempt, cost_max))
    }

    /// Writes into the record of an attempt.
    pub(super) fn note(&self, attempt: AttemptIndex, write: impl FnOnce(&mut Attempt)) {
        self.with(|written| write(written.open.attempt(attempt)));
    }

    /// Books what was sent, until more is known.
    pub(super) fn estimate(&self, attempt: AttemptIndex, prompt: u64) {
        self.note(attempt, |record| {
            record.usage = Some(Usage { input: prompt, ..Usage::default() });
            record.usage_source = Some(UsageSource::Estimated);
        });
    }

    /// Books the hidden reasoning that there may be beside what is known.
    pub(super) fn hidden(&self, attempt: AttemptIndex, reasoning: u64) {
        self.note(attempt, |record| {
            let usage = record.usage.get_or_insert_default();
            usage.reasoning = usage.reasoning.max(reasoning);
        });
    }

    /// Books what whoever was asked says that an attempt cost; `None`: nobody knows.
    pub(super) fn tell_cost(&self, attempt: AttemptIndex, cost: Option<PicoUsd>) {
        self.with(|written| written.open.tell_cost(attempt, cost));
    }

    /// Frees what ended attempts held beyond their cost; else the next reservation does.
    pub(super) fn settle_ended(&self) {
        self.with(|written| written.open.settle_ended());
    }

    pub(super) fn end(&self, attempt: AttemptIndex, outcome: AttemptOutcome, void: bool) {
        self.with(|written| written.open.end_attempt(attempt, outcome, void));
    }
}
