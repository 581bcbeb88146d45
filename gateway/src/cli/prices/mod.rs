//! `tollgate prices`: the dated list, the operator's rows included, and other programs' lists.

mod compare;
mod import;
mod rerate;

use super::{
    CliError, Common, Exit,
    link::{self, Link, Missing},
    output::{self, Align, rows, text, usd},
};
use crate::{admin::price_rows, clock::Clock};
use clap::{Args, Subcommand};
use policies::{PriceList, undated};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// List the rows: USD per million tokens
    List(ListArgs),
    /// Show every row of one model and the one that holds today
    Show(ShowArgs),
    /// Read another program's price file as rows of ours, with a report
    Import(import::ImportArgs),
    /// Compare two price files, or one with the list in the configuration
    Diff(compare::DiffArgs),
    /// Check a price file, and the prices of the configured routes
    Check(CheckArgs),
    /// Rate past requests anew by the prices of now; only says what would change unless --apply
    Rerate(rerate::RerateArgs),
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of this provider
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Of this model
    #[arg(long)]
    pub(crate) model: Option<String>,
}

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// As in the price list: provider/model
    #[arg(value_name = "PROVIDER/MODEL")]
    pub(crate) name: String,
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A price file; without one, the configuration's
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Runs a prices command.
pub(crate) async fn run(common: &Common, command: &PricesCommand) -> Result<(), CliError> {
    match command {
        PricesCommand::List(args) => list(common, args).await,
        PricesCommand::Show(args) => show(common, args).await,
        PricesCommand::Import(args) => import::run(common, args),
        PricesCommand::Diff(args) => compare::run(common, args),
        PricesCommand::Check(args) => check(common, args),
        PricesCommand::Rerate(args) => rerate::run(common, args).await,
    }
}

async fn list(common: &Common, args: &ListArgs) -> Result<(), CliError> {
    let list = listed(common, args.provider.as_deref(), args.model.as_deref()).await?;
    if common.json {
        return output::json(&list);
    }
    table(rows(&list))
}

/// Rows with what they say for the standard tier and short prompts.
fn table(rows: &[Value]) -> Result<(), CliError> {
    output::table(
        rows,
        &[
            ("PROVIDER", Align::Left, &|row| text(row, "/provider")),
            ("MODEL", Align::Left, &|row| text(row, "/model")),
            ("FROM", Align::Left, &|row| text(row, "/effective_from")),
            ("INPUT", Align::Right, &|row| usd(row, "/per_million_usd/input")),
            ("CACHED", Align::Right, &|row| usd(row, "/per_million_usd/cache_read")),
            ("OUTPUT", Align::Right, &|row| usd(row, "/per_million_usd/output")),
            ("ALSO PRICED", Align::Left, &also),
            ("ID", Align::Left, &|row| text(row, "/id")),
            ("SOURCE", Align::Left, &|row| text(row, "/source")),
        ],
    )
}

/// What else the row prices: long prompts, hours, service tiers.
fn also(row: &Value) -> String {
    let mut parts = Vec::new();
    for tier in row["tiers"].as_array().into_iter().flatten() {
        parts.push(format!("> {} tokens", text(tier, "/above_prompt_tokens")));
    }
    if row["hours"].as_array().is_some_and(|hours| !hours.is_empty()) {
        parts.push("by the hour".to_owned());
    }
    parts.extend(row["services"].as_object().into_iter().flatten().map(|(tier, _)| tier.clone()));
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// The rows of the server that `--server` names, else the configuration's: they need neither a server
/// nor a ledger.
async fn listed(
    common: &Common,
    provider: Option<&str>,
    model: Option<&str>,
) -> Result<Value, CliError> {
    if common.server.is_none() {
        let (prices, today) = (link::config(common)?.prices, Clock::system().day());
        let rows = price_rows(&prices, provider, model, &today);
        return Ok(json!({ "object": "list", "data": rows }));
    }
    let named = [("provider", provider), ("model", model)].into_iter();
    let named = named
        .filter_map(|(name, value)| Some(format!("{name}={}", super::address::escaped(value?))));
    let params = named.collect::<Vec<_>>().join("&");
    let link = Link::open(common, Missing::Refuse).await?;
    link.get(&format!("/prices?{params}")).await
}

async fn show(common: &Common, args: &ShowArgs) -> Result<(), CliError> {
    let Some((provider, model)) = args.name.split_once('/') else {
        let message = format!("`{}` is no provider/model such as openai/gpt-5-mini", args.name);
        return Err(CliError::usage(message));
    };
    let mut found = listed(common, Some(provider), Some(model)).await?;
    if rows(&found).is_empty()
        && let Some(model) = undated(model)
    {
        // A dated snapshot is priced by its model's rows, if they say so.
        let of_model = listed(common, Some(provider), Some(model)).await?;
        if rows(&of_model).iter().all(|row| row["snapshots"] == json!(true)) {
            found = of_model;
        }
    }
    if rows(&found).is_empty() {
        return Err(CliError::new(Exit::NotFound, format!("no row prices {}", args.name))
            .hint("write one into the file of [prices], or import one: tollgate prices import"));
    }
    // Everything a row says is more than a table holds.
    output::json(&found)
}

/// Reads a price file.
fn read(path: &Path) -> Result<PriceList, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
    PriceList::parse(&path.display().to_string(), &text)
        .map_err(|error| CliError::failed(error.to_string()))
}

fn check(common: &Common, args: &CheckArgs) -> Result<(), CliError> {
    if let Some(file) = &args.file {
        let list = read(file)?;
        let (rows, file) = (list.rows().len(), file.display());
        if common.json {
            return output::json(&json!({ "file": file.to_string(), "rows": rows }));
        }
        return output::say(format!("{file}: {rows} rows, every one is sound"));
    }
    let config = link::config(common)?;
    let now_s = Clock::system().unix_ms() / 1000;
    let view = |route: &crate::config::RouteConfig| {
        let price = route.price.at(now_s);
        json!({
            "route": route.id,
            "price": price.id(),
            "known": price.id().is_some(),
            "changes_unix_s": route.price.changes_after(now_s),
        })
    };
    let routes: Vec<Value> = config.routes.iter().map(view).collect();
    let unknown = routes.iter().filter(|route| route["known"] == json!(false)).count();
    if common.json {
        output::json(&json!({ "rows": config.prices.rows().len(), "routes": routes }))?;
    } else {
        output::table(
            &routes,
            &[
                ("ROUTE", Align::Left, &|route| text(route, "/route")),
                ("PRICE", Align::Left, &|route| text(route, "/price")),
                ("CHANGES (UNIX S)", Align::Right, &|route| text(route, "/changes_unix_s")),
            ],
        )?;
    }
    if unknown == 0 {
        return Ok(());
    }
    Err(CliError::failed(format!("the price of {unknown} routes is not known"))
        .hint("policies leave such routes out; give them a row or `price`: docs/prices.md"))
}
