//! Where a sequence may be taken back to in a model with a sliding window. The window forgets what is
//! behind it, so that a slot cannot just be cut: the window's cells, as they were at some points of
//! the prompt, are saved beside it. Going back is putting them there again and cutting the rest.
//!
//! A slot also goes on from where it ends, which needs no checkpoint.
//!
//! **Invariant:** a slot's checkpoints lie within its tokens, and all of them stay within their bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use crate::{
    device::Device, prefix_tree::Found, scheduler::Scheduler, slots::Lending, status::count32,
};

/// A checkpoint so many tokens before a prompt's end: behind what a template adds after the last
/// message, which the next turn may not repeat, and before the last token, which is always computed.
const FROM_END: usize = 8;
/// No prompt is cut for a checkpoint that spares fewer tokens than this.
const TOKENS_MIN: usize = 64;
/// A long prompt has one every so many tokens at least, for those that begin like it ...
const EVERY_MIN: usize = 512;
/// ... and no more than about so many.
const PARTS_MAX: usize = 8;
/// A slot keeps so many, whatever was read in it.
const OF_SLOT_MAX: usize = 16;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Checkpoints<V> {
    slots: Vec<Vec<Checkpoint<V>>>,
    bytes: usize,
    bytes_max: usize,
    /// Takings and uses so far.
    uses: u64,
}

#[derive(Debug)]
struct Checkpoint<V> {
    /// After so many tokens.
    at: usize,
    /// Slots with a common beginning have it in common.
    state: Arc<V>,
    bytes: usize,
    used_at: u64,
}

impl<V> Checkpoints<V> {
    /// None yet, and at most so many bytes ever.
    pub(crate) fn new(slots: usize, bytes_max: usize) -> Checkpoints<V> {
        let slots = std::iter::repeat_with(Vec::new).take(slots).collect();
        Checkpoints { slots, bytes: 0, bytes_max, uses: 0 }
    }

    /// The bytes of all, each counted once.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last point of a slot within its first `most` tokens; 0 if there is none.
    pub(crate) fn last_within(&self, slot: usize, most: usize) -> usize {
        let within = self.slots[slot].iter().filter(|one| one.at <= most);
        within.map(|one| one.at).max().unwrap_or(0)
    }

    /// What was saved at a point of a slot, for going back to it.
    pub(crate) fn at(&mut self, slot: usize, at: usize) -> Option<Arc<V>> {
        self.uses += 1;
        let one = self.slots[slot].iter_mut().find(|one| one.at == at)?;
        one.used_at = self.uses;
        Some(Arc::clone(&one.state))
    }

    /// Adds one behind a slot's others. Makes room by those used longest ago.
    pub(crate) fn add(&mut self, slot: usize, at: usize, state: V, bytes: usize) {
        if bytes > self.bytes_max {
            return;
        }
        self.uses += 1;
        let one = Checkpoint { at, state: Arc::new(state), bytes, used_at: self.uses };
        self.slots[slot].push(one);
        if self.slots[slot].len() > OF_SLOT_MAX {
            self.thin(slot);
        }
        self.count();
        while self.bytes > self.bytes_max {
            self.drop_oldest();
            self.count();
        }
    }

    /// Forgets what is behind a slot's first `keep` tokens.
    pub(crate) fn cut(&mut self, slot: usize, keep: usize) {
        let before = self.slots[slot].len();
        self.slots[slot].retain(|one| one.at <= keep);
        if self.slots[slot].len() < before {
            self.count();
        }
    }

    /// Gives a slot those of another one within its first `keep` tokens.
    pub(crate) fn share(&mut self, from: usize, to: usize, keep: usize) {
        let within = self.slots[from].iter().filter(|one| one.at <= keep);
        let shared = within.map(|one| Checkpoint { state: Arc::clone(&one.state), ..*one });
        self.slots[to] = shared.collect();
        self.count();
    }

    /// Lets two slots change places.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        self.slots.swap(one, other);
    }

    /// Drops the one of a slot, but for the last, without which going back loses least.
    fn thin(&mut self, slot: usize) {
        let all = &self.slots[slot];
        let gap = |nth: usize| all[nth].at - nth.checked_sub(1).map_or(0, |before| all[before].at);
        let least = (0..all.len().saturating_sub(1)).min_by_key(|nth| gap(*nth));
        if let Some(least) = least {
            self.slots[slot].remove(least);
        }
    }

    fn count(&mut self) {
        let mut seen = BTreeSet::new();
        let all = self.slots.iter().flatten();
        let each = all.filter(|one| seen.insert(Arc::as_ptr(&one.state)));
        self.bytes = each.map(|one| one.bytes).sum();
    }

    fn drop_oldest(&mut self) {
        let mut used_at = BTreeMap::new();
        for one in self.slots.iter().flatten() {
            let last = used_at.entry(Arc::as_ptr(&one.state)).or_insert(0);
            *last = one.used_at.max(*last);
        }
        let Some((oldest, _)) = used_at.into_iter().min_by_key(|(_, last)| *last) else { return };
        for slot in &mut self.slots {
            slot.retain(|one| Arc::as_ptr(&one.state) != oldest);
        }
    }
}

/// The first point of a prompt of so many tokens that is behind the `read` ones.
fn next_stop(prompt_tokens: usize, read: usize) -> Option<usize> {
    let last = last_stop(prompt_tokens)?;
    let every = every(prompt_tokens);
    (read < last).then(|| last.min((read / every + 1) * every))
}

/// The last point of a prompt of so many tokens within its first `most`; 0 if there is none.
fn stop_within(prompt_tokens: usize, most: usize) -> usize {
    match last_stop(prompt_tokens) {
        Some(last) if last <= most => last,
        Some(_) => most - most % every(prompt_tokens),
        None => 0,
    }
}

fn last_stop(prompt_tokens: usize) -> Option<usize> {
    prompt_tokens.checked_sub(FROM_END).filter(|last| *last >= TOKENS_MIN)
}

fn every(prompt_tokens: usize) -> usize {
    EVERY_MIN.max(prompt_tokens.div_ceil(PARTS_MAX).next_multiple_of(EVERY_MIN))
}

impl<D: Device> Scheduler<D> {
    /// Whether slots go back to checkpoints, and to nothing else.
    fn needs_checkpoints(&self) -> bool {
        self.device.can_reuse() && !self.device.can_rewind()
    }

    /// The longest beginning of a prompt that a sequence can go on from.
    pub(crate) fn found(&self, domain: u64, prompt: &[i32]) -> Option<Found> {
        if !self.device.can_reuse() {
            return None;
        }
        if self.device.can_rewind() {
            return self.tree.longest(domain, prompt);
        }
        let mut best = Found { keep: 0, holders: Vec::new() };
        for (at, slot) in self.slots.iter().enumerate() {
            let common = self.tree.common(at, domain, prompt);
            let to_its_end = slot.running.is_none() && common == self.tree.len(at);
            let keep = if to_its_end { common } else { self.checkpoints.last_within(at, common) };
            if keep > best.keep {
                best = Found { keep, holders: vec![at] };
            } else if keep == best.keep && keep > 0 {
                best.holders.push(at);
            }
        }
        (best.keep > 0).then_some(best)
    }

    /// How much of what a job has in common with the prompt that another one reads can be gone on
    /// from, once that is read.
    pub(crate) fn of_use(&self, common: usize, reader_prompt_tokens: usize) -> usize {
        if self.needs_checkpoints() { stop_within(reader_prompt_tokens, common) } else { common }
    }

    /// Where a piece of a prompt that begins after `read` tokens ends at the latest.
    pub(crate) fn piece_end(&self, prompt_tokens: usize, read: usize) -> usize {
        let stop = self.needs_checkpoints().then(|| next_stop(prompt_tokens, read)).flatten();
        stop.unwrap_or(usize::MAX)
    }

    /// Takes a checkpoint of a slot whose job reads its prompt, where one is due.
    pub(crate) fn take_checkpoint(&mut self, slot: usize) {
        let Some(job) = self.slots[slot].running.as_ref().filter(|_| self.needs_checkpoints())
        else {
            return;
        };
        let read = self.tree.len(slot);
        if read == 0 || stop_within(job.prompt_tokens, read) != read {
            return;
        }
        let started = Instant::now();
        // None that would push out all others is even copied.
        let fits = self.device.checkpoint_bytes(count32(slot)) <= self.checkpoints.bytes_max;
        if fits && let Some(state) = self.device.checkpoint(count32(slot)) {
            let bytes = D::saved_bytes(&state);
            self.checkpoints.add(slot, read, state, bytes);
        }
        self.book_copying(started);
    }

    /// Takes a slot back to its first `keep` tokens, or to the last point before that can be gone
    /// back to.
    pub(crate) fn cut_back(&mut self, slot: usize, keep: usize) {
        let whole = keep == 0 || keep >= self.tree.len(slot);
        let (keep, at) = if whole || self.device.can_rewind() {
            (keep, None)
        } else {
            let keep = self.checkpoints.last_within(slot, keep);
            (keep, self.checkpoints.at(slot, keep))
        };
        let kept = self.device.truncate(count32(slot), count32(keep), at.as_deref());
        self.cut_tokens(slot, if kept { keep } else { 0 });
    }

    /// Notes that a slot has only its first `keep` tokens.
    pub(crate) fn cut_tokens(&mut self, slot: usize, keep: usize) {
        self.tree.cut(slot, keep);
        self.checkpoints.cut(slot, self.tree.len(slot));
    }

    /// Lets an empty slot begin with another one's first `keep` tokens. False: it is still empty.
    pub(crate) fn share_prefix(&mut self, from: usize, to: usize, keep: usize) -> bool {
        let at = if self.device.can_rewind() { None } else { self.checkpoints.at(from, keep) };
        if !self.device.share(count32(from), count32(to), count32(keep), at.as_deref()) {
            return false;
        }
        if self.lending() == Lending::Shared {
            self.tree.share(from, to, keep);
        } else {
            self.tree.copy(from, to, keep);
        }
        self.checkpoints.share(from, to, keep);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoints, next_stop, stop_within};

    fn points(checkpoints: &Checkpoints<&str>, slot: usize) -> Vec<usize> {
        checkpoints.slots[slot].iter().map(|one| one.at).collect()
    }

    #[test]
    fn a_short_prompt_has_none_and_a_longer_one_one_before_its_end() {
        assert_eq!((next_stop(71, 0), stop_within(71, 71)), (None, 0));
        assert_eq!((next_stop(72, 0), next_stop(72, 64)), (Some(64), None));
        assert_eq!((stop_within(72, 63), stop_within(72, 64), stop_within(72, 72)), (0, 64, 64));
    }

    #[test]
    fn a_long_prompt_has_some_on_its_way() {
        let stops = |tokens| {
            let next = |read: &usize| next_stop(tokens, *read);
            std::iter::successors(next_stop(tokens, 0), next).collect::<Vec<_>>()
        };
        assert_eq!(stops(1_200), [512, 1_024, 1_192]);
        assert_eq!(stops(520), [512]);
        assert_eq!(stops(10_000), [1_536, 3_072, 4_608, 6_144, 7_680, 9_216, 9_992]);
        assert_eq!(stop_within(1_200, 1_100), 1_024);
        for read in 0..1_200 {
            let stop = next_stop(1_200, read).unwrap_or(usize::MAX);
            assert!(stop > read && stop_within(1_200, read) <= read);
        }
    }

    #[test]
    fn those_behind_a_cut_are_forgotten_and_a_copy_has_its_own() {
        let mut checkpoints = Checkpoints::new(2, 100);
        for (at, state) in [(10, "a"), (20, "b"), (30, "c")] {
            checkpoints.add(0, at, state, 10);
        }
        checkpoints.share(0, 1, 20);
        assert_eq!((points(&checkpoints, 1), checkpoints.bytes()), (vec![10, 20], 30));
        checkpoints.cut(0, 19);
        assert_eq!((checkpoints.last_within(0, 99), checkpoints.last_within(1, 99)), (10, 20));
        assert_eq!(checkpoints.at(1, 20).as_deref(), Some(&"b"));
        assert_eq!((checkpoints.at(0, 20), checkpoints.last_within(1, 9)), (None, 0));
        checkpoints.cut(1, 0);
        assert_eq!(checkpoints.bytes(), 10);
    }

    #[test]
    fn those_used_longest_ago_make_room() {
        let mut checkpoints = Checkpoints::new(3, 30);
        checkpoints.add(0, 10, "a", 10);
        checkpoints.add(0, 20, "b", 10);
        checkpoints.share(0, 2, 20);
        checkpoints.add(1, 15, "c", 10);
        assert!(checkpoints.at(0, 10).is_some());
        checkpoints.add(1, 25, "d", 10);
        assert_eq!((points(&checkpoints, 0), points(&checkpoints, 1)), (vec![10], vec![15, 25]));
        assert_eq!(points(&checkpoints, 2), [10], "it went from every slot");
        checkpoints.add(1, 35, "e", 31);
        assert_eq!(points(&checkpoints, 1), [15, 25], "what never fits drives nothing out");
    }

    #[test]
    fn of_three_the_one_that_was_not_used_goes() {
        for unused in [10, 20, 30] {
            let mut checkpoints = Checkpoints::new(2, 30);
            for (at, state) in [(10, "a"), (20, "b"), (30, "c")] {
                checkpoints.add(0, at, state, 10);
            }
            checkpoints.share(0, 1, 30);
            let used = [10, 20, 30].into_iter().filter(|at| *at != unused);
            let used: Vec<usize> = used.inspect(|at| drop(checkpoints.at(0, *at))).collect();
            checkpoints.add(0, 40, "d", 10);
            assert_eq!(points(&checkpoints, 1), used);
        }
    }

    #[test]
    fn a_slot_with_too_many_loses_the_closest() {
        let mut checkpoints = Checkpoints::new(1, 1_000);
        for nth in 1..=super::OF_SLOT_MAX {
            checkpoints.add(0, nth * 100, "x", 1);
        }
        checkpoints.add(0, 1_605, "y", 1);
        checkpoints.add(0, 1_800, "z", 1);
        let kept = points(&checkpoints, 0);
        assert_eq!((kept.len(), kept[0], kept.last()), (super::OF_SLOT_MAX, 200, Some(&1_800)));
        assert!(!kept.contains(&1_605));
    }
}
