//! `tollgate ledger backup`: a copy of the ledger that can be served as it is.

use super::{
    CliError, Common,
    ledger::{balanced, tell},
    link, output,
};
use crate::{
    admin::times::rfc3339,
    backup::{BackupError, backup},
};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The directory of the copy: one that is not there yet, an empty one, or an earlier backup
    to: PathBuf,
}

/// Runs the command. Blocks: nothing else runs in this process.
pub(super) fn run(common: &Common, args: &BackupArgs) -> Result<(), CliError> {
    if common.server.is_some() {
        return Err(CliError::usage("a backup copies files: run it where the data directory is")
            .hint("leave --server and TOLLGATE_SERVER out"));
    }
    let from = link::config(common)?.data_dir;
    link::has_ledger(&from)?;
    let made = backup(&from, &args.to).map_err(|error| match error {
        BackupError::Place { .. } => CliError::usage(error.to_string()),
        _ => CliError::failed(error.to_string()),
    })?;
    let mut report = json!(made.report);
    report["clean"] = json!(made.report.is_clean());
    let until = (made.last_unix_ms > 0).then(|| rfc3339(made.last_unix_ms));
    if common.json {
        output::json(&json!({
            "to": args.to,
            "until": until,
            "files_written": made.files,
            "bytes_written": made.bytes,
            "kept": made.kept,
            "check": report,
        }))?;
    } else {
        let (files, bytes) = (made.files, made.bytes);
        let until = until.map_or_else(String::new, |time| format!(", everything until {time}"));
        output::say(format!("{}: {files} files written, {bytes} bytes{until}", args.to.display()))?;
        tell(&report)?;
        for kept in &made.kept {
            let kept = kept.display();
            output::note(format!("the ledger's own is damaged: {kept} was kept, and can heal it"));
        }
    }
    balanced(&report)
}
