//! What a key, a team or a user may use, as it is written on the command line and shown there.

use super::{
    CliError,
    output::{text, usd},
};
use clap::Args;
use serde_json::{Map, Value, json};

/// Limits and budgets of a new key, or of all keys of a team or user together.
#[derive(Debug, Args)]
pub(crate) struct AllowanceArgs {
    /// Requests per minute
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Tokens per minute, prompt and answer
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Requests in flight
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,
    /// The most that one request may cost at worst, over all its attempts
    #[arg(long, value_name = "USD")]
    pub(crate) request_cost_max_usd: Option<policies::PicoUsd>,
    /// A budget: `WINDOW=` and at least one of `USD`, `Ntokens`, `Nrequests`, then `soft` and
    /// `timezone=ZONE`, with commas between them, such as day=5.00, day=1000requests or
    /// month=20,1000000tokens,soft,timezone=Europe/Berlin; windows are hour, day, week, month, total
    /// and rolling:24h (any span); may be given once for each window
    #[arg(long = "budget", value_name = "BUDGET", value_parser = budget)]
    pub(crate) budgets: Vec<Value>,
    /// A budget of each session (agent run)
    #[arg(long = "session-budget", value_name = "BUDGET", value_parser = budget)]
    pub(crate) session_budgets: Vec<Value>,
}

impl AllowanceArgs {
    /// The body of a request that creates what may use it.
    pub(super) fn put_into(&self, mut body: Value) -> Value {
        body["limits"] = json!({
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrency": self.concurrency,
            "request_cost_max_usd": self.request_cost_max_usd,
        });
        body["budgets"] = json!(self.budgets);
        body["session_budgets"] = json!(self.session_budgets);
        body
    }
}

/// What changes about the limits and budgets of a key, a team or a user. `none` clears a limit.
#[derive(Debug, Args)]
pub(crate) struct AllowanceChange {
    /// Requests per minute, or none
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub(crate) requests_per_minute: Option<Value>,
    /// Tokens per minute, or none
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub(crate) tokens_per_minute: Option<Value>,
    /// Requests in flight, or none
    #[arg(long, value_name = "N", value_parser = number_or_none)]
    pub(crate) concurrency: Option<Value>,
    /// The most that one request may cost at worst, over all its attempts, or none
    #[arg(long, value_name = "USD", value_parser = usd_or_none)]
    pub(crate) request_cost_max_usd: Option<Value>,
    /// Its own budgets, all of them anew (see `key create --help`); those of its sessions stay
    #[arg(long = "budget", value_name = "BUDGET", value_parser = budget)]
    pub(crate) budgets: Vec<Value>,
    /// Removes all its own budgets; those of its sessions stay
    #[arg(long, conflicts_with = "budgets")]
    pub(crate) no_budgets: bool,
    /// The budgets of each of its sessions, all of them anew
    #[arg(long = "session-budget", value_name = "BUDGET", value_parser = budget)]
    pub(crate) session_budgets: Vec<Value>,
    /// Removes all budgets of its sessions
    #[arg(long, conflicts_with = "session_budgets")]
    pub(crate) no_session_budgets: bool,
}

impl AllowanceChange {
    /// The rest of the body of a request that changes what may use it.
    ///
    /// # Errors
    /// Wrong usage, where neither this nor `body` names anything.
    pub(super) fn put_into(&self, mut body: Map<String, Value>) -> Result<Value, CliError> {
        if self.no_budgets || !self.budgets.is_empty() {
            body.insert("budgets".to_owned(), json!(self.budgets));
        }
        if self.no_session_budgets || !self.session_budgets.is_empty() {
            body.insert("session_budgets".to_owned(), json!(self.session_budgets));
        }
        let limits: Map<String, Value> = [
            ("requests_per_minute", &self.requests_per_minute),
            ("tokens_per_minute", &self.tokens_per_minute),
            ("concurrency", &self.concurrency),
            ("request_cost_max_usd", &self.request_cost_max_usd),
        ]
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), limit.clone()?)))
        .collect();
        if !limits.is_empty() {
            body.insert("limits".to_owned(), Value::Object(limits));
        }
        if body.is_empty() {
            return Err(CliError::usage("nothing to change: name what changes, such as --label"));
        }
        Ok(Value::Object(body))
    }
}

/// A text, or nothing where it is `none`.
pub(super) fn or_none(written: &str) -> Value {
    if written == "none" { Value::Null } else { json!(written) }
}

pub(super) fn number_or_none(written: &str) -> Result<Value, String> {
    if written == "none" {
        return Ok(Value::Null);
    }
    written.parse::<u64>().map(Value::from).map_err(|_| "a number, or none".to_owned())
}

fn usd_or_none(written: &str) -> Result<Value, String> {
    if written == "none" {
        return Ok(Value::Null);
    }
    let money: policies::PicoUsd = written.parse().map_err(|error| format!("{error}"))?;
    Ok(json!(money))
}

pub(super) fn limits(key: &Value) -> String {
    let known = [
        ("/limits/requests_per_minute", "requests/min"),
        ("/limits/tokens_per_minute", "tokens/min"),
        ("/limits/concurrency", "in flight"),
    ];
    let is_set = |pointer: &str| key.pointer(pointer).is_some_and(|limit| !limit.is_null());
    let set = known
        .iter()
        .filter(|(pointer, _)| is_set(pointer))
        .map(|(pointer, unit)| format!("{} {unit}", text(key, pointer)));
    let cost = "/limits/request_cost_max_usd";
    let cost = is_set(cost).then(|| format!("${} at most a request", usd(key, cost)));
    or_dash(&set.chain(cost).collect::<Vec<_>>())
}

/// Its own budgets, and after them those of each of its sessions.
pub(super) fn budgets(key: &Value) -> String {
    let of = |field: &str| key[field].as_array().map_or(&[][..], Vec::as_slice);
    let own = of("budgets").iter().map(budget_text);
    let each = of("session_budgets").iter();
    let each = each.map(|budget| format!("{} for each session", budget_text(budget)));
    or_dash(&own.chain(each).collect::<Vec<_>>())
}

fn budget_text(budget: &Value) -> String {
    let mut parts = Vec::new();
    if budget.get("money_usd").is_some_and(|money| !money.is_null()) {
        parts.push(format!("${}", usd(budget, "/money_usd")));
    }
    if budget.get("tokens").is_some_and(|tokens| !tokens.is_null()) {
        parts.push(format!("{} tokens", text(budget, "/tokens")));
    }
    if budget.get("requests").is_some_and(|requests| !requests.is_null()) {
        parts.push(format!("{} requests", text(budget, "/requests")));
    }
    let soft = if budget["hard"] == json!(false) { " (soft)" } else { "" };
    let zone = match budget.get("timezone").and_then(Value::as_str) {
        Some(zone) => format!(" in {zone}"),
        None => String::new(),
    };
    format!("{}{zone}: {}{soft}", text(budget, "/window"), parts.join(" and "))
}

fn or_dash(parts: &[String]) -> String {
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

/// `WINDOW=` and, with commas between them, at least one of `USD`, `Ntokens`, `Nrequests`, then `soft`
/// and `timezone=ZONE`.
pub(super) fn budget(written: &str) -> Result<Value, String> {
    let shape = || format!("`{written}` is not a budget such as day=5.00 or day=1000requests");
    let (window, rest) = written.split_once('=').ok_or_else(shape)?;
    let window: crate::caller::Window = window.parse().map_err(|error| format!("{error}"))?;
    let mut budget = json!({ "window": window });
    for part in rest.split(',') {
        let (field, value) = part_of_budget(part, shape)?;
        // What it was written for is not what the last one of them says.
        if budget.get(field).is_some() {
            return Err(format!(
                "`{written}` says the same thing twice: a comma stands between limits, and a decimal \
                 point is a dot, as in day=1.50,1000tokens"
            ));
        }
        budget[field] = value;
    }
    if ["money_usd", "tokens", "requests"].iter().all(|unit| budget.get(unit).is_none()) {
        return Err(shape());
    }
    if budget.get("hard").is_none() {
        budget["hard"] = json!(true);
    }
    Ok(budget)
}

/// One of the parts between a budget's commas: its field and the value of that.
fn part_of_budget(part: &str, shape: impl Fn() -> String) -> Result<(&'static str, Value), String> {
    let whole = |number: &str| number.trim().parse::<u64>().map_err(|_| shape());
    Ok(if let Some(zone) = part.strip_prefix("timezone=") {
        let zone: crate::caller::Zone = zone.parse().map_err(|error| format!("{error}"))?;
        ("timezone", json!(zone))
    } else if part == "soft" {
        ("hard", json!(false))
    } else if let Some(tokens) = part.strip_suffix("tokens") {
        ("tokens", json!(whole(tokens)?))
    } else if let Some(requests) = part.strip_suffix("requests") {
        ("requests", json!(whole(requests)?))
    } else {
        let amount = part.trim_start_matches('$');
        let money: policies::PicoUsd = amount.parse().map_err(|error| format!("{error}"))?;
        ("money_usd", json!(money))
    })
}
