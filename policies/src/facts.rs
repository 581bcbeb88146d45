//! Everything a policy may know about a request. Adding a field here is the only way to give
//! policies a new sense.
//!
//! Facts are recorded with every entry, so that a policy can be replayed on past traffic. All
//! numbers are integers with their unit in the name; what is not known is `None`, never a default.

use crate::PicoUsd;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Version of the recorded form of [`Facts`]. Raise it when a field changes its meaning.
pub const FACTS_VERSION: u16 = 1;

/// Name of a route: a way to get an answer, such as `edge` or `cloud-small`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouteId(pub Arc<str>);

/// What is known when the decision is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`FACTS_VERSION`] when these were recorded.
    pub version: u16,
    /// The request itself.
    pub request: RequestFacts,
    /// Who asks.
    pub caller: Arc<CallerFacts>,
    /// Every budget that applies to this caller, in the order global, team, user, key.
    pub budgets: Vec<BudgetFacts>,
    /// Every configured route, in the order of the configuration.
    pub routes: Vec<RouteFacts>,
    /// When.
    pub time: TimeFacts,
    /// A uniformly random number drawn for this request, for weighted choices.
    pub draw: u64,
}

/// The request as policies see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// The `model` the caller wrote.
    pub model: String,
    /// The route the caller pinned by writing its name as `model` (its key permits pinning).
    pub pinned: Option<RouteId>,
    /// The routes that serve `model` under that name: a configured alias such as a cloud model's
    /// own name. Empty for a policy alias such as `auto`.
    pub named: Vec<RouteId>,
    /// How long the prompt is.
    pub prompt_tokens: PromptTokens,
    /// The cap on answer tokens per choice that will be sent; always set.
    pub max_output_tokens: u64,
    /// Whether the caller asked for that cap. If not it is the configured default, and an attempt
    /// lowers it to what is left of the route's context.
    pub max_output_tokens_asked: bool,
    /// Choices asked for (`n`).
    pub choices: u32,
    /// Whether the caller asked for a stream.
    pub stream: bool,
    /// Whether tools (or legacy functions) are offered to the model.
    pub tools: bool,
    /// Whether a message has an image part.
    pub images: bool,
    /// Whether a structured answer is asked for (`response_format` other than text).
    pub structured: bool,
    /// Whether log probabilities are asked for.
    pub logprobs: bool,
    /// Messages in the conversation.
    pub messages: u32,
    /// Tags of the request (`x-tollgate-tags`).
    pub tags: Vec<String>,
    /// `metadata` of the body: string values only.
    pub metadata: BTreeMap<String, String>,
    /// Session (agent run) of the request, if it named one.
    pub session: Option<String>,
}

/// How many tokens the prompt has, as far as that is known without the tokenizer of the model that
/// will answer. Equal numbers where a tokenizer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokens {
    /// No fewer than this: what leaves a route out for its context.
    pub min: u64,
    /// What is usual for so much text: what rules about long prompts look at.
    pub likely: u64,
    /// No more than this: what is reserved.
    pub max: u64,
}

/// The caller as policies see it: what the operator set for the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerFacts {
    /// Id of the key (not the secret).
    pub key: String,
    /// Label of the key.
    pub label: String,
    /// User the operator set.
    pub user: Option<String>,
    /// Team the operator set.
    pub team: Option<String>,
}

/// One budget's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetFacts {
    /// Id of the budget.
    pub id: String,
    /// Whether it refuses (`true`) or only warns.
    pub hard: bool,
    /// Money limit and what is neither settled nor reserved, if it limits money.
    pub money: Option<(PicoUsd, PicoUsd)>,
    /// Token limit and what is neither settled nor reserved, if it limits tokens.
    pub tokens: Option<(u64, u64)>,
}

/// A route's live state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFacts {
    /// Its name.
    pub id: RouteId,
    /// Whether it answers inside this process: a request on it opens no outbound connection.
    pub local: bool,
    /// The model behind it, by the provider's name.
    pub model: String,
    /// Whether it can take a request now.
    pub state: RouteState,
    /// Longest prompt plus answer, in tokens, if known.
    pub context_tokens: Option<u64>,
    /// The prompt's tokens by this route's own tokenizer, where they were counted before deciding.
    pub prompt_tokens: Option<u64>,
    /// Whether it can serve tools, images, structured answers and log probabilities; `None` where
    /// nobody said, which does not exclude it.
    pub tools: Option<bool>,
    /// See `tools`.
    pub images: Option<bool>,
    /// See `tools`.
    pub structured: Option<bool>,
    /// See `tools`.
    pub logprobs: Option<bool>,
    /// Whether the price is free in every case.
    pub free: bool,
    /// Whether its cost counts against money budgets.
    pub budgeted: bool,
    /// Worst-case price of this request here, or the maximum that is configured in its place; `None`
    /// when neither is known.
    pub worst_case: Option<PicoUsd>,
    /// Expected price of this request here (its prompt, and the route's usual answer length up to
    /// the cap); `None` when the price is unknown.
    pub expected: Option<PicoUsd>,
    /// Requests waiting for a slot.
    pub queued: u32,
    /// Requests being answered.
    pub in_flight: u32,
    /// Median TTFT of recent attempts in microseconds; `None` before enough were seen.
    pub ttft_p50_us: Option<u64>,
    /// 95th percentile of TTFT of recent attempts in microseconds.
    pub ttft_p95_us: Option<u64>,
    /// How long this request would wait in the route's queue, by what is running and waiting there,
    /// in microseconds; `None` where nobody can say, as for a cloud.
    pub predicted_wait_us: Option<u64>,
    /// Within this its first token would come in 95 of 100 cases, in microseconds: the expected wait
    /// and the reading of its prompt, stretched by how far such expectations were off lately.
    pub predicted_ttft_p95_us: Option<u64>,
    /// Failed attempts among recent ones, in thousandths, upstream faults only.
    pub failed_permille: Option<u32>,
}

/// Whether a route can take a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// Yes.
    Ready,
    /// Its queue or pool is full.
    Busy,
    /// It is being loaded, or its key is missing, or its model could not be loaded, or it is left alone
    /// after failures, or this caller may not be sent there.
    Unavailable,
}

/// When the request arrived. Policies have no clock of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeFacts {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Minute of the day, 0 to 1439, in the configured time zone.
    pub minute_of_day: u16,
    /// Day of the week, Monday 1 to Sunday 7, in the configured time zone.
    pub weekday: u8,
}

/// Bytes of the longest tokens in public vocabularies (runs of spaces): no tokenizer makes fewer
/// tokens than the bytes divided by this.
const LONGEST_TOKEN_BYTES: u64 = 128;
/// Bytes of a usual token of English prose and code.
const USUAL_TOKEN_BYTES: u64 = 4;

impl PromptTokens {
    /// Counted by the tokenizer of the model that will answer.
    #[must_use]
    pub const fn exactly(tokens: u64) -> Self {
        Self { min: tokens, likely: tokens, max: tokens }
    }

    /// From the bytes of the prompt's text and the most tokens that the chat template can add: no
    /// tokenizer makes more tokens than bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64, template_tokens: u64) -> Self {
        Self {
            min: bytes.div_ceil(LONGEST_TOKEN_BYTES),
            likely: bytes.div_ceil(USUAL_TOKEN_BYTES).saturating_add(template_tokens),
            max: bytes.saturating_add(template_tokens),
        }
    }
}

impl RouteFacts {
    /// A route that is ready, of which nothing else is known: no price, no limits, no times.
    #[must_use]
    pub fn ready(name: &str, local: bool) -> Self {
        Self::of(RouteId::new(name), name.to_owned(), local)
    }

    /// The same of a route whose model has a name of its own.
    #[must_use]
    pub const fn of(id: RouteId, model: String, local: bool) -> Self {
        Self {
            id,
            local,
            model,
            state: RouteState::Ready,
            context_tokens: None,
            prompt_tokens: None,
            tools: None,
            images: None,
            structured: None,
            logprobs: None,
            free: false,
            budgeted: true,
            worst_case: None,
            expected: None,
            queued: 0,
            in_flight: 0,
            ttft_p50_us: None,
            ttft_p95_us: None,
            predicted_wait_us: None,
            predicted_ttft_p95_us: None,
            failed_permille: None,
        }
    }

    /// Whether its price is known. A maximum that stands in its place is none: from it follows what to
    /// reserve, and no expected price.
    #[must_use]
    pub const fn price_known(&self) -> bool {
        self.expected.is_some()
    }
}

impl RouteId {
    /// A route name from text.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
