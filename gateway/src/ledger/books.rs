//! [`Books`]: opening, the hot path's calls, keys and policies, state, closing.
//!
//! **Invariants:** one process writes a data directory; the state after opening follows from the
//! journal alone (sled only saves time); after opening no reservation of a former process is open.

use super::{
    accounts::Amount,
    budgets::{BudgetState, Budgets, Holds, TokenRate},
    checkpoint,
    derived::{Derived, PolicyNote},
    effect::Effect,
    entry::{Entry, KeyId, RefusedRow, RequestId},
    ids::Ids,
    keeper::{Feed, Keeper},
    open_entry::{EntryHead, OpenEntry},
    recovery,
    refusals::Refusals,
};
use crate::{
    caller::{BudgetSpec, KeyRecord},
    clock::Clock,
    config::Durability,
    store::{
        BooksError, CommitTicket, Condition, JournalError,
        catalogue::Catalogue,
        codec::{self, Event, PolicyRecord, Row},
        committer::{Committer, Pulse},
        disk::{Disk, RealDisk},
        index::Index,
        journal::{self, Opened},
        lock::DirLock,
        queue::Queue,
        writer::Writer,
    },
};
use policies::{BudgetFacts, PolicyName, PolicyVersion};
use serde::Serialize;
use std::{
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// Events that may wait to be written, and places taken for events to come. An entry is about
/// 1 KB, so that the queue never holds more than some 40 MB.
const PLACES_MAX: usize = 32_768;
/// A thread's buffer for one event is given back when it grew larger.
const SCRATCH_BYTES: usize = 64 << 10;

/// How the books are kept.
#[derive(Clone, Debug)]
pub struct BooksConfig {
    /// The data directory; `journal/`, `index/` and `lock` are made in it.
    pub dir: PathBuf,
    /// What an answer waits for.
    pub durability: Durability,
    /// Paid work stops when the disk has less than this left.
    pub low_water_bytes: u64,
    /// Entries after which a segment is sealed.
    pub segment_entries_max: u32,
    /// Time zone of calendar windows.
    pub time_zone: jiff::tz::TimeZone,
    /// Budgets over everything.
    pub global_budgets: Vec<BudgetSpec>,
    /// Tokens per minute over everything.
    pub global_tokens_per_minute: Option<u64>,
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events replayed after the last checkpoint.
    pub replayed_events: u64,
    /// Requests that were running when the process died; each has an entry now.
    pub crashed_requests: u64,
    /// Bytes of a torn tail, never acknowledged, that were set aside in `journal/torn/`.
    pub torn_bytes: u64,
    /// Where a broken index was set aside; it has been rebuilt.
    pub index_set_aside: Option<PathBuf>,
}

/// Why the books cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has them open.
    #[error("{0} is in use by another tollgate process")]
    InUse(PathBuf),
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record is whole and cannot be understood.
    #[error("{path}: event {seq}: {reason}")]
    Event {
        /// The segment.
        path: PathBuf,
        /// The event.
        seq: u64,
        /// Why.
        reason: String,
    },
}

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
    /// Attempts that hold money or tokens.
    pub open_reservations: u64,
    /// Entries of free work that could not be recorded while the store failed.
    pub lost_entries: u64,
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
    pub(crate) budgets: Budgets,
    pub(crate) clock: Clock,
    pub(crate) strict: bool,
    pub(crate) lost: AtomicU64,
    pub(crate) reservations: AtomicU64,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) keeper: Arc<Keeper>,
    keys: RwLock<std::collections::BTreeMap<KeyId, KeyRecord>>,
    refusals: Refusals,
    pulse: Arc<Pulse>,
    ids: Ids,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) observer: OnceLock<Observer>,
    _lock: DirLock,
}

/// Told of every entry as it is handed over to be written.
type Observer = Box<dyn Fn(&Entry) + Send + Sync>;

// === opening ===

impl Books {
    /// Opens the books, creating them where there are none. Blocking.
    ///
    /// # Errors
    /// [`OpenError`]; the files are then as they were.
    pub fn open(config: BooksConfig, clock: Clock) -> Result<(Self, Recovered), OpenError> {
        Self::open_on(Arc::new(RealDisk), config, clock)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        config: BooksConfig,
        clock: Clock,
    ) -> Result<(Self, Recovered), OpenError> {
        let io = |source| OpenError::Io { path: config.dir.clone(), source };
        std::fs::create_dir_all(&config.dir).map_err(io)?;
        let Some(lock) = DirLock::take(&config.dir).map_err(io)? else {
            return Err(OpenError::InUse(config.dir));
        };
        let journal_dir = config.dir.join("journal");
        let Opened { catalogue, live, torn_bytes, kinds } =
            journal::open(&*disk, &journal_dir, clock.unix_ms())?;
        let catalogue = Arc::new(catalogue);
        let mut recovered = Recovered { torn_bytes, ..Recovered::default() };
        let (index, mut derived) =
            open_index(&config.dir.join("index"), &catalogue, &clock, &mut recovered);
        let saved_seq = derived.next_seq;
        recovered.replayed_events = replay(&catalogue, &mut derived)?;

        let entries = kinds[usize::from(codec::ENTRY)];
        let writer =
            Writer::resume(Arc::clone(&disk), Arc::clone(&catalogue), &live, entries, codec::ENTRY)
                .map_err(io)?;
        let budgets = Budgets::new(
            config.time_zone.clone(),
            &config.global_budgets,
            config.global_tokens_per_minute,
        );
        for (scope, accounts) in derived.balances() {
            budgets.restore(&scope, accounts.clone());
        }
        derived.keys.values().for_each(|record| budgets.put_key(record));
        let keys = RwLock::new(derived.keys.clone());
        let open = derived.open.clone();
        let queue = Arc::new(Queue::new(PLACES_MAX));
        let pulse = Arc::new(Pulse::default());
        let keeper = Arc::new(Keeper::new(derived, saved_seq, index, Arc::clone(&catalogue)));
        let committer = Committer {
            queue: Arc::clone(&queue),
            pulse: Arc::clone(&pulse),
            writer,
            sink: Box::new(Feed(Arc::clone(&keeper))),
            clock: clock.clone(),
            disk,
            dir: journal_dir,
            low_water_bytes: config.low_water_bytes,
            segment_entries_max: config.segment_entries_max.max(1),
        };
        let threads = start(committer, &keeper).map_err(io)?;
        let books = Self(Arc::new(Shared {
            queue,
            budgets,
            clock,
            strict: config.durability == Durability::Strict,
            lost: AtomicU64::new(0),
            reservations: AtomicU64::new(0),
            catalogue,
            keeper,
            keys,
            refusals: Refusals::default(),
            pulse,
            ids: Ids::new(),
            threads: Mutex::new(threads),
            observer: OnceLock::new(),
            _lock: lock,
        }));
        recovered.crashed_requests = books.end_crashed(&open)?;
        Ok((books, recovered))
    }

    /// Gives every request that was running an entry, through the ordinary path.
    fn end_crashed(&self, open: &super::derived::OpenRequests) -> Result<u64, OpenError> {
        let seqs = open.values().flat_map(|open| &open.attempts);
        let seqs = seqs.flat_map(|open| [Some(open.reserved_seq), open.settled_seq]).flatten();
        let unreadable =
            |reason: String| OpenError::Event { path: PathBuf::from("journal"), seq: 0, reason };
        let mut events = recovery::events(&self.0.catalogue.snapshot(), seqs.collect())
            .map_err(|error| unreadable(error.to_string()))?;
        let mut ids: Vec<_> = open.keys().copied().collect();
        ids.sort_unstable();
        for id in &ids {
            let Some(request) = open.get(id) else { continue };
            let entry = recovery::entry(*id, request, &mut events)
                .ok_or_else(|| unreadable(format!("the reservations of {id} cannot be read")))?;
            let ends: Vec<_> = request
                .attempts
                .iter()
                .filter(|open| open.settled_seq.is_none())
                .map(|open| {
                    let attempt = entry.attempts.get(usize::from(open.hold.attempt));
                    (open.hold.clone(), attempt.map_or(open.hold.held, super::Attempt::charge))
                })
                .collect();
            // At the start the queue is empty and has room for more than could have been open.
            if self.0.queue.take_places(1).is_err() {
                break;
            }
            let _at_leisure = self.0.write_entry(false, entry);
            for (hold, charge) in ends {
                self.0.budgets.settle(&hold.key, &hold.holds, hold.held, charge);
            }
        }
        Ok(ids.len() as u64)
    }
}

/// Opens sled and loads the last checkpoint. Whatever is wrong with it, the journal replaces it.
fn open_index(
    dir: &Path,
    catalogue: &Catalogue,
    clock: &Clock,
    recovered: &mut Recovered,
) -> (Option<Index>, Derived) {
    let end = catalogue.snapshot().next_seq();
    for _ in 0..2 {
        let loaded = Index::open(dir).and_then(|index| {
            let derived = checkpoint::load(&index)?;
            Ok((index, derived))
        });
        let reason = match loaded {
            Ok((index, None)) if index.is_empty() => return (Some(index), Derived::new()),
            Ok((index, Some(derived))) if derived.next_seq <= end => {
                return (Some(index), derived);
            }
            Ok((_, Some(_))) => "it is ahead of the journal".to_owned(),
            Ok((_, None)) => "it was written by another version".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%reason, "the index is set aside and rebuilt from the journal");
        match Index::set_aside(dir, clock.unix_ms()) {
            Ok(path) => recovered.index_set_aside = Some(path),
            Err(error) => {
                tracing::warn!(%error, "the broken index cannot be moved; going on without one");
                break;
            }
        }
    }
    (None, Derived::new())
}

/// Applies what the journal has after the checkpoint.
fn replay(catalogue: &Catalogue, derived: &mut Derived) -> Result<u64, OpenError> {
    let snapshot = catalogue.snapshot();
    let from = derived.next_seq;
    for block in snapshot.blocks().iter().filter(|block| block.next_seq > from) {
        let path = || snapshot.path(block).to_owned();
        let mut flaw = None;
        let read = snapshot.read(block, &mut |record| {
            let head = record.head;
            if head.seq < derived.next_seq || flaw.is_some() {
                return;
            }
            match codec::decode(head.kind, head.version, record.payload) {
                Ok(event) => derived.apply(head.seq, head.unix_ms, event.into()),
                Err(error) => flaw = Some((head.seq, error.to_string())),
            }
        });
        if let Some((seq, reason)) = flaw {
            return Err(OpenError::Event { path: path(), seq, reason });
        }
        if let Err(error) = read {
            return Err(JournalError::Damaged { path: path(), reason: error.to_string() }.into());
        }
    }
    Ok(derived.next_seq - from)
}

fn start(committer: Committer<Effect>, keeper: &Arc<Keeper>) -> io::Result<Vec<JoinHandle<()>>> {
    let keeping = Arc::clone(keeper);
    Ok(vec![
        std::thread::Builder::new().name("ledger-commit".into()).spawn(move || committer.run())?,
        std::thread::Builder::new().name("ledger-keep".into()).spawn(move || keeping.run())?,
    ])
}

// === the hot path ===

impl Books {
    /// Tells `observer` of every entry from now on, as it is handed over to be written, on the
    /// request's own thread: it must not wait. The first observer stays.
    pub fn observe(&self, observer: impl Fn(&Entry) + Send + Sync + 'static) {
        let _first_stays = self.0.observer.set(Box::new(observer));
    }

    /// A new request's id: time-ordered, and unique in this process even if the clock steps back.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.0.ids.next(self.0.clock.unix_ms())
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

    /// Counts a request that was turned away before any route was tried, and writes it down at a
    /// capped rate.
    pub fn refuse(&self, row: RefusedRow) {
        self.0.refuse(row);
    }

    /// The budgets on a key's path and what is left of them.
    #[must_use]
    pub fn budget_facts(&self, key: &KeyId) -> Vec<BudgetFacts> {
        self.0.budgets.facts(key, self.0.clock.unix_ms())
    }

    /// The tightest tokens-per-minute limit on a key's path, for the rate limit headers.
    #[must_use]
    pub fn token_rate(&self, key: &KeyId) -> Option<TokenRate> {
        self.0.budgets.token_rate(key)
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

    /// Queues an entry, for which a place was taken.
    pub(crate) fn write_entry(&self, urgent: bool, entry: Entry) -> CommitTicket {
        if let Some(observe) = self.observer.get() {
            observe(&entry);
        }
        with_scratch(|scratch| match codec::encode_entry(scratch, &entry) {
            Ok(()) => self.queue.push(scratch, Effect::Entry(Box::new(Row::of(entry))), urgent),
            Err(error) => self.unwritable(&error),
        })
    }

    /// Cannot happen with the types there are; if it does it is loud and nothing hangs.
    fn unwritable(&self, error: &postcard::Error) -> CommitTicket {
        tracing::error!(%error, "an event of the ledger cannot be encoded");
        self.queue.give_places(1);
        self.lost.fetch_add(1, Ordering::Relaxed);
        CommitTicket::ready()
    }

    pub(crate) fn refuse(&self, row: RefusedRow) {
        if let Some(row) = self.refusals.count(row)
            && self.queue.take_places(1).is_ok()
        {
            self.write_refusal(row);
        }
    }

    fn write_refusal(&self, row: RefusedRow) {
        let _nobody_waits =
            with_scratch(|scratch| match codec::encode(scratch, codec::REFUSED, &row) {
                Ok(()) => self.queue.push(scratch, Effect::Refused(row), false),
                Err(error) => self.unwritable(&error),
            });
    }

    /// Ends a hold with what it came to. Only after the event that says so was queued.
    pub(crate) fn release(&self, key: &KeyId, holds: &Holds, held: Amount, charge: Amount) {
        self.budgets.settle(key, holds, held, charge);
        self.reservations.fetch_sub(1, Ordering::Relaxed);
    }

    fn close(&self) {
        for row in self.refusals.rest() {
            if self.queue.take_places(1).is_ok() {
                self.write_refusal(row);
            }
        }
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
    /// at once. What was spent stays. The ticket resolves when it is durable, in either mode.
    pub fn put_key(&self, record: KeyRecord) -> CommitTicket {
        self.0.budgets.put_key(&record);
        let key = record.id.clone();
        self.0.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key, record.clone());
        self.put(codec::KEY, &record.clone(), Effect::Key(Box::new(record)))
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

    fn put<T: Serialize>(&self, kind: u8, value: &T, effect: Effect) -> CommitTicket {
        if let Err(error) = self.0.queue.take_places(1) {
            return CommitTicket::failed(error);
        }
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
        let notes = self.policies();
        let Some(note) = notes.iter().rev().find(|note| note.version == *version) else {
            return Ok(None);
        };
        let mut events = recovery::events(&self.0.catalogue.snapshot(), vec![note.seq])?;
        match events.remove(&note.seq) {
            Some(Event::Policy(record)) => Ok(Some(record.source)),
            _ => Err(BooksError::Unreadable(format!("event {} is no policy", note.seq).into())),
        }
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
            open_reservations: shared.reservations.load(Ordering::Relaxed),
            lost_entries: shared.lost.load(Ordering::Relaxed),
        }
    }

    /// Every budget in its current window.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetState> {
        self.0.budgets.states(self.0.clock.unix_ms())
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

    /// Refusals by code since the beginning. Blocking.
    #[must_use]
    pub fn refusals(&self) -> Vec<(String, u64)> {
        self.catch_up();
        let derived = self.0.keeper.derived();
        derived.refused.iter().map(|(code, count)| (code.clone(), *count)).collect()
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
