//! `tollgate init`: the commented configuration.

use super::{CliError, Common, output};
use crate::config::shipped::TOLLGATE_TOML;
use std::{fs::OpenOptions, io::Write as _};

/// Write a commented tollgate.toml.
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {}

/// Writes the shipped configuration where `--config` says; never over a file.
pub(crate) fn run(common: &Common, _: &InitArgs) -> Result<(), CliError> {
    let path = &common.config;
    let failed = |error: std::io::Error| {
        let said = CliError::failed(format!("{}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                said.hint("nothing was changed; move it away, or name another with --config")
            }
            _ => said,
        }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(TOLLGATE_TOML.as_bytes()).map_err(failed)?;
    output::note(format!(
        "wrote {}; start with: tollgate serve --config {}",
        path.display(),
        path.display()
    ));
    Ok(())
}
