//! `tollgate serve`: opens everything, serves until a signal, closes everything.

use super::{CliError, Common, link::ServerFile, output};
use crate::{
    caller::{FIRST_KEY_FILE, NewKey, Secret, private_dir, read_secret, write_secret},
    clock::Clock,
    config::{Config, Environment, PolicySource},
    descriptors,
    listen::{self, Listening, Stop},
    routes::health,
    serve::{Front, Gateway, Planes},
    start::{self, StartError},
    telemetry::{LogFormat, start_logging},
    tls::Tls,
};
use local_engine::LoadError;
use std::{fmt::Write as _, future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for what runs beside the requests, once it was told to end: a file on a disk that
/// does not answer must not keep the program from stopping.
const BACKGROUND_MAX: Duration = Duration::from_secs(10);

/// Serve requests until SIGTERM or SIGINT; SIGHUP reads the policy again.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Print the first key and a curl line that uses it
    #[arg(long)]
    pub(crate) hello: bool,
    /// The form of log lines
    #[arg(long, value_enum, default_value_t, env = "TOLLGATE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
}

/// Serves.
pub(crate) fn run(common: &Common, args: &ServeArgs) -> Result<(), CliError> {
    start_logging(args.log_format);
    let clock = Clock::system();
    let mut config = Config::load(&common.config, Environment::Needed, &clock)?;
    if let Some(dir) = &common.data_dir {
        config.data_dir.clone_from(dir);
    }
    let too_few = descriptors::too_few(descriptors::raise(), &config);
    for warning in config.warnings.iter().chain(&too_few) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(serve(config, clock, args.hello));
    match ended {
        Ok(Ended::Starting) => runtime.shutdown_background(),
        _ => runtime.shutdown_timeout(BACKGROUND_MAX),
    }
    ended.map(|_| ())
}

/// When it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Before it served.
    Starting,
    /// After it had served.
    Served,
}

async fn serve(config: Config, clock: Clock, hello: bool) -> Result<Ended, CliError> {
    let stop = stop_signal()?;
    // From the first listener on SIGHUP no longer ends the process; the policy's file is looked at
    // once more after loading, for a signal or a change in between.
    let _hangup = signal(SignalKind::hangup()).ok();
    let limits = Listening {
        connections_max: config.limits.connections_max,
        header_read_max: config.limits.header_read_max,
        idle_max: config.limits.idle_max,
        write_stall_max: config.limits.write_stall_max,
        drain_max: config.limits.drain_max,
    };
    // Before the models are loaded: a port that is taken is known at once.
    let (listener, address) = bind(config.listen, "[server]").await?;

    let admin = match config.admin_listen {
        None => None,
        Some(at) => Some(bind(at, "[admin]").await?),
    };
    let tls = config.tls.clone().map(Tls::load).transpose();
    let tls = tls.map_err(|error| CliError::failed(format!("[tls] {error}")))?;

    let gateway = tokio::select! {
        opened = blocking(move || open(config, clock)) => opened??,
        // Models may take minutes. Nobody was answered yet, and the books stand a death at any time.
        () = stop.asked.cancelled() => return Ok(Ended::Starting),
    };
    let background = TaskTracker::new();
    let ended = CancellationToken::new();
    look_after(&gateway, &background, &ended);
    gateway.policy.reload(&gateway.books, false).await;
    // On loopback the admin plane is in clear.
    let clear = admin.as_ref().is_some_and(|(_, at)| at.ip().is_loopback());
    let admin_tls = tls.clone().filter(|_| !clear);
    // Where the command line asks.
    let asked_at = admin.as_ref().map_or(address, |(_, admin)| *admin);
    let server_file = note(&gateway, asked_at, admin_tls.as_deref()).await?;
    if let Err(error) = output::say(banner(&gateway, address, hello)?) {
        tracing::warn!(%error, "the start could not be announced");
    }
    tracing::info!(%address, "listening");
    if let Some((_, admin)) = &admin {
        tracing::info!(address = %admin, "the admin plane has an address of its own");
    }

    reach_out(&gateway, &background, &ended);
    if let Some(tls) = &tls {
        let noted = server_file.clone().filter(|_| admin_tls.is_some());
        background.spawn(keep_certificates(Arc::clone(tls), noted, ended.child_token()));
    }
    let data =
        Front::new(Arc::clone(&gateway), if admin.is_some() { Planes::Data } else { Planes::Both });
    let serving = listen::serve(listener, data, limits, stop.clone(), tls.clone());
    match admin {
        None => serving.await,
        Some((listener, _)) => {
            let front = Front::new(Arc::clone(&gateway), Planes::Admin);
            tokio::join!(serving, listen::serve(listener, front, limits, stop, admin_tls));
        }
    }

    tracing::info!("no connection is open any more; closing the books");
    ended.cancel();
    background.close();
    if tokio::time::timeout(BACKGROUND_MAX, background.wait()).await.is_err() {
        tracing::warn!("what runs beside the requests does not end; going on without it");
    }
    // What still runs for nobody is cut like a client's answer, and settled as it stands.
    gateway.cache.stop();
    gateway.idempotency.stop();
    gateway.tasks.close();
    gateway.tasks.wait().await;
    let drain_max = limits.drain_max;
    blocking(move || {
        start::stop(&gateway, drain_max);
        drop(server_file);
    })
    .await?;
    tracing::info!("stopped");
    Ok(Ended::Served)
}

/// What keeps the gateway itself current.
fn look_after(gateway: &Arc<Gateway>, background: &TaskTracker, ended: &CancellationToken) {
    let policy = Arc::clone(&gateway.policy);
    background.spawn(policy.keep_current(gateway.books.clone(), ended.child_token()));
    background.spawn(crate::guard::keep(Arc::clone(gateway), ended.child_token()));
    background.spawn(crate::upkeep::run(Arc::clone(gateway), ended.child_token()));
    background.spawn(crate::idle::run(Arc::clone(gateway), ended.child_token()));
}

/// What asks or tells others: the routes' health checks, and webhooks.
fn reach_out(gateway: &Arc<Gateway>, background: &TaskTracker, ended: &CancellationToken) {
    for route in gateway.routes.iter() {
        background.spawn(health::watch(Arc::clone(route), ended.child_token()));
    }
    for webhook in &gateway.webhooks {
        let telling = Arc::clone(webhook).run(gateway.books.clone(), ended.child_token());
        background.spawn(telling);
    }
}

async fn bind(at: SocketAddr, section: &str) -> Result<(TcpListener, SocketAddr), CliError> {
    let listener = TcpListener::bind(at).await.map_err(|error| {
        CliError::failed(format!("cannot listen on {at}: {error}"))
            .hint(format!("another server may be running there; change `listen` in {section}"))
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| CliError::failed(format!("no local address: {error}")))?;
    Ok((listener, address))
}

/// Notes in the data directory where the command line asks and whom it meets there; on a full disk
/// requests are served without that.
async fn note(
    gateway: &Arc<Gateway>,
    address: SocketAddr,
    tls: Option<&Tls>,
) -> Result<Option<Arc<ServerFile>>, CliError> {
    let (gateway, certificate) = (Arc::clone(gateway), tls.map(Tls::fingerprint));
    let write =
        move || ServerFile::write(&gateway.config.data_dir, address, certificate, &gateway.clock);
    let noted = blocking(write).await?.inspect_err(|error| {
        tracing::warn!(%error, "commands find this server by --server alone");
    });
    Ok(noted.ok().map(Arc::new))
}

/// Reads the certificates again at each SIGHUP, until `ended`, and notes which is shown now.
async fn keep_certificates(
    tls: Arc<Tls>,
    noted: Option<Arc<ServerFile>>,
    ended: CancellationToken,
) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while let Some(Some(())) = ended.run_until_cancelled(hangup.recv()).await {
        let (tls, noted) = (Arc::clone(&tls), noted.clone());
        let renew = move || {
            tls.reload()?;
            noted.map_or(Ok(()), |noted| {
                noted.renewed(tls.fingerprint()).map_err(|error| format!("server.json: {error}"))
            })
        };
        match blocking(renew).await {
            Ok(Ok(())) => tracing::info!("SIGHUP: the certificates have been read again"),
            Ok(Err(error)) => tracing::error!(%error, "the certificates could not be renewed"),
            Err(_) => tracing::error!("the certificates stay as they are"),
        }
    }
}

/// Everything that blocks: the directory, the ledger, the keys, the models, the first key.
fn open(config: Config, clock: Clock) -> Result<Arc<Gateway>, CliError> {
    let dir = config.data_dir.clone();
    private_dir(&dir)
        .map_err(|error| CliError::failed(format!("data_dir {}: {error}", dir.display())))?;
    let (gateway, recovered) = start::start(config, clock).map_err(|error| not_started(&error))?;
    if recovered.crashed_requests > 0 || recovered.torn_bytes > 0 {
        tracing::warn!(
            crashed_requests = recovered.crashed_requests,
            torn_bytes = recovered.torn_bytes,
            "the last run did not end in order: what was running has been settled"
        );
    }
    for (segment, damage) in &recovered.damaged {
        tracing::error!(
            segment = %segment.display(),
            %damage,
            "a segment of the ledger is damaged: `tollgate ledger verify` names what is lost, the \
             rest is served"
        );
    }
    for lost in &recovered.lost {
        tracing::error!(%lost, "events are lost that the index does not know");
    }
    for missed in &recovered.uncounted {
        tracing::error!(
            first = missed.first_seq,
            last = missed.last_seq,
            "what these events spent is in no balance: budgets say so until `tollgate budget \
             correct` books it"
        );
    }
    if let Some(aside) = &recovered.index_set_aside {
        tracing::warn!(
            set_aside = %aside.display(),
            "the index was damaged and has been rebuilt from the journal"
        );
    }
    tracing::info!(
        dir = %dir.display(),
        replayed_events = recovered.replayed_events,
        "the books are open"
    );
    if gateway.keys.count() == 0 {
        create_first_key(&gateway)?;
    }
    Ok(gateway)
}

fn not_started(error: &StartError) -> CliError {
    let hint = match error {
        StartError::Engine { source: LoadError::Unreadable { .. }, .. } => Some(
            "`file` in its route names the model; `make model` of the sources fetches the default",
        ),
        StartError::Engine { source: LoadError::Model { .. }, .. } => {
            Some("`file` in its route names another model")
        }
        StartError::Policy(_) => Some("`tollgate policy check FILE` tries a policy out"),
        _ => None,
    };
    let said = CliError::failed(error.to_string());
    match hint {
        Some(hint) => said.hint(hint),
        None => said,
    }
}

/// A newcomer's key. Its file comes first: without the record it opens nothing, and the next start
/// replaces it.
fn create_first_key(gateway: &Gateway) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("the first key cannot be created: {error}"))
    };
    let new = NewKey { label: "first key".to_owned(), may_pin: true, ..NewKey::default() };
    let (record, secret) = gateway.keys.make(new).map_err(|error| failed(&error))?;
    write_secret(&gateway.config.data_dir, FIRST_KEY_FILE, &secret)
        .map_err(|error| failed(&error))?;
    gateway.books.put_key(record.clone()).blocking().map_err(|error| failed(&error))?;
    gateway.keys.install(record);
    Ok(())
}

/// What an operator or a newcomer wants to know first.
fn banner(gateway: &Gateway, address: SocketAddr, hello: bool) -> Result<String, CliError> {
    let config = &gateway.config;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let dir = dir.display();
    let policy = gateway.policy.current();
    let source = match gateway.policy.source() {
        PolicySource::Shipped(_) => "shipped".to_owned(),
        PolicySource::File(path) => path.display().to_string(),
    };
    let routes: Vec<String> = gateway
        .routes
        .iter()
        .map(|route| format!("{} ({}, {})", route.id(), route.provider(), route.model()))
        .collect();
    let mut text = format!("tollgate {} listening on {scheme}://{address}\n", version());
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "  {name:<8} {value}");
    };
    line("routes", &routes.join(", "));
    line("policy", &format!("{} {} ({source})", policy.name(), policy.version()));
    line("ledger", &format!("{dir}/journal  (tollgate ledger query)"));
    let first = first_key(gateway)?;
    let of_first = first.as_ref().map_or_else(String::new, |_| format!("{dir}/{FIRST_KEY_FILE}, "));
    line("keys", &format!("{of_first}{dir}/admin.key  (tollgate key create)"));
    if hello && let Some(secret) = first {
        let secret = secret.reveal();
        line("key", secret);
        line(
            "try",
            &format!(
                "curl {scheme}://{address}/v1/chat/completions -H 'Authorization: Bearer {secret}' \
                 -H 'Content-Type: application/json' -d '{{\"model\":\"auto\",\"messages\":\
                 [{{\"role\":\"user\",\"content\":\"Say hello.\"}}]}}'"
            ),
        );
    }
    Ok(text.trim_end().to_owned())
}

fn first_key(gateway: &Gateway) -> Result<Option<Secret>, CliError> {
    read_secret(&gateway.config.data_dir, FIRST_KEY_FILE)
        .map_err(|error| CliError::failed(format!("{FIRST_KEY_FILE}: {error}")))
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Asked by SIGTERM or SIGINT, hurried by another one.
fn stop_signal() -> Result<Stop, CliError> {
    let listen = |kind| {
        signal(kind).map_err(|error| CliError::failed(format!("signals cannot be heard: {error}")))
    };
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = Stop::default();
    let heard = stop.clone();
    detached(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        tracing::info!("{}: finishing what runs", next().await);
        heard.asked.cancel();
        tracing::info!("{} once more: finishing nothing", next().await);
        heard.hurried.cancel();
    });
    Ok(stop)
}

#[expect(clippy::disallowed_methods, reason = "it waits for a signal and holds nothing to settle")]
fn detached(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|died| CliError::failed(format!("a thread died: {died}")))
}
