//! Log probabilities: computed from a row of logits, and held until the text they belong to may be
//! shown, so that a stop text leaks through them no more than through the text.

use std::{cmp::Ordering, collections::VecDeque, ops::Range};

use crate::job::TokenLogprob;

/// The natural logarithm of the softmax of one row: `token`'s, and the `top` best with their
/// tokens, best first. `None` where the row has no such token.
pub(crate) fn of_row(logits: &[f32], token: i32, top: u32) -> Option<(f32, Vec<(i32, f32)>)> {
    let chosen = *logits.get(usize::try_from(token).ok()?)?;
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Sums of so many small numbers lose digits in f32.
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a sum is small")]
    let log_sum = sum.ln() as f32 + most;
    let wanted = usize::try_from(top).unwrap_or(0).min(logits.len());
    let mut best: Vec<(i32, f32)> = Vec::with_capacity(wanted + 1);
    for (id, logit) in (0_i32..).zip(logits.iter().copied()) {
        let least = best.last().filter(|_| best.len() >= wanted).map(|(_, least)| *least);
        if wanted == 0 || least.is_some_and(|least| logit <= least) {
            continue;
        }
        let at = best.partition_point(|(_, other)| other.total_cmp(&logit) != Ordering::Less);
        best.insert(at, (id, logit));
        best.truncate(wanted);
    }
    let relative = best.into_iter().map(|(id, logit)| (id, logit - log_sum)).collect();
    Some((chosen - log_sum, relative))
}

/// The log probabilities of tokens whose text is held back.
#[derive(Debug, Default)]
pub(crate) struct Pending(VecDeque<(Range<usize>, TokenLogprob)>);

impl Pending {
    /// Adds a token whose text is at `place` in the answer.
    pub(crate) fn push(&mut self, place: Range<usize>, logprob: TokenLogprob) {
        self.0.push_back((place, logprob));
    }

    /// Takes those whose text has been shown, where `shown` bytes have.
    pub(crate) fn shown(&mut self, shown: usize) -> Vec<TokenLogprob> {
        let count = self.0.iter().take_while(|(place, _)| place.end <= shown).count();
        self.0.drain(..count).map(|(_, logprob)| logprob).collect()
    }

    /// Takes those of an answer that ends at a stop text, also the one whose text was shown in part.
    /// The others are the stop text's and are never told.
    pub(crate) fn before_stop(&mut self, shown: usize) -> Vec<TokenLogprob> {
        let told = self.0.drain(..).take_while(|(place, _)| place.start < shown);
        told.map(|(_, logprob)| logprob).collect()
    }

    /// Takes those of an answer that ends otherwise: all, also of a character that was cut and has
    /// no text.
    pub(crate) fn rest(&mut self) -> Vec<TokenLogprob> {
        self.0.drain(..).map(|(_, logprob)| logprob).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Pending, of_row};
    use crate::job::{Likely, TokenLogprob};

    #[test]
    fn probabilities_sum_to_one_and_come_best_first() {
        let row = [1.0, 3.0, -2.0, 2.5, 3.0];
        let (chosen, top) = of_row(&row, 3, 5).expect("a row");
        let sum: f32 = top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let order: Vec<i32> = top.iter().map(|(token, _)| *token).collect();
        assert_eq!(order, [1, 4, 3, 0, 2]);
        assert!((chosen - top[2].1).abs() < 1e-6);
    }

    #[test]
    fn only_as_many_as_asked_for() {
        assert_eq!(of_row(&[0.0, 1.0, 2.0], 0, 1).expect("a row").1.len(), 1);
        assert_eq!(of_row(&[0.0, 1.0, 2.0], 0, 0).expect("a row").1, []);
        assert_eq!(of_row(&[0.0, 1.0], 2, 1), None);
        assert_eq!(of_row(&[0.0, 1.0], -1, 1), None);
    }

    #[test]
    fn a_token_is_told_with_its_text_and_never_before() {
        let token = |token| TokenLogprob {
            chosen: Likely { token, bytes: Vec::new(), logprob: 0.0 },
            top: Vec::new(),
        };
        let mut pending = Pending::default();
        pending.push(0..2, token(1));
        pending.push(2..2, token(2));
        pending.push(2..6, token(3));
        let ids = |told: Vec<TokenLogprob>| -> Vec<i32> {
            told.iter().map(|logprob| logprob.chosen.token).collect()
        };
        assert_eq!(ids(pending.shown(1)), [] as [i32; 0]);
        assert_eq!(ids(pending.shown(3)), [1, 2]);
        pending.push(6..9, token(4));
        assert_eq!(ids(pending.before_stop(4)), [3], "the stop text begins inside the third");
        assert_eq!(ids(pending.rest()), [] as [i32; 0], "and has the fourth");
        pending.push(4..6, token(5));
        assert_eq!(ids(pending.rest()), [5], "there is one for every token where none stops it");
    }
}
