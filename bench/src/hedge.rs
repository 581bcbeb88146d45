//! `bench hedge`: TTFT of streams through tollgate towards a provider that stalls now and then, with
//! a policy that hedges and with one that does not.
//!
//! One run: a mock that stalls a share of its streams and one that never does, one tollgate before
//! both for each policy, the same number of streams one after the other. What is reported: the ladder
//! of TTFT as the client saw it, and the extra calls as the second mock counted them.
//!
//! Invariant: both policies meet the same stalls, at the same places in the sequence.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::child::Child;
use crate::load::client::{Ask, Connection, Question};
use crate::machine::Birthplace;
use crate::stats::Ladder;
use crate::{child, output};

/// Streams that teach tollgate the route's usual TTFT before anything is measured.
const WARM: u64 = 200;

/// What the flags of `bench hedge` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HedgeArgs {
    /// The tollgate binary [default: the one beside this binary].
    #[arg(long)]
    tollgate: Option<PathBuf>,
    /// Streams measured under each policy.
    #[arg(long, default_value_t = 2000)]
    streams: u64,
    /// Every so many streams the first provider stalls: 50 are 2 %.
    #[arg(long, default_value_t = 50)]
    stall_every: u64,
    /// How long it stalls, milliseconds.
    #[arg(long, default_value_t = 1000)]
    stall_ms: u64,
    /// Date of the run, YYYY-MM-DD [default: today, UTC].
    #[arg(long)]
    date: Option<String>,
    /// Folder for the results; unset: `bench/runs/<date>-<machine>`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Everything one run found out; what `hedge.json` holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    stall_every: u64,
    stall_ms: u64,
    without: Seen,
    hedged: Seen,
}

/// What was seen under one policy.
#[derive(Debug, Serialize)]
struct Seen {
    ttft_ns: Option<Ladder>,
    /// Calls that the second provider answered, the warm-up's included.
    second_calls: u64,
    streams: u64,
}

/// Runs it and writes `hedge.json` and `hedge.md`.
pub(crate) fn run(args: &HedgeArgs) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    let binary = child::tollgate(args.tollgate.as_deref())?;
    let runtime = crate::one_thread()?;
    let measure = |action| runtime.block_on(measure(args, &binary, action));
    let without = measure("routes")?;
    let hedged = measure("hedge")?;
    let folder = output::folder(args.out.as_deref(), &birthplace);
    let table = table(args, &birthplace, [&without, &hedged]);
    let (stall_every, stall_ms) = (args.stall_every, args.stall_ms);
    let run = Run { birthplace, stall_every, stall_ms, without, hedged };
    output::write(&folder, "hedge", &run, &table)?;
    crate::say(&table)
}

/// The streams under a policy whose one rule has this action.
async fn measure(args: &HedgeArgs, binary: &Path, action: &str) -> Result<Seen, String> {
    crate::progress(&format!("policy: {action}"));
    let folder = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
    let stalls = [args.stall_every, args.stall_ms];
    let (_first, stalling) = mock(folder.path(), "first", Some(stalls)).await?;
    let (_second, steady) = mock(folder.path(), "second", None).await?;
    let address = free_address()?;
    write_config(folder.path(), address, [stalling, steady], action)?;
    let mut command = Command::new(binary);
    command.args(["serve", "--config", "tollgate.toml"]).current_dir(folder.path());
    let mut gate = Child::start(command, None, &folder.path().join("log"))?;
    gate.ready(&format!("http://{address}/ready")).await?;
    let key = folder.path().join("data/first.key");
    let key = fs::read_to_string(&key).map_err(|e| format!("{}: {e}", key.display()))?;
    let question = Question::new(&Ask {
        target: address,
        key: key.trim().to_owned(),
        model: "auto".to_owned(),
        stream: Some((4, Duration::ZERO)),
    })?;
    let mut connection = Connection::open(address).await?;
    let mut ttft = Vec::new();
    for stream in 0..WARM + args.streams {
        let began = Instant::now();
        let arrival = connection.ask(&question, |_| {}).await.map_err(|e| gate.complain(&e))?;
        if stream >= WARM {
            let took = arrival.first.saturating_duration_since(began);
            ttft.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    let served = crate::http_client()?.get(format!("http://{steady}/served")).send().await;
    let served = served.map_err(|e| format!("served: {e}"))?.text().await;
    let served = served.map_err(|e| format!("served: {e}"))?;
    Ok(Seen {
        ttft_ns: Ladder::of(&mut ttft),
        second_calls: served.trim().parse().map_err(|_| format!("not a count: {served}"))?,
        streams: WARM + args.streams,
    })
}

async fn mock(
    folder: &Path,
    name: &str,
    stalls: Option<[u64; 2]>,
) -> Result<(Child, SocketAddr), String> {
    let own = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
    let mut command = Command::new(own);
    command.arg("upstream");
    if let Some([every, millis]) = stalls {
        command.args(["--stall-every", &every.to_string(), "--stall-ms", &millis.to_string()]);
    }
    let mut child = Child::start(command, None, &folder.join(name))?;
    let address = child.address().await?;
    Ok((child, address))
}

fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("free port: {e}"))?;
    listener.local_addr().map_err(|e| format!("free port: {e}"))
}

fn write_config(
    folder: &Path,
    address: SocketAddr,
    mocks: [SocketAddr; 2],
    action: &str,
) -> Result<(), String> {
    let mut config = format!(
        "[server]\nlisten = \"{address}\"\ndata_dir = \"data\"\n[policy]\nfile = \"policy.toml\"\n"
    );
    for (name, mock) in ["first", "second"].iter().zip(mocks) {
        config.push_str(&format!(
            "[routes.{name}]\nkind = \"openai\"\nprovider = \"mock\"\nbase_url = \
             \"http://{mock}/v1\"\nmodel = \"mock-1\"\n[routes.{name}.price]\ninput = \
             \"0.25\"\noutput = \"2.00\"\n"
        ));
    }
    let policy = format!("[[choose]]\nname = \"bench\"\n{action} = [\"first\", \"second\"]\n");
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    write("tollgate.toml", &config)?;
    write("policy.toml", &policy)
}

fn table(args: &HedgeArgs, place: &Birthplace, seen: [&Seen; 2]) -> String {
    let mut text = output::heading("Hedging on the first token", place);
    text.push_str(&format!(
        "\nOne stream after the other; every {} th stalls for {} ms at the first provider. TTFT: \
         request sent to the first piece of content, as the client saw it, in milliseconds. Extra \
         calls: answers of the second provider / streams.\n\n\
         | policy | n | p50 | p95 | p99 | p99.9 | extra calls |\n|---|---|---|---|---|---|---|\n",
        args.stall_every, args.stall_ms
    ));
    for (name, seen) in ["without", "hedged"].iter().zip(seen) {
        let at = |read: fn(&Ladder) -> u64| {
            seen.ttft_ns.as_ref().map_or_else(|| "-".to_owned(), |ladder| millis(read(ladder)))
        };
        let (p50, p95) = (at(|l| l.p50), at(|l| l.p95));
        let (p99, p999) = (at(|l| l.p99), at(|l| l.p999));
        let permille = seen.second_calls * 1000 / seen.streams.max(1);
        text.push_str(&format!(
            "| {name} | {} | {p50} | {p95} | {p99} | {p999} | {}.{} % |\n",
            args.streams,
            permille / 10,
            permille % 10
        ));
    }
    text
}

/// Milliseconds with two digits.
fn millis(nanos: u64) -> String {
    format!("{}.{:02}", nanos / 1_000_000, nanos % 1_000_000 / 10_000)
}
