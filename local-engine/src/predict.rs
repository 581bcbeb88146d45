//! How long a job that came now would wait, by who runs, who waits and what steps have cost: the
//! jobs ahead are played through, each with the length that answers have had lately. What was
//! expected is compared with what came, so that the error is known and a high percentile can be told.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{costs::Fit, device::Device, scheduler::Scheduler, sequence::Sequence};

/// Answers are expected to be so long before any was seen.
const ANSWER_TOKENS: f64 = 128.0;
/// Weight of one more answer in the mean length.
const ANSWER_WEIGHT: f64 = 0.1;
/// Expected and real waits that are compared.
const RATIOS_MAX: usize = 64;
/// Of them so many must be known before a percentile is told.
const RATIOS_MIN: usize = 8;
/// A wait shorter than this is not compared: its ratio would be noise.
const COMPARED_MIN: Duration = Duration::from_millis(1);

/// When a job that came now could be expected to begin to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Until it leaves the queue.
    pub wait: Duration,
    /// Until its first token, nothing of its prompt being in the cache.
    pub ttft: Duration,
    /// Within this 95 of 100 first tokens come, by how far expectations were off lately; `None`
    /// before enough were seen.
    pub ttft_p95: Option<Duration>,
}

/// What answers have been like.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    answer_tokens: Option<f64>,
    /// Real over expected time to the first token.
    ratios: VecDeque<f64>,
}

/// A job as it is played through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Played {
    /// Prompt tokens to be read.
    pub(crate) unread: usize,
    /// Tokens it will still generate.
    pub(crate) left: f64,
    /// Cells it was promised.
    pub(crate) cells: usize,
}

/// Room for jobs: slots, and cells to promise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) slots: usize,
    pub(crate) cells: usize,
}

impl Seen {
    /// An answer ended well.
    pub(crate) fn answered(&mut self, tokens: u32) {
        let tokens = f64::from(tokens);
        let mean = self.answer_tokens.unwrap_or(tokens);
        self.answer_tokens = Some(mean + (tokens - mean) * ANSWER_WEIGHT);
    }

    /// A first token came.
    pub(crate) fn began(&mut self, expected: Duration, took: Duration) {
        if expected < COMPARED_MIN {
            return;
        }
        if self.ratios.len() >= RATIOS_MAX {
            self.ratios.pop_front();
        }
        self.ratios.push_back(took.as_secs_f64() / expected.as_secs_f64());
    }

    /// Tokens an answer is expected to have.
    pub(crate) fn answer_tokens(&self, cap: u32) -> f64 {
        self.answer_tokens.unwrap_or(ANSWER_TOKENS).min(f64::from(cap))
    }

    /// The 95th percentile of real over expected.
    pub(crate) fn ratio_p95(&self) -> Option<f64> {
        if self.ratios.len() < RATIOS_MIN {
            return None;
        }
        let mut sorted: Vec<f64> = self.ratios.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * 95).div_ceil(100) - 1).copied()
    }
}

/// What is ahead of a job that came now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ahead {
    /// Seconds until it could come in.
    pub(crate) wait: f64,
    /// Prompt tokens of others that will still be unread then.
    pub(crate) unread: usize,
    /// Whose they are.
    pub(crate) readers: usize,
}

/// What is ahead of a job behind `waiting`.
pub(crate) fn ahead(fit: Fit, room: Room, running: &[Played], waiting: &[Played]) -> Ahead {
    let mut seconds = 0.0;
    let mut running = running.to_vec();
    let mut waiting = waiting.iter();
    let mut next = waiting.next();
    loop {
        let promised: usize = running.iter().map(|job| job.cells).sum();
        let needed = next.map_or(0, |job| job.cells);
        let fits = running.len() < room.slots && promised + needed <= room.cells;
        if fits || running.is_empty() {
            let Some(job) = next else {
                let unread = running.iter().map(|job| job.unread).sum();
                let readers = running.iter().filter(|job| job.unread > 0).count();
                return Ahead { wait: seconds, unread, readers };
            };
            running.push(*job);
            next = waiting.next();
            continue;
        }
        // All are read before one ends.
        seconds += fit.prefill * tokens(running.iter().map(|job| job.unread).sum());
        running.iter_mut().for_each(|job| job.unread = 0);
        // Until the first of them ends.
        let steps = running.iter().map(|job| job.left).fold(f64::INFINITY, f64::min).max(1.0);
        seconds += steps * step_seconds(fit, running.len());
        for job in &mut running {
            job.left -= steps;
        }
        running.retain(|job| job.left > 0.0);
    }
}

/// What one token for each of so many jobs takes.
#[expect(clippy::cast_precision_loss, reason = "there are at most 256 jobs")]
pub(crate) fn step_seconds(fit: Fit, jobs: usize) -> f64 {
    fit.fixed + fit.decode * jobs as f64
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
fn tokens(count: usize) -> f64 {
    count as f64
}

impl<D: Device> Scheduler<D> {
    /// Publishes what a job that came now would wait.
    pub(crate) fn publish_wait(&self) {
        let Some(fit) = self.costs.fit() else { return };
        let play = |at: Option<usize>, job: &Sequence<D::Sampler>| Played {
            unread: job.to_read().saturating_sub(at.map_or(0, |at| self.read(at))),
            left: (self.seen.answer_tokens(job.max_tokens)
                - f64::from(job.outbox.meter().generated_tokens()))
            .max(1.0),
            cells: job.cells(),
        };
        let mut running: Vec<Played> =
            self.running().map(|(at, job)| play(Some(at), job)).collect();
        let decoding = running.len();
        running.extend(
            self.swapped
                .iter()
                .map(|outside| Played { unread: 0, ..play(None, &outside.sequence) }),
        );
        let queue = self.shared.queue();
        let waiting: Vec<Played> = queue
            .jobs
            .iter()
            .map(|waiting| Played {
                unread: waiting.job.prompt.len(),
                left: self.seen.answer_tokens(waiting.job.max_tokens).max(1.0),
                cells: waiting.job.prompt.len() + tokens_of(waiting.job.max_tokens),
            })
            .collect();
        drop(queue);
        let room = Room { slots: self.slots_max, cells: self.cells_promised };
        let ahead = ahead(fit, room, &running, &waiting);
        let chunk = self.prefill_bound(decoding).max(1);
        // Beside others each chunk of the prompt comes with a token for each of them.
        let beside = if decoding == 0 { fit.fixed } else { step_seconds(fit, decoding) };
        let per_token = fit.prefill + beside / tokens(chunk);
        let ratio = self.seen.ratio_p95();
        self.shared.gauges.set_prediction(ahead, per_token, ratio);
    }

    /// A job got its first token.
    pub(crate) fn note_first_token(&mut self, predicted: Option<Duration>, submitted: Instant) {
        if let Some(expected) = predicted {
            self.seen.began(expected, submitted.elapsed());
        }
    }
}

fn tokens_of(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Ahead, Duration, Played, Room, Seen, ahead};
    use crate::costs::Fit;

    const FIT: Fit = Fit { fixed: 0.01, decode: 0.005, prefill: 0.002 };
    const ROOM: Room = Room { slots: 2, cells: 1_000 };

    fn job(unread: usize, left: f64) -> Played {
        Played { unread, left, cells: 100 }
    }

    fn wait(fit: Fit, room: Room, running: &[Played], waiting: &[Played]) -> f64 {
        ahead(fit, room, running, waiting).wait
    }

    #[test]
    fn with_a_free_slot_nobody_waits() {
        assert!(wait(FIT, ROOM, &[], &[]) < 1e-9);
        assert!(wait(FIT, ROOM, &[job(0, 50.0)], &[]) < 1e-9);
    }

    #[test]
    fn prompts_that_are_being_read_keep_nobody_out_of_a_free_slot() {
        let ahead = ahead(FIT, ROOM, &[job(5_000, 50.0)], &[]);
        assert_eq!(ahead, Ahead { wait: 0.0, unread: 5_000, readers: 1 });
    }

    #[test]
    fn behind_full_slots_one_waits_for_the_first_to_end() {
        let seconds = wait(FIT, ROOM, &[job(0, 50.0), job(0, 90.0)], &[]);
        assert!((seconds - 50.0 * 0.02).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn who_waits_already_goes_first() {
        let running = [job(0, 50.0), job(0, 90.0)];
        let seconds = wait(FIT, ROOM, &running, &[job(100, 30.0)]);
        // 50 steps of two, the prompt, 30 steps of two until the one that came in ends.
        assert!((seconds - (1.0 + 0.2 + 0.6)).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn cells_are_waited_for_like_slots() {
        let large = Played { cells: 900, ..job(0, 50.0) };
        let waiting = Played { cells: 200, ..job(0, 10.0) };
        let seconds = wait(FIT, ROOM, &[large], &[waiting]);
        assert!((seconds - 50.0 * 0.015).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn a_percentile_is_told_once_enough_was_compared() {
        let mut seen = Seen::default();
        for n in 0..20_u32 {
            assert_eq!(seen.ratio_p95().is_some(), n >= 8);
            seen.began(Duration::from_millis(100), Duration::from_millis(u64::from(100 + n)));
        }
        assert_eq!(seen.ratio_p95(), Some(1.18));
        seen.began(Duration::ZERO, Duration::from_secs(9));
        assert_eq!(seen.ratio_p95(), Some(1.18), "nothing to compare with");
    }

    #[test]
    fn answers_are_expected_as_long_as_they_have_been() {
        let mut seen = Seen::default();
        assert!((seen.answer_tokens(50) - 50.0).abs() < 1e-9, "never above the cap");
        for _ in 0..100 {
            seen.answered(20);
        }
        assert!((seen.answer_tokens(500) - 20.0).abs() < 0.1);
    }
}
