//! Keeps running jobs in slots beside each other where caches are separate. llama.cpp computes
//! together only sequences whose numbers follow one another: for every gap between the slots of a
//! step it reads all weights once more, and a GPU's recorded graph is of no use.
//!
//! A prompt goes where least of it is to compute, and jobs end in any order, so gaps come all the
//! time. They are closed by letting jobs change places with idle slots beside the others; both keep
//! their tokens, through saved state, which costs far less than computing them.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use crate::{
    device::Device,
    scheduler::Scheduler,
    sequence::{Sequence, Slot},
    status::count32,
};

/// So many tokens may be copied for each gap that is closed and each token that the jobs may still
/// generate: a token is copied in less than a hundredth of the time that it takes to compute, and a
/// gap costs every step at least one.
const COPIED_MAX: usize = 64;

/// What is known of a slot for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rank {
    /// Tokens in its cells.
    tokens: usize,
    /// Tokens that the job in it may still generate; none if it is idle.
    left: Option<usize>,
}

/// The jobs' slots and the idle ones that should change places, so that no job stands apart and as
/// few tokens as possible are copied. None where there is no gap, or too much to copy for it.
fn changes(ranks: &[Rank]) -> Vec<(usize, usize)> {
    let runs = |at: usize| ranks[at].left.is_some();
    let begins = |at: &usize| runs(*at) && (*at == 0 || !runs(at - 1));
    let count = (0..ranks.len()).filter(|at| runs(*at)).count();
    let gaps = (0..ranks.len()).filter(begins).count().saturating_sub(1);
    if gaps == 0 {
        return Vec::new();
    }
    // Idle tokens within the jobs' new places, and those of jobs outside, must be copied.
    let within = |from: usize| from..from + count;
    let copied = |from: &usize| -> usize {
        let tokens = |at: usize| ranks[at].tokens;
        (0..ranks.len()).filter(|at| within(*from).contains(at) != runs(*at)).map(tokens).sum()
    };
    let Some(best) = (0..=ranks.len() - count).min_by_key(copied) else { return Vec::new() };
    let jobs = (0..ranks.len()).filter(|at| runs(*at) && !within(best).contains(at));
    let left = jobs.clone().filter_map(|at| ranks[at].left).min().unwrap_or(0);
    if copied(&best) > left.saturating_mul(gaps).saturating_mul(COPIED_MAX) {
        return Vec::new();
    }
    jobs.zip(within(best).filter(|at| !runs(*at))).collect()
}

impl<D: Device> Scheduler<D> {
    /// Lets jobs change places so that none stands apart, where that is of use.
    pub(crate) fn close_ranks(&mut self) {
        // Mostly there is nothing to do.
        let mut slots = self.running().map(|(at, _)| at);
        let first = slots.next().unwrap_or(0);
        if self.device.unified() || slots.zip(first + 1..).all(|(at, next)| at == next) {
            return;
        }
        let rank = |(at, slot): (usize, &Slot<D::Sampler>)| Rank {
            tokens: self.read(at),
            left: slot.running.as_ref().map(Sequence::left),
        };
        let ranks: Vec<Rank> = self.slots.iter().enumerate().map(rank).collect();
        for (job, slot) in changes(&ranks) {
            if !self.change_places(job, slot) {
                return;
            }
        }
    }

    /// Lets what is in two slots change places. False: it could not be saved, and nothing changed.
    fn change_places(&mut self, one: usize, other: usize) -> bool {
        let started = Instant::now();
        let both = [one, other].map(count32);
        let bytes: usize = both.iter().map(|slot| self.device.state_bytes(*slot)).sum();
        if bytes > self.swap_bytes_max {
            return false;
        }
        let mut save = |slot: usize| {
            if self.tree.len(slot) == 0 {
                Some(None)
            } else {
                self.device.save(count32(slot)).map(Some)
            }
        };
        let (Some(of_one), Some(of_other)) = (save(one), save(other)) else { return false };
        self.tree.swap(one, other);
        self.checkpoints.swap(one, other);
        self.slots.swap(one, other);
        for (slot, saved) in [(one, of_other), (other, of_one)] {
            self.device.truncate(count32(slot), 0, None);
            let back = saved.is_none_or(|saved| self.device.restore(count32(slot), saved));
            if !back {
                // Its job reads them again.
                self.cut_tokens(slot, 0);
            }
        }
        self.shared.gauges.moves.fetch_add(1, Relaxed);
        self.book_copying(started);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Rank, changes};

    /// Slots told as letters: a job is `x`, an idle slot with tokens `o`, an empty one `.`.
    fn ranks(slots: &str) -> Vec<Rank> {
        let rank = |slot| Rank {
            tokens: if slot == '.' { 0 } else { 10 },
            left: (slot == 'x').then_some(100),
        };
        slots.chars().map(rank).collect()
    }

    /// The same letters after the changes.
    fn changed(slots: &str) -> String {
        let mut letters: Vec<char> = slots.chars().collect();
        for (job, slot) in changes(&ranks(slots)) {
            letters.swap(job, slot);
        }
        letters.into_iter().collect()
    }

    #[test]
    fn jobs_come_together_where_least_is_copied() {
        assert_eq!(changed("xx.xo"), "xxx.o");
        assert_eq!(changed("oxxo.x"), "xxxo.o");
        assert_eq!(changed("oxx.x"), "oxxx.");
        assert_eq!(changed("xoooooooooooxxx"), "oooooooooooxxxx");
        assert_eq!(changed("xx...xx"), "xxxx...");
    }

    #[test]
    fn nothing_moves_where_nothing_is_gained() {
        for slots in ["", "....", "oxxo", "xxxx", "o.x"] {
            assert_eq!(changed(slots), slots);
        }
        let mut long = ranks("x.x");
        for (tokens, moves) in [(6_400, true), (6_401, false)] {
            (long[0].tokens, long[2].tokens) = (tokens, tokens);
            assert_eq!(changes(&long).is_empty(), !moves, "{tokens} tokens for at most 100 steps");
        }
    }

    /// However jobs lie, nobody stands apart afterwards, and no job is lost.
    #[test]
    fn all_gaps_are_closed() {
        for pattern in 0_u32..1 << 10 {
            let mut ranks: Vec<Rank> = (0..10)
                .map(|at| Rank { tokens: at % 4, left: (pattern >> at & 1 == 1).then_some(50) })
                .collect();
            let jobs = |ranks: &[Rank]| ranks.iter().filter(|rank| rank.left.is_some()).count();
            let before = jobs(&ranks);
            for (job, slot) in changes(&ranks) {
                assert!(ranks[job].left.is_some() && ranks[slot].left.is_none());
                ranks.swap(job, slot);
            }
            let is_job = |rank: &Rank| rank.left.is_some();
            let after: Vec<bool> = ranks.iter().map(is_job).collect();
            let first = after.iter().position(|job| *job).unwrap_or(0);
            assert!(after[first..first + before].iter().all(|job| *job), "{pattern:b} {ranks:?}");
            assert_eq!(jobs(&ranks), before);
        }
    }
}
