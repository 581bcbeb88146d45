//! Which tokens are left to draw from, and the draw: what llama.cpp's samplers of the same names
//! do, in their order and with their arithmetic.
//!
//! **Invariant:** candidates that are `sorted` come by falling logit, equals by rising token.

use std::cmp::Ordering;

use super::{look, mersenne::Mersenne, row::Row};
use crate::constraint::Allowed;

/// With more candidates than this only the likeliest are put in order at first.
const SORTED_WHOLE: usize = 1_024;
/// How many of them, and how many times more when they do not suffice.
const SORTED_FIRST: usize = 256;
const SORTED_GROWTH: usize = 16;

/// What is left of the candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) top_k: Option<usize>,
    pub(super) typical_p: f32,
    pub(super) top_p: f32,
    pub(super) min_p: f32,
    pub(super) temperature: f32,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: i32,
    logit: f32,
    /// Its probability, or what was last computed as such.
    p: f32,
}

/// Tokens that may be drawn.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    sorted: bool,
    /// For putting `list` into another order.
    other: Vec<Candidate>,
    scores: Vec<(f32, usize)>,
}

impl Cut {
    /// Cuts what has been filled in by the same cut.
    pub(super) fn apply(&self, candidates: &mut Candidates) {
        if self.typical_p < 1.0 {
            candidates.keep_typical(self.typical_p);
        }
        if self.top_p < 1.0 {
            candidates.keep_nucleus(self.top_p);
        }
        if self.min_p > 0.0 {
            candidates.keep_above(self.min_p);
        }
        for candidate in &mut candidates.list {
            candidate.logit /= self.temperature;
        }
    }

    /// Whether only tokens of a share of the likeliest one's probability are left, and nothing is cut
    /// before.
    fn only_min_p(&self) -> bool {
        self.top_k.is_none() && self.typical_p >= 1.0 && self.top_p >= 1.0 && self.min_p > 0.0
    }
}

impl Candidates {
    /// Takes in the allowed tokens of a row, no more of them than the cut begins with.
    pub(super) fn fill(&mut self, row: Row<'_>, allowed: Option<&Allowed>, cut: &Cut) {
        self.list.clear();
        self.sorted = false;
        let Some(allowed) = allowed else {
            match cut.top_k {
                Some(k) => self.fill_top(row, k),
                None if cut.only_min_p() => self.fill_above(row, cut.min_p),
                None => self.fill_all(row),
            }
            return;
        };
        allowed.each(|token| {
            let at = usize::try_from(token).ok();
            if let Some(logit) = at.and_then(|at| row.computed.get(at)) {
                self.list.push(Candidate::new((token, logit)));
            }
        });
        for (token, logit) in row.touched.each() {
            if let Ok(at) = self.list.binary_search_by_key(&token, |candidate| candidate.token) {
                self.list[at].logit = logit;
            }
        }
        if let Some(k) = cut.top_k {
            self.keep_first(k);
        }
    }

    fn fill_all(&mut self, row: Row<'_>) {
        self.list.extend((0..).zip(row.computed).map(Candidate::new));
        for (token, logit) in row.touched.each() {
            if let Some(candidate) =
                usize::try_from(token).ok().and_then(|at| self.list.get_mut(at))
            {
                candidate.logit = logit;
            }
        }
    }

    /// Takes in the tokens with at least such a share of the likeliest one's probability.
    fn fill_above(&mut self, row: Row<'_>, share: f32) {
        let Some((_, highest)) = row.likeliest() else { return };
        // Above the next number below it is at or above it.
        let bound = (highest + share.ln()).next_down();
        look::above(row.computed, bound, |token, logit| {
            if !row.touched.holds(token) {
                self.list.push(Candidate::new((token, &logit)));
            }
            bound
        });
        let untouched = self.list.len();
        let touched = row.touched.each().filter(|(_, logit)| *logit > bound);
        self.list.extend(touched.map(|(token, logit)| Candidate::new((token, &logit))));
        if self.list.len() > untouched {
            self.list.sort_unstable_by_key(|candidate| candidate.token);
        }
    }

    /// Takes in the `k` likeliest tokens. Whoever has `k` above it is never looked at again.
    fn fill_top(&mut self, row: Row<'_>, k: usize) {
        let room = k.saturating_mul(4).max(256).min(row.computed.len());
        let mut bound = f32::NEG_INFINITY;
        look::above(row.computed, bound, |token, logit| {
            if row.touched.holds(token) {
                return bound;
            }
            self.list.push(Candidate::new((token, &logit)));
            if self.list.len() > k && self.list.len() >= room {
                self.list.select_nth_unstable_by(k - 1, falling);
                self.list.truncate(k);
                bound = self.list[k - 1].logit;
            }
            bound
        });
        let touched = row.touched.each();
        self.list.extend(touched.map(|(token, logit)| Candidate::new((token, &logit))));
        self.keep_first(k);
    }

    /// Keeps the `count` likeliest, in order.
    fn keep_first(&mut self, count: usize) {
        self.sort_first(count);
        self.list.truncate(count);
        self.sorted = true;
    }

    /// Brings the `count` likeliest to the front, in order.
    fn sort_first(&mut self, count: usize) {
        if count < self.list.len() && count > 0 {
            self.list.select_nth_unstable_by(count - 1, falling);
            self.list[..count].sort_unstable_by(falling);
        } else {
            self.list.sort_unstable_by(falling);
        }
    }

    /// The highest logit.
    fn highest(&self) -> f32 {
        let first = if self.sorted { 1 } else { self.list.len() };
        self.list.iter().take(first).fold(f32::NEG_INFINITY, |best, other| best.max(other.logit))
    }

    fn softmax(&mut self) {
        let highest = self.highest();
        let mut sum = 0.0;
        for candidate in &mut self.list {
            candidate.p = (candidate.logit - highest).exp();
            sum += candidate.p;
        }
        for candidate in &mut self.list {
            candidate.p /= sum;
        }
    }

    /// Keeps those whose surprise is nearest to the expected one, until `share` of the probability
    /// is kept.
    fn keep_typical(&mut self, share: f32) {
        if !self.sorted {
            self.list.sort_unstable_by(falling);
            self.sorted = true;
        }
        self.softmax();
        // What can never come surprises nobody: its term is 0, and not the NaN of 0 times infinity.
        let possible = self.list.iter().filter(|candidate| candidate.p > 0.0);
        let entropy = possible.fold(0.0, |sum, other| sum + -other.p * other.p.ln());
        let score = |(at, other): (usize, &Candidate)| ((-other.p.ln() - entropy).abs(), at);
        self.scores.clear();
        self.scores.extend(self.list.iter().enumerate().map(score));
        self.scores.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut sum = 0.0;
        self.other.clear();
        for (_, at) in &self.scores {
            self.other.push(self.list[*at]);
            sum += self.list[*at].p;
            if sum > share {
                break;
            }
        }
        std::mem::swap(&mut self.list, &mut self.other);
        self.sorted = false;
    }

    /// Keeps the likeliest until `share` of the probability is kept.
    fn keep_nucleus(&mut self, share: f32) {
        self.softmax();
        let all = self.list.len();
        // A nucleus is mostly small: more are put in order only when it is not.
        let mut ordered = if self.sorted || all <= SORTED_WHOLE { all } else { SORTED_FIRST };
        let (mut kept, mut sum) = (0, 0.0);
        loop {
            if !self.sorted {
                self.sort_first(ordered);
            }
            while kept < ordered && sum < share {
                sum += self.list[kept].p;
                kept += 1;
            }
            if sum >= share || ordered == all {
                break;
            }
            ordered = ordered.saturating_mul(SORTED_GROWTH).min(all);
        }
        self.list.truncate(kept);
        self.sorted = true;
    }

    /// Keeps those with at least such a share of the likeliest one's probability.
    fn keep_above(&mut self, share: f32) {
        let bound = self.highest() + share.ln();
        self.list.retain(|candidate| candidate.logit >= bound);
    }

    /// Draws one by its probability; none if nothing is left.
    pub(super) fn draw(&mut self, generator: &mut Mersenne) -> Option<i32> {
        // One number for each token, whatever there is to choose from.
        let fraction = generator.fraction();
        let highest = self.highest();
        let mut sum = 0.0;
        for candidate in &mut self.list {
            candidate.p = (candidate.logit - highest).exp();
            sum += f64::from(candidate.p);
        }
        let (target, mut reached) = (sum * fraction, 0.0);
        let drawn = self.list.iter().find(|candidate| {
            reached += f64::from(candidate.p);
            reached >= target
        });
        drawn.or(self.list.last()).map(|candidate| candidate.token)
    }
}

impl Candidate {
    fn new((token, logit): (i32, &f32)) -> Candidate {
        Candidate { token, logit: *logit, p: 0.0 }
    }
}

/// By falling logit, equals by rising token.
fn falling(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}
