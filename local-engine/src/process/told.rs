//! What is known here of a child's engine: what it told every now and then, with what has happened
//! since, and with the jobs that wait here.

use std::{collections::HashMap, time::Duration};

use super::{
    parent::{Remote, lock},
    sent::Sent,
};
use crate::{
    evictions::Eviction,
    job::Scheduling,
    predict::{Basis, Line, Prediction},
    status::{Status, count32},
};

impl Remote {
    /// The child's numbers as last told, with what is known better here.
    pub(crate) fn status(&self) -> Status {
        let state = self.shared.gauges.state();
        let running = count32(lock(&self.jobs).len());
        let here = self.shared.gauges.read();
        match &*lock(&self.seen) {
            None => Status { state, running, ..here },
            Some((numbers, at)) => {
                let status = &numbers.status;
                let queued = status.queued.saturating_add(here.queued);
                let running = running.saturating_sub(status.queued);
                let heartbeat_age = status.heartbeat_age.saturating_add(at.elapsed());
                let cancelled = status.cancelled.saturating_add(here.cancelled);
                let expired = status.expired.saturating_add(here.expired);
                let failed = status.failed.saturating_add(here.failed);
                let ended = Status { cancelled, expired, failed, ..status.clone() };
                Status { state, queued, running, heartbeat_age, ..ended }
            }
        }
    }

    /// What a job of this caller and priority could expect if it came now.
    pub(crate) fn predict(&self, of: &Scheduling, prompt_tokens: usize) -> Option<Prediction> {
        let (basis, line) = self.line(Some(of))?;
        Some(basis.predict(line, prompt_tokens))
    }

    /// How long a job would wait behind all who wait now.
    pub(crate) fn wait_behind_all(&self) -> Option<Duration> {
        let (basis, line) = self.line(None)?;
        Some(basis.wait(line))
    }

    /// Who is there and who waits here, at one moment: under both locks no job is in both or neither.
    fn line(&self, newcomer: Option<&Scheduling>) -> Option<(Basis, Line)> {
        let jobs = lock(&self.jobs);
        let basis = self.basis(&jobs, newcomer)?;
        let line = basis.line(&self.shared.queue().jobs, newcomer);
        Some((basis, line))
    }

    /// What the child last told waits from, with its jobs as they are known here: some may have come
    /// or ended since. Of those that wait there the more urgent go first, and none that is less urgent
    /// than the newcomer before it.
    fn basis(&self, jobs: &HashMap<u64, Sent>, newcomer: Option<&Scheduling>) -> Option<Basis> {
        let mut basis = lock(&self.seen).as_ref()?.0.basis.clone()?;
        let ahead = |sent: &Sent| newcomer.is_none_or(|of| sent.is_ahead_of(of.priority));
        let mut jobs: Vec<(&u64, &Sent)> = jobs.iter().filter(|(_, sent)| ahead(sent)).collect();
        jobs.sort_by_key(|(id, sent)| (sent.scheduling.priority, **id));
        let played = |started| {
            let there = jobs.iter().filter(move |(_, sent)| sent.started == started);
            there.map(|(_, sent)| sent.played(&basis)).collect()
        };
        let (running, first) = (played(true), played(false));
        (basis.running, basis.first) = (running, first);
        Some(basis)
    }

    /// The last evictions that the child told, oldest first.
    pub(crate) fn evictions(&self) -> Vec<Eviction> {
        let seen = lock(&self.seen);
        let Some((numbers, at)) = &*seen else { return Vec::new() };
        let since = at.elapsed();
        let aged = |event: &Eviction| Eviction { age: event.age.saturating_add(since), ..*event };
        numbers.evictions.iter().map(aged).collect()
    }
}
