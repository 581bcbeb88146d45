//! When things happened in one request.
//!
//! **Invariant:** stages are adjacent timestamps on one monotonic clock, so they sum to the
//! request's time exactly. TTFT and TPOT exist per attempt and for the client and are never mixed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

/// The stages of a request, in order. A stage ends when the next begins; one that did not happen
/// takes no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Key to caller.
    Identify,
    /// Rate limits and concurrency.
    Admit,
    /// Body to inner request.
    Read,
    /// Facts gathered, policy decided.
    Decide,
    /// Reservations, attempts that failed, and the winning attempt until its first event.
    Attempt,
    /// First event to last.
    Relay,
    /// Last event to the entry's hand-over to the journal. Its commit, for which a strict answer's
    /// last byte waits, cannot be in the entry itself.
    Settle,
}

/// Number of [`Stage`]s.
pub const STAGES: usize = 7;

/// The running clock of one request.
#[derive(Clone, Debug)]
pub struct Timeline {
    arrived: Instant,
    marked: Instant,
    stages: [Duration; STAGES],
}

/// Microseconds spent in each stage, in the order of [`Stage`]; they sum to the request's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageTimes {
    /// See [`Stage::Identify`].
    pub identify_us: u64,
    /// See [`Stage::Admit`].
    pub admit_us: u64,
    /// See [`Stage::Read`].
    pub read_us: u64,
    /// See [`Stage::Decide`].
    pub decide_us: u64,
    /// See [`Stage::Attempt`].
    pub attempt_us: u64,
    /// See [`Stage::Relay`].
    pub relay_us: u64,
    /// See [`Stage::Settle`].
    pub settle_us: u64,
}

impl Timeline {
    /// Starts the clock: the request's head has been read from the socket.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { arrived: now, marked: now, stages: [Duration::ZERO; STAGES] }
    }

    /// Ends `stage` now; the next begins at the same instant.
    pub fn end(&mut self, stage: Stage) {
        self.end_at(stage, Instant::now());
    }

    /// The same at an instant that is known.
    pub fn end_at(&mut self, stage: Stage, now: Instant) {
        self.stages[stage as usize] += now - self.marked;
        self.marked = now;
    }

    /// When the request arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Microseconds from arrival to `instant`.
    #[must_use]
    pub fn offset_us(&self, instant: Instant) -> u64 {
        micros(instant.saturating_duration_since(self.arrived))
    }

    /// The stages so far in whole microseconds. Each boundary is cut to microseconds from arrival,
    /// so the parts sum to the total with no rounding left over.
    #[must_use]
    pub fn stages(&self) -> StageTimes {
        let mut elapsed = Duration::ZERO;
        let mut before = 0;
        let mut cut = [0u64; STAGES];
        for (part, stage) in cut.iter_mut().zip(&self.stages) {
            elapsed += *stage;
            let boundary = micros(elapsed);
            *part = boundary - before;
            before = boundary;
        }
        let [identify_us, admit_us, read_us, decide_us, attempt_us, relay_us, settle_us] = cut;
        StageTimes { identify_us, admit_us, read_us, decide_us, attempt_us, relay_us, settle_us }
    }
}

impl StageTimes {
    /// The whole request in microseconds.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        self.identify_us
            + self.admit_us
            + self.read_us
            + self.decide_us
            + self.attempt_us
            + self.relay_us
            + self.settle_us
    }

    /// The stages by name, in order.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); STAGES] {
        [
            ("identify", self.identify_us),
            ("admit", self.admit_us),
            ("read", self.read_us),
            ("decide", self.decide_us),
            ("attempt", self.attempt_us),
            ("relay", self.relay_us),
            ("settle", self.settle_us),
        ]
    }
}

/// Whole microseconds, saturating.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
