//! One batch: a token of every generating job first, then as much of the waiting prompts as the
//! step's bound allows; its time is attributed to the jobs in it before any of them is told.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    attribution::{DECODE_WEIGHT, PREFILL_WEIGHT, split},
    device::{BatchToken, Device, Fault},
    job::Finish,
    scheduler::Scheduler,
    sequence::{Drawn, Sequence},
    status::nanoseconds,
};

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
        let Plan { batch, mut parts } = self.plan();
        if batch.is_empty() {
            return Ok(false);
        }
        let started = Instant::now();
        if !self.decode(&batch)? {
            return Ok(true);
        }
        let decoded = Instant::now();
        self.sample(&mut parts, decoded)?;
        self.attribute(&mut parts, nanoseconds(decoded.saturating_duration_since(started)));
        self.give_up(&mut parts);
        let ended: Vec<_> = parts.iter_mut().filter_map(|part| self.deliver(part, now)).collect();
        // Whoever reads the last event finds the job in the numbers.
        self.shared.gauges.finished.fetch_add(count(ended.len()), Relaxed);
        self.publish();
        for (sequence, finish) in ended {
            sequence.finish(finish);
        }
        Ok(true)
    }

    /// What to compute next.
    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(sequence) = &slot.running else { continue };
            let Some(token) = sequence.next else { continue };
            // A job whose reader lags waits, alone.
            if sequence.outbox.paused_since().is_none() {
                plan.add(at, slot.tokens.len(), &[token], Work::Decode);
            }
        }
        let bound = if plan.batch.is_empty() { self.batch_tokens } else { self.prefill_chunk };
        let budget = bound.min(self.batch_tokens.saturating_sub(plan.batch.len()));
        for (at, count) in self.share_prefill(budget) {
            let slot = &self.slots[at];
            let Some(sequence) = &slot.running else { continue };
            let (from, to) = (slot.tokens.len(), slot.tokens.len() + count);
            let last = to == sequence.prompt.len();
            let work = if last { Work::LastPrefill } else { Work::Prefill };
            plan.add(at, from, &sequence.prompt[from..to], work);
        }
        plan
    }

    /// Shares the prompt tokens of a step: half goes to the job that came first, so that none
    /// starves; the rest to the shortest remaining prompts, so that a short one behind a long one
    /// gets its first token soon.
    fn share_prefill(&self, budget: usize) -> Vec<(usize, usize)> {
        let mut reading: Vec<(usize, usize, u64)> = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(sequence) = &slot.running
                && sequence.next.is_none()
            {
                let left = sequence.prompt.len().saturating_sub(slot.tokens.len());
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

    /// Decodes, giving up idle prefixes when the cache is full. False: nothing was computed, and
    /// the youngest job was failed to make room; admission is there to keep this from happening.
    fn decode(&mut self, batch: &[BatchToken]) -> Result<bool, String> {
        loop {
            match self.device.decode(batch) {
                Ok(()) => return Ok(true),
                Err(Fault::Broken(reason) | Fault::Sequence(reason)) => return Err(reason),
                Err(Fault::Full) if self.evict_oldest() => {}
                Err(Fault::Full) => {
                    let running = self.slots.iter().enumerate().filter_map(|(at, slot)| {
                        slot.running.as_ref().map(|sequence| (at, sequence.order))
                    });
                    let Some((at, _)) = running.max_by_key(|(_, order)| *order) else {
                        return Err("the KV cache is full and nobody uses it".to_owned());
                    };
                    if let Some(sequence) = self.slots[at].running.take() {
                        tracing::error!("the KV cache is full: the youngest job was given up");
                        self.shared.gauges.failed.fetch_add(1, Relaxed);
                        self.publish();
                        sequence.fail("the KV cache was full");
                    }
                    self.evict_oldest();
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
    fn attribute(&self, parts: &mut [Part], decode_ns: u64) {
        let weight = |part: &Part| {
            let tokens = count(part.tokens.len());
            tokens.saturating_mul(if part.decode { DECODE_WEIGHT } else { PREFILL_WEIGHT })
        };
        let weights: Vec<u64> = parts.iter().map(weight).collect();
        let busy = decode_ns + parts.iter().map(|part| part.ns).sum::<u64>();
        let gauges = &self.shared.gauges;
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

    /// Ends the jobs for which no token could be drawn.
    fn give_up(&mut self, parts: &mut [Part]) {
        for part in parts {
            let Some(reason) = part.failed.take() else { continue };
            if let Some(sequence) = self.slots[part.slot].running.take() {
                self.fail(vec![sequence], &reason);
            }
        }
    }

    /// Moves a job on by what was computed for it; takes it out of its slot when it ends.
    fn deliver(&mut self, part: &mut Part, now: Instant) -> Option<(Sequence<D::Sampler>, Finish)> {
        let slot = &mut self.slots[part.slot];
        slot.tokens.extend_from_slice(&part.tokens);
        let sequence = slot.running.as_mut()?;
        sequence.next = None;
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
