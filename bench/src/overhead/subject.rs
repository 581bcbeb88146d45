//! What is measured: the servers, each a process of its own on the server core, all asking the
//! same mock upstream.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use super::OverheadArgs;
use super::tollgate::{self, LedgerCheck, Tollgate};
use crate::child::{self, Child};
use crate::procfs::CpuReading;

/// A way from the generator to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// No server in between.
    Direct,
    /// The bare axum + reqwest proxy.
    Bare,
    /// tollgate, everything on, `durability = "grouped"`.
    Grouped,
    /// tollgate, everything on, `durability = "strict"`.
    Strict,
}

impl Subject {
    pub(crate) const ALL: [Subject; 4] =
        [Subject::Direct, Subject::Bare, Subject::Grouped, Subject::Strict];

    /// As shown in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::Bare => "bare axum + reqwest",
            Subject::Grouped => "tollgate, grouped",
            Subject::Strict => "tollgate, strict",
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Subject::Direct => "direct",
            Subject::Bare => "bare",
            Subject::Grouped => "grouped",
            Subject::Strict => "strict",
        })
    }
}

/// How long servers are watched for leftover work, and how often.
const SETTLE_LOOK: Duration = Duration::from_millis(60);
const SETTLE_LOOKS_MAX: u32 = 50;

/// Where a subject is reached.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) model: String,
    /// The server's process; `None` for direct.
    pub(crate) pid: Option<u32>,
}

/// All running servers. Dropping it ends them and removes their data.
#[derive(Debug)]
pub(crate) struct Subjects {
    upstream: Child,
    upstream_address: SocketAddr,
    bare: Option<(Child, SocketAddr)>,
    tollgates: Vec<(Subject, Tollgate)>,
    client: reqwest::Client,
    folder: TempDir,
}

impl Subjects {
    /// Starts what the run needs.
    pub(crate) async fn start(args: &OverheadArgs) -> Result<Subjects, String> {
        let folder = temporary(args.data.as_deref())?;
        let core = |core: &String| (!args.no_pin).then(|| core.clone());
        let (server_core, load_core) = (core(&args.server_core), core(&args.load_core));
        let log = |name: &str| folder.path().join(format!("{name}.log"));

        let mut upstream =
            Child::start(own(&["upstream"])?, load_core.as_deref(), &log("upstream"))?;
        let upstream_address = upstream.address().await?;
        let url = format!("http://{upstream_address}");

        let mut bare = None;
        if args.subjects.contains(&Subject::Bare) {
            let command = own(&["proxy", "--upstream", &url])?;
            let mut child = Child::start(command, server_core.as_deref(), &log("proxy"))?;
            let address = child.address().await?;
            bare = Some((child, address));
        }
        let mut tollgates = Vec::new();
        for (subject, durability) in [(Subject::Grouped, "grouped"), (Subject::Strict, "strict")] {
            if args.subjects.contains(&subject) {
                let setup = tollgate::Setup {
                    binary: child::tollgate(args.tollgate.as_deref())?,
                    folder: folder.path().join(durability),
                    durability,
                    upstream: url.clone(),
                };
                tollgates.push((subject, Tollgate::start(&setup, server_core.as_deref()).await?));
            }
        }
        let client = crate::http_client()?;
        Ok(Subjects { upstream, upstream_address, bare, tollgates, client, folder })
    }

    /// The folder of the temporary ledgers.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The mock provider's process.
    pub(crate) fn upstream_pid(&self) -> u32 {
        self.upstream.pid()
    }

    /// Where to send a subject's requests.
    pub(crate) fn door(&self, subject: Subject) -> Result<Door, String> {
        let plain = |address, pid| Door {
            address,
            key: "none".to_owned(),
            model: "mock-1".to_owned(),
            pid,
        };
        let bare = self.bare.as_ref().map(|(child, address)| plain(*address, Some(child.pid())));
        match subject {
            Subject::Direct => Some(plain(self.upstream_address, None)),
            Subject::Bare => bare,
            Subject::Grouped | Subject::Strict => {
                let found = self.tollgates.iter().find(|(name, _)| *name == subject);
                found.map(|(_, tollgate)| tollgate.door())
            }
        }
        .ok_or_else(|| format!("{} was not started", subject.name()))
    }

    /// An error when a server has ended.
    pub(crate) fn all_run(&mut self) -> Result<(), String> {
        self.upstream.still_runs()?;
        if let Some((child, _)) = &mut self.bare {
            child.still_runs()?;
        }
        self.tollgates.iter_mut().try_for_each(|(_, tollgate)| tollgate.child.still_runs())
    }

    /// Waits until no server works off what the last phase left it (a ledger may compress a
    /// segment), so that one subject's work is not in another's way; at most 3 s. What still runs
    /// then shows in the next phase as others' time.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let pids: Vec<u32> = Subject::ALL
            .into_iter()
            .filter_map(|subject| self.door(subject).ok()?.pid)
            .chain([self.upstream.pid()])
            .collect();
        let read = || pids.iter().map(|pid| CpuReading::of(*pid)).collect::<Result<Vec<_>, _>>();
        let mut before = read()?;
        for _ in 0..SETTLE_LOOKS_MAX {
            tokio::time::sleep(SETTLE_LOOK).await;
            let after = read()?;
            let worked: Duration = after.iter().zip(&before).map(|(a, b)| a.since(b)).sum();
            if worked < SETTLE_LOOK / 20 {
                break;
            }
            before = after;
        }
        Ok(())
    }

    /// A message about a subject with the end of its server's output.
    pub(crate) fn complain(&self, subject: Subject, message: &str) -> String {
        let found = self.tollgates.iter().find(|(name, _)| *name == subject);
        match (found, &self.bare) {
            (Some((_, tollgate)), _) => tollgate.child.complain(message),
            (None, Some((child, _))) if subject == Subject::Bare => child.complain(message),
            _ => format!("{}: {message}", subject.name()),
        }
    }

    /// Answers the mock upstream has begun so far.
    pub(crate) async fn served(&self) -> Result<u64, String> {
        let url = format!("http://{}/served", self.upstream_address);
        let answer = self.client.get(url).send().await.map_err(|e| format!("upstream: {e}"))?;
        let text = answer.text().await.map_err(|e| format!("upstream: {e}"))?;
        text.parse().map_err(|e| format!("upstream's count: {e}"))
    }

    /// Asks every tollgate what its books say about the run.
    pub(crate) async fn check_ledgers(&self) -> Result<Vec<LedgerCheck>, String> {
        let mut checks = Vec::new();
        for (subject, tollgate) in &self.tollgates {
            checks.push(tollgate.check_ledger(*subject).await?);
        }
        Ok(checks)
    }

    /// The books are asked for what was really sent.
    pub(crate) fn count_sent(&mut self, subject: Subject, requests: u64, tokens_each: u64) {
        if let Some((_, tollgate)) = self.tollgates.iter_mut().find(|(name, _)| *name == subject) {
            tollgate.sent.requests += requests;
            tollgate.sent.output_tokens += requests * tokens_each;
        }
    }
}

fn temporary(inside: Option<&Path>) -> Result<TempDir, String> {
    let parent = inside.map_or_else(std::env::temp_dir, Path::to_owned);
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("tollgate-bench-")
        .tempdir_in(&parent)
        .map_err(|e| format!("{}: {e}", parent.display()))
}

/// This binary with other arguments.
fn own(args: &[&str]) -> Result<Command, String> {
    let exe = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let mut command = Command::new(exe);
    command.args(args);
    Ok(command)
}

/// When the tollgate binary was built: a stale one would be measured without complaint.
pub(crate) fn built(args: &OverheadArgs) -> Option<String> {
    let modified =
        child::tollgate(args.tollgate.as_deref()).ok()?.metadata().ok()?.modified().ok()?;
    Some(jiff::Timestamp::try_from(modified).ok()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
