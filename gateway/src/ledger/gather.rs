//! The groups of a summary while they grow.
//!
//! **Invariants:** what one request adds to a group is what it adds to the total; groups beyond
//! [`GROUPS_MAX`] are one, [`OTHER`]; parts that were gathered apart (by threads) add up to what one
//! would have gathered; names, numbers of sessions and single values are bounded over all parts
//! together.

use super::{
    adjusted::{Adjusted, Adjustments},
    rollups::{Dims, Level, Names, Rows, Set, Span, of_set},
    summary::{GROUPS_MAX, Group, GroupBy, NONE, OTHER},
    tally::{Ended, Spent, Tally},
};
use crate::store::columns::{Brief, Columns, Leg, NO_NAME};
use foldhash::fast::RandomState;
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

/// Sessions and users that are told apart in all groups of one summary, each thread's own; above it
/// their number is not known.
const DISTINCT_MAX: usize = 4_000_000;
/// Values that are kept for the exact percentiles of one summary, of each request three in the total
/// and three in each of its groups: some 400 MB.
const VALUES_MAX: usize = 50_000_000;
/// Number of the group of what goes beyond the cap.
const OTHER_NUMBER: u32 = u32::MAX;
/// Its key.
const REST: Key = [OTHER_NUMBER; GroupBy::ALL.len()];

/// Numbers by which requests are grouped, in the order in which that was asked for.
type Key = [u32; GroupBy::ALL.len()];

/// Names and their numbers for one summary, and what is left of the memory it may take, shared by its
/// threads.
#[derive(Debug)]
pub(crate) struct Interner {
    names: Mutex<Interned>,
    distinct: Room,
    values: Room,
}

/// How much of something may be kept at most, and how much more of it: below zero there was too much.
#[derive(Debug)]
struct Room {
    most: usize,
    left: AtomicI64,
}

#[derive(Debug, Default)]
struct Interned {
    numbers: HashMap<Box<str>, u32, RandomState>,
    names: Vec<Box<str>>,
}

/// A group while it grows.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    pub(crate) tally: Tally,
    /// TTFT, TPOT, total; only for exact percentiles.
    pub(crate) values: [Vec<u64>; 3],
    /// Each with its key: the like name of another key is another session.
    pub(crate) sessions: HashSet<(u32, u32), RandomState>,
    pub(crate) users: HashSet<u32, RandomState>,
}

/// The session and the user of a request, where they are counted and it names them.
#[derive(Clone, Copy, Debug)]
struct Who {
    session: Option<(u32, u32)>,
    user: Option<u32>,
}

/// What more of memory one request takes.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    distinct: usize,
    values: usize,
}

/// The groups, and all of them together.
#[derive(Debug)]
pub(crate) struct Gathering<'a> {
    group_by: &'a [GroupBy],
    exact: bool,
    interner: &'a Interner,
    adjusted: &'a Adjustments,
    groups: HashMap<Box<[u32]>, Growing, RandomState>,
    pub(crate) total: Growing,
    /// Entries that were read.
    pub(crate) read: u64,
    /// Whether sessions and users were counted in all that was gathered.
    counted: bool,
    /// The spans with more rows than are told apart.
    capped: Vec<Capped>,
}

/// A span of rollups in which some rows are in the one of the rest, and the rows that are not.
#[derive(Debug)]
struct Capped {
    ms: Range<u64>,
    own: HashSet<Dims, RandomState>,
}

/// A block's names as numbers of the interner, each looked up when it is first wanted: a filter that
/// takes one entry of a block wants a handful of hundreds.
pub(crate) struct Numbers<'a> {
    interner: &'a Interner,
    columns: &'a Columns,
    known: Vec<Cell<Option<u32>>>,
}

impl Default for Interner {
    fn default() -> Self {
        Self::with_room(DISTINCT_MAX, VALUES_MAX)
    }
}

impl Room {
    fn of(most: usize) -> Self {
        Self { most, left: AtomicI64::new(i64::try_from(most).unwrap_or(i64::MAX)) }
    }

    fn take(&self, more: usize) {
        // Most requests take nothing, and every thread writes here.
        if more > 0 {
            self.left.fetch_sub(i64::try_from(more).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }

    fn is_overdrawn(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }
}

impl Interner {
    /// For a summary that tells so many sessions and users apart and keeps so many values.
    pub(crate) fn with_room(distinct: usize, values: usize) -> Self {
        let names = Mutex::default();
        Self { names, distinct: Room::of(distinct), values: Room::of(values) }
    }

    /// How many values there is room for, where more were to be kept for exact percentiles.
    pub(crate) fn overfull(&self) -> Option<usize> {
        self.values.is_overdrawn().then_some(self.values.most)
    }

    /// How many names have a number.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.interned().names.len()
    }

    fn interned(&self) -> MutexGuard<'_, Interned> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(interned: &mut Interned, name: &str) -> u32 {
        if let Some(number) = interned.numbers.get(name) {
            return *number;
        }
        interned.names.push(name.into());
        let number = u32::try_from(interned.names.len()).unwrap_or(OTHER_NUMBER);
        interned.numbers.insert(name.into(), number);
        number
    }

    fn one(&self, name: &str) -> u32 {
        Self::number(&mut self.interned(), name)
    }

    /// The number of a name that has one.
    fn known(&self, name: &str) -> Option<u32> {
        self.interned().numbers.get(name).copied()
    }

    /// The numbers of a block's names.
    pub(crate) fn of<'a>(&'a self, columns: &'a Columns) -> Numbers<'a> {
        Numbers { interner: self, columns, known: vec![Cell::new(None); columns.names_max() + 1] }
    }

    fn name(&self, number: u32) -> String {
        let interned = self.interned();
        let name = (number as usize).checked_sub(1).and_then(|at| interned.names.get(at));
        name.map_or_else(|| OTHER.to_owned(), |name| (**name).to_owned())
    }
}

impl Numbers<'_> {
    fn of(&self, name: u32) -> u32 {
        let Some(known) = self.known.get(name as usize) else { return OTHER_NUMBER };
        known.get().unwrap_or_else(|| {
            let number = self.interner.one(self.columns.name(name).unwrap_or(NONE));
            known.set(Some(number));
            number
        })
    }

    /// The same without giving a name a number: one without can be in no group that there is.
    fn known(&self, name: u32) -> u32 {
        let Some(known) = self.known.get(name as usize) else { return OTHER_NUMBER };
        if known.get().is_none() {
            known.set(self.interner.known(self.columns.name(name).unwrap_or(NONE)));
        }
        known.get().unwrap_or(OTHER_NUMBER)
    }

    /// The number of a tag, which is the same in any spelling: of one that has a number, where there is
    /// room for no more groups.
    fn of_tag(&self, tag: u32, full: bool) -> u32 {
        let capitals = |tag: &&str| tag.bytes().any(|byte| byte.is_ascii_uppercase());
        match self.columns.name(tag).filter(capitals).map(str::to_ascii_lowercase) {
            Some(tag) if full => self.interner.known(&tag).unwrap_or(OTHER_NUMBER),
            Some(tag) => self.interner.one(&tag),
            None if full => self.known(tag),
            None => self.of(tag),
        }
    }
}

impl<'a> Gathering<'a> {
    pub(crate) fn new(
        group_by: &'a [GroupBy],
        exact: bool,
        interner: &'a Interner,
        adjusted: &'a Adjustments,
    ) -> Self {
        Self {
            group_by,
            exact,
            interner,
            adjusted,
            groups: HashMap::default(),
            total: Growing::default(),
            read: 0,
            counted: true,
            capped: Vec::new(),
        }
    }

    /// An empty one of the same kind, to be merged into this one.
    pub(crate) fn part(&self) -> Self {
        let part = Self::new(self.group_by, self.exact, self.interner, self.adjusted);
        Self { counted: self.counted, ..part }
    }

    /// What adjustments made of costs.
    pub(crate) fn adjusted(&self) -> &'a Adjustments {
        self.adjusted
    }

    /// The names of its groups, and what is left of the memory it may take.
    pub(crate) fn interner(&self) -> &'a Interner {
        self.interner
    }

    pub(crate) fn groups_by(&self, by: GroupBy) -> bool {
        self.group_by.contains(&by)
    }

    /// Adds one request.
    pub(crate) fn entry(&mut self, brief: &Brief<'_>, numbers: &Numbers<'_>) {
        self.read += 1;
        let ended = Ended::from(brief.line);
        if self.interner.distinct.is_overdrawn() {
            self.count_no_more();
        }
        let number = |name| (self.counted && name != NO_NAME).then(|| numbers.of(name));
        let session = number(brief.line.session);
        let who = Who {
            session: session.map(|session| (numbers.of(brief.line.key), session)),
            user: number(brief.line.user),
        };
        for spent in self.spent(brief) {
            self.total.tally.attempt(spent);
        }
        let mut kept = self.total.ended(&ended, who, self.exact);
        if !self.group_by.is_empty() {
            kept.add(self.in_groups(brief, &ended, who, numbers));
        }
        self.interner.values.take(kept.values);
        self.interner.distinct.take(kept.distinct);
    }

    /// Adds one request to its groups: one with several tags belongs to each of theirs.
    fn in_groups(
        &mut self,
        brief: &Brief<'_>,
        ended: &Ended,
        who: Who,
        numbers: &Numbers<'_>,
    ) -> Kept {
        let by_tag = self.group_by.contains(&GroupBy::Tag);
        let tags = if by_tag && !brief.tags.is_empty() { brief.tags } else { &[NO_NAME] };
        let (mut key, mut kept, exact) = ([0; GroupBy::ALL.len()], Kept::default(), self.exact);
        for tag in tags {
            for (leg, spent) in brief.legs.iter().zip(self.spent(brief)) {
                let group = self.group(brief, Some(leg), *tag, numbers, &mut key);
                group.tally.attempt(spent);
            }
            let group = self.group(brief, brief.face(), *tag, numbers, &mut key);
            kept.add(group.ended(ended, who, exact));
        }
        kept
    }

    /// Forgets sessions and users: not all of them can be told apart.
    fn count_no_more(&mut self) {
        if std::mem::replace(&mut self.counted, false) {
            for growing in self.groups.values_mut().chain([&mut self.total]) {
                (growing.sessions, growing.users) = (HashSet::default(), HashSet::default());
            }
        }
    }

    /// What each attempt of a request used, at the cost that it has now.
    fn spent<'b>(&self, brief: &Brief<'b>) -> impl Iterator<Item = Spent> + use<'a, 'b> {
        let (id, adjusted) = (brief.line.id, self.adjusted);
        brief.legs.iter().enumerate().map(move |(at, leg)| Spent {
            cost: adjusted.cost(id, at, leg.cost),
            ..Spent::from(leg)
        })
    }

    fn group(
        &mut self,
        brief: &Brief<'_>,
        leg: Option<&Leg>,
        tag: u32,
        numbers: &Numbers<'_>,
        key: &mut Key,
    ) -> &mut Growing {
        let line = brief.line;
        // Once there is room for no more groups a new name is not worth a number.
        let full = self.groups.len() >= GROUPS_MAX;
        let name = |name| if full { numbers.known(name) } else { numbers.of(name) };
        for (slot, by) in key.iter_mut().zip(self.group_by) {
            *slot = match by {
                GroupBy::Route => name(leg.map_or(NO_NAME, |leg| leg.route)),
                GroupBy::Model => name(leg.map_or(NO_NAME, |leg| leg.model)),
                GroupBy::Provider => name(leg.map_or(NO_NAME, |leg| leg.provider)),
                GroupBy::Key => name(line.key),
                GroupBy::Rule => name(line.rule),
                GroupBy::PolicyVersion => name(line.version),
                GroupBy::User => name(line.user),
                GroupBy::Team => name(line.team),
                GroupBy::Session => name(line.session),
                GroupBy::Tag => numbers.of_tag(tag, full),
                GroupBy::Outcome => line.outcome as u32,
                GroupBy::Endpoint => line.endpoint as u32,
                GroupBy::Cache => line.cache as u32,
                GroupBy::ServiceTier => name(leg.map_or(NO_NAME, |leg| leg.tier)),
                GroupBy::Minute => u32::try_from(brief.unix_ms / 60_000).unwrap_or(u32::MAX),
                GroupBy::Hour => u32::try_from(brief.unix_ms / 3_600_000).unwrap_or(u32::MAX),
                GroupBy::Day => u32::try_from(brief.unix_ms / 86_400_000).unwrap_or(u32::MAX),
            };
        }
        let key = &key[..self.group_by.len()];
        grow(&mut self.groups, key)
    }

    /// Adds the rows of a span.
    pub(crate) fn span(&mut self, set: Set, span: Span, rows: &Rows, names: &Names) {
        self.counted = false;
        let begins_ms = span.at * span.level.ms();
        for (dims, tally) in of_set(rows, set) {
            self.total.tally.merge(tally);
            if !self.group_by.is_empty() {
                let key = self.key_of(*dims, begins_ms, names);
                grow(&mut self.groups, &key[..self.group_by.len()]).tally.merge(tally);
            }
        }
        if rows.contains_key(&Dims::rest(set)) {
            let ms = begins_ms..begins_ms + span.level.ms();
            let own = of_set(rows, set).map(|(dims, _)| *dims).collect();
            self.capped.push(Capped { ms, own });
        }
    }

    /// Corrects the cost of what rows of spans told, by the attempts that were adjusted in `taken`
    /// time. An attempt whose rows are in that of what goes beyond a cap is corrected there, be it the
    /// cap of names, of rows in a span or of groups.
    pub(crate) fn correct(&mut self, set: Set, names: &Names, taken: impl Fn(u64) -> bool) {
        for (_, adjusted) in self.adjusted.all().filter(|(_, one)| taken(one.ended_unix_ms)) {
            self.total.tally.correct(adjusted);
            let at_ms = adjusted.ended_unix_ms;
            let place = &*adjusted.place;
            let mut dims = names
                .dims(set, [place.route.as_str(), &place.model, &place.provider, &place.key.0]);
            let capped = self.capped.iter().find(|capped| capped.ms.contains(&at_ms));
            if capped.is_some_and(|capped| !capped.own.contains(&dims)) {
                dims = Dims::rest(set);
            }
            let key = self.key_of(dims, at_ms, names);
            let _in_one = self.correct_in(key, adjusted) || self.correct_in(REST, adjusted);
        }
    }

    fn correct_in(&mut self, key: Key, adjusted: &Adjusted) -> bool {
        let group = self.groups.get_mut(&key[..self.group_by.len()]);
        group.is_some_and(|group| group.tally.correct(adjusted))
    }

    /// The group of a row of rollups, from a span at that time.
    fn key_of(&self, dims: Dims, at_ms: u64, names: &Names) -> Key {
        let span = |level: Level| u32::try_from(at_ms / level.ms()).unwrap_or(u32::MAX);
        let name = |number| self.interner.one(names.name(number));
        let mut key = [0; GroupBy::ALL.len()];
        for (slot, by) in key.iter_mut().zip(self.group_by) {
            *slot = match by {
                GroupBy::Route => name(dims.route),
                GroupBy::Model => name(dims.model),
                GroupBy::Provider => name(dims.provider),
                GroupBy::Minute => span(Level::Minute),
                GroupBy::Hour => span(Level::Hour),
                GroupBy::Day => span(Level::Day),
                // No set of rollups has anything else.
                _ => name(dims.key),
            };
        }
        key
    }

    /// Adds what another gathered.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.read += other.read;
        if !self.counted || !other.counted || self.interner.distinct.is_overdrawn() {
            self.count_no_more();
            other.count_no_more();
        }
        self.total.merge(other.total);
        for (key, group) in other.groups {
            grow(&mut self.groups, &key).merge(group);
        }
    }

    /// The groups by name, unsorted, and the total.
    pub(crate) fn finish(self) -> (Vec<Group>, super::summary::Line) {
        let (exact, counted) = (self.exact, self.counted);
        let groups = self.groups.into_iter().map(|(key, mut group)| Group {
            names: self
                .group_by
                .iter()
                .zip(&key)
                .map(|(by, number)| {
                    if *number == OTHER_NUMBER {
                        OTHER.to_owned()
                    } else {
                        by.name(*number, self.interner)
                    }
                })
                .collect(),
            line: group.line(exact, counted),
        });
        let groups = groups.collect();
        let mut total = self.total;
        (groups, total.line(exact, counted))
    }
}

impl GroupBy {
    fn name(self, number: u32, interner: &Interner) -> String {
        let at = |ms: u64, form: &str| {
            let time = i64::try_from(u64::from(number) * ms).ok();
            let time = time.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
            time.map_or_else(|| OTHER.to_owned(), |time| time.strftime(form).to_string())
        };
        match self {
            Self::Minute => at(60_000, "%Y-%m-%dT%H:%M:00Z"),
            Self::Hour => at(3_600_000, "%Y-%m-%dT%H:00:00Z"),
            Self::Day => at(86_400_000, "%Y-%m-%d"),
            Self::Outcome => super::summary::OUTCOME_NAMES
                .get(number as usize)
                .map_or(OTHER, |name| name)
                .to_owned(),
            Self::Endpoint => super::summary::ENDPOINT_NAMES
                .get(number as usize)
                .map_or(OTHER, |name| name)
                .to_owned(),
            Self::Cache => super::summary::CACHE_NAMES
                .get(number as usize)
                .map_or(OTHER, |name| name)
                .to_owned(),
            _ => interner.name(number),
        }
    }
}

/// The group of a key, or the one that takes what goes beyond the cap.
fn grow<'g>(
    groups: &'g mut HashMap<Box<[u32]>, Growing, RandomState>,
    key: &[u32],
) -> &'g mut Growing {
    if !groups.contains_key(key) {
        let full = groups.len() >= GROUPS_MAX;
        let key = if full { &REST[..key.len()] } else { key };
        return groups.entry(key.into()).or_default();
    }
    groups.entry(key.into()).or_default()
}

impl Kept {
    fn add(&mut self, other: Self) {
        self.distinct += other.distinct;
        self.values += other.values;
    }
}

impl Growing {
    /// Adds the end of a request of a session and a user; returns what is kept of it.
    fn ended(&mut self, ended: &Ended, who: Who, exact: bool) -> Kept {
        let mut kept = Kept::default();
        if exact {
            self.tally.count(ended);
            let values = [ended.ttft_us, ended.tpot_ns, ended.total_us];
            for (all, value) in self.values.iter_mut().zip(values) {
                all.extend(value);
                kept.values += usize::from(value.is_some());
            }
        } else {
            self.tally.entry(*ended);
        }
        let new = who.session.is_some_and(|session| self.sessions.insert(session));
        kept.distinct += usize::from(new);
        kept.distinct += usize::from(who.user.is_some_and(|user| self.users.insert(user)));
        kept
    }

    fn merge(&mut self, other: Self) {
        self.tally.merge(&other.tally);
        for (all, part) in self.values.iter_mut().zip(other.values) {
            all.extend(part);
        }
        self.sessions.extend(other.sessions);
        self.users.extend(other.users);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{KeyId, RequestId, adjusted::Place};
    use policies::{PicoUsd, PicoUsdTotal, RouteId};
    use std::sync::Arc;

    #[test]
    fn what_is_adjusted_beyond_the_cap_of_groups_is_in_the_group_of_the_rest() {
        let row = Dims { set: Set::All, route: 0, model: 0, provider: 0, key: 0 };
        let booked = Tally { cost: PicoUsdTotal::from_pico(7), ..Tally::default() };
        let rows = Rows::from([(row, booked)]);
        let place = Place {
            route: RouteId::new("cloud"),
            model: "small".into(),
            provider: "acme".into(),
            key: KeyId("key_a".into()),
        };
        let minutes = GROUPS_MAX as u64 + 3;
        let mut adjusted = Adjustments::default();
        // One before the cap, one beyond it.
        for minute in [5, minutes - 1] {
            let one = Adjusted {
                booked: Some(PicoUsd::from_pico(7)),
                cost: Some(PicoUsd::from_pico(2)),
                price: None,
                ended_unix_ms: minute * 60_000,
                place: Arc::new(place.clone()),
            };
            adjusted.restore((RequestId(uuid::Uuid::from_u128(minute.into())), 0), one);
        }
        let interner = Interner::default();
        let mut sums = Gathering::new(&[GroupBy::Minute], false, &interner, &adjusted);
        for minute in 0..minutes {
            let span = Span { level: Level::Minute, at: minute };
            sums.span(Set::All, span, &rows, &Names::default());
        }
        sums.correct(Set::All, &Names::default(), |_| true);
        let (groups, total) = sums.finish();
        let cost = |name: &str| {
            let group = groups.iter().find(|group| group.names == [name]);
            group.unwrap().line.cost_usd.pico()
        };
        assert_eq!((cost("1970-01-01T00:05:00Z"), cost(OTHER)), (2, 3 * 7 - 5));
        let sum: u128 = groups.iter().map(|group| group.line.cost_usd.pico()).sum();
        assert_eq!([total.cost_usd.pico(), sum], [u128::from(minutes) * 7 - 10; 2]);
    }

    #[test]
    fn what_is_adjusted_is_corrected_in_the_row_that_its_own_span_has_it_in() {
        let mut names = Names::default();
        let [cloud, key] = ["cloud", "key_a"].map(|name| names.push(name));
        let of = |route, key| Dims {
            set: Set::RouteModelKey,
            route,
            model: cloud,
            provider: cloud,
            key,
        };
        let booked = || Tally { cost: PicoUsdTotal::from_pico(7), ..Tally::default() };
        let rest = Dims::rest(Set::RouteModelKey);
        // Of its own on the first day, among the rest on the second, and with a name beyond the cap.
        let days = [
            Rows::from([(of(cloud, key), booked())]),
            Rows::from([(of(cloud, cloud), booked()), (rest, booked())]),
            Rows::from([(of(cloud, rest.key), booked())]),
        ];
        let mut adjusted = Adjustments::default();
        for (day, key) in [(1, "key_a"), (2, "key_nobody_knows")] {
            let place = Place {
                route: RouteId::new("cloud"),
                model: "cloud".into(),
                provider: "cloud".into(),
                key: KeyId(key.into()),
            };
            let one = Adjusted {
                booked: Some(PicoUsd::from_pico(7)),
                cost: Some(PicoUsd::from_pico(2)),
                price: None,
                ended_unix_ms: day * Level::Day.ms() + 5,
                place: Arc::new(place),
            };
            adjusted.restore((RequestId(uuid::Uuid::from_u128(day.into())), 0), one);
        }
        let interner = Interner::default();
        let by = [GroupBy::Route, GroupBy::Key];
        let mut sums = Gathering::new(&by, false, &interner, &adjusted);
        for (at, rows) in (0..).zip(&days) {
            sums.span(Set::RouteModelKey, Span { level: Level::Day, at }, rows, &names);
        }
        sums.correct(Set::RouteModelKey, &names, |_| true);
        let (groups, total) = sums.finish();
        let mut costs: Vec<_> = groups
            .iter()
            .map(|group| (group.names.join(" "), group.line.cost_usd.pico()))
            .collect();
        costs.sort();
        let expected =
            [("cloud cloud", 7), ("cloud key_a", 7), ("cloud other", 2), ("other other", 2)];
        assert_eq!(costs, expected.map(|(names, cost)| (names.to_owned(), cost)));
        assert_eq!(total.cost_usd.pico(), 4 * 7 - 10);
    }
}
