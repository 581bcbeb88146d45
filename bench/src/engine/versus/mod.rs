//! `bench engine --llama-server PATH`: tollgate's local route and llama-server over HTTP in one run,
//! with the same model, threads, slots and prompts, taking turns; beside them the ceiling that
//! llama-batched-bench gives.
//!
//! Invariant: in every round both servers get prompts of the same form and number, one directly
//! after the other, and who is first alternates from turn to turn; a figure is compared only within
//! its round.

mod load;
mod report;
mod servers;

use std::path::PathBuf;

use serde::Serialize;

use super::{Answer, EngineArgs};
use crate::machine::Birthplace;
use crate::output;
use load::Load;
use servers::Servers;

/// What `bench engine` needs for a comparison.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct VersusArgs {
    /// Compare tollgate's local route with this llama-server binary (built elsewhere), both started
    /// for it.
    #[arg(long)]
    pub(super) llama_server: Option<PathBuf>,
    /// The tollgate binary for --llama-server [default: beside this one].
    #[arg(long)]
    pub(super) tollgate: Option<PathBuf>,
    /// What is asked of both, beside --streams.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Beside::ALL)]
    pub(super) beside_streams: Vec<Beside>,
    /// So many times as many turns in each round.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) turns: u8,
    /// llama-batched-bench, for the ceiling without HTTP.
    #[arg(long)]
    pub(super) batched_bench: Option<PathBuf>,
}

/// A load that is no number of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Beside {
    Mixed,
    Steady,
    NextTurn,
    /// Nothing more.
    None,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Mixed, Beside::Steady, Beside::NextTurn];

    fn load(self) -> Option<Load> {
        match self {
            Beside::Mixed => Some(Load::Mixed),
            Beside::Steady => Some(Load::Steady),
            Beside::NextTurn => Some(Load::NextTurn),
            Beside::None => None,
        }
    }
}

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    Tollgate,
    LlamaServer,
}

/// One load on one server in one round.
#[derive(Debug, Serialize)]
struct Turn {
    round: usize,
    subject: Subject,
    load: Load,
    answers: Vec<Answer>,
    /// Processor time of tollgate's threads meanwhile; of llama-server's it is not taken.
    cpu: Option<Cpu>,
}

/// Processor time of a turn.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Cpu {
    /// Of the threads that compute the model.
    engine_ns: u64,
    /// Of all others: HTTP, the ledger, the policies.
    others_ns: u64,
}

impl Cpu {
    /// What a process has used so far. The threads that llama.cpp starts have the name of the one that
    /// started them.
    fn of(pid: u32) -> Result<Cpu, String> {
        let mut cpu = Cpu::default();
        for (name, ns) in crate::procfs::by_thread_name(pid)? {
            let sum =
                if name.starts_with("engine") { &mut cpu.engine_ns } else { &mut cpu.others_ns };
            *sum += ns;
        }
        Ok(cpu)
    }

    fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            engine_ns: self.engine_ns.saturating_sub(earlier.engine_ns),
            others_ns: self.others_ns.saturating_sub(earlier.others_ns),
        }
    }
}

/// What `engine-versus.json` holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    /// Settings of both, in words.
    settings: String,
    /// What llama-batched-bench yields with as many sequences.
    ceiling: Vec<servers::Ceiling>,
    turns: Vec<Turn>,
}

/// Runs the comparison and writes its results.
pub(super) fn run(args: &EngineArgs, llama_server: &std::path::Path) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    let threads = args.threads.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cores).unwrap_or(1)
    });
    let mut args = args.clone();
    // In separate caches each slot has its part: a long prompt of the mixed load must fit into one.
    args.context_tokens = args.context_tokens.max(args.slots.saturating_mul(load::SLOT_TOKENS));
    let args = &args;
    let ceiling = match &args.versus.batched_bench {
        Some(binary) => servers::ceiling(binary, args, threads)?,
        None => Vec::new(),
    };
    let turns = crate::one_thread()?.block_on(async {
        let servers = Servers::start(args, llama_server, threads).await?;
        measured(args, &servers).await
    })?;
    let settings = format!(
        "{}, {threads} threads, {} slots, {} KV cells, prompts of about {} tokens, {} out, greedy",
        args.file.display(),
        args.slots,
        args.context_tokens,
        args.prompt_tokens,
        args.output_tokens
    );
    let run = Run { birthplace, settings, ceiling, turns };
    let table = report::table(&run);
    crate::say(&table)?;
    let folder = output::folder(args.out.as_deref(), &run.birthplace);
    output::write(&folder, "engine-versus", &run, &table)
}

async fn measured(args: &EngineArgs, servers: &Servers) -> Result<Vec<Turn>, String> {
    let mut prompts = load::Prompts::new(args);
    // Both read their weights once before anything counts.
    for subject in [Subject::Tollgate, Subject::LlamaServer] {
        Load::Streams(1).put(servers.of(subject), &mut prompts, args).await?;
    }
    let mut loads: Vec<Load> = args.streams.iter().map(|streams| Load::Streams(*streams)).collect();
    loads.extend(args.versus.beside_streams.iter().filter_map(|beside| beside.load()));
    let mut turns = Vec::new();
    for round in 0..args.rounds {
        for load in crate::stats::rotated(&loads, round) {
            for turn in 0..load.turns() * usize::from(args.versus.turns) {
                let both = [Subject::Tollgate, Subject::LlamaServer];
                for subject in crate::stats::rotated(&both, round + turn) {
                    let before = servers.cpu(subject)?;
                    let answers = load.put(servers.of(subject), &mut prompts, args).await?;
                    let cpu = servers.cpu(subject)?.zip(before).map(|(now, then)| now.since(then));
                    crate::progress(&format!("round {} {} on {subject:?}", round + 1, load.name()));
                    turns.push(Turn { round, subject, load, answers, cpu });
                }
            }
        }
    }
    Ok(turns)
}
