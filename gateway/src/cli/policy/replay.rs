//! `tollgate policy replay`: what a policy would have done with past requests.

use crate::cli::{
    CliError, Common,
    link::Link,
    output::{self, Align, known_usd, ms, text, usd},
};
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The policy, and which requests.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The policy file
    file: PathBuf,
    /// Ended at or after this: RFC 3339, a day, or a span such as 30d
    #[arg(long, value_name = "TIME", default_value = "7d")]
    since: String,
    /// Ended before this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Asked by this key
    #[arg(long)]
    key: Option<String>,
    /// Asked by a key of this user
    #[arg(long)]
    user: Option<String>,
    /// Asked by a key of this team
    #[arg(long)]
    team: Option<String>,
    /// Belongs to this session
    #[arg(long)]
    session: Option<String>,
    /// Has this tag
    #[arg(long)]
    tag: Option<String>,
    /// Tried this route
    #[arg(long)]
    route: Option<String>,
    /// Asked for this model
    #[arg(long)]
    model: Option<String>,
    /// Sent there by this rule
    #[arg(long)]
    rule: Option<String>,
    /// Decided by this policy version
    #[arg(long, value_name = "VERSION")]
    policy_version: Option<String>,
    /// Take this route to have been there, and ready, when requests were decided before it was; repeatable
    #[arg(long, value_name = "ROUTE")]
    assume: Vec<String>,
}

/// Asks for it and shows what came of it.
pub(super) async fn run(common: &Common, link: &Link, args: &ReplayArgs) -> Result<(), CliError> {
    let (name, source) = super::written(&args.file)?;
    let body = json!({
        "name": name,
        "text": source,
        "since": args.since,
        "until": args.until,
        "key": args.key,
        "user": args.user,
        "team": args.team,
        "session": args.session,
        "tag": args.tag,
        "route": args.route,
        "model": args.model,
        "rule": args.rule,
        "policy_version": args.policy_version,
        "assume": args.assume,
    });
    let replayed = link.ask(Method::POST, "/policies/replay", Some(&body)).await?;
    if common.json {
        return output::json(&replayed);
    }
    notes(&replayed);
    let items = |name: &str| replayed[name].as_array().map_or(&[][..], Vec::as_slice);
    if text(&replayed, "/replayed") == "0" {
        return output::say("no request was replayed");
    }
    moves(items("moves"))?;
    output::table(
        &[side("before", &replayed["before"]), side("replayed", &replayed["after"])],
        &[
            ("", Align::Left, &|row| text(row, "/side")),
            ("USD", Align::Right, &|row| money(row, "")),
            ("ESTIMATED", Align::Right, &|row| text(row, "/cost_estimated")),
            ("TTFT P50 MS", Align::Right, &|row| ms(row, "/ttft/p50_us")),
            ("P95", Align::Right, &|row| ms(row, "/ttft/p95_us")),
            ("P99", Align::Right, &|row| ms(row, "/ttft/p99_us")),
            ("TOTAL P50 MS", Align::Right, &|row| ms(row, "/total/p50_us")),
            ("P95", Align::Right, &|row| ms(row, "/total/p95_us")),
            ("P99", Align::Right, &|row| ms(row, "/total/p99_us")),
            ("UNKNOWN", Align::Right, &|row| text(row, "/total/unknown")),
        ],
    )?;
    output::say(format!(
        "\n{} requests replayed: {} as they were, {} elsewhere, {} refused{}; {}",
        text(&replayed, "/replayed"),
        text(&replayed, "/unchanged"),
        text(&replayed, "/moved"),
        text(&replayed, "/refused"),
        match replayed["failed"].as_u64() {
            None | Some(0) => String::new(),
            Some(failed) => format!(", {failed} failed"),
        },
        more(&replayed),
    ))
}

/// From where to where requests would have gone.
fn moves(moves: &[Value]) -> Result<(), CliError> {
    if moves.is_empty() {
        return Ok(());
    }
    output::table(
        moves,
        &[
            ("FROM", Align::Left, &|row| route(row, "/from", "(cache)")),
            ("TO", Align::Left, &|row| {
                let to = route(row, "/to", "(refused)");
                if row["failed"] == true { format!("{to} (failed)") } else { to }
            }),
            ("RULE BEFORE", Align::Left, &|row| text(row, "/rule_before")),
            ("RULE", Align::Left, &|row| text(row, "/rule")),
            ("REQUESTS", Align::Right, &|row| text(row, "/requests")),
            ("USD BEFORE", Align::Right, &|row| money(row, "/before")),
            ("USD", Align::Right, &|row| money(row, "/after")),
            ("DIFFERENCE", Align::Right, &|row| usd(row, "/difference_usd")),
            ("SUCH AS", Align::Left, &|row| text(row, "/examples/0")),
        ],
    )?;
    output::say("")
}

/// What the sums leave out.
fn notes(replayed: &Value) {
    let each = |name: &str| replayed[name].as_array().cloned().unwrap_or_default();
    for not in each("not_replayable") {
        let (requests, reason) = (text(&not, "/requests"), text(&not, "/reason"));
        let way = match not["route"].as_str() {
            Some(route) => format!(" (`--assume {route}` takes it to have been)"),
            None => String::new(),
        };
        output::note(format!("{requests} requests cannot be replayed: {reason}{way}"));
    }
    for assumed in each("assumed") {
        let (requests, route) = (text(&assumed, "/requests"), text(&assumed, "/route"));
        output::note(format!(
            "`{route}` was not configured when {requests} of them were decided: it is taken to have \
             been, and ready"
        ));
    }
    for missing in each("missing_signals") {
        let (requests, signal) = (text(&missing, "/requests"), text(&missing, "/signal"));
        output::note(format!("`{signal}` was not known when {requests} of them were decided"));
    }
}

fn side(name: &str, of: &Value) -> Value {
    let mut row = of.clone();
    row["side"] = json!(name);
    row
}

fn route(row: &Value, pointer: &str, none: &str) -> String {
    if row.pointer(pointer).is_some() { text(row, pointer) } else { none.to_owned() }
}

fn money(row: &Value, of: &str) -> String {
    known_usd(row, &format!("{of}/cost_usd"), &format!("{of}/cost_unknown"))
}

/// The difference with its sign in words.
fn more(replayed: &Value) -> String {
    let difference = usd(replayed, "/difference_usd");
    match difference.strip_prefix('-') {
        Some(less) => format!("{less} USD less"),
        None if difference == "0.00" => "for as much".to_owned(),
        None => format!("{difference} USD more"),
    }
}
