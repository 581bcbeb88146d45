//! `tollgate ledger` and `tollgate budgets`: what happened and what it cost.

use super::{
    CliError, Common, Exit,
    link::{Link, Missing},
    output::{self, Align, Column, known_usd, ms, rows, text, usd},
};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use std::fmt::Write as _;

/// The ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// List requests, newest first
    Query(QueryArgs),
    /// Show one request: attempts, times, cost, and why it was decided so
    Show(ShowArgs),
    /// Sum requests, by group
    Summary(SummaryArgs),
    /// Show a session (an agent's run): what it cost, and the tree of its requests
    Session(SessionArgs),
    /// Write requests out: csv (a row for each attempt), jsonl (a request a line) or focus (FOCUS 1.2)
    Export(ExportArgs),
    /// Show what local models cost while they were loaded and worked for nobody, by day
    Idle(super::idle::IdleArgs),
    /// Check the whole ledger against itself
    Verify,
    /// Make the sums per minute, hour and day anew from the journal
    RebuildRollups,
    /// Compare with what a provider says it charged, by model and day
    Reconcile(super::reconcile::ReconcileArgs),
}

/// Which requests.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Ended at or after: RFC 3339, a day, or a span before now such as 24h
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Ended before
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Asked by this key (its id)
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Tried this route
    #[arg(long)]
    pub(crate) route: Option<String>,
    /// Asked for this model
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Asked this provider
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Decided by this rule
    #[arg(long)]
    pub(crate) rule: Option<String>,
    /// Decided by this version of a policy
    #[arg(long, value_name = "VERSION")]
    pub(crate) policy_version: Option<String>,
    /// Ended so: completed, client_gone, broken, failed, rejected, short, crashed
    #[arg(long)]
    pub(crate) outcome: Option<String>,
    /// The caller saw this HTTP status
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Served by: chat_completions, completions, embeddings, responses, messages
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Used the answer cache so: bypass, miss, hit, coalesced
    #[arg(long)]
    pub(crate) cache: Option<String>,
    /// Of this session
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// Of this user
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Of this team
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// With this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Cost at least this
    #[arg(long, value_name = "USD")]
    pub(crate) min_cost_usd: Option<String>,
    /// Cost at most this
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost_usd: Option<String>,
}

/// Which page.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Requests at most, 1 to 1000
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u32,
    /// Go on from here: the cursor that the page before ended with
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Which request.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The request's id: its x-request-id
    pub(crate) id: String,
}

/// Which session.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// The session's id, as its requests named it
    pub(crate) id: String,
}

/// What is written out, and where.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// csv, jsonl or focus
    #[arg(long)]
    pub(crate) format: String,
    /// File to write; unset: stdout. One that exists is replaced when the export is whole
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which sums.
#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// route, model, provider, key, rule, policy_version, user, team, session, tag, outcome,
    /// endpoint, cache, service_tier, minute, hour, day; several with commas
    #[arg(long, default_value = "route")]
    pub(crate) group_by: String,
    /// cost, requests, tokens, ttft_p95, tpot_p95, total_p95 (the greatest first), or name
    #[arg(long)]
    pub(crate) order_by: Option<String>,
    /// Only the first so many groups; the total is of all
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<usize>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Read every request for exact percentiles (true), or take sums made before (false); unset: by
    /// their number
    #[arg(long, value_name = "true|false")]
    pub(crate) exact: Option<bool>,
}

/// Runs a ledger command.
pub(crate) async fn run(common: &Common, command: LedgerCommand) -> Result<(), CliError> {
    // What a writer derives (rollups, idle time) needs the books open; all else only the journal.
    let link = match command {
        LedgerCommand::RebuildRollups | LedgerCommand::Idle(_) => {
            Link::open(common, Missing::Refuse).await?
        }
        _ => Link::open_to_read(common).await?,
    };
    match command {
        LedgerCommand::Query(args) => query(common, &link, &args).await,
        LedgerCommand::Show(args) => show(common, &link, &args.id).await,
        LedgerCommand::Summary(args) => summary(common, &link, &args).await,
        LedgerCommand::Reconcile(args) => super::reconcile::run(common, &link, &args).await,
        LedgerCommand::Session(args) => super::session::run(common, &link, &args.id).await,
        LedgerCommand::Export(args) => super::export::run(&link, &args).await,
        LedgerCommand::Idle(args) => super::idle::run(common, &link, &args).await,
        LedgerCommand::Verify => verify(common, &link).await,
        LedgerCommand::RebuildRollups => rebuild(common, &link).await,
    }
}

async fn query(common: &Common, link: &Link, args: &QueryArgs) -> Result<(), CliError> {
    let mut params = params(&args.filter);
    param(&mut params, "limit", Some(&args.limit.to_string()));
    param(&mut params, "cursor", args.cursor.as_deref());
    let page = link.get(&format!("/ledger/requests?{params}")).await?;
    if common.json {
        return output::json(&page);
    }
    output::table(
        rows(&page),
        &[
            ("REQUEST", Align::Left, &|entry| text(entry, "/id")),
            ("ARRIVED", Align::Left, &|entry| text(entry, "/arrived")),
            ("KEY", Align::Left, &|entry| text(entry, "/key")),
            ("ROUTE", Align::Left, &answered_route),
            ("RULE", Align::Left, &|entry| text(entry, "/decision/rule")),
            ("OUTCOME", Align::Left, &|entry| text(entry, "/outcome")),
            ("TOKENS", Align::Right, &|entry| tokens(entry)),
            ("COST USD", Align::Right, &|entry| usd(entry, "/cost_usd")),
            ("TTFT MS", Align::Right, &|entry| ms(entry, "/ttft_us")),
            ("TOTAL MS", Align::Right, &|entry| ms(entry, "/total_us")),
        ],
    )?;
    if let Some(cursor) = page["next_cursor"].as_str() {
        output::note(format!("older ones: --cursor {cursor}"));
    }
    note_lost(&page);
    Ok(())
}

/// The route that answered, or those that were tried.
pub(super) fn answered_route(entry: &Value) -> String {
    let answered = entry["answered_by"].as_u64();
    match answered {
        Some(at) => text(entry, &format!("/attempts/{at}/route")),
        None => {
            let tried = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
            let tried: Vec<String> = tried.iter().map(|attempt| text(attempt, "/route")).collect();
            if tried.is_empty() { "-".to_owned() } else { format!("({})", tried.join(", ")) }
        }
    }
}

/// Prompt and answer tokens of all attempts.
pub(super) fn tokens(entry: &Value) -> String {
    let attempts = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let known: Vec<(u64, u64)> = attempts.iter().filter_map(used).collect();
    if known.is_empty() {
        return "-".to_owned();
    }
    let (prompt, answer) = known.iter().fold((0_u64, 0_u64), |sum, one| {
        (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
    });
    format!("{prompt}+{answer}")
}

fn used(attempt: &Value) -> Option<(u64, u64)> {
    let usage = attempt.get("usage")?;
    Some((of_buckets(usage, &PROMPT), of_buckets(usage, &ANSWER)))
}

async fn show(common: &Common, link: &Link, id: &str) -> Result<(), CliError> {
    let entry = link.get(&format!("/ledger/requests/{}", escaped(id))).await?;
    if common.json {
        return output::json(&entry);
    }
    output::say(described(&entry))?;
    let attempts = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    output::say("\nattempts")?;
    let columns: &[Column<'_>] = &[
        ("ROUTE", Align::Left, &|attempt| text(attempt, "/route")),
        ("MODEL", Align::Left, &|attempt| text(attempt, "/model")),
        ("ROLE", Align::Left, &|attempt| text(attempt, "/role")),
        ("OUTCOME", Align::Left, &|attempt| text(attempt, "/outcome")),
        ("TOKENS", Align::Right, &|attempt| {
            used(attempt).map_or_else(|| "-".to_owned(), |(p, a)| format!("{p}+{a}"))
        }),
        ("GUESSED", Align::Right, &|attempt| guessed(attempt)),
        ("COUNTED", Align::Left, &|attempt| text(attempt, "/usage_source")),
        ("HELD USD", Align::Right, &|attempt| usd(attempt, "/reserved_usd")),
        ("COST USD", Align::Right, &|attempt| usd(attempt, "/cost_usd")),
        ("PRICE", Align::Left, &|attempt| text(attempt, "/price")),
        ("TTFT MS", Align::Right, &|attempt| ms(attempt, "/times/ttft_us")),
        ("GAP P50/P95/MAX MS", Align::Right, &|attempt| {
            ["gap_p50_us", "gap_p95_us", "gap_max_us"]
                .map(|gap| ms(attempt, &format!("/times/{gap}")))
                .join("/")
        }),
    ];
    output::table(attempts, columns)?;
    adjustments(&entry)?;
    output::say(format!("\nwhy\n{}", why(&entry)))
}

/// Corrections of what its attempts cost, the oldest first.
fn adjustments(entry: &Value) -> Result<(), CliError> {
    let made = entry["adjustments"].as_array().map_or(&[][..], Vec::as_slice);
    if made.is_empty() {
        return Ok(());
    }
    output::say("\nadjustments")?;
    output::table(
        made,
        &[
            ("ATTEMPT", Align::Right, &|made| text(made, "/attempt")),
            ("ADJUSTED", Align::Left, &|made| text(made, "/adjusted")),
            ("PRICE BEFORE", Align::Left, &|made| text(made, "/price_before")),
            ("PRICE", Align::Left, &|made| text(made, "/price")),
            ("USD BEFORE", Align::Right, &|made| usd(made, "/cost_before_usd")),
            ("USD", Align::Right, &|made| usd(made, "/cost_usd")),
            ("REASON", Align::Left, &|made| text(made, "/reason")),
        ],
    )
}

/// How many tokens were guessed, and how many of them were right.
fn guessed(attempt: &Value) -> String {
    match attempt["guesses"].as_object() {
        Some(_) => {
            let of = |name: &str| text(attempt, &format!("/guesses/{name}"));
            format!("{} of {}", of("accepted_tokens"), of("drafted_tokens"))
        }
        None => "-".to_owned(),
    }
}

fn described(entry: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _written = writeln!(out, "{name:<10} {value}");
    };
    line("request", text(entry, "/id"));
    line("arrived", text(entry, "/arrived"));
    line("key", text(entry, "/key"));
    line("model", text(entry, "/model_asked"));
    line("outcome", format!("{} (status {})", text(entry, "/outcome"), text(entry, "/status")));
    line("cost", format!("{} USD", usd(entry, "/cost_usd")));
    if entry.get("adjustments").is_some() {
        line("now", format!("{} USD", usd(entry, "/adjusted_cost_usd")));
    }
    line("ttft", format!("{} ms (arrival to first visible token)", ms(entry, "/ttft_us")));
    line("total", format!("{} ms", ms(entry, "/total_us")));
    let stages: Vec<String> = entry["stages"]
        .as_object()
        .map(|stages| {
            let stage = |name: &String| {
                format!(
                    "{} {}",
                    name.trim_end_matches("_us"),
                    ms(entry, &format!("/stages/{name}"))
                )
            };
            stages.keys().map(stage).collect()
        })
        .unwrap_or_default();
    line("stages", format!("{} ms", stages.join(", ")));
    line(
        "decision",
        format!(
            "rule {} of {} {}: {}",
            text(entry, "/decision/rule"),
            text(entry, "/decision/policy"),
            text(entry, "/decision/version"),
            text(entry, "/decision/plan")
        ),
    );
    out.trim_end().to_owned()
}

/// The trace in words.
fn why(entry: &Value) -> String {
    let Some(trace) = entry.get("trace") else {
        return format!("  no trace: {}", text(entry, "/trace_error"));
    };
    super::policy::trace_text(trace)
}

async fn summary(common: &Common, link: &Link, args: &SummaryArgs) -> Result<(), CliError> {
    let mut params = params(&args.filter);
    param(&mut params, "group_by", Some(&args.group_by));
    param(&mut params, "order_by", args.order_by.as_deref());
    param(&mut params, "top", args.top.map(|top| top.to_string()).as_deref());
    param(&mut params, "exact", args.exact.map(|exact| exact.to_string()).as_deref());
    let summary = link.get(&format!("/ledger/summary?{params}")).await?;
    if common.json {
        return output::json(&summary);
    }
    let mut all = rows(&summary).to_vec();
    let groups: Vec<&str> =
        args.group_by.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let mut total = summary["total"].clone();
    if let (Some(first), Some(total)) = (groups.first(), total.as_object_mut()) {
        total.insert((*first).to_owned(), Value::from("all"));
    }
    all.push(total);
    let heads: Vec<String> = groups.iter().map(|name| name.to_uppercase()).collect();
    let names: Vec<Text> = groups.iter().map(|name| named(format!("/{name}"))).collect();
    let mut columns: Vec<Column<'_>> = heads
        .iter()
        .zip(&names)
        .map(|(head, name)| (head.as_str(), Align::Left, name.as_ref() as _))
        .collect();
    let figures: &[Column<'_>] = &[
        ("REQUESTS", Align::Right, &|row| text(row, "/requests")),
        ("PROMPT", Align::Right, &|row| of_buckets(&row["usage"], &PROMPT).to_string()),
        ("ANSWER", Align::Right, &|row| of_buckets(&row["usage"], &ANSWER).to_string()),
        ("COST USD", Align::Right, &|row| known_usd(row, "/cost_usd", "/unknown_cost")),
        ("PER 1K REQUESTS", Align::Right, &|row| usd(row, "/cost_per_1k_requests_usd")),
        ("PER 1M TOKENS", Align::Right, &|row| usd(row, "/cost_per_million_tokens_usd")),
        ("AVOIDED USD", Align::Right, &avoided),
        ("TTFT MS P50/P95/P99", Align::Right, &|row| percentiles(row, "ttft_us", 1_000.0)),
        ("TPOT MS P50/P95/P99", Align::Right, &|row| percentiles(row, "tpot_ns", 1_000_000.0)),
        ("TOTAL MS P50/P95/P99", Align::Right, &|row| percentiles(row, "total_us", 1_000.0)),
    ];
    columns.extend_from_slice(figures);
    output::table(&all, &columns)?;
    let how = match text(&summary, "/percentiles").as_str() {
        "exact" => "percentiles are exact (nearest rank)".to_owned(),
        _ => "percentiles come from sketches and are within 1 % of the value".to_owned(),
    };
    let left_out = summary["groups_left_out"].as_u64().filter(|groups| *groups > 0);
    output::note(match left_out {
        Some(groups) => format!("{groups} more groups; {how}"),
        None => how,
    });
    if let Some(unknown) = summary["total"]["unknown_cost"].as_u64().filter(|count| *count > 0) {
        output::note(format!(
            "{unknown} attempts of unknown cost are in no sum of costs, and where they are there is \
             no cost per request or token"
        ));
    }
    if let Some(time) = summary["dropped_before"].as_str() {
        output::note(format!(
            "requests that ended before {time} are in no sum here: their entries were dropped, and the \
             sums that are kept of them do not tell what was asked"
        ));
    }
    note_lost(&summary);
    Ok(())
}

/// Says what of an answer may be missing, because the journal is damaged.
fn note_lost(answer: &Value) {
    for lost in answer["lost"].as_array().map_or(&[][..], Vec::as_slice) {
        output::note(format!(
            "may be missing here: events {} to {} of {}, which cannot be read: {}",
            text(lost, "/first_seq"),
            text(lost, "/last_seq"),
            text(lost, "/file"),
            text(lost, "/reason")
        ));
    }
}

async fn rebuild(common: &Common, link: &Link) -> Result<(), CliError> {
    output::note("reading the whole ledger");
    let rebuilt = link.ask(Method::POST, "/ledger/rebuild-rollups", None).await?;
    if common.json {
        return output::json(&rebuilt);
    }
    output::say(format!(
        "{} entries, {} rows in {} minutes, hours and days; {} of these were not what they are now",
        text(&rebuilt, "/entries"),
        text(&rebuilt, "/rows"),
        text(&rebuilt, "/spans"),
        text(&rebuilt, "/spans_changed")
    ))
}

/// Buckets of prompt tokens and of answer tokens, as [`policies::Usage`] has them.
const PROMPT: [&str; 6] =
    ["input", "cache_read", "cache_write_5m", "cache_write_1h", "image", "audio"];
const ANSWER: [&str; 3] = ["output", "reasoning", "audio_output"];

/// A column's text in a row.
type Text = Box<dyn Fn(&Value) -> String>;

fn named(pointer: String) -> Text {
    Box::new(move |row| text(row, &pointer))
}

/// What clouds would have cost instead. None known is not the same as nothing.
fn avoided(row: &Value) -> String {
    match usd(row, "/avoided_cost_usd") {
        none if none == "0.00" => "-".to_owned(),
        some => some,
    }
}

/// The tokens in some buckets. A provider's counts may be absurd: their sum stops at the greatest.
fn of_buckets(usage: &Value, buckets: &[&str]) -> u64 {
    let counts = buckets.iter().filter_map(|bucket| usage[*bucket].as_u64());
    counts.fold(0, u64::saturating_add)
}

fn percentiles(row: &Value, field: &str, per_ms: f64) -> String {
    let of = |percentile: &str| {
        row[field][percentile]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |value| format!("{:.1}", value / per_ms))
    };
    format!("{}/{}/{}", of("p50"), of("p95"), of("p99"))
}

async fn verify(common: &Common, link: &Link) -> Result<(), CliError> {
    output::note("reading the whole ledger");
    let report = link.get("/ledger/verify").await?;
    if common.json {
        output::json(&report)?;
    } else {
        output::say(format!(
            "{} events in {} segments, {} entries, {} requests open",
            text(&report, "/events"),
            text(&report, "/segments"),
            text(&report, "/entries"),
            text(&report, "/open_requests")
        ))?;
        for finding in report["findings"].as_array().map_or(&[][..], Vec::as_slice) {
            output::say(format!("event {}: {}", text(finding, "/seq"), text(finding, "/what")))?;
        }
    }
    if report["clean"].as_bool() == Some(true) {
        output::note("the books balance");
        return Ok(());
    }
    let count = report["findings"].as_array().map_or(0, Vec::len);
    Err(CliError::new(Exit::Failed, format!("the books do not balance: {count} findings"))
        .hint("keep the directory as it is, and restore it from a backup elsewhere"))
}

/// `tollgate budgets`
pub(crate) async fn budgets(common: &Common) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    let budgets = link.get("/budgets?of_sessions=true").await?;
    list_budgets(common, &budgets, &budgets)
}

/// A table of budgets, or what was answered.
pub(super) fn list_budgets(
    common: &Common,
    budgets: &Value,
    answered: &Value,
) -> Result<(), CliError> {
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

pub(super) fn params(filter: &FilterArgs) -> String {
    let mut params = String::new();
    let all = [
        ("since", &filter.since),
        ("until", &filter.until),
        ("key", &filter.key),
        ("route", &filter.route),
        ("model", &filter.model),
        ("provider", &filter.provider),
        ("rule", &filter.rule),
        ("policy_version", &filter.policy_version),
        ("outcome", &filter.outcome),
        ("status", &filter.status),
        ("endpoint", &filter.endpoint),
        ("cache", &filter.cache),
        ("session", &filter.session),
        ("user", &filter.user),
        ("team", &filter.team),
        ("tag", &filter.tag),
        ("min_cost_usd", &filter.min_cost_usd),
        ("max_cost_usd", &filter.max_cost_usd),
    ];
    for (name, value) in all {
        param(&mut params, name, value.as_deref());
    }
    params
}

pub(super) fn param(params: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let separator = if params.is_empty() { "" } else { "&" };
        // Writing to a String cannot fail.
        let _written = write!(params, "{separator}{name}={}", escaped(value));
    }
}

/// Percent-encoded for a path or a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
    out
}
