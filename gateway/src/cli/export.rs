//! `tollgate ledger export`: the ledger as a file.
//!
//! **Invariant:** a file that is there under its name is whole: it is written beside it and renamed.

use super::{
    CliError,
    ledger::{ExportArgs, param, params},
    link::Link,
    output::{self, text},
};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

/// Writes the export to stdout or to a file.
pub(super) async fn run(link: &Link, args: &ExportArgs) -> Result<(), CliError> {
    let filters = params(&args.filter);
    let mut asked = filters.clone();
    param(&mut asked, "format", Some(&args.format));
    let path = format!("/ledger/export?{asked}");
    match &args.output {
        Some(file) => to_file(link, &path, file).await?,
        None => {
            let mut out = BufWriter::new(io::stdout());
            link.copy(&path, &mut out).await?;
            out.flush().map_err(|error| CliError::failed(format!("stdout: {error}")))?;
        }
    }
    if args.format == "focus" {
        // FOCUS knows no unknown cost: say what is not in it.
        let total = link.get(&format!("/ledger/summary?{filters}")).await?;
        match total.pointer("/total/unknown_cost").and_then(serde_json::Value::as_u64) {
            Some(0) | None => {}
            Some(_) => output::note(format!(
                "{} attempts of unknown cost are not in it",
                text(&total, "/total/unknown_cost")
            )),
        }
    }
    Ok(())
}

async fn to_file(link: &Link, path: &str, file: &Path) -> Result<(), CliError> {
    let fault = |error: io::Error| CliError::failed(format!("{}: {error}", file.display()));
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let mut out = BufWriter::new(File::create(part).map_err(fault)?);
    link.copy(path, &mut out).await?;
    let written = out.into_inner().map_err(io::IntoInnerError::into_error).map_err(fault)?;
    written.sync_all().map_err(fault)?;
    fs::rename(part, file).map_err(fault)
}
