//! The engine's live numbers. The scheduler stores them, anyone loads them: no lock, so that
//! health answers while the engine is busy or stuck.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Whether the engine takes jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// It does.
    Running,
    /// It finishes what it has and takes no more.
    Draining,
    /// It ended as asked.
    Stopped,
    /// It ended by a fault.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// A reading of the engine's numbers. Each is right by itself; together they may be one step apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the engine takes jobs.
    pub state: EngineState,
    /// Jobs waiting for a slot.
    pub queued: u32,
    /// Jobs in a slot.
    pub running: u32,
    /// Running jobs that wait for their reader.
    pub paused: u32,
    /// KV cells in use, kept prefixes included; a prefix shared by two sequences counts twice.
    pub kv_used: u32,
    /// KV cells there are.
    pub kv_total: u32,
    /// Time since the scheduler last looked around. Large values mean a long step or a hang; an
    /// idle scheduler looks around every second.
    pub heartbeat_age: Duration,
    /// Steps computed.
    pub steps: u64,
    /// Time computed: decoding and sampling.
    pub busy: Duration,
    /// The part of `busy` that was attributed to jobs: all of it.
    pub attributed: Duration,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Generated tokens computed.
    pub decode_tokens: u64,
    /// Prompt tokens found in the KV cache.
    pub cached_tokens: u64,
    /// Idle prefixes given up to make room.
    pub evictions: u64,
    /// Jobs that ended well.
    pub finished: u64,
    /// Jobs whose reader left before the end.
    pub cancelled: u64,
    /// Jobs that waited too long in the queue.
    pub expired: u64,
    /// Jobs that ended by a fault.
    pub failed: u64,
}

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const STOPPED: u8 = 2;
const FAILED: u8 = 3;

/// The cells behind [`Status`].
#[derive(Debug)]
pub(crate) struct Gauges {
    start: Instant,
    state: AtomicU8,
    reason: OnceLock<String>,
    heartbeat_ns: AtomicU64,
    pub(crate) queued: AtomicU32,
    pub(crate) running: AtomicU32,
    pub(crate) paused: AtomicU32,
    pub(crate) kv_used: AtomicU32,
    pub(crate) kv_total: AtomicU32,
    pub(crate) steps: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) attributed_ns: AtomicU64,
    pub(crate) prefill_tokens: AtomicU64,
    pub(crate) decode_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) finished: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl Gauges {
    pub(crate) fn new() -> Gauges {
        Gauges {
            start: Instant::now(),
            state: AtomicU8::new(RUNNING),
            reason: OnceLock::new(),
            heartbeat_ns: AtomicU64::new(0),
            queued: AtomicU32::new(0),
            running: AtomicU32::new(0),
            paused: AtomicU32::new(0),
            kv_used: AtomicU32::new(0),
            kv_total: AtomicU32::new(0),
            steps: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            attributed_ns: AtomicU64::new(0),
            prefill_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The scheduler is alive.
    pub(crate) fn beat(&self, now: Instant) {
        let age = now.saturating_duration_since(self.start);
        self.heartbeat_ns.store(nanoseconds(age), Relaxed);
    }

    pub(crate) fn drain(&self) {
        let _ = self.state.compare_exchange(RUNNING, DRAINING, Relaxed, Relaxed);
    }

    /// Only the first of `stop` and `fail` counts.
    pub(crate) fn stop(&self) {
        if self.state.load(Relaxed) != FAILED {
            self.state.store(STOPPED, Relaxed);
        }
    }

    pub(crate) fn fail(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.state.store(FAILED, Relaxed);
    }

    pub(crate) fn state(&self) -> EngineState {
        match self.state.load(Relaxed) {
            RUNNING => EngineState::Running,
            DRAINING => EngineState::Draining,
            STOPPED => EngineState::Stopped,
            _ => EngineState::Failed {
                reason: self.reason.get().cloned().unwrap_or_else(|| "unknown".to_owned()),
            },
        }
    }

    pub(crate) fn read(&self) -> Status {
        let now = nanoseconds(self.start.elapsed());
        let age = now.saturating_sub(self.heartbeat_ns.load(Relaxed));
        Status {
            state: self.state(),
            queued: self.queued.load(Relaxed),
            running: self.running.load(Relaxed),
            paused: self.paused.load(Relaxed),
            kv_used: self.kv_used.load(Relaxed),
            kv_total: self.kv_total.load(Relaxed),
            heartbeat_age: Duration::from_nanos(age),
            steps: self.steps.load(Relaxed),
            busy: Duration::from_nanos(self.busy_ns.load(Relaxed)),
            attributed: Duration::from_nanos(self.attributed_ns.load(Relaxed)),
            prefill_tokens: self.prefill_tokens.load(Relaxed),
            decode_tokens: self.decode_tokens.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
            finished: self.finished.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            expired: self.expired.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// A duration in whole nanoseconds; 584 years is enough.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
