//! Speculative decoding by prompt lookup: where an answer repeats what was said before (a quotation,
//! code that is edited, names, the fields of a JSON object), the tokens that followed then are
//! proposed now and computed together with the next one. Each is drawn after, as it would have been;
//! as long as what is drawn is what was proposed, the next one is there already. So a wrong proposal
//! costs time and never changes an answer.
//!
//! Whether it pays depends on what is asked. Steps with and without proposals are timed, the gain is
//! reckoned for each class of request, and a class for which there is none goes without for a while.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::job::Job;

/// Most tokens proposed at once.
pub const DRAFT_TOKENS_MAX: u32 = 16;
/// Most jobs that may generate in a step with proposals.
pub const DRAFT_STREAMS_MAX: u32 = 8;

/// Fewest tokens at the end that must have been there before, and most that are compared.
const MATCH_MIN: usize = 2;
const MATCH_MAX: usize = 8;
/// Tokens that are looked through.
const LOOK_BACK_MAX: usize = 16_384;
/// A long prompt begins here: there is more to quote from.
const LONG_PROMPT: usize = 512;
/// Steps without proposals before there are any: what they cost is what a gain is measured by.
const PLAIN_STEPS_FIRST: u64 = 4;
/// One step in so many goes without, so that the measure stays true.
const PLAIN_EVERY: u64 = 32;
/// Steps of a class before its gain is judged.
const JUDGED_AFTER: u64 = 16;
/// Below this gain a class goes without, for so many tokens.
const GAIN_MIN: f64 = 1.03;
const REST_TOKENS: u64 = 512;
/// What the past still counts after one more step.
const FORGET: f64 = 0.95;

/// Whether the tokens of an answer are guessed before they are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speculation {
    /// They are not.
    #[default]
    Off,
    /// By what followed the same tokens earlier in the prompt or the answer.
    Lookup {
        /// Most tokens guessed at once, 1 to [`DRAFT_TOKENS_MAX`].
        tokens_max: u32,
        /// Most jobs that generate at the same time for it to be tried, 1 to [`DRAFT_STREAMS_MAX`]:
        /// with more the processor has no time to spare.
        streams_max: u32,
    },
}

/// Requests that are alike in how well their answers can be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestClass {
    /// Tokens are drawn by chance, and not always the likeliest.
    pub sampled: bool,
    /// The answer must match a rule.
    pub constrained: bool,
    /// The prompt has 512 tokens or more.
    pub long_prompt: bool,
}

/// How speculation has gone for a class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculationStatus {
    /// Which requests.
    pub class: RequestClass,
    /// Steps with proposals, counted for each job.
    pub steps: u64,
    /// Tokens proposed.
    pub drafted: u64,
    /// Those of them that were drawn.
    pub accepted: u64,
    /// Time that the class's last tokens would have taken without, over what they took, in
    /// thousandths; `None` before it is known.
    pub gain_permille: Option<u64>,
    /// Whether it goes without now, since it did not pay.
    pub resting: bool,
}

/// The numbers of all classes, for anyone to read.
#[derive(Debug, Default)]
pub(crate) struct ClassGauges([ClassGauge; RequestClass::COUNT]);

#[derive(Debug, Default)]
struct ClassGauge {
    steps: AtomicU64,
    drafted: AtomicU64,
    accepted: AtomicU64,
    gain_permille: AtomicU64,
    resting: AtomicBool,
}

/// What the scheduler knows of what pays.
#[derive(Debug)]
pub(crate) struct Speculator {
    tokens_max: usize,
    /// What a token takes without proposals, by the number of jobs that generate: where there is no
    /// place for it, none are made.
    plain: Vec<Plain>,
    classes: [Class; RequestClass::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Plain {
    steps: u64,
    /// Steps with proposals since the last one without.
    since: u64,
    token_ns: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    steps: u64,
    would_have_ns: f64,
    took_ns: f64,
    rest: u64,
}

/// A job's part of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) class: RequestClass,
    /// Jobs that generated in the step.
    pub(crate) streams: usize,
    /// The time attributed to the part.
    pub(crate) ns: f64,
}

/// How many tokens to propose for one job next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DraftLength(usize);

// === impl RequestClass ===

impl RequestClass {
    const COUNT: usize = 8;

    /// The class of a job.
    pub(crate) fn of(job: &Job) -> RequestClass {
        RequestClass {
            sampled: job.sampling.temperature > 0.0,
            constrained: job.constraint.is_some(),
            long_prompt: job.prompt.len() >= LONG_PROMPT,
        }
    }

    fn all() -> [RequestClass; RequestClass::COUNT] {
        std::array::from_fn(|at| RequestClass {
            sampled: at & 1 > 0,
            constrained: at & 2 > 0,
            long_prompt: at & 4 > 0,
        })
    }

    fn index(self) -> usize {
        usize::from(self.sampled)
            | usize::from(self.constrained) << 1
            | usize::from(self.long_prompt) << 2
    }
}

// === impl DraftLength ===

impl Default for DraftLength {
    fn default() -> DraftLength {
        DraftLength(2)
    }
}

impl DraftLength {
    /// More where all were right, fewer where none was.
    fn learn(&mut self, drafted: usize, accepted: usize, most: usize) {
        if accepted == drafted {
            self.0 = (self.0 * 2).min(most);
        } else if accepted == 0 {
            self.0 = (self.0 / 2).max(1);
        }
    }
}

// === impl Speculator ===

impl Speculator {
    /// `None`: it is off.
    pub(crate) fn new(speculation: Speculation) -> Option<Speculator> {
        let Speculation::Lookup { tokens_max, streams_max } = speculation else { return None };
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Some(Speculator {
            tokens_max: size(tokens_max.clamp(1, DRAFT_TOKENS_MAX)),
            plain: vec![Plain::default(); size(streams_max.clamp(1, DRAFT_STREAMS_MAX))],
            classes: [Class::default(); RequestClass::COUNT],
        })
    }

    /// Whether a step in which so many jobs generate may have proposals.
    pub(crate) fn may(&self, streams: usize) -> bool {
        let plain = streams.checked_sub(1).and_then(|at| self.plain.get(at));
        plain.is_some_and(|plain| plain.steps >= PLAIN_STEPS_FIRST && plain.since < PLAIN_EVERY)
    }

    /// The tokens to propose after `history`, at most `most`; none while its class rests.
    pub(crate) fn draft<'a>(
        &self,
        class: RequestClass,
        length: DraftLength,
        history: &'a [i32],
        most: usize,
    ) -> &'a [i32] {
        if self.classes[class.index()].rest > 0 {
            return &[];
        }
        lookup(history, length.0.min(self.tokens_max).min(most))
    }

    /// A job's part of a step without proposals: one token.
    pub(crate) fn observe_plain(&mut self, part: Timed, gauges: &ClassGauges) {
        self.woke(part.class, 1, gauges);
        let Some(plain) = self.plain_of(part.streams) else { return };
        plain.steps += 1;
        plain.since = 0;
        let first = plain.steps == 1;
        plain.token_ns = if first { part.ns } else { plain.token_ns * 0.9 + part.ns * 0.1 };
    }

    /// A job's part of a step with proposals: what was proposed, and what of it was drawn.
    pub(crate) fn observe(
        &mut self,
        part: Timed,
        (drafted, accepted): (usize, usize),
        length: &mut DraftLength,
        gauges: &ClassGauges,
    ) {
        length.learn(drafted, accepted, self.tokens_max);
        let Some(plain) = self.plain_of(part.streams) else { return };
        plain.since += 1;
        let token_ns = plain.token_ns;
        let own = &mut self.classes[part.class.index()];
        own.steps += 1;
        let tokens = f64::from(u32::try_from(accepted + 1).unwrap_or(u32::MAX));
        own.would_have_ns = own.would_have_ns * FORGET + tokens * token_ns;
        own.took_ns = own.took_ns * FORGET + part.ns;
        let gain = own.would_have_ns / own.took_ns.max(1.0);
        if own.steps >= JUDGED_AFTER && gain < GAIN_MIN {
            *own = Class { rest: REST_TOKENS, ..Class::default() };
        }
        gauges.0[part.class.index()].note(drafted, accepted, gain, own.rest > 0);
    }

    fn plain_of(&mut self, streams: usize) -> Option<&mut Plain> {
        self.plain.get_mut(streams.checked_sub(1)?)
    }

    /// A class that rests tries again after so many tokens.
    fn woke(&mut self, class: RequestClass, tokens: u64, gauges: &ClassGauges) {
        let own = &mut self.classes[class.index()];
        if own.rest > 0 {
            own.rest = own.rest.saturating_sub(tokens);
            gauges.0[class.index()].resting.store(own.rest > 0, Relaxed);
        }
    }
}

// === impl ClassGauges ===

impl ClassGauges {
    /// The classes for which something was proposed.
    pub(crate) fn read(&self) -> Vec<SpeculationStatus> {
        let all = RequestClass::all().into_iter().zip(&self.0);
        let status = all.map(|(class, gauge)| SpeculationStatus {
            class,
            steps: gauge.steps.load(Relaxed),
            drafted: gauge.drafted.load(Relaxed),
            accepted: gauge.accepted.load(Relaxed),
            gain_permille: Some(gauge.gain_permille.load(Relaxed)).filter(|gain| *gain > 0),
            resting: gauge.resting.load(Relaxed),
        });
        status.filter(|status| status.steps > 0).collect()
    }
}

impl ClassGauge {
    fn note(&self, drafted: usize, accepted: usize, gain: f64, resting: bool) {
        let count = |tokens: usize| u64::try_from(tokens).unwrap_or(u64::MAX);
        self.steps.fetch_add(1, Relaxed);
        self.drafted.fetch_add(count(drafted), Relaxed);
        self.accepted.fetch_add(count(accepted), Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        #[expect(clippy::cast_sign_loss, reason = "times are not negative")]
        self.gain_permille.store((gain * 1e3).clamp(1.0, 1e6) as u64, Relaxed);
        self.resting.store(resting, Relaxed);
    }
}

/// What followed the end of `history` the last time: after the place where most of its last tokens
/// are found again, the latest of equals.
fn lookup(history: &[i32], most: usize) -> &[i32] {
    let Some((last, before)) = history.split_last() else { return &[] };
    let begin = before.len().saturating_sub(LOOK_BACK_MAX);
    let (mut longest, mut end) = (MATCH_MIN - 1, None);
    for at in (begin..before.len()).rev() {
        if before[at] != *last {
            continue;
        }
        let ends = before[..at].iter().rev().zip(before.iter().rev());
        let length = 1 + ends.take(MATCH_MAX - 1).take_while(|(there, here)| there == here).count();
        if length > longest {
            (longest, end) = (length, Some(at + 1));
            if length == MATCH_MAX {
                break;
            }
        }
    }
    let Some(from) = end else { return &[] };
    &history[from..history.len().min(from + most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: RequestClass =
        RequestClass { sampled: false, constrained: false, long_prompt: false };

    fn timed(class: RequestClass, ns: f64) -> Timed {
        Timed { class, streams: 1, ns }
    }

    fn speculator() -> Speculator {
        let speculation = Speculation::Lookup { tokens_max: 8, streams_max: 2 };
        Speculator::new(speculation).expect("on")
    }

    #[test]
    fn what_followed_the_longest_match_is_proposed() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        assert_eq!(lookup(&[9, 1, 2, 3, 8, 1, 2, 4, 7, 9, 1, 2], 2), [3, 8], "9 1 2, not 1 2");
        assert_eq!(lookup(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4], "the latest of equals");
        assert_eq!(lookup(&[1, 1, 1], 4), [1], "no further than what is there");
        assert_eq!(lookup(&[5, 2, 3, 1, 2], 4), [] as [i32; 0], "one token is no match");
        assert_eq!(lookup(&[1, 2, 3, 1, 2], 0), [] as [i32; 0]);
        assert_eq!(lookup(&[], 4), [] as [i32; 0]);
    }

    #[test]
    fn nothing_is_proposed_before_it_is_known_what_a_token_takes() {
        let (mut speculator, gauges) = (speculator(), ClassGauges::default());
        assert!(!speculator.may(1));
        for _ in 0..PLAIN_STEPS_FIRST {
            speculator.observe_plain(timed(CLASS, 1e6), &gauges);
        }
        assert!(
            speculator.may(1) && !speculator.may(2) && !speculator.may(3) && !speculator.may(0)
        );
        let mut length = DraftLength::default();
        for _ in 0..PLAIN_EVERY {
            assert!(speculator.may(1));
            speculator.observe(timed(CLASS, 1e6), (2, 2), &mut length, &gauges);
        }
        assert!(!speculator.may(1), "now and then a step without, as a measure");
        speculator.observe_plain(timed(CLASS, 1e6), &gauges);
        assert!(speculator.may(1));
    }

    #[test]
    fn a_class_without_gain_rests_and_tries_again() {
        let (mut speculator, gauges) = (speculator(), ClassGauges::default());
        let other = RequestClass { constrained: true, ..CLASS };
        for _ in 0..PLAIN_STEPS_FIRST {
            speculator.observe_plain(timed(CLASS, 1e6), &gauges);
        }
        let history = [1, 2, 3, 4, 1, 2];
        let drafted = |speculator: &Speculator, class| {
            speculator.draft(class, DraftLength::default(), &history, 9).len()
        };
        let mut length = DraftLength::default();
        // Three tokens in the time of two, and one in the time of one and a half.
        for _ in 0..2 * JUDGED_AFTER {
            speculator.observe(timed(other, 2e6), (2, 2), &mut length, &gauges);
            speculator.observe(timed(CLASS, 1.5e6), (2, 0), &mut length, &gauges);
        }
        assert_eq!((drafted(&speculator, CLASS), drafted(&speculator, other)), (0, 2));
        let told = gauges.read();
        let of = |class| told.iter().find(|told| told.class == class).expect("told");
        assert!(of(CLASS).resting && !of(other).resting);
        assert_eq!(of(other).gain_permille, Some(1_500));
        assert_eq!((of(other).drafted, of(other).accepted), (64, 64));
        for _ in 0..REST_TOKENS {
            assert_eq!(drafted(&speculator, CLASS), 0);
            speculator.observe_plain(timed(CLASS, 1e6), &gauges);
        }
        assert_eq!(drafted(&speculator, CLASS), 2, "things may have changed");
    }

    #[test]
    fn the_draft_grows_while_it_is_right() {
        let mut length = DraftLength::default();
        for _ in 0..4 {
            let drafted = length.0;
            length.learn(drafted, drafted, 8);
        }
        assert_eq!(length.0, 8);
        length.learn(8, 3, 8);
        assert_eq!(length.0, 8);
        for _ in 0..5 {
            length.learn(8, 0, 8);
        }
        assert_eq!(length.0, 1);
    }
}
