//! The ledger, queried.

use super::{
    Answer, List, answer,
    ledger_views::{EntryView, brief, summary_view, whole},
    read::{Params, bad},
    reading, times, unreadable,
};
use crate::{
    ledger::{Cursor, Entry, Filter, GroupBy, KeyId, Outcome, PAGE_MAX, RequestId, SummaryQuery},
    refusal::Refusal,
    serve::Gateway,
};
use axum::extract::{Path, State};
use policies::{PicoUsd, Policy, PolicyVersion, RouteId, RuleName, Trace};
use serde::{Deserialize, de::IntoDeserializer as _};
use serde_json::json;
use std::{str::FromStr, sync::Arc};

/// Requests of a page that names no limit.
const PAGE_DEFAULT: usize = 50;

/// Which requests: what both queries take.
#[derive(Debug, Default)]
struct Asked {
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    route: Option<String>,
    model: Option<String>,
    rule: Option<String>,
    policy_version: Option<String>,
    outcome: Option<String>,
    session: Option<String>,
    user: Option<String>,
    team: Option<String>,
    tag: Option<String>,
    min_cost_usd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PageParams {
    limit: Option<usize>,
    cursor: Option<String>,
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    route: Option<String>,
    model: Option<String>,
    rule: Option<String>,
    policy_version: Option<String>,
    outcome: Option<String>,
    session: Option<String>,
    user: Option<String>,
    team: Option<String>,
    tag: Option<String>,
    min_cost_usd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SummaryParams {
    group_by: Option<String>,
    exact: Option<bool>,
    since: Option<String>,
    until: Option<String>,
    key: Option<String>,
    route: Option<String>,
    model: Option<String>,
    rule: Option<String>,
    policy_version: Option<String>,
    outcome: Option<String>,
    session: Option<String>,
    user: Option<String>,
    team: Option<String>,
    tag: Option<String>,
    min_cost_usd: Option<String>,
}

/// serde's `flatten` and `deny_unknown_fields` exclude each other, so the conditions stand in both
/// lists of parameters and are taken out of them here.
macro_rules! asked {
    ($params:expr) => {
        Asked {
            since: $params.since.take(),
            until: $params.until.take(),
            key: $params.key.take(),
            route: $params.route.take(),
            model: $params.model.take(),
            rule: $params.rule.take(),
            policy_version: $params.policy_version.take(),
            outcome: $params.outcome.take(),
            session: $params.session.take(),
            user: $params.user.take(),
            team: $params.team.take(),
            tag: $params.tag.take(),
            min_cost_usd: $params.min_cost_usd.take(),
        }
    };
}

/// GET /ledger/requests: newest first.
pub(super) async fn requests(
    State(gateway): State<Arc<Gateway>>,
    Params(mut params): Params<PageParams>,
) -> Answer {
    let filter = filter(&gateway, asked!(params))?;
    let limit = params.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(bad(Some("limit"), format!("`limit` is 1 to {PAGE_MAX}")));
    }
    let cursor: Option<Cursor> = parsed("cursor", params.cursor.as_deref())?;
    let page = reading(&gateway, move |gateway| gateway.books.requests(&filter, cursor, limit))
        .await?
        .map_err(unreadable)?;
    answer(&List::<EntryView<'_>> {
        object: "list",
        data: page.entries.iter().map(brief).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
    })
}

/// GET /ledger/requests/{id}: everything, with the whole trace of the decision.
pub(super) async fn request(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    let Ok(id) = RequestId::from_str(&id) else {
        return Err(Refusal::NotFound(format!("`{id}` is not the id of a request")));
    };
    let found = reading(&gateway, move |gateway| {
        let entry = gateway.books.request(id)?;
        Ok(entry.map(|entry| {
            let trace = trace(gateway, &entry);
            (entry, trace)
        }))
    });
    let Some((entry, trace)) = found.await?.map_err(unreadable)? else {
        return Err(Refusal::NotFound(format!("there is no request `{id}` in the ledger")));
    };
    answer(&whole(&entry, trace))
}

/// The decision explained by the policy that made it, from the facts it was made from.
fn trace(gateway: &Gateway, entry: &Entry) -> Result<Trace, String> {
    let decision = &entry.decision;
    let unknown = || format!("the text of policy version {} is not recorded", decision.version);
    let source =
        gateway.books.policy_source(&decision.version).map_err(|error| error.to_string())?;
    let policy = Policy::parse(&decision.policy.0, &source.ok_or_else(unknown)?)
        .map_err(|error| error.to_string())?;
    Ok(policies::explain(&policy, &decision.facts))
}

/// GET /ledger/summary
pub(super) async fn summary(
    State(gateway): State<Arc<Gateway>>,
    Params(mut params): Params<SummaryParams>,
) -> Answer {
    let filter = filter(&gateway, asked!(params))?;
    let group_by = group_by(params.group_by.as_deref().unwrap_or_default())?;
    let query = SummaryQuery { filter, group_by: group_by.clone(), exact: params.exact };
    let summary = reading(&gateway, move |gateway| gateway.books.summary(&query))
        .await?
        .map_err(unreadable)?;
    answer(&summary_view(&summary, &group_by))
}

/// GET /ledger/verify: checks the whole ledger; it takes as long as reading it.
pub(super) async fn verify(State(gateway): State<Arc<Gateway>>) -> Answer {
    let report = reading(&gateway, |gateway| gateway.books.verify()).await?;
    let mut view = json!(report);
    view["clean"] = json!(report.is_clean());
    answer(&view)
}

fn filter(gateway: &Gateway, asked: Asked) -> Result<Filter, Refusal> {
    let time = |param: &str, text: Option<String>| {
        text.map(|text| times::parse(gateway, param, &text)).transpose()
    };
    Ok(Filter {
        from_unix_ms: time("since", asked.since)?,
        to_unix_ms: time("until", asked.until)?,
        key: asked.key.map(|key| KeyId(Arc::from(key))),
        route: asked.route.map(|route| RouteId::new(&route)),
        model: asked.model,
        rule: asked.rule.map(|rule| RuleName(Arc::from(rule))),
        policy_version: asked.policy_version.map(|version| PolicyVersion(Arc::from(version))),
        outcome: asked.outcome.as_deref().map(outcome).transpose()?,
        session: asked.session,
        user: asked.user,
        team: asked.team,
        tag: asked.tag,
        min_cost: parsed::<PicoUsd>("min_cost_usd", asked.min_cost_usd.as_deref())?,
    })
}

fn outcome(text: &str) -> Result<Outcome, Refusal> {
    let reader: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        text.into_deserializer();
    Outcome::deserialize(reader).map_err(|_| {
        let known = "completed, client_gone, broken, failed, rejected, short, crashed";
        bad(Some("outcome"), format!("`{text}` is not an outcome; known are {known}"))
    })
}

fn group_by(text: &str) -> Result<Vec<GroupBy>, Refusal> {
    let mut groups = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let group = match name {
            "route" => GroupBy::Route,
            "model" => GroupBy::Model,
            "provider" => GroupBy::Provider,
            "key" => GroupBy::Key,
            "rule" => GroupBy::Rule,
            "user" => GroupBy::User,
            "team" => GroupBy::Team,
            "session" => GroupBy::Session,
            _ => {
                let known = "route, model, provider, key, rule, user, team, session";
                let message = format!("`{name}` is nothing to group by; known are {known}");
                return Err(bad(Some("group_by"), message));
            }
        };
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(groups)
}

fn parsed<T: FromStr>(param: &str, text: Option<&str>) -> Result<Option<T>, Refusal>
where
    T::Err: std::fmt::Display,
{
    text.map(|text| text.parse().map_err(|error| bad(Some(param), format!("`{param}`: {error}"))))
        .transpose()
}
