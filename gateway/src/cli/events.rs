//! `tollgate events`: what operators were told of, and who has heard it.

use super::{
    CliError, Common,
    address::param,
    link::{Link, Missing},
    output::{self, Align, rows, text},
};
use clap::Args;
use serde_json::Value;

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// A kind such as budget.reached_80, or a family: budget, guard
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// How many at most, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Go on from here: only those older than the event with this id
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
    /// The receivers instead: what waits for them, and how deliveries go
    #[arg(long, conflicts_with_all = ["kind", "limit", "after"])]
    pub(crate) webhooks: bool,
}

/// Runs the command.
pub(crate) async fn run(common: &Common, args: EventsArgs) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    if args.webhooks {
        return webhooks(common, &link.get("/webhooks").await?);
    }
    let mut params = String::new();
    param(&mut params, "limit", Some(&args.limit.to_string()));
    param(&mut params, "type", args.kind.as_deref());
    param(&mut params, "after", args.after.as_deref());
    let events = link.get(&format!("/events?{params}")).await?;
    if common.json {
        return output::json(&events);
    }
    output::table(
        rows(&events),
        &[
            ("AT", Align::Left, &|row| text(row, "/created")),
            ("TYPE", Align::Left, &|row| text(row, "/type")),
            ("ON", Align::Left, &subject),
            ("SEEN", Align::Left, &seen),
            ("ID", Align::Left, &|row| text(row, "/id")),
        ],
    )?;
    if let Some(last) = events["next_cursor"].as_str() {
        output::note(format!("older ones: --after {last}"));
    }
    Ok(())
}

fn subject(row: &Value) -> String {
    match text(row, "/data/budget").as_str() {
        "-" => text(row, "/data/subject"),
        budget => budget.to_owned(),
    }
}

fn seen(row: &Value) -> String {
    let of = |unit: &str| {
        let (spent, limit) = (format!("/data/spent_{unit}"), format!("/data/limit_{unit}"));
        format!("{} of {}", output::usd(row, &spent), output::usd(row, &limit))
    };
    match row["data"]["unit"].as_str() {
        None => text(row, "/data/seen"),
        Some("money") => format!("{} USD", of("usd")),
        Some(unit) => format!("{} {unit}", of(unit)),
    }
}

fn webhooks(common: &Common, list: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(list);
    }
    output::table(
        rows(list),
        &[
            ("NAME", Align::Left, &|row| text(row, "/name")),
            ("AT", Align::Left, &|row| text(row, "/origin")),
            ("EVENTS", Align::Left, &|row| text(row, "/events")),
            ("WAITING", Align::Right, &|row| text(row, "/waiting")),
            ("DELIVERED", Align::Right, &|row| text(row, "/delivered")),
            ("FAILED", Align::Right, &|row| text(row, "/failed_attempts")),
            ("GIVEN UP", Align::Right, &|row| text(row, "/given_up")),
            ("LAST ERROR", Align::Left, &|row| text(row, "/last_error")),
        ],
    )
}
