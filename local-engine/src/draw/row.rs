//! A row of logits, some of which were changed. It is not copied for that: it comes cold from
//! memory, and reading it is most of what drawing a token costs.

use std::{cmp::Ordering, collections::HashMap};

use foldhash::fast::RandomState;

use super::look;
use crate::constraint::Allowed;

/// What biases and penalties made of the logits of the tokens they touch.
#[derive(Debug, Default)]
pub(super) struct Touched(HashMap<i32, f32, RandomState>);

/// The model's logits and what was made of some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// As the model computed them: numbers, the highest of them finite.
    pub(super) computed: &'a [f32],
    pub(super) touched: &'a Touched,
    /// The likeliest token before any was touched.
    pub(super) peak: i32,
}

// === impl Touched ===

impl Touched {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Changes a token's logit, which may have been changed before. A token that is not in the row
    /// is left alone.
    pub(super) fn change(&mut self, computed: &[f32], token: i32, by: impl FnOnce(f32) -> f32) {
        let Some(logit) = at(computed, token) else { return };
        let logit = self.0.entry(token).or_insert(logit);
        *logit = by(*logit);
    }

    /// Whether a token was touched.
    pub(super) fn holds(&self, token: i32) -> bool {
        self.0.contains_key(&token)
    }

    /// The tokens that were, with their logits, in no order.
    pub(super) fn each(&self) -> impl Iterator<Item = (i32, f32)> {
        self.0.iter().map(|(token, logit)| (*token, *logit))
    }
}

// === impl Row ===

impl Row<'_> {
    /// The likeliest token, the first of equals; none if the highest logit is not finite.
    pub(super) fn likeliest(self) -> Option<(i32, f32)> {
        let untouched = if self.touched.holds(self.peak) {
            self.likeliest_untouched()
        } else {
            at(self.computed, self.peak).map(|logit| (self.peak, logit))
        };
        let likeliest = untouched.into_iter().chain(self.touched.each()).min_by(before)?;
        likeliest.1.is_finite().then_some(likeliest)
    }

    fn likeliest_untouched(self) -> Option<(i32, f32)> {
        let (mut best, mut bound) = (None, f32::NEG_INFINITY);
        look::above(self.computed, bound, |token, logit| {
            if !self.touched.holds(token) {
                best = Some((token, logit));
                bound = logit;
            }
            bound
        });
        best
    }

    /// The likeliest of the allowed tokens, the first of equals.
    pub(super) fn likeliest_of(self, allowed: &Allowed) -> Option<i32> {
        let mut best: Option<(i32, f32)> = None;
        allowed.each(|token| {
            let Some(logit) = at(self.computed, token) else { return };
            if best.is_none_or(|(_, highest)| logit > highest) && !self.touched.holds(token) {
                best = Some((token, logit));
            }
        });
        let touched = self.touched.each().filter(|(token, _)| allowed.holds(*token));
        best.into_iter().chain(touched).min_by(before).map(|(token, _)| token)
    }
}

/// By falling logit, equals by rising token. Of zeros there is one.
fn before(a: &(i32, f32), b: &(i32, f32)) -> Ordering {
    (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0))
}

/// A token's logit.
fn at(logits: &[f32], token: i32) -> Option<f32> {
    logits.get(usize::try_from(token).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::{super::look, Row, Touched};
    use crate::constraint::Allowed;

    /// Small numbers in no order, many of them equal.
    fn number(at: u32) -> f32 {
        f32::from(u8::try_from(at.wrapping_mul(2_654_435_761) >> 24 & 15).expect("four bits")) - 7.0
    }

    /// The first of the highest.
    fn first_of_highest(logits: &[f32], may: impl Fn(usize) -> bool) -> Option<i32> {
        let mut best: Option<usize> = None;
        for at in (0..logits.len()).filter(|at| may(*at)) {
            if best.is_none_or(|best| logits[at] > logits[best]) {
                best = Some(at);
            }
        }
        best.map(|at| i32::try_from(at).expect("small"))
    }

    #[test]
    fn the_likeliest_is_found_as_in_a_changed_copy() {
        for case in 0..2_000_u32 {
            let computed: Vec<f32> = (0..1 + case % 70).map(|at| number(case * 71 + at)).collect();
            let (mut copy, mut touched) = (computed.clone(), Touched::default());
            let below = |at: u32| usize::try_from(at).expect("small") % copy.len();
            let changes: Vec<usize> = (0..case % 9).map(|n| below((case ^ n) * 13)).collect();
            for (at, by) in changes.into_iter().zip([3.0, -3.0, 0.0, -40.0, 1.0].iter().cycle()) {
                copy[at] += by;
                touched.change(&computed, i32::try_from(at).expect("small"), |logit| logit + by);
            }
            let peak = look::peak(&computed).expect("numbers");
            let row = Row { computed: &computed, touched: &touched, peak };
            let found = row.likeliest().map(|(token, _)| token);
            assert_eq!(found, first_of_highest(&copy, |_| true), "{computed:?} {touched:?}");
            let tokens: Vec<u32> = (0..case % 70).filter(|at| number(at ^ case) > 0.0).collect();
            let may = |at: usize| tokens.iter().any(|token| usize::try_from(*token) == Ok(at));
            let found = row.likeliest_of(&Allowed::of(&tokens, 70));
            assert_eq!(found, first_of_highest(&copy, may), "{computed:?} {touched:?} {tokens:?}");
        }
    }

    #[test]
    fn nothing_is_likeliest_where_the_highest_is_endless_or_no_number() {
        for by in [f32::NAN, f32::INFINITY] {
            let (computed, mut touched) = ([1.0, 2.0], Touched::default());
            touched.change(&computed, 0, |_| by);
            // A token that is not in the row changes nothing.
            touched.change(&computed, 2, |_| 9.0);
            touched.change(&computed, -1, |_| 9.0);
            let row = Row { computed: &computed, touched: &touched, peak: 1 };
            assert_eq!(row.likeliest(), None);
        }
    }
}
