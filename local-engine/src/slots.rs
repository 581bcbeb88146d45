//! Where a prompt goes: the slot whose cells spare it the most work, without giving up a longer
//! prefix that somebody may come back for.

use crate::prefix_tree::{Found, PrefixTree};

/// Tokens of an idle prefix that may be lost for going on in its slot: the end of an answer as it
/// was generated often differs a little from how it is read again as part of a prompt.
const TAIL_LOST_MAX: usize = 2;
/// Between separate caches a slot's whole part is copied: worth it from so many tokens on.
const COPY_TOKENS_MIN: usize = 64;

/// Where a prefix is lent by copying it, one so manieth of it may be lost for going on in its slot.
const LITTLE: usize = 4;

/// How a slot begins with another one's first tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lending {
    /// In the same cells.
    Shared,
    /// In a copy of them, or counted as one.
    Copied,
    /// In a copy of all the other one's cells.
    Whole,
}

/// What is known of a slot beside its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotView {
    /// Whether a job runs in it.
    pub(crate) busy: bool,
    /// When its tokens were last of use; 0 for an empty slot.
    pub(crate) used_at: u64,
}

/// Where a prompt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The slot, which is idle.
    pub(crate) slot: usize,
    /// The first tokens of the prompt that need not be computed.
    pub(crate) keep: usize,
    /// The slot they are taken from, where it is another one.
    pub(crate) from: Option<usize>,
}

/// Chooses a place for a prompt of which `found` is in the cache, or none if every slot is busy.
pub(crate) fn choose(
    tree: &PrefixTree,
    slots: &[SlotView],
    found: Option<Found>,
    lending: Lending,
) -> Option<Place> {
    let oldest = oldest_idle(slots, None)?;
    let fresh = Place { slot: oldest, keep: 0, from: None };
    let Some(found) = found else { return Some(fresh) };
    let keep = found.keep;
    let idle_holder = found.holders.iter().copied().filter(|slot| !slots[*slot].busy);
    let own = idle_holder.min_by_key(|slot| tree.len(*slot));
    if let Some(own) = own {
        let lost = tree.len(own) - keep;
        let empty = slots.iter().any(|slot| !slot.busy && slot.used_at == 0);
        let spare = lending != Lending::Whole && empty;
        let little = lending == Lending::Copied && lost <= keep / LITTLE;
        if lost <= TAIL_LOST_MAX || little || (!spare && lost <= keep) {
            return Some(Place { slot: own, keep, from: None });
        }
    }
    let source = most_recent(slots, &found.holders)?;
    if lending == Lending::Whole && keep < COPY_TOKENS_MIN {
        return Some(own.filter(|own| *own == oldest).map_or(fresh, |own| Place {
            slot: own,
            keep,
            from: None,
        }));
    }
    // A slot other than the source, so that the source's own tokens survive.
    Some(match oldest_idle(slots, Some(source)) {
        Some(slot) => Place { slot, keep, from: Some(source) },
        None => Place { slot: source, keep, from: None },
    })
}

fn oldest_idle(slots: &[SlotView], except: Option<usize>) -> Option<usize> {
    let idle = slots.iter().enumerate().filter(|(at, slot)| !slot.busy && Some(*at) != except);
    idle.min_by_key(|(_, slot)| slot.used_at).map(|(at, _)| at)
}

fn most_recent(slots: &[SlotView], holders: &[usize]) -> Option<usize> {
    holders.iter().copied().max_by_key(|slot| (slots[*slot].busy, slots[*slot].used_at))
}

#[cfg(test)]
mod tests {
    use super::{Lending, Place, SlotView, choose};
    use crate::prefix_tree::PrefixTree;

    /// Chooses among slots told as (tokens, busy, used at).
    fn chosen(slots: &[(Vec<i32>, bool, u64)], prompt: &[i32], unified: bool) -> Option<Place> {
        let mut tree = PrefixTree::new(slots.len());
        for (at, (tokens, ..)) in slots.iter().enumerate() {
            tree.extend(at, tokens);
        }
        let view =
            |(_, busy, used_at): &(_, bool, u64)| SlotView { busy: *busy, used_at: *used_at };
        let views: Vec<_> = slots.iter().map(view).collect();
        // The last token is always computed: its logits are needed.
        let found = tree.longest(0, &prompt[..prompt.len() - 1]);
        choose(&tree, &views, found, if unified { Lending::Shared } else { Lending::Whole })
    }

    fn numbers(from: i32, to: i32) -> Vec<i32> {
        (from..to).collect()
    }

    #[test]
    fn no_place_while_all_are_busy() {
        assert_eq!(chosen(&[(vec![1], true, 1)], &[1, 2], true), None);
    }

    #[test]
    fn the_next_turn_of_a_chat_continues_in_its_slot() {
        let slots = [(vec![], false, 0), (vec![1, 2, 3, 4], false, 5)];
        let place = Place { slot: 1, keep: 4, from: None };
        assert_eq!(chosen(&slots, &[1, 2, 3, 4, 9, 9], true), Some(place));
        assert_eq!(chosen(&slots, &[1, 2, 3, 4, 9, 9], false), Some(place));
    }

    #[test]
    fn the_last_token_is_always_computed() {
        let slots = [(vec![1, 2, 3], false, 1)];
        assert_eq!(chosen(&slots, &[1, 2, 3], true).map(|place| place.keep), Some(2));
    }

    #[test]
    fn a_short_common_prefix_is_shared_and_the_longer_one_kept() {
        let slots = [(numbers(0, 80), false, 7), (vec![], false, 0)];
        let mut prompt = numbers(0, 20);
        prompt.push(-1);
        let place = Place { slot: 1, keep: 20, from: Some(0) };
        assert_eq!(chosen(&slots, &prompt, true), Some(place));
        let fresh = Place { slot: 1, keep: 0, from: None };
        assert_eq!(chosen(&slots, &prompt, false), Some(fresh), "too little to copy");
    }

    #[test]
    fn a_copy_is_made_where_much_would_be_lost() {
        let mut tree = PrefixTree::new(2);
        tree.extend(0, &numbers(0, 100));
        let views = [SlotView { busy: false, used_at: 5 }, SlotView { busy: false, used_at: 0 }];
        let chosen = |keep: usize| {
            let found = tree.longest(0, &numbers(0, 100)[..keep]);
            choose(&tree, &views, found, Lending::Copied)
        };
        assert_eq!(chosen(80), Some(Place { slot: 0, keep: 80, from: None }));
        assert_eq!(chosen(79), Some(Place { slot: 1, keep: 79, from: Some(0) }));
    }

    #[test]
    fn a_long_prefix_is_copied_between_separate_caches() {
        let slots = [(numbers(0, 300), true, 7), (vec![5], false, 3)];
        let mut prompt = numbers(0, 100);
        prompt.push(-1);
        let place = Place { slot: 1, keep: 100, from: Some(0) };
        assert_eq!(chosen(&slots, &prompt, false), Some(place));
    }

    #[test]
    fn a_running_job_lends_its_prefix() {
        let slots = [(vec![1, 2, 3, 4], true, 7), (vec![8], false, 3)];
        let place = Place { slot: 1, keep: 3, from: Some(0) };
        assert_eq!(chosen(&slots, &[1, 2, 3, 9], true), Some(place));
    }

    #[test]
    fn without_anything_in_common_the_oldest_goes() {
        let slots = [(vec![5], false, 9), (vec![6], false, 2), (vec![7], true, 1)];
        assert_eq!(chosen(&slots, &[1, 2], true).map(|place| place.slot), Some(1));
    }

    #[test]
    fn a_prefix_of_another_domain_is_no_prefix() {
        let mut tree = PrefixTree::new(2);
        tree.enter(0, 7);
        tree.extend(0, &[1, 2, 3]);
        let views = [SlotView { busy: false, used_at: 4 }, SlotView { busy: false, used_at: 0 }];
        let chosen =
            |domain| choose(&tree, &views, tree.longest(domain, &[1, 2, 3]), Lending::Shared);
        assert_eq!(chosen(7).map(|place| place.keep), Some(3));
        assert_eq!(chosen(8), Some(Place { slot: 1, keep: 0, from: None }));
    }
}
