//! The command line: `serve` and the operator's tools.
//!
//! **Invariants:** results go to stdout and everything else to stderr; `--json` prints what the
//! admin API answered, unchanged; every failure says what, why and the next command, and ends with
//! a documented exit code.

mod address;
mod allowance;
mod backup;
mod budgets;
mod doctor;
mod entry;
mod error;
mod events;
mod export;
mod groups;
mod guard;
mod idle;
mod init;
mod keys;
mod ledger;
mod limits;
mod link;
mod models;
mod output;
mod policy;
mod prices;
mod reconcile;
mod routes;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod trust;

pub(crate) use error::{CliError, Exit};

use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// An LLM gateway: one binary between an application and its language models.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The configuration where no other is named.
const CONFIG_FILE: &str = "tollgate.toml";

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// The configuration file
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "TOLLGATE_CONFIG",
        default_value = CONFIG_FILE,
        value_name = "FILE"
    )]
    pub(crate) config: PathBuf,
    /// The data directory, instead of the configured one
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Talk to the server at this URL (its admin key in TOLLGATE_ADMIN_KEY) instead of the one that
    /// holds the data directory
    #[arg(
        long,
        global = true,
        help_heading = EVERYWHERE,
        env = "TOLLGATE_SERVER",
        value_name = "URL"
    )]
    pub(crate) server: Option<String>,
    /// Trust the server of --server if one of these certificates signed its own (PEM)
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "TOLLGATE_CA_CERT", value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Show this certificate to a server that asks for one (PEM, its key in the same file)
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "TOLLGATE_CLIENT_CERT", value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve requests
    Serve(serve::ServeArgs),
    /// Write a commented tollgate.toml into this directory
    Init(init::InitArgs),
    /// Create, list, change, disable and revoke keys
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Ask the ledger what happened and what it cost
    #[command(subcommand)]
    Ledger(Box<ledger::LedgerCommand>),
    /// Check and show policies, and explain what they decided
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// List, load, unload and exchange the models in the server's process
    #[command(subcommand)]
    Model(models::ModelCommand),
    /// Show the routes and their live state
    Routes,
    /// Computes for the server that started it; not for people
    #[command(name = ENGINE_WORKER, hide = true)]
    EngineWorker,
    /// Show every budget: limit, spent, reserved, left (the same as `budget list`)
    Budgets,
    /// Show, set and remove budgets of everyone, teams, users, tags and keys
    #[command(subcommand)]
    Budget(groups::BudgetCommand),
    /// Show the limits of single models, and what is left of them
    Limits,
    /// Set up, list, change and disable teams
    #[command(subcommand)]
    Team(groups::GroupCommand<groups::OfTeam>),
    /// Set up, list, change and disable users
    #[command(subcommand)]
    User(groups::GroupCommand<groups::OfUser>),
    /// See and lift what the abuse guard does
    #[command(subcommand)]
    Guard(guard::GuardCommand),
    /// Show what operators were told of: budgets that fill, what the guard did; and who has heard it
    Events(events::EventsArgs),
    /// Show, import, compare and check prices
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Check each route: is its provider there, does it take the key, do the clocks agree
    Doctor,
}

/// The command by which the server starts this program as the process of an engine.
pub(crate) const ENGINE_WORKER: &str = "engine-worker";

/// Where help lists what every command understands, below the command's own options.
const EVERYWHERE: &str = "Options of every command";

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 refused by the server · \
5 no server and no usable data directory

Commands other than `serve` talk to the server that holds the data directory, or open the \
directory themselves when none does. NO_COLOR and TOLLGATE_LOG (such as `debug`) are honoured.";

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody listens: nothing can be said.
            let _unsaid = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    // An error says that a provider is installed already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    match run(cli) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            output::complain(&error);
            error.exit().into()
        }
    }
}

impl Common {
    /// The same without what is set to nothing: a variable that is there and empty names nothing.
    fn set(self) -> Self {
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        Self {
            config: Some(self.config).filter(is_set).unwrap_or_else(|| CONFIG_FILE.into()),
            data_dir: self.data_dir,
            server: self.server.filter(|url| !url.is_empty()),
            ca_cert: self.ca_cert.filter(is_set),
            client_cert: self.client_cert.filter(is_set),
            json: self.json,
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { common, command } = cli;
    let common = common.set();
    match command {
        Command::Serve(args) => return serve::run(&common, &args),
        Command::Init(args) => return init::run(&common, &args),
        Command::EngineWorker => {
            crate::telemetry::start_logging(crate::telemetry::LogFormat::default());
            return local_engine::serve_parent()
                .map_err(|error| CliError::failed(format!("the engine's process: {error}")));
        }
        Command::Policy(policy::PolicyCommand::Check(args)) => {
            return policy::check(&common, &args);
        }
        _ => {}
    }
    crate::telemetry::start_quiet_logging();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    runtime.block_on(ask(&common, command))
}

/// Commands that ask the admin API.
async fn ask(common: &Common, command: Command) -> Result<(), CliError> {
    match command {
        Command::Key(command) => keys::run(common, command).await,
        Command::Ledger(command) => ledger::run(common, *command).await,
        Command::Policy(command) => policy::run(common, command).await,
        Command::Model(command) => models::run(common, command).await,
        Command::Routes => routes::run(common).await,
        Command::Budget(command) => groups::budget(common, command).await,
        Command::Team(command) => groups::run(common, "teams", command).await,
        Command::User(command) => groups::run(common, "users", command).await,
        Command::Guard(command) => guard::run(common, command).await,
        Command::Events(args) => events::run(common, args).await,
        Command::Budgets => budgets::run(common).await,
        Command::Limits => limits::run(common).await,
        Command::Prices(command) => prices::run(common, &command).await,
        Command::Doctor => doctor::run(common).await,
        Command::Serve(_) | Command::Init(_) | Command::EngineWorker => Ok(()),
    }
}
