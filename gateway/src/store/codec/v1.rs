//! Version 1 of the events' forms, as the first released program wrote them. Read for ever, never
//! written.
//!
//! **Invariant:** nothing here changes. The types look like today's and are spelled out all the
//! same, because today's go on; enums are shared, because they only ever grow at their end
//! (`tests::numbers_of_variants_never_move`).

use super::{Event, PolicyRecord, whole};
use crate::{
    caller,
    ledger::{
        self, AttemptOutcome, AttemptTimes, Endpoint, KeyId, Outcome, RefusedRow, RequestId, Role,
    },
    timeline::StageTimes,
};
use policies::{
    LeftOut, PicoUsd, PolicyName, PolicyVersion, PriceId, PromptTokens, RouteId, RouteState,
    RuleName, UsageSource,
};
use serde::Deserialize;
use std::{collections::BTreeMap, sync::Arc};

/// Version number in a record's header.
pub(super) const VERSION: u8 = 1;

type Starts = [Option<u64>; 4];

#[derive(Deserialize)]
struct Holds {
    global: Starts,
    key: Starts,
}

#[derive(Deserialize)]
struct Reserved {
    id: RequestId,
    attempt: u16,
    arrived_unix_ms: u64,
    key: KeyId,
    user: Option<String>,
    team: Option<String>,
    session: Option<String>,
    tags: Vec<String>,
    endpoint: Endpoint,
    model_asked: String,
    stream: bool,
    output_cap_asked: u64,
    policy: PolicyName,
    version: PolicyVersion,
    rule: RuleName,
    route: RouteId,
    model: String,
    provider: String,
    role: Role,
    parent: Option<u16>,
    price: Option<PriceId>,
    budgeted: bool,
    worst_money: PicoUsd,
    reserved: PicoUsd,
    reserved_tokens: u64,
    output_cap: u64,
    offset_us: u64,
    holds: Holds,
}

#[derive(Deserialize)]
struct Settled {
    id: RequestId,
    attempt: u16,
    record: Attempt,
}

#[derive(Deserialize)]
struct Usage {
    input: u64,
    cache_read: u64,
    cache_write_5m: u64,
    cache_write_1h: u64,
    output: u64,
    reasoning: u64,
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
    times: Times,
}

#[derive(Deserialize)]
struct Times {
    offset_us: u64,
    wait_us: u64,
    head_us: u64,
    first_token_us: u64,
    stream_us: u64,
    ttft_us: Option<u64>,
    tpot_ns: Option<u64>,
    gap_p50_us: Option<u64>,
    gap_p95_us: Option<u64>,
    gap_max_us: Option<u64>,
    engine_ns: Option<u64>,
}

/// µs of identify, admit, read, decide, attempt, relay, settle.
type Stages = [u64; 7];

#[derive(Deserialize)]
struct Row {
    id: RequestId,
    arrived_unix_ms: u64,
    key: KeyId,
    user: Option<String>,
    team: Option<String>,
    session: Option<String>,
    tags: Vec<String>,
    endpoint: Endpoint,
    model_asked: String,
    stream: bool,
    policy: PolicyName,
    version: PolicyVersion,
    rule: RuleName,
    attempts: Vec<Attempt>,
    answered_by: Option<u16>,
    outcome: Outcome,
    status: Option<u16>,
    cost: Option<PicoUsd>,
    stages: Stages,
    ttft_us: Option<u64>,
    tpot_ns: Option<u64>,
    output_cap_asked: u64,
}

#[derive(Deserialize)]
struct Rest {
    plan: Vec<RouteId>,
    left_out: Vec<LeftOut>,
    facts: Facts,
}

#[derive(Deserialize)]
struct Facts {
    version: u16,
    request: RequestFacts,
    caller: CallerFacts,
    budgets: Vec<BudgetFacts>,
    routes: Vec<RouteFacts>,
    time: TimeFacts,
    draw: u64,
}

#[derive(Deserialize)]
struct RequestFacts {
    model: String,
    pinned: Option<RouteId>,
    named: Vec<RouteId>,
    prompt_tokens: [u64; 3],
    max_output_tokens: u64,
    max_output_tokens_asked: bool,
    choices: u32,
    stream: bool,
    tools: bool,
    images: bool,
    structured: bool,
    logprobs: bool,
    messages: u32,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    session: Option<String>,
}

#[derive(Deserialize)]
struct CallerFacts {
    key: String,
    label: String,
    user: Option<String>,
    team: Option<String>,
}

#[derive(Deserialize)]
struct BudgetFacts {
    id: String,
    hard: bool,
    money: Option<(PicoUsd, PicoUsd)>,
    tokens: Option<(u64, u64)>,
}

#[derive(Deserialize)]
struct RouteFacts {
    id: RouteId,
    local: bool,
    model: String,
    state: RouteState,
    context_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    tools: Option<bool>,
    images: Option<bool>,
    structured: Option<bool>,
    logprobs: Option<bool>,
    free: bool,
    budgeted: bool,
    worst_case: Option<PicoUsd>,
    expected: Option<PicoUsd>,
    queued: u32,
    in_flight: u32,
    ttft_p50_us: Option<u64>,
    ttft_p95_us: Option<u64>,
    failed_permille: Option<u32>,
}

#[derive(Deserialize)]
struct TimeFacts {
    unix_ms: u64,
    minute_of_day: u16,
    weekday: u8,
}

#[derive(Deserialize)]
struct KeyRecord {
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
}

#[derive(Deserialize)]
struct KeyLimits {
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrency: Option<u32>,
}

#[derive(Deserialize)]
struct BudgetSpec {
    window: Window,
    money: Option<PicoUsd>,
    tokens: Option<u64>,
    hard: bool,
}

#[derive(Deserialize)]
enum Window {
    Hour,
    Day,
    Month,
    Total,
}

#[derive(Deserialize)]
struct Refused {
    id: RequestId,
    unix_ms: u64,
    key: Option<KeyId>,
    code: String,
    status: u16,
    rule: Option<RuleName>,
    unwritten: u64,
}

#[derive(Deserialize)]
struct Policy {
    name: PolicyName,
    version: PolicyVersion,
    source: String,
}

/// Reads an event; `None` if version 1 had no such kind.
pub(super) fn decode(kind: u8, payload: &[u8]) -> Result<Option<Event>, postcard::Error> {
    Ok(Some(match kind {
        super::RESERVED => Event::Reserved(Box::new(whole::<Reserved>(payload)?.into())),
        super::SETTLED => Event::Settled(Box::new(whole::<Settled>(payload)?.into())),
        super::ENTRY => Event::Entry(Box::new(row(payload)?.0)),
        super::REFUSED => Event::Refused(whole::<Refused>(payload)?.into()),
        super::KEY => Event::Key(Box::new(whole::<KeyRecord>(payload)?.into())),
        super::POLICY => Event::Policy(whole::<Policy>(payload)?.into()),
        _ => return Ok(None),
    }))
}

/// Reads an entry's row, and the rest of its bytes.
pub(super) fn row(payload: &[u8]) -> Result<(super::Row, &[u8]), postcard::Error> {
    let (row, rest) = postcard::take_from_bytes::<Row>(payload)?;
    Ok((row.into(), rest))
}

/// Reads what follows an entry's row.
pub(super) fn rest(payload: &[u8]) -> Result<super::Rest, postcard::Error> {
    let rest: Rest = whole(payload)?;
    Ok(super::Rest { plan: rest.plan, left_out: rest.left_out, facts: rest.facts.into() })
}

// === to today's forms ===

impl From<Reserved> for super::Reserved {
    fn from(old: Reserved) -> Self {
        let holds = old.holds.of(&old.key);
        Self {
            id: old.id,
            attempt: old.attempt,
            arrived_unix_ms: old.arrived_unix_ms,
            key: old.key,
            user: old.user,
            team: old.team,
            session: old.session,
            tags: old.tags,
            endpoint: old.endpoint,
            model_asked: old.model_asked,
            stream: old.stream,
            output_cap_asked: old.output_cap_asked,
            request_parent: None,
            step: None,
            policy: old.policy,
            version: old.version,
            rule: old.rule,
            route: old.route,
            model: old.model,
            provider: old.provider,
            role: old.role,
            parent: old.parent,
            price: old.price,
            budgeted: old.budgeted,
            worst_money: old.worst_money,
            reserved: old.reserved,
            reserved_tokens: old.reserved_tokens,
            output_cap: old.output_cap,
            offset_us: old.offset_us,
            model_file: None,
            service_tier: None,
            holds,
        }
    }
}

impl Holds {
    fn of(self, key: &KeyId) -> ledger::budgets::Holds {
        use caller::Window::{Day, Hour, Month, Total};
        let starts = |starts: Starts| {
            let named = [Hour, Day, Month, Total].into_iter().zip(starts);
            named.filter_map(|(window, start)| Some((window, start?))).collect::<Vec<_>>()
        };
        let scopes = [
            (ledger::Scope::Global, starts(self.global)),
            (ledger::Scope::Key(key.clone()), starts(self.key)),
        ];
        let held = scopes.into_iter().filter(|(_, starts)| !starts.is_empty()).collect();
        ledger::budgets::Holds { held, ..ledger::budgets::Holds::default() }
    }
}

impl From<Settled> for super::Settled {
    fn from(old: Settled) -> Self {
        Self { id: old.id, attempt: old.attempt, record: old.record.into() }
    }
}

impl From<Usage> for policies::Usage {
    fn from(old: Usage) -> Self {
        Self {
            input: old.input,
            cache_read: old.cache_read,
            cache_write_5m: old.cache_write_5m,
            cache_write_1h: old.cache_write_1h,
            output: old.output,
            reasoning: old.reasoning,
            ..Self::default()
        }
    }
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
            usage: old.usage.map(Into::into),
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
            times: old.times.into(),
            model_file: None,
            service_tier: None,
            finishes: Vec::new(),
            hedge_winner: None,
            retries: 0,
            guesses: None,
        }
    }
}

impl From<Times> for AttemptTimes {
    fn from(old: Times) -> Self {
        Self {
            offset_us: old.offset_us,
            wait_us: old.wait_us,
            head_us: old.head_us,
            first_token_us: old.first_token_us,
            stream_us: old.stream_us,
            ttft_us: old.ttft_us,
            tpot_ns: old.tpot_ns,
            gap_p50_us: old.gap_p50_us,
            gap_p95_us: old.gap_p95_us,
            gap_max_us: old.gap_max_us,
            engine_ns: old.engine_ns,
        }
    }
}

impl From<Row> for super::Row {
    fn from(old: Row) -> Self {
        let [identify_us, admit_us, read_us, decide_us, attempt_us, relay_us, settle_us] =
            old.stages;
        Self {
            id: old.id,
            arrived_unix_ms: old.arrived_unix_ms,
            key: old.key,
            user: old.user,
            team: old.team,
            session: old.session,
            tags: old.tags,
            endpoint: old.endpoint,
            model_asked: old.model_asked,
            stream: old.stream,
            policy: old.policy,
            version: old.version,
            rule: old.rule,
            attempts: old.attempts.into_iter().map(Into::into).collect(),
            answered_by: old.answered_by,
            outcome: old.outcome,
            status: old.status,
            cost: old.cost,
            stages: StageTimes {
                identify_us,
                admit_us,
                read_us,
                decide_us,
                attempt_us,
                relay_us,
                settle_us,
            },
            ttft_us: old.ttft_us,
            tpot_ns: old.tpot_ns,
            output_cap_asked: old.output_cap_asked,
            parent: None,
            step: None,
            notes: ledger::Notes::default(),
        }
    }
}

impl From<Facts> for policies::Facts {
    fn from(old: Facts) -> Self {
        Self {
            version: old.version,
            request: old.request.into(),
            caller: Arc::new(policies::CallerFacts {
                key: old.caller.key,
                label: old.caller.label,
                user: old.caller.user,
                team: old.caller.team,
            }),
            budgets: old.budgets.into_iter().map(Into::into).collect(),
            routes: old.routes.into_iter().map(Into::into).collect(),
            time: policies::TimeFacts {
                unix_ms: old.time.unix_ms,
                minute_of_day: old.time.minute_of_day,
                weekday: old.time.weekday,
            },
            draw: old.draw,
        }
    }
}

impl From<RequestFacts> for policies::RequestFacts {
    fn from(old: RequestFacts) -> Self {
        let [min, likely, max] = old.prompt_tokens;
        Self {
            model: old.model,
            pinned: old.pinned,
            named: old.named,
            prompt_tokens: PromptTokens { min, likely, max },
            max_output_tokens: old.max_output_tokens,
            max_output_tokens_asked: old.max_output_tokens_asked,
            choices: old.choices,
            stream: old.stream,
            tools: old.tools,
            images: old.images,
            structured: old.structured,
            logprobs: old.logprobs,
            messages: old.messages,
            tags: old.tags,
            metadata: old.metadata,
            session: old.session,
        }
    }
}

impl From<BudgetFacts> for policies::BudgetFacts {
    fn from(old: BudgetFacts) -> Self {
        Self { id: old.id, hard: old.hard, money: old.money, tokens: old.tokens }
    }
}

impl From<RouteFacts> for policies::RouteFacts {
    fn from(old: RouteFacts) -> Self {
        Self {
            id: old.id,
            local: old.local,
            model: old.model,
            state: old.state,
            context_tokens: old.context_tokens,
            prompt_tokens: old.prompt_tokens,
            tools: old.tools,
            images: old.images,
            structured: old.structured,
            logprobs: old.logprobs,
            free: old.free,
            budgeted: old.budgeted,
            worst_case: old.worst_case,
            expected: old.expected,
            queued: old.queued,
            in_flight: old.in_flight,
            ttft_p50_us: old.ttft_p50_us,
            ttft_p95_us: old.ttft_p95_us,
            predicted_wait_us: None,
            predicted_ttft_p95_us: None,
            failed_permille: old.failed_permille,
        }
    }
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
            limits: caller::KeyLimits {
                requests_per_minute: old.limits.requests_per_minute,
                tokens_per_minute: old.limits.tokens_per_minute,
                concurrency: old.limits.concurrency,
                request_cost_max: None,
            },
            budgets: old.budgets.into_iter().map(Into::into).collect(),
            may_pin: old.may_pin,
            created_unix_ms: old.created_unix_ms,
            expires_unix_ms: old.expires_unix_ms,
            revoked_unix_ms: old.revoked_unix_ms,
            session_budgets: Vec::new(),
            disabled_unix_ms: None,
            tags: Vec::new(),
            priority: caller::Priority::Normal,
        }
    }
}

impl From<BudgetSpec> for caller::BudgetSpec {
    fn from(old: BudgetSpec) -> Self {
        let window = match old.window {
            Window::Hour => caller::Window::Hour,
            Window::Day => caller::Window::Day,
            Window::Month => caller::Window::Month,
            Window::Total => caller::Window::Total,
        };
        Self {
            window,
            money: old.money,
            tokens: old.tokens,
            hard: old.hard,
            requests: None,
            zone: None,
            turn: None,
        }
    }
}

impl From<Refused> for RefusedRow {
    fn from(old: Refused) -> Self {
        Self {
            id: old.id,
            unix_ms: old.unix_ms,
            key: old.key,
            code: old.code,
            status: old.status,
            rule: old.rule,
            unwritten: old.unwritten,
        }
    }
}

impl From<Policy> for PolicyRecord {
    fn from(old: Policy) -> Self {
        Self { name: old.name, version: old.version, source: old.source }
    }
}
