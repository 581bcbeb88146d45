//! How a command reaches the books: through the admin API of the server that holds the directory,
//! or, when none does, through the same API over the directory itself.
//!
//! **Invariant:** both ways go through one router, so they answer alike.

use super::{CliError, Common, Exit, trust};
use crate::{
    admin::{
        self,
        ledger::{Ledger, Source},
    },
    caller::{ADMIN_KEY_FILE, Secret, private_dir, read_secret},
    causes::chain,
    clock::Clock,
    config::{Config, ConfigError, Environment, Surroundings, shipped::TOLLGATE_TOML},
    ledger::{self, OpenError},
    serve::{self, Gateway},
    start::{self, StartError},
};
use axum::{
    Router,
    body::{Body, Bytes},
};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tower::ServiceExt as _;

/// Says which server holds a data directory.
const SERVER_FILE: &str = "server.json";
/// Holds the admin key of the server that `--server` names.
const ADMIN_KEY_ENV: &str = "TOLLGATE_ADMIN_KEY";
/// Longest wait for the sign of life of the server that [`SERVER_FILE`] names.
const ALIVE_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a connection to a server.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer or its next piece: a check of a large ledger takes its time.
const ANSWER_MAX: Duration = Duration::from_secs(15 * 60);
/// What helps where the directory cannot be read.
const AS_ITS_USER: &str = "run this as the user that runs the server";

/// The note in the data directory of a running server; removed when dropped.
#[derive(Debug)]
pub(crate) struct ServerFile {
    path: PathBuf,
    note: ServerNote,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ServerNote {
    address: SocketAddr,
    pid: u32,
    started_unix_ms: u64,
    /// The fingerprint of the certificate that it shows; absent where it speaks in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

/// A way to the admin API.
pub(crate) enum Link {
    /// A server.
    Server { client: reqwest::Client, base: String, admin: Secret },
    /// The directory, only read.
    Kept { router: Router },
    /// The directory, opened here.
    Here { gateway: Arc<Gateway>, router: Router, admin: Secret },
}

/// A server that holds the directory and does not answer.
struct Silent {
    /// Which, and how.
    server: String,
    /// Whether it speaks TLS.
    tls: bool,
}

/// Whether a command may begin a data directory where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Refuse,
}

// === impl ServerFile ===

impl ServerFile {
    /// Notes which address serves this directory, and by which certificate it is known. Blocking.
    ///
    /// # Errors
    /// Why it could not be written; nothing is left of it then.
    pub(crate) fn write(
        dir: &Path,
        address: SocketAddr,
        certificate: Option<String>,
        clock: &Clock,
    ) -> io::Result<Self> {
        let note = ServerNote {
            address: reachable(address),
            pid: std::process::id(),
            started_unix_ms: clock.unix_ms(),
            certificate,
        };
        let file = Self { path: dir.join(SERVER_FILE), note };
        file.save(&file.note).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.path.display()))
        })?;
        Ok(file)
    }

    /// Notes another certificate. Blocking.
    ///
    /// # Errors
    /// Why it could not be written.
    pub(crate) fn renewed(&self, certificate: String) -> io::Result<()> {
        self.save(&ServerNote { certificate: Some(certificate), ..self.note.clone() })
    }

    fn save(&self, note: &ServerNote) -> io::Result<()> {
        fs::write(&self.path, serde_json::to_string(note)?)
    }
}

impl Drop for ServerFile {
    fn drop(&mut self) {
        // What is left behind is noticed: nobody answers there.
        let _removed = fs::remove_file(&self.path);
    }
}

impl ServerNote {
    fn base(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// An address that can be connected to: "any" is not one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

// === impl Link ===

impl Link {
    /// The server that `--server` names, the one that holds the directory, or the directory.
    pub(crate) async fn open(common: &Common, missing: Missing) -> Result<Self, CliError> {
        Self::open_as(common, missing, false).await
    }

    /// The same for what only reads the ledger: nothing is written to a directory that no server
    /// holds, and one whose server does not answer is read all the same.
    pub(crate) async fn open_to_read(common: &Common) -> Result<Self, CliError> {
        Self::open_as(common, Missing::Refuse, true).await
    }

    async fn open_as(common: &Common, missing: Missing, read: bool) -> Result<Self, CliError> {
        if let Some(url) = &common.server {
            // The key in the directory here is another server's, and is shown to nobody else.
            let Some(admin) = admin_key_given() else {
                let message = format!("the admin key of the server at {url} is not known");
                return Err(CliError::usage(message).hint(format!("put it into {ADMIN_KEY_ENV}")));
            };
            let base = url.trim_end_matches('/').to_owned();
            let client = built(trust::named(client(), common)?)?;
            return Ok(Self::Server { client, base, admin });
        }
        let config = config(common)?;
        if missing == Missing::Refuse {
            has_ledger(&config.data_dir)?;
        }
        // A note alone may be left over from a server that was killed, and another program may
        // listen at its address by now: the admin key goes only to who holds the directory.
        let held = ledger::held(&config.data_dir).unwrap_or(false);
        let note = server_note(&config.data_dir).filter(|_| held);
        let silent = match &note {
            None => None,
            Some(note) => match Self::to_running(note, &config.data_dir, common).await? {
                Ok(link) => return Ok(link),
                Err(silent) => Some(silent),
            },
        };
        if read { Ok(Self::kept(&config)) } else { Self::here(config, silent) }
    }

    /// The server that noted where it is, or how it does not answer.
    async fn to_running(
        note: &ServerNote,
        dir: &Path,
        common: &Common,
    ) -> Result<Result<Self, Silent>, CliError> {
        let client = match &note.certificate {
            None => client(),
            Some(certificate) => trust::noted(client(), certificate, common)?,
        };
        let (client, base) = (built(client)?, note.base());
        let silent = |why: String| Silent {
            server: format!("process {} at {base} does not answer: {why}", note.pid),
            tls: note.certificate.is_some(),
        };
        match client.get(format!("{base}/health")).timeout(ALIVE_MAX).send().await {
            Err(error) => Ok(Err(silent(chain(&error)))),
            Ok(answer) if !answer.status().is_success() => {
                Ok(Err(silent(answer.status().to_string())))
            }
            Ok(_) => Ok(Ok(Self::Server { client, base, admin: admin_key(dir)? })),
        }
    }

    fn kept(config: &Config) -> Self {
        let ledger = Ledger {
            source: Source::Kept(config.data_dir.clone()),
            clock: Clock::system(),
            zone: config.time_zone.clone(),
        };
        let router = Router::new().nest("/admin/v1", admin::ledger::router(Arc::new(ledger)));
        Self::Kept { router }
    }

    /// Blocks while the ledger is opened: nothing else runs in this process.
    fn here(config: Config, silent: Option<Silent>) -> Result<Self, CliError> {
        let dir = config.data_dir.clone();
        is_its_users(&dir)?;
        private_dir(&dir)
            .map_err(|error| CliError::failed(format!("{}: {error}", dir.display())))?;
        let gateway = start::offline(config, Clock::system()).map_err(|error| match error {
            StartError::Books(OpenError::InUse(_)) => {
                let said = silent
                    .as_ref()
                    .map_or_else(String::new, |silent| format!("; {}", silent.server));
                let hint = if silent.is_some_and(|silent| silent.tls) {
                    "if it asks for a certificate show one with --client-cert, or give the admin \
                     plane a listener of its own on loopback ([admin] listen)"
                } else {
                    "wait for it to start or stop, or name its URL with --server and give its admin \
                     key in TOLLGATE_ADMIN_KEY"
                };
                CliError::new(Exit::Unreachable, format!("{error}{said}")).hint(hint)
            }
            _ => CliError::failed(error.to_string()),
        })?;
        let admin = admin_key(&dir)?;
        let router = serve::router(&gateway, serve::Planes::Both);
        Ok(Self::Here { gateway, router, admin })
    }

    /// Asks the admin API; `path` begins after `/admin/v1`.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let body = body.map(Value::to_string);
        let (status, bytes) = match self {
            Self::Server { client, base, admin } => {
                let url = format!("{base}/admin/v1{path}");
                let mut request = client.request(method, &url).bearer_auth(admin.reveal());
                if let Some(body) = body {
                    request = request.header(header::CONTENT_TYPE, "application/json").body(body);
                }
                let failed = |error: reqwest::Error| unreached(base, &error);
                let answer = request.send().await.map_err(failed)?;
                (answer.status(), answer.bytes().await.map_err(failed)?)
            }
            Self::Here { router, admin, .. } => {
                asked_here(router, method, path, Some(admin), body).await?
            }
            Self::Kept { router } => asked_here(router, method, path, None, body).await?,
        };
        match understood(status, &bytes) {
            // Nobody refused: there is no server.
            Err(error) if status.is_server_error() && !self.is_server() => {
                Err(CliError::failed(error.to_string()))
            }
            answer => answer,
        }
    }

    /// GET of something long: gives it to `take` as it comes, until that wants no more.
    pub(crate) async fn copy(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        let (status, mut body) = match self {
            Self::Server { client, base, admin } => {
                let url = format!("{base}/admin/v1{path}");
                let failed = |error: reqwest::Error| unreached(base, &error);
                let request = client.get(&url).bearer_auth(admin.reveal());
                let answer = request.send().await.map_err(failed)?;
                (answer.status(), Body::new(reqwest::Body::from(answer)))
            }
            Self::Here { router, admin, .. } => opened(router, path, Some(admin)).await?,
            Self::Kept { router } => opened(router, path, None).await?,
        };
        if !status.is_success() {
            let body = body.collect().await;
            let body = body.map_err(|error| CliError::failed(error.to_string()))?;
            return understood(status, &body.to_bytes()).map(|_| ());
        }
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| CliError::failed(format!("it was broken off: {error}")))?;
            if let Ok(piece) = frame.into_data()
                && !take(&piece)?
            {
                break;
            }
        }
        Ok(())
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.ask(Method::GET, path, None).await
    }

    /// Whether a server was asked.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Server { .. })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Self::Here { gateway, .. } = self {
            gateway.books.close();
        }
    }
}

/// Why a server could not be asked. One that is there and does not agree on TLS need not be started.
fn unreached(base: &str, error: &reqwest::Error) -> CliError {
    let hint = match trust::fault(error) {
        None => "is the server running? `tollgate serve` starts it",
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate was refused: name what signed it with --ca-cert, and the server by a \
             name that it is for"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the server refused: if it asks for a certificate show one with --client-cert"
        }
        Some(_) => "does the server speak TLS at this address?",
    };
    CliError::new(Exit::Unreachable, format!("{base}: {}", chain(error))).hint(hint)
}

/// Begins a GET of a router of this process.
async fn opened(
    router: &Router,
    path: &str,
    admin: Option<&Secret>,
) -> Result<(StatusCode, Body), CliError> {
    let mut request = Request::get(format!("/admin/v1{path}"));
    if let Some(admin) = admin {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", admin.reveal()));
    }
    let request =
        request.body(Body::empty()).map_err(|error| CliError::usage(error.to_string()))?;
    let Ok(answer) = router.clone().oneshot(request).await;
    Ok((answer.status(), answer.into_body()))
}

/// Asks a router of this process.
async fn asked_here(
    router: &Router,
    method: Method,
    path: &str,
    admin: Option<&Secret>,
    body: Option<String>,
) -> Result<(StatusCode, Bytes), CliError> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/admin/v1{path}"))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(admin) = admin {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", admin.reveal()));
    }
    let request = request
        .body(body.map_or_else(Body::empty, Body::from))
        .map_err(|error| CliError::usage(error.to_string()))?;
    let Ok(answer) = router.clone().oneshot(request).await;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| CliError::failed(error.to_string()))?;
    Ok((status, body.to_bytes()))
}

/// What an answer says, or the refusal in the server's own words.
pub(super) fn understood(status: StatusCode, bytes: &[u8]) -> Result<Value, CliError> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(value);
    }
    let message = value.pointer("/error/message").and_then(Value::as_str);
    let message = message.map_or_else(|| format!("status {status}"), str::to_owned);
    Err(match status {
        StatusCode::NOT_FOUND => CliError::new(Exit::NotFound, message),
        StatusCode::BAD_REQUEST => CliError::usage(message),
        StatusCode::UNAUTHORIZED => CliError::new(Exit::Refused, message)
            .hint("the admin key is in admin.key of the data directory, or in TOLLGATE_ADMIN_KEY"),
        _ => CliError::new(Exit::Refused, message),
    })
}

/// The configuration, with `--data-dir` over it. Where there is no file but a directory is named,
/// the shipped configuration stands in.
pub(crate) fn config(common: &Common) -> Result<Config, CliError> {
    let clock = Clock::system();
    let loaded = if common.data_dir.is_some() && !common.config.exists() {
        standing_in(&common.config, &clock)
    } else {
        Config::load(&common.config, Environment::Spared, &clock)
    };
    let mut config = loaded?;
    if let Some(dir) = &common.data_dir {
        config.data_dir.clone_from(dir);
    }
    Ok(config)
}

fn standing_in(path: &Path, clock: &Clock) -> Result<Config, ConfigError> {
    let surroundings = Surroundings {
        lookup: &|_| Some(String::new()),
        environment: Environment::Spared,
        now_s: clock.unix_ms() / 1000,
    };
    Config::parse(TOLLGATE_TOML, path, surroundings)
}

/// Whether the directory has a ledger.
///
/// # Errors
/// It has none, or that cannot be seen.
pub(super) fn has_ledger(dir: &Path) -> Result<(), CliError> {
    let unreachable = |message: String| CliError::new(Exit::Unreachable, message);
    match fs::metadata(dir.join("journal")) {
        Ok(found) if found.is_dir() => Ok(()),
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Err(unreachable(format!("{}: {error}", dir.display())).hint(AS_ITS_USER))
        }
        _ => Err(unreachable(format!("there is no ledger in {}", dir.display()))
            .hint("start one with: tollgate serve, or name another with --data-dir")),
    }
}

/// Root can write everywhere, and what it writes the server's user cannot read: a ledger that is
/// another user's is not opened for writing.
fn is_its_users(dir: &Path) -> Result<(), CliError> {
    let Ok(ledger) = fs::metadata(dir.join("journal")) else { return Ok(()) };
    if !rustix::process::geteuid().is_root() || ledger.uid() == 0 {
        return Ok(());
    }
    let message = format!(
        "{} is user {}'s: what root writes there its server could not read",
        dir.display(),
        ledger.uid()
    );
    let hint = format!("run this as that user: sudo -u '#{}' tollgate …", ledger.uid());
    Err(CliError::new(Exit::Unreachable, message).hint(hint))
}

/// The admin key in the environment.
fn admin_key_given() -> Option<Secret> {
    std::env::var(ADMIN_KEY_ENV).ok().filter(|key| !key.is_empty()).map(Secret::from_text)
}

/// The admin key of the directory, or, where it cannot be read there, the one in the environment.
fn admin_key(dir: &Path) -> Result<Secret, CliError> {
    let path = dir.join(ADMIN_KEY_FILE);
    let (why, hint) = match read_secret(dir, ADMIN_KEY_FILE) {
        Ok(Some(secret)) => return Ok(secret),
        Ok(None) => {
            (format!("there is no {}", path.display()), "put the admin key into TOLLGATE_ADMIN_KEY")
        }
        Err(error) => (format!("{}: {error}", path.display()), AS_ITS_USER),
    };
    admin_key_given().ok_or_else(|| CliError::new(Exit::Unreachable, why).hint(hint))
}

fn server_note(dir: &Path) -> Option<ServerNote> {
    match fs::read(dir.join(SERVER_FILE)) {
        Ok(text) => serde_json::from_slice(&text).ok(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(%error, "{SERVER_FILE}");
            }
            None
        }
    }
}

fn client() -> reqwest::ClientBuilder {
    // Between two pieces, not of the whole: an export may run for hours.
    reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_MAX).read_timeout(ANSWER_MAX)
}

fn built(client: reqwest::ClientBuilder) -> Result<reqwest::Client, CliError> {
    client.build().map_err(|error| CliError::failed(chain(&error)))
}
