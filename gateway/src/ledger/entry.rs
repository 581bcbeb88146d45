//! The immutable record of one request and of every attempt it made. `docs/ledger.md` explains
//! every column.
//!
//! These types are what the journal stores (see `store::codec`): a change of meaning or order
//! needs a new schema version there. Wire forms for the admin API are made from them in `admin/`.

use super::{accounts::Amount, adjusted::Place};
use crate::{timeline::StageTimes, wire::EngineUse};
use policies::{
    Facts, LeftOut, PicoUsd, PolicyName, PolicyVersion, PriceId, RouteId, RuleName, Usage,
    UsageSource,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Time-ordered id of a request (UUIDv7), also sent as `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub uuid::Uuid);

/// Id of a key: the public part of its record, never the secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub Arc<str>);

/// One request, as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Id, time-ordered.
    pub id: RequestId,
    /// When it arrived, milliseconds since the Unix epoch.
    pub arrived_unix_ms: u64,
    /// The key that asked.
    pub key: KeyId,
    /// The key's user and team at the time.
    pub user: Option<String>,
    /// See `user`.
    pub team: Option<String>,
    /// Session named by the request.
    pub session: Option<String>,
    /// Tags of the request.
    pub tags: Vec<String>,
    /// The endpoint, such as `/v1/chat/completions`.
    pub endpoint: Endpoint,
    /// The `model` the caller wrote.
    pub model_asked: String,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// How the decision came about.
    pub decision: DecisionRecord,
    /// Every attempt, in the order in which they started.
    pub attempts: Vec<Attempt>,
    /// Index in `attempts` of the one whose answer the caller got.
    pub answered_by: Option<u16>,
    /// How the request ended for the caller.
    pub outcome: Outcome,
    /// HTTP status the caller saw; `None` if it left before one was sent.
    pub status: Option<u16>,
    /// Exact sum of the attempts' costs; `None` if any attempt's cost is unknown.
    pub cost: Option<PicoUsd>,
    /// Adjacent stages; they sum to the request's time.
    pub stages: StageTimes,
    /// Client's TTFT: arrival to the first visible token handed to the socket, microseconds.
    pub ttft_us: Option<u64>,
    /// Client's TPOT in nanoseconds: (last visible token - first) / (output tokens - 1); `None`
    /// below two visible tokens or for an unstreamed answer.
    pub tpot_ns: Option<u64>,
    /// The output cap the caller asked for, or the configured default.
    pub output_cap_asked: u64,
    /// The request that caused this one, where the caller named it: the tree of a session.
    pub parent: Option<RequestId>,
    /// The caller's name for the step of its run that this request belongs to.
    pub step: Option<String>,
    /// What happened on the way: cache, replay, waiting for budgets, the abuse guard.
    pub notes: Notes,
}

/// What happened to a request beside its attempts. Kept up to date on the open entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// How the answer cache was used.
    pub cache: CacheUse,
    /// Answers from the cache, coalesced or replayed: what the request whose answer this is had
    /// cost, and this one therefore did not; `None` when nothing was saved or the cost is unknown.
    pub saved_cost: Option<PicoUsd>,
    /// The request whose answer was given again (a cache hit, a coalesced or a replayed one).
    pub answer_of: Option<RequestId>,
    /// The answer was replayed for an `Idempotency-Key` seen before.
    pub idempotent_replay: bool,
    /// Waiting for budgets to settle, microseconds; part of the stage in which it happened.
    pub budget_wait_us: u64,
    /// What the abuse guard did, in order.
    pub actions: Vec<GuardAction>,
}

/// How the answer cache was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheUse {
    /// Not looked at.
    #[default]
    Bypass,
    /// Looked at in vain.
    Miss,
    /// Answered from it.
    Hit,
    /// Answered by a like request that was already running.
    Coalesced,
}

/// One thing the abuse guard did to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardAction {
    /// What was noticed, such as `spend_velocity`.
    pub signal: String,
    /// What was done.
    pub effect: GuardEffect,
    /// What was seen, in words and numbers, without anything of the prompt.
    pub seen: String,
}

/// What the abuse guard does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardEffect {
    /// Written down, nothing else.
    Logged,
    /// Slowed down.
    Throttled,
    /// Kept to local routes.
    LocalOnly,
    /// Turned away for a time.
    Blocked,
}

/// Which endpoint served the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/completions`.
    Completions,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/messages`.
    Messages,
}

/// The decision, with the facts it was made from: enough to explain and to replay it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The policy.
    pub policy: PolicyName,
    /// Hash of its bytes.
    pub version: PolicyVersion,
    /// The rule that matched.
    pub rule: RuleName,
    /// The planned routes, in order.
    pub plan: Vec<RouteId>,
    /// The other routes and why.
    pub left_out: Vec<LeftOut>,
    /// What the policy knew.
    pub facts: Facts,
}

/// One try of one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The route.
    pub route: RouteId,
    /// The model asked of it, by the provider's name.
    pub model: String,
    /// The provider (`local`, or the configured provider's name).
    pub provider: String,
    /// Why this attempt was made.
    pub role: Role,
    /// Index of the attempt that led to this one.
    pub parent: Option<u16>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Status of the provider's answer, where there was one.
    pub upstream_status: Option<u16>,
    /// The provider's own id of the answer, where it gave one.
    pub upstream_id: Option<String>,
    /// What it used; `None` when nobody knows.
    pub usage: Option<Usage>,
    /// Who counted.
    pub usage_source: Option<UsageSource>,
    /// The price row; `None` when the price is unknown.
    pub price: Option<PriceId>,
    /// Whether its cost counts against money budgets (not for a free or an unbudgeted route).
    pub budgeted: bool,
    /// What was held on the money budgets while it ran; 0 where it does not count against them.
    pub reserved: PicoUsd,
    /// Tokens held on the token budgets and the tokens-per-minute limits while it ran.
    pub reserved_tokens: u64,
    /// Nothing is owed: nothing was sent, or the provider answered with an error status.
    pub voided: bool,
    /// What it cost; `None` when unknown, never 0 for unknown.
    pub cost: Option<PicoUsd>,
    /// Cost above what was held (a provider billing above the bound it was sent).
    pub overrun: PicoUsd,
    /// Local attempts: what the cheapest allowed cloud route would have cost.
    pub avoided_cost: Option<PicoUsd>,
    /// The output cap sent to the route.
    pub output_cap: u64,
    /// Finish reason as the caller saw it (`stop`, `length`, …).
    pub finish: Option<String>,
    /// Times of this attempt.
    pub times: AttemptTimes,
    /// Local attempts: the file that answered.
    pub model_file: Option<Arc<ModelFile>>,
    /// The service tier that the provider says it served, such as `flex`.
    pub service_tier: Option<String>,
    /// Finish reason of each choice, in the order of the choices; empty where only `finish` is
    /// known.
    pub finishes: Vec<Option<String>>,
    /// Of attempts that ran at the same time: whether this one's answer was taken.
    pub hedge_winner: Option<bool>,
    /// Always 0: a route that is asked again is an attempt of its own, of the role `Retry`.
    pub retries: u16,
    /// Local attempts: how guessing tokens went; `None` where none was guessed.
    pub guesses: Option<Guesses>,
}

/// Tokens of a local answer that were guessed before they were computed (speculative decoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Guesses {
    /// Tokens proposed.
    pub drafted_tokens: u64,
    /// Those of them that the model drew.
    pub accepted_tokens: u64,
}

/// The model file behind a local answer: with the version of the program, what makes it repeatable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelFile {
    /// SHA-256 of the file, 64 hex digits.
    pub sha256: String,
    /// Its quantisation, such as `Q4_1`.
    pub quantisation: String,
    /// Hash of the chat template that was applied.
    pub template_hash: String,
}

/// Times of one attempt, in microseconds unless the name says otherwise. The first four parts are
/// adjacent and sum to the attempt's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptTimes {
    /// Request's arrival to the start of this attempt.
    pub offset_us: u64,
    /// Waiting for a place: the route's pool, and the durable commit of the reservation.
    pub wait_us: u64,
    /// Request sent to the answer's head (local: time in the engine's queue).
    pub head_us: u64,
    /// Head to the first visible token.
    pub first_token_us: u64,
    /// First visible token to the end.
    pub stream_us: u64,
    /// TTFT: request sent to the first non-empty output token.
    pub ttft_us: Option<u64>,
    /// TPOT in nanoseconds: (end - first token) / (output tokens - 1); `None` below two tokens or
    /// unstreamed.
    pub tpot_ns: Option<u64>,
    /// Gaps between visible pieces: inter-token for the local engine, inter-chunk for a cloud.
    pub gap_p50_us: Option<u64>,
    /// See `gap_p50_us`.
    pub gap_p95_us: Option<u64>,
    /// See `gap_p50_us`.
    pub gap_max_us: Option<u64>,
    /// Engine time attributed to this attempt (local routes), nanoseconds.
    pub engine_ns: Option<u64>,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// First of the plan.
    Primary,
    /// A later route of the plan, because its parent gave no answer.
    Fallback,
    /// The same route again.
    Retry,
    /// Beside its parent, because that one was slow.
    Hedge,
    /// After its parent, because that one's answer was not good enough.
    Cascade,
    /// Beside the answer, to compare; nobody gets it.
    Shadow,
}

/// How the request ended for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A whole answer.
    Completed,
    /// The caller left before the end.
    ClientGone,
    /// The stream broke after its first byte.
    Broken,
    /// Every attempt failed: an error was answered.
    Failed,
    /// The request is wrong: a provider said so, or its rule took the local engine too much.
    Rejected,
    /// Money or tokens ran out between attempts.
    Short,
    /// The process died while it ran.
    Crashed,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// A whole answer.
    Completed,
    /// Ended by us: no longer wanted, out of time or money, its rule too dear, its model exchanged.
    Cancelled,
    /// No connection, no place in the route's queue, or no engine any more: nothing was sent.
    NotSent,
    /// The provider answered with an error status: nothing is owed.
    ErrorStatus,
    /// Sent, and no first token in time.
    FirstTokenTimeout,
    /// Silent between tokens for too long.
    IdleTimeout,
    /// Took longer than the route's total timeout.
    TotalTimeout,
    /// The connection broke, or the answer was not what the protocol says.
    Broken,
    /// The engine failed.
    EngineFault,
    /// The process died while it ran.
    CrashedUnknown,
}

/// A request that was turned away before any route was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Its id.
    pub id: RequestId,
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The key, where it was known.
    pub key: Option<KeyId>,
    /// The error code the caller saw, such as `rate_limit_exceeded`.
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// The policy's rule behind it, if there is one.
    pub rule: Option<RuleName>,
    /// Like refusals counted but not written since the last row of this key, code and rule.
    pub unwritten: u64,
}

/// A correction of what one attempt cost, appended later: entries are never rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// The request.
    pub id: RequestId,
    /// Which of its attempts.
    pub attempt: u16,
    /// The price row it was rated with before, and the one it is rated with now.
    pub price_before: Option<PriceId>,
    /// See `price_before`.
    pub price: Option<PriceId>,
    /// What it cost before this adjustment, and what it costs now; `None`: unknown.
    pub cost_before: Option<PicoUsd>,
    /// See `cost_before`.
    pub cost: Option<PicoUsd>,
    /// Why, in the operator's words.
    pub reason: String,
    /// When the request ended (its commit), milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// Where the attempt went, and who asked: sums without the entries are grouped by it.
    pub place: Place,
}

impl Attempt {
    /// Writes down what the engine in this process says it took.
    pub(crate) fn took_of_engine(&mut self, engine: &EngineUse) {
        self.times.engine_ns = Some(engine.ns);
        self.guesses = (engine.drafted > 0).then_some(Guesses {
            drafted_tokens: engine.drafted,
            accepted_tokens: engine.accepted,
        });
    }

    /// What the budgets it was held on are charged with: its cost, or what was held where the cost
    /// is unknown (never zero); nothing where nothing is owed or it does not count.
    pub(crate) fn charge(&self) -> Amount {
        if self.voided {
            return Amount::default();
        }
        Amount {
            money: if self.budgeted { self.cost.unwrap_or(self.reserved) } else { PicoUsd::ZERO },
            tokens: self.usage.map_or(self.reserved_tokens, |usage| usage.total()),
            requests: 0,
        }
    }
}

/// Longest word of a provider that is written down, in bytes: ids, reasons, codes.
const WORD_BYTES_MAX: usize = 256;

/// A provider's word as it is written down: providers say what they like, and a record has a limit.
#[must_use]
pub fn word(said: &str) -> String {
    said[..said.floor_char_boundary(WORD_BYTES_MAX)].to_owned()
}

impl Entry {
    /// Exact sum of the attempts' costs; `None` if any is unknown.
    pub(crate) fn sum(attempts: &[Attempt]) -> Option<PicoUsd> {
        attempts.iter().try_fold(PicoUsd::ZERO, |sum, attempt| sum.add(attempt.cost?).ok())
    }
}

impl RequestId {
    /// When it was made, milliseconds since the Unix epoch: the first 48 bits of a UUIDv7.
    #[must_use]
    pub fn unix_ms(&self) -> Option<u64> {
        let version = self.0.get_version_num() == 7;
        version.then(|| u64::try_from(self.0.as_u128() >> 80).unwrap_or(0))
    }

    /// As it is written: `req_` and 32 hex digits.
    pub(crate) fn text(self) -> [u8; 36] {
        let mut text = *b"req_00000000000000000000000000000000";
        self.0.simple().encode_lower(&mut text[4..]);
        text
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl std::str::FromStr for RequestId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::try_parse(text.strip_prefix("req_").unwrap_or(text)).map(Self)
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
