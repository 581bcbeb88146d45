//! Sums over a time range, by groups.
//!
//! Few requests are read one by one, which gives exact percentiles. Many are taken from the
//! rollups, with only the edges of the range read; percentiles then come from sketches and are
//! right within 1 % of their value. **Invariants:** counts and money are exact either way; the
//! reply says where its figures come from, and which time it lacks because its entries were dropped
//! and no rollup can stand for them; the groups sum to the total, but for groups by tag (a request
//! with several tags is in each of theirs).

use super::{
    books::Books,
    checkpoint,
    filter::Filter,
    gather::{Gathering, Interner},
    query::{Reader, unreadable},
    rollups::{GivenUp, Level, MINUTES_KEPT, Names, Rows, Set, Span, of_set},
};
use crate::store::{BooksError, Lost, catalogue::Block, index::IndexError};
use policies::PicoUsdTotal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
};

pub use super::line::{Line, Quantiles};

/// Up to this many events in the range are read one by one for exact percentiles.
const EXACT_EVENTS_MAX: u64 = 400_000;
/// Groups of one summary at most; the rest is one group of [`OTHER`].
pub(crate) const GROUPS_MAX: usize = 10_000;
/// Threads that read for one summary at most.
const THREADS_MAX: usize = 8;
/// Blocks that are worth a thread.
const THREAD_BLOCKS: usize = 32;
/// The name of what goes beyond a cap.
pub const OTHER: &str = "other";
/// The name where there is none, such as the route of a request that tried none.
pub const NONE: &str = "-";

/// Names of the outcomes, endpoints and cache uses, by their numbers.
pub(crate) const OUTCOME_NAMES: [&str; 7] =
    ["completed", "client_gone", "broken", "failed", "rejected", "short", "crashed"];
/// See [`OUTCOME_NAMES`].
pub(crate) const ENDPOINT_NAMES: [&str; 5] =
    ["chat_completions", "completions", "embeddings", "responses", "messages"];
/// See [`OUTCOME_NAMES`].
pub(crate) const CACHE_NAMES: [&str; 4] = ["bypass", "miss", "hit", "coalesced"];

/// By what a summary is grouped.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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
    /// The policy's version.
    PolicyVersion,
    /// The key's user.
    User,
    /// The key's team.
    Team,
    /// The session.
    Session,
    /// The tag, in small letters since its spellings are one; a request with several is in each of
    /// their groups.
    Tag,
    /// How it ended.
    Outcome,
    /// The endpoint.
    Endpoint,
    /// How the answer cache was used.
    Cache,
    /// The service tier of the attempt.
    ServiceTier,
    /// The minute (UTC) in which it ended.
    Minute,
    /// The hour (UTC) in which it ended.
    Hour,
    /// The day (UTC) in which it ended.
    Day,
}

/// By what the groups are ordered, the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderBy {
    /// Cost.
    #[default]
    Cost,
    /// Requests.
    Requests,
    /// Tokens of all kinds.
    Tokens,
    /// 95th percentile of TTFT.
    TtftP95,
    /// 95th percentile of TPOT.
    TpotP95,
    /// 95th percentile of the whole request.
    TotalP95,
    /// By name, from the least: hours and days in their order.
    Name,
}

/// What to sum.
#[derive(Clone, Debug, Default)]
pub struct SummaryQuery {
    /// Over which requests.
    pub filter: Filter,
    /// By what; empty for one sum.
    pub group_by: Vec<GroupBy>,
    /// In which order.
    pub order_by: OrderBy,
    /// Only the first so many groups; the total is of all.
    pub top: Option<usize>,
    /// Read the rollups although few requests are in the range, or read every request although
    /// many are. `None`: by their number, and the rollups where some of the entries were dropped.
    pub exact: Option<bool>,
}

/// Where figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
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
    /// The groups, in the order asked for.
    pub groups: Vec<Group>,
    /// Groups that [`SummaryQuery::top`] left out.
    pub groups_left_out: u64,
    /// All of them together.
    pub total: Line,
    /// How the percentiles were made.
    pub percentiles: Percentiles,
    /// Entries that were read one by one.
    pub entries_read: u64,
    /// Minutes, hours and days that were taken from rollups.
    pub spans_from_rollups: u64,
    /// Set where requests of the range that ended before this are in no sum, milliseconds since the
    /// Unix epoch: their entries were dropped, and rollups do not tell what was asked.
    pub dropped_before_unix_ms: Option<u64>,
    /// Events that cannot be read and may be missing in the sums; empty unless the journal is
    /// damaged.
    pub lost: Vec<Lost>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its names, in the order of [`SummaryQuery::group_by`].
    pub names: Vec<String>,
    /// Its sums.
    pub line: Line,
}

impl GroupBy {
    /// Everything there is to group by.
    pub const ALL: [Self; 17] = [
        Self::Route,
        Self::Model,
        Self::Provider,
        Self::Key,
        Self::Rule,
        Self::PolicyVersion,
        Self::User,
        Self::Team,
        Self::Session,
        Self::Tag,
        Self::Outcome,
        Self::Endpoint,
        Self::Cache,
        Self::ServiceTier,
        Self::Minute,
        Self::Hour,
        Self::Day,
    ];
}

impl Books {
    /// Sums what `query` asks for. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`]; [`BooksError::TooManyValues`] where exact percentiles are asked of
    /// too many requests.
    pub fn summary(&self, query: &SummaryQuery) -> Result<Summary, BooksError> {
        self.reader().summary(query)
    }
}

impl Reader {
    /// See [`Books::summary`].
    ///
    /// # Errors
    /// As there.
    pub fn summary(&self, query: &SummaryQuery) -> Result<Summary, BooksError> {
        self.summary_within(query, &Interner::default())
    }

    /// The same in the room that `interner` gives.
    pub(crate) fn summary_within(
        &self,
        query: &SummaryQuery,
        interner: &Interner,
    ) -> Result<Summary, BooksError> {
        let blocks = self.meant(&query.filter);
        let events: u64 = blocks.iter().map(|block| block.next_seq - block.seq).sum();
        let set = set_of(query).filter(|_| self.has_rollups());
        let dropped = self.dropped_before(&query.filter);
        // Of entries that were dropped only the rollups know.
        let few = events <= EXACT_EVENTS_MAX && (dropped.is_none() || set.is_none());
        let exact = query.exact.unwrap_or(few);
        let known = self.adjusted()?;
        let mut gathering = Gathering::new(&query.group_by, exact, interner, &known.all);
        let taken = match (exact, set) {
            (false, Some(set)) => self.take_rollups(&mut gathering, &query.filter, set, &blocks)?,
            _ => Taken::default(),
        };
        let rest: Vec<Block> = blocks
            .into_iter()
            .filter(|block| !taken.whole(block.first_ms, block.last_ms))
            .collect();
        if let Some(set) = set {
            gathering.correct(set, &taken.names, |ended_ms| taken.has(ended_ms));
        }
        let mut lost = self.gather(&mut gathering, query, &rest, &taken)?;
        lost.extend(known.lost);
        lost.sort_by_key(|lost| lost.first_seq);
        lost.dedup();
        let (read, percentiles) =
            (gathering.read, if exact { Percentiles::Exact } else { Percentiles::Sketch });
        let (mut groups, total) = gathering.finish();
        order(&mut groups, query.order_by);
        let all = groups.len();
        groups.truncate(query.top.unwrap_or(usize::MAX));
        Ok(Summary {
            groups_left_out: (all - groups.len()) as u64,
            groups,
            total,
            percentiles,
            entries_read: read,
            spans_from_rollups: taken.spans,
            dropped_before_unix_ms: dropped.filter(|first| {
                let to = query.filter.to_unix_ms.unwrap_or(u64::MAX);
                !taken.covers(query.filter.from_unix_ms.unwrap_or(0), to.min(*first))
            }),
            lost,
        })
    }

    fn has_rollups(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.index.is_some())
    }

    /// The time of the first entry that is kept, where a filter reaches back to dropped ones.
    pub(crate) fn dropped_before(&self, filter: &Filter) -> Option<u64> {
        let first_ms = self.snapshot.kept_since()?;
        filter.from_unix_ms.is_none_or(|from| from < first_ms).then_some(first_ms)
    }

    /// Reads blocks, by several threads where they are many. Returns what is lost.
    fn gather<'a>(
        &self,
        gathering: &mut Gathering<'a>,
        query: &'a SummaryQuery,
        blocks: &[Block],
        taken: &Taken,
    ) -> Result<Vec<Lost>, BooksError> {
        let next = AtomicUsize::new(0);
        let whole = &*gathering;
        let (interner, adjusted) = (whole.interner(), whole.adjusted());
        let work = || -> Result<(Gathering<'a>, Vec<Lost>), BooksError> {
            let (mut part, mut lost) = (whole.part(), Vec::new());
            while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (columns, gone) = self
                    .snapshot
                    .columns(block)
                    .map_err(|error| unreadable(self.snapshot.path(block), &error))?;
                lost.extend(gone);
                let Some(sieve) = query.filter.on(&columns, adjusted) else { continue };
                let numbers = interner.of(&columns);
                for brief in columns.entries() {
                    if !taken.has(brief.unix_ms) && sieve.takes(&brief) {
                        part.entry(&brief, &numbers);
                    }
                }
                if let Some(most) = interner.overfull() {
                    return Err(BooksError::TooManyValues(most));
                }
            }
            Ok((part, lost))
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = cores.min(THREADS_MAX).min(blocks.len() / THREAD_BLOCKS + 1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let died = || Err(BooksError::Unreadable("a thread of the query died".into()));
            let others = others.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died()));
            std::iter::once(own).chain(others).collect()
        });
        let mut all = Vec::new();
        for part in parts {
            let (part, lost) = part?;
            gathering.merge(part);
            all.extend(lost);
        }
        Ok(all)
    }

    /// Adds the spans of the range that rollups have; returns which time that was.
    fn take_rollups(
        &self,
        gathering: &mut Gathering<'_>,
        filter: &Filter,
        set: Set,
        blocks: &[Block],
    ) -> Result<Taken, BooksError> {
        let mut taken = Taken::default();
        let Some(keeper) = &self.keeper else { return Ok(taken) };
        let Some(index) = &keeper.index else { return Ok(taken) };
        let (past, names, minute, given_up) = {
            let derived = keeper.derived();
            let rollups = &derived.rollups;
            let own = |rows| of_set(rows, set).map(|(dims, tally)| (*dims, tally.clone()));
            let past = rollups.past().iter().map(|(span, rows)| (*span, own(rows).collect()));
            let past: BTreeMap<Span, Rows> = past.collect();
            (past, rollups.names.clone(), rollups.minute(), rollups.given_up())
        };
        taken.names = names;
        // Days whose entries were dropped are still known by their sums.
        let stored = checkpoint::first_day(index).map_err(|error| unindexed(&error))?;
        let unsaved = past.keys().filter(|span| span.level == Level::Day).map(|span| span.at).min();
        let kept = blocks.first().map(|first| first.first_ms / Level::Day.ms());
        let Some(beginning) = stored.into_iter().chain(unsaved).chain(kept).min() else {
            return Ok(taken);
        };
        let beginning = beginning * Level::Day.ms();
        taken.nothing_before = beginning;
        let from = filter.from_unix_ms.map_or(beginning, |from| from.max(beginning));
        let longest = if gathering.groups_by(GroupBy::Minute) {
            Level::Minute
        } else if gathering.groups_by(GroupBy::Hour) {
            Level::Hour
        } else {
            Level::Day
        };
        let to = filter.to_unix_ms.unwrap_or(u64::MAX);
        for span in cover(from, to, minute, longest, given_up) {
            let stored;
            let rows = match past.get(&span) {
                Some(rows) => rows,
                None => {
                    stored = checkpoint::span_rows(index, span, &[set])
                        .map_err(|error| unindexed(&error))?;
                    &stored
                }
            };
            gathering.span(set, span, rows, &taken.names);
            taken.add(span);
        }
        Ok(taken)
    }
}

fn unindexed(error: &IndexError) -> BooksError {
    BooksError::Unreadable(error.to_string().into())
}

/// Time that was taken from rollups: ranges in order, apart from each other.
#[derive(Debug, Default)]
struct Taken {
    ranges: Vec<(u64, u64)>,
    spans: u64,
    /// The day on which all that is known begins; 0 where nothing was looked up.
    nothing_before: u64,
    /// Those of the rows.
    names: Names,
}

impl Taken {
    fn add(&mut self, span: Span) {
        let (from, to) = (span.at * span.level.ms(), (span.at + 1) * span.level.ms());
        self.spans += 1;
        match self.ranges.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => self.ranges.push((from, to)),
        }
    }

    fn range(&self, unix_ms: u64) -> Option<(u64, u64)> {
        let after = self.ranges.partition_point(|(from, _)| *from <= unix_ms);
        self.ranges[..after].last().copied().filter(|(_, to)| unix_ms < *to)
    }

    /// Whether everything that is known of `[from, to)` was taken.
    fn covers(&self, from: u64, to: u64) -> bool {
        let from = from.max(self.nothing_before);
        from >= to || self.whole(from, to - 1)
    }

    fn has(&self, unix_ms: u64) -> bool {
        self.range(unix_ms).is_some()
    }

    /// Whether all of a block was taken.
    fn whole(&self, first_ms: u64, last_ms: u64) -> bool {
        self.range(first_ms).is_some_and(|(_, to)| last_ms < to)
    }
}

/// The spans up to `longest` that are over and lie wholly in `[from, to)`, in order. `minute` is the one
/// that lasts. Minutes are not kept for ever, and what the index never got may have been given up:
/// where they are gone, time stays uncovered.
fn cover(from: u64, to: u64, minute: u64, longest: Level, given_up: GivenUp) -> Vec<Span> {
    let to = to.min(minute * Level::Minute.ms());
    let mut spans = Vec::new();
    // Also what is too late for its minute to have an end.
    if from >= to {
        return spans;
    }
    let mut at = from.next_multiple_of(Level::Minute.ms());
    while at + Level::Minute.ms() <= to {
        let whole = Level::ALL.into_iter().find(|level| {
            let ms = level.ms();
            at.is_multiple_of(ms)
                && at + ms <= to
                && *level <= longest
                && (*level != Level::Minute || at / ms + MINUTES_KEPT > minute)
                && !given_up.has(Span { level: *level, at: at / ms })
        });
        match whole {
            Some(level) => {
                spans.push(Span { level, at: at / level.ms() });
                at += level.ms();
            }
            None => at = (at + 1).next_multiple_of(Level::Hour.ms()),
        }
    }
    spans
}

/// The set of rollup rows that can answer, if one can.
fn set_of(query: &SummaryQuery) -> Option<Set> {
    if !query.filter.is_time_only() {
        return None;
    }
    let time = [GroupBy::Minute, GroupBy::Hour, GroupBy::Day];
    let by = |wanted: &[GroupBy]| {
        query.group_by.iter().all(|by| wanted.contains(by) || time.contains(by))
    };
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

fn order(groups: &mut [Group], by: OrderBy) {
    groups.sort_by(|one, other| one.names.cmp(&other.names));
    // Sorted by name before, and these sorts are stable.
    let line = |figure: fn(&Line) -> (Option<PicoUsdTotal>, u64)| {
        move |group: &Group| Reverse(figure(&group.line))
    };
    match by {
        OrderBy::Name => {}
        OrderBy::Cost => groups.sort_by_key(line(|line| (Some(line.cost_usd), line.requests))),
        OrderBy::Requests => groups.sort_by_key(line(|line| (None, line.requests))),
        OrderBy::Tokens => groups.sort_by_key(line(|line| (None, line.usage.total()))),
        OrderBy::TtftP95 => groups.sort_by_key(line(|line| (None, line.ttft_us.p95.unwrap_or(0)))),
        OrderBy::TpotP95 => groups.sort_by_key(line(|line| (None, line.tpot_ns.p95.unwrap_or(0)))),
        OrderBy::TotalP95 => {
            groups.sort_by_key(line(|line| (None, line.total_us.p95.unwrap_or(0))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_spans_cover_a_range_and_what_minutes_no_longer_tell_is_read() {
        use Level::{Day, Hour, Minute};
        let (minute, hour, day) = (Minute.ms(), Hour.ms(), Day.ms());
        let (now, none) = (10 * 24 * 60 + 90, GivenUp::default());
        let levels = |from, to| {
            cover(from, to, now, Day, none).iter().map(|span| span.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(0, day), [Day]);
        // The day that lasts is taken by its hours and minutes.
        assert_eq!(levels(10 * day, u64::MAX)[0], Hour);
        assert_eq!(levels(10 * day, u64::MAX).len(), 1 + 30);
        // From the middle of a minute: the rest of that minute is read.
        assert_eq!(levels(10 * day + 5, 10 * day + 2 * minute), [Minute]);
        // Long ago only hours are left.
        assert_eq!(levels(day + minute, day + 3 * hour + minute), [Hour, Hour]);
        assert_eq!(cover(0, 2 * day, now, Hour, none).len(), 48);
        assert!(cover(u64::MAX, u64::MAX, now, Day, none).is_empty());
    }
}
