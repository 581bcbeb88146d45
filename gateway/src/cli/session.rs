//! `tollgate ledger session`: an agent's run as a tree of requests.

use super::{
    CliError, Common,
    address::escaped,
    entry::{answered_route, tokens},
    ledger::{SessionArgs, note_dropped},
    link::Link,
    output::{self, Align, known_usd, ms, text, usd},
};
use serde_json::Value;

/// Shows a session.
pub(super) async fn run(common: &Common, link: &Link, args: &SessionArgs) -> Result<(), CliError> {
    let id = &args.id;
    let of = args.key.as_ref().map_or_else(String::new, |key| format!("?key={}", escaped(key)));
    let session = link.get(&format!("/sessions/{}{of}", escaped(id))).await?;
    if common.json {
        return output::json(&session);
    }
    let total = &session["total"];
    output::say(format!(
        "session {id} of {}: {} requests, {} USD, {} to {}",
        text(&session, "/key"),
        text(total, "/requests"),
        known_usd(total, "/cost_usd", "/unknown_cost"),
        text(&session, "/first_arrived"),
        text(&session, "/last_arrived")
    ))?;
    if let Some(unknown) = total["unknown_cost"].as_u64().filter(|unknown| *unknown > 0) {
        output::say(format!("{unknown} attempts of unknown cost are not in it"))?;
    }
    let requests = session["requests"].as_array().map_or(&[][..], Vec::as_slice);
    output::table(
        requests,
        &[
            ("REQUEST", Align::Left, &indented),
            ("STEP", Align::Left, &|entry| text(entry, "/step")),
            ("ROUTE", Align::Left, &answered_route),
            ("OUTCOME", Align::Left, &|entry| text(entry, "/outcome")),
            ("TOKENS", Align::Right, &tokens),
            ("COST USD", Align::Right, &|entry| usd(entry, "/cost_usd")),
            ("WITH BRANCHES", Align::Right, &|entry| {
                known_usd(entry, "/branch_cost_usd", "/branch_unknown_cost")
            }),
            ("TOTAL MS", Align::Right, &|entry| ms(entry, "/total_us")),
        ],
    )?;
    if session["older_left_out"] == Value::Bool(true) {
        output::note("older requests are left out; the sums are of all");
    }
    note_dropped(&session);
    Ok(())
}

/// A request's id, moved in by its depth.
fn indented(entry: &Value) -> String {
    let depth = entry["depth"].as_u64().and_then(|depth| usize::try_from(depth).ok());
    format!("{}{}", "  ".repeat(depth.unwrap_or(0).min(20)), text(entry, "/id"))
}
