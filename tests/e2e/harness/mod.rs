//! The harness: a real gateway as a child process, real sockets, and sentences to ask and to look
//! into its books with.
//!
//! **Invariant:** what a test knows, it knows from outside: answers, the admin API, the log, the
//! files and the stand-in clouds. Nothing is shared with the process under test.

mod ask;
mod books;
mod child;
mod config;
mod documented;
mod frozen;
mod keys;
mod pattern;
mod raw;
mod volume;

pub(crate) use ask::{Answer, Ask, ErrorSeen, Open};
pub(crate) use books::{EntrySeen, pico, rows};
pub(crate) use child::Child;
pub(crate) use config::{
    EDGE_USD_PER_HOUR, GateBuilder, WEBHOOK_PATH, WEBHOOK_SECRET, model_file, sha256,
};
pub(crate) use documented::kept as document;
pub(crate) use frozen::Frozen;
pub(crate) use keys::Key;
pub(crate) use raw::{raw, raw_without_end};
pub(crate) use volume::Volume;

use reqwest::header::HeaderMap;
use serde_json::Value;
use std::{future::Future, io::Write as _, path::Path, time::Duration};

/// Longest wait of [`eventually`].
const EVENTUALLY_MAX: Duration = Duration::from_secs(30);

/// A gateway that runs.
pub(crate) struct Gate {
    child: Child,
    builder: GateBuilder,
    client: reqwest::Client,
    admin_key: String,
    key: Key,
}

impl Gate {
    /// A gateway to be described.
    pub(crate) fn builder() -> GateBuilder {
        GateBuilder::default()
    }

    /// Starts what the builder describes, with a key that may do everything.
    pub(crate) async fn start(builder: GateBuilder) -> Self {
        let child = Child::start(builder.config_file()).await;
        Self::of(builder, child).await
    }

    /// A gateway that the test itself has started from what the builder describes.
    pub(crate) async fn of(builder: GateBuilder, child: Child) -> Self {
        let admin_key = std::fs::read_to_string(builder.data_dir().join("admin.key"))
            .expect("the first start writes an admin key")
            .trim()
            .to_owned();
        let mut gate = Self {
            child,
            client: client(),
            admin_key,
            key: Key { id: String::new(), secret: String::new() },
            builder,
        };
        gate.key = gate.new_key().named("test").that_may_pin().create().await;
        gate
    }

    /// Stops it with SIGKILL and starts it again on the same files. Keys stay.
    pub(crate) async fn killed_and_restarted(mut self) -> Self {
        self.child.kill().await;
        self.restarted_after(|_| {}).await
    }

    /// Starts again on the same files, after `between` had its way with the data directory. The
    /// process must have ended.
    pub(crate) async fn restarted_after(mut self, between: impl FnOnce(&Path)) -> Self {
        between(&self.builder.data_dir());
        self.child = Child::start(self.builder.config_file()).await;
        self.client = client();
        self
    }

    /// Stops it with SIGTERM and waits for its end.
    pub(crate) async fn stop(&mut self) {
        self.child.stop().await;
    }

    /// The process.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Everything it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.child.log()
    }

    /// What it was built from.
    pub(crate) fn builder_ref(&self) -> &GateBuilder {
        &self.builder
    }

    /// `http://address`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.child.address())
    }

    /// Where the admin plane is.
    fn admin_url(&self) -> String {
        self.builder.admin_address().map_or_else(|| self.url(), |at| format!("http://{at}"))
    }

    /// The key that a request is sent with unless it names another.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The admin key.
    pub(crate) fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// GET of any path, with the admin key.
    pub(crate) async fn admin_get(&self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.admin_url()));
        Answer::of(request.bearer_auth(&self.admin_key)).await
    }

    /// A POST with the caller's key and this JSON, of whose answer the head has come.
    pub(crate) async fn open(&self, path: &str, body: &Value) -> Open {
        let request = self.client.post(format!("{}{path}", self.url()));
        Open::of(request.bearer_auth(&self.key.secret).body(body.to_string())).await
    }

    /// GET with the caller's key.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.url()));
        Answer::of(request.bearer_auth(&self.key.secret)).await
    }

    /// GET of any address, without a key.
    pub(crate) async fn send_to(&self, url: &str) -> Answer {
        Answer::of(self.client.get(url)).await
    }

    /// Any method, no key, a body of bytes.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let method = method.parse().expect("a method");
        let mut request = self.client.request(method, format!("{}{path}", self.url())).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request).await
    }

    /// A POST with the caller's key and this JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_by(&self.key, path, body).await
    }

    /// A POST with this key and this JSON.
    pub(crate) async fn post_by(&self, key: &Key, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", key.secret);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string().into_bytes()).await
    }

    /// A chat request with the caller's key and this body.
    pub(crate) async fn post_chat(&self, body: impl Into<Vec<u8>>) -> Answer {
        let bearer = format!("Bearer {}", self.key.secret);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.send("POST", "/v1/chat/completions", &headers, body.into()).await
    }

    /// GET of the admin API.
    pub(crate) async fn admin(&self, path: &str) -> Value {
        let answer = self.admin_send("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body_text());
        answer.json()
    }

    /// GET of the admin API that answers with text.
    pub(crate) async fn admin_text(&self, path: &str) -> String {
        let answer = self.admin_send("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body_text());
        answer.body_text()
    }

    /// GET below /v1/organization, with the admin key.
    pub(crate) async fn organization(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}/v1/organization{path}", self.url()));
        let answer = Answer::of(request.bearer_auth(&self.admin_key)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body_text());
        answer.json()
    }

    /// Any call of the admin API.
    pub(crate) async fn admin_send(&self, method: &str, path: &str, body: Value) -> Answer {
        let method = method.parse().expect("a method");
        let mut request = self
            .client
            .request(method, format!("{}/admin/v1{path}", self.admin_url()))
            .bearer_auth(&self.admin_key);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::of(request).await
    }

    /// The metrics as text.
    pub(crate) async fn metrics(&self) -> String {
        let request =
            self.client.get(format!("{}/metrics", self.admin_url())).bearer_auth(&self.admin_key);
        Answer::of(request).await.body_text()
    }
}

/// Waits until `look` finds something, and says what was looked for if it never does.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(EVENTUALLY_MAX, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Says that something could not be looked at here, and why; a failure where `TOLLGATE_REQUIRE` (words
/// parted by commas) names what is needed for it. What a test that passes prints is not shown, so
/// `TOLLGATE_SKIPPED` may name a file that gets a line as well.
pub(crate) fn not_checked(needed: &str, why: &str) {
    let required = std::env::var("TOLLGATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == needed), "{needed} is required, and {why}");
    println!("{why}: not checked");
    if let Some(file) = std::env::var_os("TOLLGATE_SKIPPED") {
        let mut file =
            std::fs::File::options().append(true).create(true).open(file).expect("a file");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        writeln!(file, "{test}: {why}").expect("to write");
    }
}

/// An address of the loopback interface that nobody but a gateway of this test gets while the socket is
/// kept: it has the port, and listens on nothing.
pub(crate) fn free_address() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    // Two may have a port of which neither listens, if both say so; a listener says so by itself.
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let address = socket.local_addr().expect("an address").to_string();
    (socket, address)
}

/// Sends a process a signal by its id.
pub(crate) fn signal(process: u64, signal: i32) {
    let pid = i32::try_from(process).expect("a process id");
    // SAFETY: kill(2) takes two integers and touches no memory of ours; the process is a child of a
    // gateway of this test, which says so.
    #[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}");
}

/// The processes that run in a directory, the oldest first.
pub(crate) fn processes_in(directory: &Path) -> Vec<u64> {
    let directory = directory.canonicalize().expect("a directory");
    let all = std::fs::read_dir("/proc").expect("the processes");
    let numbered = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let is_there = |process: &u64| {
        std::fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|cwd| cwd == directory)
    };
    let mut found: Vec<_> = numbered.filter(is_there).collect();
    found.sort_unstable();
    found
}

/// The header's value as text, empty where it is absent.
pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn client() -> reqwest::Client {
    // Plain HTTP needs no TLS, but the client is not built without a provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(120))
        .build()
        .expect("an HTTP client")
}
