//! Opening the books: lock, journal, index, replay, threads, and the entries of a crash.
//!
//! **Invariants:** one process writes a data directory; the state after opening follows from the
//! journal alone (sled only saves time); after opening no reservation of a former process is open.

use super::{
    Attempt,
    books::{Books, Shared},
    budgets::Budgets,
    checkpoint,
    derived::{Derived, OpenRequests},
    effect::Effect,
    ids::Ids,
    keeper::{Feed, Keeper},
    recovery,
    refusals::Refusals,
    retire,
    rollups::PAST_MAX,
    spare::{Spares, Uncounted},
    zones::Configured,
};
use crate::{
    caller::{BudgetSpec, Zone},
    clock::Clock,
    config::{Durability, ModelLimits},
    store::{
        JournalError, Lost,
        ballast::Ballast,
        catalogue::{Catalogue, Snapshot},
        codec,
        committer::{Committer, Pulse},
        disk::{Disk, RealDisk},
        index::{Changes, Index, Pairs},
        journal::{self, Found, Opened},
        lock::DirLock,
        queue::Queue,
        writer::Writer,
    },
};
use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, RwLock, atomic::AtomicU64},
    thread::JoinHandle,
};

/// Events that may wait to be written, and places taken for events to come. An entry is about
/// 1 KB, so that the queue never holds more than some 40 MB.
pub(super) const PLACES_MAX: usize = 32_768;

/// Opening writes some, the index most of it: on a disk with less the ballast makes room first.
const OPENING_BYTES: u64 = 4 << 20;

/// How the books are kept.
#[derive(Clone, Debug)]
pub struct BooksConfig {
    /// The data directory; `journal/`, `index/` and `lock` are made in it.
    pub dir: PathBuf,
    /// What an answer waits for.
    pub durability: Durability,
    /// Paid work stops when the disk has less than this left.
    pub low_water_bytes: u64,
    /// Bytes of a file that is given up when the disk is full, so that what runs can still be
    /// settled; 0 for none.
    pub ballast_bytes: u64,
    /// Entries after which a segment is sealed.
    pub segment_entries_max: u32,
    /// Time zone of calendar windows.
    pub time_zone: jiff::tz::TimeZone,
    /// Budgets over everything.
    pub global_budgets: Vec<BudgetSpec>,
    /// Tokens per minute over everything.
    pub global_tokens_per_minute: Option<u64>,
    /// Limits of single models; tokens per minute of them are kept here.
    pub model_limits: Vec<ModelLimits>,
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
    /// Segments that are damaged as far as opening sees it, and how. They are left as they are;
    /// what is whole of them is read, and nothing is written to them.
    pub damaged: Vec<(PathBuf, String)>,
    /// Events after the last checkpoint that cannot be read: they are in no sum. Before the checkpoint
    /// nothing is lost but the entries themselves.
    pub lost: Vec<Lost>,
    /// Those among them, and among what was lost before, whose charges a budget lacks.
    pub uncounted: Vec<Uncounted>,
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
    /// What stands for dropped segments cannot be read.
    #[error("{path}: the base of the journal cannot be read: {reason}")]
    Base {
        /// The journal.
        path: PathBuf,
        /// Why.
        reason: String,
    },
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
        // Prompts are not in it, but who asked what model and when is.
        DirBuilder::new().recursive(true).mode(0o700).create(&config.dir).map_err(io)?;
        let Some(lock) = DirLock::take(&config.dir).map_err(io)? else {
            return Err(OpenError::InUse(config.dir));
        };
        let journal_dir = config.dir.join("journal");
        let mut recovered = Recovered::default();
        let ballast = ballast(&*disk, &config);
        let found = journal::find(&journal_dir)?;
        let end = found.next_seq();
        let (index, mut derived) = open_index(&config.dir, &found, &clock, &mut recovered)?;
        let known = known_until(&journal_dir, end, &derived);
        let Opened { catalogue, live, torn_bytes, kinds } =
            found.open(&*disk, clock.unix_ms(), known)?;
        let catalogue = Arc::new(catalogue);
        recovered.torn_bytes = torn_bytes;
        let spares = Spares::until(&journal_dir, derived.next_seq, catalogue.snapshot().next_seq());
        let saved_seq = replay(&catalogue, index.as_ref(), &mut derived, &mut recovered, spares)?;

        let entries = kinds[usize::from(codec::ENTRY)];
        let writer =
            Writer::resume(Arc::clone(&disk), Arc::clone(&catalogue), &live, entries, codec::ENTRY)
                .map_err(io)?;
        let configured = configured(&config, &derived, clock.unix_ms());
        let known = derived.configured.clone();
        let budgets = Arc::new(budgets(&config, &configured, &derived, clock.unix_ms()));
        let groups = RwLock::new(derived.groups.clone());
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
            ballast,
            segment_entries_max: config.segment_entries_max.max(1),
        };
        let threads = start(committer, &keeper).map_err(io)?;
        let books = Self(Arc::new(Shared {
            queue,
            budgets,
            clock,
            strict: config.durability == Durability::Strict,
            observer: OnceLock::new(),
            lost: AtomicU64::new(0),
            lost_notices: AtomicU64::new(0),
            reservations: AtomicU64::new(0),
            catalogue,
            keeper,
            keys,
            groups,
            refusals: Refusals::default(),
            rerating: Mutex::default(),
            pulse,
            ids: Ids::new(),
            dir: config.dir.clone(),
            threads: Mutex::new(threads),
            _lock: lock,
        }));
        recovered.uncounted = books.missed().into_iter().map(|missed| missed.events).collect();
        recovered.crashed_requests = books.end_crashed(&open)?;
        books.note_configured(known.as_ref(), &configured);
        books.tell_untold(None);
        Ok((books, recovered))
    }

    /// Writes down what the configuration says of calendar windows, if that is news. Where it cannot
    /// be written the next start writes it.
    fn note_configured(&self, known: Option<&Configured>, now: &Configured) {
        let is_news = known.map_or(!now.is_usual(), |known| known != now);
        if is_news {
            let effect = Effect::Configured(Box::new(now.clone()));
            let _at_leisure = self.put(codec::CONFIGURED, now, effect);
        }
    }

    /// Gives every request that was running an entry, through the ordinary path.
    fn end_crashed(&self, open: &OpenRequests) -> Result<u64, OpenError> {
        let seqs = open.values().flat_map(|open| &open.attempts);
        let seqs = seqs.flat_map(|open| [Some(open.reserved_seq), open.settled_seq]).flatten();
        let unreadable =
            |reason: String| OpenError::Event { path: PathBuf::from("journal"), seq: 0, reason };
        let mut events = recovery::events(&self.0.catalogue.snapshot(), seqs.collect())
            .map_err(|error| unreadable(error.to_string()))?;
        let mut ids: Vec<_> = open.keys().copied().collect();
        ids.sort_unstable();
        let mut ended = 0;
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
                    (open.hold.clone(), attempt.map_or(open.hold.held, Attempt::charge))
                })
                .collect();
            // More may have been open than fit the queue: then those before are written first.
            if self.0.queue.take_places(1).is_err() {
                self.catch_up();
                if self.0.queue.take_places(1).is_err() {
                    tracing::error!(
                        ended,
                        "requests of before cannot be ended now: the next start does"
                    );
                    break;
                }
            }
            ended += 1;
            let _at_leisure = self.0.write_entry(false, entry);
            for (hold, charge) in ends {
                let now_ms = self.0.clock.unix_ms();
                for crossing in self.0.budgets.settle(&hold.holds, hold.held, charge, now_ms) {
                    self.0.tell(crossing.into());
                }
            }
        }
        Ok(ended)
    }
}

/// The ballast, given up already where there is too little room to open anything.
fn ballast(disk: &dyn Disk, config: &BooksConfig) -> Ballast {
    let mut ballast = Ballast::new(&config.dir, config.ballast_bytes);
    if disk.free_bytes(&config.dir).is_ok_and(|free| free < OPENING_BYTES) {
        ballast.give_up();
    }
    ballast
}

/// What the configuration says of calendar windows now.
fn configured(config: &BooksConfig, derived: &Derived, now_ms: u64) -> Configured {
    Configured::now(derived, Zone::from(&config.time_zone), &config.global_budgets, now_ms)
}

/// Every budget with the balance it had.
fn budgets(
    config: &BooksConfig,
    configured: &Configured,
    derived: &Derived,
    now_ms: u64,
) -> Budgets {
    let budgets = Budgets::new(
        &configured.zones,
        &configured.budgets,
        config.global_tokens_per_minute,
        &config.model_limits,
    );
    for (scope, kept) in &derived.accounts {
        budgets.restore(scope, kept.known(), kept.used_unix_ms);
    }
    derived.keys.values().for_each(|record| budgets.put_key(record, now_ms));
    derived.groups.values().for_each(|record| budgets.put_group(record, now_ms));
    budgets
}

/// The segments whose damage shows without reading their blocks.
fn damaged(snapshot: &Snapshot) -> Vec<(PathBuf, String)> {
    let damaged = snapshot.segments.iter().filter_map(|segment| {
        let how = segment.damage()?;
        Some((segment.path().to_owned(), how.to_owned()))
    });
    damaged.collect()
}

/// The number after the last event that is known to have been durable: the index or a spare may have
/// seen events that the journal lost at its end. 0 where there is no journal.
fn known_until(journal: &Path, end: Option<u64>, derived: &Derived) -> u64 {
    let Some(end) = end else { return 0 };
    let spare = Spares::newest_beyond(journal, end).unwrap_or(0);
    let known = derived.next_seq.max(spare);
    if known > end {
        tracing::error!(
            first = end,
            last = known - 1,
            "the journal has lost its last events: what they added up to is kept beside it"
        );
    }
    known
}

/// Opens sled and loads the last checkpoint. Whatever is wrong with it, the journal that was `found`
/// replaces it. An index that is ahead of that one's end knows what the journal lost.
fn open_index(
    data: &Path,
    found: &Found,
    clock: &Clock,
    recovered: &mut Recovered,
) -> Result<(Option<Index>, Derived), OpenError> {
    let (index, rebuilt, journal) =
        (data.join("index"), data.join("index.rebuilt"), data.join("journal"));
    let (pairs, base) = match retire::begin(&journal) {
        Ok(begun) => begun,
        Err(error) => {
            return Err(OpenError::Base { path: journal, reason: error.to_string() });
        }
    };
    let (snapshot, has_segments) = (found.snapshot(), found.next_seq().is_some());
    // A sled that failed is not gone: its threads may still write files by name. What replaces it in
    // this process has another name, and takes its place at the next start, whatever stands there.
    if rebuilt.exists() {
        let gone = if index.exists() { std::fs::remove_dir_all(&index) } else { Ok(()) };
        if let Err(error) = gone.and_then(|()| std::fs::rename(&rebuilt, &index)) {
            tracing::warn!(%error, "the rebuilt index cannot be put in its place");
        }
    }
    for dir in [&index, &rebuilt] {
        let loaded = Index::open(dir).and_then(|index| {
            // A new index begins with all that the base holds: checkpoints add only what changes
            // after it, and the sums of dropped days are nowhere else.
            if index.is_empty()
                && let Some(meta) = pairs.meta()?
            {
                index.apply(Changes::copy_of(&pairs)?, &meta)?;
            }
            let derived = checkpoint::load(&index)?;
            Ok((index, derived))
        });
        let reason = match loaded {
            // By something that does not heed the directory's lock. It is not broken.
            Err(error) if error.is_in_use() => return Err(OpenError::InUse(data.to_owned())),
            Err(error) if error.is_the_machines() => {
                tracing::error!(%error, "the index cannot be opened now; going on without one");
                return Ok((None, base));
            }
            Ok((index, None)) if index.is_empty() => return Ok((Some(index), base)),
            Ok((_, Some(derived))) if derived.next_seq < base.next_seq => {
                "it is older than the base of the journal".to_owned()
            }
            Ok((_, Some(derived))) if derived.lineage.is_foreign_to(&snapshot) => {
                "it was made of another journal".to_owned()
            }
            Ok((index, Some(derived))) if has_segments || derived.next_seq == base.next_seq => {
                return Ok((Some(index), derived));
            }
            Ok((_, Some(_))) => "the journal that it was made of is gone".to_owned(),
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
    Ok((None, base))
}

/// Applies what the journal has after the checkpoint, and says what of it is lost. Much of it makes
/// checkpoints on the way: more sums than memory should hold. Returns the last one's number.
fn replay(
    catalogue: &Catalogue,
    index: Option<&Index>,
    derived: &mut Derived,
    recovered: &mut Recovered,
    mut spares: Spares,
) -> Result<u64, OpenError> {
    let snapshot = catalogue.snapshot();
    let from = derived.next_seq;
    let mut saved_seq = from;
    for block in snapshot.blocks().iter().filter(|block| block.next_seq > from) {
        let mut flaw = None;
        let gone = snapshot.read(block, &mut |record| {
            let head = record.head;
            if head.seq < derived.next_seq || flaw.is_some() {
                return;
            }
            match codec::decode(head.kind, head.version, record.payload) {
                Ok(event) => {
                    spares.before(derived, head.seq, head.unix_ms);
                    derived.apply(head.seq, head.unix_ms, event.into());
                }
                Err(error) => flaw = Some((head.seq, error.to_string())),
            }
        });
        if let Some((seq, reason)) = flaw {
            return Err(OpenError::Event { path: snapshot.path(block).to_owned(), seq, reason });
        }
        // What the checkpoint knows already is not lost to it.
        recovered.lost.extend(gone.into_iter().filter(|gone| gone.last_seq >= from));
        if derived.next_seq < block.next_seq {
            spares.before(derived, block.next_seq, block.last_ms);
            derived.next_seq = block.next_seq;
        }
        if derived.rollups.past().len() > PAST_MAX / 2 {
            match index.map(|index| checkpoint::save(index, derived)) {
                Some(Ok(())) => saved_seq = derived.next_seq,
                Some(Err(error)) => tracing::warn!(%error, "no checkpoint while replaying"),
                None => {}
            }
            derived.rollups.bound_past();
        }
    }
    // What was saved last may be all that is left of the end.
    let end = derived.next_seq;
    spares.before(derived, end, snapshot.blocks().last().map_or(0, |block| block.last_ms));
    recovered.replayed_events = derived.next_seq - from;
    recovered.damaged = damaged(&snapshot);
    Ok(saved_seq)
}

fn start(committer: Committer<Effect>, keeper: &Arc<Keeper>) -> io::Result<Vec<JoinHandle<()>>> {
    let keeping = Arc::clone(keeper);
    Ok(vec![
        std::thread::Builder::new().name("ledger-commit".into()).spawn(move || committer.run())?,
        std::thread::Builder::new().name("ledger-keep".into()).spawn(move || keeping.run())?,
    ])
}
