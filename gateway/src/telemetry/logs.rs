//! Logs to stderr, filtered by `TOLLGATE_LOG`.

use std::io::{IsTerminal as _, Stderr, stderr};
use tracing_subscriber::{
    EnvFilter, fmt,
    fmt::{
        SubscriberBuilder,
        format::{DefaultFields, Format},
    },
};

/// Other crates write requests' heads at `debug` and `trace`: never let them, whatever the filter
/// says.
const QUIET: [&str; 6] =
    ["h2=info", "hyper=info", "hyper_util=info", "reqwest=info", "rustls=info", "sled=info"];

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `TOLLGATE_LOG` (else `RUST_LOG`) is a filter such as `info` or
/// `gateway::policy_watch=debug`; the default is `info`. Does nothing if logging has been started.
pub fn start_logging(format: LogFormat) {
    let asked = ["TOLLGATE_LOG", "RUST_LOG"].iter().find_map(|name| std::env::var(name).ok());
    let wanted = EnvFilter::try_new(asked.as_deref().unwrap_or("info"));
    let (wanted, wrong) = match wanted {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let filter = QUIET.iter().fold(wanted, |filter, quiet| match quiet.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    });
    let lines = to_stderr(filter);
    // An error only says that a logger is there already.
    let _started = match format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, "TOLLGATE_LOG is no filter such as info: info is taken");
    }
}

/// Starts logging for a command: nothing but errors unless `TOLLGATE_LOG` asks for more.
pub fn start_quiet_logging() {
    if std::env::var_os("TOLLGATE_LOG").is_some() {
        return start_logging(LogFormat::Text);
    }
    let _started = to_stderr(EnvFilter::new("error")).try_init();
}

/// Lines for stderr, in colour on a terminal. One that cannot be written is lost: to say so on the
/// same stderr would end whatever was being done.
fn to_stderr(
    filter: EnvFilter,
) -> SubscriberBuilder<DefaultFields, Format, EnvFilter, fn() -> Stderr> {
    let color = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let writer: fn() -> Stderr = stderr;
    fmt().with_env_filter(filter).with_writer(writer).with_ansi(color).log_internal_errors(false)
}
