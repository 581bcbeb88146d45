//! `tollgate policy`: check a file, try it out on the past, show the one in force, explain a decision.

mod replay;

use super::{
    CliError, Common, Exit,
    link::{self, Link, Missing},
    output::{self, Align, rows, text, usd},
};
use crate::{
    config::{RouteSource, shipped},
    policy_watch::doubts,
};
use clap::{Args, Subcommand};
use http::Method;
use policies::{KnownRoute, Policy};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Parse a policy file, run its tests, and check it against the configured routes
    Check(CheckArgs),
    /// Print a policy: the one in force, or a shipped one by name
    Show(ShowArgs),
    /// Every version that came into force
    History,
    /// Read the policy file again, now
    Reload,
    /// Explain how a recorded request was decided
    Explain(ExplainArgs),
    /// Try a policy file out on past requests: what would have gone elsewhere, at what cost
    Replay(Box<replay::ReplayArgs>),
}

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policy file
    pub(crate) file: PathBuf,
    /// Check the file alone, not against the routes of the configuration
    #[arg(long)]
    pub(crate) no_routes: bool,
}

/// Which policy.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A shipped policy: edge-first, cloud-only, cheapest, private-stays-home
    pub(crate) name: Option<String>,
}

/// Which request.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request's id: its x-request-id
    pub(crate) id: String,
}

/// `tollgate policy check FILE`: needs neither a server nor a ledger.
pub(crate) fn check(common: &Common, args: &CheckArgs) -> Result<(), CliError> {
    let path = args.file.display().to_string();
    let (name, source) = written(&args.file)?;
    let refused = |mut error: policies::PolicyError| {
        error.file.clone_from(&path);
        CliError::failed(error.to_string())
    };
    let policy = Policy::parse(&name, &source).map_err(refused)?;
    let mut warnings = if args.no_routes {
        policy.warnings()
    } else {
        let config = link::config(common)
            .map_err(|error| error.hint("--no-routes checks the file without a configuration"))?;
        let routes: Vec<KnownRoute> = config
            .routes
            .iter()
            .map(|route| KnownRoute {
                id: route.id.clone(),
                local: matches!(route.source, RouteSource::Local(_)),
            })
            .collect();
        policy.check(&routes).map_err(refused)?
    };
    warnings.extend(doubts::of(&policy));
    if common.json {
        let warning = |warning: &policies::PolicyWarning| json!({ "line": warning.line, "message": warning.message });
        return output::json(&json!({
            "valid": true,
            "name": policy.name(),
            "version": policy.version(),
            "tests": policy.tests(),
            "warnings": warnings.iter().map(warning).collect::<Vec<_>>(),
        }));
    }
    for warning in &warnings {
        let line = if warning.line > 0 { format!(":{}", warning.line) } else { String::new() };
        output::note(format!("{path}{line}: warning: {}", warning.message));
    }
    output::say(format!(
        "{path}: policy {} {} is sound; its {} tests pass",
        policy.name(),
        policy.version(),
        policy.tests()
    ))
}

/// The name and the text of a policy in a file.
fn written(path: &Path) -> Result<(String, String), CliError> {
    let source = std::fs::read_to_string(path).map_err(|error| {
        let exit = match error.kind() {
            // It is there, and no text.
            std::io::ErrorKind::InvalidData => Exit::Failed,
            _ => Exit::NotFound,
        };
        CliError::new(exit, format!("{}: {error}", path.display()))
    })?;
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    Ok((name, source))
}

/// Runs a policy command that asks the server or opens the directory.
pub(crate) async fn run(common: &Common, command: PolicyCommand) -> Result<(), CliError> {
    if let PolicyCommand::Show(ShowArgs { name: Some(name) }) = &command {
        return show_shipped(common, name);
    }
    let link = Link::open(common, Missing::Refuse).await?;
    match command {
        PolicyCommand::Check(args) => check(common, &args),
        PolicyCommand::Replay(args) => replay::run(common, &link, &args).await,
        PolicyCommand::Show(_) => show_current(common, &link.get("/policies").await?),
        PolicyCommand::History => {
            let history = link.get("/policies/history").await?;
            if common.json {
                return output::json(&history);
            }
            output::table(
                rows(&history),
                &[
                    ("SINCE", Align::Left, &|note| text(note, "/since")),
                    ("NAME", Align::Left, &|note| text(note, "/name")),
                    ("VERSION", Align::Left, &|note| text(note, "/version")),
                ],
            )
        }
        PolicyCommand::Reload => {
            if !link.is_server() {
                return Err(CliError::new(Exit::Unreachable, "no server runs on this directory")
                    .hint("a server reads the policy when it starts"));
            }
            let now = link.ask(Method::POST, "/policies/reload", Some(&json!({}))).await?;
            if common.json {
                return output::json(&now);
            }
            if let Some(error) = now.pointer("/last_error/error").and_then(Value::as_str) {
                return Err(CliError::new(Exit::Refused, format!("the policy stays: {error}")));
            }
            output::say(format!("in force: {} {}", text(&now, "/name"), text(&now, "/version")))
        }
        PolicyCommand::Explain(args) => {
            let id = super::address::escaped(&args.id);
            let found = link.get(&format!("/ledger/requests/{id}")).await;
            let entry = found.map_err(|error| match error.exit() {
                Exit::NotFound => error.hint(
                    "a request that reached no route has no entry: the headers of its refusal name \
                     the rule, and x-tollgate-dry-run explains one like it",
                ),
                _ => error,
            })?;
            let Some(trace) = entry.get("trace") else {
                return Err(CliError::failed(text(&entry, "/trace_error")));
            };
            if common.json { output::json(trace) } else { output::say(trace_text(trace)) }
        }
    }
}

fn show_shipped(common: &Common, name: &str) -> Result<(), CliError> {
    let Some(source) = shipped::policy(name) else {
        let known: Vec<&str> = shipped::policy_names().collect();
        return Err(CliError::new(Exit::NotFound, format!("no policy named `{name}` is shipped"))
            .hint(format!("there are {}", known.join(", "))));
    };
    if common.json {
        return output::json(&json!({ "name": name, "source": source }));
    }
    output::say(source.trim_end())
}

fn show_current(common: &Common, policy: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(policy);
    }
    output::note(format!("{} {}", text(policy, "/name"), text(policy, "/version")));
    if let Some(error) = policy.pointer("/last_error/error").and_then(Value::as_str) {
        output::note(format!("a newer file is not in force: {error}"));
    }
    output::say(policy["source"].as_str().unwrap_or("-").trim_end())
}

/// What was decided, in words.
fn verdict_text(verdict: &Value) -> String {
    if let Some(refused) = verdict.get("refuse") {
        let by = refused["rule"].as_str().map_or_else(String::new, |rule| format!(" by {rule}"));
        return format!("refused{by}: {}", text(refused, "/message"));
    }
    let route = &verdict["route"];
    let plan: Vec<&str> =
        route["plan"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let raced = if route["hedged"] == true { " (hedged)" } else { "" };
    let short = match &route["on_short"] {
        Value::String(word) => word.clone(),
        Value::Object(clamp) => clamp.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    format!("decided by {}: {}{raced}; on_short = {short}", text(route, "/rule"), plan.join(", "))
}

/// A decision's trace in words.
pub(super) fn trace_text(trace: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        let _written = writeln!(out, "  {text}");
    };
    line(format!("policy {} {}", text(trace, "/policy"), text(trace, "/version")));
    line(verdict_text(&trace["verdict"]));
    let items = |name: &str| trace[name].as_array().map_or(&[][..], Vec::as_slice);
    for rule in items("rules") {
        let about = rule.get("route").map(|_| format!(" for {}", text(rule, "/route")));
        let failed = rule.get("failed").map(|_| format!(": not {}", text(rule, "/failed")));
        line(format!(
            "{} rule {}{}: {}{}",
            text(rule, "/phase"),
            text(rule, "/rule"),
            about.unwrap_or_default(),
            text(rule, "/outcome"),
            failed.unwrap_or_default()
        ));
    }
    for signal in items("signals") {
        line(format!("signal {} = {}", text(signal, "/signal"), text(signal, "/value")));
    }
    for route in items("routes") {
        let place = match route.get("place") {
            Some(place) => format!("place {place} of the plan"),
            None => format!("left out: {}", text(route, "/because")),
        };
        line(format!(
            "route {}: {place}; expected {} USD, at worst {} USD",
            text(route, "/route"),
            usd(route, "/expected_usd"),
            usd(route, "/worst_usd")
        ));
    }
    out.trim_end().to_owned()
}
