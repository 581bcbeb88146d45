//! The load generator, and `bench load`, which runs one phase of it by hand.

pub(crate) mod client;
pub(crate) mod drive;

use std::net::SocketAddr;
use std::time::Duration;

use client::Ask;
use drive::{Plan, Shape};

use crate::procfs::CpuReading;
use crate::stats::{Ladder, per};

/// What the flags of `bench load` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Server to load.
    #[arg(long)]
    target: SocketAddr,
    /// Bearer key.
    #[arg(long, default_value = "none")]
    key: String,
    /// Model name in the requests.
    #[arg(long, default_value = "auto")]
    model: String,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Requests per second; without it every connection asks as fast as it can.
    #[arg(long)]
    rate: Option<u32>,
    /// Stream this many content pieces per answer.
    #[arg(long)]
    pieces: Option<u64>,
    /// Pace of a stream's pieces in milliseconds.
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Seconds measured.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Process whose processor time is read.
    #[arg(long)]
    pid: Option<u32>,
}

/// Runs one phase and prints it as JSON.
pub(crate) fn run(args: &LoadArgs) -> Result<(), String> {
    let pace = Duration::from_millis(args.pace_ms);
    let plan = Plan {
        ask: Ask {
            target: args.target,
            key: args.key.clone(),
            model: args.model.clone(),
            stream: args.pieces.map(|pieces| (pieces, pace)),
        },
        shape: args.rate.map_or(Shape::Closed, |rate| Shape::Open { rate }),
        connections: args.connections,
        warm: Duration::from_millis(500),
        window: Duration::from_secs(args.seconds),
    };
    let own = std::process::id();
    let read = || Ok((args.pid.map(CpuReading::of).transpose()?, CpuReading::of(own)?));
    let mut seen = crate::one_thread()?.block_on(drive::drive(&plan, read))?;
    let requests = seen.latency.len() as u64;
    let server = seen.after.0.zip(seen.before.0).map(|(after, before)| after.since(&before));
    let server_ns = server.and_then(|time| u64::try_from(time.as_nanos()).ok());
    let report = serde_json::json!({
        "seconds": seen.elapsed.as_secs_f64(),
        "requests": requests,
        "pieces": seen.pieces,
        "latency_ns": Ladder::of(&mut seen.latency),
        "ttft_ns": Ladder::of(&mut seen.ttft),
        "generator_lag_ns": Ladder::of(&mut seen.lag),
        "server_ns_per_request": server_ns.and_then(|ns| per(ns, requests)),
        "server_ns_per_piece": server_ns.and_then(|ns| per(ns, seen.pieces)),
        "generator_cpu_s": seen.after.1.since(&seen.before.1).as_secs_f64(),
        "failures": seen.failures,
    });
    crate::say(&format!("{report:#}"))?;
    if seen.failures.is_empty() { Ok(()) } else { Err("requests failed".to_owned()) }
}
