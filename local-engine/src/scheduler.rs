//! Who is computed when. One thread runs [`Scheduler::turn`] over and over: those who left leave,
//! those who waited too long are told, those who fit come in (`cells.rs`), then one batch is computed
//! for all (`step.rs`). Nothing here waits for a caller, and no running job is failed for want
//! of cells: if more were promised than there are, the youngest waits outside (`swap.rs`).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    checkpoints::Checkpoints,
    config::{EngineConfig, PrefixSharing},
    costs::Costs,
    device::Device,
    draft::Drafter,
    evictions::JobRef,
    predict::Seen,
    prefix_tree::PrefixTree,
    sequence::{Sequence, Slot},
    shared::{Shared, Waiting},
    speculation::Speculator,
    status::{count32, count64},
    swap::Swapped,
    turns::Resident,
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

/// Why a job leaves before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Its reader left.
    Abandoned,
    /// Its reader stopped reading.
    Unread,
    /// It has used up its engine time, and gets no more.
    Short,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Scheduler<D: Device> {
    pub(crate) device: D,
    /// A place for each sequence; more than may run, where idle ones keep prefixes.
    pub(crate) slots: Vec<Slot<D::Sampler>>,
    /// Jobs that run at once, at most.
    pub(crate) slots_max: usize,
    /// What the slots' cells hold.
    pub(crate) tree: PrefixTree,
    /// Where slots may go back to, in a model with a sliding window.
    pub(crate) checkpoints: Checkpoints<D::Saved>,
    /// Jobs outside the cache.
    pub(crate) swapped: Vec<Swapped<D::Sampler, D::Saved>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) costs: Costs,
    pub(crate) seen: Seen,
    /// What guesses tokens, where that is on and the model can be rewound.
    pub(crate) speculator: Option<Speculator>,
    /// The smaller model that it guesses by, where there is one.
    pub(crate) drafter: Option<Drafter<D>>,
    pub(crate) batch_tokens: usize,
    pub(crate) prefill_chunk: usize,
    /// Steps in a row that read prompts, but not the one that came first.
    pub(crate) passed_over: u32,
    /// Tokens of texts to embed that this turn has read.
    pub(crate) embedded: usize,
    pub(crate) gap_target: Option<Duration>,
    pub(crate) share_prefixes: bool,
    pub(crate) swap_bytes_max: usize,
    pub(crate) queue_wait_max: Duration,
    pub(crate) reader_stall_max: Duration,
    pub(crate) cells: usize,
    /// Cells that may be promised, overcommit included.
    pub(crate) cells_promised: usize,
    pub(crate) admissions: u64,
}

impl<D: Device> Scheduler<D> {
    pub(crate) fn new(device: D, config: &EngineConfig, shared: Arc<Shared>) -> Scheduler<D> {
        let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let empty = |_| Slot { used_at: 0, owner: JobRef::default(), running: None };
        shared.gauges.kv_total.store(device.cells(), Relaxed);
        let cells = size(device.cells());
        Scheduler {
            slots: (0..config.sequences()).map(empty).collect(),
            slots_max: size(config.slots),
            tree: PrefixTree::new(size(config.sequences())),
            checkpoints: Checkpoints::new(size(config.sequences()), config.checkpoint_bytes_max),
            swapped: Vec::new(),
            cells,
            cells_promised: cells.saturating_mul(size(config.overcommit_percent)) / 100,
            costs: Costs::default(),
            seen: Seen::default(),
            speculator: Speculator::new(&config.speculation).filter(|_| device.can_rewind()),
            drafter: None,
            gap_target: config.gap_target,
            share_prefixes: config.prefix_sharing == PrefixSharing::All,
            swap_bytes_max: config.swap_bytes_max,
            device,
            shared,
            batch_tokens: size(config.batch_tokens()),
            prefill_chunk: size(config.prefill_chunk()),
            passed_over: 0,
            embedded: 0,
            queue_wait_max: config.queue_wait_max,
            reader_stall_max: config.reader_stall_max,
            admissions: 0,
        }
    }

    /// One look around and at most one batch. An error means that the device is lost.
    pub(crate) fn turn(&mut self, now: Instant) -> Result<Turn, String> {
        self.shared.gauges.beat(now);
        if self.shared.forget.swap(false, Relaxed) {
            self.forget(now);
        }
        if self.shared.ending.load(Relaxed) && self.may_end(now) {
            return Ok(Turn::Done);
        }
        self.let_go(now);
        self.shared.tidy_queue(now, self.queue_wait_max);
        self.bring_back(now);
        self.let_in(now);
        self.close_ranks();
        let embedded = self.embed(now)?;
        let computed = self.step(now)? || embedded;
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
        let slots = self.slots.iter_mut().filter_map(|slot| slot.running.take());
        let left = slots.chain(self.swapped.drain(..).map(|swapped| swapped.sequence)).collect();
        self.fail(left, reason);
        fail_queue(&self.shared, reason);
    }

    /// Counts jobs as failed before they are told, so that who was told finds them counted.
    fn fail(&self, jobs: Vec<Sequence<D::Sampler>>, reason: &str) {
        let failed = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        self.shared.gauges.failed.fetch_add(failed, Relaxed);
        self.publish();
        for job in jobs {
            job.end_with(&self.shared, reason);
        }
    }

    fn may_end(&self, now: Instant) -> bool {
        let queue = self.shared.queue();
        let nothing_left = queue.jobs.is_empty()
            && self.swapped.is_empty()
            && self.shared.embeds.is_empty()
            && self.running().next().is_none();
        !queue.open && (nothing_left || queue.end_at.is_some_and(|end_at| now >= end_at))
    }

    /// Frees the slots of jobs whose reader left, or stopped reading for too long.
    fn let_go(&mut self, now: Instant) {
        let (mut left, mut unread, mut short) = (Vec::new(), Vec::new(), Vec::new());
        let (gauges, stall_max) = (&self.shared.gauges, self.reader_stall_max);
        let mut stays = |sequence: &mut Sequence<D::Sampler>| {
            if sequence.outbox.abandoned() {
                gauges.cancelled.fetch_add(1, Relaxed);
                return Some(Leaves::Abandoned);
            }
            sequence.outbox.flush(now);
            if sequence.waits_since.is_some() && sequence.overspent().is_some() {
                return Some(Leaves::Short);
            }
            let waits = sequence.waits_for_time();
            if waits {
                sequence.tell_if_low();
            }
            sequence.waits_since = waits.then(|| sequence.waits_since.unwrap_or(now));
            let since = sequence.outbox.paused_since().or(sequence.waits_since);
            let stalled =
                since.is_some_and(|since| now.saturating_duration_since(since) >= stall_max);
            stalled.then_some(Leaves::Unread)
        };
        for slot in &mut self.slots {
            match slot.running.as_mut().and_then(&mut stays) {
                Some(Leaves::Abandoned) => left.extend(slot.running.take()),
                Some(Leaves::Unread) => unread.extend(slot.running.take()),
                Some(Leaves::Short) => short.extend(slot.running.take()),
                None => {}
            }
        }
        for at in (0..self.swapped.len()).rev() {
            match stays(&mut self.swapped[at].sequence) {
                Some(Leaves::Abandoned) => left.push(self.swapped.swap_remove(at).sequence),
                Some(Leaves::Unread) => unread.push(self.swapped.swap_remove(at).sequence),
                Some(Leaves::Short) => short.push(self.swapped.swap_remove(at).sequence),
                None => {}
            }
        }
        left.iter().for_each(|sequence| self.give_back(sequence));
        self.end_short(short);
        self.end_unread(unread);
    }

    /// Ends jobs that nobody reads: counted before they are told, so that who was told finds them
    /// counted.
    fn end_unread(&self, unread: Vec<Sequence<D::Sampler>>) {
        if unread.is_empty() {
            return;
        }
        self.shared.gauges.cancelled.fetch_add(count64(unread.len()), Relaxed);
        self.publish();
        for sequence in unread {
            self.give_back(&sequence);
            sequence.leave_unread();
        }
    }

    /// Gives up every idle prefix.
    fn forget(&mut self, now: Instant) {
        while self.evict_oldest(JobRef::default(), now) {}
        if let Some(drafter) = &mut self.drafter {
            drafter.forget();
        }
        self.publish_drafter();
    }

    /// Brings in everybody who fits.
    pub(crate) fn let_in(&mut self, now: Instant) {
        let mut some = false;
        while self.admit(now) {
            some = true;
        }
        if some {
            // Who has left the queue is ahead of a newcomer also while the step runs.
            self.publish_basis();
        }
    }

    /// Brings in the job whose turn it is, if a slot and its cells are free. A job that does not fit
    /// is not overtaken by its equals, or a large one would wait for ever.
    fn admit(&mut self, now: Instant) -> bool {
        if self.shared.gauges.queued.load(Relaxed) == 0 {
            return false;
        }
        let mut queue = self.shared.queue();
        for waiting in queue.jobs.iter_mut() {
            waiting.behind = self.is_behind(&waiting.job, waiting.behind);
        }
        let fits = queue.jobs.next().is_some_and(|waiting| self.has_room(&waiting.job));
        let front = if fits { queue.jobs.pop() } else { None };
        self.shared.count_queue(&queue);
        drop(queue);
        let Some(waiting) = front else { return false };
        self.place(waiting, now);
        true
    }

    pub(crate) fn publish(&self) {
        let gauges = &self.shared.gauges;
        gauges.running.store(count32(self.running().count()), Relaxed);
        gauges.swapped.store(count32(self.swapped.len()), Relaxed);
        gauges.kv_used.store(count32(self.tree.cells()), Relaxed);
        gauges.checkpoint_bytes.store(count64(self.checkpoints.bytes()), Relaxed);
        let paused = self.running().filter(|(_, job)| job.outbox.paused_since().is_some());
        gauges.paused.store(count32(paused.count()), Relaxed);
        self.publish_basis();
    }

    /// Until the next deadline of somebody who waits.
    pub(crate) fn idle_time(&self, now: Instant) -> Duration {
        let left = |since: Instant, max: Duration| {
            max.saturating_sub(now.saturating_duration_since(since))
        };
        let stalls = self.running().filter_map(|(_, job)| {
            let since = job.outbox.paused_since().or(job.waits_since)?;
            Some(left(since, self.reader_stall_max))
        });
        let queue = self.shared.queue();
        let wait = |job: &Waiting| left(job.submitted, job.wait_max(self.queue_wait_max));
        let waits = queue.jobs.iter().filter(|job| !job.is_part()).map(wait).min();
        let end = queue.end_at.map(|end_at| end_at.saturating_duration_since(now));
        stalls.chain(waits).chain(end).fold(HEARTBEAT, Duration::min)
    }
}

impl<D: Device + Send> Resident for Scheduler<D>
where
    D::Sampler: Send,
    D::Saved: Send + Sync,
{
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn turn(&mut self, now: Instant) -> Result<Turn, String> {
        Scheduler::turn(self, now)
    }

    fn end(&mut self, reason: &str) {
        Scheduler::end(self, reason);
    }
}

/// Closes the queue and fails what is in it.
pub(crate) fn fail_queue(shared: &Shared, reason: &str) {
    let mut queue = shared.queue();
    queue.open = false;
    shared.embeds.clear();
    for waiting in queue.jobs.take(|_| true) {
        shared.gauges.failed.fetch_add(1, Relaxed);
        waiting.outbox.close("", |usage| shared.last_event(reason, usage));
    }
    shared.count_queue(&queue);
}
