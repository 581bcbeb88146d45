//! How much of an answer is paid for where a budget cannot pay for all that was asked.
//!
//! Callers ask for far more than they use: an agent sends the same large cap whatever it expects.
//! Were the first request that is short of money to take all that is left, everybody after it would
//! wait for what it does not use. So it takes what the route's longest recent answer needed, and a
//! little more. **Invariant:** the cap that is held is the cap that is sent, so that nothing can be
//! overspent, whatever is guessed here.

use crate::largest::largest;

/// Part of the longest recent answer that is added to it, so that a slightly longer one is whole.
const SPARE: u64 = 4;

/// What a clamp is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// The smallest cap that is worth it, by the policy.
    pub least: u64,
    /// The longest of the route's recent answers, where that is known.
    pub longest: Option<u64>,
    /// Whether running requests may give something back that is worth waiting for.
    pub may_wait: bool,
}

impl Clamp {
    /// The output cap to ask the budgets for instead of `asked`, which they cannot pay; `affords`
    /// says what they can, and is monotone. `None`: nothing is worth it, or waiting is better.
    #[must_use]
    pub fn cap(self, asked: u64, affords: impl Fn(u64) -> bool) -> Option<u64> {
        let most = asked.checked_sub(1)?;
        let usual = self.longest.map_or(most, |longest| longest.saturating_add(longest / SPARE));
        let most = usual.max(self.least).min(most);
        let cap = largest(self.least, most, affords)?;
        (cap == most || !self.may_wait).then_some(cap)
    }
}

#[cfg(test)]
mod tests {
    use super::Clamp;

    #[test]
    fn what_answers_need_is_taken_and_not_all_that_is_left() {
        let clamp = Clamp { least: 16, longest: Some(400), may_wait: true };
        assert_eq!(clamp.cap(16_384, |cap| cap <= 5_000), Some(500));
        // Less than that is taken only when nothing comes back.
        assert_eq!(clamp.cap(16_384, |cap| cap <= 300), None);
        assert_eq!(Clamp { may_wait: false, ..clamp }.cap(16_384, |cap| cap <= 300), Some(300));
        assert_eq!(Clamp { may_wait: false, ..clamp }.cap(16_384, |cap| cap <= 10), None);
        // A cap is never raised, and one that was asked for and cannot be paid is lowered.
        assert_eq!(clamp.cap(100, |cap| cap <= 99), Some(99));
        assert_eq!(clamp.cap(16, |_| true), None);
        // Whatever a provider has said of its answers.
        let untrue = Clamp { longest: Some(u64::MAX - 1), ..clamp };
        assert_eq!(untrue.cap(1_000, |cap| cap <= 999), Some(999));
        // Of a route that has not answered yet nothing is known.
        assert_eq!(Clamp { longest: None, ..clamp }.cap(1_000, |cap| cap <= 999), Some(999));
    }
}
