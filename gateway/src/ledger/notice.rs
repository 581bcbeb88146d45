//! What operators are told of: a budget that reached a part of its limit, what the abuse guard did.
//!
//! **Invariants:** a notice is an event of the journal, so that it survives a restart and is told at
//! least once; its id stays the same however often it is told. No prompt and no secret is in it.
//! These types are what the journal stores: a change of meaning or order needs a new schema version
//! there.

use super::{
    budgets::{Crossing, Scope, Unit},
    entry::GuardEffect,
};
use crate::caller::Window;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

/// Notices that are kept for those who ask and for receivers that are behind. All of them stand in
/// the journal.
pub(crate) const NOTICES_MAX: usize = 4_096;

/// Id of a notice, time-ordered: the same whenever it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NoticeId(pub uuid::Uuid);

/// Something that an operator is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its id.
    pub id: NoticeId,
    /// When it was noticed, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What.
    pub what: What,
}

/// What an operator is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Spending reached a part of a budget's limit.
    Budget(Reached),
    /// The abuse guard acts, or writes down what it saw.
    Guard(Guarded),
    /// What the guard did to a key, user or team was lifted by an operator.
    Lifted(String),
}

/// A budget that reached a part of its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Whose budget.
    pub scope: Scope,
    /// Over which window.
    pub window: Window,
    /// Of what.
    pub unit: Unit,
    /// Which part, in percent: 50, 80 or 100.
    pub percent: u8,
    /// The limit, in pico-USD or a count.
    pub limit: u64,
    /// What was spent then, in pico-USD or a count.
    pub spent: u64,
    /// Start of the window (of its current sub-bucket where it rolls), milliseconds since the Unix
    /// epoch.
    pub began_unix_ms: u64,
}

/// What the abuse guard did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// To whom: a key's id, `user:<name>` or `team:<name>`.
    pub subject: String,
    /// Why, such as `spend_velocity`.
    pub signal: String,
    /// What it does.
    pub effect: GuardEffect,
    /// What was seen, in words and numbers.
    pub seen: String,
    /// Until when at least, milliseconds since the Unix epoch; `None` for what is only written down.
    pub until_unix_ms: Option<u64>,
}

/// How a receiver stands with a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telling {
    /// It is told of what comes after this.
    Begins,
    /// It has it.
    Delivered,
    /// It would not take it for too long, and is not told of it any more.
    GivenUp,
}

/// A receiver was told of everything up to an event of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToldRecord {
    pub(crate) receiver: String,
    pub(crate) seq: u64,
    pub(crate) how: Telling,
}

/// How far a receiver has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Number of the last notice that it has, or will never have.
    pub seq: u64,
    /// Notices it took.
    pub delivered: u64,
    /// Notices it was not told of in the end.
    pub given_up: u64,
}

/// The newest notices and who has been told of them: a part of the fold over the journal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    recent: VecDeque<(u64, Notice)>,
    /// Number of the newest notice that is no longer kept here.
    pub(crate) dropped_seq: u64,
    pub(crate) told: BTreeMap<String, Told>,
    /// Notices below this number stand in the last checkpoint.
    pub(crate) saved_seq: u64,
    /// Receivers whose place changed since the last checkpoint.
    pub(crate) told_dirty: bool,
}

impl Notices {
    pub(crate) fn add(&mut self, seq: u64, notice: Notice) {
        if self.recent.len() >= NOTICES_MAX
            && let Some((dropped, _)) = self.recent.pop_front()
        {
            self.dropped_seq = dropped;
        }
        self.recent.push_back((seq, notice));
    }

    pub(crate) fn tell(&mut self, record: ToldRecord) {
        let told = self.told.entry(record.receiver).or_default();
        told.seq = told.seq.max(record.seq);
        match record.how {
            Telling::Begins => {}
            Telling::Delivered => told.delivered += 1,
            Telling::GivenUp => told.given_up += 1,
        }
        self.told_dirty = true;
    }

    /// Oldest first, each with its number in the journal.
    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &(u64, Notice)> {
        self.recent.iter()
    }

    /// Those after the notice `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &(u64, Notice)> {
        let from = self.recent.partition_point(|(at, _)| *at <= seq);
        self.recent.range(from..)
    }

    /// Number of the newest one; 0 without any.
    pub(crate) fn newest(&self) -> u64 {
        self.recent.back().map_or(self.dropped_seq, |(seq, _)| *seq)
    }
}

impl Notice {
    /// Its kind, such as `budget.reached_80` or `guard.blocked`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.what {
            What::Budget(Reached { percent: 100.., .. }) => "budget.reached_100",
            What::Budget(Reached { percent: 80.., .. }) => "budget.reached_80",
            What::Budget(_) => "budget.reached_50",
            What::Guard(guarded) => match guarded.effect {
                GuardEffect::Logged => "guard.logged",
                GuardEffect::Throttled => "guard.throttled",
                GuardEffect::LocalOnly => "guard.local_only",
                GuardEffect::Blocked => "guard.blocked",
            },
            What::Lifted(_) => "guard.lifted",
        }
    }

    /// Whether `wanted` names its kind: the whole of it, or what stands before the dot.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        let kind = self.kind();
        kind == wanted || kind.split('.').next() == Some(wanted)
    }
}

/// Every kind there is.
pub const NOTICE_KINDS: [&str; 8] = [
    "budget.reached_50",
    "budget.reached_80",
    "budget.reached_100",
    "guard.logged",
    "guard.throttled",
    "guard.local_only",
    "guard.blocked",
    "guard.lifted",
];

impl From<Crossing> for What {
    fn from(crossing: Crossing) -> Self {
        Self::Budget(Reached {
            scope: crossing.scope,
            window: crossing.window,
            unit: crossing.unit,
            percent: crossing.percent,
            limit: crossing.limit,
            spent: crossing.spent,
            began_unix_ms: crossing.began_unix_ms,
        })
    }
}

impl fmt::Display for NoticeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evt_{}", self.0.simple())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(at: u64) -> Notice {
        let what = What::Lifted(format!("key_{at}"));
        Notice { id: NoticeId(uuid::Uuid::from_u128(u128::from(at))), unix_ms: at, what }
    }

    #[test]
    fn only_the_newest_are_kept_and_what_went_is_known() {
        let mut notices = Notices::default();
        for at in 1..=NOTICES_MAX as u64 + 10 {
            notices.add(at * 2, notice(at));
        }
        assert_eq!(notices.all().count(), NOTICES_MAX);
        assert_eq!(notices.dropped_seq, 20);
        let newest = (NOTICES_MAX as u64 + 10) * 2;
        assert_eq!(notices.newest(), newest);
        let after: Vec<u64> = notices.after(newest - 3).map(|(seq, _)| *seq).collect();
        assert_eq!(after, [newest - 2, newest]);
    }

    #[test]
    fn a_kind_is_meant_by_its_name_or_its_family() {
        let lifted = notice(1);
        assert!(lifted.is("guard") && lifted.is("guard.lifted"));
        assert!(!lifted.is("budget") && !lifted.is("guard.logged") && !lifted.is("guard."));
    }
}
