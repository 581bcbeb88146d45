//! `tollgate ledger export`: the ledger as a file.
//!
//! **Invariant:** a file that is there under its name is whole: it is written beside it and renamed.

use super::{
    CliError,
    address::param,
    ledger::{ExportArgs, params},
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
            let mut there = true;
            link.copy(&path, |piece| {
                there = output::written(whole(piece))?;
                Ok(there)
            })
            .await?;
            if !there {
                return Ok(());
            }
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

/// Writes a piece to stdout at once: the pieces are large.
fn whole(piece: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(piece)?;
    out.flush()
}

async fn to_file(link: &Link, path: &str, file: &Path) -> Result<(), CliError> {
    let fault = |error: io::Error| CliError::failed(format!("{}: {error}", file.display()));
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let mut out = BufWriter::new(File::create(part).map_err(fault)?);
    link.copy(path, |piece| out.write_all(piece).map(|()| true).map_err(fault)).await?;
    let written = out.into_inner().map_err(io::IntoInnerError::into_error).map_err(fault)?;
    written.sync_all().map_err(fault)?;
    fs::rename(part, file).map_err(fault)
}
