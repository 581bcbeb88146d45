//! Sums over a time range, by groups.
//!
//! Few requests are read one by one, which gives exact percentiles. Many are taken from the hourly
//! rollups, with only the edges of the range read; percentiles then come from sketches and are
//! right within 1 % of their value. **Invariants:** counts and money are exact either way; the
//! reply says where its figures come from; the groups sum to the total.

use super::{
    Outcome,
    books::Books,
    checkpoint,
    entry::Attempt,
    filter::Filter,
    query::Reader,
    rollups::{HOUR_MS, HourRows, Names, Set},
    tally::{Tally, quantile},
};
use crate::store::{BooksError, catalogue::Block, codec::Row};
use policies::{PicoUsdTotal, Usage};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Up to this many events in the range are read one by one for exact percentiles.
const EXACT_EVENTS_MAX: u64 = 400_000;
/// Groups of one summary at most; the rest is one group of [`OTHER`].
const GROUPS_MAX: usize = 10_000;
/// The name of what goes beyond a cap.
pub const OTHER: &str = "other";
/// The name where there is none, such as the route of a request that tried none.
pub const NONE: &str = "-";

/// By what a summary is grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// The route.
    Route,
    /// The model, by the provider's name.
    Model,
    /// The provider.
    Provider,
    /// The key.
    Key,
    /// The policy rule.
    Rule,
    /// The key's user.
    User,
    /// The key's team.
    Team,
    /// The session.
    Session,
}

/// What to sum.
#[derive(Clone, Debug, Default)]
pub struct SummaryQuery {
    /// Over which requests.
    pub filter: Filter,
    /// By what; empty for one sum.
    pub group_by: Vec<GroupBy>,
    /// Read the rollups although few requests are in the range, or read every request although
    /// many are. `None`: by their number.
    pub exact: Option<bool>,
}

/// Where figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Percentiles {
    /// From every request: exact.
    Exact,
    /// From sketches: within 1 % of the value.
    Sketch,
}

/// Sums over a time range.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The groups, dearest first.
    pub groups: Vec<Group>,
    /// All of them together.
    pub total: Line,
    /// How the percentiles were made.
    pub percentiles: Percentiles,
    /// Entries that were read one by one.
    pub entries_read: u64,
    /// Hours that were taken from rollups.
    pub hours_from_rollups: u64,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its names, in the order of [`SummaryQuery::group_by`].
    pub names: Vec<String>,
    /// Its sums.
    pub line: Line,
}

/// Sums over some requests. Tokens and money are those of the attempts on the group's own route;
/// requests, outcomes and times belong to the group of the attempt that answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Requests.
    pub requests: u64,
    /// How they ended; only what occurred.
    pub outcomes: Vec<(Outcome, u64)>,
    /// Attempts.
    pub attempts: u64,
    /// Tokens by bucket, as far as known.
    pub usage: Usage,
    /// Exact cost of the attempts whose cost is known.
    pub cost_usd: PicoUsdTotal,
    /// Attempts whose cost is unknown.
    pub unknown_cost: u64,
    /// What the cheapest allowed cloud route would have cost instead of local attempts.
    pub avoided_cost_usd: PicoUsdTotal,
    /// Client's TTFT in microseconds.
    pub ttft_us: Quantiles,
    /// Client's TPOT in nanoseconds.
    pub tpot_ns: Quantiles,
    /// Whole request in microseconds: the sum of its stages.
    pub total_us: Quantiles,
}

/// A distribution: nearest-rank percentiles over `count` values; `None` without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Median.
    pub p50: Option<u64>,
    /// 95th percentile.
    pub p95: Option<u64>,
    /// 99th percentile.
    pub p99: Option<u64>,
}

/// A group while it grows.
#[derive(Default)]
struct Growing {
    tally: Tally,
    /// TTFT, TPOT, total; only for exact percentiles.
    values: [Vec<u64>; 3],
}

type Groups = HashMap<Vec<String>, Growing>;

impl Books {
    /// Sums what `query` asks for. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn summary(&self, query: &SummaryQuery) -> Result<Summary, BooksError> {
        self.reader().summary(query)
    }
}

impl Reader {
    /// See [`Books::summary`].
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn summary(&self, query: &SummaryQuery) -> Result<Summary, BooksError> {
        let blocks = self.snapshot.blocks();
        let meant: Vec<_> = blocks.iter().filter(|block| query.filter.reaches(block)).collect();
        let events: u64 = meant.iter().map(|block| block.next_seq - block.seq).sum();
        let exact = query.exact.unwrap_or(events <= EXACT_EVENTS_MAX);
        let mut gathering = Gathering { query, exact, groups: Groups::new(), read: 0, hours: 0 };
        let whole_hours = match (exact, set_of(query)) {
            (false, Some(set)) => self.take_rollups(&mut gathering, set, &meant)?,
            _ => None,
        };
        for block in meant {
            // Wholly inside the hours that were taken from rollups.
            if let Some((from, to)) = whole_hours
                && block.first_ms >= from
                && block.last_ms < to
            {
                continue;
            }
            self.rows(block, &mut |record, row| {
                let unix_ms = record.head.unix_ms;
                let taken = whole_hours.is_some_and(|(from, to)| from <= unix_ms && unix_ms < to);
                if !taken && query.filter.takes(unix_ms, &row) {
                    gathering.entry(&row);
                }
                Ok(())
            })?;
        }
        Ok(gathering.finish())
    }

    /// Adds the whole hours of the range from their rollups; returns which time that was.
    fn take_rollups(
        &self,
        gathering: &mut Gathering<'_>,
        set: Set,
        meant: &[&Block],
    ) -> Result<Option<(u64, u64)>, BooksError> {
        let (Some(keeper), Some(first), Some(last)) = (&self.keeper, meant.first(), meant.last())
        else {
            return Ok(None);
        };
        let Some(index) = &keeper.index else { return Ok(None) };
        let filter = &gathering.query.filter;
        let from = filter.from_unix_ms.unwrap_or(first.first_ms).max(first.first_ms);
        let from = if filter.from_unix_ms.is_some_and(|from| from > first.first_ms) {
            from.div_ceil(HOUR_MS)
        } else {
            from / HOUR_MS
        };
        // The current hour goes on behind the snapshot: it is read, not taken from its rollup.
        let current = last.last_ms / HOUR_MS;
        let to = filter.to_unix_ms.map_or(current, |to| (to / HOUR_MS).min(current));
        if from >= to {
            return Ok(None);
        }
        let (in_memory, names) = {
            let derived = keeper.derived();
            (derived.rollups.hours(), derived.rollups.names.clone())
        };
        for hour in from..to {
            let stored;
            let rows = match in_memory.get(&hour) {
                Some(rows) => rows,
                None => {
                    stored = checkpoint::hour(index, hour)
                        .map_err(|error| BooksError::Unreadable(error.to_string().into()))?;
                    &stored
                }
            };
            gathering.hours += 1;
            gathering.hour(set, rows, &names);
        }
        Ok(Some((from * HOUR_MS, to * HOUR_MS)))
    }
}

/// The set of rollup rows that can answer, if one can.
fn set_of(query: &SummaryQuery) -> Option<Set> {
    if !query.filter.is_time_only() {
        return None;
    }
    let by = |wanted: &[GroupBy]| query.group_by.iter().all(|by| wanted.contains(by));
    if by(&[]) {
        Some(Set::All)
    } else if by(&[GroupBy::Route]) {
        Some(Set::Route)
    } else if by(&[GroupBy::Model, GroupBy::Provider]) {
        Some(Set::ModelProvider)
    } else if by(&[GroupBy::Key]) {
        Some(Set::Key)
    } else if by(&[GroupBy::Route, GroupBy::Model, GroupBy::Provider, GroupBy::Key]) {
        Some(Set::RouteModelKey)
    } else {
        None
    }
}

struct Gathering<'a> {
    query: &'a SummaryQuery,
    exact: bool,
    groups: Groups,
    read: u64,
    hours: u64,
}

impl Gathering<'_> {
    fn group(&mut self, names: Vec<String>) -> &mut Growing {
        let full = self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&names);
        let names = if full { vec![OTHER.to_owned(); names.len()] } else { names };
        self.groups.entry(names).or_default()
    }

    fn names(&self, row: &Row, attempt: Option<&Attempt>) -> Vec<String> {
        let or_none = |name: Option<&str>| name.unwrap_or(NONE).to_owned();
        let name = |by: &GroupBy| match by {
            GroupBy::Route => or_none(attempt.map(|attempt| attempt.route.as_str())),
            GroupBy::Model => or_none(attempt.map(|attempt| attempt.model.as_str())),
            GroupBy::Provider => or_none(attempt.map(|attempt| attempt.provider.as_str())),
            GroupBy::Key => row.key.to_string(),
            GroupBy::Rule => row.rule.to_string(),
            GroupBy::User => or_none(row.user.as_deref()),
            GroupBy::Team => or_none(row.team.as_deref()),
            GroupBy::Session => or_none(row.session.as_deref()),
        };
        self.query.group_by.iter().map(name).collect()
    }

    fn entry(&mut self, row: &Row) {
        self.read += 1;
        for attempt in &row.attempts {
            let names = self.names(row, Some(attempt));
            self.group(names).tally.attempt(attempt);
        }
        let names = self.names(row, Tally::face(row));
        let exact = self.exact;
        let group = self.group(names);
        group.tally.entry(row);
        if exact {
            group.values[0].extend(row.ttft_us);
            group.values[1].extend(row.tpot_ns);
            if row.outcome != Outcome::Crashed {
                group.values[2].push(row.stages.total_us());
            }
        }
    }

    fn hour(&mut self, set: Set, rows: &HourRows, names: &Names) {
        for (dims, tally) in rows.iter().filter(|(dims, _)| dims.set == set) {
            let name = |by: &GroupBy| {
                let number = match by {
                    GroupBy::Route => dims.route,
                    GroupBy::Model => dims.model,
                    GroupBy::Provider => dims.provider,
                    _ => dims.key,
                };
                names.name(number).to_owned()
            };
            let names = self.query.group_by.iter().map(name).collect();
            self.group(names).tally.merge(tally);
        }
    }

    fn finish(self) -> Summary {
        let mut total = Growing::default();
        let mut groups: BTreeMap<_, Growing> = self.groups.into_iter().collect();
        for group in groups.values() {
            total.tally.merge(&group.tally);
            for (all, part) in total.values.iter_mut().zip(&group.values) {
                all.extend_from_slice(part);
            }
        }
        let exact = self.exact;
        let mut lines: Vec<Group> = groups
            .iter_mut()
            .map(|(names, group)| Group { names: names.clone(), line: group.line(exact) })
            .collect();
        // Sorted by name before, and this sort is stable.
        lines.sort_by_key(|group| std::cmp::Reverse((group.line.cost_usd, group.line.requests)));
        Summary {
            groups: if self.query.group_by.is_empty() { Vec::new() } else { lines },
            total: total.line(exact),
            percentiles: if exact { Percentiles::Exact } else { Percentiles::Sketch },
            entries_read: self.read,
            hours_from_rollups: self.hours,
        }
    }
}

/// All [`Outcome`]s in order.
const ALL_OUTCOMES: [Outcome; super::tally::OUTCOMES] = [
    Outcome::Completed,
    Outcome::ClientGone,
    Outcome::Broken,
    Outcome::Failed,
    Outcome::Rejected,
    Outcome::Short,
    Outcome::Crashed,
];

impl Growing {
    fn line(&mut self, exact: bool) -> Line {
        let tally = &self.tally;
        let outcomes = ALL_OUTCOMES.into_iter().zip(tally.outcomes);
        let sketches = [&tally.ttft, &tally.tpot, &tally.total];
        let mut quantiles = self.values.iter_mut().zip(sketches).map(|(values, sketch)| {
            if exact {
                nearest_rank(values)
            } else {
                Quantiles {
                    count: sketch.count() as u64,
                    p50: quantile(sketch, 0.5),
                    p95: quantile(sketch, 0.95),
                    p99: quantile(sketch, 0.99),
                }
            }
        });
        let mut next = || quantiles.next().unwrap_or_default();
        let (ttft_us, tpot_ns, total_us) = (next(), next(), next());
        Line {
            requests: tally.requests,
            outcomes: outcomes.filter(|(_, count)| *count > 0).collect(),
            attempts: tally.attempts,
            usage: tally.usage,
            cost_usd: tally.cost,
            unknown_cost: tally.unknown_cost,
            avoided_cost_usd: tally.avoided_cost,
            ttft_us,
            tpot_ns,
            total_us,
        }
    }
}

fn nearest_rank(values: &mut [u64]) -> Quantiles {
    values.sort_unstable();
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied()
    };
    Quantiles { count: values.len() as u64, p50: at(50), p95: at(95), p99: at(99) }
}
