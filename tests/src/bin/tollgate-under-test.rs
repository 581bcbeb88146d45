//! The gateway's own program, built together with the tests, so that what they start is never
//! stale.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::cli::main()
}
