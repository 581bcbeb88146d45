//! `tollgate ledger idle`: what local models cost while they were loaded and worked for nobody.

use super::{
    CliError, Common,
    link::Link,
    output::{self, Align, rows, text, usd},
};
use clap::Args;
use serde_json::Value;

/// Which days.
#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    /// From this day (UTC) on, such as 2026-11-01
    #[arg(long, value_name = "DAY")]
    since: Option<String>,
    /// Before this day
    #[arg(long, value_name = "DAY")]
    until: Option<String>,
}

/// Runs the command.
pub(super) async fn run(common: &Common, link: &Link, args: &IdleArgs) -> Result<(), CliError> {
    let mut params = String::new();
    super::address::param(&mut params, "since", args.since.as_deref());
    super::address::param(&mut params, "until", args.until.as_deref());
    let idle = link.get(&format!("/idle?{params}")).await?;
    if common.json {
        return output::json(&idle);
    }
    output::table(
        rows(&idle),
        &[
            ("DAY", Align::Left, &|row| text(row, "/day")),
            ("ROUTE", Align::Left, &|row| text(row, "/route")),
            ("LOADED", Align::Right, &|row| hours(row, "/loaded_ms")),
            ("FOR REQUESTS", Align::Right, &|row| hours(row, "/engine_ms")),
            ("IDLE", Align::Right, &|row| hours(row, "/idle_ms")),
            ("USD PER HOUR", Align::Right, &|row| usd(row, "/idle_usd_per_hour")),
            ("IDLE USD", Align::Right, &|row| usd(row, "/idle_cost_usd")),
        ],
    )?;
    output::note(format!("{} USD in all, beside the requests", usd(&idle, "/total_idle_cost_usd")));
    Ok(())
}

/// Milliseconds as hours, minutes and seconds.
fn hours(row: &Value, pointer: &str) -> String {
    let seconds = row.pointer(pointer).and_then(Value::as_u64).unwrap_or(0) / 1_000;
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
