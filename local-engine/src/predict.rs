//! How long a job that came now would wait, by who runs, who waits and what steps have cost: the
//! jobs ahead are played through, each with the length that answers have had lately. Who is ahead of
//! whom is the queue's own to say: a copy of it deals out the turns, so that who floods it keeps only
//! itself waiting. What was expected is compared with what came, so that the error is known and a high
//! percentile can be told.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    costs::Fit,
    device::Device,
    job::{JobUsage, Priority, Scheduling},
    queue::{FairQueue, Waits},
    scheduler::Scheduler,
    sequence::Sequence,
    shared::{Shared, Waiting},
    status::count64,
};

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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Played {
    pub(crate) caller: u64,
    pub(crate) priority: Priority,
    /// Prompt tokens to be read.
    pub(crate) unread: usize,
    /// Tokens it will still generate.
    pub(crate) left: f64,
    /// Tokens of its cap that it will not use.
    pub(crate) unused: u64,
    /// Cells it was promised.
    pub(crate) cells: usize,
}

/// What a job is known by where it is played through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) prompt_tokens: usize,
    pub(crate) max_tokens: u32,
    pub(crate) generated: u32,
    /// Prompt tokens to be read.
    pub(crate) unread: usize,
}

/// A copy of the queue at one moment: it is made under the queue's lock and played through outside,
/// since the scheduler wants that lock too.
#[derive(Debug)]
pub(crate) struct Line(FairQueue<InLine>);

/// Who takes turns where it is played through.
#[derive(Debug)]
enum InLine {
    Job(Played),
    /// The one whose wait is asked for.
    Newcomer(u64, Priority),
}

/// Room for jobs: slots, and cells to promise.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Room {
    pub(crate) slots: usize,
    pub(crate) cells: usize,
}

/// What waits are predicted from, but for the queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Basis {
    pub(crate) fit: Fit,
    pub(crate) room: Room,
    /// Jobs that have begun.
    pub(crate) running: Vec<Played>,
    /// Those that will come in before anybody of the queue.
    pub(crate) first: Vec<Played>,
    /// Tokens that answers have had lately.
    answer_tokens: f64,
    /// Seconds for each prompt token of a newcomer.
    read_each: f64,
    /// 95th percentile of real over expected.
    off: Option<f64>,
}

/// The newest [`Basis`]; none before the first step.
#[derive(Debug, Default)]
pub(crate) struct Forecast(Mutex<Option<Basis>>);

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

    /// Tokens an answer is expected to have, if its cap allows.
    pub(crate) fn answer_tokens(&self) -> f64 {
        self.answer_tokens.unwrap_or(ANSWER_TOKENS)
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

impl Waits for InLine {
    fn caller(&self) -> u64 {
        match self {
            InLine::Job(job) => job.caller,
            InLine::Newcomer(caller, _) => *caller,
        }
    }

    fn priority(&self) -> Priority {
        match self {
            InLine::Job(job) => job.priority,
            InLine::Newcomer(_, priority) => *priority,
        }
    }

    fn tokens(&self) -> u64 {
        // Whoever waits was promised what it is served for.
        self.job().map_or(0, |job| count64(job.cells))
    }

    /// What it waits for is read before its turn comes, or soon after.
    fn held(&self) -> bool {
        false
    }

    fn is_part(&self) -> bool {
        false
    }
}

impl InLine {
    fn job(&self) -> Option<&Played> {
        match self {
            InLine::Job(job) => Some(job),
            InLine::Newcomer(..) => None,
        }
    }
}

impl Basis {
    /// A job of `caller` as it is played through.
    pub(crate) fn played(&self, of: &Scheduling, size: Size) -> Played {
        let generated = f64::from(size.generated);
        let cap = f64::from(size.max_tokens);
        let left = (self.answer_tokens.min(cap) - generated).max(1.0);
        Played {
            caller: of.caller,
            priority: of.priority,
            unread: size.unread,
            left,
            unused: whole(cap - generated - left),
            cells: size.prompt_tokens.saturating_add(tokens_of(size.max_tokens)),
        }
    }

    /// How much of a prompt is still to be read, by what of it was cached and the time it has taken.
    pub(crate) fn unread(&self, prompt_tokens: usize, usage: &JobUsage) -> usize {
        let read = whole(usage.prefill_time.as_secs_f64() / self.fit.prefill);
        let cached = tokens_of(usage.cached_tokens);
        prompt_tokens.saturating_sub(cached).saturating_sub(usize::try_from(read).unwrap_or(0))
    }

    fn waiting(&self, waiting: &Waiting) -> InLine {
        let prompt_tokens = waiting.job.prompt.len();
        let max_tokens = waiting.job.max_tokens;
        let size = Size { prompt_tokens, max_tokens, generated: 0, unread: prompt_tokens };
        InLine::Job(self.played(&waiting.job.scheduling, size))
    }

    /// The queue with a job of `newcomer` that came now, or as somebody behind all sees it.
    pub(crate) fn line(&self, queue: &FairQueue, newcomer: Option<&Scheduling>) -> Line {
        let caller = newcomer.map(|of| of.caller);
        let mut line = queue.seen_by(caller, |waiting| self.waiting(waiting));
        if let Some(of) = newcomer {
            line.push(InLine::Newcomer(of.caller, of.priority));
        }
        Line(line)
    }

    /// What the newcomer of `line` could expect with such a prompt.
    pub(crate) fn predict(&self, line: Line, prompt_tokens: usize) -> Prediction {
        let ahead = self.ahead(line);
        // Of each prompt that is being read no more comes first than the newcomer has itself: the
        // shortest rest is read first, the oldest prompt every few steps.
        let others = prompt_tokens.saturating_mul(ahead.readers).min(ahead.unread);
        let ttft = ahead.wait + self.read_each * tokens(prompt_tokens.saturating_add(others));
        Prediction {
            wait: duration(ahead.wait),
            ttft: duration(ttft),
            ttft_p95: self.off.map(|off| duration(ttft * off)),
        }
    }

    /// Until the newcomer of `line` could come in, or one behind all who wait.
    pub(crate) fn wait(&self, line: Line) -> Duration {
        duration(self.ahead(line).wait)
    }

    /// What is ahead of the newcomer in `line`, or of one behind all.
    fn ahead(&self, Line(mut line): Line) -> Ahead {
        let (fit, room) = (self.fit, self.room);
        let mut seconds = 0.0;
        let mut running = self.running.clone();
        let mut first = self.first.iter().copied().peekable();
        loop {
            let promised: usize = running.iter().map(|job| job.cells).sum();
            let next = first.peek().or_else(|| line.next()?.job());
            let needed = next.map_or(0, |job| job.cells);
            let fits = running.len() < room.slots && promised.saturating_add(needed) <= room.cells;
            if fits || running.is_empty() {
                let next = first.next().or_else(|| line.pop()?.job().copied());
                let Some(job) = next else {
                    let unread = running.iter().map(|job| job.unread).sum();
                    let readers = running.iter().filter(|job| job.unread > 0).count();
                    return Ahead { wait: seconds, unread, readers };
                };
                running.push(job);
                continue;
            }
            // All are read before one ends.
            seconds += fit.prefill * tokens(running.iter().map(|job| job.unread).sum());
            running.iter_mut().for_each(|job| job.unread = 0);
            // Until the first of them ends.
            let steps = running.iter().map(|job| job.left).fold(f64::INFINITY, f64::min).max(1.0);
            seconds += steps * step_seconds(fit, running.len());
            running.retain_mut(|job| {
                job.left -= steps;
                if job.left <= 0.0 {
                    line.give_back(job.caller, job.priority, job.unused);
                }
                job.left > 0.0
            });
        }
    }
}

impl Forecast {
    /// This is how it is now.
    pub(crate) fn set(&self, basis: Basis) {
        *self.lock() = Some(basis);
    }

    /// The newest one.
    pub(crate) fn basis(&self) -> Option<Basis> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Basis>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Shared {
    /// When a job of `of` with such a prompt could be expected to begin to answer if it came now.
    pub(crate) fn predict(&self, of: &Scheduling, prompt_tokens: usize) -> Option<Prediction> {
        let basis = self.forecast.basis()?;
        let line = basis.line(&self.queue().jobs, Some(of));
        Some(basis.predict(line, prompt_tokens))
    }

    /// How long a job would wait behind all who wait now.
    pub(crate) fn wait_behind_all(&self) -> Option<Duration> {
        let basis = self.forecast.basis()?;
        let line = basis.line(&self.queue().jobs, None);
        Some(basis.wait(line))
    }
}

impl<D: Device> Scheduler<D> {
    /// Publishes what is ahead of a newcomer but for the queue.
    pub(crate) fn publish_basis(&self) {
        let Some(fit) = self.costs.fit() else { return };
        let decoding = self.running().count();
        let chunk = self.prefill_bound(decoding).max(1);
        // Beside others each chunk of the prompt comes with a token for each of them.
        let beside = if decoding == 0 { fit.fixed } else { step_seconds(fit, decoding) };
        let mut basis = Basis {
            fit,
            room: Room { slots: self.slots_max, cells: self.cells_promised },
            running: Vec::new(),
            first: Vec::new(),
            answer_tokens: self.seen.answer_tokens(),
            read_each: fit.prefill + beside / tokens(chunk),
            off: self.seen.ratio_p95(),
        };
        let play = |job: &Sequence<D::Sampler>, unread: usize| {
            let generated = job.outbox.meter().generated_tokens();
            let Sequence { prompt_tokens, max_tokens, .. } = *job;
            basis.played(&job.scheduling, Size { prompt_tokens, max_tokens, generated, unread })
        };
        let inside = self.running().map(|(at, job)| {
            let unread = job.to_read().saturating_sub(self.read(at));
            play(job, unread)
        });
        let outside = self.swapped.iter().map(|outside| play(&outside.sequence, 0));
        basis.running = inside.chain(outside).collect();
        self.shared.forecast.set(basis);
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

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// So many whole tokens; none where it is less than one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float is cast to the nearest number there is"
)]
fn whole(tokens: f64) -> u64 {
    tokens as u64
}

#[cfg(test)]
mod tests {
    use super::{
        Ahead, Basis, Duration, FairQueue, InLine, Line, Played, Priority, Room, Scheduling, Seen,
        Size,
    };
    use crate::costs::Fit;

    const FIT: Fit = Fit { fixed: 0.01, decode: 0.005, prefill: 0.002 };
    const ROOM: Room = Room { slots: 2, cells: 1_000 };

    fn job(unread: usize, left: f64) -> Played {
        Played { caller: 1, priority: Priority::Normal, unread, left, unused: 0, cells: 100 }
    }

    fn line(waiting: &[Played]) -> FairQueue<InLine> {
        let mut line = FairQueue::new(9);
        waiting.iter().for_each(|job| line.push(InLine::Job(*job)));
        line
    }

    fn basis(fit: Fit, room: Room, running: &[Played]) -> Basis {
        let (running, first) = (running.to_vec(), Vec::new());
        Basis { fit, room, running, first, answer_tokens: 9.0, read_each: 0.0, off: None }
    }

    fn wait(fit: Fit, room: Room, running: &[Played], waiting: &[Played]) -> f64 {
        basis(fit, room, running).ahead(Line(line(waiting))).wait
    }

    fn wait_of(newcomer: (u64, Priority), running: &[Played], waiting: &[Played]) -> f64 {
        let mut line = line(waiting);
        line.push(InLine::Newcomer(newcomer.0, newcomer.1));
        basis(FIT, Room { slots: 1, cells: 1_000 }, running).ahead(Line(line)).wait
    }

    #[test]
    fn with_a_free_slot_nobody_waits() {
        assert!(wait(FIT, ROOM, &[], &[]) < 1e-9);
        assert!(wait(FIT, ROOM, &[job(0, 50.0)], &[]) < 1e-9);
    }

    #[test]
    fn prompts_that_are_being_read_keep_nobody_out_of_a_free_slot() {
        let ahead = basis(FIT, ROOM, &[job(5_000, 50.0)]).ahead(Line(line(&[])));
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
    fn who_floods_the_queue_waits_behind_itself_and_others_behind_what_runs() {
        let flood = [job(0, 50.0); 6];
        let step = 0.015;
        let own = wait_of((1, Priority::Normal), &flood[..1], &flood[1..]);
        assert!((own - 300.0 * step).abs() < 1e-9, "{own}");
        // One who came to a line that had not moved yet takes its turn behind one of each other.
        let other = wait_of((2, Priority::Normal), &flood[..1], &flood[1..]);
        assert!((other - 100.0 * step).abs() < 1e-9, "{other}");
        let urgent = wait_of((2, Priority::High), &flood[..1], &flood[1..]);
        assert!((urgent - 50.0 * step).abs() < 1e-9, "{urgent}");
        let flex = wait_of((2, Priority::Low), &flood[..1], &flood[1..]);
        assert!((flex - 300.0 * step).abs() < 1e-9, "{flex}");
    }

    #[test]
    fn what_answers_leave_of_their_caps_is_given_back_as_it_will_be() {
        let of = |caller, unused| Played { caller, unused, ..job(0, 10.0) };
        // Both wait with two jobs: the caller whose answers are short gets its turns back.
        let waiting = [of(1, 90), of(1, 90), of(1, 90), of(2, 0), of(2, 0)];
        let second = wait_of((2, Priority::Normal), &[], &waiting);
        assert!((second - 50.0 * 0.015).abs() < 1e-9, "behind all of them: {second}");
        let first = wait_of((1, Priority::Normal), &[], &waiting);
        assert!((first - 40.0 * 0.015).abs() < 1e-9, "before the last of the other: {first}");
    }

    #[test]
    fn what_was_sent_ahead_comes_in_first() {
        let mut basis = basis(FIT, Room { slots: 1, cells: 1_000 }, &[job(0, 50.0)]);
        basis.first = vec![job(0, 50.0)];
        let mut line = line(&[]);
        line.push(InLine::Newcomer(2, Priority::High));
        let seconds = basis.ahead(Line(line)).wait;
        assert!((seconds - 100.0 * 0.015).abs() < 1e-9, "{seconds}");
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
        assert!((seen.answer_tokens() - 128.0).abs() < 1e-9);
        for _ in 0..100 {
            seen.answered(20);
        }
        assert!((seen.answer_tokens() - 20.0).abs() < 0.1);
    }

    #[test]
    fn no_answer_is_expected_longer_than_its_cap() {
        let basis = Basis { answer_tokens: 20.0, ..basis(FIT, ROOM, &[]) };
        let played = |max_tokens, generated| {
            let size = Size { prompt_tokens: 30, max_tokens, generated, unread: 0 };
            let played = basis.played(&Scheduling::default(), size);
            (played.left, played.unused, played.cells)
        };
        assert_eq!(played(5, 0), (5.0, 0, 35));
        assert_eq!(played(100, 5), (15.0, 80, 130));
        assert_eq!(played(100, 60), (1.0, 39, 130), "longer than the others");
        assert_eq!(played(100, 100), (1.0, 0, 130));
    }
}
