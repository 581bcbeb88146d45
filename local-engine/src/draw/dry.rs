//! DRY: a token that would extend a repetition loses the more of its logit the longer the
//! repetition is. Ported from llama.cpp's sampler, which has it from Koboldcpp.
//!
//! No repetition reaches across a breaker: a text, which is looked for in the vocabulary's texts.
//! That takes milliseconds, so it is done where a job is submitted, and what was found is kept with
//! the model.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::row::Touched;
use crate::job::Dry;

/// Most tokens of a breaker after its first one.
const TAIL_TOKENS_MAX: usize = 20;
/// Sets of breakers whose tokens are kept.
const KEPT: usize = 16;
/// The logarithm of the largest number: a penalty must not overflow.
const MAX_LOG: f32 = 88.722_84;

/// Texts that no repetition reaches across.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Breakers {
    texts: Vec<String>,
    /// The tokens they begin with, once they were looked for.
    #[serde(skip)]
    heads: Option<Heads>,
}

/// The tokens that a breaker begins with, and those that must follow for it to be one.
pub(crate) type Heads = Arc<HashMap<i32, Vec<Vec<i32>>>>;

/// The vocabulary's texts, one after the other, and the breakers that were looked for in them.
#[derive(Debug)]
pub(crate) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kept: Mutex<VecDeque<(Vec<String>, Heads)>>,
}

/// One job's window.
#[derive(Debug)]
pub(super) struct DryWindow {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    window: usize,
    last: VecDeque<i32>,
    heads: Heads,
    /// For each of the last tokens, the newest first: how many tokens up to it equal those at the
    /// end. Kept for its room.
    repeats: Vec<usize>,
    /// The longest repetition that each token would extend. Kept for its room.
    extends: HashMap<i32, usize>,
}

// === impl Breakers ===

impl Breakers {
    /// The texts.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Looks for the tokens they begin with, unless that was done.
    pub(crate) fn find(&mut self, find: impl FnOnce(&[String]) -> Heads) {
        if self.heads.is_none() {
            self.heads = Some(find(&self.texts));
        }
    }

    /// The tokens they begin with, if they were looked for.
    pub(crate) fn heads(&self) -> Option<Heads> {
        self.heads.clone()
    }
}

impl From<Vec<String>> for Breakers {
    fn from(texts: Vec<String>) -> Breakers {
        Breakers { texts, heads: None }
    }
}

impl PartialEq for Breakers {
    fn eq(&self, other: &Breakers) -> bool {
        self.texts == other.texts
    }
}

// === impl Texts ===

impl Texts {
    /// The texts of all tokens, from the first on.
    pub(crate) fn new(texts: impl Iterator<Item = Vec<u8>>) -> Texts {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for text in texts {
            bytes.extend_from_slice(&text);
            ends.push(bytes.len());
        }
        Texts { bytes, ends, kept: Mutex::default() }
    }

    /// The tokens that these breakers begin with.
    pub(crate) fn heads(&self, breakers: &[String], tokenize: impl Fn(&[u8]) -> Vec<i32>) -> Heads {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, heads)) = kept().iter().find(|(texts, _)| texts == breakers) {
            return Arc::clone(heads);
        }
        let mut heads = HashMap::new();
        for breaker in breakers {
            self.look_for(breaker.as_bytes(), &tokenize, &mut heads);
        }
        let heads = Arc::new(heads);
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((breakers.to_vec(), Arc::clone(&heads)));
        heads
    }

    /// Adds the tokens that hold a breaker, and those that end as it begins, with the rest of it.
    fn look_for(
        &self,
        breaker: &[u8],
        tokenize: impl Fn(&[u8]) -> Vec<i32>,
        heads: &mut HashMap<i32, Vec<Vec<i32>>>,
    ) {
        let Some(first) = breaker.first() else { return };
        let mut begin = 0;
        for (token, end) in (0..).zip(&self.ends) {
            let text = &self.bytes[begin..*end];
            begin = *end;
            let starts = text.iter().enumerate().filter(|(_, byte)| *byte == first);
            let mut starts = starts.map(|(at, _)| &text[at..]).peekable();
            if starts.peek().is_none() {
                continue;
            }
            if text.windows(breaker.len()).any(|window| window == breaker) {
                heads.entry(token).or_default().push(Vec::new());
                continue;
            }
            for start in starts.filter(|start| breaker.starts_with(start)) {
                let mut tail = tokenize(&breaker[start.len()..]);
                tail.truncate(TAIL_TOKENS_MAX);
                let tails = heads.entry(token).or_default();
                if !tails.contains(&tail) {
                    tails.push(tail);
                }
            }
        }
    }
}

// === impl DryWindow ===

impl DryWindow {
    /// `None`: it is off.
    pub(super) fn new(dry: &Dry, heads: Heads, prompt: &[i32]) -> Option<DryWindow> {
        if dry.multiplier <= 0.0 || dry.base < 1.0 || dry.last_n == 0 {
            return None;
        }
        let window = usize::try_from(dry.last_n).unwrap_or(usize::MAX);
        let last = &prompt[prompt.len().saturating_sub(window)..];
        Some(DryWindow {
            multiplier: dry.multiplier,
            base: dry.base,
            allowed_length: usize::try_from(dry.allowed_length).unwrap_or(usize::MAX),
            window,
            last: last.iter().rev().copied().collect(),
            heads,
            repeats: Vec::new(),
            extends: HashMap::new(),
        })
    }

    pub(super) fn accept(&mut self, token: i32) {
        if self.last.len() >= self.window {
            self.last.pop_back();
        }
        self.last.push_front(token);
    }

    pub(super) fn apply(&mut self, row: &[f32], touched: &mut Touched) {
        if self.last.len() <= self.allowed_length {
            return;
        }
        let longest = self.since_breaker();
        if longest < self.allowed_length {
            return;
        }
        self.count_repeats(longest);
        self.extends.clear();
        // Each token is followed, in time, by the one before it here.
        for (repeat, next) in self.repeats.iter().skip(1).zip(&self.last) {
            if *repeat >= self.allowed_length {
                let extended = self.extends.entry(*next).or_default();
                *extended = (*extended).max(*repeat);
            }
        }
        // Truncated, as there.
        #[expect(clippy::cast_possible_truncation, reason = "at most 88 / ln 1.000001")]
        let exponent_max =
            if self.base > 1.000_001 { (MAX_LOG / self.base.ln()) as i32 } else { i32::MAX };
        for (token, repeat) in &self.extends {
            let breaks = self.heads.get(token).is_some_and(|tails| tails.iter().any(Vec::is_empty));
            if breaks {
                continue;
            }
            let exponent = i32::try_from(repeat - self.allowed_length).unwrap_or(i32::MAX);
            let power = f64::from(self.base).powf(f64::from(exponent.min(exponent_max)));
            #[expect(clippy::cast_possible_truncation, reason = "logits have 32 bits")]
            let penalty = (f64::from(self.multiplier) * power) as f32;
            touched.change(row, *token, |logit| logit - penalty);
        }
    }

    /// How many tokens have come since the last breaker, or all of the window.
    fn since_breaker(&self) -> usize {
        for (at, token) in self.last.iter().enumerate() {
            let Some(tails) = self.heads.get(token) else { continue };
            // The tokens after it, in time, are before it here.
            let follows = |tail: &&Vec<i32>| {
                tail.len() <= at
                    && tail.iter().zip((0..at).rev()).all(|(tail, at)| *tail == self.last[at])
            };
            if let Some(longest) = tails.iter().filter(follows).map(Vec::len).max() {
                return at - longest;
            }
        }
        self.last.len()
    }

    /// For each token of the window how many up to it equal the end, at most `longest`: the
    /// Z-algorithm, from the newest token back.
    fn count_repeats(&mut self, longest: usize) {
        let (last, length) = (&self.last, self.last.len());
        self.repeats.clear();
        self.repeats.resize(length, 0);
        let equal_from = |mut at: usize, offset: usize| {
            while at + offset < length && last[at] == last[at + offset] {
                at += 1;
            }
            at
        };
        // The box: what is known to equal the end, from `left` to before `right`.
        let (mut left, mut right) = (0, 0);
        for at in 1..length {
            let known = if at < right { self.repeats[at - left].min(right - at) } else { 0 };
            let repeat = if at + known < right { known } else { equal_from(known, at) };
            if at + repeat > right {
                (left, right) = (at, at + repeat);
            }
            self.repeats[at] = repeat;
        }
        for repeat in &mut self.repeats {
            *repeat = (*repeat).min(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(tokens: &[i32], heads: Heads) -> DryWindow {
        let dry = Dry {
            multiplier: 1.0,
            base: 2.0,
            allowed_length: 1,
            last_n: 100,
            breakers: Breakers::default(),
        };
        DryWindow::new(&dry, heads, tokens).expect("on")
    }

    #[test]
    fn repeats_are_those_counted_by_hand() {
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % limit
        };
        for _ in 0..500 {
            let tokens: Vec<i32> =
                (0..below(40)).map(|_| i32::try_from(below(3)).expect("small")).collect();
            let mut window = window(&tokens, Heads::default());
            window.count_repeats(6);
            for at in 1..tokens.len() {
                let equal = (0..tokens.len() - at)
                    .take_while(|back| window.last[*back] == window.last[at + back])
                    .count();
                assert_eq!(window.repeats[at], equal.min(6), "{tokens:?} at {at}");
            }
        }
    }

    #[test]
    fn what_extends_a_repetition_loses_by_its_length() {
        let mut touched = Touched::default();
        // 1 2 3 comes again as 1 2: the 3 would extend two tokens.
        window(&[1, 2, 3, 4, 1, 2], Heads::default()).apply(&[0.0; 8], &mut touched);
        assert_eq!(touched.each().collect::<Vec<_>>(), [(3, -2.0)]);
    }

    #[test]
    fn no_repetition_reaches_across_a_breaker() {
        let texts =
            Texts::new(["", "a", "b", "xy", "z.", ".."].map(|text| text.into()).into_iter());
        let tokenize = |text: &[u8]| vec![i32::from(text[0])];
        let heads = texts.heads(&["b".to_owned(), ".q".to_owned()], tokenize);
        assert_eq!(heads.get(&2), Some(&vec![vec![]]), "it is one");
        assert_eq!(heads.get(&4), Some(&vec![vec![i32::from(b'q')]]), "it may become one");
        assert_eq!((heads.get(&3), heads.len()), (None, 3));
        let again = texts.heads(&["b".to_owned(), ".q".to_owned()], |_| unreachable!("kept"));
        assert!(Arc::ptr_eq(&heads, &again));
        let mut window = window(&[1, 2, 7, 6, 1, 2, 7], heads);
        assert_eq!(window.since_breaker(), 1);
        let mut touched = Touched::default();
        window.apply(&[0.0; 8], &mut touched);
        let penalty = touched.each().find(|(token, _)| *token == 6).expect("it is touched").1;
        assert!((penalty + 1.0).abs() < 1e-6, "one token since the breaker, not three");
    }
}
