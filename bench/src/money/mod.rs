//! Money under real traffic in simulated time: what budgets refuse, and what the abuse guard saves.
//!
//! Invariant: the arrivals and the sizes are those of a recorded trace; the machines under test are
//! the gateway's own, told the time instead of reading it.

mod budgets;
mod redteam;
mod trace;

use clap::Args;
use std::path::PathBuf;

/// Where the trace is.
#[derive(Debug, Args)]
pub(crate) struct MoneyArgs {
    /// CSV of TIMESTAMP, ContextTokens, GeneratedTokens
    /// (Azure/AzurePublicDataset, `AzureLLMInferenceTrace_conv.csv`)
    #[arg(long, env = "TOLLGATE_TRACE", default_value = "traces/azure_llm_2023_conv.csv")]
    pub(crate) trace: PathBuf,
}

/// `bench budgets`
pub(crate) fn budgets(args: &MoneyArgs) -> Result<(), String> {
    match trace::read(&args.trace)? {
        Some(rows) => budgets::run(&rows),
        None => skipped(args),
    }
}

/// `bench redteam`
pub(crate) fn redteam(args: &MoneyArgs) -> Result<(), String> {
    match trace::read(&args.trace)? {
        Some(rows) => redteam::run(&rows),
        None => skipped(args),
    }
}

fn skipped(args: &MoneyArgs) -> Result<(), String> {
    crate::say(&format!("skipped: there is no trace at {}", args.trace.display()))
}
