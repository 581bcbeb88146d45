//! Feeds mutated inputs to what reads foreign bytes: `fuzz TARGET... --seconds 600`. Each target
//! runs in a child process, so that an abort of llama.cpp is a finding like a panic. The inputs
//! begin from `tests/fuzz/corpus/TARGET/`; the numbers behind the mutations are the same in every
//! run, so a run of the same length finds the same. `--seconds 0` tries the corpus alone.
//!
//! **Invariant:** an input is written down before it is tried: whatever happens, it is there.

mod mutate;
mod targets;

use clap::Parser;
use mutate::Mutator;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};
use targets::{TARGETS, Target};

/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Parser)]
struct Args {
    /// Targets; none: all of them
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory with a directory of inputs for each target
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))]
    corpus: PathBuf,
    /// Where an input that was a finding stays
    #[arg(long, default_value = "target/fuzz")]
    findings: PathBuf,
    /// Run the one target here, in this process
    #[arg(long, hide = true)]
    child: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match if args.child { child(&args) } else { parent(&args) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nobody listens: nothing can be said.
            let _unsaid = writeln!(std::io::stderr(), "fuzz: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Starts a child for each target and says what became of it.
fn parent(args: &Args) -> Result<(), String> {
    let is_known = |wanted: &&String| TARGETS.iter().any(|(name, _)| name == wanted);
    if let Some(unknown) = args.targets.iter().find(|wanted| !is_known(wanted)) {
        let known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no target `{unknown}`; there are {}", known.join(", ")));
    }
    fs::create_dir_all(&args.findings).map_err(|e| e.to_string())?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    for (name, _) in TARGETS {
        if !args.targets.is_empty() && !args.targets.iter().any(|wanted| wanted == name) {
            continue;
        }
        let status = Command::new(&program)
            .args([name, "--child", "--seconds", &args.seconds.to_string()])
            .args(["--seed", &args.seed.to_string()])
            .arg("--corpus")
            .arg(&args.corpus)
            .arg("--findings")
            .arg(&args.findings)
            .status()
            .map_err(|e| e.to_string())?;
        if !status.success() {
            found.push(format!("{name}: {status}, its input is {}", input(args, name).display()));
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

fn input(args: &Args, target: &str) -> PathBuf {
    args.findings.join(format!("{target}.input"))
}

/// Tries inputs until the time is over.
fn child(args: &Args) -> Result<(), String> {
    let name = args.targets.first().ok_or("which target?")?;
    let (_, make) = TARGETS.iter().find(|(other, _)| other == name).ok_or("no such target")?;
    let mut target: Target = make()?;
    let mut mutator = Mutator::new(corpus(&args.corpus.join(name))?, args.seed);
    let path = input(args, name);
    let seeds = mutator.seeds();
    let mut taken = 0_usize;
    for seed in &seeds {
        fs::write(&path, seed).map_err(|e| e.to_string())?;
        let is_taken =
            target(seed).map_err(|what| format!("{name}, an input of the corpus: {what}"))?;
        taken += usize::from(is_taken);
    }
    let (begun, until) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut tried = 0_u64;
    while begun.elapsed() < until {
        let bytes = mutator.next(INPUT_BYTES_MAX);
        fs::write(&path, &bytes).map_err(|e| e.to_string())?;
        target(&bytes).map_err(|what| format!("{name}: {what}"))?;
        tried += 1;
    }
    fs::remove_file(&path).map_err(|e| e.to_string())?;
    writeln!(
        std::io::stdout(),
        "{name}: {taken} of {} inputs of the corpus taken, {tried} others in {} s, no finding",
        seeds.len(),
        args.seconds
    )
    .map_err(|e| e.to_string())
}

fn corpus(directory: &Path) -> Result<Vec<Vec<u8>>, String> {
    let entries = fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    if paths.is_empty() {
        return Err(format!("{}: no input to begin from", directory.display()));
    }
    paths.iter().map(|path| fs::read(path).map_err(|e| e.to_string())).collect()
}
