//! A draft model: a second, smaller model of the same vocabulary, in a context of its own on the same
//! thread, that proposes what may follow a job's last token.
//!
//! **Invariant:** a seat's tokens are those in its cells, and nobody tells them what became of a
//! proposal. Whatever happened to a job since (a rejection, a wait outside the cache, its end, another
//! job in its slot), its seat is first cut to what it has in common with the job's history, and what
//! is missing is read, a piece in each step. So a stale cell costs reading and is never drawn from.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    attribution::split,
    device::{BatchToken, Device, Fault},
    job::{Job, Sampling, Scheduling},
    prefix_tree::common_prefix,
    scheduler::Scheduler,
    sequence::Sequence,
    status::{count32, count64, nanoseconds},
};

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Drafter<D: Device> {
    device: D,
    /// Draws the likeliest token.
    sampler: D::Sampler,
    seats: Vec<Seat>,
    cells: usize,
    /// Most tokens of one sequence that the model was made for.
    context_tokens: usize,
    rounds: u64,
    /// Tokens computed so far.
    computed: u64,
}

/// A sequence in the draft model's cache.
#[derive(Clone, Debug, Default)]
struct Seat {
    tokens: Vec<i32>,
    /// Whose tokens they are: others never go on from them.
    domain: u64,
    /// The job it was last used for, by its order of admission.
    job: u64,
    /// The round of its last use; 0 for never.
    used_at: u64,
}

/// A job for which tokens are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    pub(crate) slot: usize,
    pub(crate) job: u64,
    pub(crate) domain: u64,
    /// Its prompt and what it has generated, not empty.
    pub(crate) history: &'a [i32],
    /// Most tokens to propose, at least 1.
    pub(crate) most: usize,
}

/// What came of a want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    /// What is proposed; nothing while the history is read.
    pub(crate) tokens: Vec<i32>,
    /// Tokens that were computed for it.
    pub(crate) computed: usize,
}

/// What is computed next for a want.
#[derive(Debug)]
struct Turn {
    want: usize,
    seat: usize,
    tokens: Vec<i32>,
    /// Whether a proposal follows them.
    draws: bool,
}

impl<D: Device> Drafter<D> {
    /// A drafter over a device with `seats` slots, whose model was made for so many tokens.
    pub(crate) fn new(device: D, seats: u32, context_tokens: u32) -> Drafter<D> {
        let size = |tokens: u32| usize::try_from(tokens).unwrap_or(usize::MAX);
        let sampler = device.sampler(&likeliest());
        Drafter {
            sampler,
            seats: vec![Seat::default(); size(seats)],
            cells: size(device.cells()),
            context_tokens: size(context_tokens),
            device,
            rounds: 0,
            computed: 0,
        }
    }

    /// Proposes tokens, reading at most `read_max` of the histories.
    ///
    /// # Errors
    /// The device is lost.
    pub(crate) fn propose(
        &mut self,
        wants: &[Want<'_>],
        read_max: usize,
    ) -> Result<Vec<Draft>, String> {
        self.rounds += 1;
        let mut drafts = vec![Draft::default(); wants.len()];
        let mut turns = self.read(wants, read_max);
        while !turns.is_empty() {
            // Where there are not cells for all, who came first has them.
            while !turns.is_empty() && !self.compute(&turns)? {
                turns.pop();
            }
            let (mut row, mut next) = (0, Vec::new());
            for Turn { want, seat, tokens, draws } in turns {
                row += tokens.len();
                let draft = &mut drafts[want];
                draft.computed += tokens.len();
                self.seats[seat].tokens.extend(tokens);
                if !draws {
                    continue;
                }
                let token = self.device.sample(&mut self.sampler, row - 1).map_err(reason)?;
                // A turn's end needs no token after it: to guess it spares nothing.
                if self.device.is_end(token) {
                    continue;
                }
                draft.tokens.push(token);
                let longer = self.seats[seat].tokens.len() < self.context_tokens;
                if longer && draft.tokens.len() < wants[want].most {
                    next.push(Turn { want, seat, tokens: vec![token], draws: true });
                }
            }
            turns = next;
        }
        Ok(drafts)
    }

    /// Tokens in its cells, and how many there are.
    pub(crate) fn cells(&self) -> (usize, usize) {
        (self.seats.iter().map(|seat| seat.tokens.len()).sum(), self.cells)
    }

    #[cfg(test)]
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Whether wrong guesses can be taken out of its cells.
    pub(crate) fn can_rewind(&self) -> bool {
        self.device.can_rewind()
    }

    /// Gives up everything it has read.
    pub(crate) fn forget(&mut self) {
        for seat in 0..self.seats.len() {
            self.cut(seat, 0);
        }
    }

    /// Cuts a seat for each want to what it can go on from; what is to be read next, the last token
    /// of a history included.
    fn read(&mut self, wants: &[Want<'_>], read_max: usize) -> Vec<Turn> {
        let mut seats = vec![None; wants.len()];
        // Who had one keeps it, before newcomers choose.
        for (seat, want) in seats.iter_mut().zip(wants) {
            *seat = self.seats.iter().position(|own| own.used_at > 0 && own.job == want.job);
        }
        let (mut turns, mut left) = (Vec::new(), read_max);
        for (at, want) in wants.iter().enumerate() {
            let Some(seat) = seats[at].or_else(|| self.seat_for(want, &seats)) else { continue };
            seats[at] = Some(seat);
            let own = self.seats[seat].job == want.job || self.device.can_reuse();
            let known = own && self.seats[seat].domain == want.domain;
            let common = common_prefix(&self.seats[seat].tokens, want.history);
            let keep = if known { common.min(want.history.len() - 1) } else { 0 };
            if keep < self.seats[seat].tokens.len() {
                self.cut(seat, keep);
            }
            let from = self.seats[seat].tokens.len();
            let place = &mut self.seats[seat];
            (place.domain, place.job, place.used_at) = (want.domain, want.job, self.rounds);
            if want.history.len() > self.context_tokens {
                continue;
            }
            let to = want.history.len().min(from + left);
            left -= to - from;
            if to > from {
                let (tokens, draws) = (want.history[from..to].to_vec(), to == want.history.len());
                turns.push(Turn { want: at, seat, tokens, draws });
            }
        }
        turns
    }

    /// The seat that spares a newcomer the most; of equals the one used longest ago.
    fn seat_for(&self, want: &Want<'_>, taken: &[Option<usize>]) -> Option<usize> {
        let free = self.seats.iter().enumerate().filter(|(at, _)| !taken.contains(&Some(*at)));
        let spares = |seat: &Seat| {
            let may = seat.domain == want.domain && self.device.can_reuse();
            if may { common_prefix(&seat.tokens, want.history) } else { 0 }
        };
        free.max_by_key(|(_, seat)| (spares(seat), std::cmp::Reverse(seat.used_at)))
            .map(|(at, _)| at)
    }

    /// Computes the turns' tokens. False: there are no cells for them, not even those of seats that
    /// this round does not use.
    fn compute(&mut self, turns: &[Turn]) -> Result<bool, String> {
        let mut batch = Vec::new();
        for Turn { seat, tokens, draws, .. } in turns {
            let from = self.seats[*seat].tokens.len();
            for (offset, token) in tokens.iter().enumerate() {
                batch.push(BatchToken {
                    token: *token,
                    position: count32(from + offset),
                    slot: count32(*seat),
                    logits: *draws && offset + 1 == tokens.len(),
                });
            }
        }
        loop {
            let fits = self.cells().0 + batch.len() <= self.cells;
            match if fits { self.device.decode(&batch) } else { Err(Fault::Full) } {
                Ok(()) => break,
                Err(Fault::Full) => {
                    let others =
                        self.seats.iter().enumerate().filter(|(_, seat)| {
                            seat.used_at < self.rounds && !seat.tokens.is_empty()
                        });
                    let oldest = others.min_by_key(|(_, seat)| seat.used_at).map(|(at, _)| at);
                    let Some(oldest) = oldest else { return Ok(false) };
                    self.cut(oldest, 0);
                }
                Err(fault) => return Err(reason(fault)),
            }
        }
        self.computed += u64::try_from(batch.len()).unwrap_or(u64::MAX);
        Ok(true)
    }

    fn cut(&mut self, seat: usize, keep: usize) {
        let kept = self.device.truncate(count32(seat), count32(keep), None);
        self.seats[seat].tokens.truncate(if kept { keep } else { 0 });
    }
}

impl<D: Device> Scheduler<D> {
    /// Gives the scheduler a draft model.
    pub(crate) fn draft_by(&mut self, drafter: Drafter<D>) {
        self.drafter = Some(drafter);
        self.publish_drafter();
    }

    /// Has the draft model propose what may follow the last token of each job that generates, where
    /// guesses may be made in this step. Its time is the time of the jobs it proposes for, by the
    /// tokens it computed for each. A draft model that fails is given up; no answer depends on it.
    pub(crate) fn draft_ahead(&mut self) {
        let Some(mut drafter) = self.drafter.take() else { return };
        for sequence in self.slots.iter_mut().filter_map(|slot| slot.running.as_mut()) {
            sequence.drafted.clear();
            sequence.drafting_ns = 0;
        }
        let wants = self.wants();
        if wants.is_empty() {
            self.drafter = Some(drafter);
            return;
        }
        let started = Instant::now();
        let before = drafter.computed;
        let proposed = drafter.propose(&wants, self.prefill_bound(wants.len()));
        let spent = nanoseconds(started.elapsed());
        let slots: Vec<usize> = wants.iter().map(|want| want.slot).collect();
        let drafts = proposed.unwrap_or_else(|reason| {
            tracing::error!(%reason, "the draft model has failed: it is given up");
            Vec::new()
        });
        if drafts.is_empty() {
            self.speculator = None;
            self.shared.gauges.no_draft();
            return;
        }
        let weights: Vec<u64> = drafts.iter().map(|draft| count64(draft.computed)).collect();
        let gauges = &self.shared.gauges;
        for ((draft, ns), slot) in drafts.into_iter().zip(split(spent, &weights)).zip(slots) {
            let Some(sequence) = &mut self.slots[slot].running else { continue };
            sequence.outbox.meter().spend_decode(ns);
            (sequence.drafted, sequence.drafting_ns) = (draft.tokens, ns);
        }
        gauges.busy_ns.fetch_add(spent, Relaxed);
        gauges.attributed_ns.fetch_add(spent, Relaxed);
        gauges.draft_ns.fetch_add(spent, Relaxed);
        gauges.draft_tokens.fetch_add(drafter.computed - before, Relaxed);
        self.drafter = Some(drafter);
        self.publish_drafter();
    }

    /// The jobs to propose for, and how many tokens at most.
    fn wants(&self) -> Vec<Want<'_>> {
        let streams = self.generating().count();
        let Some(speculator) = self.speculator.as_ref().filter(|guesser| guesser.may(streams))
        else {
            return Vec::new();
        };
        if self.anybody_reads() {
            return Vec::new();
        }
        let want = |(slot, job): (usize, &'_ Sequence<D::Sampler>)| {
            let most = speculator.length(job.class, job.draft, self.guess_max(job, streams));
            (most > 0).then_some((slot, most))
        };
        let wanted: Vec<(usize, usize)> = self.generating().filter_map(want).collect();
        let wants = wanted.into_iter().filter_map(|(slot, most)| {
            let job = self.slots[slot].running.as_ref()?;
            let domain = self.domain(job.scheduling.caller);
            Some(Want { slot, job: job.order, domain, history: &job.history, most })
        });
        wants.collect()
    }

    /// Publishes what the draft model's cells hold.
    pub(crate) fn publish_drafter(&self) {
        if let Some(drafter) = &self.drafter {
            let (used, total) = drafter.cells();
            self.shared.gauges.set_draft_cells(count32(used), count32(total));
        }
    }
}

/// A job that says how proposals are drawn: the likeliest token each time, whatever the target's job
/// says. What is kept is what that one draws.
fn likeliest() -> Job {
    Job {
        prompt: Vec::new(),
        max_tokens: 1,
        stop: Vec::new(),
        sampling: Sampling::default(),
        constraint: None,
        logprobs: None,
        engine_time_max: std::time::Duration::MAX,
        engine_time_may_grow: false,
        scheduling: Scheduling::default(),
    }
}

fn reason(fault: Fault) -> String {
    match fault {
        Fault::Broken(reason) | Fault::Sequence(reason) => reason,
        Fault::Full => "its cells ran out while it drew".to_owned(),
    }
}
