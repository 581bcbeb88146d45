//! `tollgate prices rerate`: what past requests would have cost by the prices of now, and adjustments
//! that make it so.

use crate::cli::{
    CliError, Common,
    link::{Link, Missing},
    output::{self, Align, text, usd},
};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

/// Which attempts, and whether they are adjusted.
#[derive(Debug, Args)]
pub(crate) struct RerateArgs {
    /// Ended at or after this: RFC 3339, a day, or a span such as 30d
    #[arg(long, value_name = "TIME")]
    since: String,
    /// Ended before this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Sent to this route
    #[arg(long)]
    route: Option<String>,
    /// Asked for this model
    #[arg(long)]
    model: Option<String>,
    /// Asked of this provider
    #[arg(long)]
    provider: Option<String>,
    /// Asked by this key
    #[arg(long)]
    key: Option<String>,
    /// Write the adjustments; without it nothing is changed
    #[arg(long, requires = "reason")]
    apply: bool,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Asks for it and shows what came of it.
pub(super) async fn run(common: &Common, args: &RerateArgs) -> Result<(), CliError> {
    let body = json!({
        "since": args.since,
        "until": args.until,
        "route": args.route,
        "model": args.model,
        "provider": args.provider,
        "key": args.key,
        "apply": args.apply,
        "reason": args.reason,
    });
    let link = Link::open(common, Missing::Refuse).await?;
    let rated = link.ask(Method::POST, "/prices/rerate", Some(&body)).await?;
    if common.json {
        return output::json(&rated);
    }
    let by = rated["by"].as_array().map_or(&[][..], Vec::as_slice);
    if !by.is_empty() {
        output::table(
            by,
            &[
                ("PROVIDER", Align::Left, &|row| text(row, "/provider")),
                ("MODEL", Align::Left, &|row| text(row, "/model")),
                ("PRICE BEFORE", Align::Left, &|row| text(row, "/price_before")),
                ("PRICE NOW", Align::Left, &|row| text(row, "/price")),
                ("ATTEMPTS", Align::Right, &|row| text(row, "/attempts")),
                ("USD BEFORE", Align::Right, &|row| usd(row, "/cost_before_usd")),
                ("USD NOW", Align::Right, &|row| usd(row, "/cost_usd")),
                ("DIFFERENCE", Align::Right, &|row| usd(row, "/difference_usd")),
            ],
        )?;
    }
    for left in rated["left_out"].as_array().into_iter().flatten() {
        output::note(format!(
            "{} attempts left out: {}",
            text(left, "/attempts"),
            text(left, "/reason")
        ));
    }
    if let Some(time) = rated["dropped_before"].as_str() {
        output::note(format!(
            "requests that ended before {time} keep their cost: their entries were dropped"
        ));
    }
    output::say(summary(&rated, args.apply))
}

fn summary(rated: &Value, applied: bool) -> String {
    let (changed, unchanged) = (text(rated, "/changed"), text(rated, "/unchanged"));
    let difference = usd(rated, "/difference_usd");
    if applied {
        return format!("{changed} attempts adjusted by {difference} USD, {unchanged} unchanged");
    }
    format!(
        "{changed} attempts would change by {difference} USD, {unchanged} would not; nothing was \
         written: --apply --reason \"...\" does it"
    )
}
