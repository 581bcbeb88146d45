//! The gateway as a child process: started, listened to, stopped and killed.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
    sync::watch,
};
use tokio_util::task::TaskTracker;

/// Longest wait for the first word of a start, model load included.
const START_MAX: Duration = Duration::from_secs(120);
/// Longest wait for an orderly end.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Beside the configuration, where a test puts it: what the program takes for the certificates that
/// its system trusts.
pub(super) const TRUSTED_FILE: &str = "trusted.pem";

/// A running gateway. Killed when dropped.
pub(crate) struct Child {
    process: tokio::process::Child,
    pid: u32,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Child {
    /// Starts `serve` on a configuration and waits until it says where it listens.
    pub(crate) async fn start(config: PathBuf) -> Self {
        Self::start_to(config, Stdio::piped(), Stdio::piped()).await
    }

    /// The same as `make run` starts it.
    pub(crate) async fn start_with_hello(config: PathBuf) -> Self {
        Self::serve(config, &["--hello"], Stdio::piped(), Stdio::piped()).await
    }

    /// The same with a stdout and a stderr of the test's own; the one that is piped is read.
    pub(crate) async fn start_to(config: PathBuf, out: Stdio, err: Stdio) -> Self {
        Self::serve(config, &[], out, err).await
    }

    async fn serve(config: PathBuf, more: &[&str], out: Stdio, err: Stdio) -> Self {
        let mut process = Self::command(&config)
            .args(["serve", "--config"])
            .arg(&config)
            .args(more)
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("the gateway starts");
        let pid = process.id().expect("a process that runs has an id");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, mut address) = watch::channel(None);
        let readers = TaskTracker::new();
        let (out, err) = (process.stdout.take(), process.stderr.take());
        if let Some(out) = out {
            readers.spawn(keep(out, Arc::clone(&log), found.clone()));
        }
        if let Some(err) = err {
            readers.spawn(keep(err, Arc::clone(&log), found));
        }
        let heard = tokio::time::timeout(START_MAX, address.wait_for(Option::is_some)).await;
        let address = match heard {
            Ok(Ok(address)) => address.expect("waited for"),
            _ => panic!("the gateway did not start:\n{}", log.lock().expect("a log")),
        };
        Self { process, pid, address, log }
    }

    /// Runs another command of the program to its end.
    pub(crate) async fn run(directory: &Path, args: &[&str]) -> Ran {
        Self::run_with(directory, &[], args).await
    }

    /// The same with these variables in its environment.
    pub(crate) async fn run_with(
        directory: &Path,
        environment: &[(&str, &str)],
        args: &[&str],
    ) -> Ran {
        let mut command = Self::command(&directory.join("tollgate.toml"));
        command.envs(environment.iter().copied());
        let output = command.args(args).output().await.expect("the program runs");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs another command of the program whose output nobody reads: the reader has gone.
    pub(crate) async fn run_unread(directory: &Path, args: &[&str]) -> Ran {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Self::command(&directory.join("tollgate.toml"));
        let child = command.args(args).stdout(writer).spawn().expect("the program runs");
        // The pipe's other end is held by the program alone.
        drop(command);
        let output = child.wait_with_output().await.expect("the program ends");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::new(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn command(config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate-under-test"));
        let directory = config.parent().expect("a directory");
        let trusted = directory.join(TRUSTED_FILE);
        if trusted.exists() {
            command.env("SSL_CERT_FILE", trusted);
        }
        command
            .current_dir(directory)
            .env("NO_COLOR", "1")
            .env("TOLLGATE_LOG", "debug")
            .env_remove("TOLLGATE_CONFIG")
            .env_remove("TOLLGATE_SERVER")
            .env_remove("TOLLGATE_ADMIN_KEY")
            // A proxy that nobody may follow: every address is asked itself.
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("HTTPS_PROXY", "http://127.0.0.1:1")
            .env_remove("NO_PROXY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything it has written to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("a log").clone()
    }

    /// `kill -9`, and waits for the end.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.expect("a process to kill");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let ended = tokio::time::timeout(STOP_MAX, self.process.wait());
        let status = ended.await.expect("an orderly end in time").expect("an end");
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid).expect("a process id");
        // SAFETY: kill(2) takes two integers and touches no memory of ours; the process is our own
        // child and has not been waited for, so the id cannot belong to another.
        #[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} to {pid}");
    }
}

/// Nothing panics while it serves, whatever a test does to it, but what rehearses that.
impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = self.log();
        let mut panics = log.split("panicked at ").skip(1);
        let unforeseen = panics.find(|told| !told.contains("a rehearsed panic"));
        assert!(unforeseen.is_none(), "{log}");
    }
}

/// Keeps what the process says, and finds the address in it.
async fn keep(
    pipe: impl AsyncRead + Unpin,
    log: Arc<Mutex<String>>,
    found: watch::Sender<Option<SocketAddr>>,
) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = address_in(&line) {
            found.send_if_modified(|known| known.replace(address).is_none());
        }
        let mut log = log.lock().expect("a log");
        log.push_str(&line);
        log.push('\n');
    }
}

/// The first loopback address with a port in a line about listening.
fn address_in(line: &str) -> Option<SocketAddr> {
    if !line.to_ascii_lowercase().contains("listen") {
        return None;
    }
    let start = line.find("127.0.0.1:")?;
    let text: String = line[start..]
        .chars()
        .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
        .collect();
    text.parse().ok().filter(|address: &SocketAddr| address.port() != 0)
}
