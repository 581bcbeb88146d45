//! Where results go: raw JSON and a Markdown table side by side in one folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Birthplace;
use crate::stats::Spread;

/// The folder of a run: the one given, else `bench/runs/<date>-<machine>`.
pub(crate) fn folder(given: Option<&Path>, place: &Birthplace) -> PathBuf {
    given.map_or_else(|| Path::new("bench/runs").join(place.folder()), Path::to_owned)
}

/// Writes `<name>.json` and `<name>.md`.
pub(crate) fn write(
    folder: &Path,
    name: &str,
    raw: &impl Serialize,
    table: &str,
) -> Result<(), String> {
    let fault = |e: &dyn std::fmt::Display| format!("{}: {e}", folder.display());
    fs::create_dir_all(folder).map_err(|e| fault(&e))?;
    let mut json = serde_json::to_string(raw).map_err(|e| fault(&e))?;
    json.push('\n');
    fs::write(folder.join(format!("{name}.json")), json).map_err(|e| fault(&e))?;
    fs::write(folder.join(format!("{name}.md")), table).map_err(|e| fault(&e))?;
    crate::progress(&format!("wrote {}/{name}.json and {name}.md", folder.display()));
    Ok(())
}

/// `1.42 (1.38..1.47)`, or a dash when there is nothing to show.
pub(crate) fn shown(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |s| format!("{:.digits$} ({:.digits$}..{:.digits$})", s.median, s.min, s.max),
    )
}

/// The lines that stand above every table.
pub(crate) fn heading(title: &str, place: &Birthplace) -> String {
    let memory = place.memory_mib.map_or_else(String::new, |mib| format!(", {mib} MiB"));
    let load = place
        .load_average
        .map_or_else(String::new, |load| format!(", load average {load} at the start"));
    let warning = if place.profile == "release" {
        ""
    } else {
        "\n**Dev build: these figures say nothing about tollgate.**\n"
    };
    format!(
        "# {title}\n\n{}, {} x {}{memory}, Linux {}{load}; version {}, {} profile.\n\n    {}\n{warning}",
        place.date,
        place.cores,
        place.cpu,
        place.kernel,
        place.version,
        place.profile,
        place.command
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_shown_with_its_spread_or_not_at_all() {
        let spread = Spread::of(vec![1.5, 1.25, 2.0]);
        assert_eq!(shown(spread.as_ref(), 2), "1.50 (1.25..2.00)");
        assert_eq!(shown(None, 2), "-");
    }
}
