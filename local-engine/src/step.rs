//! One batch: a token of every generating job first, then as much of the waiting prompts as the
//! step's bound allows; its time is attributed to the jobs in it before any of them is told.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use crate::{
    attribution::{DECODE_WEIGHT, PREFILL_WEIGHT, split},
    device::{BatchToken, Device, Fault},
    evictions::JobRef,
    job::{Finish, Scheduling},
    scheduler::Scheduler,
    sequence::{Drawn, Sequence},
    status::nanoseconds,
};

/// Fewest prompt tokens of a step, however long it takes: reading them one by one would cost
/// everybody more.
const CHUNK_MIN: usize = 16;
/// Prompt tokens of a step before it is known what they cost.
const CHUNK_UNFITTED: usize = 64;
/// A step in which nobody generates may take so many times the target.
const ALONE: u32 = 4;

/// One job's part of a batch.
#[derive(Debug)]
struct Part {
    slot: usize,
    /// Its tokens, which will be in the slot's cells.
    tokens: Vec<i32>,
    /// Whether it generates; else it reads its prompt.
    decode: bool,
    /// The row after which its next token is sampled.
    row: Option<usize>,
    /// That token, once sampled.
    sampled: Option<Drawn>,
    /// Why none could be.
    failed: Option<String>,
    /// Time spent on sampling it, then all time attributed.
    ns: u64,
}

/// What a job has computed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A token it generated.
    Decode,
    /// A piece of its prompt.
    Prefill,
    /// The end of its prompt.
    LastPrefill,
}

/// A batch and whose tokens are in it.
#[derive(Debug, Default)]
struct Plan {
    batch: Vec<BatchToken>,
    parts: Vec<Part>,
}

impl Plan {
    /// Adds a job's tokens, which follow the `from` tokens already in its slot.
    fn add(&mut self, at: usize, from: usize, tokens: &[i32], work: Work) {
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        let samples = work != Work::Prefill;
        for (offset, token) in tokens.iter().enumerate() {
            let position = u32::try_from(from + offset).unwrap_or(u32::MAX);
            let logits = samples && offset + 1 == tokens.len();
            self.batch.push(BatchToken { token: *token, position, slot, logits });
        }
        let row = samples.then(|| self.batch.len().saturating_sub(1));
        let decode = work == Work::Decode;
        self.parts.push(Part {
            slot: at,
            tokens: tokens.to_vec(),
            decode,
            row,
            sampled: None,
            failed: None,
            ns: 0,
        });
    }
}

impl<D: Device> Scheduler<D> {
    /// Computes one batch. False: there was nothing to compute. `now` is the turn's time.
    pub(crate) fn step(&mut self, now: Instant) -> Result<bool, String> {
        let Plan { batch, mut parts } = self.plan_that_fits(now);
        if batch.is_empty() {
            return Ok(false);
        }
        let started = Instant::now();
        if !self.decode(&batch, &parts, now)? {
            return Ok(true);
        }
        let decoded = Instant::now();
        self.sample(&mut parts, decoded)?;
        self.attribute(&mut parts, nanoseconds(decoded.saturating_duration_since(started)));
        self.fail_undrawn(&mut parts);
        let ended: Vec<_> = parts.iter_mut().filter_map(|part| self.deliver(part, now)).collect();
        // Whoever reads the last event finds the job in the numbers.
        self.shared.gauges.finished.fetch_add(count(ended.len()), Relaxed);
        self.settle(&parts, &ended);
        self.publish();
        for (sequence, finish) in ended {
            sequence.finish(finish);
        }
        Ok(true)
    }

    /// What to compute next, with the cells for it: idle prefixes are given up first, then the
    /// youngest jobs wait outside.
    fn plan_that_fits(&mut self, now: Instant) -> Plan {
        loop {
            let plan = self.plan();
            let by = self.neediest(&plan.parts);
            if self.free(plan.batch.len(), by, now) || !self.preempt(by, now) {
                return plan;
            }
        }
    }

    /// The job with the most tokens in a step: for it room is made.
    fn neediest(&self, parts: &[Part]) -> JobRef {
        let most = parts.iter().max_by_key(|part| part.tokens.len());
        let job = most.and_then(|part| self.slots[part.slot].running.as_ref());
        job.map(Sequence::job_ref).unwrap_or_default()
    }

    /// What to compute next.
    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for (at, sequence) in self.running() {
            let Some(token) = sequence.next else { continue };
            let read_all = self.read(at) >= sequence.to_read();
            // A job whose reader lags waits, alone.
            if read_all && sequence.outbox.paused_since().is_none() {
                plan.add(at, self.read(at), &[token], Work::Decode);
            }
        }
        for (at, count) in self.share_prefill(self.prefill_bound(plan.batch.len())) {
            let Some(sequence) = &self.slots[at].running else { continue };
            let (from, to) = (self.read(at), self.read(at) + count);
            // Tokens that are read again draw nothing: what follows them is known.
            let last = to == sequence.to_read() && sequence.next.is_none();
            let work = if last { Work::LastPrefill } else { Work::Prefill };
            plan.add(at, from, &sequence.history[from..to], work);
        }
        plan
    }

    /// Prompt tokens that may be in a step with so many generated ones.
    pub(crate) fn prefill_bound(&self, decodes: usize) -> usize {
        // Other models on the device wait for this step as this model's own jobs would.
        let alone = decodes == 0 && !self.shared.is_crowded();
        let most = if alone { self.batch_tokens } else { self.prefill_chunk };
        let room = most.min(self.batch_tokens.saturating_sub(decodes));
        let Some(target) = self.gap_target else { return room };
        let within = match self.costs.fit() {
            // Nobody waits for the next token, but somebody may come.
            Some(fit) if alone => fit.prefills_within(target * ALONE, 0),
            Some(fit) => fit.prefills_within(target, decodes),
            None => CHUNK_UNFITTED,
        };
        room.min(within.max(CHUNK_MIN))
    }

    /// Shares the prompt tokens of a step: half goes to the job that came first, so that none
    /// starves; the rest to the shortest remaining prompts, so that a short one behind a long one
    /// gets its first token soon.
    fn share_prefill(&self, budget: usize) -> Vec<(usize, usize)> {
        let mut reading: Vec<(usize, usize, u64)> = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(sequence) = &slot.running else { continue };
            let left = sequence.to_read().saturating_sub(self.read(at));
            if left > 0 {
                reading.push((at, left, sequence.order));
            }
        }
        let Some(first) = reading.iter().min_by_key(|(_, _, order)| *order).copied() else {
            return Vec::new();
        };
        reading.sort_by_key(|(_, left, order)| (*left, *order));
        let firsts_half = first.1.min(budget.div_ceil(2));
        let mut rest = budget - firsts_half;
        let mut shares = Vec::with_capacity(reading.len());
        for (at, left, _) in reading {
            let granted = if at == first.0 { firsts_half } else { 0 };
            let more = rest.min(left - granted);
            rest -= more;
            if granted + more > 0 {
                shares.push((at, granted + more));
            }
        }
        shares
    }

    /// Decodes. False: the cache was full against all counting, and the youngest job went outside
    /// to make room, or was failed if it is the only one.
    fn decode(
        &mut self,
        batch: &[BatchToken],
        parts: &[Part],
        now: Instant,
    ) -> Result<bool, String> {
        let by = self.neediest(parts);
        loop {
            match self.device.decode(batch) {
                Ok(()) => return Ok(true),
                Err(Fault::Broken(reason) | Fault::Sequence(reason)) => return Err(reason),
                Err(Fault::Full) if self.evict_oldest(by, now) => {}
                Err(Fault::Full) if self.preempt(by, now) => return Ok(false),
                Err(Fault::Full) => {
                    let only = self.slots.iter_mut().find_map(|slot| slot.running.take());
                    let Some(sequence) = only else {
                        return Err("the KV cache is full and nobody uses it".to_owned());
                    };
                    tracing::error!("the KV cache is too small for one job: it was given up");
                    self.shared.gauges.failed.fetch_add(1, Relaxed);
                    self.publish();
                    sequence.fail("the KV cache was full");
                    return Ok(false);
                }
            }
        }
    }

    fn sample(&mut self, parts: &mut [Part], decoded: Instant) -> Result<(), String> {
        let mut before = decoded;
        for part in parts {
            let Some(sequence) = &mut self.slots[part.slot].running else { continue };
            let Some(row) = part.row else { continue };
            match self.device.sample(&mut sequence.sampler, row) {
                Ok(token) => {
                    let top = sequence.logprobs;
                    let logprob = top.and_then(|top| self.device.logprobs(row, token, top));
                    part.sampled = Some(Drawn { token, logprob });
                }
                Err(Fault::Sequence(reason)) => part.failed = Some(reason),
                Err(Fault::Broken(reason)) => return Err(reason),
                Err(Fault::Full) => return Err("sampling ran out of cells".to_owned()),
            }
            let now = Instant::now();
            part.ns = nanoseconds(now.saturating_duration_since(before));
            before = now;
        }
        Ok(())
    }

    /// Books the step's time: sampling on whose token it was, the rest by weighted tokens.
    fn attribute(&mut self, parts: &mut [Part], decode_ns: u64) {
        let weight = |part: &Part| {
            let tokens = count(part.tokens.len());
            tokens.saturating_mul(if part.decode { DECODE_WEIGHT } else { PREFILL_WEIGHT })
        };
        let weights: Vec<u64> = parts.iter().map(weight).collect();
        let busy = decode_ns + parts.iter().map(|part| part.ns).sum::<u64>();
        let tokens_of = |decode| {
            let parts = parts.iter().filter(|part| part.decode == decode);
            parts.map(|part| part.tokens.len()).sum::<usize>()
        };
        self.costs.observe(tokens_of(true), tokens_of(false), Duration::from_nanos(busy));
        let gauges = &self.shared.gauges;
        if let Some(fit) = self.costs.fit() {
            gauges.set_costs(fit.durations());
        }
        gauges.steps.fetch_add(1, Relaxed);
        gauges.busy_ns.fetch_add(busy, Relaxed);
        for (part, ns) in parts.iter_mut().zip(split(decode_ns, &weights)) {
            part.ns += ns;
            let Some(sequence) = &self.slots[part.slot].running else { continue };
            let tokens = count(part.tokens.len());
            if part.decode {
                sequence.outbox.meter().spend_decode(part.ns);
                gauges.decode_tokens.fetch_add(tokens, Relaxed);
            } else {
                sequence.outbox.meter().spend_prefill(part.ns);
                gauges.prefill_tokens.fetch_add(tokens, Relaxed);
            }
            gauges.attributed_ns.fetch_add(part.ns, Relaxed);
        }
    }

    /// Learns from those who began and those who ended, and gives back what of their caps was not
    /// used.
    fn settle(&mut self, parts: &[Part], ended: &[(Sequence<D::Sampler>, Finish)]) {
        for part in parts.iter().filter(|part| !part.decode && part.row.is_some()) {
            let job = self.slots[part.slot].running.as_ref();
            if let Some((predicted, submitted)) = job.map(|job| (job.predicted, job.submitted)) {
                self.note_first_token(predicted, submitted);
            }
        }
        for (sequence, _) in ended {
            let generated = sequence.outbox.meter().generated_tokens();
            self.seen.answered(generated);
            let unused = u64::from(sequence.max_tokens.saturating_sub(generated));
            let Scheduling { caller, priority, .. } = sequence.scheduling;
            self.shared.queue().jobs.give_back(caller, priority, unused);
        }
    }

    /// Ends the jobs for which no token could be drawn.
    fn fail_undrawn(&mut self, parts: &mut [Part]) {
        for part in parts {
            let Some(reason) = part.failed.take() else { continue };
            if let Some(sequence) = self.slots[part.slot].running.take() {
                self.shared.gauges.finished.fetch_add(1, Relaxed);
                self.publish();
                sequence.refuse(&reason);
            }
        }
    }

    /// Moves a job on by what was computed for it; takes it out of its slot when it ends.
    fn deliver(&mut self, part: &mut Part, now: Instant) -> Option<(Sequence<D::Sampler>, Finish)> {
        self.tree.extend(part.slot, &part.tokens);
        let slot = &mut self.slots[part.slot];
        let sequence = slot.running.as_mut()?;
        if part.decode {
            sequence.next = None;
        }
        let finish = match part.sampled.take() {
            Some(drawn) => sequence.take(drawn, &self.device, now),
            None => sequence.overspent(),
        }?;
        slot.running.take().map(|sequence| (sequence, finish))
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
