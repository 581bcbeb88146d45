//! Measures tollgate: what it adds to a request, and what its engine yields.
//!
//! Start reading at `overhead/mod.rs`, which tells one run top to bottom. bench/README.md says how
//! each number comes about.

mod child;
mod engine;
mod hedge;
mod ledger;
mod load;
mod machine;
mod money;
mod output;
mod overhead;
mod procfs;
mod proxy;
mod soak;
mod stats;
mod upstream;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What tollgate has, so that the bare proxy has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command by which this program computes for another of its kind.
const ENGINE_WORKER: &str = "engine-worker";

/// Measures tollgate.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What tollgate adds to a request, beside a bare proxy and direct.
    Overhead(overhead::OverheadArgs),
    /// What the local engine yields at several numbers of streams.
    Engine(engine::EngineArgs),
    /// Whether the local engine holds out at twice its capacity, with callers who leave.
    Soak(soak::SoakArgs),
    /// TTFT with and without hedging, where a provider stalls now and then.
    Hedge(hedge::HedgeArgs),
    /// How fast the books are, beside a bare append + fdatasync.
    Ledger(ledger::LedgerArgs),
    /// What budgets refuse under a recorded trace, in simulated time.
    Budgets(money::MoneyArgs),
    /// What abuse costs with and without the guard, over a recorded trace in simulated time.
    Redteam(money::MoneyArgs),
    /// The load generator by itself, against any OpenAI-compatible server.
    Load(load::LoadArgs),
    /// The mock provider (started by `overhead` and `hedge`).
    Upstream(upstream::UpstreamArgs),
    /// The bare axum + reqwest proxy, the floor (started by `overhead`).
    Proxy(proxy::ProxyArgs),
    /// An engine for its parent (started by `engine --isolation`).
    #[command(name = ENGINE_WORKER, hide = true)]
    EngineWorker,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            progress(&format!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Overhead(args) => overhead::run(&args),
        Command::Engine(args) => engine::run(&args),
        Command::Soak(args) => one_thread()?.block_on(soak::run(args)),
        Command::Hedge(args) => hedge::run(&args),
        Command::Ledger(args) => ledger::run(&args),
        Command::Budgets(args) => money::budgets(&args),
        Command::Redteam(args) => money::redteam(&args),
        Command::Load(args) => load::run(&args),
        Command::Upstream(args) => one_thread()?.block_on(upstream::run(args)),
        Command::Proxy(args) => all_cores()?.block_on(proxy::run(args)),
        Command::EngineWorker => local_engine::serve_parent().map_err(|e| format!("worker: {e}")),
    }
}

/// The generator and the mock share one core.
fn one_thread() -> Result<tokio::runtime::Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|e| format!("runtime: {e}"))
}

/// As a server would run: one worker for each core it may use.
fn all_cores() -> Result<tokio::runtime::Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build().map_err(|e| format!("runtime: {e}"))
}

/// A pooled client that goes straight to the address.
fn http_client() -> Result<reqwest::Client, String> {
    http_builder().build().map_err(|e| format!("client: {e}"))
}

fn http_builder() -> reqwest::ClientBuilder {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// One line of the result.
fn say(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| format!("stdout: {e}"))
}

/// One line of progress. A closed stderr is no reason to stop measuring.
fn progress(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
