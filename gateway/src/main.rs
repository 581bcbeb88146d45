//! The `tollgate` program; see `gateway::cli`.

use std::process::ExitCode;

/// Half of a request's own work was in glibc's allocator; the engine's C++ keeps that one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::cli::main()
}
