//! Processes under test: started on their own core, awaited until they listen, ended with us.
//!
//! Invariant: a child never outlives its [`Child`], and one that cannot start says why: the error
//! carries the end of what it wrote.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for a server to listen.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait for one that was asked to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How often a starting server is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Bytes of a child's output quoted in an error.
const TAIL_BYTES: usize = 2_000;

/// A running process.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    log: PathBuf,
    what: String,
}

impl Child {
    /// Starts a program on the given cores (`taskset` list syntax; `None` leaves it free). Its
    /// output goes to `log`.
    pub(crate) fn start(
        command: Command,
        cores: Option<&str>,
        log: &Path,
    ) -> Result<Child, String> {
        let what = command.get_program().to_string_lossy().into_owned();
        let output = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = pinned(command, cores);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = command.spawn().map_err(|e| match (e.kind(), cores) {
            (io::ErrorKind::NotFound, Some(_)) => {
                "cannot start `taskset` (package util-linux); --no-pin goes without".to_owned()
            }
            _ => format!("cannot start {what}: {e}"),
        })?;
        Ok(Child { process, log: log.to_owned(), what })
    }

    /// The process id (`taskset` replaces itself by the program, so this is the program's).
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the line `listening ADDRESS` that our own servers print.
    pub(crate) async fn address(&mut self) -> Result<SocketAddr, String> {
        let started = Instant::now();
        loop {
            self.still_runs()?;
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("listening "));
            if let Some(address) = line.and_then(|address| address.trim().parse().ok()) {
                return Ok(address);
            }
            self.wait(started).await?;
        }
    }

    /// Waits until a GET of the URL answers 200.
    pub(crate) async fn ready(&mut self, url: &str) -> Result<(), String> {
        let client = crate::http_client()?;
        let started = Instant::now();
        loop {
            self.still_runs()?;
            let answer = client.get(url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.wait(started).await?;
        }
    }

    /// An error, with the end of its output, when the process has ended.
    pub(crate) fn still_runs(&mut self) -> Result<(), String> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.complain(&format!("ended with {status}"))),
            Err(e) => Err(self.complain(&format!("cannot be watched: {e}"))),
        }
    }

    async fn wait(&self, started: Instant) -> Result<(), String> {
        if started.elapsed() > START_MAX {
            return Err(self.complain("did not start listening within 60 s"));
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    /// The message with the end of the process's output below it.
    pub(crate) fn complain(&self, message: &str) -> String {
        format!("{} {message}; the end of its output:\n{}", self.what, tail(&self.log))
    }
}

impl Drop for Child {
    /// Asks it to end, so that what it does at its end is done (a profile is written then), and ends
    /// it where it takes too long.
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let began = Instant::now();
        while asked && began.elapsed() < STOP_MAX {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "nothing tells of another process's end, and a `Drop` cannot await"
            )]
            std::thread::sleep(POLL);
        }
        // Both fail only for a process that has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pinned(command: Command, cores: Option<&str>) -> Command {
    let Some(cores) = cores else { return command };
    let mut outer = Command::new("taskset");
    outer.args(["--cpu-list", cores]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

/// Puts this process, with all its future threads, on the given cores.
pub(crate) fn pin_self(cores: &str) -> Result<(), String> {
    let pid = std::process::id().to_string();
    let done = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", cores, &pid])
        .stdout(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start `taskset` (package util-linux): {e}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("taskset: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
}

/// The tollgate binary: the one given, else the one beside this program.
pub(crate) fn tollgate(given: Option<&Path>) -> Result<PathBuf, String> {
    let beside = || std::env::current_exe().ok().map(|exe| exe.with_file_name("tollgate"));
    let path = given.map(Path::to_owned).or_else(beside).unwrap_or_else(|| "tollgate".into());
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "no tollgate at {}: build it with `scripts/release -p gateway`, or name it with --tollgate",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut child = Child::start(shell("echo no such file >&2; exit 3"), None, &log).unwrap();
        let error = child.address().await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains("no such file"), "{error}");
    }

    #[tokio::test]
    async fn the_address_is_the_one_printed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = "echo starting; echo listening 127.0.0.1:4321; sleep 600";
        let mut child = Child::start(shell(script), None, &log).unwrap();
        assert_eq!(child.address().await.unwrap().port(), 4_321);
        let pid = child.pid();
        drop(child);
        assert!(crate::procfs::memory(pid).is_err(), "the child outlived its owner");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Command::new("/nowhere/tollgate");
        let error = Child::start(missing, None, &dir.path().join("log")).unwrap_err();
        assert!(error.contains("/nowhere/tollgate"), "{error}");
    }
}
