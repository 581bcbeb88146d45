//! tollgate as it is measured: the real binary, a policy, a key with limits and a hard budget, a
//! global hard budget, a priced cloud route towards the mock, and a durable ledger.
//!
//! Invariant: nothing that costs time in production is off, and the books are asked afterwards
//! whether every request is in them, with its cost.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use std::time::{Duration, Instant};

use policies::PicoUsdTotal;
use serde::Serialize;
use serde_json::{Value, json};

use super::subject::{Door, Subject};
use crate::child::Child;
use crate::upstream;

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
    /// What it was sent so far.
    pub(crate) sent: Sent,
}

/// Requests sent, and the output tokens that the mock reports for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sent {
    pub(crate) requests: u64,
    pub(crate) output_tokens: u64,
}

impl Tollgate {
    /// Writes its configuration, makes its key and starts it.
    pub(crate) async fn start(setup: &Setup, cores: Option<&str>) -> Result<Tollgate, String> {
        let fault = |e: std::io::Error| format!("{}: {e}", setup.folder.display());
        fs::create_dir_all(&setup.folder).map_err(fault)?;
        let address = free_address()?;
        let config = setup.folder.join("tollgate.toml");
        fs::write(&config, config_text(address, setup)).map_err(fault)?;
        let mut command = Command::new(&setup.binary);
        command.arg("serve").arg("--config").arg(&config).current_dir(&setup.folder);
        let log = setup.folder.join("tollgate.log");
        let mut child = Child::start(command, cores, &log)?;
        child.ready(&format!("http://{address}/ready")).await?;
        let admin_key = read_secret(&setup.folder.join("data/admin.key"))?;
        let key = create_key(address, &admin_key).await.map_err(|e| child.complain(&e))?;
        Ok(Tollgate { child, address, key, admin_key, sent: Sent::default() })
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

    /// Compares the ledger with what was sent, waiting a moment for its last commit.
    pub(crate) async fn check_ledger(&self, subject: Subject) -> Result<LedgerCheck, String> {
        let expected = Found { requests: self.sent.requests, cost: expected_cost(self.sent) };
        let deadline = Instant::now() + COMMIT_MAX;
        loop {
            let url = format!("http://{}/admin/v1/ledger/summary?group_by=key", self.address);
            let summary = send(crate::http_client()?.get(&url), &self.admin_key).await?;
            let found = Found::read(&summary)?;
            if found == expected || Instant::now() > deadline {
                return Ok(LedgerCheck {
                    subject,
                    requests_sent: expected.requests,
                    requests_in_ledger: found.requests,
                    cost_expected_usd: expected.cost.to_string(),
                    cost_in_ledger_usd: found.cost.to_string(),
                    agrees: found == expected,
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Longest wait for the last entries to be committed.
const COMMIT_MAX: Duration = Duration::from_secs(3);

/// What the ledger holds, or should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    requests: u64,
    cost: PicoUsdTotal,
}

impl Found {
    /// Sums the rows of a summary.
    fn read(summary: &Value) -> Result<Found, String> {
        let strange = || format!("not a ledger summary: {summary}");
        let rows = summary.get("data").and_then(Value::as_array).ok_or_else(strange)?;
        let mut requests = 0;
        let mut pico = 0;
        for row in rows {
            requests += row.get("requests").and_then(Value::as_u64).ok_or_else(strange)?;
            let cost = row.get("cost_usd").and_then(Value::as_str).ok_or_else(strange)?;
            let cost: PicoUsdTotal = cost.parse().map_err(|_| strange())?;
            pico += cost.pico();
        }
        Ok(Found { requests, cost: PicoUsdTotal::from_pico(pico) })
    }
}

/// Prices of the configuration below, in pico-USD a token.
const INPUT_PICO: u128 = 250_000;
const OUTPUT_PICO: u128 = 2_000_000;

fn expected_cost(sent: Sent) -> PicoUsdTotal {
    let input = u128::from(sent.requests) * u128::from(upstream::PROMPT_TOKENS) * INPUT_PICO;
    PicoUsdTotal::from_pico(input + u128::from(sent.output_tokens) * OUTPUT_PICO)
}

/// What the books say at the end of a run, beside what they should say.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LedgerCheck {
    subject: Subject,
    requests_sent: u64,
    requests_in_ledger: u64,
    cost_expected_usd: String,
    cost_in_ledger_usd: String,
    pub(crate) agrees: bool,
}

impl LedgerCheck {
    /// The check in words.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "- {}: {} requests sent, {} in the ledger; they cost {} USD, the ledger says {}: {}.",
            self.subject.name(),
            self.requests_sent,
            self.requests_in_ledger,
            self.cost_expected_usd,
            self.cost_in_ledger_usd,
            if self.agrees { "agrees" } else { "**does not agree**" }
        )
    }
}

/// A port nobody listens on. Another process could take it before tollgate does; then tollgate
/// says so and the run ends.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("free port: {e}"))?;
    listener.local_addr().map_err(|e| format!("free port: {e}"))
}

pub(crate) fn read_secret(path: &Path) -> Result<String, String> {
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

# Watches as always, and lets go: the load of a benchmark is what it looks for.
[guard]
spend = "logged"
prompt_loop = "logged"

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

/// A key with every kind of limit.
pub(crate) async fn create_key(address: SocketAddr, admin_key: &str) -> Result<String, String> {
    let body = json!({
        "label": "bench",
        "may_pin": true,
        "budgets": [{"window": "month", "money_usd": "1000000", "hard": true}],
        "limits": {
            "requests_per_minute": 60_000_000,
            "tokens_per_minute": 1_000_000_000_000_u64,
            "concurrency": 4_096,
        },
    });
    let request = crate::http_client()?
        .post(format!("http://{address}/admin/v1/keys"))
        .header("content-type", "application/json")
        .body(body.to_string());
    let made = send(request, admin_key).await?;
    let secret = made.get("secret").and_then(Value::as_str).map(str::to_owned);
    secret.ok_or_else(|| "the admin API made a key without a secret".to_owned())
}

async fn send(request: reqwest::RequestBuilder, admin_key: &str) -> Result<Value, String> {
    let answer = request.bearer_auth(admin_key).send().await.map_err(|e| format!("admin: {e}"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|e| format!("admin: {e}"))?;
    if !status.is_success() {
        return Err(format!("the admin API answered {status}: {text}"));
    }
    serde_json::from_str(&text).map_err(|e| format!("admin: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_are_compared_to_the_pico_dollar() {
        let sent = Sent { requests: 3, output_tokens: 2 * 128 + 64 };
        // 3 x 235 x 0.25 + 320 x 2.00 USD per million.
        let rows = json!({"data": [
            {"requests": 2, "cost_usd": "0.000500000000"},
            {"requests": 1, "cost_usd": "0.000316250000"},
        ]});
        let expected = Found { requests: 3, cost: expected_cost(sent) };
        assert_eq!(Found::read(&rows).unwrap(), expected);
        let short = json!({"data": [{"requests": 3, "cost_usd": "0.000816249999"}]});
        assert_ne!(Found::read(&short).unwrap(), expected);
        assert!(Found::read(&json!({"data": [{"requests": 3}]})).is_err());
    }
}
