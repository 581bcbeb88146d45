//! Version 2 of the forms of keys and groups, without tags of keys and time zones of budgets, and of
//! attempts in entries and settlements, without guessed tokens. Read for ever, never written. The other
//! kinds are still of version 2.
//!
//! **Invariant:** nothing here changes, as in [`super::v1`].

use super::{Row, Settled};
use crate::{
    caller::{self, KeyLimits, Window},
    ledger::{
        self, AttemptOutcome, AttemptTimes, Endpoint, KeyId, ModelFile, Notes, Outcome, RequestId,
        Role, Scope,
    },
    timeline::StageTimes,
};
use policies::{
    PicoUsd, PolicyName, PolicyVersion, PriceId, RouteId, RuleName, Usage, UsageSource,
};
use serde::Deserialize;
use std::sync::Arc;

/// Version number in a record's header.
pub(super) const VERSION: u8 = 2;

#[derive(Deserialize)]
pub(crate) struct KeyRecord {
    id: KeyId,
    secret_hash: [u8; 32],
    hint: String,
    label: String,
    user: Option<String>,
    team: Option<String>,
    limits: KeyLimits,
    budgets: Vec<BudgetSpec>,
    may_pin: bool,
    created_unix_ms: u64,
    expires_unix_ms: Option<u64>,
    revoked_unix_ms: Option<u64>,
    session_budgets: Vec<BudgetSpec>,
    disabled_unix_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct GroupRecord {
    scope: Scope,
    label: String,
    team: Option<String>,
    limits: KeyLimits,
    budgets: Vec<BudgetSpec>,
    session_budgets: Vec<BudgetSpec>,
    created_unix_ms: u64,
    disabled_unix_ms: Option<u64>,
}

#[derive(Deserialize)]
struct BudgetSpec {
    window: Window,
    money: Option<PicoUsd>,
    tokens: Option<u64>,
    hard: bool,
    requests: Option<u64>,
}

impl From<KeyRecord> for caller::KeyRecord {
    fn from(old: KeyRecord) -> Self {
        Self {
            id: old.id,
            secret_hash: old.secret_hash,
            hint: old.hint,
            label: old.label,
            user: old.user,
            team: old.team,
            limits: old.limits,
            budgets: all(old.budgets),
            may_pin: old.may_pin,
            created_unix_ms: old.created_unix_ms,
            expires_unix_ms: old.expires_unix_ms,
            revoked_unix_ms: old.revoked_unix_ms,
            session_budgets: all(old.session_budgets),
            disabled_unix_ms: old.disabled_unix_ms,
            tags: Vec::new(),
            priority: caller::Priority::Normal,
        }
    }
}

impl From<GroupRecord> for caller::GroupRecord {
    fn from(old: GroupRecord) -> Self {
        Self {
            scope: old.scope,
            label: old.label,
            team: old.team,
            limits: old.limits,
            budgets: all(old.budgets),
            session_budgets: all(old.session_budgets),
            created_unix_ms: old.created_unix_ms,
            disabled_unix_ms: old.disabled_unix_ms,
        }
    }
}

fn all(old: Vec<BudgetSpec>) -> Vec<caller::BudgetSpec> {
    let one = |old: BudgetSpec| caller::BudgetSpec {
        window: old.window,
        money: old.money,
        tokens: old.tokens,
        hard: old.hard,
        requests: old.requests,
        zone: None,
        turn: None,
    };
    old.into_iter().map(one).collect()
}

#[derive(Deserialize)]
struct Attempt {
    route: RouteId,
    model: String,
    provider: String,
    role: Role,
    parent: Option<u16>,
    outcome: AttemptOutcome,
    upstream_status: Option<u16>,
    upstream_id: Option<String>,
    usage: Option<Usage>,
    usage_source: Option<UsageSource>,
    price: Option<PriceId>,
    budgeted: bool,
    reserved: PicoUsd,
    reserved_tokens: u64,
    voided: bool,
    cost: Option<PicoUsd>,
    overrun: PicoUsd,
    avoided_cost: Option<PicoUsd>,
    output_cap: u64,
    finish: Option<String>,
    times: AttemptTimes,
    model_file: Option<Arc<ModelFile>>,
    service_tier: Option<String>,
    finishes: Vec<Option<String>>,
    hedge_winner: Option<bool>,
    retries: u16,
}

impl From<Attempt> for ledger::Attempt {
    fn from(old: Attempt) -> Self {
        Self {
            route: old.route,
            model: old.model,
            provider: old.provider,
            role: old.role,
            parent: old.parent,
            outcome: old.outcome,
            upstream_status: old.upstream_status,
            upstream_id: old.upstream_id,
            usage: old.usage,
            usage_source: old.usage_source,
            price: old.price,
            budgeted: old.budgeted,
            reserved: old.reserved,
            reserved_tokens: old.reserved_tokens,
            voided: old.voided,
            cost: old.cost,
            overrun: old.overrun,
            avoided_cost: old.avoided_cost,
            output_cap: old.output_cap,
            finish: old.finish,
            times: old.times,
            model_file: old.model_file,
            service_tier: old.service_tier,
            finishes: old.finishes,
            hedge_winner: old.hedge_winner,
            retries: old.retries,
            guesses: None,
        }
    }
}

/// Reads the end of an attempt.
pub(super) fn settled(payload: &[u8]) -> Result<Settled, postcard::Error> {
    let (id, attempt, record): (RequestId, u16, Attempt) = super::whole(payload)?;
    Ok(Settled { id, attempt, record: record.into() })
}

/// What stands before a row's attempts, as it is asked, and after them. A tuple is encoded as a struct
/// of the same fields.
type Asked = (
    (RequestId, u64, KeyId, Option<String>, Option<String>, Option<String>),
    (Vec<String>, Endpoint, String, bool),
    (PolicyName, PolicyVersion, RuleName),
);
type Answered = (
    (Option<u16>, Outcome, Option<u16>, Option<PicoUsd>),
    (StageTimes, Option<u64>, Option<u64>, u64),
    (Option<RequestId>, Option<String>, Notes),
);

/// Reads an entry's row, and the rest of its bytes.
pub(super) fn row(payload: &[u8]) -> Result<(Row, &[u8]), postcard::Error> {
    let ((asked, attempts, answered), rest) =
        postcard::take_from_bytes::<(Asked, Vec<Attempt>, Answered)>(payload)?;
    let ((id, arrived_unix_ms, key, user, team, session), request, decided) = asked;
    let (tags, endpoint, model_asked, stream) = request;
    let (policy, version, rule) = decided;
    let ((answered_by, outcome, status, cost), times, others) = answered;
    let (stages, ttft_us, tpot_ns, output_cap_asked) = times;
    let (parent, step, notes) = others;
    let attempts = attempts.into_iter().map(ledger::Attempt::from).collect();
    let row = Row {
        id,
        arrived_unix_ms,
        key,
        user,
        team,
        session,
        tags,
        endpoint,
        model_asked,
        stream,
        policy,
        version,
        rule,
        attempts,
        answered_by,
        outcome,
        status,
        cost,
        stages,
        ttft_us,
        tpot_ns,
        output_cap_asked,
        parent,
        step,
        notes,
    };
    Ok((row, rest))
}
