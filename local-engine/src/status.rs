//! The engine's live numbers. The scheduler stores them, anyone loads them: no lock, so that
//! health answers while the engine is busy or stuck.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    info::ModelInfo,
    speculation::{ClassGauges, SpeculationStatus},
};

/// Whether the engine takes jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the engine takes jobs.
    pub state: EngineState,
    /// Jobs waiting for a slot.
    pub queued: u32,
    /// Jobs in a slot.
    pub running: u32,
    /// Running jobs that wait for their reader.
    pub paused: u32,
    /// Jobs whose cells were taken by older ones; they come back.
    pub swapped: u32,
    /// Bytes their saved cells take.
    pub swap_bytes: u64,
    /// Bytes that checkpoints take, of a model with a sliding window.
    pub checkpoint_bytes: u64,
    /// KV cells in use, kept prefixes included; in a unified cache a shared cell counts once.
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
    /// Jobs that began with a cached prefix.
    pub prefix_hits: u64,
    /// Jobs that did not.
    pub prefix_misses: u64,
    /// Idle prefixes, or their ends, given up to make room.
    pub evictions: u64,
    /// Times a running job's cells were taken by an older one.
    pub preemptions: u64,
    /// Those of them that had to be computed again, since they could not be saved.
    pub recomputed: u64,
    /// Times a running job changed places with an idle slot, to be beside the others.
    pub moves: u64,
    /// Time spent on saving and putting back cells; not part of `busy`.
    pub swap_time: Duration,
    /// How guessing tokens has gone, for each class of requests it was tried for.
    pub speculation: Vec<SpeculationStatus>,
    /// The draft model's numbers, where there is one.
    pub draft: Option<DraftStatus>,
    /// What a step costs, as far as it is known: none before the first.
    pub costs: Option<StepCosts>,
    /// Jobs that ended well.
    pub finished: u64,
    /// Jobs whose reader left before the end, or stopped reading.
    pub cancelled: u64,
    /// Jobs that waited too long in the queue.
    pub expired: u64,
    /// Jobs that ended by a fault.
    pub failed: u64,
}

/// What a step costs, fitted over recent ones: `fixed + decode * generated + prefill * prompt`
/// tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCosts {
    /// Whatever is in it.
    pub fixed: Duration,
    /// For each generated token.
    pub decode: Duration,
    /// For each prompt token.
    pub prefill: Duration,
}

/// A reading of a draft model's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftStatus {
    /// Its KV cells in use.
    pub kv_used: u32,
    /// Its KV cells there are.
    pub kv_total: u32,
    /// Tokens it computed, what it read of prompts included.
    pub tokens: u64,
    /// Time it computed: a part of [`Status::busy`], attributed to the jobs it proposed for.
    pub busy: Duration,
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
    pub(crate) swapped: AtomicU32,
    pub(crate) swap_bytes: AtomicU64,
    pub(crate) checkpoint_bytes: AtomicU64,
    pub(crate) kv_used: AtomicU32,
    pub(crate) kv_total: AtomicU32,
    pub(crate) steps: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) attributed_ns: AtomicU64,
    pub(crate) prefill_tokens: AtomicU64,
    pub(crate) decode_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) prefix_hits: AtomicU64,
    pub(crate) prefix_misses: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) recomputed: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) swap_ns: AtomicU64,
    pub(crate) classes: ClassGauges,
    draft_used: AtomicU32,
    /// 0 without a draft model.
    draft_total: AtomicU32,
    pub(crate) draft_tokens: AtomicU64,
    pub(crate) draft_ns: AtomicU64,
    /// Of a step, in nanoseconds; the prefill's is 0 before the first.
    cost_fixed_ns: AtomicU64,
    cost_decode_ns: AtomicU64,
    cost_prefill_ns: AtomicU64,
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
            swapped: AtomicU32::new(0),
            swap_bytes: AtomicU64::new(0),
            checkpoint_bytes: AtomicU64::new(0),
            kv_used: AtomicU32::new(0),
            kv_total: AtomicU32::new(0),
            steps: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            attributed_ns: AtomicU64::new(0),
            prefill_tokens: AtomicU64::new(0),
            decode_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            prefix_hits: AtomicU64::new(0),
            prefix_misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            recomputed: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            swap_ns: AtomicU64::new(0),
            classes: ClassGauges::default(),
            draft_used: AtomicU32::new(0),
            draft_total: AtomicU32::new(0),
            draft_tokens: AtomicU64::new(0),
            draft_ns: AtomicU64::new(0),
            cost_fixed_ns: AtomicU64::new(0),
            cost_decode_ns: AtomicU64::new(0),
            cost_prefill_ns: AtomicU64::new(0),
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

    /// A child has loaded this model: what holds until it tells of itself.
    pub(crate) fn loaded(&self, model: &ModelInfo) {
        self.kv_total.store(model.kv_cells, Relaxed);
        self.set_draft_cells(0, model.draft.as_ref().map_or(0, |draft| draft.kv_cells));
        self.beat(Instant::now());
    }

    /// What a draft model's cells hold.
    pub(crate) fn set_draft_cells(&self, used: u32, total: u32) {
        self.draft_used.store(used, Relaxed);
        self.draft_total.store(total, Relaxed);
    }

    /// The draft model was given up.
    pub(crate) fn no_draft(&self) {
        self.draft_total.store(0, Relaxed);
    }

    fn draft(&self) -> Option<DraftStatus> {
        let kv_total = self.draft_total.load(Relaxed);
        (kv_total > 0).then(|| DraftStatus {
            kv_used: self.draft_used.load(Relaxed),
            kv_total,
            tokens: self.draft_tokens.load(Relaxed),
            busy: Duration::from_nanos(self.draft_ns.load(Relaxed)),
        })
    }

    /// What the fit says now.
    pub(crate) fn set_costs(&self, costs: StepCosts) {
        self.cost_fixed_ns.store(nanoseconds(costs.fixed), Relaxed);
        self.cost_decode_ns.store(nanoseconds(costs.decode), Relaxed);
        self.cost_prefill_ns.store(nanoseconds(costs.prefill).max(1), Relaxed);
    }

    /// What a step costs, once one was computed.
    pub(crate) fn costs(&self) -> Option<StepCosts> {
        let load = |cell: &AtomicU64| Duration::from_nanos(cell.load(Relaxed));
        let costs = StepCosts {
            fixed: load(&self.cost_fixed_ns),
            decode: load(&self.cost_decode_ns),
            prefill: load(&self.cost_prefill_ns),
        };
        (!costs.prefill.is_zero()).then_some(costs)
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
            swapped: self.swapped.load(Relaxed),
            swap_bytes: self.swap_bytes.load(Relaxed),
            checkpoint_bytes: self.checkpoint_bytes.load(Relaxed),
            kv_used: self.kv_used.load(Relaxed),
            kv_total: self.kv_total.load(Relaxed),
            heartbeat_age: Duration::from_nanos(age),
            steps: self.steps.load(Relaxed),
            busy: Duration::from_nanos(self.busy_ns.load(Relaxed)),
            attributed: Duration::from_nanos(self.attributed_ns.load(Relaxed)),
            prefill_tokens: self.prefill_tokens.load(Relaxed),
            decode_tokens: self.decode_tokens.load(Relaxed),
            cached_tokens: self.cached_tokens.load(Relaxed),
            prefix_hits: self.prefix_hits.load(Relaxed),
            prefix_misses: self.prefix_misses.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
            preemptions: self.preemptions.load(Relaxed),
            recomputed: self.recomputed.load(Relaxed),
            moves: self.moves.load(Relaxed),
            swap_time: Duration::from_nanos(self.swap_ns.load(Relaxed)),
            speculation: self.classes.read(),
            draft: self.draft(),
            costs: self.costs(),
            finished: self.finished.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            expired: self.expired.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

pub(crate) fn count64(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// A count as it is published.
pub(crate) fn count32(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

/// A duration in whole nanoseconds; 584 years is enough.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
