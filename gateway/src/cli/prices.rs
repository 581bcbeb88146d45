//! `tollgate prices`: the dated list, the operator's rows included.

use super::{
    CliError, Common,
    link::{self, Link, Missing},
    output::{self, Align, rows, text, usd},
};
use crate::admin::price_rows;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// List the rows: USD per million tokens
    List(ListArgs),
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

/// Runs a prices command.
pub(crate) async fn run(common: &Common, command: &PricesCommand) -> Result<(), CliError> {
    let PricesCommand::List(args) = command;
    let list = match &common.server {
        Some(_) => asked(common, args).await?,
        None => {
            // The list is the configuration's: neither a server nor a ledger is needed.
            let prices = link::config(common)?.prices;
            let (provider, model) = (args.provider.as_deref(), args.model.as_deref());
            json!({ "object": "list", "data": price_rows(&prices, provider, model) })
        }
    };
    if common.json {
        return output::json(&list);
    }
    output::table(
        rows(&list),
        &[
            ("PROVIDER", Align::Left, &|row| text(row, "/provider")),
            ("MODEL", Align::Left, &|row| text(row, "/model")),
            ("FROM", Align::Left, &|row| text(row, "/effective_from")),
            ("INPUT", Align::Right, &|row| usd(row, "/per_million_usd/input")),
            ("CACHED", Align::Right, &|row| usd(row, "/per_million_usd/cache_read")),
            ("OUTPUT", Align::Right, &|row| usd(row, "/per_million_usd/output")),
            ("ID", Align::Left, &|row| text(row, "/id")),
            ("SOURCE", Align::Left, &|row| text(row, "/source")),
        ],
    )
}

async fn asked(common: &Common, args: &ListArgs) -> Result<Value, CliError> {
    let mut params = Vec::new();
    for (name, value) in [("provider", &args.provider), ("model", &args.model)] {
        if let Some(value) = value {
            params.push(format!("{name}={}", super::ledger::escaped(value)));
        }
    }
    let link = Link::open(common, Missing::Refuse).await?;
    link.get(&format!("/prices?{}", params.join("&"))).await
}
