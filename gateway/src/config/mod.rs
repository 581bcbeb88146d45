//! The configuration in two stages: as written (`tollgate.toml`, unknown keys refused with the
//! line) and as checked and resolved, which is all the program sees.

mod cache;
mod check;
mod document;
mod error;
mod listeners;
mod models;
mod price;
mod route_facts;
pub mod shipped;
mod survive;
#[cfg(test)]
mod tests;
mod webhook;
mod written;
mod written_routes;

use crate::{caller::BudgetSpec, clock::Clock, providers::Kind, wire::KeptLimits};
pub use cache::{CacheConfig, CacheMode, IdempotencyConfig};
pub use error::ConfigError;
use error::FromEnv;
pub use listeners::TlsConfig;
pub use models::ModelLimits;
use policies::{PicoUsd, PriceList, Pricing, RouteId, RoutePrice};
use secrecy::SecretString;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
pub use survive::{AttemptsConfig, BreakerConfig, HealthConfig, HedgeConfig, RetryConfig};
pub use webhook::WebhookConfig;

/// Everything the gateway needs to run, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Directory of the journal, the index and the keys.
    pub data_dir: PathBuf,
    /// Time zone of calendar windows and of policies' time facts.
    pub time_zone: jiff::tz::TimeZone,
    /// Global limits.
    pub limits: Limits,
    /// How the ledger is kept.
    pub ledger: LedgerConfig,
    /// The abuse guard.
    pub guard: crate::guard::Settings,
    /// Whether `/metrics` answers without the admin key.
    pub metrics_public: bool,
    /// Origins whose pages may ask `/v1`; `*` is any.
    pub cors_origins: Vec<String>,
    /// When a silent stream says that it lives.
    pub keep_alive: KeepAliveConfig,
    /// Limits of the answers kept for `previous_response_id`; `None` keeps none.
    pub responses: Option<KeptLimits>,
    /// Limits of single models over all callers.
    pub model_limits: Vec<ModelLimits>,
    /// Budgets over everything.
    pub global_budgets: Vec<BudgetSpec>,
    /// Most memory the local models may take together, in bytes by estimate; `None` is no limit.
    pub engine_memory_max: Option<u64>,
    /// The policy in force.
    pub policy: PolicyConfig,
    /// The routes, in order.
    pub routes: Vec<RouteConfig>,
    /// The shipped price list with the operator's own rows.
    pub prices: PriceList,
    /// What one request's attempts are bounded by.
    pub attempts: AttemptsConfig,
    /// What hedges are bounded by.
    pub hedge: HedgeConfig,
    /// TLS; `None`: connections are in clear.
    pub tls: Option<TlsConfig>,
    /// The admin plane's own listener; `None`: it is served beside the data plane.
    pub admin_listen: Option<SocketAddr>,
    /// How answers are kept for like requests.
    pub cache: CacheConfig,
    /// How answers are kept for repeated ones.
    pub idempotency: IdempotencyConfig,
    /// Who is told of events.
    pub webhooks: Vec<WebhookConfig>,
    /// What is allowed and worth saying at start, such as an unknown price.
    pub warnings: Vec<String>,
}

/// When a silent stream says that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveConfig {
    /// After how long a silence; `None`: never.
    pub every: Option<Duration>,
    /// Whether that may be before the first token: the head then leaves before a route has answered.
    pub early: bool,
}

/// Global limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Longest wait for the whole request body.
    pub body_read_max: Duration,
    /// Longest wait for a request's whole head; a connection that is slower is closed.
    pub header_read_max: Duration,
    /// How long a connection stays open on which no request runs.
    pub idle_max: Duration,
    /// Longest wait of an answer for a client that reads nothing of it; its connection is closed.
    pub write_stall_max: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// At shutdown, longest wait for running answers.
    pub drain_max: Duration,
    /// Output cap of a request that names none, in tokens.
    pub output_tokens_default: u64,
    /// Requests per minute over all keys; `None` is no limit.
    pub requests_per_minute: Option<u32>,
    /// Tokens per minute over all keys; `None` is no limit.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight over all keys.
    pub in_flight_max: usize,
    /// Bytes of the bodies of all requests that run.
    pub bodies_bytes_max: usize,
    /// Failed authentications per minute from one address.
    pub failed_auth_per_minute: u32,
    /// Longest wait of a request for a budget that running requests hold; zero refuses at once.
    pub budget_wait_max: Duration,
}

/// How the ledger is kept.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// What an answer waits for.
    pub durability: Durability,
    /// Paid work stops when the disk has less than this left.
    pub low_water_bytes: u64,
    /// Bytes of a file that is given up when the disk is full; 0 for none.
    pub ballast_bytes: u64,
    /// Days for which entries are kept; `None`: for ever.
    pub keep_days: Option<u32>,
    /// Form in which every day (UTC) that is over is written to `exports/`.
    pub daily_export: Option<DailyExport>,
    /// Entries after which a segment of the journal is sealed.
    pub segment_entries_max: u32,
    /// HTTP status of a spent budget: 429 or 402.
    pub budget_status: u16,
}

/// Form of the file of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DailyExport {
    /// A row for each attempt.
    Csv,
    /// A request a line.
    Jsonl,
    /// FOCUS 1.2.
    Focus,
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A paid request leaves after its reservation is committed, and the last byte to the client
    /// after its entry is.
    Strict,
    /// Nothing waits; a crash loses at most one commit.
    Grouped,
}

/// The policy in force.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Where it is.
    pub source: PolicySource,
    /// Names of `model` that leave the choice to the policy, such as `auto`.
    pub aliases: Vec<String>,
}

/// Where the policy in force is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// A file, watched for changes.
    File(PathBuf),
    /// One of [`shipped::policy_names`].
    Shipped(&'static str),
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name.
    pub id: RouteId,
    /// Other names of `model` that mean this route.
    pub aliases: Vec<String>,
    /// Its price, now and later.
    pub price: Pricing,
    /// For an unknown price: reserve this much per attempt (`None`: a cloud route is left out, and a
    /// local one holds nothing).
    pub unknown_price_max: Option<PicoUsd>,
    /// Whether its cost counts against money budgets.
    pub budgeted: bool,
    /// Longest prompt plus answer in tokens, if known.
    pub context_tokens: Option<u64>,
    /// What it can serve; `None` where nobody said.
    pub can: Capabilities,
    /// How it is asked again after a fault that may pass.
    pub retry: RetryConfig,
    /// When it is left alone.
    pub breaker: BreakerConfig,
    /// Active health checks; `None`: traffic alone tells.
    pub health: Option<HealthConfig>,
    /// Where its answers come from.
    pub source: RouteSource,
}

/// What follows from a price that nobody knows, and the key that would say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpriced {
    /// What is done.
    pub so: String,
    /// The key.
    pub set: &'static str,
}

impl RouteConfig {
    /// Whether it answers in this process.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.source, RouteSource::Local(_))
    }

    /// What follows from its price where that is not known at a second of the Unix epoch.
    #[must_use]
    pub fn unpriced(&self, now_s: u64) -> Option<Unpriced> {
        if !matches!(self.price.at(now_s), RoutePrice::Unknown) {
            return None;
        }
        let set = if self.is_local() { "`usd_per_hour`" } else { "`price`" };
        let so = match self.unknown_price_max {
            Some(amount) => format!("each attempt reserves {amount} USD"),
            None if self.is_local() => "its entries carry no cost".to_owned(),
            None => "policies leave it out".to_owned(),
        };
        Some(Unpriced { so, set })
    }
}

/// What a route can serve; `None` where nobody said, which excludes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Tools.
    pub tools: Option<bool>,
    /// Image parts.
    pub images: Option<bool>,
    /// `response_format`.
    pub structured: Option<bool>,
    /// Log probabilities.
    pub logprobs: Option<bool>,
}

/// Where a route's answers come from.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// The model in this process.
    Local(LocalConfig),
    /// A provider.
    Cloud(CloudConfig),
}

/// The model in this process.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The GGUF file.
    pub file: PathBuf,
    /// The model's name in answers and in the ledger.
    pub model: String,
    /// Tokens the KV cache holds, over all slots.
    pub context_tokens: u32,
    /// Requests decoded together.
    pub slots: u32,
    /// Requests that may wait for a slot.
    pub queue_max: usize,
    /// Longest wait for a slot.
    pub queue_wait_max: Duration,
    /// Threads of the engine; `None`: one less than there are cores, at least one.
    pub threads: Option<u32>,
    /// Most prompt tokens read in one step while other requests decode.
    pub prefill_chunk: Option<u32>,
    /// By how much reading should lengthen such a step at most; `None`: as `prefill_chunk` has it.
    pub gap_target: Option<Duration>,
    /// The layout of the KV cache.
    pub kv_layout: local_engine::KvLayout,
    /// Who may go on from whose cached prefix.
    pub prefix_sharing: local_engine::PrefixSharing,
    /// Prefixes kept beside those of running requests.
    pub prefixes_max: u32,
    /// KV cells promised, in percent of those there are, 100 to 1000.
    pub overcommit_percent: u32,
    /// Bytes that cells of requests outside the cache may take.
    pub swap_bytes_max: usize,
    /// Bytes that checkpoints of a model with a sliding window may take.
    pub checkpoint_bytes_max: usize,
    /// Whether tokens are guessed before they are computed.
    pub speculation: local_engine::Speculation,
    /// How token vectors become one; as the file says, where not named.
    pub pooling: Option<local_engine::Pooling>,
    /// Layers offloaded to a GPU; `None` is as many as fit.
    pub gpu_layers: Option<u32>,
    /// The only GPU to use, by its backend's name for it; all, if none is named.
    pub gpu_device: Option<String>,
    /// When the model is loaded, unloaded and waited for.
    pub keep: local_engine::Keep,
    /// Whether it computes in a child process.
    pub isolated: bool,
    /// After how long without a sign of life its child process is ended and started anew.
    pub stuck_after: Duration,
    /// Whether each file is loaded in a child process first.
    pub verify_load: bool,
    /// Whether the weights are mapped from the file, and not read into memory.
    pub mmap: bool,
    /// A fault to rehearse.
    pub drill: Option<local_engine::Drill>,
    /// Engine time that is set aside at first for one prompt token.
    pub prefill_per_token_max: Duration,
    /// Engine time that is set aside at first for one generated token.
    pub decode_per_token_max: Duration,
}

/// A provider.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// The provider's name in the ledger.
    pub provider: String,
    /// Up to and with `/v1`, without a trailing slash.
    pub base_url: String,
    /// Its key; `None` sends no `Authorization`.
    pub api_key: Option<SecretString>,
    /// Whether its provider wants a key and there is none: it is asked nothing.
    pub lacks_key: bool,
    /// The model's name there.
    pub model: String,
    /// Sent with every request.
    pub headers: Vec<(String, SecretString)>,
    /// Requests in flight to it, which is the size of its connection pool.
    pub in_flight_max: usize,
    /// Longest wait for a place among them.
    pub pool_wait_max: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait from the request sent to the first token (unstreamed: the whole answer is
    /// bounded by `total_timeout` alone).
    pub first_token_timeout: Duration,
    /// Longest silence between chunks.
    pub idle_timeout: Duration,
    /// Longest attempt.
    pub total_timeout: Duration,
    /// The kind of provider.
    pub kind: Kind,
    /// Azure: the version of its API, in whose address the deployment stands; `None` for its newer
    /// API without one.
    pub api_version: Option<String>,
    /// Fields of requests that are left out.
    pub drop_fields: Vec<String>,
    /// Whether it understands `max_completion_tokens` (OpenAI) or only `max_tokens`.
    pub cap_field: CapField,
    /// Whether its answers may hide reasoning: what went silent, was left or reports no usage is then
    /// booked with the whole output cap.
    pub reasoning: bool,
}

/// The field in which a provider takes the output cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapField {
    /// `max_completion_tokens`.
    MaxCompletionTokens,
    /// `max_tokens`.
    MaxTokens,
}

/// What a missing or empty environment variable means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// An error: this configuration is going to be served.
    Needed,
    /// An empty value: only the directory, the policy or the prices are of interest, as for
    /// `tollgate ledger`.
    Spared,
}

/// What a configuration is read with, apart from its text.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it borrows a function")]
pub struct Surroundings<'a> {
    /// Answers `${env.NAME}`.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// What an empty answer means.
    pub environment: Environment,
    /// The second of the Unix epoch for which it is said whether a price is known.
    pub now_s: u64,
}

impl Config {
    /// Reads and checks a file. Relative paths in it start from its own directory.
    ///
    /// # Errors
    /// What is wrong, with the line and the key.
    pub fn load(path: &Path, environment: Environment, clock: &Clock) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "; `tollgate init` writes one",
                _ => "",
            };
            ConfigError::whole(path, format!("cannot be read: {error}{hint}"))
        })?;
        let lookup = |name: &str| std::env::var(name).ok();
        let now_s = clock.unix_ms() / 1000;
        Self::parse(&text, path, Surroundings { lookup: &lookup, environment, now_s })
    }

    /// Checks a text. `path` is named in errors, and relative paths start from its directory.
    ///
    /// # Errors
    /// What is wrong, with the line and the key.
    pub fn parse(
        text: &str,
        path: &Path,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, ConfigError> {
        let base = path.parent().unwrap_or(Path::new(""));
        let mut from_env = FromEnv::default();
        document::read(text, surroundings.lookup, surroundings.environment, &mut from_env)
            .and_then(|document| check::check(document, base, surroundings, &from_env))
            .map_err(|finding| ConfigError::place(&from_env.unsaid(finding), text, path))
    }
}
