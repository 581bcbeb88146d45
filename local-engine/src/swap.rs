//! Overcommitted cells that run out: the youngest job's cells are saved, it waits outside, and
//! comes back where it was once its longest answer fits. Nothing of it is lost, and it is told
//! nothing; its reader sees a pause.
//!
//! **Invariant:** while a job is outside no new one comes in, so there are never more of them than
//! slots, and what they saved stays within `swap_bytes_max`.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    device::Device,
    evictions::{EvictionKind, JobRef},
    scheduler::Scheduler,
    sequence::Sequence,
    status::{count32, count64, nanoseconds},
};

/// A job whose cells are not in the cache.
#[derive(Debug)]
pub(crate) struct Swapped<S, V> {
    pub(crate) sequence: Sequence<S>,
    /// The tokens that were computed.
    computed: usize,
    /// Their cells; without them they are computed again.
    saved: Option<V>,
    bytes: usize,
    domain: u64,
}

impl<D: Device> Scheduler<D> {
    /// Takes the youngest job of the lowest priority out of the cache for `by`. False: it would be
    /// the only one.
    pub(crate) fn preempt(&mut self, by: JobRef, now: Instant) -> bool {
        if self.running().count() < 2 {
            return false;
        }
        let youngest = self.running().max_by_key(|(_, job)| (job.scheduling.priority, job.order));
        let Some(at) = youngest.map(|(at, _)| at) else { return false };
        let Some(sequence) = self.slots[at].running.take() else { return false };
        let started = Instant::now();
        let slot = count32(at);
        let room = self.swap_bytes_max.saturating_sub(self.swap_bytes());
        let saved =
            if self.device.state_bytes(slot) <= room { self.device.save(slot) } else { None };
        let bytes = saved.as_ref().map_or(0, D::saved_bytes);
        let computed = self.tree.len(at);
        let before = self.tree.cells();
        self.cut_back(at, 0);
        self.slots[at].used_at = 0;
        let kind = if saved.is_some() { EvictionKind::Swapped } else { EvictionKind::Dropped };
        let cells = count32(before - self.tree.cells());
        self.note_eviction(kind, sequence.job_ref(), by, cells, now);
        let domain = if self.share_prefixes { 0 } else { sequence.scheduling.caller };
        self.swapped.push(Swapped { sequence, computed, saved, bytes, domain });
        self.book_copying(started);
        true
    }

    /// Brings back jobs, the oldest first, whose longest answers fit.
    pub(crate) fn bring_back(&mut self, now: Instant) {
        while let Some(at) = self.next_back() {
            let swapped = self.swapped.swap_remove(at);
            let by = swapped.sequence.job_ref();
            let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
            let Some((slot, _)) = idle.min_by_key(|(_, slot)| slot.used_at) else {
                self.swapped.push(swapped);
                return;
            };
            self.give_up_for(slot, by, now);
            self.free(swapped.computed, by, now);
            let started = Instant::now();
            self.tree.enter(slot, swapped.domain);
            let back = swapped.saved.is_some_and(|saved| self.device.restore(count32(slot), saved));
            if back {
                self.tree.extend(slot, &swapped.sequence.history[..swapped.computed]);
            } else {
                self.shared.gauges.recomputed.fetch_add(1, Relaxed);
            }
            let place = &mut self.slots[slot];
            (place.used_at, place.owner) = (self.admissions, by);
            place.running = Some(swapped.sequence);
            self.book_copying(started);
        }
    }

    /// The job outside that came first, if it can come back now.
    fn next_back(&self) -> Option<usize> {
        let waiting = self.swapped.iter().enumerate();
        let (at, first) = waiting.min_by_key(|(_, swapped)| {
            (swapped.sequence.scheduling.priority, swapped.sequence.order)
        })?;
        if self.running().count() >= self.slots_max {
            return None;
        }
        let held = self.tree.held(self.running().map(|(at, _)| at));
        let fits = self.claimed(&held).saturating_add(first.sequence.cells()) <= self.cells;
        (fits || self.running().next().is_none()).then_some(at)
    }

    fn give_up_for(&mut self, slot: usize, by: JobRef, now: Instant) {
        if self.tree.len(slot) > 0 {
            self.give_up(slot, 0, by, now);
        }
    }

    fn swap_bytes(&self) -> usize {
        self.swapped.iter().map(|swapped| swapped.bytes).sum()
    }

    /// Copying is no computing: its time is counted by itself and charged to nobody.
    pub(crate) fn book_copying(&self, started: Instant) {
        let gauges = &self.shared.gauges;
        gauges.swap_ns.fetch_add(nanoseconds(started.elapsed()), Relaxed);
        gauges.swap_bytes.store(count64(self.swap_bytes()), Relaxed);
        gauges.swapped.store(count32(self.swapped.len()), Relaxed);
    }
}
