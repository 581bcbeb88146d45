//! Who gets which KV cells: a job's admission, the prefix it goes on from, and whose idle prefix
//! is given up for it. What is shared counts once, as it does in the cache.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    device::Device,
    evictions::{Eviction, EvictionKind, JobRef},
    job::Job,
    prefix_tree::{Held, common_prefix},
    scheduler::Scheduler,
    sequence::{Sequence, cells},
    shared::Waiting,
    slots::{Lending, Place, SlotView, choose},
    status::count32,
};

/// A prefix shorter than this is not worth keeping when its end is given up.
const PREFIX_TOKENS_MIN: usize = 16;
/// Tokens that another job is about to read and that are worth waiting for.
const AWAITED_TOKENS_MIN: usize = 64;

impl<D: Device> Scheduler<D> {
    /// Whether a job can come in: a slot is free, and with it the running jobs' longest answers
    /// stay within the cells times the overcommit.
    pub(crate) fn has_room(&self, job: &Job) -> bool {
        if self.running().count() >= self.slots_max || !self.swapped.is_empty() {
            return false;
        }
        // In separate caches every slot has room for the longest job that can be submitted.
        if !self.device.unified() {
            return true;
        }
        let held = self.tree.held(self.running().map(|(at, _)| at));
        let shared = self.choose(job).map_or(0, |place| match place.from {
            Some(_) if self.lending() != Lending::Shared => 0,
            from => self.tree.held_of(from.unwrap_or(place.slot), place.keep, &held),
        });
        let needed = cells(job.prompt.len(), job.max_tokens).saturating_sub(shared);
        // The prompt's own cells must be there: what is overcommitted are answers.
        let unread =
            |(at, job): (usize, &Sequence<D::Sampler>)| job.to_read().saturating_sub(self.read(at));
        let reading: usize = self.running().map(unread).sum();
        let prompt = job.prompt.len().saturating_sub(shared);
        self.claimed(&held).saturating_add(needed) <= self.cells_promised
            && held.cells + reading + prompt <= self.cells
    }

    /// Cells that the running jobs hold and may come to need.
    pub(crate) fn claimed(&self, held: &Held) -> usize {
        let growth = self.running().map(|(at, job)| job.cells().saturating_sub(self.read(at)));
        held.cells.saturating_add(growth.sum())
    }

    /// Whether a running job is reading what this one begins with, and will be done with it before
    /// this one would: side by side each would read it at half the speed. Who
    /// waits already waits for the last of it.
    pub(crate) fn is_behind(&self, job: &Job, waits: bool) -> bool {
        if !self.device.can_reuse() {
            return false;
        }
        let domain = self.domain(job.scheduling.caller);
        let prompt = before_last(job);
        let ahead = self.running().filter(|(at, reader)| {
            self.read(*at) < reader.to_read() && self.domain(reader.scheduling.caller) == domain
        });
        let mut ahead = ahead.peekable();
        if ahead.peek().is_none() {
            return false;
        }
        let there = self.found(domain, prompt).map_or(0, |found| found.keep);
        ahead.any(|(at, reader)| {
            let common = common_prefix(prompt, &reader.history);
            let common = self.of_use(common, reader.prompt_tokens);
            let least = if waits { 1 } else { AWAITED_TOKENS_MIN };
            common >= there.max(self.read(at)) + least
        })
    }

    pub(crate) fn domain(&self, caller: u64) -> u64 {
        if self.share_prefixes { 0 } else { caller }
    }

    /// Puts a job into the slot where least is to compute.
    pub(crate) fn place(&mut self, waiting: Waiting, now: Instant) {
        let Some(place) = self.choose(&waiting.job) else {
            // `has_room` counted an idle slot.
            waiting.outbox.close("", |usage| crate::job::JobEvent::Failed {
                reason: "no slot was idle".to_owned(),
                usage,
            });
            return;
        };
        self.admissions += 1;
        let caller = waiting.job.scheduling.caller;
        let by = JobRef { caller, number: self.admissions };
        let domain = self.domain(caller);
        let keep = self.prepare(place, domain, by, now);
        let slot = &mut self.slots[place.slot];
        (slot.used_at, slot.owner) = (self.admissions, by);
        let cached = count32(keep);
        let job = &waiting.job;
        waiting.outbox.meter().admitted(count32(job.prompt.len()), cached);
        waiting.outbox.started(now.saturating_duration_since(waiting.submitted), cached);
        let gauges = &self.shared.gauges;
        gauges.cached_tokens.fetch_add(u64::from(cached), Relaxed);
        let counter = if keep > 0 { &gauges.prefix_hits } else { &gauges.prefix_misses };
        counter.fetch_add(1, Relaxed);
        let sampler = self.device.sampler(job);
        self.slots[place.slot].running = Some(Sequence::new(waiting, sampler, self.admissions));
    }

    /// Brings a slot's cells to what the place says; returns the tokens that could be kept.
    fn prepare(&mut self, place: Place, domain: u64, by: JobRef, now: Instant) -> usize {
        let Place { slot, keep, from } = place;
        let Some(from) = from else {
            if keep == 0 {
                self.give_up(slot, 0, by, now);
            }
            self.cut_back(slot, keep);
            if self.tree.len(slot) == 0 {
                self.tree.enter(slot, domain);
            }
            return self.tree.len(slot);
        };
        self.give_up(slot, 0, by, now);
        self.slots[from].used_at = self.slots[from].used_at.max(self.admissions - 1);
        self.tree.enter(slot, domain);
        // A copy needs cells, and those that make room may be the very ones that were to be copied.
        let fits = self.lending() == Lending::Shared || self.free(keep, by, now);
        if fits && self.tree.len(from) >= keep {
            self.share_prefix(from, slot, keep);
        }
        self.tree.len(slot)
    }

    /// Gives up idle prefixes, the one used longest ago first and each from its end, until so many
    /// cells are free. False: that was not enough.
    pub(crate) fn free(&mut self, needed: usize, by: JobRef, now: Instant) -> bool {
        while self.device.unified() {
            let missing = (self.tree.cells() + needed).saturating_sub(self.cells);
            if missing == 0 {
                break;
            }
            let Some(slot) = self.oldest_prefix() else { return false };
            let own = self.tree.unique(slot);
            let rest = self.tree.len(slot) - own.min(missing);
            // A prefix that others hold too frees nothing: it goes as a whole, or the next round
            // would find it again.
            let keep = if own == 0 || rest < PREFIX_TOKENS_MIN { 0 } else { rest };
            self.give_up(slot, keep, by, now);
        }
        true
    }

    /// Gives up all of the idle prefix that was used longest ago.
    pub(crate) fn evict_oldest(&mut self, by: JobRef, now: Instant) -> bool {
        let Some(slot) = self.oldest_prefix() else { return false };
        self.give_up(slot, 0, by, now);
        true
    }

    fn oldest_prefix(&self) -> Option<usize> {
        let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.running.is_none());
        let kept = idle.filter(|(at, _)| self.tree.len(*at) > 0);
        kept.min_by_key(|(_, slot)| slot.used_at).map(|(at, _)| at)
    }

    /// Keeps only the first tokens of an idle slot, and says so if cells became free by it.
    pub(crate) fn give_up(&mut self, slot: usize, keep: usize, by: JobRef, now: Instant) {
        let before = self.tree.cells();
        self.cut_back(slot, keep);
        if self.tree.len(slot) == 0 {
            self.slots[slot].used_at = 0;
        }
        let cells = count32(before - self.tree.cells());
        if cells > 0 {
            self.note_eviction(EvictionKind::Prefix, self.slots[slot].owner, by, cells, now);
        }
    }

    /// Counts and remembers an eviction.
    pub(crate) fn note_eviction(
        &self,
        kind: EvictionKind,
        of: JobRef,
        by: JobRef,
        cells: u32,
        now: Instant,
    ) {
        let gauges = &self.shared.gauges;
        let counter = match kind {
            EvictionKind::Prefix => &gauges.evictions,
            EvictionKind::Swapped | EvictionKind::Dropped => &gauges.preemptions,
        };
        counter.fetch_add(1, Relaxed);
        let age = std::time::Duration::ZERO;
        self.shared.evictions.push(now, Eviction { age, kind, of, by, cells });
    }

    /// The running jobs and their slots.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Sequence<D::Sampler>)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, slot)| Some((at, slot.running.as_ref()?)))
    }

    /// Tokens in a slot's cells.
    pub(crate) fn read(&self, slot: usize) -> usize {
        self.tree.len(slot)
    }

    fn views(&self) -> Vec<SlotView> {
        let slots = self.slots.iter();
        slots.map(|slot| SlotView { busy: slot.running.is_some(), used_at: slot.used_at }).collect()
    }

    /// The place where a job has least to compute, if a slot is idle.
    fn choose(&self, job: &Job) -> Option<Place> {
        let found = self.found(self.domain(job.scheduling.caller), before_last(job));
        choose(&self.tree, &self.views(), found, self.lending())
    }

    /// How a slot begins with another one's tokens.
    pub(crate) fn lending(&self) -> Lending {
        match (self.device.can_rewind(), self.device.unified()) {
            (true, true) => Lending::Shared,
            (true, false) => Lending::Whole,
            (false, _) => Lending::Copied,
        }
    }
}

/// A prompt without its last token, which is always computed: its logits are needed.
fn before_last(job: &Job) -> &[i32] {
    &job.prompt[..job.prompt.len().saturating_sub(1)]
}
