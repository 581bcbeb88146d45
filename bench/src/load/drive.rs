//! One phase of load against one server: workers on their connections, a window in which things
//! count, and readings taken at the window's two edges.
//!
//! Invariant: what is counted happened inside the window, and the readings enclose exactly that
//! window, so work divided by counts needs no correction for starting and stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Ask, Connection, Question};

/// How load is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Every connection asks again as soon as it has its answer.
    Closed,
    /// Requests start at a fixed rate per second whatever the answers do.
    Open {
        /// Requests per second.
        rate: u32,
    },
}

/// One phase.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) ask: Ask,
    pub(crate) shape: Shape,
    pub(crate) connections: u32,
    /// Load before the window opens.
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
}

/// What was seen in the window. Times in nanoseconds.
#[derive(Debug)]
pub(crate) struct Seen<R> {
    /// The readings at the window's edges.
    pub(crate) before: R,
    pub(crate) after: R,
    pub(crate) elapsed: Duration,
    /// Request sent to answer complete, for answers completed in the window.
    pub(crate) latency: Vec<u64>,
    /// Request sent to first content piece; streams only.
    pub(crate) ttft: Vec<u64>,
    /// How late the generator itself sent requests; open shape only.
    pub(crate) lag: Vec<u64>,
    /// Content pieces that arrived in the window.
    pub(crate) pieces: u64,
    /// Why requests failed, the first few; any makes the phase worthless.
    pub(crate) failures: Vec<String>,
    /// Requests sent from first to last, warm-up included.
    pub(crate) sent: u64,
}

#[derive(Debug, Default)]
struct Window {
    open: AtomicBool,
    stop: AtomicBool,
    pieces: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug, Default)]
struct Samples {
    latency: Vec<u64>,
    ttft: Vec<u64>,
    lag: Vec<u64>,
    failure: Option<String>,
}

/// Runs one phase. `read` is called once at each edge of the window.
pub(crate) async fn drive<R>(
    plan: &Plan,
    read: impl Fn() -> Result<R, String>,
) -> Result<Seen<R>, String> {
    let question = Question::new(&plan.ask)?;
    let window = Arc::new(Window::default());
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(plan.ask.target).await?);
    }
    let start = Instant::now() + Duration::from_millis(5);
    let mut workers = JoinSet::new();
    for (place, connection) in (0..plan.connections).zip(connections) {
        let worker = Worker {
            connection,
            question: question.clone(),
            window: Arc::clone(&window),
            samples: Samples::default(),
        };
        let first = start + offset(plan, place);
        match plan.shape {
            Shape::Closed => workers.spawn(worker.closed(first)),
            Shape::Open { rate } => workers
                .spawn(worker.open(first, Duration::from_secs(1) * plan.connections / rate.max(1))),
        };
    }
    tokio::time::sleep_until(start + plan.warm).await;
    let before = read()?;
    let opened = Instant::now();
    window.open.store(true, Relaxed);
    tokio::time::sleep_until(opened + plan.window).await;
    window.open.store(false, Relaxed);
    let elapsed = opened.elapsed();
    let after = read()?;
    window.stop.store(true, Relaxed);
    let mut seen = Seen {
        before,
        after,
        elapsed,
        latency: Vec::new(),
        ttft: Vec::new(),
        lag: Vec::new(),
        pieces: window.pieces.load(Relaxed),
        failures: Vec::new(),
        sent: 0,
    };
    while let Some(samples) = workers.join_next().await {
        let samples = samples.map_err(|e| format!("worker: {e}"))?;
        seen.latency.extend(samples.latency);
        seen.ttft.extend(samples.ttft);
        seen.lag.extend(samples.lag);
        seen.failures.extend(samples.failure);
    }
    seen.sent = window.sent.load(Relaxed);
    Ok(seen)
}

/// Spreads the workers' starts: over one stream's length, or over one turn of the schedule, so
/// that fifty streams do not tick together.
fn offset(plan: &Plan, place: u32) -> Duration {
    let turn = match (plan.shape, plan.ask.stream) {
        (Shape::Open { rate }, _) => Duration::from_secs(1) * plan.connections / rate.max(1),
        (Shape::Closed, Some((pieces, pace))) => pace * u32::try_from(pieces).unwrap_or(u32::MAX),
        (Shape::Closed, None) => Duration::ZERO,
    };
    turn * place / plan.connections.max(1)
}

struct Worker {
    connection: Connection,
    question: Question,
    window: Arc<Window>,
    samples: Samples,
}

impl Worker {
    async fn closed(mut self, first: Instant) -> Samples {
        tokio::time::sleep_until(first).await;
        while !self.window.stop.load(Relaxed) {
            if self.once(std::time::Instant::now()).await.is_err() {
                break;
            }
        }
        self.samples
    }

    /// Sends at `first`, `first + every`, ... A request whose turn came while the previous one was
    /// still running is timed from its turn, not from when it could be sent: a slow server must
    /// not hide its own queue. The generator's own lateness (its timers tick in milliseconds) is
    /// kept apart in `lag`.
    async fn open(mut self, first: Instant, every: Duration) -> Samples {
        let mut turn = first;
        while !self.window.stop.load(Relaxed) {
            let overdue = Instant::now() > turn;
            tokio::time::sleep_until(turn).await;
            if self.window.open.load(Relaxed) {
                self.samples.lag.push(nanos(turn.elapsed()));
            }
            let from = if overdue { turn.into_std() } else { std::time::Instant::now() };
            if self.once(from).await.is_err() {
                break;
            }
            turn += every;
        }
        self.samples
    }

    async fn once(&mut self, from: std::time::Instant) -> Result<(), ()> {
        self.window.sent.fetch_add(1, Relaxed);
        let window = &self.window;
        let mut first_inside = false;
        let answer = self
            .connection
            .ask(&self.question, |pieces| {
                if window.open.load(Relaxed) {
                    window.pieces.fetch_add(pieces, Relaxed);
                    first_inside = true;
                }
            })
            .await;
        match answer {
            Ok(arrival) => {
                let inside = self.window.open.load(Relaxed);
                if inside {
                    self.samples.latency.push(nanos(arrival.last.duration_since(from)));
                }
                if inside && first_inside {
                    self.samples.ttft.push(nanos(arrival.first.duration_since(from)));
                }
                Ok(())
            }
            Err(message) => {
                self.samples.failure = Some(message);
                Err(())
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
