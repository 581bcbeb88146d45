//! The one thread that writes the journal.
//!
//! It takes whatever queued while its last commit ran (at most [`COMMIT_EVENTS_MAX`] events),
//! writes once and syncs once. Someone who waits is served at once; where nobody waits (`grouped`)
//! it gathers for [`GATHER`]. **Invariants:** an event is acknowledged only after its sync; a
//! failed write keeps the events in memory, tells whoever waits, and is tried again until it works;
//! nothing ever waits for this thread without a way out.

use super::{
    ballast::Ballast,
    disk::Disk,
    progress::Condition,
    queue::{Queue, Woken},
    writer::Writer,
};
use crate::clock::Clock;
use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Events of one commit.
pub(crate) const COMMIT_EVENTS_MAX: usize = 512;
/// How long events that nobody waits for gather. In `grouped` mode a crash loses at most what came
/// within this and the commit that ran.
///
/// A sync costs 100 to 500 us of CPU whatever it carries, so that at 500 requests a second this is
/// most of what the ledger costs.
const GATHER: Duration = Duration::from_millis(50);
/// Without work for this long the thread sleeps until it is woken, or looks at the disk again.
const ACTIVE: Duration = Duration::from_secs(1);
/// Between two tries after a failure, and between two looks at a disk that was nearly full.
const RETRY: Duration = Duration::from_millis(500);
/// Between two looks at the disk while there is work.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at it while there is none.
const LOOK_IDLE: Duration = Duration::from_secs(5);
/// A commit time this far ahead of the clock is told.
const AHEAD_MS: u64 = 60_000;
/// Buffers that grew larger than this in a burst are given back.
const KEEP_BYTES: usize = 4 << 20;

/// Who gets what became durable.
pub(crate) trait Sink<T>: Send {
    /// These events are durable, numbered from `first_seq`. Takes `effects` out.
    fn committed(&mut self, first_seq: u64, unix_ms: u64, effects: &mut dyn Iterator<Item = T>);
    /// A segment is full and may be sealed.
    fn rolled(&mut self);
}

/// Figures of the thread, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Microseconds the last write and sync took.
    pub(crate) last_commit_us: AtomicU64,
    /// Commits so far.
    pub(crate) commits: AtomicU64,
    /// Milliseconds by which the time of the last commit was ahead of the clock.
    pub(crate) ahead_ms: AtomicU64,
}

pub(crate) struct Committer<T> {
    pub(crate) queue: Arc<Queue<T>>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) writer: Writer,
    pub(crate) sink: Box<dyn Sink<T>>,
    pub(crate) clock: Clock,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) low_water_bytes: u64,
    pub(crate) ballast: Ballast,
    pub(crate) segment_entries_max: u32,
}

impl<T> fmt::Debug for Committer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("writer", &self.writer).finish_non_exhaustive()
    }
}

/// However the thread ends, nobody waits for it any longer.
struct CloseAtTheEnd<T>(Arc<Queue<T>>);

impl<T> Drop for CloseAtTheEnd<T> {
    fn drop(&mut self) {
        self.0.set(Condition::Closed);
    }
}

impl<T> Committer<T> {
    /// Until the queue is stopped.
    pub(crate) fn run(mut self) {
        let _closed_at_the_end = CloseAtTheEnd(Arc::clone(&self.queue));
        let mut bytes = Vec::new();
        let mut effects = Vec::new();
        let mut worked = Instant::now();
        let mut looked = None;
        loop {
            let again = self.look(&mut looked);
            let active = worked.elapsed() < ACTIVE;
            match self.queue.wait(active, GATHER, Some(again)) {
                Woken::Stopped => break,
                Woken::Idle => continue,
                Woken::Work => {}
            }
            worked = Instant::now();
            self.queue.swap(&mut bytes, &mut effects);
            let written = self.commit_all(&mut bytes, &mut effects);
            bytes.clear();
            bytes.shrink_to(KEEP_BYTES);
            if !written {
                break;
            }
        }
        self.writer.close();
    }

    /// Commits everything in order. Whether that was done: it is given up where it fails again after
    /// the stop.
    fn commit_all(&mut self, bytes: &mut [u8], effects: &mut Vec<T>) -> bool {
        let mut effects = effects.drain(..);
        let mut used = 0;
        let mut stopped = false;
        while effects.len() > 0 {
            let count = effects.len().min(COMMIT_EVENTS_MAX);
            let began = Instant::now();
            let first_seq = self.writer.next_seq();
            match self.writer.commit(&mut bytes[used..], count, self.clock.unix_ms()) {
                Ok((size, unix_ms)) => {
                    self.pulse(began);
                    self.compare_clock(unix_ms);
                    used += size;
                    self.sink.committed(first_seq, unix_ms, &mut effects.by_ref().take(count));
                    self.recovered();
                    self.queue.committed(count);
                    self.roll();
                }
                // One more try after the stop, so that a close during a short fault loses nothing.
                Err(_) if stopped => {
                    let events = effects.len() + self.queue.pending();
                    tracing::error!(events, "closed with unwritten events");
                    return false;
                }
                Err(error) => {
                    self.failed(&error);
                    stopped = self.queue.pause(RETRY);
                }
            }
        }
        true
    }

    fn pulse(&self, began: Instant) {
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.pulse.last_commit_us.store(micros, Ordering::Relaxed);
        self.pulse.commits.fetch_add(1, Ordering::Relaxed);
    }

    /// Commit times never fall: once the clock was ahead, all until then is booked at that time.
    fn compare_clock(&self, commit_ms: u64) {
        let ahead_ms = commit_ms.saturating_sub(self.clock.unix_ms());
        let before_ms = self.pulse.ahead_ms.swap(ahead_ms, Ordering::Relaxed);
        if ahead_ms >= AHEAD_MS && before_ms < AHEAD_MS {
            tracing::warn!(
                ahead_s = ahead_ms / 1_000,
                "the ledger's last commit is ahead of the clock: until the clock is there, what is \
                 written down gets the time of that commit"
            );
        }
    }

    fn roll(&mut self) {
        if self.writer.counted < self.segment_entries_max {
            return;
        }
        match self.writer.roll() {
            Ok(()) => self.sink.rolled(),
            // The full segment goes on; the next commit tries again.
            Err(error) => tracing::warn!(%error, "the journal could not begin its next segment"),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.ballast.give_up();
        }
        let reason: Arc<str> = error.to_string().into();
        if !matches!(self.queue.progress.condition(), Condition::Failed { .. }) {
            tracing::error!(%reason, "the ledger cannot be written; paid work stops until it can");
        }
        self.queue.set(Condition::Failed { reason });
    }

    fn recovered(&self) {
        if matches!(self.queue.progress.condition(), Condition::Failed { .. }) {
            tracing::warn!("the ledger can be written again");
            self.queue.set(Condition::Healthy);
        }
    }

    /// Looks at the disk now and then, whether there is work or not; how soon again if there is none.
    fn look(&mut self, looked: &mut Option<Instant>) -> Duration {
        let well = self.queue.progress.condition() == Condition::Healthy;
        let pause = if well { LOOK } else { RETRY / 2 };
        if looked.is_none_or(|looked| looked.elapsed() >= pause) {
            *looked = Some(Instant::now());
            match self.writer.check().and_then(|()| self.disk.free_bytes(&self.dir)) {
                Ok(free_bytes) => {
                    self.recovered();
                    self.note_free(free_bytes);
                }
                Err(error) => self.failed(&error),
            }
        }
        match self.queue.progress.condition() {
            Condition::Healthy => LOOK_IDLE,
            _ => RETRY,
        }
    }

    /// Compares the free space with the low-water mark.
    fn note_free(&mut self, free_bytes: u64) {
        let was_low = matches!(self.queue.progress.condition(), Condition::LowSpace { .. });
        let low_water_bytes = self.low_water_bytes;
        self.ballast.take_back(free_bytes.saturating_sub(low_water_bytes));
        if free_bytes < low_water_bytes {
            if !was_low {
                tracing::error!(
                    free_bytes,
                    low_water_bytes,
                    "the disk is nearly full; paid work stops"
                );
            }
            self.queue.set(Condition::LowSpace { free_bytes, low_water_bytes });
        } else if was_low {
            tracing::warn!(free_bytes, "the disk has room again");
            self.queue.set(Condition::Healthy);
        }
    }
}
