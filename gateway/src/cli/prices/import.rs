//! `tollgate prices import`: another program's price file as a file of ours. Nothing is put into
//! force: the operator names the written file in the configuration.

use crate::{
    cli::{
        CliError, Common,
        output::{self, Align, text},
    },
    clock::Clock,
    price_import::{self, Format, Imported, Origin, Outcome},
};
use clap::Args;
use policies::{PriceList, write_rows};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What to read, and where to write.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Whose format it is in
    #[arg(long, value_enum)]
    format: Format,
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only this provider, by our name; may be given several times
    #[arg(long)]
    provider: Vec<String>,
    /// First day of rows that the file gives no date for [default: today, UTC]
    #[arg(long, value_name = "YYYY-MM-DD")]
    effective_from: Option<String>,
    /// Where the file came from, for the rows [default: its name]
    #[arg(long)]
    source: Option<String>,
    /// Write the rows here instead of to stdout; a file that exists is not replaced
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Report every model, not only those that are not exact
    #[arg(long)]
    all: bool,
}

/// Reads the file, writes the rows and reports.
pub(super) fn run(common: &Common, args: &ImportArgs) -> Result<(), CliError> {
    let path = args.file.display();
    let content = std::fs::read_to_string(&args.file)
        .map_err(|error| CliError::failed(format!("{path}: {error}")))?;
    let today = Clock::system().day();
    let origin = Origin {
        source: args.source.clone().unwrap_or_else(|| args.file.display().to_string()),
        effective_from: args.effective_from.clone().unwrap_or_else(|| today.clone()),
        source_date: today,
        providers: args.provider.clone(),
    };
    let imported = price_import::import(&content, args.format, &origin)
        .map_err(|error| CliError::failed(format!("{path}: {error}")))?;
    let rows = write_rows(&imported.rows);
    // What is written must be what our own reader takes.
    PriceList::parse("the rows", &rows).map_err(|error| CliError::failed(error.to_string()))?;
    if let Some(out) = &args.out {
        write_new(out, &rows)?;
    }
    report(common, args, &imported, &rows)
}

/// Rows of before may price days that are still to be rated: they are nobody's to replace.
fn write_new(out: &Path, rows: &str) -> Result<(), CliError> {
    let wrong = |error: io::Error| {
        let failed = CliError::failed(format!("{}: {error}", out.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => failed
                .hint("write to a new file and put its rows behind these, which price their days"),
            _ => failed,
        }
    };
    let mut file = File::create_new(out).map_err(wrong)?;
    file.write_all(rows.as_bytes()).map_err(wrong)
}

fn report(
    common: &Common,
    args: &ImportArgs,
    imported: &Imported,
    rows: &str,
) -> Result<(), CliError> {
    let summary = format!(
        "{} rows of {} models: {} exact, {} rounded, {} unsupported",
        imported.rows.len(),
        imported.report.len(),
        imported.count(Outcome::Exact),
        imported.count(Outcome::Rounded),
        imported.count(Outcome::Unsupported),
    );
    if common.json {
        let models = json!(imported.report);
        output::json(&json!({ "rows": imported.rows.len(), "models": models }))?;
    } else if args.out.is_some() {
        let lines = imported.report.iter();
        let shown = lines.filter(|line| args.all || line.outcome != Outcome::Exact);
        let shown: Vec<Value> = shown.map(|line| json!(line)).collect();
        output::table(
            &shown,
            &[
                ("PROVIDER", Align::Left, &|line| text(line, "/provider")),
                ("MODEL", Align::Left, &|line| text(line, "/model")),
                ("OUTCOME", Align::Left, &|line| text(line, "/outcome")),
                ("NOTES", Align::Left, &|line| text(line, "/notes")),
            ],
        )?;
    } else {
        output::say(rows)?;
    }
    output::note(summary);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write_new;

    #[test]
    fn rows_of_before_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("p.toml");
        write_new(&out, "first").unwrap();
        let refused = write_new(&out, "second").unwrap_err();
        assert!(refused.hinted().unwrap().contains("new file"), "{refused}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "first");
    }
}
