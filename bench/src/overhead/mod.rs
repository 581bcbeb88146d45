//! `bench overhead`: what tollgate adds to a request, everything on, beside a bare proxy and
//! direct, in one run.
//!
//! One run, top to bottom: start the servers, warm them, then in every round load each subject in
//! each kind of phase (the order of subjects rotates from round to round), check that every request
//! reached the upstream and the ledger, and write what came out beside the targets.
//!
//! Invariant: figures are compared only with figures of the same round and kind.

mod measure;
mod report;
mod subject;
mod summary;
pub(crate) mod tollgate;

use std::path::PathBuf;
use std::time::Duration;

use measure::Phase;
use serde::Serialize;
use subject::{Subject, Subjects};

use crate::machine::Birthplace;
use crate::procfs::MachineTime;
use crate::{child, output, stats};

/// What the flags of `bench overhead` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OverheadArgs {
    /// The tollgate binary [default: the one beside this binary].
    #[arg(long)]
    tollgate: Option<PathBuf>,
    /// What to measure. Ratios need `bare`, added times need `direct`.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Subject::ALL)]
    subjects: Vec<Subject>,
    /// Rounds; in each, every subject meets every kind of phase once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a window (closed loops take less). 5 rounds of 4 s last just under 6 minutes.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Connections when saturating.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Requests per second of the open loop.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Concurrent streams.
    #[arg(long, default_value_t = 50)]
    streams: u32,
    /// Content pieces of one stream.
    #[arg(long, default_value_t = 64)]
    pieces: u64,
    /// Milliseconds between the pieces of a paced stream.
    #[arg(long, default_value_t = 10)]
    pace_ms: u64,
    /// Core (taskset list) of the server under test.
    #[arg(long, default_value = "0")]
    server_core: String,
    /// Core (taskset list) of the upstream and the generator.
    #[arg(long, default_value = "1")]
    load_core: String,
    /// Leave the processes where the kernel puts them.
    #[arg(long)]
    no_pin: bool,
    /// Folder in which the temporary ledgers are made: `strict` waits for its disk [default: the
    /// system's folder for temporary files].
    #[arg(long)]
    data: Option<PathBuf>,
    /// Date of the run, YYYY-MM-DD [default: today, UTC].
    #[arg(long)]
    date: Option<String>,
    /// Folder for the results; unset: `bench/runs/<date>-<machine>`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Everything one run found out; what `overhead.json` holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    settings: Settings,
    /// When the tollgate binary was built, UTC.
    tollgate_built: Option<String>,
    /// Core time of the whole machine before anything was started: was it quiet?
    quiet_check: crate::procfs::MachineUse,
    disk: measure::Disk,
    memory: Vec<measure::MemoryRow>,
    ledgers: Vec<tollgate::LedgerCheck>,
    summary: summary::Summary,
    phases: Vec<Phase>,
}

/// The settings behind the figures.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    rounds: usize,
    window_s: u32,
    connections: u32,
    rate: u32,
    streams: u32,
    pieces: u64,
    pace_ms: u64,
    server_core: Option<String>,
    load_core: Option<String>,
}

/// Runs everything and writes the results.
pub(crate) fn run(args: &OverheadArgs) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    if args.rounds == 0 || args.seconds == 0 {
        return Err("--rounds and --seconds must be at least 1".to_owned());
    }
    if !args.no_pin {
        child::pin_self(&args.load_core)?;
    }
    let folder = output::folder(args.out.as_deref(), &birthplace);
    let run = crate::one_thread()?.block_on(measured(args, birthplace))?;
    let table = report::table(&run);
    crate::say(&table)?;
    output::write(&folder, "overhead", &run, &table)?;
    let failed = run.phases.iter().find(|phase| !phase.failures.is_empty());
    if let Some(phase) = failed {
        return Err(format!("invalid run: {}", phase.failures.join("; ")));
    }
    match run.ledgers.iter().find(|check| !check.agrees) {
        Some(check) => Err(format!("invalid run: {}", check.sentence())),
        None => Ok(()),
    }
}

async fn measured(args: &OverheadArgs, birthplace: Birthplace) -> Result<Run, String> {
    let quiet = MachineTime::now()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet_check = MachineTime::now()?.since(&quiet);
    let mut subjects = Subjects::start(args).await?;
    let disk = measure::probe_disk(subjects.folder())?;
    let mut memory = measure::idle_memory(&mut subjects).await?;
    let mut phases = Vec::new();
    measure::warm_up(args, &mut subjects).await?;
    for round in 0..args.rounds {
        for kind in measure::Kind::ALL {
            for (position, subject) in stats::rotated(&args.subjects, round).into_iter().enumerate()
            {
                let phase = measure::phase(args, &mut subjects, subject, kind).await?;
                crate::progress(&phase.line(round));
                phases.push(Phase { round, position, ..phase });
            }
        }
    }
    measure::loaded_memory(&subjects, &mut memory)?;
    let ledgers = subjects.check_ledgers().await?;
    let summary = summary::Summary::of(&phases);
    let settings = settings(args);
    let tollgate_built = subject::built(args);
    Ok(Run {
        birthplace,
        settings,
        tollgate_built,
        quiet_check,
        disk,
        memory,
        ledgers,
        summary,
        phases,
    })
}

fn settings(args: &OverheadArgs) -> Settings {
    let core = |core: &String| (!args.no_pin).then(|| core.clone());
    Settings {
        rounds: args.rounds,
        window_s: args.seconds,
        connections: args.connections,
        rate: args.rate,
        streams: args.streams,
        pieces: args.pieces,
        pace_ms: args.pace_ms,
        server_core: core(&args.server_core),
        load_core: core(&args.load_core),
    }
}
