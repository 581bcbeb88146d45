//! Budgets one by one, whatever they are on: list, create, show, change, remove.
//!
//! **Invariant:** a budget belongs to the record of its scope and is stored with it; its id is its
//! scope and its window, so that a change keeps what was spent.

use super::{
    Answer, answer, answer_with, change,
    groups::fresh,
    limits::{BudgetBody, check_all, given, present, tag},
    read::{Body, Params, bad},
    state,
};
use crate::{
    caller::{BudgetSpec, Window, Zone},
    ledger::{KeyId, Scope},
    openapi::types::{Switch, Usd, WindowText, ZoneName},
    refusal::Refusal,
    serve::Gateway,
};
use axum::extract::{Path, State};
use http::StatusCode;
use policies::PicoUsd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Stands behind the scope in the id of a budget that every session below it has.
const OF_SESSIONS: &str = "/sessions";

/// Which budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) scope: Scope,
    /// Of each session below the scope, not of the scope itself.
    pub(super) of_sessions: bool,
    pub(super) window: Window,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "BudgetAsSet")]
pub(super) struct BudgetView {
    id: String,
    scope: &'static str,
    name: Option<String>,
    of_sessions: bool,
    #[serde(flatten)]
    budget: BudgetBody,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    /// Such as `global`, `team:red`, `user:ada`, `tag:nightly` or a key's id.
    scope: String,
    #[serde(default)]
    of_sessions: bool,
    #[schemars(with = "WindowText")]
    window: Window,
    #[serde(default)]
    #[schemars(with = "Option<Usd>")]
    money_usd: Option<PicoUsd>,
    #[serde(default)]
    tokens: Option<u64>,
    #[serde(default)]
    requests: Option<u64>,
    #[serde(default = "super::limits::yes")]
    hard: bool,
    #[serde(default)]
    #[schemars(with = "Option<ZoneName>")]
    timezone: Option<Zone>,
}

/// What is absent stays; what is null is cleared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeBody {
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<Usd>")]
    money_usd: Option<Option<PicoUsd>>,
    #[serde(deserialize_with = "given")]
    tokens: Option<Option<u64>>,
    #[serde(deserialize_with = "given")]
    requests: Option<Option<u64>>,
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Switch")]
    hard: Option<bool>,
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<ZoneName>")]
    timezone: Option<Option<Zone>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ListParams {
    sessions_of: Option<String>,
    of_sessions: bool,
}

/// GET /budgets: every budget in its current window; `?sessions_of=<key>` those of its sessions;
/// `?of_sessions=true` beside them what is set for each session of a scope, which has no state.
pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Params(params): Params<ListParams>,
) -> Answer {
    if params.of_sessions && params.sessions_of.is_some() {
        let message = "`of_sessions` and `sessions_of` are not asked together";
        return Err(bad(Some("of_sessions"), message));
    }
    let states = match params.sessions_of {
        Some(key) => gateway.books.session_budgets(&KeyId(key.into())),
        None => gateway.books.budgets(),
    };
    let mut all: Vec<Value> = states.into_iter().map(|state| json!(state::budget(state))).collect();
    if params.of_sessions {
        all.extend(of_sessions(&gateway).iter().map(|view| json!(view)));
    }
    super::list(all)
}

/// What is set for each session of every scope whose requests can still come.
fn of_sessions(gateway: &Gateway) -> Vec<BudgetView> {
    let groups = gateway.books.groups().into_iter().map(|of| (of.scope, of.session_budgets));
    let keys = gateway.keys.list().into_iter().filter(|key| key.revoked_unix_ms.is_none());
    let keys = keys.map(|key| (Scope::Key(key.id.clone()), key.session_budgets.clone()));
    let views = |(scope, specs): (Scope, Vec<BudgetSpec>)| -> Vec<BudgetView> {
        let named = |spec: &BudgetSpec| Named {
            scope: scope.clone(),
            of_sessions: true,
            window: spec.window,
        };
        specs.iter().map(|spec| view(&named(spec), spec)).collect()
    };
    groups.chain(keys).flat_map(views).collect()
}

/// POST /budgets
pub(super) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<CreateBody>,
) -> Answer {
    let named = Named {
        scope: scope("scope", &body.scope)?,
        of_sessions: body.of_sessions,
        window: body.window,
    };
    if let Scope::Tag(name) = &named.scope {
        tag("scope", name)?;
        if name.ends_with(OF_SESSIONS) {
            let message =
                format!("the name of a tag with a budget does not end in `{OF_SESSIONS}`");
            return Err(bad(Some("scope"), message));
        }
    }
    let spec = BudgetBody {
        window: body.window,
        money_usd: body.money_usd,
        tokens: body.tokens,
        requests: body.requests,
        hard: body.hard,
        timezone: body.timezone,
    };
    let spec = spec.check()?;
    let configured = gateway.config.global_budgets.iter().any(|known| known.window == spec.window);
    if named.scope == Scope::Global && !named.of_sessions && configured {
        return Err(Refusal::Conflict(
            "the configuration has a [[budget]] for this window: change it there".to_owned(),
        ));
    }
    change_all(&gateway, &named, |specs| {
        if specs.iter().any(|known| known.window == spec.window) {
            return Err(Refusal::Conflict(format!("there is a budget `{}` already", named.id())));
        }
        specs.push(spec.clone());
        check_all(specs)
    })
    .await?;
    answer_with(StatusCode::CREATED, &view(&named, &spec))
}

/// GET /budgets/{id}: one budget as it was set, with its state if it has one; also that of one session.
pub(super) async fn show(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    if let Some(key) = of_session(&id) {
        let states = gateway.books.session_budgets(&KeyId(key.into()));
        let found = states.into_iter().find(|state| *state.id == *id);
        return answer(&state::budget(found.ok_or_else(|| missing(&id))?));
    }
    let named = named(&id)?;
    let states = gateway.books.budgets();
    let state = states.into_iter().find(|state| {
        !named.of_sessions && state.scope == named.scope && state.window == named.window
    });
    match state {
        Some(found) => answer(&state::budget(found)),
        None => {
            let specs = specs(&gateway, &named)?;
            let spec = specs.iter().find(|spec| spec.window == named.window);
            answer(&view(&named, spec.ok_or_else(|| missing(&id))?))
        }
    }
}

/// PATCH /budgets/{id}. Lowered below what is spent, it stops new work and lets running work end; in
/// another time zone, it has that zone's windows from the end of the one that runs.
pub(super) async fn change(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Body(body): Body<ChangeBody>,
) -> Answer {
    let named = named(&id)?;
    let mut changed = None;
    change_all(&gateway, &named, |specs| {
        let spec = specs.iter_mut().find(|spec| spec.window == named.window);
        let spec = spec.ok_or_else(|| missing(&id))?;
        spec.money = body.money_usd.unwrap_or(spec.money);
        spec.tokens = body.tokens.unwrap_or(spec.tokens);
        spec.requests = body.requests.unwrap_or(spec.requests);
        spec.hard = body.hard.unwrap_or(spec.hard);
        spec.zone = body.timezone.unwrap_or(spec.zone.take());
        BudgetBody::from(&*spec).check()?;
        changed = Some(spec.clone());
        Ok(())
    })
    .await?;
    answer(&view(&named, &changed.ok_or_else(|| missing(&id))?))
}

/// DELETE /budgets/{id}: nothing limits this window any more.
pub(super) async fn remove(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    let named = named(&id)?;
    let mut removed = None;
    change_all(&gateway, &named, |specs| {
        let at = specs.iter().position(|spec| spec.window == named.window);
        removed = Some(specs.remove(at.ok_or_else(|| missing(&id))?));
        Ok(())
    })
    .await?;
    answer(&view(&named, &removed.ok_or_else(|| missing(&id))?))
}

fn specs(gateway: &Gateway, named: &Named) -> Result<Vec<BudgetSpec>, Refusal> {
    let (budgets, of_sessions) = match &named.scope {
        Scope::Key(key) => {
            let record = gateway.keys.get(key).ok_or_else(|| missing(&named.id()))?;
            (record.budgets.clone(), record.session_budgets.clone())
        }
        scope => {
            let record = gateway.books.group(scope).ok_or_else(|| missing(&named.id()))?;
            (record.budgets, record.session_budgets)
        }
    };
    Ok(if named.of_sessions { of_sessions } else { budgets })
}

/// Changes the budgets of a scope and stores its record.
async fn change_all(
    gateway: &Arc<Gateway>,
    named: &Named,
    change: impl FnOnce(&mut Vec<BudgetSpec>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let making = change::begin(gateway).await?;
    if let Scope::Key(key) = &named.scope {
        let missing = || Refusal::NotFound(format!("there is no key `{key}`"));
        let mut record = (*gateway.keys.get(key).ok_or_else(missing)?).clone();
        let specs =
            if named.of_sessions { &mut record.session_budgets } else { &mut record.budgets };
        change(specs)?;
        return making.put_key(&record).await;
    }
    let known = gateway.books.group(&named.scope);
    let mut record = match (known, &named.scope) {
        (Some(record), _) => record,
        // The whole and tags need no setting up before they have a budget.
        (None, Scope::Global | Scope::Tag(_)) => {
            fresh(named.scope.clone(), gateway.clock.unix_ms())
        }
        (None, scope) => {
            let (kind, name) = (scope.kind(), scope.name().unwrap_or_default());
            return Err(Refusal::NotFound(format!("there is no {kind} `{name}`: create it first")));
        }
    };
    change(if named.of_sessions { &mut record.session_budgets } else { &mut record.budgets })?;
    making.put_group(&record).await
}

fn view(named: &Named, spec: &BudgetSpec) -> BudgetView {
    BudgetView {
        id: named.id(),
        scope: named.scope.kind(),
        name: named.scope.name().map(str::to_owned),
        of_sessions: named.of_sessions,
        budget: BudgetBody::from(spec),
    }
}

pub(super) fn missing(id: &str) -> Refusal {
    Refusal::NotFound(format!("there is no budget `{id}` that the API could change"))
}

impl Named {
    fn id(&self) -> String {
        let of = if self.of_sessions { OF_SESSIONS } else { "" };
        format!("{}{of}/{}", self.scope, self.window)
    }
}

/// The key in the id of the budget of one of its sessions.
fn of_session(id: &str) -> Option<&str> {
    id.split_once("/session:").map(|(key, _)| key).filter(|key| key.starts_with("key_"))
}

pub(super) fn named(id: &str) -> Result<Named, Refusal> {
    if of_session(id).is_some() {
        return Err(Refusal::NotFound(format!(
            "`{id}` is the budget of one session: it is set for all sessions of its key at once"
        )));
    }
    let (rest, window) = id.rsplit_once('/').ok_or_else(|| missing(id))?;
    let window = window.parse().map_err(|_| missing(id))?;
    let (rest, of_sessions) = match rest.strip_suffix(OF_SESSIONS) {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    Ok(Named { scope: scope("budget", rest)?, of_sessions, window })
}

fn scope(param: &str, text: &str) -> Result<Scope, Refusal> {
    match text.split_once(':') {
        Some(("team", name)) if !name.is_empty() => Ok(Scope::Team(name.into())),
        Some(("user", name)) if !name.is_empty() => Ok(Scope::User(name.into())),
        Some(("tag", name)) if !name.is_empty() => Ok(Scope::tag(name)),
        None if text == "global" => Ok(Scope::Global),
        None if text.starts_with("key_") => Ok(Scope::Key(KeyId(text.into()))),
        _ => Err(bad(
            Some(param),
            "a budget's scope is global, team:<name>, user:<name>, tag:<name> or a key's id",
        )),
    }
}
