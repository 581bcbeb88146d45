//! Penalties on tokens that the last so many of prompt and answer hold.

use std::collections::{HashMap, VecDeque};

use super::row::Touched;
use crate::job::Sampling;

/// The window and what a token in it costs.
#[derive(Debug)]
pub(super) struct Penalties {
    repeat: f32,
    presence: f32,
    frequency: f32,
    window: usize,
    last: VecDeque<i32>,
    /// How often each token is in the window.
    counts: HashMap<i32, u32>,
}

impl Penalties {
    /// `None`: none is asked for.
    pub(super) fn new(sampling: &Sampling, prompt: &[i32]) -> Option<Penalties> {
        let (repeat, window) = (sampling.repeat_penalty, sampling.repeat_last_n);
        let (frequency, presence) = (sampling.frequency_penalty, sampling.presence_penalty);
        let on = [repeat - 1.0, frequency, presence].iter().any(|by| by.abs() > f32::EPSILON);
        if !on || window == 0 {
            return None;
        }
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let mut penalties = Penalties {
            repeat,
            presence,
            frequency,
            window,
            last: VecDeque::new(),
            counts: HashMap::new(),
        };
        for token in &prompt[prompt.len().saturating_sub(window)..] {
            penalties.accept(*token);
        }
        Some(penalties)
    }

    pub(super) fn accept(&mut self, token: i32) {
        if self.last.len() >= self.window
            && let Some(oldest) = self.last.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.last.push_back(token);
        let count = self.counts.entry(token).or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn apply(&self, row: &[f32], touched: &mut Touched) {
        for (token, count) in &self.counts {
            touched.change(row, *token, |logit| {
                // Dividing a negative logit would make the token likelier.
                let repeated = if logit <= 0.0 { logit * self.repeat } else { logit / self.repeat };
                repeated - (*count as f32 * self.frequency + self.presence)
            });
        }
    }
}
