//! The groups of a summary while they grow.
//!
//! **Invariants:** what one request adds to a group is what it adds to the total; groups beyond
//! [`GROUPS_MAX`] are one, [`OTHER`]; parts that were gathered apart (by threads) add up to what one
//! would have gathered.

use super::{
    adjusted::{Adjusted, Adjustments},
    rollups::{Names, Rows, Set, of_set},
    summary::{GROUPS_MAX, Group, GroupBy, NONE, OTHER},
    tally::{Ended, Spent, Tally},
};
use crate::store::columns::{Brief, Columns, Leg, NO_NAME};
use foldhash::fast::RandomState;
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

/// Sessions and users that are told apart in all groups of one summary; above it their number is
/// not known.
const DISTINCT_MAX: usize = 4_000_000;
/// Number of the group of what goes beyond the cap.
const OTHER_NUMBER: u32 = u32::MAX;

/// Names and their numbers for one summary, shared by its threads.
#[derive(Debug, Default)]
pub(crate) struct Interner(Mutex<Interned>);

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
    pub(crate) sessions: HashSet<u32, RandomState>,
    pub(crate) users: HashSet<u32, RandomState>,
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
    pub(crate) counted: bool,
    distinct: usize,
}

/// A block's names as numbers of the interner, each looked up when it is first wanted: a filter that
/// takes one entry of a block wants a handful of hundreds.
pub(crate) struct Numbers<'a> {
    interner: &'a Interner,
    columns: &'a Columns,
    known: Vec<Cell<Option<u32>>>,
}

impl Interner {
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
        Self::number(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), name)
    }

    /// The numbers of a block's names.
    pub(crate) fn of<'a>(&'a self, columns: &'a Columns) -> Numbers<'a> {
        Numbers { interner: self, columns, known: vec![Cell::new(None); columns.names_max() + 1] }
    }

    fn name(&self, number: u32) -> String {
        let interned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// The number of a tag, which is the same in any spelling.
    fn of_tag(&self, name: u32) -> u32 {
        match self.columns.name(name) {
            Some(tag) if tag.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.interner.one(&tag.to_ascii_lowercase())
            }
            _ => self.of(name),
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
            distinct: 0,
        }
    }

    /// What adjustments made of costs.
    pub(crate) fn adjusted(&self) -> &'a Adjustments {
        self.adjusted
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    pub(crate) fn groups_by(&self, by: GroupBy) -> bool {
        self.group_by.contains(&by)
    }

    /// Adds one request.
    pub(crate) fn entry(&mut self, brief: &Brief<'_>, numbers: &Numbers<'_>) {
        self.read += 1;
        let ended = Ended::from(brief.line);
        let session = numbered(brief.line.session, numbers);
        let user = numbered(brief.line.user, numbers);
        if self.distinct > DISTINCT_MAX {
            self.counted = false;
        }
        for spent in self.spent(brief) {
            self.total.tally.attempt(spent);
        }
        self.distinct += self.total.ended(&ended, session, user, self.exact);
        if self.group_by.is_empty() {
            return;
        }
        // A request with several tags belongs to each of their groups.
        let by_tag = self.group_by.contains(&GroupBy::Tag);
        let tags = if by_tag && !brief.tags.is_empty() { brief.tags } else { &[NO_NAME] };
        let mut key = [0; GroupBy::ALL.len()];
        for tag in tags {
            for (leg, spent) in brief.legs.iter().zip(self.spent(brief)) {
                let group = self.group(brief, Some(leg), *tag, numbers, &mut key);
                group.tally.attempt(spent);
            }
            let exact = self.exact;
            let group = self.group(brief, brief.face(), *tag, numbers, &mut key);
            self.distinct += group.ended(&ended, session, user, exact);
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
        key: &mut [u32; GroupBy::ALL.len()],
    ) -> &mut Growing {
        let line = brief.line;
        for (slot, by) in key.iter_mut().zip(self.group_by) {
            *slot = match by {
                GroupBy::Route => numbers.of(leg.map_or(NO_NAME, |leg| leg.route)),
                GroupBy::Model => numbers.of(leg.map_or(NO_NAME, |leg| leg.model)),
                GroupBy::Provider => numbers.of(leg.map_or(NO_NAME, |leg| leg.provider)),
                GroupBy::Key => numbers.of(line.key),
                GroupBy::Rule => numbers.of(line.rule),
                GroupBy::PolicyVersion => numbers.of(line.version),
                GroupBy::User => numbers.of(line.user),
                GroupBy::Team => numbers.of(line.team),
                GroupBy::Session => numbers.of(line.session),
                GroupBy::Tag => numbers.of_tag(tag),
                GroupBy::Outcome => line.outcome as u32,
                GroupBy::Endpoint => line.endpoint as u32,
                GroupBy::Cache => line.cache as u32,
                GroupBy::ServiceTier => numbers.of(leg.map_or(NO_NAME, |leg| leg.tier)),
                GroupBy::Minute => u32::try_from(brief.unix_ms / 60_000).unwrap_or(u32::MAX),
                GroupBy::Hour => u32::try_from(brief.unix_ms / 3_600_000).unwrap_or(u32::MAX),
                GroupBy::Day => u32::try_from(brief.unix_ms / 86_400_000).unwrap_or(u32::MAX),
            };
        }
        let key = &key[..self.group_by.len()];
        grow(&mut self.groups, key)
    }

    /// Adds the rows of a span.
    pub(crate) fn span(&mut self, set: Set, begins_ms: u64, rows: &Rows, names: &Names) {
        self.counted = false;
        let mut key = [0; GroupBy::ALL.len()];
        for (dims, tally) in of_set(rows, set) {
            self.total.tally.merge(tally);
            for (slot, by) in key.iter_mut().zip(self.group_by) {
                *slot = match by {
                    GroupBy::Route => self.interner.one(names.name(dims.route)),
                    GroupBy::Model => self.interner.one(names.name(dims.model)),
                    GroupBy::Provider => self.interner.one(names.name(dims.provider)),
                    GroupBy::Minute => u32::try_from(begins_ms / 60_000).unwrap_or(u32::MAX),
                    GroupBy::Hour => u32::try_from(begins_ms / 3_600_000).unwrap_or(u32::MAX),
                    GroupBy::Day => u32::try_from(begins_ms / 86_400_000).unwrap_or(u32::MAX),
                    // No set of rollups has anything else.
                    _ => self.interner.one(names.name(dims.key)),
                };
            }
            if !self.group_by.is_empty() {
                grow(&mut self.groups, &key[..self.group_by.len()]).tally.merge(tally);
            }
        }
    }

    /// Corrects the cost of what rows of spans told, by the attempts that were adjusted in `taken`
    /// time. An attempt whose rows are in that of what goes beyond a cap is corrected there.
    pub(crate) fn correct(&mut self, taken: impl Fn(u64) -> bool) {
        for (_, adjusted) in self.adjusted.all().filter(|(_, one)| taken(one.ended_unix_ms)) {
            self.total.tally.correct(adjusted);
            for other in [false, true] {
                let key = self.key_of(adjusted, other);
                let group = self.groups.get_mut(&key[..self.group_by.len()]);
                if group.is_some_and(|group| group.tally.correct(adjusted)) {
                    break;
                }
            }
        }
    }

    fn key_of(&self, adjusted: &Adjusted, other: bool) -> [u32; GroupBy::ALL.len()] {
        let (place, at_ms) = (&adjusted.place, adjusted.ended_unix_ms);
        let span = |ms: u64| u32::try_from(at_ms / ms).unwrap_or(u32::MAX);
        let name = |name: &str| self.interner.one(if other { OTHER } else { name });
        let mut key = [0; GroupBy::ALL.len()];
        for (slot, by) in key.iter_mut().zip(self.group_by) {
            *slot = match by {
                GroupBy::Route => name(place.route.as_str()),
                GroupBy::Model => name(&place.model),
                GroupBy::Provider => name(&place.provider),
                GroupBy::Minute => span(60_000),
                GroupBy::Hour => span(3_600_000),
                GroupBy::Day => span(86_400_000),
                // No set of rollups has anything else.
                _ => name(&place.key.0),
            };
        }
        key
    }

    /// Adds what another gathered.
    pub(crate) fn merge(&mut self, other: Self) {
        self.read += other.read;
        self.counted &= other.counted;
        self.distinct += other.distinct;
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

fn numbered(name: u32, numbers: &Numbers<'_>) -> Option<u32> {
    (name != NO_NAME).then(|| numbers.of(name))
}

/// The group of a key, or the one that takes what goes beyond the cap.
fn grow<'g>(
    groups: &'g mut HashMap<Box<[u32]>, Growing, RandomState>,
    key: &[u32],
) -> &'g mut Growing {
    if !groups.contains_key(key) {
        let full = groups.len() >= GROUPS_MAX;
        let key: Box<[u32]> =
            if full { key.iter().map(|_| OTHER_NUMBER).collect() } else { key.into() };
        return groups.entry(key).or_default();
    }
    groups.entry(key.into()).or_default()
}

impl Growing {
    /// Adds the end of a request; returns how many more sessions and users are known.
    fn ended(
        &mut self,
        ended: &Ended,
        session: Option<u32>,
        user: Option<u32>,
        exact: bool,
    ) -> usize {
        if exact {
            self.tally.count(ended);
            self.values[0].extend(ended.ttft_us);
            self.values[1].extend(ended.tpot_ns);
            self.values[2].extend(ended.total_us);
        } else {
            self.tally.entry(*ended);
        }
        let new_session = session.is_some_and(|session| self.sessions.insert(session));
        let new_user = user.is_some_and(|user| self.users.insert(user));
        usize::from(new_session) + usize::from(new_user)
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
