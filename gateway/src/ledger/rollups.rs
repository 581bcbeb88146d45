//! Sums per minute, hour and day, so that a summary of millions of entries reads a few hundred rows.
//!
//! Each span has rows by five sets of dimensions: (), route, model x provider, key, and
//! route x model x key. Spans are those of commit time in UTC. Entries are added to the current
//! minute; a minute that is over is added to its hour, an hour to its day. **Invariants:** rows are
//! sums of entries and nothing else, so they can be rebuilt from the journal to the byte; a span
//! has at most [`ROWS_MAX`] rows per set, then a row `other` takes the rest; a span that has passed
//! never changes.

use super::tally::{Ended, Spent, Tally};
use crate::store::codec::Row;
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Rows of one set in one span.
const ROWS_MAX: usize = 512;
/// Names that are told apart; later ones are `other`.
const NAMES_MAX: usize = 65_535;
/// Past spans kept in memory until the index has them, should it fail for long.
pub(crate) const PAST_MAX: usize = 256;
/// Minutes that stay in the index: two days. Older ranges begin and end with whole hours, and what
/// is between is read.
pub(crate) const MINUTES_KEPT: u64 = 2 * 24 * 60;

/// No such dimension in this set, or no attempt.
const NONE: u32 = 0;
/// Everything beyond the caps.
pub(crate) const OTHER: u32 = 1;

/// A set of dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Set {
    All,
    Route,
    ModelProvider,
    Key,
    RouteModelKey,
}

/// All sets.
pub(crate) const SETS: [Set; 5] =
    [Set::All, Set::Route, Set::ModelProvider, Set::Key, Set::RouteModelKey];

/// How long a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    Minute,
    Hour,
    Day,
}

/// One stretch of time: its level, and its number since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) level: Level,
    pub(crate) at: u64,
}

/// Names of one row, as numbers of [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Dims {
    pub(crate) set: Set,
    pub(crate) route: u32,
    pub(crate) model: u32,
    pub(crate) provider: u32,
    pub(crate) key: u32,
}

impl Dims {
    /// The row of a set that takes what is beyond the cap.
    pub(crate) fn rest(set: Set) -> Self {
        Self { set, route: OTHER, model: OTHER, provider: OTHER, key: OTHER }
    }

    /// Of a route, a model, a provider and a key those that a set has.
    fn of(set: Set, [route, model, provider, key]: [u32; 4]) -> Self {
        let none = Self { set, route: NONE, model: NONE, provider: NONE, key: NONE };
        match set {
            Set::All => none,
            Set::Route => Self { route, ..none },
            Set::ModelProvider => Self { model, provider, ..none },
            Set::Key => Self { key, ..none },
            Set::RouteModelKey => Self { route, model, provider, key, ..none },
        }
    }
}

/// The rows of a span.
pub(crate) type Rows = BTreeMap<Dims, Tally>;

/// The rows of one set.
pub(crate) fn of_set(rows: &Rows, set: Set) -> impl Iterator<Item = (&Dims, &Tally)> {
    let first = Dims { set, route: 0, model: 0, provider: 0, key: 0 };
    rows.range(first..).take_while(move |(dims, _)| dims.set == set)
}

/// Names and their numbers, in order of appearance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<Box<str>, u32, RandomState>,
    names: Vec<Box<str>>,
}

/// The rows of one span while it lasts.
#[derive(Clone, Debug, Default)]
struct Current {
    at: u64,
    rows: HashMap<Dims, Tally, RandomState>,
    counts: [usize; SETS.len()],
}

/// The current spans, and those the index does not have yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rollups {
    pub(crate) names: Names,
    minute: Current,
    hour: Current,
    day: Current,
    past: BTreeMap<Span, Rows>,
    given_up: GivenUp,
}

/// Spans that are neither in memory nor in the index: of each level those between two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp([Option<(u64, u64)>; 3]);

impl GivenUp {
    fn add(&mut self, span: Span) {
        let (first, last) = self.0[span.level as usize].unwrap_or((span.at, span.at));
        self.0[span.level as usize] = Some((first.min(span.at), last.max(span.at)));
    }

    /// Whether this one may be among them.
    pub(crate) fn has(&self, span: Span) -> bool {
        self.0[span.level as usize].is_some_and(|(first, last)| (first..=last).contains(&span.at))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Level {
    /// All levels, from the longest.
    pub(crate) const ALL: [Self; 3] = [Self::Day, Self::Hour, Self::Minute];

    /// Milliseconds of a span.
    pub(crate) const fn ms(self) -> u64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

// === impl Rollups ===

impl Rollups {
    /// Adds an entry that was committed at `unix_ms`.
    pub(crate) fn add(&mut self, unix_ms: u64, row: &Row) {
        self.turn(unix_ms / Level::Minute.ms());
        let key = self.names.number(row.key.0.as_ref());
        let ended = Ended::from(row);
        if let [attempt] = row.attempts.as_slice() {
            // Nearly all: one look-up for both.
            let names = self.attempt_names(attempt, key);
            let spent = Spent::from(attempt);
            self.each(names, |tally| {
                tally.attempt(spent);
                tally.entry(ended);
            });
            return;
        }
        for attempt in &row.attempts {
            let names = self.attempt_names(attempt, key);
            let spent = Spent::from(attempt);
            self.each(names, |tally| tally.attempt(spent));
        }
        let names = match Tally::face(row) {
            Some(attempt) => self.attempt_names(attempt, key),
            None => [NONE, NONE, NONE, key],
        };
        self.each(names, |tally| tally.entry(ended));
    }

    fn attempt_names(&mut self, attempt: &super::Attempt, key: u32) -> [u32; 4] {
        let names = &mut self.names;
        [
            names.number(attempt.route.as_str()),
            names.number(&attempt.model),
            names.number(&attempt.provider),
            key,
        ]
    }

    fn each(&mut self, names: [u32; 4], add: impl Fn(&mut Tally)) {
        for set in SETS {
            add(self.minute.row(Dims::of(set, names)));
        }
    }

    /// Moves on to `minute`: what is over goes where it belongs.
    fn turn(&mut self, minute: u64) {
        if minute <= self.minute.at {
            return;
        }
        let over = self.minute.next(minute);
        if !over.1.is_empty() {
            self.turn_hour(over.0 / 60);
            self.hour.take(&over.1);
            self.keep(Level::Minute, over);
        }
        self.turn_hour(minute / 60);
    }

    fn turn_hour(&mut self, hour: u64) {
        if hour <= self.hour.at {
            return;
        }
        let over = self.hour.next(hour);
        if !over.1.is_empty() {
            self.turn_day(over.0 / 24);
            self.day.take(&over.1);
            self.keep(Level::Hour, over);
        }
        self.turn_day(hour / 24);
    }

    fn turn_day(&mut self, day: u64) {
        if day <= self.day.at {
            return;
        }
        let over = self.day.next(day);
        if !over.1.is_empty() {
            self.keep(Level::Day, over);
        }
    }

    fn keep(&mut self, level: Level, (at, rows): (u64, Rows)) {
        self.past.insert(Span { level, at }, rows);
    }

    /// Gives up what is too much to be held. Only for one whose spans the index should have taken
    /// and did not: whoever adds up the journal takes them block by block. No checkpoint is made
    /// after that: the next start adds them up again.
    pub(crate) fn bound_past(&mut self) {
        while self.past.len() > PAST_MAX
            // Minutes stand first: the least is read anew for them.
            && let Some((span, _)) = self.past.pop_first()
        {
            self.given_up.add(span);
        }
    }

    /// What was given up.
    pub(crate) fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// The spans that are over and that the index does not have yet.
    pub(crate) fn past(&self) -> &BTreeMap<Span, Rows> {
        &self.past
    }

    /// Takes them.
    pub(crate) fn take_past(&mut self) -> BTreeMap<Span, Rows> {
        std::mem::take(&mut self.past)
    }

    /// The spans that last, as far as they were added up: the hour has its minutes that are over.
    pub(crate) fn current(&self) -> [(Span, Rows); 3] {
        [(Level::Minute, &self.minute), (Level::Hour, &self.hour), (Level::Day, &self.day)].map(
            |(level, current)| {
                let rows = current.rows.iter().map(|(dims, tally)| (*dims, tally.clone()));
                (Span { level, at: current.at }, rows.collect())
            },
        )
    }

    /// The index has everything that is over now.
    pub(crate) fn forget_past(&mut self) {
        self.past.clear();
    }

    /// Goes on with a span, whose rows the index has.
    pub(crate) fn restore(&mut self, span: Span, rows: Rows) {
        let current = match span.level {
            Level::Minute => &mut self.minute,
            Level::Hour => &mut self.hour,
            Level::Day => &mut self.day,
        };
        current.at = span.at;
        for (dims, tally) in rows {
            let other = dims == Dims::rest(dims.set);
            current.counts[dims.set as usize] += usize::from(!other);
            current.rows.insert(dims, tally);
        }
    }

    /// The current minute.
    pub(crate) fn minute(&self) -> u64 {
        self.minute.at
    }
}

// === impl Current ===

impl Current {
    fn row(&mut self, dims: Dims) -> &mut Tally {
        let count = &mut self.counts[dims.set as usize];
        let is_other = dims == Dims::rest(dims.set);
        let full = *count >= ROWS_MAX && !self.rows.contains_key(&dims);
        let dims = if full { Dims::rest(dims.set) } else { dims };
        self.rows.entry(dims).or_insert_with(|| {
            *count += usize::from(!full && !is_other);
            Tally::default()
        })
    }

    /// Adds rows, in their order.
    fn take(&mut self, rows: &Rows) {
        for (dims, tally) in rows {
            self.row(*dims).merge(tally);
        }
    }

    /// Begins another span; returns the former.
    fn next(&mut self, at: u64) -> (u64, Rows) {
        let rows: Rows = self.rows.drain().collect();
        self.counts = [0; SETS.len()];
        (std::mem::replace(&mut self.at, at), rows)
    }
}

// === impl Names ===

impl Names {
    /// The number of `name`, which is remembered.
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= NAMES_MAX {
            return OTHER;
        }
        self.push(name)
    }

    /// Remembers the next name.
    pub(crate) fn push(&mut self, name: &str) -> u32 {
        let number = u32::try_from(self.names.len()).unwrap_or(OTHER).saturating_add(OTHER + 1);
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// The row of a set that an attempt with these names is in, where its span has room for it: of a
    /// route, a model, a provider and a key. A name that is not told apart is among the others.
    pub(crate) fn dims(&self, set: Set, names: [&str; 4]) -> Dims {
        Dims::of(set, names.map(|name| self.numbers.get(name).copied().unwrap_or(OTHER)))
    }

    /// The name of a number: `-` for none.
    pub(crate) fn name(&self, number: u32) -> &str {
        match number {
            NONE => "-",
            OTHER => "other",
            number => self.names.get((number - OTHER - 1) as usize).map_or("other", |name| name),
        }
    }

    /// All names, in order of appearance.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}
