//! Entries and summaries as the admin API shows them. `docs/ledger.md` explains every field.

use super::times::rfc3339;
use crate::{
    ledger::{
        Adjustment, Adjustments, Attempt, AttemptTimes, CacheUse, Endpoint, Entry, GroupBy,
        GuardAction, Guesses, KeyId, ModelFile, Outcome, Role, SessionNode, SessionTree, Summary,
    },
    openapi::types::{Name, Open, UsageWords, Usd},
    timeline::StageTimes,
};
use policies::{
    Facts, PicoUsd, PolicyName, PolicyVersion, PriceId, RouteId, RuleName, Trace, Usage,
    UsageSource,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Entry")]
pub(super) struct EntryView<'a> {
    id: String,
    arrived: String,
    arrived_unix_ms: u64,
    #[schemars(with = "Name")]
    key: &'a KeyId,
    user: &'a Option<String>,
    team: &'a Option<String>,
    session: &'a Option<String>,
    tags: &'a [String],
    endpoint: Endpoint,
    model_asked: &'a str,
    stream: bool,
    output_cap_asked: u64,
    outcome: Outcome,
    status: Option<u16>,
    answered_by: Option<u16>,
    #[schemars(with = "Option<Usd>")]
    cost_usd: Option<PicoUsd>,
    /// What it costs now, where adjustments changed that and it is known.
    #[schemars(with = "Option<Usd>")]
    adjusted_cost_usd: Option<PicoUsd>,
    total_us: u64,
    ttft_us: Option<u64>,
    tpot_ns: Option<u64>,
    stages: StageTimes,
    decision: DecisionView<'a>,
    attempts: Vec<AttemptView<'a>>,
    parent: Option<String>,
    step: &'a Option<String>,
    cache: CacheUse,
    #[schemars(with = "Option<Usd>")]
    saved_cost_usd: Option<PicoUsd>,
    answer_of: Option<String>,
    idempotent_replay: bool,
    budget_wait_us: u64,
    actions: &'a [GuardAction],
    /// Corrections of what its attempts cost, the oldest first; only of a single entry.
    adjustments: Option<Vec<AdjustmentView>>,
    #[schemars(with = "Option<Open>")]
    trace: Option<Trace>,
    trace_error: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Adjustment")]
struct AdjustmentView {
    attempt: u16,
    #[schemars(with = "Option<Name>")]
    price_before: Option<PriceId>,
    #[schemars(with = "Option<Name>")]
    price: Option<PriceId>,
    #[schemars(with = "Option<Usd>")]
    cost_before_usd: Option<PicoUsd>,
    #[schemars(with = "Option<Usd>")]
    cost_usd: Option<PicoUsd>,
    reason: String,
    adjusted: String,
    adjusted_unix_ms: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DecisionMade")]
struct DecisionView<'a> {
    #[schemars(with = "Name")]
    policy: &'a PolicyName,
    #[schemars(with = "Name")]
    version: &'a PolicyVersion,
    #[schemars(with = "Name")]
    rule: &'a RuleName,
    #[schemars(with = "Vec<Name>")]
    plan: &'a [RouteId],
    left_out: Vec<LeftOutView<'a>>,
    #[schemars(with = "Option<Open>")]
    facts: Option<&'a Facts>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LeftOut")]
struct LeftOutView<'a> {
    #[schemars(with = "Name")]
    route: &'a RouteId,
    reason: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Attempt")]
struct AttemptView<'a> {
    #[schemars(with = "Name")]
    route: &'a RouteId,
    model: &'a str,
    provider: &'a str,
    role: Role,
    parent: Option<u16>,
    outcome: crate::ledger::AttemptOutcome,
    upstream_status: Option<u16>,
    upstream_id: &'a Option<String>,
    #[schemars(with = "Option<UsageWords>")]
    usage: Option<Usage>,
    #[schemars(with = "Option<Name>")]
    usage_source: Option<UsageSource>,
    #[schemars(with = "Option<Name>")]
    price: &'a Option<PriceId>,
    budgeted: bool,
    #[schemars(with = "Usd")]
    reserved_usd: PicoUsd,
    reserved_tokens: u64,
    voided: bool,
    #[schemars(with = "Option<Usd>")]
    cost_usd: Option<PicoUsd>,
    /// What it costs now, where an adjustment changed that and it is known.
    #[schemars(with = "Option<Usd>")]
    adjusted_cost_usd: Option<PicoUsd>,
    #[schemars(with = "Usd")]
    overrun_usd: PicoUsd,
    #[schemars(with = "Option<Usd>")]
    avoided_cost_usd: Option<PicoUsd>,
    output_cap: u64,
    finish: &'a Option<String>,
    finishes: &'a [Option<String>],
    times: AttemptTimes,
    model_file: Option<&'a ModelFile>,
    service_tier: &'a Option<String>,
    hedge_winner: Option<bool>,
    retries: u16,
    guesses: Option<Guesses>,
}

/// An entry of a list: all but the facts and the trace.
pub(super) fn brief<'a>(entry: &'a Entry, adjusted: &Adjustments) -> EntryView<'a> {
    let decision = &entry.decision;
    EntryView {
        id: entry.id.to_string(),
        arrived: rfc3339(entry.arrived_unix_ms),
        arrived_unix_ms: entry.arrived_unix_ms,
        key: &entry.key,
        user: &entry.user,
        team: &entry.team,
        session: &entry.session,
        tags: &entry.tags,
        endpoint: entry.endpoint,
        model_asked: &entry.model_asked,
        stream: entry.stream,
        output_cap_asked: entry.output_cap_asked,
        outcome: entry.outcome,
        status: entry.status,
        answered_by: entry.answered_by,
        cost_usd: entry.cost,
        adjusted_cost_usd: adjusted.of_entry(entry).flatten(),
        total_us: entry.stages.total_us(),
        ttft_us: entry.ttft_us,
        tpot_ns: entry.tpot_ns,
        stages: entry.stages,
        decision: DecisionView {
            policy: &decision.policy,
            version: &decision.version,
            rule: &decision.rule,
            plan: &decision.plan,
            left_out: decision
                .left_out
                .iter()
                .map(|out| LeftOutView { route: &out.route, reason: out.reason.to_string() })
                .collect(),
            facts: None,
        },
        attempts: entry
            .attempts
            .iter()
            .enumerate()
            .map(|(at, of)| attempt(of, adjusted.of(entry.id, at).and_then(|one| one.cost)))
            .collect(),
        parent: entry.parent.map(|id| id.to_string()),
        step: &entry.step,
        cache: entry.notes.cache,
        saved_cost_usd: entry.notes.saved_cost,
        answer_of: entry.notes.answer_of.map(|id| id.to_string()),
        idempotent_replay: entry.notes.idempotent_replay,
        budget_wait_us: entry.notes.budget_wait_us,
        actions: &entry.notes.actions,
        adjustments: None,
        trace: None,
        trace_error: None,
    }
}

/// An entry with the facts and the trace of its decision, and its adjustments.
pub(super) fn whole<'a>(
    entry: &'a Entry,
    trace: Result<Trace, String>,
    adjusted: &Adjustments,
    adjustments: Vec<(u64, Adjustment)>,
) -> EntryView<'a> {
    let mut view = brief(entry, adjusted);
    let made = adjustments.into_iter().map(|(unix_ms, one)| adjustment(unix_ms, one));
    view.adjustments = Some(made.collect()).filter(|made: &Vec<_>| !made.is_empty());
    view.decision.facts = Some(&entry.decision.facts);
    match trace {
        Ok(trace) => view.trace = Some(trace),
        Err(why) => view.trace_error = Some(why),
    }
    view
}

fn adjustment(unix_ms: u64, made: Adjustment) -> AdjustmentView {
    AdjustmentView {
        attempt: made.attempt,
        price_before: made.price_before,
        price: made.price,
        cost_before_usd: made.cost_before,
        cost_usd: made.cost,
        reason: made.reason,
        adjusted: rfc3339(unix_ms),
        adjusted_unix_ms: unix_ms,
    }
}

fn attempt(attempt: &Attempt, adjusted: Option<PicoUsd>) -> AttemptView<'_> {
    AttemptView {
        route: &attempt.route,
        model: &attempt.model,
        provider: &attempt.provider,
        role: attempt.role,
        parent: attempt.parent,
        outcome: attempt.outcome,
        upstream_status: attempt.upstream_status,
        upstream_id: &attempt.upstream_id,
        usage: attempt.usage,
        usage_source: attempt.usage_source,
        price: &attempt.price,
        budgeted: attempt.budgeted,
        reserved_usd: attempt.reserved,
        reserved_tokens: attempt.reserved_tokens,
        voided: attempt.voided,
        cost_usd: attempt.cost,
        adjusted_cost_usd: adjusted,
        overrun_usd: attempt.overrun,
        avoided_cost_usd: attempt.avoided_cost,
        output_cap: attempt.output_cap,
        finish: &attempt.finish,
        finishes: &attempt.finishes,
        times: attempt.times,
        model_file: attempt.model_file.as_deref(),
        service_tier: &attempt.service_tier,
        hedge_winner: attempt.hedge_winner,
        retries: attempt.retries,
        guesses: attempt.guesses,
    }
}

/// A summary: a row for each group with its names beside its sums, and the total.
pub(super) fn summary_view(summary: &Summary, group_by: &[GroupBy]) -> Value {
    let rows: Vec<Value> = summary
        .groups
        .iter()
        .map(|group| {
            let mut row = Map::new();
            for (by, name) in group_by.iter().zip(&group.names) {
                if let Some(column) = json!(by).as_str() {
                    row.insert(column.to_owned(), json!(name));
                }
            }
            row.extend(line(&group.line));
            Value::Object(row)
        })
        .collect();
    json!({
        "object": "list",
        "group_by": group_by,
        "data": rows,
        "groups_left_out": summary.groups_left_out,
        "total": line(&summary.total),
        "percentiles": summary.percentiles,
        "entries_read": summary.entries_read,
        "spans_from_rollups": summary.spans_from_rollups,
        // Absent unless entries of the range were dropped that no rollup stands for.
        "dropped_before": summary.dropped_before_unix_ms.map(rfc3339),
        // Absent unless the journal is damaged.
        "lost": (!summary.lost.is_empty()).then_some(&summary.lost),
    })
}

/// A session: its sums, and its requests in the order of their tree.
pub(super) fn session_view(id: &str, tree: &SessionTree, adjusted: &Adjustments) -> Value {
    let node = |node: &SessionNode| {
        let mut view = json!(brief(&node.entry, adjusted));
        if let Some(fields) = view.as_object_mut() {
            fields.insert("depth".to_owned(), json!(node.depth));
            fields.insert("branch_cost_usd".to_owned(), json!(node.branch_cost));
            fields.insert("branch_unknown_cost".to_owned(), json!(node.branch_unknown));
        }
        view
    };
    let arrived = tree.nodes.iter().map(|node| node.entry.arrived_unix_ms);
    json!({
        "object": "session",
        "id": id,
        "key": tree.key,
        "first_arrived": arrived.clone().min().map(rfc3339),
        "last_arrived": arrived.max().map(rfc3339),
        "total": line(&tree.sums.total),
        "percentiles": tree.sums.percentiles,
        "requests": tree.nodes.iter().map(node).collect::<Vec<_>>(),
        "older_left_out": tree.cut,
        // Absent unless entries were dropped, which may have been of it.
        "dropped_before": tree.sums.dropped_before_unix_ms.map(rfc3339),
    })
}

fn line(line: &crate::ledger::Line) -> Map<String, Value> {
    let mut fields = match json!(line) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let outcomes: Map<String, Value> = line
        .outcomes
        .iter()
        .filter_map(|(outcome, count)| Some((json!(outcome).as_str()?.to_owned(), json!(count))))
        .collect();
    fields.insert("outcomes".to_owned(), Value::Object(outcomes));
    fields
}
