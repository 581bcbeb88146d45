//! `tollgate team`, `user` and `budget`: set up, list, change, disable.

use super::{
    CliError, Common,
    address::escaped,
    allowance::{self, AllowanceArgs, AllowanceChange, number_or_none, or_none},
    link::{Link, Missing},
    output::{self, Align, rows, text},
};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

/// Teams or users, which differ in what `M` says.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand<M: Args> {
    /// Set one up
    Create(Box<CreateArgs<M>>),
    /// List all
    List,
    /// Show one
    Show(NameArgs),
    /// Change what is named; the rest stays
    Update(Box<ChangeArgs<M>>),
    /// Disable it: none of its keys works until it is enabled
    Disable(NameArgs),
    /// Enable it again
    Enable(NameArgs),
}

/// The team that one belongs to, where it can.
pub(crate) trait Membership: Args {
    /// It, where it is named; `none` is no team.
    fn team(&self) -> Option<&str>;
}

/// A team is in no other.
#[derive(Debug, Args)]
pub(crate) struct OfTeam {}

/// A user may be in a team.
#[derive(Debug, Args)]
pub(crate) struct OfUser {
    /// The team that the user belongs to, or none
    #[arg(long)]
    pub(crate) team: Option<String>,
}

/// A name.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    pub(crate) name: String,
}

/// What a new one may do.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs<M: Args> {
    /// Its name, as keys name it
    pub(crate) name: String,
    /// Your words for it
    #[arg(long, default_value = "")]
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) member: M,
    #[command(flatten)]
    pub(crate) allowance: AllowanceArgs,
}

/// What changes about one. `none` clears a limit or a user's team.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs<M: Args> {
    /// Its name
    pub(crate) name: String,
    /// Your words for it
    #[arg(long)]
    pub(crate) label: Option<String>,
    #[command(flatten)]
    pub(crate) member: M,
    #[command(flatten)]
    pub(crate) allowance: AllowanceChange,
}

/// Budgets one by one.
#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// Show every budget: limit, spent, reserved, left
    List,
    /// Set a budget on global, team:NAME, user:NAME, tag:NAME or a key's id
    Set(SetArgs),
    /// Change what is named of a budget; the rest stays, and so does what was spent
    Update(UpdateArgs),
    /// Book a correction in the window that runs, such as what lost events had spent
    Correct(CorrectArgs),
    /// Show one budget: limit, spent, reserved, left, who waits for it, when it opens again
    Show(IdArgs),
    /// Remove a budget
    Remove(IdArgs),
}

/// A budget's id.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Its id, such as team:red/month
    pub(crate) id: String,
}

/// A budget to set.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Whose: global, team:NAME, user:NAME, tag:NAME or a key's id
    pub(crate) scope: String,
    /// `WINDOW=` and at least one of `USD`, `Ntokens`, `Nrequests`, then `soft` and
    /// `timezone=ZONE`, with commas between them, such as rolling:24h=5.00
    #[arg(value_parser = allowance::budget)]
    pub(crate) budget: Value,
    /// Of each session below the scope
    #[arg(long)]
    pub(crate) of_sessions: bool,
}

/// What is booked on a budget by hand.
#[derive(Debug, Args)]
pub(crate) struct CorrectArgs {
    /// Its id, such as team:red/month
    pub(crate) id: String,
    /// Money to add to what is spent
    #[arg(long, value_name = "USD")]
    pub(crate) money_usd: Option<policies::PicoUsd>,
    /// Tokens to add
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) tokens: u64,
    /// Requests to add
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) requests: u64,
    /// Take it from what is spent instead
    #[arg(long)]
    pub(crate) credit: bool,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

/// What changes about a budget. `none` clears a limit or a time zone.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its id, such as team:red/month
    pub(crate) id: String,
    /// The most money, or none
    #[arg(long, value_name = "USD")]
    pub(crate) money_usd: Option<String>,
    /// The most tokens, or none
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub(crate) tokens: Option<Value>,
    /// The most requests, or none
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub(crate) requests: Option<Value>,
    /// Whether it refuses (true) or only warns
    #[arg(long, value_name = "true|false")]
    pub(crate) hard: Option<bool>,
    /// The time zone of its windows, such as Europe/Berlin, or none for the configured one; the
    /// window that runs ends as it would have
    #[arg(long, value_name = "ZONE")]
    pub(crate) timezone: Option<String>,
}

impl UpdateArgs {
    fn body(&self) -> Result<Value, CliError> {
        let named = [
            ("money_usd", self.money_usd.as_deref().map(or_none)),
            ("tokens", self.tokens.clone()),
            ("requests", self.requests.clone()),
            ("hard", self.hard.map(Value::from)),
            ("timezone", self.timezone.as_deref().map(or_none)),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let body: Map<String, Value> = named.collect();
        if body.is_empty() {
            return Err(CliError::usage("nothing to change: name what changes, such as --hard"));
        }
        Ok(Value::Object(body))
    }
}

impl Membership for OfTeam {
    fn team(&self) -> Option<&str> {
        None
    }
}

impl Membership for OfUser {
    fn team(&self) -> Option<&str> {
        self.team.as_deref()
    }
}

impl<M: Membership> ChangeArgs<M> {
    fn body(&self) -> Result<Value, CliError> {
        let label = self.label.as_ref().map(|label| json!(label));
        let named = [("label", label), ("team", self.member.team().map(or_none))];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.allowance.put_into(named.collect())
    }
}

/// Runs a team or user command; `kind` is `teams` or `users`.
pub(crate) async fn run<M: Membership>(
    common: &Common,
    kind: &str,
    command: GroupCommand<M>,
) -> Result<(), CliError> {
    let link = Link::open(common, Missing::Refuse).await?;
    let path = |name: &str| format!("/{kind}/{}", escaped(name));
    let shown = match command {
        GroupCommand::List => {
            let groups = link.get(&format!("/{kind}")).await?;
            return list(common, &groups);
        }
        GroupCommand::Create(args) => {
            let team = args.member.team().map(or_none);
            let body = json!({ "name": args.name, "label": args.label, "team": team });
            let body = args.allowance.put_into(body);
            link.ask(Method::POST, &format!("/{kind}"), Some(&body)).await?
        }
        GroupCommand::Show(args) => link.get(&path(&args.name)).await?,
        GroupCommand::Update(args) => {
            let body = args.body()?;
            link.ask(Method::PATCH, &path(&args.name), Some(&body)).await?
        }
        GroupCommand::Disable(args) => {
            let body = json!({ "disabled": true });
            link.ask(Method::PATCH, &path(&args.name), Some(&body)).await?
        }
        GroupCommand::Enable(args) => {
            let body = json!({ "disabled": false });
            link.ask(Method::PATCH, &path(&args.name), Some(&body)).await?
        }
    };
    if common.json {
        return output::json(&shown);
    }
    table(&json!({ "data": [shown] }))
}

fn list(common: &Common, groups: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(groups);
    }
    table(groups)
}

fn table(groups: &Value) -> Result<(), CliError> {
    output::table(
        rows(groups),
        &[
            ("NAME", Align::Left, &|row| text(row, "/name")),
            ("LABEL", Align::Left, &|row| text(row, "/label")),
            ("TEAM", Align::Left, &|row| text(row, "/team")),
            ("STATE", Align::Left, &|row| text(row, "/state")),
            ("KEYS", Align::Right, &|row| text(row, "/keys")),
            ("LIMITS", Align::Left, &allowance::limits),
            ("BUDGETS", Align::Left, &allowance::budgets),
        ],
    )
}

/// Runs a budget command.
pub(crate) async fn budget(common: &Common, command: BudgetCommand) -> Result<(), CliError> {
    let (method, path, body) = match command {
        BudgetCommand::List => return super::budgets::run(common).await,
        BudgetCommand::Set(args) => {
            let mut body = args.budget;
            body["scope"] = json!(args.scope);
            body["of_sessions"] = json!(args.of_sessions);
            (Method::POST, "/budgets".to_owned(), Some(body))
        }
        BudgetCommand::Show(args) => {
            let link = Link::open(common, Missing::Refuse).await?;
            let budget = link.get(&format!("/budgets/{}", escaped(&args.id))).await?;
            return super::budgets::list(common, &json!({ "data": [budget] }), &budget);
        }
        BudgetCommand::Correct(args) => {
            let body = json!({
                "budget": args.id,
                "money_usd": args.money_usd,
                "tokens": args.tokens,
                "requests": args.requests,
                "credit": args.credit,
                "reason": args.reason,
            });
            (Method::POST, "/corrections".to_owned(), Some(body))
        }
        BudgetCommand::Update(args) => {
            let body = args.body()?;
            (Method::PATCH, format!("/budgets/{}", escaped(&args.id)), Some(body))
        }
        BudgetCommand::Remove(args) => {
            (Method::DELETE, format!("/budgets/{}", escaped(&args.id)), None)
        }
    };
    let link = Link::open(common, Missing::Refuse).await?;
    let done = link.ask(method, &path, body.as_ref()).await?;
    if common.json { output::json(&done) } else { output::say(text(&done, "/id")) }
}
