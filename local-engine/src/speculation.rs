//! Speculative decoding: tokens are proposed and computed together with the next one. Each is drawn
//! after, as it would have been; as long as what is drawn is what was proposed, the next one is there
//! already. So a wrong proposal costs time and never changes an answer.
//!
//! Proposals come from what was said before (`lookup.rs`: a quotation, code that is edited, names, the
//! fields of a JSON object), or from a smaller model of the same vocabulary (`draft.rs`).
//!
//! Whether it pays depends on what is asked. Steps with and without proposals are timed, the gain is
//! reckoned for each class of request, and a class for which there is none goes without for a while.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use crate::{job::Job, lookup::lookup};

/// Most tokens proposed at once.
pub const DRAFT_TOKENS_MAX: u32 = 16;
/// Most jobs that may generate in a step with proposals.
pub const DRAFT_STREAMS_MAX: u32 = 8;

/// A long prompt begins here: there is more to quote from.
const LONG_PROMPT: usize = 512;
/// Steps without proposals before there are any: what they cost is what a gain is measured by.
const PLAIN_STEPS_FIRST: u64 = 4;
/// One step in so many goes without, so that the measure stays true.
const PLAIN_EVERY: u64 = 32;
/// Below this gain a class goes without, for so many tokens.
const GAIN_MIN: f64 = 1.03;
const REST_TOKENS: u64 = 512;
/// How a gain is judged where proposals cost next to nothing to make.
const OF_LOOKUP: Judge = Judge { after: 16, forget: 0.95 };
/// A draft model must have read the prompt first: what that took is spread over more steps.
const OF_DRAFT: Judge = Judge { after: 32, forget: 0.99 };

/// Whether the tokens of an answer are guessed before they are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// By a second, smaller model of the same vocabulary.
    Draft {
        /// Its GGUF file.
        file: PathBuf,
        /// Most tokens guessed at once, 1 to [`DRAFT_TOKENS_MAX`].
        tokens_max: u32,
        /// Most jobs that generate at the same time for it to be tried, 1 to [`DRAFT_STREAMS_MAX`];
        /// for so many the draft model keeps what it has read.
        streams_max: u32,
    },
}

/// How long a class is tried before its gain is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Judge {
    /// Steps with proposals.
    after: u64,
    /// What the past still counts after one more step.
    forget: f64,
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
    /// Whether a draft model makes the proposals.
    by_draft: bool,
    judge: Judge,
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

// === impl Speculation ===

impl Speculation {
    /// Most tokens guessed at once and most jobs that may generate meanwhile; `None`: it is off.
    pub(crate) fn limits(&self) -> Option<(u32, u32)> {
        match self {
            Speculation::Off => None,
            Speculation::Lookup { tokens_max, streams_max }
            | Speculation::Draft { tokens_max, streams_max, .. } => {
                Some((*tokens_max, *streams_max))
            }
        }
    }

    /// The same, but only while one job generates.
    pub(crate) fn for_one(&self) -> Speculation {
        let mut one = self.clone();
        match &mut one {
            Speculation::Off => {}
            Speculation::Lookup { streams_max, .. } | Speculation::Draft { streams_max, .. } => {
                *streams_max = 1;
            }
        }
        one
    }

    /// The draft model's file, where there is one.
    #[must_use]
    pub fn draft_file(&self) -> Option<&Path> {
        match self {
            Speculation::Draft { file, .. } => Some(file),
            Speculation::Off | Speculation::Lookup { .. } => None,
        }
    }
}

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
    pub(crate) fn new(speculation: &Speculation) -> Option<Speculator> {
        let (tokens_max, streams_max) = speculation.limits()?;
        let by_draft = speculation.draft_file().is_some();
        let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Some(Speculator {
            by_draft,
            judge: if by_draft { OF_DRAFT } else { OF_LOOKUP },
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

    /// How many tokens to propose next, at most `most`; none while the class rests.
    pub(crate) fn length(&self, class: RequestClass, length: DraftLength, most: usize) -> usize {
        let rests = self.classes[class.index()].rest > 0;
        if rests { 0 } else { length.0.min(self.tokens_max).min(most) }
    }

    /// The tokens to propose after `history`, at most `most`: of those that a draft model has
    /// `drafted`, where there is one.
    pub(crate) fn draft<'a>(
        &self,
        (class, length): (RequestClass, DraftLength),
        history: &'a [i32],
        drafted: &'a [i32],
        most: usize,
    ) -> &'a [i32] {
        let length = self.length(class, length, most);
        if self.by_draft { &drafted[..drafted.len().min(length)] } else { lookup(history, length) }
    }

    /// Time that was spent for a class beside its steps: a draft model has read.
    pub(crate) fn spent(&mut self, class: RequestClass, ns: f64) {
        self.classes[class.index()].took_ns += ns;
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
        let Judge { after, forget } = self.judge;
        let own = &mut self.classes[part.class.index()];
        own.steps += 1;
        let tokens = f64::from(u32::try_from(accepted + 1).unwrap_or(u32::MAX));
        own.would_have_ns = own.would_have_ns * forget + tokens * token_ns;
        own.took_ns = own.took_ns * forget + part.ns;
        let gain = own.would_have_ns / own.took_ns.max(1.0);
        if own.steps >= after && gain < GAIN_MIN {
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
        Speculator::new(&speculation).expect("on")
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
            speculator.draft((class, DraftLength::default()), &history, &[], 9).len()
        };
        let mut length = DraftLength::default();
        // Three tokens in the time of two, and one in the time of one and a half.
        for _ in 0..2 * OF_LOOKUP.after {
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
    fn what_a_draft_model_reads_counts_against_its_gain() {
        let file = "draft.gguf".into();
        let speculation = Speculation::Draft { file, tokens_max: 8, streams_max: 1 };
        let gain = |read_ns: f64| {
            let mut speculator = Speculator::new(&speculation).expect("on");
            let gauges = ClassGauges::default();
            for _ in 0..PLAIN_STEPS_FIRST {
                speculator.observe_plain(timed(CLASS, 1e6), &gauges);
            }
            speculator.spent(CLASS, read_ns);
            for _ in 0..OF_DRAFT.after {
                speculator.observe(timed(CLASS, 2e6), (3, 3), &mut DraftLength(3), &gauges);
            }
            let resting = speculator.length(CLASS, DraftLength(3), 9) == 0;
            (gauges.read()[0].gain_permille, resting)
        };
        assert_eq!(gain(0.0), (Some(2_000), false), "four tokens in the time of two");
        let (read, resting) = gain(1e9);
        assert!(read < Some(1_000) && resting, "{read:?}: a prompt too long for its answer");
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
