//! `tollgate budgets`: what each one has left.

use super::{
    CliError, Common,
    link::{Link, Missing},
    output::{self, Align, rows, text, usd},
};
use serde_json::Value;

/// Lists all budgets.
pub(crate) async fn run(common: &Common) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    let budgets = link.get("/budgets?of_sessions=true").await?;
    list(common, &budgets, &budgets)
}

/// A table of budgets, or what was answered.
pub(super) fn list(common: &Common, budgets: &Value, answered: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(answered);
    }
    let missing = rows(budgets).iter().filter(|row| row.get("uncounted_events").is_some());
    for budget in missing {
        output::note(format!(
            "{}: the charges of {} lost events may be missing; `tollgate budget correct` books them",
            text(budget, "/id"),
            text(budget, "/uncounted_events")
        ));
    }
    let kind = |budget: &Value| {
        let kind = if budget["hard"] == Value::Bool(false) { "soft" } else { "hard" };
        let of = if budget["of_sessions"] == Value::Bool(true) { ", each session" } else { "" };
        format!("{kind}{of}")
    };
    // What is set for each session has no state of its own, and its limits are named as they are set.
    let limit = |budget: &Value, unit: &str, set: &str| match usd(budget, unit).as_str() {
        "-" => usd(budget, set),
        limit => limit.to_owned(),
    };
    output::table(
        rows(budgets),
        &[
            ("BUDGET", Align::Left, &|budget| text(budget, "/id")),
            ("KIND", Align::Left, &kind),
            ("LIMIT USD", Align::Right, &|budget| limit(budget, "/limit_usd", "/money_usd")),
            ("SPENT", Align::Right, &|budget| usd(budget, "/spent_usd")),
            ("HELD", Align::Right, &|budget| usd(budget, "/reserved_usd")),
            ("LEFT", Align::Right, &|budget| usd(budget, "/left_usd")),
            ("LIMIT TOKENS", Align::Right, &|budget| limit(budget, "/limit_tokens", "/tokens")),
            ("SPENT", Align::Right, &|budget| text(budget, "/spent_tokens")),
            ("HELD", Align::Right, &|budget| text(budget, "/reserved_tokens")),
            ("LEFT", Align::Right, &|budget| text(budget, "/left_tokens")),
            ("LIMIT REQUESTS", Align::Right, &|budget| {
                limit(budget, "/limit_requests", "/requests")
            }),
            ("SPENT", Align::Right, &|budget| text(budget, "/spent_requests")),
            ("HELD", Align::Right, &|budget| text(budget, "/reserved_requests")),
            ("LEFT", Align::Right, &|budget| text(budget, "/left_requests")),
            ("WAITING", Align::Right, &|budget| text(budget, "/waiting")),
            ("RESETS", Align::Left, &|budget| text(budget, "/resets")),
        ],
    )
}
