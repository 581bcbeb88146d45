//! `tollgate limits`: the limits of single models, and what they have let through.

use super::{
    CliError, Common,
    allowance::limits,
    link::{Link, Missing},
    output::{self, Align, rows, text},
};

/// Runs the command.
pub(crate) async fn run(common: &Common) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    let models = link.get("/limits").await?;
    if common.json {
        return output::json(&models);
    }
    output::table(
        rows(&models),
        &[
            ("MODEL", Align::Left, &|row| text(row, "/model")),
            ("LIMITS", Align::Left, &limits),
            ("IN FLIGHT", Align::Right, &|row| text(row, "/in_flight")),
            ("REQUESTS LEFT", Align::Right, &|row| text(row, "/remaining_requests")),
            ("TOKENS LEFT", Align::Right, &|row| text(row, "/remaining_tokens")),
        ],
    )
}
