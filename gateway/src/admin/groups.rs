//! Teams, users and tags: create, list, show, change, disable.
//!
//! **Invariant:** as with keys, a change is durable in the books before it is told, and changes are
//! made one at a time.

use super::{
    Answer, answer, answer_with, change,
    limits::{
        BudgetBody, ChangeLimits, LimitsBody, LimitsView, addressable, budgets, filled, given,
        name, present, tag, unmistakable, views, within,
    },
    read::{Body, Object, bad},
    times::rfc3339,
};
use crate::{
    caller::{GroupRecord, KeyLimits},
    ledger::Scope,
    openapi::types::Switch,
    paths::Paths,
    refusal::Refusal,
    serve::Gateway,
};
use axum::{
    extract::{Path, State},
    routing::{get, patch},
};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Teams, users and tags of one installation.
const GROUPS_MAX: usize = 20_000;

/// What kind of group a path is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Team,
    User,
    Tag,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Group")]
pub(super) struct GroupView {
    kind: &'static str,
    name: String,
    label: String,
    team: Option<String>,
    limits: LimitsView,
    budgets: Vec<BudgetBody>,
    session_budgets: Vec<BudgetBody>,
    keys: usize,
    state: &'static str,
    created: String,
    created_unix_ms: u64,
    disabled: Option<String>,
    disabled_unix_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CreateBody {
    name: String,
    label: String,
    team: Option<String>,
    limits: Object<LimitsBody>,
    budgets: Vec<Object<BudgetBody>>,
    session_budgets: Vec<Object<BudgetBody>>,
}

/// What is absent stays; what is null is cleared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeBody {
    #[serde(deserialize_with = "given")]
    label: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    team: Option<Option<String>>,
    limits: Object<ChangeLimits>,
    #[serde(deserialize_with = "given")]
    budgets: Option<Option<Vec<Object<BudgetBody>>>>,
    #[serde(deserialize_with = "given")]
    session_budgets: Option<Option<Vec<Object<BudgetBody>>>>,
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Switch")]
    disabled: Option<bool>,
}

/// The paths of one kind.
pub(super) fn paths(kind: Kind) -> Paths<Arc<Gateway>> {
    let all = get(move |gateway| list(gateway, kind))
        .post(move |gateway, body| create(gateway, body, kind));
    let one = patch(move |gateway, path, body| change(gateway, path, body, kind))
        .get(move |gateway, path| show(gateway, path, kind));
    let (allow, one) = match kind {
        // Nothing of a tag could be disabled: it has no keys.
        Kind::Tag => ("GET, HEAD, PATCH", one),
        Kind::Team | Kind::User => (
            "GET, HEAD, PATCH, DELETE",
            one.delete(move |gateway, path| disable(gateway, path, kind)),
        ),
    };
    Paths::new().at("/", "GET, HEAD, POST", all).at("/{name}", allow, one)
}

async fn list(State(gateway): State<Arc<Gateway>>, kind: Kind) -> Answer {
    let groups = gateway.books.groups();
    let of_kind = groups.iter().filter(|record| record.scope.kind() == kind.word());
    super::list(of_kind.map(|record| view(&gateway, record)).collect())
}

async fn show(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>, kind: Kind) -> Answer {
    answer(&view(&gateway, &found(&gateway, kind, &name)?))
}

async fn create(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<CreateBody>,
    kind: Kind,
) -> Answer {
    let text = addressable("name", name("name", body.name)?)?;
    match kind {
        Kind::Tag => tag("name", &text)?,
        Kind::Team | Kind::User => unmistakable("name", &text)?,
    }
    let record = GroupRecord {
        scope: kind.scope(&text),
        label: name("label", body.label)?,
        team: body.team.map(|team| kind.team(team)).transpose()?,
        limits: kind.limits(body.limits.0.check()?)?,
        budgets: budgets(body.budgets)?,
        session_budgets: budgets(body.session_budgets)?,
        created_unix_ms: gateway.clock.unix_ms(),
        disabled_unix_ms: None,
    };
    let making = change::begin(&gateway).await?;
    if gateway.books.group(&record.scope).is_some() {
        return Err(Refusal::Conflict(format!("there is a {} `{text}` already", kind.word())));
    }
    if gateway.books.groups().len() >= GROUPS_MAX {
        let message = format!("there are already {GROUPS_MAX} teams, users and tags");
        return Err(Refusal::Conflict(message));
    }
    making.put_group(&record).await?;
    answer_with(StatusCode::CREATED, &view(&gateway, &record))
}

async fn change(
    State(gateway): State<Arc<Gateway>>,
    Path(text): Path<String>,
    Body(body): Body<ChangeBody>,
    kind: Kind,
) -> Answer {
    let making = change::begin(&gateway).await?;
    let mut record = found(&gateway, kind, &text)?;
    if let Some(label) = body.label {
        record.label = name("label", label.unwrap_or_default())?;
    }
    if let Some(team) = within(body.team, |team| kind.team(team))? {
        record.team = team;
    }
    record.limits = kind.limits(body.limits.0.apply(record.limits)?)?;
    if let Some(written) = body.budgets {
        record.budgets = budgets(written.unwrap_or_default())?;
    }
    if let Some(written) = body.session_budgets {
        record.session_budgets = budgets(written.unwrap_or_default())?;
    }
    if let Some(disabled) = body.disabled {
        if disabled && matches!(kind, Kind::Tag) {
            let message = "a tag has no keys that could be disabled: a budget of 0 requests stops \
                           what bears it";
            return Err(bad(Some("disabled"), message));
        }
        let since = record.disabled_unix_ms.unwrap_or(gateway.clock.unix_ms());
        record.disabled_unix_ms = disabled.then_some(since);
    }
    making.put_group(&record).await?;
    answer(&view(&gateway, &record))
}

/// Disables it: none of its keys works until that is taken back. What was spent stays.
async fn disable(
    State(gateway): State<Arc<Gateway>>,
    Path(text): Path<String>,
    kind: Kind,
) -> Answer {
    let making = change::begin(&gateway).await?;
    let mut record = found(&gateway, kind, &text)?;
    record.disabled_unix_ms.get_or_insert(gateway.clock.unix_ms());
    making.put_group(&record).await?;
    answer(&view(&gateway, &record))
}

/// What is set up for a scope before anything is: nothing.
pub(super) fn fresh(scope: Scope, unix_ms: u64) -> GroupRecord {
    GroupRecord {
        scope,
        label: String::new(),
        team: None,
        limits: KeyLimits::default(),
        budgets: Vec::new(),
        session_budgets: Vec::new(),
        created_unix_ms: unix_ms,
        disabled_unix_ms: None,
    }
}

fn found(gateway: &Gateway, kind: Kind, text: &str) -> Result<GroupRecord, Refusal> {
    let missing = || Refusal::NotFound(format!("there is no {} `{text}`", kind.word()));
    gateway.books.group(&kind.scope(text)).ok_or_else(missing)
}

fn view(gateway: &Gateway, record: &GroupRecord) -> GroupView {
    GroupView {
        kind: record.scope.kind(),
        name: record.scope.name().unwrap_or_default().to_owned(),
        label: record.label.clone(),
        team: record.team.clone(),
        limits: LimitsView::from(&record.limits),
        budgets: views(&record.budgets),
        session_budgets: views(&record.session_budgets),
        keys: gateway.keys.count_within(&record.scope),
        state: if record.disabled_unix_ms.is_some() { "disabled" } else { "active" },
        created: rfc3339(record.created_unix_ms),
        created_unix_ms: record.created_unix_ms,
        disabled: record.disabled_unix_ms.map(rfc3339),
        disabled_unix_ms: record.disabled_unix_ms,
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::User => "user",
            Self::Tag => "tag",
        }
    }

    fn scope(self, name: &str) -> Scope {
        match self {
            Self::Team => Scope::Team(name.into()),
            Self::User => Scope::User(name.into()),
            Self::Tag => Scope::tag(name),
        }
    }

    fn team(self, team: String) -> Result<String, Refusal> {
        match self {
            Self::User => filled("team", team),
            Self::Team | Self::Tag => Err(bad(Some("team"), "only a user is in a team")),
        }
    }

    /// A tag is known only once the body is read: what counts before that cannot limit it.
    fn limits(self, limits: KeyLimits) -> Result<KeyLimits, Refusal> {
        let early = limits.requests_per_minute.is_some() || limits.concurrency.is_some();
        if matches!(self, Self::Tag) && early {
            let message = "a tag has no limit of requests per minute or in flight; \
                           a budget of requests over `rolling:1m` counts them";
            return Err(bad(Some("limits"), message));
        }
        Ok(limits)
    }
}
