//! The `tollgate` program; see `gateway::cli`.

use std::process::ExitCode;

/// A request makes about two hundred allocations: see Cargo.toml for what the system's own cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::cli::main()
}
