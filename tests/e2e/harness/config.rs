//! Describes a gateway: its routes, its policy, its limits.

use super::Gate;
use e2e::standin::StandIn;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The local route's price in the tests: 0.36 USD an hour is 100 nano-USD (100,000 pico-USD) a
/// millisecond.
pub(crate) const EDGE_USD_PER_HOUR: &str = "0.36";

/// The secret of every webhook, and what stands in its address and is nobody's business.
pub(crate) const WEBHOOK_SECRET: &str = "whsec-canary-0123456789";
/// See [`WEBHOOK_SECRET`].
pub(crate) const WEBHOOK_PATH: &str = "path-canary-0123456789";

/// A gateway to be started. Without routes there is nothing to ask.
pub(crate) struct GateBuilder {
    dir: TempDir,
    server: String,
    limits: String,
    ledger: String,
    budgets: String,
    policy: String,
    routes: String,
    admin_at: Option<String>,
}

impl Default for GateBuilder {
    fn default() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            server: String::new(),
            limits: "budget_wait_max_ms = 0\n".to_owned(),
            ledger: "low_water_mib = 1\n".to_owned(),
            budgets: "\n[guard]\nenabled = false\n".to_owned(),
            policy: "shipped = \"cloud-only\"\n".to_owned(),
            routes: String::new(),
            admin_at: None,
        }
    }
}

impl GateBuilder {
    /// A cloud route `cloud` to the stand-in: 1 USD per million prompt tokens and 2 per million
    /// answer tokens, so 1,000,000 and 2,000,000 pico-USD a token; half of the former from a cache.
    pub(crate) fn cloud(self, cloud: &StandIn) -> Self {
        self.cloud_named("cloud", cloud, "")
    }

    /// A cloud route of that name with the same prices, and more lines of configuration.
    pub(crate) fn cloud_named(self, name: &str, cloud: &StandIn, more: &str) -> Self {
        self.cloud_at(name, &cloud.base_url(), more)
    }

    /// A cloud route to any base URL.
    pub(crate) fn cloud_at(mut self, name: &str, base_url: &str, more: &str) -> Self {
        let usual = usual_unless_in(
            more,
            &[
                "first_token_timeout_ms = 20000",
                "idle_timeout_ms = 20000",
                "total_timeout_ms = 60000",
                // Promises about retries and breakers set their own.
                "retry = { max = 0 }",
                "breaker = { failures_max = 1000000, samples_min = 1000000 }",
            ],
        );
        write!(
            self.routes,
            r#"
[routes.{name}]
kind = "openai"
provider = "standin"
base_url = "{base_url}"
model = "standin-1"
api_key = "sk-upstream-{name}-canary"
{usual}
{more}
[routes.{name}.price]
input = "1"
output = "2"
cache_read = "0.5"
"#
        )
        .expect("a string");
        self
    }

    /// A cloud route of that name whose provider is of this `kind`, with the usual prices and more
    /// lines of configuration.
    pub(crate) fn cloud_of_kind(self, name: &str, base_url: &str, kind: &str, more: &str) -> Self {
        self.cloud_at(name, base_url, more).of_kind(kind)
    }

    /// The last cloud route's provider is of this `kind`.
    pub(crate) fn of_kind(mut self, kind: &str) -> Self {
        let route = self.routes.rfind("kind = \"openai\"").expect("a cloud route");
        let written = self.routes.split_off(route).replace("\"openai\"", &format!("\"{kind}\""));
        self.routes.push_str(&written);
        self
    }

    /// A cloud route `cloud` whose price nobody knows.
    pub(crate) fn unpriced_cloud(self, cloud: &StandIn) -> Self {
        self.unpriced_cloud_named("cloud", cloud, "")
    }

    /// A cloud route of that name whose price nobody knows, and more lines of configuration.
    pub(crate) fn unpriced_cloud_named(mut self, name: &str, cloud: &StandIn, more: &str) -> Self {
        let base_url = cloud.base_url();
        write!(
            self.routes,
            "\n[routes.{name}]\nkind = \"openai\"\nprovider = \"standin\"\nbase_url = \"{base_url}\"\n\
             model = \"standin-unheard-of\"\n{more}\n"
        )
        .expect("a string");
        self
    }

    /// A cloud route of that name to a model there, which sends no key of its own.
    pub(crate) fn keyless_cloud_at(
        self,
        name: &str,
        base_url: &str,
        model: &str,
        more: &str,
    ) -> Self {
        let mut gate = self.cloud_at(name, base_url, more);
        gate.routes = gate
            .routes
            .replace(&format!("api_key = \"sk-upstream-{name}-canary\"\n"), "")
            .replace("model = \"standin-1\"", &format!("model = \"{model}\""));
        gate
    }

    /// On a system that trusts this certificate and no other.
    pub(crate) fn trusting(self, certificate: &str) -> Self {
        let file = self.dir.path().join(super::child::TRUSTED_FILE);
        std::fs::write(file, certificate).expect("a file of certificates");
        self
    }

    /// The model in the process, as the route `edge`.
    pub(crate) fn edge(self) -> Self {
        self.edge_with("")
    }

    /// The model in the process, with more lines of configuration.
    pub(crate) fn edge_with(mut self, more: &str) -> Self {
        let file = model_file();
        let usual = usual_unless_in(more, &["slots = 4", "threads = 1"]);
        write!(
            self.routes,
            r#"
[routes.edge]
kind = "local"
file = "{}"
model = "SmolLM2-135M-Instruct"
usd_per_hour = "{EDGE_USD_PER_HOUR}"
{usual}
{more}
"#,
            file.display()
        )
        .expect("a string");
        self
    }

    /// The model in the process, at a price that nobody knows.
    pub(crate) fn unpriced_edge(self) -> Self {
        let mut gate = self.edge();
        let price = format!("usd_per_hour = \"{EDGE_USD_PER_HOUR}\"\n");
        gate.routes = gate.routes.replace(&price, "");
        gate
    }

    /// Routes as they are written.
    pub(crate) fn routes(mut self, text: &str) -> Self {
        self.routes.push_str(text);
        self
    }

    /// One of the policies that come with tollgate.
    pub(crate) fn policy(mut self, shipped: &str) -> Self {
        self.policy = format!("shipped = \"{shipped}\"\n");
        self
    }

    /// A policy of the test's own, in a file `policy.toml` beside the configuration.
    pub(crate) fn policy_text(mut self, text: &str) -> Self {
        std::fs::write(self.policy_file(), text).expect("a policy file");
        self.policy = format!("file = \"{}\"\n", self.policy_file().display());
        self
    }

    /// A line under `[server]`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        writeln!(self.server, "{line}").expect("a string");
        self
    }

    /// A line under `[limits]`, in place of the usual one.
    pub(crate) fn limit(mut self, line: &str) -> Self {
        self.limits = usual_unless_in(line, &self.limits.lines().collect::<Vec<_>>());
        if !self.limits.is_empty() {
            self.limits.push('\n');
        }
        writeln!(self.limits, "{line}").expect("a string");
        self
    }

    /// A line under `[ledger]`.
    pub(crate) fn ledger(mut self, line: &str) -> Self {
        writeln!(self.ledger, "{line}").expect("a string");
        self
    }

    /// The admin plane on an address of its own.
    pub(crate) fn admin_at(mut self, address: &str) -> Self {
        self.admin_at = Some(address.to_owned());
        self.section(&format!("[admin]\nlisten = \"{address}\""))
    }

    /// Where the admin plane was put, if anywhere.
    pub(crate) fn admin_address(&self) -> Option<&str> {
        self.admin_at.as_deref()
    }

    /// A section of its own, or several.
    pub(crate) fn section(mut self, text: &str) -> Self {
        write!(self.budgets, "\n{text}\n").expect("a string");
        self
    }

    /// A global budget.
    pub(crate) fn global_budget(mut self, lines: &str) -> Self {
        write!(self.budgets, "\n[[budget]]\n{lines}\n").expect("a string");
        self
    }

    /// The abuse guard, which is off otherwise.
    pub(crate) fn guard(mut self, lines: &str) -> Self {
        self.budgets = self.budgets.replacen("enabled = false", lines, 1);
        self
    }

    /// A webhook of that name to this address, which is tried again soon.
    pub(crate) fn webhook(self, name: &str, address: std::net::SocketAddr, more: &str) -> Self {
        self.section(&format!(
            "[[webhook]]\nname = \"{name}\"\nurl = \"http://{address}/hooks/{WEBHOOK_PATH}\"\n\
             secret = \"{WEBHOOK_SECRET}\"\nbackoff_ms = 20\nbackoff_max_ms = 100\n{more}"
        ))
    }

    /// Starts it.
    pub(crate) async fn start(self) -> Gate {
        self.write();
        Gate::start(self).await
    }

    /// Writes the configuration file.
    pub(crate) fn write(&self) {
        let Self { server, limits, ledger, budgets, policy, routes, .. } = self;
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"{data}\"\n{server}\n[limits]\n{limits}\n\
             [ledger]\n{ledger}\n[policy]\n{policy}\n{budgets}\n{routes}",
            data = self.data_dir().display(),
        );
        std::fs::write(self.config_file(), text).expect("a configuration file");
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("tollgate.toml")
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The policy file of [`Self::policy_text`].
    pub(crate) fn policy_file(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }
}

/// The lines whose key no line of `more` sets.
fn usual_unless_in(more: &str, lines: &[&str]) -> String {
    let key = |line: &str| line.split(['=', ' ', '.']).next().unwrap_or_default().to_owned();
    let set: Vec<String> = more.lines().map(|line| key(line.trim_start())).collect();
    let kept = lines.iter().copied().filter(|line| !set.contains(&key(line)));
    kept.collect::<Vec<_>>().join("\n")
}

/// The model's file: `TOLLGATE_MODEL`, else where `make model` puts it.
pub(crate) fn model_file() -> PathBuf {
    let file = std::env::var_os("TOLLGATE_MODEL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/SmolLM2-135M-Instruct-Q4_1.gguf"),
        PathBuf::from,
    );
    assert!(file.exists(), "no model at {}: run `make model`", file.display());
    file
}

/// The SHA-256 of a file in hex.
pub(crate) fn sha256(file: &Path) -> String {
    let bytes = std::fs::read(file).expect("the file");
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
