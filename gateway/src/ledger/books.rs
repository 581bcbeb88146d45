//! [`Books`]: the hot path's calls, keys and policies, state, closing.
//!
//! **Invariant:** nothing on the hot path waits for the disk, for sled or for a query; what waits
//! is the caller's [`CommitTicket`].

use super::{
    accounts::Amount,
    budgets::{BudgetPath, Budgets, Holds, Payer, Scope, TokenRate},
    derived::PolicyNote,
    effect::Effect,
    entry::{Adjustment, Entry, KeyId, RefusedRow, RequestId},
    ids::Ids,
    keeper::Keeper,
    notice::{Notice, NoticeId, What},
    open_entry::{EntryHead, OpenEntry},
    opening::PLACES_MAX,
    refusals::Refusals,
};
use crate::{
    caller::{BudgetSpec, GroupRecord, KeyRecord},
    clock::Clock,
    store::{
        BooksError, CommitTicket, Condition,
        catalogue::Catalogue,
        codec::{self, PolicyRecord, Row},
        committer::Pulse,
        lock::DirLock,
        queue::Queue,
    },
};
use policies::{BudgetFacts, PolicyName, PolicyVersion, RuleName};
use serde::Serialize;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// A thread's buffer for one event is given back when it grew larger.
const SCRATCH_BYTES: usize = 64 << 10;

/// The store's state, for `/ready` and `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreState {
    /// Whether it writes.
    pub condition: Condition,
    /// Places taken in the queue, of `queue_max`.
    pub queued: usize,
    /// Places there are.
    pub queue_max: usize,
    /// Microseconds the last write and sync took.
    pub last_commit_us: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Milliseconds by which the time of the last commit was ahead of the clock: until the clock is
    /// there, what is written down gets that time.
    pub ahead_ms: u64,
    /// Attempts that hold money or tokens.
    pub open_reservations: u64,
    /// Entries of free work that could not be recorded while the store failed.
    pub lost_entries: u64,
    /// Notices for operators that found no place in the queue.
    pub lost_notices: u64,
}

/// One attempt that holds money or tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenReservation {
    /// The request.
    pub id: RequestId,
    /// Which attempt.
    pub attempt: u16,
    /// The key.
    pub key: KeyId,
    /// Money held.
    pub money: policies::PicoUsd,
    /// Tokens held.
    pub tokens: u64,
}

/// The ledger, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Books(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) queue: Arc<Queue<Effect>>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) clock: Clock,
    pub(crate) strict: bool,
    pub(crate) lost: AtomicU64,
    pub(crate) lost_notices: AtomicU64,
    pub(crate) reservations: AtomicU64,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) keeper: Arc<Keeper>,
    pub(super) keys: RwLock<BTreeMap<KeyId, KeyRecord>>,
    pub(super) groups: RwLock<BTreeMap<Scope, GroupRecord>>,
    pub(super) refusals: Refusals,
    /// Held by whoever rates past attempts anew.
    pub(super) rerating: Mutex<()>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) ids: Ids,
    /// The data directory.
    pub(super) dir: std::path::PathBuf,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) observer: OnceLock<Observer>,
    pub(super) _lock: DirLock,
}

/// Told of every entry as it is handed over to be written; says what operators are to be told.
type Observer = Box<dyn Fn(&Entry) -> Vec<What> + Send + Sync>;

// === the hot path ===

impl Books {
    /// Tells `observer` of every entry from now on, as it is handed over to be written, on the
    /// request's own thread: it must not wait. What it returns, operators are told. The first
    /// observer stays.
    pub fn observe(&self, observer: impl Fn(&Entry) -> Vec<What> + Send + Sync + 'static) {
        let _first_stays = self.0.observer.set(Box::new(observer));
    }

    /// A new request's id: time-ordered, and unique in this process even if the clock steps back.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id_at(self.0.clock.unix_ms())
    }

    /// The same for a request that arrived at a known time.
    #[must_use]
    pub fn request_id_at(&self, unix_ms: u64) -> RequestId {
        self.0.ids.next(unix_ms)
    }

    /// Opens a request's entry: takes its place in the queue, so that dropping it never waits.
    ///
    /// # Errors
    /// [`BooksError`] when the queue is full although the store works, or the books are closed.
    pub fn open_entry(&self, head: EntryHead) -> Result<OpenEntry, BooksError> {
        let placed = match (self.0.queue.take_places(1), self.0.condition()) {
            (_, Condition::Closed) => return Err(BooksError::Closed),
            (Ok(()), _) => true,
            // Free work goes on while the store fails.
            (Err(_), Condition::Failed { .. }) => false,
            (Err(full), _) => return Err(full),
        };
        Ok(OpenEntry::new(Arc::clone(&self.0), head, placed))
    }

    /// Has operators told of something: a notice in the journal, which receivers are told of from
    /// there. Never waits.
    pub fn tell(&self, what: What) {
        self.0.tell(what);
    }

    /// Counts a request that was turned away before any route was tried, and writes it down at a
    /// capped rate.
    pub fn refuse(&self, row: RefusedRow) {
        self.0.refuse(row);
    }

    /// Whose budgets and limits a request counts against that asks for `model`, whatever model
    /// `payer` names.
    #[must_use]
    pub fn path(&self, payer: &Payer<'_>, model: &str) -> BudgetPath {
        self.0.budgets.path(payer, model)
    }

    /// The budgets on a path and what is left of them at a time.
    #[must_use]
    pub fn budget_facts(&self, path: &BudgetPath, unix_ms: u64) -> Vec<BudgetFacts> {
        self.0.budgets.facts(path, unix_ms)
    }

    /// The most that one request may cost by any limit on its path; `None` is no limit.
    #[must_use]
    pub fn request_cost_max(&self, path: &BudgetPath) -> Option<policies::PicoUsd> {
        self.0.budgets.request_cost_max(path)
    }

    /// The tightest tokens-per-minute limit on a path, for the rate limit headers.
    #[must_use]
    pub fn token_rate(&self, path: &BudgetPath) -> Option<TokenRate> {
        self.0.budgets.token_rate(path)
    }

    /// The tokens-per-minute limit of a model over all callers; `None` where it has none.
    #[must_use]
    pub fn model_token_rate(&self, model: &str) -> Option<TokenRate> {
        self.0.budgets.token_rate(&BudgetPath::of_model(model))
    }
}

impl Shared {
    pub(crate) fn condition(&self) -> Condition {
        self.queue.progress.condition()
    }

    /// Queues one event, for which a place was taken. `urgent`: someone waits for it.
    pub(crate) fn write(
        &self,
        urgent: bool,
        effect: Effect,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), postcard::Error>,
    ) -> CommitTicket {
        with_scratch(|scratch| match encode(scratch) {
            Ok(()) => self.queue.push(scratch, effect, urgent),
            Err(error) => self.unwritable(&error),
        })
    }

    /// Tells the observer of an entry, and operators of what it makes of it.
    pub(crate) fn observed(&self, entry: &Entry) {
        for what in self.observer.get().map(|observe| observe(entry)).unwrap_or_default() {
            self.tell(what);
        }
    }

    /// Queues an entry, for which a place was taken.
    pub(crate) fn write_entry(&self, urgent: bool, entry: Entry) -> CommitTicket {
        self.observed(&entry);
        with_scratch(|scratch| match codec::encode_entry(scratch, &entry) {
            Ok(()) => self.queue.push(scratch, Effect::Entry(Box::new(Row::of(entry))), urgent),
            Err(error) => self.unwritable(&error),
        })
    }

    /// Writes a notice down. Nobody waits for it; where there is no place it is counted as lost.
    pub(crate) fn tell(&self, what: What) {
        if self.queue.take_places(1).is_err() {
            self.lost_notices.fetch_add(1, Ordering::Relaxed);
            tracing::error!(?what, "the ledger's queue is full: operators are not told of this");
            return;
        }
        let unix_ms = self.clock.unix_ms();
        let notice = Notice { id: NoticeId(self.ids.next(unix_ms).0), unix_ms, what };
        let effect = Effect::Notice(Box::new(notice.clone()));
        let _nobody_waits =
            self.write(false, effect, |scratch| codec::encode(scratch, codec::NOTICE, &notice));
    }

    /// Cannot happen with the types there are; if it does it is loud and nothing hangs.
    fn unwritable(&self, error: &postcard::Error) -> CommitTicket {
        tracing::error!(%error, "an event of the ledger cannot be encoded");
        self.queue.give_places(1);
        self.lost.fetch_add(1, Ordering::Relaxed);
        CommitTicket::ready()
    }

    pub(crate) fn refuse(&self, row: RefusedRow) {
        if let Some(row) = self.refusals.count(row) {
            self.write_refusal(row);
        }
    }

    /// Writes what was refused and is in no row yet.
    fn write_refusals(&self) {
        self.refusals
            .rest(self.clock.unix_ms())
            .into_iter()
            .for_each(|row| self.write_refusal(row));
    }

    fn write_refusal(&self, row: RefusedRow) {
        if self.queue.take_places(1).is_err() {
            self.refusals.put_back(row);
            return;
        }
        let _nobody_waits =
            with_scratch(|scratch| match codec::encode(scratch, codec::REFUSED, &row) {
                Ok(()) => self.queue.push(scratch, Effect::Refused(row), false),
                Err(error) => self.unwritable(&error),
            });
    }

    /// Ends a hold with what it came to. Only after the event that says so was queued.
    pub(crate) fn release(&self, holds: &Holds, held: Amount, charge: Amount, unix_ms: u64) {
        for crossing in self.budgets.settle(holds, held, charge, unix_ms) {
            self.tell(crossing.into());
        }
        self.reservations.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&self) {
        self.write_refusals();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue.stop();
        // In this order: the keeper must see the committer's last events.
        for (at, thread) in threads.drain(..).enumerate() {
            if at == 1 {
                self.keeper.stop();
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the ledger panicked");
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            scratch.clear();
            scratch.shrink_to(SCRATCH_BYTES);
            work(&mut scratch)
        }
        Err(_) => work(&mut Vec::new()),
    })
}

// === keys, policies, state ===

impl Books {
    /// Every key there ever was, by id.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyRecord> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Creates or changes a key: the record replaces the former one, its budgets and limits hold
    /// at once. What was spent stays. The ticket resolves when it is durable, in either mode; where it
    /// fails at once because the queue is full, nothing was changed.
    pub fn put_key(&self, mut record: KeyRecord) -> CommitTicket {
        if let Err(error) = self.0.queue.take_places(1) {
            return CommitTicket::failed(error);
        }
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let before = keys.get(&record.id).cloned();
        drop(keys);
        if let Some(before) = before {
            self.turn(&before.budgets, &mut record.budgets);
            self.turn(&before.session_budgets, &mut record.session_budgets);
        }
        self.0.budgets.put_key(&record, self.0.clock.unix_ms());
        self.tell_untold(Some(&Scope::Key(record.id.clone())));
        let key = record.id.clone();
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key, record.clone());
        self.put_in_place(codec::KEY, &record.clone(), Effect::Key(Box::new(record)))
    }

    /// Every team, user and tag that was ever set up, and what was set for the whole.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupRecord> {
        self.0.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One of them.
    #[must_use]
    pub fn group(&self, scope: &Scope) -> Option<GroupRecord> {
        self.0.groups.read().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    /// Sets up or changes a team, a user, a tag or the whole: the record replaces the former one,
    /// its budgets and limits hold at once. The ticket is as that of [`Books::put_key`].
    pub fn put_group(&self, mut record: GroupRecord) -> CommitTicket {
        if let Err(error) = self.0.queue.take_places(1) {
            return CommitTicket::failed(error);
        }
        if let Some(before) = self.group(&record.scope) {
            self.turn(&before.budgets, &mut record.budgets);
            self.turn(&before.session_budgets, &mut record.session_budgets);
        }
        self.0.budgets.put_group(&record, self.0.clock.unix_ms());
        self.tell_untold(Some(&record.scope));
        let scope = record.scope.clone();
        self.0.groups.write().unwrap_or_else(PoisonError::into_inner).insert(scope, record.clone());
        self.put_in_place(codec::GROUP, &record.clone(), Effect::Group(Box::new(record)))
    }

    /// A budget whose time zone changes keeps the window that runs.
    fn turn(&self, before: &[BudgetSpec], after: &mut [BudgetSpec]) {
        self.0.budgets.turn(before, after, self.0.clock.unix_ms());
    }

    /// Tells of the parts of limits that are passed although nothing was charged: by a limit that
    /// was lowered, or because the process died before it could say so.
    pub(super) fn tell_untold(&self, of: Option<&Scope>) {
        for crossing in self.0.budgets.untold(of, self.0.clock.unix_ms()) {
            self.0.tell(crossing.into());
        }
    }

    /// A policy version came into force. The ticket resolves when it is durable, in either mode.
    pub fn put_policy(
        &self,
        name: &PolicyName,
        version: &PolicyVersion,
        source: &str,
    ) -> CommitTicket {
        let record = PolicyRecord {
            name: name.clone(),
            version: version.clone(),
            source: source.to_owned(),
        };
        self.put(codec::POLICY, &record.clone(), Effect::Policy(Box::new(record)))
    }

    /// Appends a correction of what an attempt cost. The ticket resolves when it is durable, in
    /// either mode.
    pub(super) fn adjust(&self, adjustment: &Adjustment) -> CommitTicket {
        let effect = Effect::Adjustment(Box::new(adjustment.clone()));
        self.put(codec::ADJUSTMENT, adjustment, effect)
    }

    pub(super) fn put<T: Serialize>(&self, kind: u8, value: &T, effect: Effect) -> CommitTicket {
        if let Err(error) = self.0.queue.take_places(1) {
            return CommitTicket::failed(error);
        }
        self.put_in_place(kind, value, effect)
    }

    /// The same by a place that was taken before: what changes something else beside the journal takes
    /// it first, so that it is made whole or not at all.
    pub(super) fn put_in_place<T: Serialize>(
        &self,
        kind: u8,
        value: &T,
        effect: Effect,
    ) -> CommitTicket {
        self.0.write(true, effect, |scratch| codec::encode(scratch, kind, value))
    }

    /// Every policy version that came into force, oldest first. Blocking.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyNote> {
        self.catch_up();
        self.0.keeper.derived().policies.clone()
    }

    /// The text of a policy version; `None` if it was never in force. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn policy_source(&self, version: &PolicyVersion) -> Result<Option<String>, BooksError> {
        self.reader().policy_source(version)
    }

    /// Whether the store writes, and how far behind it is.
    #[must_use]
    pub fn state(&self) -> StoreState {
        let shared = &self.0;
        StoreState {
            condition: shared.condition(),
            queued: shared.queue.depth(),
            queue_max: PLACES_MAX,
            last_commit_us: shared.pulse.last_commit_us.load(Ordering::Relaxed),
            commits: shared.pulse.commits.load(Ordering::Relaxed),
            ahead_ms: shared.pulse.ahead_ms.load(Ordering::Relaxed),
            open_reservations: shared.reservations.load(Ordering::Relaxed),
            lost_entries: shared.lost.load(Ordering::Relaxed),
            lost_notices: shared.lost_notices.load(Ordering::Relaxed),
        }
    }

    /// Every attempt that holds money or tokens, as far as committed. Blocking.
    #[must_use]
    pub fn reservations(&self) -> Vec<OpenReservation> {
        self.catch_up();
        let derived = self.0.keeper.derived();
        let open = derived.open.values().flat_map(|open| &open.attempts);
        let mut open: Vec<_> = open
            .filter(|open| open.settled_seq.is_none())
            .map(|open| OpenReservation {
                id: open.hold.id,
                attempt: open.hold.attempt,
                key: open.hold.key.clone(),
                money: open.hold.held.money,
                tokens: open.hold.held.tokens,
            })
            .collect();
        open.sort_by_key(|open| (open.id, open.attempt));
        open
    }

    /// Writes the refusals down that are counted and in no row yet. Nobody waits for it.
    pub(crate) fn write_refusals(&self) {
        self.0.write_refusals();
    }

    /// Refusals by code since the beginning. Blocking.
    #[must_use]
    pub fn refusals(&self) -> Vec<(String, u64)> {
        self.write_refusals();
        self.catch_up();
        let derived = self.0.keeper.derived();
        derived.refused.iter().map(|(code, count)| (code.clone(), *count)).collect()
    }

    /// Those of [`Books::refusals`] that a policy's rule refused, by code and rule. Blocking.
    #[must_use]
    pub fn refusals_by_rule(&self) -> Vec<(String, RuleName, u64)> {
        self.write_refusals();
        self.catch_up();
        let derived = self.0.keeper.derived();
        let by = derived.refused_by.iter();
        by.map(|((code, rule), count)| (code.clone(), rule.clone(), *count)).collect()
    }

    /// Waits until what was queued is committed and applied, or cannot be: what a caller has seen
    /// answered, it finds. Blocking.
    pub(crate) fn catch_up(&self) {
        if self.0.queue.flush().blocking().is_ok() {
            self.0.keeper.caught_up(self.0.catalogue.snapshot().next_seq());
        }
    }

    /// Writes what is queued and a checkpoint, and closes. Entries that are still open must have
    /// been dropped. Blocking.
    pub fn close(&self) {
        self.0.close();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Books").field("condition", &self.condition()).finish_non_exhaustive()
    }
}
