//! The `tollgate` program; see `gateway::cli`.

use std::process::ExitCode;

/// A request makes two hundred small allocations, and many of them are freed on another thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::cli::main()
}
