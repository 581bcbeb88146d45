//! The thread that keeps what is derived from the journal: applies committed events, writes
//! checkpoints to sled, has full segments sealed.
//!
//! **Invariants:** only durable events are applied; a checkpoint that fails costs a longer replay
//! at the next start and nothing else; the hot path never waits for this thread.

use super::{checkpoint, derived::Derived, effect::Effect, spare, spare::Missed};
use crate::store::{
    catalogue::{Catalogue, Plain},
    codec,
    committer::Sink,
    index::{Index, IndexError},
    sealed::{Sealed, Sealer},
    segment::{ScanError, walk},
    writer::sealed_name,
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Effects are applied this long after the first, or when someone asks.
const LINGER: Duration = Duration::from_millis(200);
/// Events between two checkpoints: about 0.2 s of replay.
const CHECKPOINT_EVENTS: u64 = 65_536;
/// Time between two checkpoints, if anything happened.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// Time between two spares, where there are few events.
const SPARE_EVERY: Duration = Duration::from_secs(600);
/// More effects than this never wait: the committer does then. About 30 MB.
const INBOX_MAX: usize = 1 << 15;

/// Effects on their way, and the state they are applied to.
#[derive(Debug)]
pub(crate) struct Keeper {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    done: Condvar,
    derived: Mutex<Derived>,
    /// A copy of `derived.uncounted`: a checkpoint holds the whole for as long as the disk takes.
    missed: Mutex<Vec<Missed>>,
    pub(crate) index: Option<Index>,
    catalogue: Arc<Catalogue>,
    /// The next event's number at the last checkpoint.
    saved_seq: u64,
    abort_sealing: Arc<AtomicBool>,
    /// Number of the newest notice.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inbox {
    batches: Vec<Batch>,
    count: usize,
    /// Events applied so far, all below this number.
    applied_seq: u64,
    wanted: bool,
    seal: bool,
    stop: bool,
}

#[derive(Debug)]
struct Batch {
    first_seq: u64,
    unix_ms: u64,
    effects: Vec<Effect>,
}

impl Keeper {
    /// `saved_seq`: what the index already has; everything after it waits for a checkpoint.
    pub(crate) fn new(
        derived: Derived,
        saved_seq: u64,
        index: Option<Index>,
        catalogue: Arc<Catalogue>,
    ) -> Self {
        let inbox = Inbox { applied_seq: derived.next_seq, seal: true, ..Inbox::default() };
        Self {
            inbox: Mutex::new(inbox),
            wake: Condvar::new(),
            done: Condvar::new(),
            news: watch::Sender::new(derived.notices.newest()),
            missed: Mutex::new(derived.uncounted.clone()),
            derived: Mutex::new(derived),
            index,
            catalogue,
            saved_seq,
            abort_sealing: Arc::default(),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lost events that are in no balance. Waits for no disk.
    pub(crate) fn missed(&self) -> MutexGuard<'_, Vec<Missed>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, after every event that was applied. Blocking: a checkpoint may hold it.
    pub(crate) fn derived(&self) -> MutexGuard<'_, Derived> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every notice, once it can be found in the state.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Waits until every event below `seq` is applied. Blocking.
    pub(crate) fn caught_up(&self, seq: u64) {
        let mut inbox = self.inbox();
        while inbox.applied_seq < seq && !inbox.stop {
            inbox.wanted = true;
            self.wake.notify_one();
            inbox = self.done.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn stop(&self) {
        self.abort_sealing.store(true, Ordering::Relaxed);
        self.inbox().stop = true;
        self.wake.notify_one();
    }

    /// The thread.
    pub(crate) fn run(&self) {
        let _stopped_at_the_end = StopAtTheEnd(self);
        let mut kept = (self.saved_seq, Instant::now());
        let mut spared = kept;
        let mut sealing: Option<JoinHandle<()>> = None;
        loop {
            let (batches, seal, stop) = self.wait(kept);
            self.apply(batches);
            if seal {
                self.seal(&mut sealing);
            }
            let events = self.derived().next_seq - kept.0;
            let due = events >= CHECKPOINT_EVENTS || kept.1.elapsed() >= CHECKPOINT_EVERY;
            if events > 0 && (due || stop) {
                self.checkpoint();
                kept = (self.derived().next_seq, Instant::now());
                let many = kept.0 - spared.0 >= CHECKPOINT_EVENTS;
                if many || stop || spared.1.elapsed() >= SPARE_EVERY {
                    self.spare();
                    spared = kept;
                }
            }
            if stop {
                break;
            }
        }
        if let Some(sealing) = sealing {
            // It panicked or it ended; its segment is sealed at the next start.
            let _ended = sealing.join();
        }
    }

    fn wait(&self, kept: (u64, Instant)) -> (Vec<Batch>, bool, bool) {
        let mut inbox = self.inbox();
        while !inbox.stop && !inbox.wanted && !inbox.seal && inbox.count == 0 {
            let pending = inbox.applied_seq > kept.0;
            inbox = if pending {
                let left = CHECKPOINT_EVERY.saturating_sub(kept.1.elapsed());
                if left.is_zero() {
                    break;
                }
                self.wake.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner)
            };
        }
        if !inbox.stop && !inbox.wanted && !inbox.seal && inbox.count < INBOX_MAX / 4 {
            inbox = self.wake.wait_timeout(inbox, LINGER).unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.wanted = false;
        inbox.count = 0;
        self.done.notify_all();
        (std::mem::take(&mut inbox.batches), std::mem::take(&mut inbox.seal), inbox.stop)
    }

    fn apply(&self, batches: Vec<Batch>) {
        let (next_seq, newest) = {
            let mut derived = self.derived();
            for batch in batches {
                for (seq, effect) in (batch.first_seq..).zip(batch.effects) {
                    derived.apply(seq, batch.unix_ms, effect);
                }
            }
            derived.rollups.bound_past();
            self.missed().clone_from(&derived.uncounted);
            (derived.next_seq, derived.notices.newest())
        };
        self.news.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        self.inbox().applied_seq = next_seq;
        self.done.notify_all();
    }

    fn checkpoint(&self) {
        let Some(index) = &self.index else { return };
        let save = || checkpoint::save(index, &mut self.derived());
        // sled panics on some damage.
        let saved = catch_unwind(AssertUnwindSafe(save)).unwrap_or(Err(IndexError::Panicked));
        if let Err(error) = saved {
            tracing::warn!(%error, "no checkpoint; the next start replays more of the journal");
        }
    }

    /// Writes the balances beside the journal, in case both it and the index lose something.
    fn spare(&self) {
        let Some(dir) = self.catalogue.snapshot().dir() else { return };
        let copy = self.derived().without_rollups();
        if let Err(error) = spare::save(&dir, copy) {
            tracing::warn!(%error, "the balances are not kept beside the journal");
        }
    }

    /// Has full segments compressed, one thread at a time.
    fn seal(&self, sealing: &mut Option<JoinHandle<()>>) {
        match sealing.take() {
            Some(running) if !running.is_finished() => {
                *sealing = Some(running);
                // Looked at again with the next segment, or at the next start.
                return;
            }
            _ => {}
        }
        if self.catalogue.unsealed().is_empty() {
            return;
        }
        let catalogue = Arc::clone(&self.catalogue);
        let abort = Arc::clone(&self.abort_sealing);
        let run = move || {
            if let Err(error) = seal_all(&catalogue, &abort) {
                tracing::warn!(%error, "a segment could not be sealed; it stays as it is");
            }
        };
        match std::thread::Builder::new().name("ledger-seal".into()).spawn(run) {
            Ok(thread) => *sealing = Some(thread),
            Err(error) => tracing::warn!(%error, "no thread to seal a segment"),
        }
    }
}

/// However the thread ends, nobody waits for it any longer.
struct StopAtTheEnd<'a>(&'a Keeper);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "the thread that adds the journal up panicked: requests are still decided, charged \
                 and written down; sums, notices and checkpoints wait for the next start"
            );
        }
        self.0.inbox().stop = true;
        self.0.done.notify_all();
    }
}

/// Seals every full segment, and tells of one that cannot be. Waits for another sealer.
///
/// # Errors
/// Of the last one that could not be sealed: it stays as it is, and is looked at closely at the next
/// start.
pub(crate) fn seal_all(catalogue: &Catalogue, abort: &AtomicBool) -> Result<(), ScanError> {
    let _alone = catalogue.sealing();
    let mut outcome = Ok(());
    for plain in catalogue.unsealed() {
        match seal(&plain, abort) {
            Ok(None) => return outcome,
            Ok(Some(sealed)) => {
                catalogue.seal(&Arc::new(sealed));
                std::fs::remove_file(&plain.path)?;
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// One of them; `None` if it was told to stop.
fn seal(plain: &Plain, abort: &AtomicBool) -> Result<Option<Sealed>, ScanError> {
    let path = plain.path.with_file_name(sealed_name(plain.first_seq));
    let mut sealer = Sealer::create(&path)?;
    for (at, mark) in plain.marks.iter().enumerate() {
        if abort.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let to = plain.marks.get(at + 1).map_or(plain.end, |next| next.offset);
        walk(&plain.file, mark.offset, to, &mut |_, record, _| {
            let head = record.head;
            let event = codec::decode(head.kind, head.version, record.payload)
                .map_err(|error| ScanError::Io(io::Error::other(error)))?;
            sealer.add(head.seq, head.unix_ms, record.raw, Some(&event)).map_err(ScanError::Io)
        })?;
    }
    sealer.finish().map(Some)
}

/// The committer's end.
#[derive(Debug)]
pub(crate) struct Feed(pub(crate) Arc<Keeper>);

impl Sink<Effect> for Feed {
    fn committed(
        &mut self,
        first_seq: u64,
        unix_ms: u64,
        effects: &mut dyn Iterator<Item = Effect>,
    ) {
        let batch = Batch { first_seq, unix_ms, effects: effects.collect() };
        let mut inbox = self.0.inbox();
        while inbox.count >= INBOX_MAX && !inbox.stop {
            self.0.wake.notify_one();
            inbox = self.0.done.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        // The committer is joined before the keeper is told to stop: this one ended by itself, and
        // nobody would ever take them.
        if inbox.stop {
            return;
        }
        let wake = inbox.count == 0;
        inbox.count += batch.effects.len();
        inbox.batches.push(batch);
        drop(inbox);
        if wake {
            self.0.wake.notify_one();
        }
    }

    fn rolled(&mut self) {
        self.0.inbox().seal = true;
        self.0.wake.notify_one();
    }
}
