//! `tollgate routes`: the routes and their live state.

use super::{
    CliError, Common,
    link::{Link, Missing},
    output::{self, Align, ms, rows, text, usd},
};
use serde_json::Value;

/// Shows the routes.
pub(crate) async fn run(common: &Common) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    let routes = link.get("/routes").await?;
    if common.json {
        return output::json(&routes);
    }
    output::table(
        rows(&routes),
        &[
            ("ROUTE", Align::Left, &|route| text(route, "/id")),
            ("KIND", Align::Left, &|route| text(route, "/kind")),
            ("PROVIDER", Align::Left, &|route| text(route, "/provider")),
            ("MODEL", Align::Left, &|route| text(route, "/model")),
            ("STATE", Align::Left, &|route| text(route, "/state")),
            ("BREAKER", Align::Left, &|route| text(route, "/breaker/state")),
            ("IN FLIGHT", Align::Right, &|route| text(route, "/in_flight")),
            ("QUEUED", Align::Right, &|route| text(route, "/queued")),
            ("TTFT MS P50/P95", Align::Right, &|route| {
                format!("{}/{}", ms(route, "/ttft_p50_us"), ms(route, "/ttft_p95_us"))
            }),
            ("CONTEXT", Align::Right, &|route| text(route, "/context_tokens")),
            ("PRICE USD", Align::Left, &price),
        ],
    )?;
    if !link.is_server() {
        output::note("no server runs on this directory: this is the configuration");
    }
    Ok(())
}

fn price(route: &Value) -> String {
    match text(route, "/price/kind").as_str() {
        "tokens" => format!(
            "{} in, {} out per million tokens",
            usd(route, "/price/per_million_usd/input"),
            usd(route, "/price/per_million_usd/output")
        ),
        "compute" => format!("{} per busy hour", usd(route, "/price/usd_per_hour")),
        _ => "unknown".to_owned(),
    }
}
