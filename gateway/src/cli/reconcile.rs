//! `tollgate ledger reconcile`: what a provider says it charged beside what the ledger booked, by
//! model and day.
//!
//! Days are UTC on both sides. The ledger counts by the end of a request: one that ends after
//! midnight is a day later here than with a provider that counts by its beginning. A provider names the
//! dated snapshot of a model where the ledger may have the name that was asked for: on one day these
//! are one line. Which snapshot answered is not in the ledger, so where both names were asked for and
//! only the snapshot is charged, both are in that line.

use super::{
    CliError, Common,
    ledger::note_gaps,
    link::Link,
    output::{self, Align, rows, text},
};
use crate::providers::{Charged, charged};
use clap::Args;
use policies::{PicoUsdTotal, undated};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What a summary calls the groups that are too many.
const OVERFLOW: &str = "other";

/// Which report.
#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    /// The provider, by its name in the ledger
    #[arg(long)]
    provider: String,
    /// Its report: the answer of OpenAI's /v1/organization/costs (group_by line_item) or Anthropic's
    /// /v1/organizations/cost_report (group_by description), bucketed by day
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Compares.
pub(crate) async fn run(
    common: &Common,
    link: &Link,
    args: &ReconcileArgs,
) -> Result<(), CliError> {
    let mut theirs = Charged::default();
    for file in &args.files {
        let path = file.display();
        let content = std::fs::read_to_string(file)
            .map_err(|error| CliError::failed(format!("{path}: {error}")))?;
        theirs.add(charged(&content).map_err(|why| CliError::failed(format!("{path}: {why}")))?);
    }
    let (Some(first), Some(last)) = (theirs.days.first(), theirs.days.last()) else {
        output::note("the report is empty");
        return Ok(());
    };
    let ours = booked(link, &args.provider, first, last).await?;
    let (charged, booked) = as_charged(as_booked(theirs.by, &ours), ours);
    let lines = lines(&charged, &booked);
    if theirs.has_more {
        output::note("the last page says that there are more: give them all");
    }
    if theirs.unknown > 0 {
        output::note(format!("{} lines of the report have no amount", theirs.unknown));
    }
    if common.json {
        return output::json(&json!({ "object": "list", "data": lines }));
    }
    output::table(
        &lines,
        &[
            ("DAY", Align::Left, &|line| text(line, "/day")),
            ("MODEL", Align::Left, &|line| text(line, "/model")),
            ("CHARGED USD", Align::Right, &|line| text(line, "/charged_usd")),
            ("BOOKED USD", Align::Right, &|line| text(line, "/booked_usd")),
            ("BOOKED - CHARGED", Align::Right, &|line| text(line, "/difference_usd")),
        ],
    )
}

/// Pico-USD by day and model.
type Sums = BTreeMap<(String, String), i128>;

/// What the ledger booked for a provider from the first to the last day.
async fn booked(link: &Link, provider: &str, first: &str, last: &str) -> Result<Sums, CliError> {
    let end = last
        .parse::<jiff::civil::Date>()
        .and_then(jiff::civil::Date::tomorrow)
        .map_err(|error| CliError::failed(format!("{last}: {error}")))?;
    // Not by a filter, which selects requests: others may have been asked beside it.
    let path = format!(
        "/ledger/summary?group_by=provider,model,day&since={first}T00:00:00Z&until={end}T00:00:00Z"
    );
    let summary = link.get(&path).await?;
    note_gaps(&summary);
    let all = rows(&summary);
    let of = |name: &str| -> Vec<&Value> {
        all.iter().filter(|row| text(row, "/provider") == name).collect()
    };
    if !of(OVERFLOW).is_empty() {
        output::note(
            "there are more models and days than are told apart: give fewer days at a time",
        );
    }
    let ours = of(provider);
    let unknown = ours.iter().filter_map(|row| row["unknown_cost"].as_u64()).sum::<u64>();
    if unknown > 0 {
        output::note(format!("{unknown} attempts of unknown cost are not in what was booked"));
    }
    let mut sums = Sums::new();
    for row in ours {
        let (day, model) = (text(row, "/day"), text(row, "/model"));
        let day = day.get(..10).unwrap_or(&day).to_owned();
        let cost: PicoUsdTotal = text(row, "/cost_usd")
            .parse()
            .map_err(|error| CliError::failed(format!("the cost of {model} on {day}: {error}")))?;
        sums.insert((day, model), i128::try_from(cost.pico()).unwrap_or(i128::MAX));
    }
    Ok(sums)
}

/// What was charged, under the names that the ledger has: where it knows a model of a day only
/// without the date of a snapshot, or only one snapshot of it, that one is meant.
fn as_booked(theirs: Sums, ours: &Sums) -> Sums {
    let mut sums = Sums::new();
    for ((day, model), amount) in theirs {
        let at = (day.clone(), model);
        let named = if ours.contains_key(&at) { None } else { same_model(&at, ours) };
        let sum = sums.entry((day, named.unwrap_or(at.1))).or_default();
        *sum = sum.saturating_add(amount);
    }
    sums
}

/// The one model booked on that day that differs by the date of a snapshot alone.
fn same_model((day, model): &(String, String), ours: &Sums) -> Option<String> {
    let same = |other: &str| undated(model) == Some(other) || undated(other) == Some(model);
    let mut found = ours.keys().filter(|(of, other)| of == day && same(other));
    let only = found.next().filter(|_| found.next().is_none());
    only.map(|(_, other)| other.clone())
}

/// Both sides, where a name was booked under which nothing was charged, although snapshots of it were:
/// some of what was charged for these is that name's, and nobody can tell how much. That day all of
/// them stand under the name.
fn as_charged(theirs: Sums, ours: Sums) -> (Sums, Sums) {
    let without_date =
        |(day, model): &(String, String)| undated(model).map(|name| (day.clone(), name.to_owned()));
    let of_snapshots: BTreeSet<_> = theirs.keys().filter_map(without_date).collect();
    let uncharged =
        |at: &&(String, String)| !theirs.contains_key(*at) && of_snapshots.contains(*at);
    let names: BTreeSet<_> = ours.keys().filter(uncharged).cloned().collect();
    let under_names = |sums: Sums| {
        let mut all = Sums::new();
        for (at, amount) in sums {
            let named = without_date(&at).filter(|name| names.contains(name));
            let sum = all.entry(named.unwrap_or(at)).or_default();
            *sum = sum.saturating_add(amount);
        }
        all
    };
    (under_names(theirs), under_names(ours))
}

fn lines(theirs: &Sums, ours: &Sums) -> Vec<Value> {
    let places: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let line = |place: &&(String, String)| {
        let (charged, booked) = (theirs.get(*place).copied(), ours.get(*place).copied());
        json!({
            "day": place.0,
            "model": place.1,
            "charged_usd": charged.map(usd),
            "booked_usd": booked.map(usd),
            "difference_usd": usd(booked.unwrap_or(0).saturating_sub(charged.unwrap_or(0))),
        })
    };
    places.iter().map(line).collect()
}

/// With its sign.
fn usd(pico: i128) -> String {
    let sign = if pico < 0 { "-" } else { "" };
    format!("{sign}{}", PicoUsdTotal::from_pico(pico.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::{Sums, as_booked, as_charged, lines};

    fn sums(rows: &[(&str, &str, i128)]) -> Sums {
        let row = |(day, model, pico): &(&str, &str, i128)| {
            (((*day).to_owned(), (*model).to_owned()), *pico)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_snapshot_and_the_name_that_was_asked_for_are_one_line() {
        let ours = sums(&[("1", "gpt-5-mini", 7), ("1", "old-2024-05-13", 1), ("1", "new", 2)]);
        let theirs = sums(&[
            ("1", "gpt-5-mini-2025-08-07", 5),
            ("1", "gpt-5-mini", 2),
            ("1", "old", 1),
            ("1", "other-2025-08-07", 3),
            ("2", "gpt-5-mini-2025-08-07", 4),
        ]);
        let expected = sums(&[
            ("1", "gpt-5-mini", 7),
            ("1", "old-2024-05-13", 1),
            ("1", "other-2025-08-07", 3),
            ("2", "gpt-5-mini-2025-08-07", 4),
        ]);
        assert_eq!(as_booked(theirs, &ours), expected);
        // Booked under both names, each is its own.
        let both = sums(&[("1", "m", 1), ("1", "m-2025-08-07", 2)]);
        assert_eq!(as_booked(both.clone(), &both), both);
    }

    #[test]
    fn a_name_that_is_charged_as_a_snapshot_which_was_asked_for_too_is_one_line_with_it() {
        let side = |theirs: &[_], ours: &[_]| {
            let ours = sums(ours);
            as_charged(as_booked(sums(theirs), &ours), ours)
        };
        let (m, dated, later) = ("m", "m-2025-08-07", "m-2025-11-01");
        // Eight were charged, of which three were asked for by date.
        let pooled = side(&[("1", dated, 8)], &[("1", m, 5), ("1", dated, 3)]);
        assert_eq!(pooled, (sums(&[("1", m, 8)]), sums(&[("1", m, 8)])));
        // Another snapshot is charged that nobody asked for: the name is that one.
        let ours = [("1", m, 5), ("1", dated, 3)];
        let told = side(&[("1", dated, 3), ("1", later, 5)], &ours);
        assert_eq!(told, (sums(&ours), sums(&ours)));
        // On another day, or without the name, a snapshot stays itself.
        let ours = [("1", m, 5), ("2", dated, 3)];
        let apart = side(&[("2", dated, 3)], &ours);
        assert_eq!(apart, (sums(&[("2", dated, 3)]), sums(&ours)));
    }

    #[test]
    fn each_model_and_day_shows_both_sides_and_the_difference() {
        let theirs = sums(&[("2026-11-01", "m", 1_500_000_000_000), ("2026-11-02", "m", 5)]);
        let ours = sums(&[("2026-11-01", "m", 1_000_000_000_000), ("2026-11-01", "n", 7)]);
        let lines = lines(&theirs, &ours);
        let shown: Vec<_> =
            lines.iter().map(|line| line["difference_usd"].as_str().unwrap()).collect();
        assert_eq!(shown, ["-0.500000000000", "0.000000000007", "-0.000000000005"]);
        assert!(lines[1]["charged_usd"].is_null(), "not zero: they say nothing of it");
    }
}
