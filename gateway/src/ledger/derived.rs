//! The state that follows from the journal: balances, what is held, keys, policies, rollups.
//!
//! **Invariant:** it is a fold of the committed events in their order and of nothing else: neither
//! the clock nor the configuration has a part in it. A rebuilt one therefore equals the running
//! one, and a checkpoint is the state after exactly the event it names.

use super::{
    accounts::{Accounts, Amount},
    adjusted::Adjustments,
    budgets::{Mark, Marks, Scope},
    effect::{Effect, Hold},
    entry::{KeyId, RefusedRow, RequestId},
    extension,
    notice::{Notice, Notices, What},
    rollups::Rollups,
    spare::Missed,
    standing::Standing,
    zones::Configured,
};
use crate::{
    caller::{GroupRecord, KeyRecord},
    store::{catalogue::Snapshot, codec::Row},
};
use policies::{PicoUsd, PolicyName, PolicyVersion, RuleName};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Codes of refusals that are told apart; a provider's own are among them.
const CODES_MAX: usize = 256;
/// Pairs of a code and a rule that are told apart: policies change, and their rules' names with them.
const RULES_MAX: usize = 1_024;
/// The code, or the rule, of those that are not told apart.
const OTHER: &str = "other";

/// A request that has reserved and has no entry yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRequest {
    /// Its attempts, as they were reserved.
    pub(crate) attempts: Vec<OpenAttempt>,
}

/// One of its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenAttempt {
    pub(crate) hold: Hold,
    /// Number of its `Reserved` event.
    pub(crate) reserved_seq: u64,
    /// Number of its `Settled` event, if it ended.
    pub(crate) settled_seq: Option<u64>,
}

/// When a policy version came into force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyNote {
    /// Its name.
    pub name: PolicyName,
    /// Hash of its bytes.
    pub version: PolicyVersion,
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The event that holds its text.
    pub seq: u64,
}

/// Requests that are open, by id.
pub(crate) type OpenRequests = HashMap<RequestId, OpenRequest, foldhash::fast::RandomState>;

/// The fold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Derived {
    /// Number of the next event to apply.
    pub(crate) next_seq: u64,
    pub(crate) lineage: Lineage,
    pub(crate) accounts: BTreeMap<Scope, Kept>,
    pub(crate) open: OpenRequests,
    pub(crate) keys: BTreeMap<KeyId, KeyRecord>,
    pub(crate) groups: BTreeMap<Scope, GroupRecord>,
    pub(crate) policies: Vec<PolicyNote>,
    pub(crate) rollups: Rollups,
    /// Refusals by code, counted ones included that were not written as rows.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Those of them that a policy's rule refused, by code and rule.
    pub(crate) refused_by: BTreeMap<(String, RuleName), u64>,
    /// What operators are told of.
    pub(crate) notices: Notices,
    /// What adjustments made of costs. Shared with the queries that run.
    pub(crate) adjusted: Arc<Adjustments>,
    /// What the configuration says of calendar windows, where that was written down.
    pub(crate) configured: Option<Configured>,
    /// How long local models were loaded.
    pub(crate) standing: Standing,
    /// Events that could not be read when this was folded, and whose charges are missing.
    pub(crate) uncounted: Vec<Missed>,
    /// What changed since the last checkpoint.
    pub(crate) dirty: Dirty,
}

/// Of which journal a state is: when two of its events were committed, milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    /// The first event there was.
    first_unix_ms: Option<u64>,
    /// The last one that was applied, with its number.
    last: Option<(u64, u64)>,
}

impl Lineage {
    fn goes_on(&mut self, seq: u64, unix_ms: u64) {
        if seq == 1 {
            self.first_unix_ms = Some(unix_ms);
        }
        self.last = Some((seq, unix_ms));
    }

    /// Whether these segments were committed otherwise. No where they hold neither event.
    pub(crate) fn is_foreign_to(&self, snapshot: &Snapshot) -> bool {
        let first = self.first_unix_ms.map(|unix_ms| (1, unix_ms));
        let differs = |(seq, unix_ms)| snapshot.committed_ms(seq).is_some_and(|ms| ms != unix_ms);
        [first, self.last].into_iter().flatten().any(differs)
    }
}

/// A scope's balances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) accounts: Accounts,
    /// What was told of its limits.
    pub(crate) marks: Marks,
    /// Commit time of the last hold, milliseconds since the Unix epoch: which sessions have ended.
    pub(crate) used_unix_ms: u64,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
}

/// What changed since the last checkpoint, beside the [`Kept`] balances.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) forgotten: BTreeSet<Scope>,
    pub(crate) keys: BTreeSet<KeyId>,
    pub(crate) groups: BTreeSet<Scope>,
    pub(crate) adjusted: BTreeSet<(RequestId, u16)>,
    pub(crate) policies_from: usize,
    pub(crate) names_from: usize,
}

impl Kept {
    /// The balances, and what was told of them.
    pub(crate) fn known(&self) -> (Accounts, Marks) {
        (self.accounts.clone(), self.marks.clone())
    }
}

impl Derived {
    fn refuse(&mut self, row: RefusedRow) {
        let count = 1 + row.unwritten;
        let known = self.refused.len() < CODES_MAX || self.refused.contains_key(&row.code);
        let code = if known { row.code } else { OTHER.to_owned() };
        if let Some(rule) = row.rule {
            let mut by = (code.clone(), rule);
            if self.refused_by.len() >= RULES_MAX && !self.refused_by.contains_key(&by) {
                by.1 = RuleName(OTHER.into());
            }
            *self.refused_by.entry(by).or_default() += count;
        }
        *self.refused.entry(code).or_default() += count;
    }

    /// Before the first event.
    pub(crate) fn new() -> Self {
        Self { next_seq: 1, ..Self::default() }
    }

    /// Applies the event `seq`, committed at `unix_ms`.
    pub(crate) fn apply(&mut self, seq: u64, unix_ms: u64, effect: Effect) {
        self.next_seq = seq + 1;
        self.lineage.goes_on(seq, unix_ms);
        match effect {
            Effect::Reserved(hold) => self.reserve(seq, unix_ms, hold),
            Effect::Extended { id, attempt, money } => self.extend(id, attempt, money),
            Effect::Settled { id, attempt, charge } => self.settle(seq, id, attempt, charge),
            Effect::Entry(row) => self.entry(unix_ms, &row),
            Effect::Refused(row) => self.refuse(row),
            Effect::Key(record) => {
                self.dirty.keys.insert(record.id.clone());
                self.keys.insert(record.id.clone(), *record);
            }
            Effect::Group(record) => {
                self.dirty.groups.insert(record.scope.clone());
                self.groups.insert(record.scope.clone(), *record);
            }
            Effect::Policy(record) => {
                let record = *record;
                self.policies.push(PolicyNote {
                    name: record.name,
                    version: record.version,
                    unix_ms,
                    seq,
                });
            }
            Effect::Notice(notice) => self.notice(seq, *notice),
            Effect::Told(record) => self.notices.tell(record),
            Effect::Configured(configured) => self.configured = Some(*configured),
            Effect::Corrected(correction) => {
                let kept = self.accounts.entry(correction.scope.clone()).or_default();
                kept.dirty = true;
                kept.accounts.correct(&correction);
                self.booked(&correction.scope, correction.window);
            }
            Effect::Stood(stood) => self.standing.add(unix_ms, *stood),
            Effect::Adjustment(adjustment) => {
                self.dirty.adjusted.insert((adjustment.id, adjustment.attempt));
                Arc::make_mut(&mut self.adjusted).put(*adjustment);
            }
        }
    }

    fn notice(&mut self, seq: u64, notice: Notice) {
        if let What::Budget(reached) = &notice.what
            && let Some(kept) = self.accounts.get_mut(&reached.scope)
        {
            kept.dirty = true;
            kept.marks.put(Mark {
                window: reached.window,
                unit: reached.unit,
                began_unix_ms: reached.began_unix_ms,
                limit: reached.limit,
                percent: reached.percent,
            });
        }
        self.notices.add(seq, notice);
    }

    fn reserve(&mut self, seq: u64, unix_ms: u64, hold: Hold) {
        for scope in &hold.holds.forgotten {
            self.accounts.remove(scope);
            self.dirty.forgotten.insert(scope.clone());
        }
        for (scope, starts) in hold.holds.held.iter().filter(|(_, starts)| !starts.is_empty()) {
            let kept = match self.accounts.get_mut(scope) {
                Some(kept) => kept,
                None => self.accounts.entry(scope.clone()).or_default(),
            };
            kept.dirty = true;
            kept.used_unix_ms = unix_ms;
            kept.accounts.hold(starts, hold.held);
        }
        let request = self.open.entry(hold.id).or_default();
        request.attempts.push(OpenAttempt { hold, reserved_seq: seq, settled_seq: None });
    }

    fn extend(&mut self, id: RequestId, attempt: u16, more: PicoUsd) {
        let open = self.open.get_mut(&id).map(|open| &mut open.attempts);
        let Some(open) =
            open.and_then(|attempts| attempts.iter_mut().find(|open| open.hold.attempt == attempt))
        else {
            return;
        };
        open.hold.held.money = open.hold.held.money.add(more).unwrap_or(PicoUsd::MAX);
        for (scope, starts) in &open.hold.holds.held {
            if let Some(kept) = self.accounts.get_mut(scope) {
                kept.dirty = true;
                kept.accounts.enlarge(starts, extension::money(more));
            }
        }
    }

    fn settle(&mut self, seq: u64, id: RequestId, attempt: u16, charge: Amount) {
        let open = self
            .open
            .get_mut(&id)
            .and_then(|open| open.attempts.iter_mut().find(|open| open.hold.attempt == attempt));
        if let Some(open) = open
            && open.settled_seq.is_none()
        {
            open.settled_seq = Some(seq);
            let hold = open.hold.clone();
            self.charge(&hold, charge);
        }
    }

    fn entry(&mut self, unix_ms: u64, row: &Row) {
        if let Some(open) = self.open.remove(&row.id) {
            for open in open.attempts.into_iter().filter(|open| open.settled_seq.is_none()) {
                let attempt = row.attempts.get(usize::from(open.hold.attempt));
                // An attempt that its entry does not name: as reserved, never nothing.
                let charge = attempt.map_or(open.hold.held, super::Attempt::charge);
                self.charge(&open.hold, charge);
            }
        }
        self.rollups.add(unix_ms, row);
    }

    fn charge(&mut self, hold: &Hold, charge: Amount) {
        let charge = Amount { requests: hold.held.requests, ..charge };
        for (scope, starts) in &hold.holds.held {
            if let Some(kept) = self.accounts.get_mut(scope) {
                kept.dirty = true;
                kept.accounts.settle(starts, hold.held, charge);
            }
        }
    }

    /// The balances of every scope.
    pub(crate) fn balances(&self) -> Vec<(Scope, &Accounts)> {
        let kept = self.accounts.iter();
        kept.map(|(scope, kept)| (scope.clone(), &kept.accounts)).collect()
    }
}
