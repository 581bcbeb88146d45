//! Sums per hour, so that a summary of millions of entries reads a few hundred rows.
//!
//! Each hour has rows by five sets of dimensions: (), route, model x provider, key, and
//! route x model x key. Hours are those of commit time in UTC. **Invariants:** rows are sums of
//! entries and nothing else, so they can be rebuilt from the journal to the byte; an hour has at
//! most [`ROWS_MAX`] rows per set, then a row `other` takes the rest; an hour that has passed
//! never changes.

use super::tally::Tally;
use crate::store::codec::Row;
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: u64 = 3_600_000;
/// Rows of one set in one hour.
const ROWS_MAX: usize = 512;
/// Names that are told apart; later ones are `other`.
const NAMES_MAX: usize = 65_535;
/// Hours kept in memory until the index has them, should it fail for long.
const HOURS_KEPT: usize = 72;

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

/// Names of one row, as numbers of [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Dims {
    pub(crate) set: Set,
    pub(crate) route: u32,
    pub(crate) model: u32,
    pub(crate) provider: u32,
    pub(crate) key: u32,
}

/// The rows of an hour.
pub(crate) type HourRows = BTreeMap<Dims, Tally>;

/// Names and their numbers, in order of appearance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    numbers: HashMap<Box<str>, u32, RandomState>,
    names: Vec<Box<str>>,
}

/// The rows of the current hour and of those the index does not have yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rollups {
    pub(crate) names: Names,
    hour: u64,
    rows: HashMap<Dims, Tally, RandomState>,
    counts: [usize; SETS.len()],
    /// Past hours that are not in the index yet.
    past: BTreeMap<u64, HourRows>,
}

// === impl Rollups ===

impl Rollups {
    /// Adds an entry that was committed at `unix_ms`.
    pub(crate) fn add(&mut self, unix_ms: u64, row: &Row) {
        self.turn(unix_ms / HOUR_MS);
        let key = self.names.number(row.key.0.as_ref());
        if let [attempt] = row.attempts.as_slice() {
            // Nearly all: one look-up for both.
            let names = self.attempt_names(attempt, key);
            self.each(names, |tally| {
                tally.attempt(attempt);
                tally.entry(row);
            });
            return;
        }
        for attempt in &row.attempts {
            let names = self.attempt_names(attempt, key);
            self.each(names, |tally| tally.attempt(attempt));
        }
        let names = match Tally::face(row) {
            Some(attempt) => self.attempt_names(attempt, key),
            None => [NONE, NONE, NONE, key],
        };
        self.each(names, |tally| tally.entry(row));
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

    fn each(&mut self, [route, model, provider, key]: [u32; 4], add: impl Fn(&mut Tally)) {
        for set in SETS {
            let none = Dims { set, route: NONE, model: NONE, provider: NONE, key: NONE };
            let dims = match set {
                Set::All => none,
                Set::Route => Dims { route, ..none },
                Set::ModelProvider => Dims { model, provider, ..none },
                Set::Key => Dims { key, ..none },
                Set::RouteModelKey => Dims { route, model, provider, key, ..none },
            };
            add(self.row(dims));
        }
    }

    fn row(&mut self, dims: Dims) -> &mut Tally {
        let count = &mut self.counts[dims.set as usize];
        let full = *count >= ROWS_MAX && !self.rows.contains_key(&dims);
        let dims = if full {
            let set = dims.set;
            Dims { set, route: OTHER, model: OTHER, provider: OTHER, key: OTHER }
        } else {
            dims
        };
        self.rows.entry(dims).or_insert_with(|| {
            *count += usize::from(!full);
            Tally::default()
        })
    }

    /// Moves on to `hour`.
    fn turn(&mut self, hour: u64) {
        if hour <= self.hour {
            return;
        }
        let rows: HourRows = self.rows.drain().collect();
        if !rows.is_empty() {
            self.past.insert(self.hour, rows);
        }
        self.counts = [0; SETS.len()];
        self.hour = hour;
        while self.past.len() > HOURS_KEPT {
            self.past.pop_first();
        }
    }

    /// The hours that are in memory, oldest first.
    pub(crate) fn hours(&self) -> BTreeMap<u64, HourRows> {
        self.clone().into_hours()
    }

    /// The same, consuming.
    pub(crate) fn into_hours(mut self) -> BTreeMap<u64, HourRows> {
        let rows: HourRows = self.rows.into_iter().collect();
        if !rows.is_empty() {
            self.past.insert(self.hour, rows);
        }
        self.past
    }

    /// Takes the hours that are over.
    pub(crate) fn take_past(&mut self) -> BTreeMap<u64, HourRows> {
        std::mem::take(&mut self.past)
    }

    /// The index has everything now.
    pub(crate) fn forget_past(&mut self) {
        self.past.clear();
    }

    /// Goes on with `hour`, which the index has.
    pub(crate) fn begin(&mut self, hour: u64) {
        self.hour = hour;
    }

    /// One row of the current hour as the index has it.
    pub(crate) fn restore(&mut self, dims: Dims, tally: Tally) {
        let other = [dims.route, dims.model, dims.provider, dims.key] == [OTHER; 4];
        self.counts[dims.set as usize] += usize::from(!other);
        self.rows.insert(dims, tally);
    }

    pub(crate) fn hour(&self) -> u64 {
        self.hour
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
