//! From a checked configuration to a running [`Gateway`], and back: everything is opened in an order
//! that leaves nothing half done, and closed so that nothing is lost.

use crate::{
    admission::Admission,
    cache::{AnswerCache, Idempotency},
    caller::{BudgetSpec, Keys, KeysError},
    clock::Clock,
    config::{Config, Limits, LocalConfig, RouteConfig, RouteSource},
    execute::Hedging,
    guard::Guard,
    idle::IdleMeter,
    ledger::{Books, BooksConfig, OpenError, Recovered, Scope, budget_id},
    policy_watch::{PolicyBox, PolicyLoadError},
    routes::{Route, Routes, Source, cloud::CloudRoute, local::LocalRoute},
    serve::Gateway,
    telemetry::Metrics,
    webhook::Webhook,
    wire::Kept,
};
use local_engine::{EngineConfig, Host, HostConfig, Isolation, LoadError, LoadWhen, Worker};
use policies::Policy;
use std::{sync::Arc, time::Duration};
use tokio_util::task::TaskTracker;

/// Longest time that a child process may take to load a model: large ones come from slow disks.
const CHILD_LOAD_MAX: Duration = Duration::from_secs(30 * 60);
/// By which part of it an engine waits longer for a reader than the server does for its client: the
/// server sees what the client takes, and is to be the one that gives the answer up.
const READER_STALL_MARGIN: u32 = 4;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be opened.
    #[error("the ledger: {0}")]
    Books(#[from] OpenError),
    /// The keys cannot be opened.
    #[error("the keys: {0}")]
    Keys(#[from] KeysError),
    /// The policy is refused.
    #[error("the policy: {0}")]
    Policy(#[from] PolicyLoadError),
    /// A local route's model cannot be loaded.
    #[error("route `{route}`: {source}")]
    Engine {
        /// The route.
        route: String,
        /// Why.
        source: LoadError,
    },
    /// A webhook does not work.
    #[error("webhook `{webhook}`: {reason}")]
    Webhook {
        /// The webhook.
        webhook: String,
        /// Why.
        reason: String,
    },
    /// A cloud route's settings do not work.
    #[error("route `{route}`: {reason}")]
    Cloud {
        /// The route.
        route: String,
        /// Why.
        reason: String,
    },
}

/// Opens everything: the policy first, because it is the cheapest to be wrong, then the ledger,
/// the keys, and the models. Blocks for as long as loading takes.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn start(config: Config, clock: Clock) -> Result<(Arc<Gateway>, Recovered), StartError> {
    let policy = PolicyBox::open(&config, clock.clone())?;
    let (books, recovered) = Books::open(books_config(&config), clock.clone())?;
    let limit = config.limits.failed_auth_per_minute;
    let keys = Keys::open(&config.data_dir, books.keys(), clock.clone(), limit)?;
    keys.install_groups(books.groups());
    let current = policy.current();
    note_policy(&books, &current);
    for said in worth_saying(&config, &of_api(&books)) {
        tracing::warn!("{said}");
    }
    let host = host(&config)?;
    let opened = config.routes.iter().map(|route| open_route(route, &config.limits, host.as_ref()));
    let routes = opened.collect::<Result<Vec<_>, _>>()?;
    load_at_start(&routes)?;
    let metrics = Arc::new(Metrics::new());
    let counting = Arc::clone(&metrics);
    let guard = Arc::new(Guard::new(config.guard.clone()));
    guard.restore(&config.data_dir, &books.notices(), clock.unix_ms());
    let idle = Arc::new(IdleMeter::new(routes.iter()));
    let (watching, time, standing) = (Arc::clone(&guard), clock.clone(), Arc::clone(&idle));
    books.observe(move |entry| {
        counting.ended(entry);
        standing.served(entry);
        crate::serve::served(&watching, entry, time.unix_ms())
    });
    let webhooks = webhooks(&config, &books, &clock)?;
    let gateway = Gateway {
        guard,
        idle,
        admission: Admission::new(&config.limits, &config.model_limits),
        started_unix_ms: clock.unix_ms(),
        cache: AnswerCache::new(config.cache),
        idempotency: Idempotency::new(config.idempotency),
        hedging: Hedging::new(config.hedge),
        metrics,
        webhooks,
        tasks: TaskTracker::new(),
        policy: Arc::new(policy),
        routes: Routes::new(routes),
        host,
        keys,
        books,
        clock,
        kept: config.responses.map(|limits| Arc::new(Kept::new(limits))),
        config,
    };
    Ok((Arc::new(gateway), recovered))
}

/// Budgets of the whole that were set by the API.
fn of_api(books: &Books) -> Vec<BudgetSpec> {
    books.group(&Scope::Global).map(|record| record.budgets).unwrap_or_default()
}

/// What is allowed, and seen only beside the books and the files.
fn worth_saying(config: &Config, of_api: &[BudgetSpec]) -> Vec<String> {
    let twice = config
        .global_budgets
        .iter()
        .filter(|configured| of_api.iter().any(|of_api| of_api.window == configured.window));
    let twice = twice.map(|budget| {
        let id = budget_id(&Scope::Global, budget.window);
        format!(
            "there are two budgets `{id}`, the configuration's and the API's, and both hold; \
             `tollgate budget remove {id}` removes the API's"
        )
    });
    let absent = config.routes.iter().filter_map(|route| match &route.source {
        RouteSource::Local(local) if local.keep.load == LoadWhen::FirstUse => {
            (!local.file.is_file()).then(|| {
                format!(
                    "route `{}` loads its model on first use, and {} is no file",
                    route.id,
                    local.file.display()
                )
            })
        }
        _ => None,
    });
    twice.chain(absent).collect()
}

/// Ends what [`start`] began, once no request is running: models first, the ledger last. Blocks.
pub fn stop(gateway: &Gateway, drain_max: Duration) {
    if let Some(host) = &gateway.host {
        host.shutdown(drain_max);
    }
    gateway.books.close();
}

/// Opens the books and the keys alone, to look into them and to change keys while no server runs:
/// no route can be asked. A policy that cannot be loaded is no obstacle to that.
///
/// # Errors
/// [`StartError`]; nothing is left running then.
pub fn offline(config: Config, clock: Clock) -> Result<Arc<Gateway>, StartError> {
    let policy = PolicyBox::open_or_stand_in(&config, &clock)?;
    let (books, _) = Books::open(books_config(&config), clock.clone())?;
    let limit = config.limits.failed_auth_per_minute;
    let keys = Keys::open(&config.data_dir, books.keys(), clock.clone(), limit)?;
    keys.install_groups(books.groups());
    Ok(Arc::new(Gateway {
        guard: Arc::new(Guard::new(config.guard.clone())),
        idle: Arc::new(IdleMeter::new([].iter())),
        admission: Admission::new(&config.limits, &config.model_limits),
        started_unix_ms: clock.unix_ms(),
        cache: AnswerCache::new(config.cache),
        idempotency: Idempotency::new(config.idempotency),
        hedging: Hedging::new(config.hedge),
        metrics: Arc::new(Metrics::new()),
        webhooks: Vec::new(),
        tasks: TaskTracker::new(),
        policy: Arc::new(policy),
        routes: Routes::default(),
        host: None,
        keys,
        books,
        clock,
        kept: None,
        config,
    }))
}

/// Writes down which policy comes into force, unless it is the one that was when the last start ended.
/// Blocking.
fn note_policy(books: &Books, policy: &Policy) {
    let (name, version) = (policy.name(), policy.version());
    let last = books.policies().pop();
    let lasts = last.is_some_and(|note| note.name == *name && note.version == *version);
    if lasts && matches!(books.policy_source(version), Ok(Some(_))) {
        return;
    }
    if let Err(error) = books.put_policy(name, version, policy.source()).blocking() {
        tracing::error!(%error, "the policy's text could not be recorded");
    }
}

/// Who is told of events, each where it was left. Blocking.
fn webhooks(
    config: &Config,
    books: &Books,
    clock: &Clock,
) -> Result<Vec<Arc<Webhook>>, StartError> {
    let webhook = |config: &crate::config::WebhookConfig| {
        let failed = |reason| StartError::Webhook { webhook: config.name.clone(), reason };
        let told = books.begin_telling(&config.name).map_err(|error| failed(error.to_string()))?;
        Webhook::new(config.clone(), told, clock.clone()).map(Arc::new).map_err(failed)
    };
    config.webhooks.iter().map(webhook).collect()
}

fn books_config(config: &Config) -> BooksConfig {
    BooksConfig {
        dir: config.data_dir.clone(),
        durability: config.ledger.durability,
        low_water_bytes: config.ledger.low_water_bytes,
        ballast_bytes: config.ledger.ballast_bytes,
        segment_entries_max: config.ledger.segment_entries_max,
        time_zone: config.time_zone.clone(),
        global_budgets: config.global_budgets.clone(),
        global_tokens_per_minute: config.limits.tokens_per_minute,
        model_limits: config.model_limits.clone(),
    }
}

/// The device's host, where there is a local route.
fn host(config: &Config) -> Result<Option<Host>, StartError> {
    let is_local = |route: &&RouteConfig| matches!(route.source, RouteSource::Local(_));
    let Some(route) = config.routes.iter().find(is_local) else { return Ok(None) };
    Host::start(&HostConfig { memory_max: config.engine_memory_max })
        .map(Some)
        .map_err(|source| StartError::Engine { route: route.id.to_string(), source })
}

/// Waits for the models that are to be there from the start. They are loaded one after another.
fn load_at_start(routes: &[Arc<Route>]) -> Result<(), StartError> {
    for route in routes {
        let Source::Local(local) = &route.source else { continue };
        local
            .load_at_start()
            .map_err(|source| StartError::Engine { route: route.id().to_string(), source })?;
    }
    Ok(())
}

fn open_route(
    config: &RouteConfig,
    limits: &Limits,
    host: Option<&Host>,
) -> Result<Arc<Route>, StartError> {
    let route = || config.id.to_string();
    let config = config.clone();
    let source = match &config.source {
        RouteSource::Local(local) => {
            let failed = |source| StartError::Engine { route: route(), source };
            let host = host.ok_or_else(|| failed(LoadError::Start("no device".to_owned())))?;
            let engine = engine_config(local, limits).map_err(failed)?;
            let kept = host.keep(config.id.as_str(), engine, local.keep.clone());
            Source::Local(Box::new(LocalRoute::new(kept.map_err(failed)?, local.clone())))
        }
        RouteSource::Cloud(cloud) => Source::Cloud(Box::new(
            CloudRoute::new(cloud.clone())
                .map_err(|reason| StartError::Cloud { route: route(), reason })?,
        )),
    };
    Ok(Arc::new(Route::new(config, source)))
}

fn engine_config(local: &LocalConfig, limits: &Limits) -> Result<EngineConfig, LoadError> {
    let worker = if local.isolated || local.verify_load { Some(worker(local)?) } else { None };
    Ok(EngineConfig {
        verify_load: worker.clone().filter(|_| local.verify_load),
        isolation: match worker {
            Some(worker) if local.isolated => Isolation::Process(worker),
            _ => Isolation::InProcess,
        },
        context_tokens: local.context_tokens,
        slots: local.slots,
        queue_max: local.queue_max,
        queue_wait_max: local.queue_wait_max,
        reader_stall_max: limits
            .write_stall_max
            .saturating_add(limits.write_stall_max / READER_STALL_MARGIN),
        threads: local.threads,
        prefill_chunk: local.prefill_chunk,
        gap_target: local.gap_target,
        kv_layout: local.kv_layout,
        prefix_sharing: local.prefix_sharing,
        prefixes_max: local.prefixes_max,
        overcommit_percent: local.overcommit_percent,
        swap_bytes_max: local.swap_bytes_max,
        checkpoint_bytes_max: local.checkpoint_bytes_max,
        speculation: local.speculation.clone(),
        pooling: local.pooling,
        gpu_layers: local.gpu_layers,
        gpu_device: local.gpu_device.clone(),
        mmap: local.mmap,
        drill: local.drill.clone(),
        ..EngineConfig::new(local.file.clone())
    })
}

/// This program, as it computes for another of its kind.
fn worker(local: &LocalConfig) -> Result<Worker, LoadError> {
    let program = std::env::current_exe().map_err(|error| LoadError::Start(error.to_string()))?;
    let args = vec![crate::cli::ENGINE_WORKER.to_owned()];
    Ok(Worker { program, args, load_max: CHILD_LOAD_MAX, stuck_after: local.stuck_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Surroundings};
    use std::path::Path;

    fn config(text: &str) -> Config {
        let environment = Environment::Spared;
        let surroundings = Surroundings { lookup: &|_| None, environment, now_s: 0 };
        Config::parse(text, Path::new("/tollgate.toml"), surroundings).unwrap()
    }

    #[test]
    fn two_budgets_of_one_id_and_a_model_that_is_not_there_are_worth_a_word() {
        let text = "[[budget]]\nwindow = \"week\"\nmoney_usd = \"7\"\n[routes.edge]\nkind = \"local\"\n\
                    file = \"none.gguf\"\nusd_per_hour = \"1\"\n";
        let first_use = config(&format!("{text}load = \"first_use\"\n"));
        let (of_week, mut of_day) =
            (first_use.global_budgets.clone(), first_use.global_budgets.clone());
        of_day[0].window = "day".parse().unwrap();
        assert_eq!(worth_saying(&config(text), &of_day), Vec::<String>::new());
        let said = worth_saying(&first_use, &of_week);
        assert!(said[0].starts_with("there are two budgets `global/week`"), "{said:?}");
        assert!(said[1].ends_with("/none.gguf is no file"), "{said:?}");
        assert_eq!(said.len(), 2);
    }

    #[test]
    fn an_engine_waits_longer_for_a_reader_than_the_server_does() {
        let text = "[server]\nwrite_stall_timeout_ms = 90000\n[routes.edge]\nkind = \"local\"\n\
                    file = \"m.gguf\"\nusd_per_hour = \"1\"\n";
        let config = config(text);
        let RouteSource::Local(local) = &config.routes[0].source else { panic!("a local one") };
        let engine = engine_config(local, &config.limits).unwrap();
        assert!(engine.reader_stall_max > Duration::from_secs(90), "{engine:?}");
    }
}
