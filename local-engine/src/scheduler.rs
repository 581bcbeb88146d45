//! Who is computed when. One thread runs [`Scheduler::turn`] over and over: those who left leave,
//! those who waited too long are told, those who fit come in, then one batch is computed for all
//! (`step.rs`). Nothing here waits for a caller, and everything a job may need is set aside when
//! it comes in, so that a running job never finds the cache full.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    device::Device,
    job::JobEvent,
    sequence::{Sequence, Slot, cells},
    shared::{Shared, Waiting},
    slots::{Place, SlotView, choose},
};

/// An idle scheduler looks around this often, so that its heartbeat tells life from death.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was computed: take the next turn at once.
    Again,
    /// There is nothing to compute for so long, unless woken.
    Park(Duration),
    /// The engine was told to end, and may.
    Done,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Scheduler<D: Device> {
    pub(crate) device: D,
    pub(crate) slots: Vec<Slot<D::Sampler>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) batch_tokens: usize,
    pub(crate) prefill_chunk: usize,
    queue_wait_max: Duration,
    reader_stall_max: Duration,
    cells: usize,
    admissions: u64,
}

impl<D: Device> Scheduler<D> {
    pub(crate) fn new(device: D, config: &EngineConfig, shared: Arc<Shared>) -> Scheduler<D> {
        let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let empty = |_| Slot { tokens: Vec::new(), used_at: 0, running: None };
        shared.gauges.kv_total.store(device.cells(), Relaxed);
        Scheduler {
            slots: (0..config.slots).map(empty).collect(),
            cells: size(device.cells()),
            device,
            shared,
            batch_tokens: size(config.batch_tokens),
            prefill_chunk: size(config.prefill_chunk),
            queue_wait_max: config.queue_wait_max,
            reader_stall_max: config.reader_stall_max,
            admissions: 0,
        }
    }

    /// One look around and at most one batch. An error means that the device is lost.
    pub(crate) fn turn(&mut self, now: Instant) -> Result<Turn, String> {
        self.shared.gauges.beat(now);
        if self.shared.ending.load(Relaxed) && self.may_end(now) {
            return Ok(Turn::Done);
        }
        self.let_go(now);
        self.tidy_queue(now);
        while self.admit(now) {}
        let computed = self.step(now)?;
        self.publish();
        if computed {
            return Ok(Turn::Again);
        }
        if self.shared.ending.load(Relaxed) && self.may_end(now) {
            return Ok(Turn::Done);
        }
        Ok(Turn::Park(self.idle_time(now)))
    }

    /// Ends everything that is left, with a reason for each job.
    pub(crate) fn end(&mut self, reason: &str) {
        let left: Vec<_> = self.slots.iter_mut().filter_map(|slot| slot.running.take()).collect();
        self.fail(left, reason);
        fail_queue(&self.shared, reason);
    }

    /// Counts jobs as failed before they are told, so that who was told finds them counted.
    pub(crate) fn fail(&self, jobs: Vec<Sequence<D::Sampler>>, reason: &str) {
        let failed = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        self.shared.gauges.failed.fetch_add(failed, Relaxed);
        self.publish();
        for job in jobs {
            job.fail(reason);
        }
    }

    fn may_end(&self, now: Instant) -> bool {
        let queue = self.shared.queue();
        let nothing_left =
            queue.jobs.is_empty() && self.slots.iter().all(|slot| slot.running.is_none());
        !queue.open && (nothing_left || queue.end_at.is_some_and(|end_at| now >= end_at))
    }

    /// Frees the slots of jobs whose reader left, or stopped reading for too long.
    fn let_go(&mut self, now: Instant) {
        let mut unread = Vec::new();
        for slot in &mut self.slots {
            let Some(sequence) = &mut slot.running else { continue };
            if sequence.outbox.abandoned() {
                slot.running = None;
                self.shared.gauges.cancelled.fetch_add(1, Relaxed);
                continue;
            }
            sequence.outbox.flush(now);
            let since = sequence.outbox.paused_since();
            let stalled = since
                .is_some_and(|since| now.saturating_duration_since(since) >= self.reader_stall_max);
            if stalled {
                unread.extend(slot.running.take());
            }
        }
        if !unread.is_empty() {
            self.fail(unread, "the reader did not read the answer");
        }
    }

    /// Drops queued jobs whose reader left and tells those who waited too long.
    fn tidy_queue(&self, now: Instant) {
        if self.shared.gauges.queued.load(Relaxed) == 0 {
            return;
        }
        let waited = |waiting: &Waiting| now.saturating_duration_since(waiting.submitted);
        // Another choice of a request that runs does not expire: the answer would break.
        let over = |waiting: &Waiting| {
            waiting.after.is_none() && waited(waiting) >= self.queue_wait_max
        };
        let mut queue = self.shared.queue();
        if !queue.jobs.iter().any(|waiting| waiting.outbox.abandoned() || over(waiting)) {
            return;
        }
        for waiting in std::mem::take(&mut queue.jobs) {
            if waiting.outbox.abandoned() {
                self.shared.gauges.cancelled.fetch_add(1, Relaxed);
            } else if over(&waiting) {
                let queued = waited(&waiting);
                self.shared.gauges.expired.fetch_add(1, Relaxed);
                waiting.outbox.close("", |_| JobEvent::Expired { queued });
            } else {
                queue.jobs.push_back(waiting);
            }
        }
        self.shared.count_queue(&queue);
    }

    /// Brings in the job that waited longest, if a slot and its cells are free. A job that does
    /// not fit is not overtaken, or a large one would wait for ever.
    fn admit(&mut self, now: Instant) -> bool {
        if self.shared.gauges.queued.load(Relaxed) == 0 {
            return false;
        }
        let mut queue = self.shared.queue();
        // Other choices of a request wait until its prompt is in the cache.
        let first = queue.jobs.iter().position(|waiting| !waiting.held());
        let fits = first.and_then(|at| queue.jobs.get(at)).is_some_and(|waiting| {
            self.has_room(cells(waiting.job.prompt.len(), waiting.job.max_tokens))
        });
        let front = first.filter(|_| fits).and_then(|at| queue.jobs.remove(at));
        self.shared.count_queue(&queue);
        drop(queue);
        let Some(waiting) = front else { return false };
        self.place(waiting, now);
        true
    }

    fn has_room(&self, needed: usize) -> bool {
        let running = || self.slots.iter().filter_map(|slot| slot.running.as_ref());
        if running().count() >= self.slots.len() {
            return false;
        }
        // In separate caches every slot has room for the longest job that can be submitted.
        let promised: usize = running().map(Sequence::cells).sum();
        !self.device.unified() || promised.saturating_add(needed) <= self.cells
    }

    /// Puts a job into the slot where least is to compute.
    fn place(&mut self, waiting: Waiting, now: Instant) {
        let prompt = &waiting.job.prompt;
        let reuse = self.device.can_reuse();
        let views: Vec<SlotView<'_>> = self
            .slots
            .iter()
            .map(|slot| SlotView {
                tokens: if reuse { &slot.tokens } else { &[] },
                busy: slot.running.is_some(),
                used_at: slot.used_at,
            })
            .collect();
        let share = reuse && self.device.unified();
        let Some(place) = choose(&views, prompt, share) else {
            // `has_room` counted an idle slot.
            waiting.outbox.close("", |usage| JobEvent::Failed {
                reason: "no slot was idle".to_owned(),
                usage,
            });
            return;
        };
        let keep = self.prepare(place);
        self.admissions += 1;
        let slot = &mut self.slots[place.slot];
        slot.tokens.clear();
        slot.tokens.extend_from_slice(&prompt[..keep]);
        slot.used_at = self.admissions;
        let cached = u32::try_from(keep).unwrap_or(u32::MAX);
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        waiting.outbox.meter().admitted(prompt_tokens, cached);
        waiting.outbox.started(now.saturating_duration_since(waiting.submitted), cached);
        self.shared.gauges.cached_tokens.fetch_add(u64::from(cached), Relaxed);
        let sampler = self.device.sampler(&waiting.job);
        slot.running = Some(Sequence::new(waiting, sampler, self.admissions));
        self.make_room();
    }

    /// Brings a slot's cells to what the place says; returns the tokens that could be kept.
    fn prepare(&mut self, place: Place) -> usize {
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let keep = number(place.keep);
        let kept = match place.from {
            Some(from) => self.device.share(number(from), number(place.slot), keep),
            None => self.device.truncate(number(place.slot), keep),
        };
        if kept { place.keep } else { 0 }
    }

    /// Gives up idle prefixes, oldest first, until all running jobs' cells are there.
    fn make_room(&mut self) {
        if !self.device.unified() {
            return;
        }
        loop {
            let taken: usize = self
                .slots
                .iter()
                .map(|slot| slot.running.as_ref().map_or(slot.tokens.len(), Sequence::cells))
                .sum();
            if taken <= self.cells || !self.evict_oldest() {
                return;
            }
        }
    }

    /// Gives up the idle prefix that was used longest ago.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        let idle = self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(_, slot)| slot.running.is_none() && !slot.tokens.is_empty());
        let Some((at, slot)) = idle.min_by_key(|(_, slot)| slot.used_at) else { return false };
        slot.tokens.clear();
        slot.used_at = 0;
        self.device.truncate(u32::try_from(at).unwrap_or(u32::MAX), 0);
        self.shared.gauges.evictions.fetch_add(1, Relaxed);
        true
    }

    pub(crate) fn publish(&self) {
        let gauges = &self.shared.gauges;
        let count = |of: &dyn Fn(&Slot<D::Sampler>) -> usize| {
            u32::try_from(self.slots.iter().map(of).sum::<usize>()).unwrap_or(u32::MAX)
        };
        gauges.running.store(count(&|slot| usize::from(slot.running.is_some())), Relaxed);
        gauges.kv_used.store(count(&|slot| slot.tokens.len()), Relaxed);
        let paused = |slot: &Slot<D::Sampler>| {
            let since = slot.running.as_ref().and_then(|running| running.outbox.paused_since());
            usize::from(since.is_some())
        };
        gauges.paused.store(count(&paused), Relaxed);
    }

    /// Until the next deadline of somebody who waits.
    fn idle_time(&self, now: Instant) -> Duration {
        let left = |since: Instant, max: Duration| {
            max.saturating_sub(now.saturating_duration_since(since))
        };
        let stalls = self.slots.iter().filter_map(|slot| {
            let since = slot.running.as_ref()?.outbox.paused_since()?;
            Some(left(since, self.reader_stall_max))
        });
        let queue = self.shared.queue();
        let waits = queue.jobs.front().map(|front| left(front.submitted, self.queue_wait_max));
        let end = queue.end_at.map(|end_at| end_at.saturating_duration_since(now));
        stalls.chain(waits).chain(end).fold(HEARTBEAT, Duration::min)
    }
}

/// Closes the queue and fails what is in it.
pub(crate) fn fail_queue(shared: &Shared, reason: &str) {
    let mut queue = shared.queue();
    queue.open = false;
    for waiting in std::mem::take(&mut queue.jobs) {
        shared.gauges.failed.fetch_add(1, Relaxed);
        waiting.outbox.close("", |usage| JobEvent::Failed { reason: reason.to_owned(), usage });
    }
    shared.count_queue(&queue);
}
