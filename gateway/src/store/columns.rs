//! What sums and filters read of a block's entries, without the entries themselves: names are
//! numbers of the block's own dictionary, so that reading a row allocates nothing.
//!
//! **Invariant:** columns follow from the block's records alone and say the same as they do. A
//! sealed segment stores them beside its records; of any other they are made when they are read.

use super::codec::Row;
use crate::ledger::{CacheUse, Endpoint, Outcome, RequestId};
use foldhash::fast::RandomState;
use policies::{PicoUsd, Usage};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor},
};
use std::{collections::HashMap, fmt};

/// Raise it when the stored form changes: others are then made from the records.
pub(crate) const VERSION: u32 = 1;

/// Number of no name.
pub(crate) const NO_NAME: u32 = 0;

/// The entries of one block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Columns {
    base_seq: u64,
    base_ms: u64,
    /// Name `n` stands at `n - 1`.
    names: Names,
    lines: Vec<Line>,
    legs: Vec<Leg>,
    tags: Vec<u32>,
}

/// A list of names in one piece of memory: a block has hundreds, and reading it allocates none of
/// them. Written as a list of strings.
#[derive(Clone, Debug, Default, PartialEq)]
struct Names {
    text: String,
    /// Where each name ends.
    ends: Vec<u32>,
}

/// One entry. Names are numbers of the block's dictionary, [`NO_NAME`] for none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    seq_offset: u32,
    ms_offset: u64,
    pub(crate) id: RequestId,
    pub(crate) parent: Option<RequestId>,
    pub(crate) key: u32,
    pub(crate) user: u32,
    pub(crate) team: u32,
    pub(crate) session: u32,
    pub(crate) model_asked: u32,
    pub(crate) rule: u32,
    pub(crate) version: u32,
    pub(crate) endpoint: Endpoint,
    pub(crate) outcome: Outcome,
    pub(crate) cache: CacheUse,
    pub(crate) status: Option<u16>,
    pub(crate) answered_by: Option<u16>,
    pub(crate) cost: Option<PicoUsd>,
    pub(crate) saved: Option<PicoUsd>,
    pub(crate) total_us: u64,
    pub(crate) ttft_us: Option<u64>,
    pub(crate) tpot_ns: Option<u64>,
    legs: u16,
    tags: u16,
}

/// One attempt of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Leg {
    pub(crate) route: u32,
    pub(crate) model: u32,
    pub(crate) provider: u32,
    pub(crate) tier: u32,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost: Option<PicoUsd>,
    pub(crate) avoided: Option<PicoUsd>,
}

/// One entry with its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brief<'a> {
    pub(crate) seq: u64,
    pub(crate) unix_ms: u64,
    pub(crate) line: &'a Line,
    pub(crate) legs: &'a [Leg],
    pub(crate) tags: &'a [u32],
}

/// Makes columns from rows in their order.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    columns: Columns,
    numbers: HashMap<Box<str>, u32, RandomState>,
}

impl Columns {
    /// The greatest number of a name.
    pub(crate) fn names_max(&self) -> usize {
        self.names.ends.len()
    }

    /// The name of a number; `None` of [`NO_NAME`].
    pub(crate) fn name(&self, number: u32) -> Option<&str> {
        self.names.get((number as usize).checked_sub(1)?)
    }

    /// The number of a name; `None` if no row has it.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let at = (0..self.names.ends.len()).find(|at| self.names.get(*at) == Some(name))?;
        u32::try_from(at + 1).ok()
    }

    /// The numbers of every spelling of a tag, which is one without regard to ASCII case.
    pub(crate) fn spellings(&self, tag: &str) -> Vec<u32> {
        let alike = |at: &u32| self.name(*at).is_some_and(|name| name.eq_ignore_ascii_case(tag));
        let last = u32::try_from(self.names_max()).unwrap_or(u32::MAX);
        (NO_NAME + 1..=last).filter(alike).collect()
    }

    /// The entries, oldest first.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Brief<'_>> {
        let (mut legs, mut tags) = (self.legs.as_slice(), self.tags.as_slice());
        self.lines.iter().map(move |line| {
            let (own, rest) = legs.split_at(usize::from(line.legs).min(legs.len()));
            legs = rest;
            let (named, rest) = tags.split_at(usize::from(line.tags).min(tags.len()));
            tags = rest;
            Brief {
                seq: self.base_seq + u64::from(line.seq_offset),
                unix_ms: self.base_ms + line.ms_offset,
                line,
                legs: own,
                tags: named,
            }
        })
    }
}

// === impl Names ===

impl Names {
    fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.ends.len()).map(|at| self.get(at).unwrap_or_default()))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(name) = list.next_element::<&str>()? {
                    names.push(name);
                }
                Ok(names)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

// === impl Brief ===

impl Brief<'_> {
    /// The attempt that stands for its request: the one that answered, or the last.
    pub(crate) fn face(&self) -> Option<&Leg> {
        let answered = self.line.answered_by.and_then(|index| self.legs.get(usize::from(index)));
        answered.or(self.legs.last())
    }
}

impl Builder {
    /// Takes the next entry.
    pub(crate) fn push(&mut self, seq: u64, unix_ms: u64, row: &Row) {
        if self.columns.lines.is_empty() {
            self.columns.base_seq = seq;
            self.columns.base_ms = unix_ms;
        }
        for attempt in &row.attempts {
            let leg = Leg {
                route: self.number(attempt.route.as_str()),
                model: self.number(&attempt.model),
                provider: self.number(&attempt.provider),
                tier: self.optional(attempt.service_tier.as_deref()),
                usage: attempt.usage,
                cost: attempt.cost,
                avoided: attempt.avoided_cost,
            };
            self.columns.legs.push(leg);
        }
        // As many as the line says.
        for tag in row.tags.iter().take(usize::from(u16::MAX)) {
            let tag = self.number(tag);
            self.columns.tags.push(tag);
        }
        let line = Line {
            // A block has 512 records; commit times never fall.
            seq_offset: u32::try_from(seq - self.columns.base_seq).unwrap_or(u32::MAX),
            ms_offset: unix_ms.saturating_sub(self.columns.base_ms),
            id: row.id,
            parent: row.parent,
            key: self.number(&row.key.0),
            user: self.optional(row.user.as_deref()),
            team: self.optional(row.team.as_deref()),
            session: self.optional(row.session.as_deref()),
            model_asked: self.number(&row.model_asked),
            rule: self.number(&row.rule.0),
            version: self.number(&row.version.0),
            endpoint: row.endpoint,
            outcome: row.outcome,
            cache: row.notes.cache,
            status: row.status,
            answered_by: row.answered_by,
            cost: row.cost,
            saved: row.notes.saved_cost,
            total_us: row.stages.total_us(),
            ttft_us: row.ttft_us,
            tpot_ns: row.tpot_ns,
            legs: u16::try_from(row.attempts.len()).unwrap_or(u16::MAX),
            tags: u16::try_from(row.tags.len()).unwrap_or(u16::MAX),
        };
        self.columns.lines.push(line);
    }

    fn optional(&mut self, name: Option<&str>) -> u32 {
        name.map_or(NO_NAME, |name| self.number(name))
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.columns.names.push(name);
        let number = u32::try_from(self.columns.names_max()).unwrap_or(u32::MAX);
        self.numbers.insert(name.into(), number);
        number
    }

    /// What was taken, and begins anew.
    pub(crate) fn finish(&mut self) -> Columns {
        self.numbers.clear();
        std::mem::take(&mut self.columns)
    }
}
