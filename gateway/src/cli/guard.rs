//! `tollgate guard`: what the abuse guard does, and how to lift it.

use super::{
    CliError, Common,
    link::{Link, Missing},
    output::{self, Align, text},
};
use clap::{Args, Subcommand};
use http::Method;

/// The abuse guard.
#[derive(Debug, Subcommand)]
pub(crate) enum GuardCommand {
    /// List what is being done now
    List,
    /// Lift it; what was seen counts as usual from now on
    Lift(SubjectArgs),
}

/// Whom it concerns.
#[derive(Debug, Args)]
pub(crate) struct SubjectArgs {
    /// A key's id, user:NAME or team:NAME
    pub(crate) subject: String,
}

/// Runs a guard command.
pub(crate) async fn run(common: &Common, command: GuardCommand) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    match command {
        GuardCommand::List => {
            let state = link.get("/guard").await?;
            if common.json {
                return output::json(&state);
            }
            let standing = state["standing"].as_array().map_or(&[][..], Vec::as_slice);
            output::table(
                standing,
                &[
                    ("SUBJECT", Align::Left, &|row| text(row, "/subject")),
                    ("SIGNAL", Align::Left, &|row| text(row, "/signal")),
                    ("EFFECT", Align::Left, &|row| text(row, "/effect")),
                    ("UNTIL", Align::Left, &|row| text(row, "/until")),
                    ("SEEN", Align::Left, &|row| text(row, "/seen")),
                ],
            )
        }
        GuardCommand::Lift(args) => {
            let path = format!("/guard/{}", super::address::escaped(&args.subject));
            let lifted = link.ask(Method::DELETE, &path, None).await?;
            if common.json {
                return output::json(&lifted);
            }
            output::say(format!("{} is lifted", text(&lifted, "/lifted")))
        }
    }
}
