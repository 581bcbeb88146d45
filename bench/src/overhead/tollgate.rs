//! tollgate as it is measured: the real binary, a policy, a key with limits and a hard budget, a
//! global hard budget, a priced cloud route towards the mock, and a durable ledger.
//!
//! Invariant: nothing that costs time in production is off, and the books are asked afterwards
//! whether every request is in them, with its cost.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::Value;

use super::subject::{Door, Subject};
use crate::child::Child;

/// What is needed to start one.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    /// Its own folder, made here.
    pub(crate) folder: PathBuf,
    /// `grouped` or `strict`.
    pub(crate) durability: &'static str,
    /// The mock's URL.
    pub(crate) upstream: String,
}

/// A running tollgate.
#[derive(Debug)]
pub(crate) struct Tollgate {
    pub(crate) child: Child,
    address: SocketAddr,
    key: String,
    admin_key: String,
    /// Requests sent to it so far.
    pub(crate) sent: u64,
}

impl Tollgate {
    /// Writes its configuration, makes its key and starts it.
    pub(crate) async fn start(setup: &Setup, cores: Option<&str>) -> Result<Tollgate, String> {
        let fault = |e: std::io::Error| format!("{}: {e}", setup.folder.display());
        fs::create_dir_all(&setup.folder).map_err(fault)?;
        let address = free_address()?;
        let config = setup.folder.join("tollgate.toml");
        fs::write(&config, config_text(address, setup)).map_err(fault)?;
        let key = create_key(setup, &config)?;
        let mut command = Command::new(&setup.binary);
        command.arg("serve").arg("--config").arg(&config).current_dir(&setup.folder);
        let log = setup.folder.join("tollgate.log");
        let mut child = Child::start(command, cores, &log)?;
        child.ready(&format!("http://{address}/ready")).await?;
        let admin_key = read_secret(&setup.folder.join("data/admin.key"))?;
        Ok(Tollgate { child, address, key, admin_key, sent: 0 })
    }

    /// Where it is reached.
    pub(crate) fn door(&self) -> Door {
        Door {
            address: self.address,
            key: self.key.clone(),
            model: "auto".to_owned(),
            pid: Some(self.child.pid()),
        }
    }

    /// Asks the ledger how many requests it holds and what they cost.
    pub(crate) async fn check_ledger(
        &self,
        client: &reqwest::Client,
        subject: Subject,
    ) -> Result<LedgerCheck, String> {
        let url = format!("http://{}/admin/v1/ledger/summary", self.address);
        let request = client.get(&url).bearer_auth(&self.admin_key);
        let answer = request.send().await.map_err(|e| format!("{url}: {e}"))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|e| format!("{url}: {e}"))?;
        if !status.is_success() {
            return Err(format!("{url}: status {status}: {body}"));
        }
        let summary: Value = serde_json::from_str(&body).map_err(|e| format!("{url}: {e}"))?;
        Ok(LedgerCheck { subject, sent: self.sent, summary })
    }
}

/// What the books say at the end of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LedgerCheck {
    subject: Subject,
    /// Requests the generator sent.
    sent: u64,
    /// The ledger's own summary.
    summary: Value,
}

impl LedgerCheck {
    /// The check in words.
    pub(crate) fn sentence(&self) -> String {
        format!("{}: {} requests sent; {}", self.subject.name(), self.sent, self.summary)
    }
}

/// A port nobody listens on. Another process could take it before tollgate does; then tollgate
/// says so and the run ends.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("free port: {e}"))?;
    listener.local_addr().map_err(|e| format!("free port: {e}"))
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Every limit is there and does its work, and none is reached.
fn config_text(address: SocketAddr, setup: &Setup) -> String {
    let Setup { durability, upstream, .. } = setup;
    format!(
        r#"[server]
listen = "{address}"
data_dir = "data"

[limits]
requests_per_minute = 60000000
tokens_per_minute = 1000000000000
in_flight_max = 4096

[ledger]
durability = "{durability}"

[[budget]]
window = "month"
money_usd = "1000000"
hard = true

[policy]
shipped = "cloud-only"

[routes.mock]
kind = "openai"
provider = "mock"
base_url = "{upstream}/v1"
api_key = "mock"
model = "mock-1"
in_flight_max = 256

[routes.mock.price]
input = "0.25"
cache_read = "0.025"
output = "2.00"
"#
    )
}

fn create_key(setup: &Setup, config: &Path) -> Result<String, String> {
    let done = Command::new(&setup.binary)
        .args(["key", "create", "--json", "--config"])
        .arg(config)
        .current_dir(&setup.folder)
        .output()
        .map_err(|e| format!("cannot start {}: {e}", setup.binary.display()))?;
    let text = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        return Err(format!("tollgate key create: {}", String::from_utf8_lossy(&done.stderr)));
    }
    let made: Value = serde_json::from_str(&text).map_err(|e| format!("key create: {e}"))?;
    let secret = made.get("secret").and_then(Value::as_str).map(str::to_owned);
    secret.ok_or_else(|| "tollgate key create --json names no secret".to_owned())
}
