//! `tollgate ledger reconcile`: what a provider says it charged beside what the ledger booked, by
//! model and day.
//!
//! Days are UTC on both sides. The ledger counts by the end of a request: one that ends after
//! midnight is a day later here than with a provider that counts by its beginning.

use super::{
    CliError, Common,
    ledger::escaped,
    link::Link,
    output::{self, Align, rows, text},
};
use crate::providers::charged;
use clap::Args;
use policies::PicoUsdTotal;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf};

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
    let mut theirs = BTreeMap::new();
    let mut has_more = false;
    for file in &args.files {
        let path = file.display();
        let content = std::fs::read_to_string(file)
            .map_err(|error| CliError::failed(format!("{path}: {error}")))?;
        let page = charged(&content).map_err(|why| CliError::failed(format!("{path}: {why}")))?;
        has_more = page.has_more;
        theirs.extend(page.by);
    }
    let Some(((first, _), ((last, _), _))) =
        theirs.keys().next().cloned().zip(theirs.iter().next_back())
    else {
        output::note("the report is empty");
        return Ok(());
    };
    let ours = booked(link, &args.provider, &first, last).await?;
    let lines = lines(&theirs, &ours);
    if has_more {
        output::note("the last page says that there are more: give them all");
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

type Sums = BTreeMap<(String, String), PicoUsdTotal>;

/// What the ledger booked for a provider from the first to the last day.
async fn booked(link: &Link, provider: &str, first: &str, last: &str) -> Result<Sums, CliError> {
    let end = last
        .parse::<jiff::civil::Date>()
        .and_then(jiff::civil::Date::tomorrow)
        .map_err(|error| CliError::failed(format!("{last}: {error}")))?;
    let path = format!(
        "/ledger/summary?group_by=model,day&provider={}&since={first}T00:00:00Z&until={end}T00:00:00Z",
        escaped(provider)
    );
    let summary = link.get(&path).await?;
    if let Some(unknown) = summary["total"]["unknown_cost"].as_u64().filter(|count| *count > 0) {
        output::note(format!("{unknown} attempts of unknown cost are not in what was booked"));
    }
    let mut sums = Sums::new();
    for row in rows(&summary) {
        let (day, model) = (text(row, "/day"), text(row, "/model"));
        let day = day.get(..10).unwrap_or(&day).to_owned();
        let cost = text(row, "/cost_usd")
            .parse()
            .map_err(|error| CliError::failed(format!("the cost of {model} on {day}: {error}")))?;
        sums.insert((day, model), cost);
    }
    Ok(sums)
}

fn lines(theirs: &Sums, ours: &Sums) -> Vec<Value> {
    let places: std::collections::BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let line = |place: &&(String, String)| {
        let (charged, booked) = (theirs.get(*place), ours.get(*place));
        json!({
            "day": place.0,
            "model": place.1,
            "charged_usd": charged,
            "booked_usd": booked,
            "difference_usd": difference(
                booked.map_or(0, |sum| sum.pico()),
                charged.map_or(0, |sum| sum.pico()),
            ),
        })
    };
    places.iter().map(line).collect()
}

/// `booked - charged`, with its sign.
fn difference(booked: u128, charged: u128) -> String {
    let sign = if booked < charged { "-" } else { "" };
    format!("{sign}{}", PicoUsdTotal::from_pico(booked.abs_diff(charged)))
}

#[cfg(test)]
mod tests {
    use super::{PicoUsdTotal, Sums, lines};

    #[test]
    fn each_model_and_day_shows_both_sides_and_the_difference() {
        let sums = |rows: &[(&str, &str, u128)]| -> Sums {
            let row = |(day, model, pico): &(&str, &str, u128)| {
                (((*day).to_owned(), (*model).to_owned()), PicoUsdTotal::from_pico(*pico))
            };
            rows.iter().map(row).collect()
        };
        let theirs = sums(&[("2026-11-01", "m", 1_500_000_000_000), ("2026-11-02", "m", 5)]);
        let ours = sums(&[("2026-11-01", "m", 1_000_000_000_000), ("2026-11-01", "n", 7)]);
        let lines = lines(&theirs, &ours);
        let shown: Vec<_> =
            lines.iter().map(|line| line["difference_usd"].as_str().unwrap()).collect();
        assert_eq!(shown, ["-0.500000000000", "0.000000000007", "-0.000000000005"]);
        assert!(lines[1]["charged_usd"].is_null(), "not zero: they say nothing of it");
    }
}
