//! One phase: one kind of load on one subject, with the processor time of everyone involved.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::OverheadArgs;
use super::subject::{Subject, Subjects};
use crate::load::client::Ask;
use crate::load::drive::{Plan, Seen, Shape, drive};
use crate::procfs::{self, CpuReading, MachineTime, MachineUse};
use crate::stats::{Ladder, per};
use crate::upstream::COMPLETION_TOKENS;

/// Load before a window opens, for connections and caches.
const WARM: Duration = Duration::from_millis(300);

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Unstreamed, as fast as the connections go.
    Saturated,
    /// Unstreamed at a fixed rate.
    Open,
    /// Concurrent paced streams.
    Streams,
    /// Unpaced streams, as fast as the connections go.
    StreamsSaturated,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] =
        [Kind::Saturated, Kind::Open, Kind::Streams, Kind::StreamsSaturated];

    fn plan(self, args: &OverheadArgs, ask: Ask) -> Plan {
        let window = Duration::from_secs(1) * args.seconds;
        let pace = Duration::from_millis(args.pace_ms);
        let stream = |pace| Ask { stream: Some((args.pieces, pace)), ..ask.clone() };
        let closed = |ask: Ask, connections, warm, window| Plan {
            ask,
            shape: Shape::Closed,
            connections,
            warm,
            window,
        };
        match self {
            Kind::Saturated => closed(ask, args.connections, WARM, window * 3 / 4),
            Kind::Open => Plan {
                shape: Shape::Open { rate: args.rate },
                ..closed(ask, args.connections, WARM, window)
            },
            Kind::Streams => {
                let length = pace * u32::try_from(args.pieces).unwrap_or(u32::MAX);
                closed(stream(pace), args.streams, WARM + length, window)
            }
            Kind::StreamsSaturated => {
                closed(stream(Duration::ZERO), args.connections, WARM, window / 2)
            }
        }
    }
}

/// What one phase showed. Processor times cover the window.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) round: usize,
    /// Place in the round's order.
    pub(crate) position: usize,
    pub(crate) subject: Subject,
    pub(crate) kind: Kind,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) pieces: u64,
    pub(crate) latency_ns: Option<Ladder>,
    pub(crate) ttft_ns: Option<Ladder>,
    /// How late the generator sent.
    pub(crate) lag_ns: Option<Ladder>,
    /// `None` for direct.
    pub(crate) server_cpu_ns: Option<u64>,
    pub(crate) upstream_cpu_ns: u64,
    pub(crate) generator_cpu_ns: u64,
    pub(crate) machine: MachineUse,
    pub(crate) failures: Vec<String>,
    /// Kept for percentiles over all rounds.
    #[serde(skip)]
    pub(crate) latency: Vec<u64>,
}

impl Phase {
    /// Server CPU in microseconds over completed requests.
    pub(crate) fn cpu_us_per_request(&self) -> Option<f64> {
        per(self.server_cpu_ns?, self.requests).map(|ns| ns / 1e3)
    }

    /// Server CPU in microseconds over content pieces that arrived.
    pub(crate) fn cpu_us_per_piece(&self) -> Option<f64> {
        per(self.server_cpu_ns?, self.pieces).map(|ns| ns / 1e3)
    }

    /// Share of one core the server used.
    pub(crate) fn server_share(&self) -> Option<f64> {
        self.server_cpu_ns.map(|ns| seconds(ns) / self.seconds)
    }

    /// Share of one core the generator used.
    pub(crate) fn generator_share(&self) -> f64 {
        seconds(self.generator_cpu_ns) / self.seconds
    }

    /// Share of one core the upstream and the generator used together.
    pub(crate) fn load_share(&self) -> f64 {
        self.generator_share() + seconds(self.upstream_cpu_ns) / self.seconds
    }

    /// Core time, over the window, spent by processes that are no part of the run.
    pub(crate) fn foreign_share(&self) -> f64 {
        let ours = self.server_cpu_ns.unwrap_or(0) + self.upstream_cpu_ns + self.generator_cpu_ns;
        (self.machine.busy_s - seconds(ours)).max(0.0) / self.seconds
    }

    /// One line of progress.
    pub(crate) fn line(&self, round: usize) -> String {
        let ms = |ladder: Option<Ladder>| {
            ladder.map_or_else(|| "-".to_owned(), |l| format!("{:.3}", seconds(l.p50) * 1e3))
        };
        format!(
            "round {} {:<17} {:<20} {:>7} requests, p50 {} ms, ttft p50 {} ms, cpu {} us/request, \
             server {:.0} %, load core {:.0} %, others {:.0} %",
            round + 1,
            format!("{:?}", self.kind),
            self.subject.name(),
            self.requests,
            ms(self.latency_ns),
            ms(self.ttft_ns),
            self.cpu_us_per_request().map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
            self.server_share().unwrap_or(0.0) * 100.0,
            self.load_share() * 100.0,
            self.foreign_share() * 100.0,
        )
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// Readings at an edge of the window.
struct Reading {
    server: Option<CpuReading>,
    upstream: CpuReading,
    generator: CpuReading,
    machine: MachineTime,
}

/// Loads one subject in one way.
pub(crate) async fn phase(
    args: &OverheadArgs,
    subjects: &mut Subjects,
    subject: Subject,
    kind: Kind,
) -> Result<Phase, String> {
    let door = subjects.door(subject)?;
    let ask = Ask { target: door.address, key: door.key, model: door.model, stream: None };
    let plan = kind.plan(args, ask);
    let upstream = subjects.upstream_pid();
    let served_before = subjects.served().await?;
    subjects.settle().await?;
    let read = || {
        Ok(Reading {
            server: door.pid.map(CpuReading::of).transpose()?,
            upstream: CpuReading::of(upstream)?,
            generator: CpuReading::of(std::process::id())?,
            machine: MachineTime::now()?,
        })
    };
    let seen = drive(&plan, read).await.map_err(|e| subjects.complain(subject, &e))?;
    subjects.all_run()?;
    let tokens_each = plan.ask.stream.map_or(COMPLETION_TOKENS, |(pieces, _)| pieces);
    subjects.count_sent(subject, seen.sent, tokens_each);
    let reached = subjects.served().await?.saturating_sub(served_before);
    if seen.failures.is_empty() && reached != seen.sent {
        let message =
            format!("answered {} requests but asked the upstream {reached} times", seen.sent);
        return Err(subjects.complain(subject, &message));
    }
    Ok(assemble(subject, kind, seen))
}

fn assemble(subject: Subject, kind: Kind, mut seen: Seen<Reading>) -> Phase {
    let cpu = |after: &CpuReading, before: &CpuReading| {
        u64::try_from(after.since(before).as_nanos()).unwrap_or(u64::MAX)
    };
    let (before, after) = (&seen.before, &seen.after);
    Phase {
        round: 0,
        position: 0,
        subject,
        kind,
        seconds: seen.elapsed.as_secs_f64(),
        requests: seen.latency.len() as u64,
        pieces: seen.pieces,
        server_cpu_ns: after.server.as_ref().zip(before.server.as_ref()).map(|(a, b)| cpu(a, b)),
        upstream_cpu_ns: cpu(&after.upstream, &before.upstream),
        generator_cpu_ns: cpu(&after.generator, &before.generator),
        machine: after.machine.since(&before.machine),
        latency_ns: Ladder::of(&mut seen.latency),
        ttft_ns: Ladder::of(&mut seen.ttft),
        lag_ns: Ladder::of(&mut seen.lag),
        failures: seen.failures,
        latency: seen.latency,
    }
}

/// Loads every subject in every way for a moment. A subject that cannot answer ends the run here.
pub(crate) async fn warm_up(args: &OverheadArgs, subjects: &mut Subjects) -> Result<(), String> {
    let short = OverheadArgs { seconds: 1, ..args.clone() };
    for subject in &args.subjects {
        for kind in [Kind::Saturated, Kind::StreamsSaturated] {
            let phase = phase(&short, subjects, *subject, kind).await?;
            if let Some(failure) = phase.failures.first() {
                return Err(subjects.complain(*subject, failure));
            }
        }
    }
    Ok(())
}

/// A server's memory before its first request and at the end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemoryRow {
    pub(crate) subject: Subject,
    pub(crate) idle_mib: f64,
    pub(crate) loaded_mib: Option<f64>,
    pub(crate) peak_mib: Option<f64>,
}

/// Memory of servers that have answered nothing yet.
pub(crate) async fn idle_memory(subjects: &mut Subjects) -> Result<Vec<MemoryRow>, String> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    subjects.all_run()?;
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        if let Some(pid) = subjects.door(subject).ok().and_then(|door| door.pid) {
            let idle_mib = mib(procfs::memory(pid)?.resident_kib);
            rows.push(MemoryRow { subject, idle_mib, loaded_mib: None, peak_mib: None });
        }
    }
    Ok(rows)
}

/// Memory right after the last phase.
pub(crate) fn loaded_memory(subjects: &Subjects, rows: &mut [MemoryRow]) -> Result<(), String> {
    for row in rows {
        if let Some(pid) = subjects.door(row.subject)?.pid {
            let memory = procfs::memory(pid)?;
            row.loaded_mib = Some(mib(memory.resident_kib));
            row.peak_mib = Some(mib(memory.peak_kib));
        }
    }
    Ok(())
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// What a durable append costs on the ledgers' disk.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Disk {
    /// Append 600 bytes and fdatasync, nanoseconds.
    pub(crate) append_sync_ns: Option<Ladder>,
}

/// Appends and syncs 200 times in the ledgers' folder.
pub(crate) fn probe_disk(folder: &Path) -> Result<Disk, String> {
    let path = folder.join("probe");
    let fault = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = std::fs::File::create(&path).map_err(fault)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[7; 600]).map_err(fault)?;
        file.sync_data().map_err(fault)?;
        times.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    std::fs::remove_file(&path).map_err(fault)?;
    Ok(Disk { append_sync_ns: Ladder::of(&mut times) })
}
