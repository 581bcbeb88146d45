//! `tollgate key`: create, list, show, update, disable, enable, revoke, rotate-admin.

use super::{
    CliError, Common,
    allowance::{AllowanceArgs, AllowanceChange, budgets, limits, or_none},
    link::{Link, Missing},
    output::{self, Align, rows, text},
};
use crate::caller::Priority;
use clap::{Args, Subcommand};
use http::Method;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::{Map, Value, json};

/// Keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key; its secret is shown this once
    Create(Box<CreateArgs>),
    /// List all keys
    List,
    /// Show one key
    Show(IdArgs),
    /// Change what is named; the rest stays
    Update(Box<UpdateArgs>),
    /// Disable a key: it works again once it is enabled
    Disable(IdArgs),
    /// Enable a key that was disabled; one that was revoked stays so
    Enable(IdArgs),
    /// Revoke a key for good; its record stays, since the ledger names it
    Revoke(IdArgs),
    /// Replace the admin key; the old one stops working at once
    RotateAdmin,
}

/// A key's id.
#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The key's id, such as key_abcdefghijkl
    pub(crate) id: String,
}

/// What a new key may do.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Your name for it
    #[arg(long, default_value = "")]
    pub(crate) label: String,
    /// The user it belongs to
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The team it belongs to
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// A tag that every request of it bears; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    #[command(flatten)]
    pub(crate) allowance: AllowanceArgs,
    /// May pin a route by writing its name as `model`
    #[arg(long)]
    pub(crate) may_pin: bool,
    /// How urgent its requests are among those that wait for a local model
    #[arg(long, value_enum, default_value_t)]
    pub(crate) priority: Priority,
    /// Stops working at this time to come: RFC 3339, a day (UTC), or a span from now such as 30d
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<String>,
}

/// What changes about a key. `none` clears a limit, a user, a team or an expiry.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The key's id
    pub(crate) id: String,
    /// Your name for it
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// The user it belongs to, or none
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The team it belongs to, or none
    #[arg(long)]
    pub(crate) team: Option<String>,
    /// Its tags, all of them anew; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Removes all its tags
    #[arg(long, conflicts_with = "tags")]
    pub(crate) no_tags: bool,
    #[command(flatten)]
    pub(crate) allowance: AllowanceChange,
    /// Whether it may pin routes
    #[arg(long, value_name = "true|false")]
    pub(crate) may_pin: Option<bool>,
    /// How urgent its requests are among those that wait for a local model
    #[arg(long, value_enum)]
    pub(crate) priority: Option<Priority>,
    /// Stops working at this time, or none
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<String>,
}

/// Runs a key command.
pub(crate) async fn run(common: &Common, command: KeyCommand) -> Result<(), CliError> {
    let missing = match command {
        KeyCommand::Create(_) => Missing::Create,
        _ => Missing::Refuse,
    };
    let link = Link::open(common, missing).await?;
    match command {
        KeyCommand::Create(args) => create(common, &link, &args).await,
        KeyCommand::List => list(common, &link).await,
        KeyCommand::Show(args) => {
            let key = link.get(&path(&args.id)).await?;
            show(common, &key)
        }
        KeyCommand::Update(args) => {
            let body = change(&args)?;
            let key = link.ask(Method::PATCH, &path(&args.id), Some(&body)).await?;
            show(common, &key)
        }
        KeyCommand::Disable(args) => set_disabled(common, &link, &args.id, true).await,
        KeyCommand::Enable(args) => set_disabled(common, &link, &args.id, false).await,
        KeyCommand::Revoke(args) => {
            let key = link.ask(Method::DELETE, &path(&args.id), None).await?;
            show(common, &key)
        }
        KeyCommand::RotateAdmin => {
            let made = link.ask(Method::POST, "/keys/rotate-admin", Some(&json!({}))).await?;
            if common.json {
                return output::json(&made);
            }
            output::note("the admin key is replaced, in admin.key too; the old one is void:");
            output::say(text(&made, "/secret"))
        }
    }
}

async fn set_disabled(
    common: &Common,
    link: &Link,
    id: &str,
    disabled: bool,
) -> Result<(), CliError> {
    let body = json!({ "disabled": disabled });
    let key = link.ask(Method::PATCH, &path(id), Some(&body)).await?;
    show(common, &key)
}

async fn create(common: &Common, link: &Link, args: &CreateArgs) -> Result<(), CliError> {
    let body = json!({
        "label": args.label,
        "user": args.user,
        "team": args.team,
        "tags": args.tags,
        "may_pin": args.may_pin,
        "priority": args.priority,
        "expires_unix_ms": args.expires.as_deref().map(time).transpose()?,
    });
    let body = args.allowance.put_into(body);
    let made = link.ask(Method::POST, "/keys", Some(&body)).await?;
    if common.json {
        return output::json(&made);
    }
    output::note(format!("{} is created; its secret is shown this once:", text(&made, "/id")));
    output::say(text(&made, "/secret"))
}

async fn list(common: &Common, link: &Link) -> Result<(), CliError> {
    let keys = link.get("/keys").await?;
    if common.json {
        return output::json(&keys);
    }
    output::table(
        rows(&keys),
        &[
            ("ID", Align::Left, &|key| text(key, "/id")),
            ("SECRET", Align::Left, &|key| text(key, "/hint")),
            ("STATE", Align::Left, &|key| text(key, "/state")),
            ("LABEL", Align::Left, &|key| text(key, "/label")),
            ("USER", Align::Left, &|key| text(key, "/user")),
            ("TEAM", Align::Left, &|key| text(key, "/team")),
            ("TAGS", Align::Left, &|key| text(key, "/tags")),
            ("LIMITS", Align::Left, &limits),
            ("BUDGETS", Align::Left, &budgets),
            ("PINS", Align::Left, &|key| text(key, "/may_pin")),
            ("PRIORITY", Align::Left, &|key| text(key, "/priority")),
            ("CREATED", Align::Left, &|key| text(key, "/created")),
        ],
    )
}

fn show(common: &Common, key: &Value) -> Result<(), CliError> {
    if common.json {
        return output::json(key);
    }
    let line = |name: &str, value: String| output::say(format!("{name:<9} {value}"));
    line("id", text(key, "/id"))?;
    line("secret", text(key, "/hint"))?;
    line("state", text(key, "/state"))?;
    line("label", text(key, "/label"))?;
    line("user", text(key, "/user"))?;
    line("team", text(key, "/team"))?;
    line("tags", text(key, "/tags"))?;
    line("limits", limits(key))?;
    line("budgets", budgets(key))?;
    line("may pin", text(key, "/may_pin"))?;
    line("priority", text(key, "/priority"))?;
    line("created", text(key, "/created"))?;
    line("expires", text(key, "/expires"))?;
    line("revoked", text(key, "/revoked"))
}

fn change(args: &UpdateArgs) -> Result<Value, CliError> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("label", args.label.as_ref().map(|label| json!(label)));
    put("user", args.user.as_deref().map(or_none));
    put("team", args.team.as_deref().map(or_none));
    put("may_pin", args.may_pin.map(|may| json!(may)));
    put("priority", args.priority.map(|priority| json!(priority)));
    if args.no_tags || !args.tags.is_empty() {
        put("tags", Some(json!(args.tags)));
    }
    if let Some(expires) = &args.expires {
        let at = if expires == "none" { Value::Null } else { json!(time(expires)?) };
        put("expires_unix_ms", Some(at));
    }
    args.allowance.put_into(body)
}

/// A time to come, in milliseconds since the Unix epoch.
fn time(written: &str) -> Result<u64, CliError> {
    let now = crate::clock::Clock::system().unix_ms();
    let span = |unit: &str, ms: u64| {
        let count = written.strip_suffix(unit)?.parse::<u64>().ok()?;
        now.checked_add(count.checked_mul(ms)?)
    };
    let spans = [("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    if let Some(at) = spans.iter().find_map(|(unit, ms)| span(unit, *ms)) {
        return Ok(at);
    }
    let parsed = written.parse::<Timestamp>().ok().or_else(|| {
        let day = written.parse::<Date>().ok()?;
        Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    parsed.and_then(|time| u64::try_from(time.as_millisecond()).ok()).ok_or_else(|| {
        CliError::usage(format!(
            "`{written}` is not a time: write RFC 3339, a day such as 2026-12-31, or a span such \
             as 30d"
        ))
    })
}

fn path(id: &str) -> String {
    format!("/keys/{}", super::address::escaped(id))
}
