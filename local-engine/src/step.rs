//! One batch: a token of every generating job first, with what is guessed to follow it where few
//! generate and nobody reads (`speculation.rs`), then as much of the waiting prompts as the step's
//! bound allows; its time is attributed to the jobs in it before any of them is told.

#[cfg(test)]
mod learn_tests;

use std::{
    collections::BTreeMap,
    ops::Range,
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
    speculation::Timed,
    status::{count32, count64, nanoseconds},
};

/// Fewest prompt tokens of a step, however long it takes: reading them one by one would cost
/// everybody more.
const CHUNK_MIN: usize = 16;
/// Prompt tokens of a step before it is known what they cost.
const CHUNK_UNFITTED: usize = 64;
/// A step in which nobody generates may take so many times the target.
const ALONE: u32 = 2;
/// So many steps in a row may pass over the prompt that came first.
const PASSED_OVER_MAX: u32 = 3;
/// One so manieth of a step's prompt tokens is too little for a piece of its own.
const LITTLE: usize = 4;

/// One job's part of a batch.
#[derive(Debug)]
struct Part {
    slot: usize,
    /// Its tokens, which will be in the slot's cells: where it generates the one that was drawn last
    /// and what is guessed to follow it.
    tokens: Vec<i32>,
    /// Whether it generates; else it reads its prompt.
    decode: bool,
    /// The rows after which tokens are drawn: those of its last tokens.
    rows: Range<usize>,
    /// What was drawn, one for each row until a guess was wrong.
    drawn: Vec<Drawn>,
    /// Why none could be.
    failed: Option<String>,
    /// Time spent on sampling it, then all time attributed.
    ns: u64,
}

impl Part {
    /// Tokens that were guessed.
    fn drafted(&self) -> usize {
        if self.decode { self.tokens.len().saturating_sub(1) } else { 0 }
    }

    /// What it counts when the step's time is split.
    fn weight(&self) -> u64 {
        let each = if self.decode { DECODE_WEIGHT } else { PREFILL_WEIGHT };
        count64(self.tokens.len()).saturating_mul(each)
    }

    /// Those of them that were drawn.
    fn accepted(&self) -> usize {
        if self.decode { self.right() - 1 } else { 0 }
    }

    /// Those of its tokens that belong to the sequence: all but wrong guesses.
    fn right(&self) -> usize {
        if self.decode { self.drawn.len().clamp(1, self.tokens.len()) } else { self.tokens.len() }
    }
}

/// Tokens of those who generate, or of those who read.
fn tokens_of(parts: &[Part], decode: bool) -> usize {
    let parts = parts.iter().filter(|part| part.decode == decode);
    parts.map(|part| part.tokens.len()).sum()
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
    fn add(&mut self, at: usize, from: usize, tokens: Vec<i32>, work: Work) {
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        let drawn_after = match work {
            Work::Decode => tokens.len(),
            Work::LastPrefill => 1,
            Work::Prefill => 0,
        };
        let silent = tokens.len() - drawn_after;
        for (offset, token) in tokens.iter().enumerate() {
            let position = u32::try_from(from + offset).unwrap_or(u32::MAX);
            self.batch.push(BatchToken { token: *token, position, slot, logits: offset >= silent });
        }
        self.parts.push(Part {
            slot: at,
            tokens,
            decode: work == Work::Decode,
            rows: self.batch.len() - drawn_after..self.batch.len(),
            drawn: Vec::new(),
            failed: None,
            ns: 0,
        });
    }
}

impl<D: Device> Scheduler<D> {
    /// Computes one batch. False: there was nothing to compute. `now` is the turn's time.
    pub(crate) fn step(&mut self, now: Instant) -> Result<bool, String> {
        self.draft_ahead();
        let Plan { batch, mut parts } = self.plan_that_fits(now);
        if batch.is_empty() {
            return Ok(false);
        }
        self.count_passed_over(&parts);
        self.expect(&parts);
        let started = Instant::now();
        if !self.decode(&batch, &parts, now)? {
            self.running().for_each(|(_, job)| job.outbox.meter().end_step());
            return Ok(true);
        }
        let decoded = Instant::now();
        self.sample(&mut parts, decoded)?;
        self.attribute(&mut parts, nanoseconds(decoded.saturating_duration_since(started)));
        self.learn(&parts);
        let ended: Vec<_> = parts.iter_mut().filter_map(|part| self.deliver(part, now)).collect();
        for part in parts.iter().filter(|part| !part.decode) {
            self.take_checkpoint(part.slot);
        }
        self.fail_undrawn(&mut parts);
        // Whoever reads the last event finds the job in the numbers.
        self.shared.gauges.finished.fetch_add(count64(ended.len()), Relaxed);
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
        let guessed = self.plan(true);
        // No kept prefix is given up for a guess.
        if !self.device.unified() || self.tree.cells() + guessed.batch.len() <= self.cells {
            return guessed;
        }
        loop {
            let plan = self.plan(false);
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

    /// What to compute next, with or without guesses.
    fn plan(&self, guess: bool) -> Plan {
        // By slots: of separate caches only those that follow one another are computed together.
        let mut by_slot = BTreeMap::new();
        let decodes = self.generating().count();
        let guess = guess && !self.anybody_reads();
        let mut decoded = 0;
        for (at, sequence) in self.generating() {
            let mut tokens = Vec::from_iter(sequence.next);
            if guess {
                tokens.extend_from_slice(self.guess(sequence, decodes));
            }
            decoded += tokens.len();
            by_slot.insert(at, (self.read(at), tokens, Work::Decode));
        }
        let bound = self.prefill_bound(decoded);
        // What texts to embed took of this turn's time is not there for prompts.
        let bound = bound.saturating_sub(self.embedded).max(bound.min(CHUNK_MIN));
        let beyond = self.prefill_room(decoded).saturating_sub(bound).min(bound / LITTLE);
        for (at, count) in self.share_prefill(bound, beyond) {
            let Some(sequence) = &self.slots[at].running else { continue };
            let from = self.read(at);
            let to = (from + count).min(self.piece_end(sequence.prompt_tokens, from));
            // Tokens that are read again draw nothing: what follows them is known.
            let last = to == sequence.to_read() && sequence.next.is_none();
            let work = if last { Work::LastPrefill } else { Work::Prefill };
            by_slot.insert(at, (from, sequence.history[from..to].to_vec(), work));
        }
        let mut plan = Plan::default();
        for (at, (from, tokens, work)) in by_slot {
            plan.add(at, from, tokens, work);
        }
        plan
    }

    /// What may follow a job's last token, where so many generate.
    fn guess<'a>(&self, sequence: &'a Sequence<D::Sampler>, decodes: usize) -> &'a [i32] {
        let Some(speculator) = self.speculator.as_ref().filter(|guesser| guesser.may(decodes))
        else {
            return &[];
        };
        let most = self.guess_max(sequence, decodes);
        let ask = (sequence.class, sequence.draft);
        speculator.draft(ask, &sequence.history, &sequence.drafted, most)
    }

    /// Most tokens that may be guessed for a job where so many generate.
    pub(crate) fn guess_max(&self, sequence: &Sequence<D::Sampler>, decodes: usize) -> usize {
        // Its last token needs no cell, and no guess goes beyond its cap or the batch.
        let left = sequence.left().saturating_sub(1);
        left.min((self.batch_tokens / decodes.max(1)).saturating_sub(1))
    }

    /// The jobs whose next token is computed in this step. One whose reader lags waits, alone.
    pub(crate) fn generating(&self) -> impl Iterator<Item = (usize, &Sequence<D::Sampler>)> {
        self.running().filter(|(at, job)| {
            job.next.is_some()
                && self.read(*at) >= job.to_read()
                && job.outbox.paused_since().is_none()
                && !job.waits_for_time()
        })
    }

    /// Whether a prompt is being read.
    pub(crate) fn anybody_reads(&self) -> bool {
        self.running().any(|(at, job)| self.read(at) < job.to_read() && !job.waits_for_time())
    }

    /// Whether nobody waits for a step with so many generated tokens. Other models on the device wait
    /// for it as this model's own jobs would.
    fn is_alone(&self, decodes: usize) -> bool {
        decodes == 0 && !self.shared.is_crowded()
    }

    /// Prompt tokens that have room in a step with so many generated ones, however long it takes.
    fn prefill_room(&self, decodes: usize) -> usize {
        let most = if self.is_alone(decodes) { self.batch_tokens } else { self.prefill_chunk };
        most.min(self.batch_tokens.saturating_sub(decodes))
    }

    /// Prompt tokens that should be in such a step: as many as lengthen it by the target.
    pub(crate) fn prefill_bound(&self, decodes: usize) -> usize {
        let alone = self.is_alone(decodes);
        let room = self.prefill_room(decodes);
        let Some(target) = self.gap_target else { return room };
        let within = match self.costs.fit() {
            // Nobody waits for the next token, but somebody may come.
            Some(fit) if alone => fit.prefills_within(target * ALONE),
            Some(fit) => fit.prefills_within(target),
            None => CHUNK_UNFITTED,
        };
        room.min(within.max(CHUNK_MIN))
    }

    /// The jobs whose prompts are being read: slot, tokens left, order of admission.
    fn reading(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        self.running().filter_map(|(at, job)| {
            let left = job.to_read().saturating_sub(self.read(at));
            (left > 0 && !job.waits_for_time()).then_some((at, left, job.order))
        })
    }

    /// Notes whether a step that reads prompts reads the one that came first.
    fn count_passed_over(&mut self, parts: &[Part]) {
        let mut prefills = parts.iter().filter(|part| !part.decode).peekable();
        let oldest = self.reading().min_by_key(|(_, _, order)| *order);
        if let Some((oldest, ..)) = oldest.filter(|_| prefills.peek().is_some()) {
            let is_read = prefills.any(|part| part.slot == oldest);
            self.passed_over = if is_read { 0 } else { self.passed_over + 1 };
        }
    }

    /// Shares the prompt tokens of a step. It goes to the job with the shortest rest, so that a short
    /// prompt behind a long one gets its first token soon; the one that came first is passed over only
    /// so many times in a row, so that none starves. A second job is read in the same step only if
    /// much is left for it: pieces of several prompts in one batch read the weights more than once
    /// where caches are separate. Nor is one of which more would be read than of all before it: they
    /// would wait for their first tokens more than twice as long.
    ///
    /// A rest that is at most `beyond` tokens too long is read at once: as a step of its own it would
    /// cost everybody more.
    pub(crate) fn share_prefill(&self, budget: usize, beyond: usize) -> Vec<(usize, usize)> {
        let mut reading: Vec<(usize, usize, u64)> = self.reading().collect();
        reading.sort_by_key(|(_, left, order)| (*left, *order));
        if self.passed_over >= PASSED_OVER_MAX
            && let Some(oldest) = (0..reading.len()).min_by_key(|at| reading[*at].2)
        {
            reading[..=oldest].rotate_right(1);
        }
        let mut left_over = budget;
        let mut shares = Vec::new();
        for (at, left, _) in reading {
            let granted = if left <= left_over + beyond { left } else { left_over };
            let before = budget - left_over;
            if before > 0 && granted > before {
                break;
            }
            shares.push((at, granted));
            left_over = left_over.saturating_sub(granted);
            if left_over <= budget / LITTLE {
                break;
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
            for (guess, row) in (1..).zip(part.rows.clone()) {
                let token = match self.device.sample(&mut sequence.sampler, row) {
                    Ok(token) => token,
                    Err(Fault::Sequence(reason)) => {
                        part.failed = Some(reason);
                        break;
                    }
                    Err(Fault::Broken(reason)) => return Err(reason),
                    Err(Fault::Full) => return Err("sampling ran out of cells".to_owned()),
                };
                let top = sequence.logprobs;
                let logprob = top.and_then(|top| self.device.logprobs(row, token, top));
                part.drawn.push(Drawn { token, logprob });
                // What follows a wrong guess, or the end, is of no use.
                if part.tokens.get(guess) != Some(&token) || self.device.is_end(token) {
                    break;
                }
            }
            let now = Instant::now();
            part.ns = nanoseconds(now.saturating_duration_since(before));
            before = now;
        }
        Ok(())
    }

    /// Learns what guessing costs and spares.
    fn learn(&mut self, parts: &[Part]) {
        let Some(speculator) = &mut self.speculator else { return };
        if parts.iter().any(|part| !part.decode) {
            return;
        }
        let guessed = parts.iter().any(|part| part.drafted() > 0);
        for part in parts {
            let Some(sequence) = &mut self.slots[part.slot].running else { continue };
            let classes = &self.shared.gauges.classes;
            let (ns, drafting_ns) = (part.ns as f64, sequence.drafting_ns as f64);
            let timed = Timed { class: sequence.class, streams: parts.len(), ns };
            if part.drafted() > 0 {
                let drafts = (part.drafted(), part.accepted());
                let timed = Timed { ns: ns + drafting_ns, ..timed };
                speculator.observe(timed, drafts, &mut sequence.draft, classes);
                continue;
            }
            speculator.spent(sequence.class, drafting_ns);
            if !guessed {
                speculator.observe_plain(timed, classes);
            }
        }
    }

    /// Notes what a step is expected to take of whom, for who leaves while it runs.
    fn expect(&self, parts: &[Part]) {
        let ns = self.costs.expected_ns(tokens_of(parts, true), tokens_of(parts, false));
        let weights: Vec<u64> = parts.iter().map(Part::weight).collect();
        for (part, ns) in parts.iter().zip(split(ns, &weights)) {
            if let Some(sequence) = &self.slots[part.slot].running {
                sequence.outbox.meter().begin_step(ns);
            }
        }
    }

    /// Books the step's time: sampling on whose token it was, the rest by weighted tokens.
    fn attribute(&mut self, parts: &mut [Part], decode_ns: u64) {
        let weights: Vec<u64> = parts.iter().map(Part::weight).collect();
        let busy = decode_ns + parts.iter().map(|part| part.ns).sum::<u64>();
        // A guessed token costs less than one of another job: it would be no measure.
        if parts.iter().all(|part| part.drafted() == 0) {
            let (decodes, prefills) = (tokens_of(parts, true), tokens_of(parts, false));
            self.costs.observe(decodes, prefills, Duration::from_nanos(busy));
        }
        let gauges = &self.shared.gauges;
        if let Some(fit) = self.costs.fit() {
            gauges.set_costs(fit.durations());
        }
        gauges.steps.fetch_add(1, Relaxed);
        gauges.busy_ns.fetch_add(busy, Relaxed);
        for (part, ns) in parts.iter_mut().zip(split(decode_ns, &weights)) {
            part.ns += ns;
            let Some(sequence) = &self.slots[part.slot].running else { continue };
            let tokens = count64(part.right());
            sequence.outbox.meter().end_step();
            if part.decode {
                sequence.outbox.meter().spend_decode(part.ns);
                let drafted = count32(part.drafted());
                sequence.outbox.meter().guessed(drafted, count32(part.accepted()));
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
        for part in parts.iter().filter(|part| !part.decode && !part.rows.is_empty()) {
            let job = self.slots[part.slot].running.as_ref();
            if let Some((predicted, submitted)) = job.map(|job| (job.predicted, job.submitted)) {
                self.note_first_token(predicted, submitted);
            }
        }
        for (sequence, _) in ended {
            self.seen.answered(sequence.outbox.meter().generated_tokens());
            self.give_back(sequence);
        }
    }

    /// Gives back what of a job's cap was not used, however it ended.
    pub(crate) fn give_back(&self, sequence: &Sequence<D::Sampler>) {
        let generated = sequence.outbox.meter().generated_tokens();
        let unused = u64::from(sequence.max_tokens.saturating_sub(generated));
        let Scheduling { caller, priority, .. } = sequence.scheduling;
        self.shared.queue().jobs.give_back(caller, priority, unused);
    }

    /// Ends jobs that waited for more engine time and get none.
    pub(crate) fn end_short(&mut self, short: Vec<Sequence<D::Sampler>>) {
        for sequence in short {
            self.shared.gauges.finished.fetch_add(1, Relaxed);
            self.seen.answered(sequence.outbox.meter().generated_tokens());
            self.give_back(&sequence);
            self.publish();
            sequence.finish(Finish::EngineTime);
        }
    }

    /// Ends the jobs for which no token could be drawn.
    fn fail_undrawn(&mut self, parts: &mut [Part]) {
        for part in parts {
            let Some(reason) = part.failed.take() else { continue };
            if let Some(sequence) = self.slots[part.slot].running.take() {
                self.shared.gauges.finished.fetch_add(1, Relaxed);
                self.give_back(&sequence);
                self.publish();
                sequence.refuse(&reason);
            }
        }
    }

    /// Moves a job on by what was computed for it; takes it out of its slot when it ends.
    fn deliver(&mut self, part: &mut Part, now: Instant) -> Option<(Sequence<D::Sampler>, Finish)> {
        let right = part.right();
        self.tree.extend(part.slot, &part.tokens[..right]);
        if right < part.tokens.len() {
            self.rewind(part.slot);
        }
        let slot = &mut self.slots[part.slot];
        let sequence = slot.running.as_mut()?;
        sequence.tell_if_low();
        if part.decode {
            sequence.next = None;
        }
        let drawn = std::mem::take(&mut part.drawn);
        let finish = if drawn.is_empty() {
            sequence.overspent()
        } else {
            drawn.into_iter().find_map(|drawn| sequence.take(drawn, &self.device, now))
        }?;
        slot.running.take().map(|sequence| (sequence, finish))
    }

    /// Takes wrong guesses out of a slot's cells. If that does not go, all of it is read again.
    fn rewind(&mut self, slot: usize) {
        if !self.device.truncate(count32(slot), count32(self.tree.len(slot)), None) {
            self.cut_tokens(slot, 0);
        }
    }
}
