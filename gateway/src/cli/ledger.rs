//! `tollgate ledger`: what happened and what it cost.

use super::{
    CliError, Common, Exit,
    address::param,
    entry::{self, ANSWER, PROMPT, answered_route, of_buckets, tokens},
    link::{Link, Missing},
    output::{self, Align, Column, known_usd, ms, rows, text, usd},
};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

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
    /// Copy the ledger to another directory, or bring the copy there up to date, and check it; the server
    /// may run meanwhile
    Backup(super::backup::BackupArgs),
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
    /// With this tag, without regard to case
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
    /// Whose it is: the key's id, where several keys have a session of this name
    #[arg(long)]
    pub(crate) key: Option<String>,
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
    /// Read every request for exact percentiles (true; refused of too many), or take sums made before
    /// (false); unset: by their number
    #[arg(long, value_name = "true|false")]
    pub(crate) exact: Option<bool>,
}

/// Runs a ledger command.
pub(crate) async fn run(common: &Common, command: LedgerCommand) -> Result<(), CliError> {
    if let LedgerCommand::Backup(args) = &command {
        return super::backup::run(common, args);
    }
    // What a writer derives (rollups, idle time) needs the books open; all else only the journal.
    let link = match command {
        LedgerCommand::RebuildRollups | LedgerCommand::Idle(_) => {
            Link::open(common, Missing::Refuse).await?
        }
        _ => Link::open_to_read(common).await?,
    };
    match command {
        LedgerCommand::Query(args) => query(common, &link, &args).await,
        LedgerCommand::Show(args) => entry::show(common, &link, &args.id).await,
        LedgerCommand::Summary(args) => summary(common, &link, &args).await,
        LedgerCommand::Reconcile(args) => super::reconcile::run(common, &link, &args).await,
        LedgerCommand::Session(args) => super::session::run(common, &link, &args).await,
        LedgerCommand::Export(args) => super::export::run(&link, &args).await,
        LedgerCommand::Idle(args) => super::idle::run(common, &link, &args).await,
        LedgerCommand::Verify => verify(common, &link).await,
        // It takes the directory itself.
        LedgerCommand::Backup(_) => Ok(()),
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
    note_dropped(&page);
    note_lost(&page);
    Ok(())
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
    note_gaps(&summary);
    Ok(())
}

/// Says what is in no sum of a summary.
pub(super) fn note_gaps(summary: &Value) {
    if let Some(time) = summary["dropped_before"].as_str() {
        output::note(format!(
            "requests that ended before {time} are in no sum here: their entries were dropped, and the \
             sums that are kept of them do not tell what was asked"
        ));
    }
    note_lost(summary);
}

/// Says which requests that were asked for are there no more.
pub(super) fn note_dropped(answer: &Value) {
    if let Some(time) = answer["dropped_before"].as_str() {
        output::note(format!(
            "requests that ended before {time} are not here: their entries were dropped"
        ));
    }
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
        tell(&report)?;
    }
    balanced(&report)
}

/// What a check of the ledger found.
pub(super) fn tell(report: &Value) -> Result<(), CliError> {
    output::say(format!(
        "{} events in {} segments, {} entries, {} requests open",
        text(report, "/events"),
        text(report, "/segments"),
        text(report, "/entries"),
        text(report, "/open_requests")
    ))?;
    for finding in report["findings"].as_array().map_or(&[][..], Vec::as_slice) {
        output::say(format!("event {}: {}", text(finding, "/seq"), text(finding, "/what")))?;
    }
    Ok(())
}

/// Fails where a check found anything.
pub(super) fn balanced(report: &Value) -> Result<(), CliError> {
    let count = report["findings"].as_array().map_or(0, Vec::len);
    if count == 0 {
        output::note("the books balance");
        return Ok(());
    }
    Err(CliError::new(Exit::Failed, format!("the books do not balance: {count} findings")).hint(
        "a damaged segment heals when a good copy is put in its place with the server stopped; \
             otherwise keep the directory as it is: docs/ledger.md",
    ))
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
