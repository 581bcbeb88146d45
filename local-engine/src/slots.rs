//! Where a prompt goes: the slot whose cells spare it the most work, without giving up a longer
//! prefix that somebody may come back for.

/// What is known of a slot when a place is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotView<'a> {
    /// The tokens in its cells.
    pub(crate) tokens: &'a [i32],
    /// Whether a job runs in it.
    pub(crate) busy: bool,
    /// When it was last given to a job; 0 for an empty slot.
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

/// Chooses a place, or none if every slot is busy. `share`: whether cells can be shared between
/// slots. At least the prompt's last token is always computed: its logits are needed.
pub(crate) fn choose(slots: &[SlotView<'_>], prompt: &[i32], share: bool) -> Option<Place> {
    let most = prompt.len().saturating_sub(1);
    let common = |slot: &SlotView<'_>| common_prefix(slot.tokens, prompt).min(most);
    let idle = || slots.iter().enumerate().filter(|(_, slot)| !slot.busy);
    let (oldest, _) = idle().min_by_key(|(_, slot)| slot.used_at)?;
    let (own, own_slot) =
        idle().max_by_key(|(_, slot)| (common(slot), std::cmp::Reverse(slot.used_at)))?;
    let own_keep = common(own_slot);
    if !share {
        let slot = if own_keep > 0 { own } else { oldest };
        return Some(Place { slot, keep: own_keep, from: None });
    }
    let (source, source_slot) = slots.iter().enumerate().max_by_key(|(_, slot)| common(slot))?;
    let keep = common(source_slot);
    if keep == 0 {
        return Some(Place { slot: oldest, keep: 0, from: None });
    }
    let mostly_kept = own_keep.saturating_mul(2) >= own_slot.tokens.len();
    if own_keep == keep && mostly_kept {
        return Some(Place { slot: own, keep, from: None });
    }
    // The oldest slot other than the source, so that the source's own tokens survive.
    let other = idle().filter(|(at, _)| *at != source).min_by_key(|(_, slot)| slot.used_at);
    Some(match other {
        Some((slot, _)) => Place { slot, keep, from: Some(source) },
        None => Place { slot: own, keep: own_keep, from: None },
    })
}

fn common_prefix(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::{Place, SlotView, choose};

    fn slot(tokens: &[i32], busy: bool, used_at: u64) -> SlotView<'_> {
        SlotView { tokens, busy, used_at }
    }

    #[test]
    fn no_place_while_all_are_busy() {
        assert_eq!(choose(&[slot(&[1], true, 1)], &[1, 2], true), None);
    }

    #[test]
    fn the_next_turn_of_a_chat_continues_in_its_slot() {
        let slots = [slot(&[], false, 0), slot(&[1, 2, 3, 4], false, 5)];
        let place = Place { slot: 1, keep: 4, from: None };
        assert_eq!(choose(&slots, &[1, 2, 3, 4, 9, 9], true), Some(place));
        assert_eq!(choose(&slots, &[1, 2, 3, 4, 9, 9], false), Some(place));
    }

    #[test]
    fn the_last_token_is_always_computed() {
        let slots = [slot(&[1, 2, 3], false, 1)];
        assert_eq!(choose(&slots, &[1, 2, 3], true).map(|place| place.keep), Some(2));
    }

    #[test]
    fn a_short_common_prefix_is_shared_and_the_longer_one_kept() {
        let long = [1, 2, 3, 4, 5, 6, 7, 8];
        let slots = [slot(&long, false, 7), slot(&[], false, 0)];
        let place = Place { slot: 1, keep: 2, from: Some(0) };
        assert_eq!(choose(&slots, &[1, 2, 9], true), Some(place));
    }

    #[test]
    fn a_running_job_lends_its_prefix() {
        let slots = [slot(&[1, 2, 3, 4], true, 7), slot(&[8], false, 3)];
        let place = Place { slot: 1, keep: 3, from: Some(0) };
        assert_eq!(choose(&slots, &[1, 2, 3, 9], true), Some(place));
        assert_eq!(choose(&slots, &[1, 2, 3, 9], false).map(|p| (p.slot, p.keep)), Some((1, 0)));
    }

    #[test]
    fn without_anything_in_common_the_oldest_goes() {
        let slots = [slot(&[5], false, 9), slot(&[6], false, 2), slot(&[7], true, 1)];
        assert_eq!(choose(&slots, &[1, 2], true).map(|place| place.slot), Some(1));
    }
}
