//! Keys: create, list, show, change, revoke; the admin key's rotation.
//!
//! **Invariant:** a change is durable in the books before it takes effect here, and changes are
//! made one at a time, so that none is lost.

use super::{
    Answer, answer, answer_with, change,
    limits::{
        BudgetBody, ChangeLimits, LimitsBody, LimitsView, budgets, filled, given, name, present,
        tags, views, within,
    },
    read::{Body, Object, bad},
    times::rfc3339,
};
use crate::{
    caller::{KeyChange, KeyRecord, KeysError, NewKey, Priority},
    ledger::KeyId,
    openapi::types::{Name, Switch},
    refusal::Refusal,
    serve::Gateway,
};
use axum::extract::{Path, State};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A key as the admin API shows it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Key")]
pub(super) struct KeyView {
    #[schemars(with = "Name")]
    id: KeyId,
    hint: String,
    label: String,
    user: Option<String>,
    team: Option<String>,
    /// What every request of the key bears, beside the tags it names itself.
    tags: Vec<String>,
    limits: LimitsView,
    budgets: Vec<BudgetBody>,
    session_budgets: Vec<BudgetBody>,
    may_pin: bool,
    priority: Priority,
    state: &'static str,
    created: String,
    created_unix_ms: u64,
    expires: Option<String>,
    expires_unix_ms: Option<u64>,
    revoked: Option<String>,
    revoked_unix_ms: Option<u64>,
}

/// A new key with its secret, shown this once.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NewKey")]
pub(super) struct CreatedView {
    #[serde(flatten)]
    key: KeyView,
    secret: String,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CreateBody {
    label: String,
    user: Option<String>,
    team: Option<String>,
    tags: Vec<String>,
    limits: Object<LimitsBody>,
    budgets: Vec<Object<BudgetBody>>,
    session_budgets: Vec<Object<BudgetBody>>,
    may_pin: bool,
    priority: Priority,
    expires_unix_ms: Option<u64>,
}

/// What is absent stays; what is null is cleared.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeBody {
    #[serde(deserialize_with = "given")]
    label: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    user: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    team: Option<Option<String>>,
    /// All of them anew.
    #[serde(deserialize_with = "given")]
    tags: Option<Option<Vec<String>>>,
    limits: Object<ChangeLimits>,
    #[serde(deserialize_with = "given")]
    budgets: Option<Option<Vec<Object<BudgetBody>>>>,
    #[serde(deserialize_with = "given")]
    session_budgets: Option<Option<Vec<Object<BudgetBody>>>>,
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Switch")]
    may_pin: Option<bool>,
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Priority")]
    priority: Option<Priority>,
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Switch")]
    disabled: Option<bool>,
    #[serde(deserialize_with = "given")]
    expires_unix_ms: Option<Option<u64>>,
}

/// GET /keys
pub(super) async fn list(State(gateway): State<Arc<Gateway>>) -> Answer {
    let now = gateway.clock.unix_ms();
    super::list(gateway.keys.list().iter().map(|record| view(record, now)).collect())
}

/// GET /keys/{id}
pub(super) async fn show(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    let record = gateway.keys.get(&key_id(&id)).ok_or_else(|| no_such_key(&id))?;
    answer(&view(&record, gateway.clock.unix_ms()))
}

/// POST /keys
pub(super) async fn create(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<CreateBody>,
) -> Answer {
    // A key that never worked is a mistyped date; to end one at once is what a change is for.
    if body.expires_unix_ms.is_some_and(|expires| expires <= gateway.clock.unix_ms()) {
        let message = "`expires_unix_ms` is past: the key would never work";
        return Err(bad(Some("expires_unix_ms"), message));
    }
    let new = NewKey {
        label: name("label", body.label)?,
        user: body.user.map(|user| filled("user", user)).transpose()?,
        team: body.team.map(|team| filled("team", team)).transpose()?,
        tags: tags(body.tags)?,
        limits: body.limits.0.check()?,
        budgets: budgets(body.budgets)?,
        session_budgets: budgets(body.session_budgets)?,
        may_pin: body.may_pin,
        priority: body.priority,
        expires_unix_ms: body.expires_unix_ms,
    };
    let (record, secret) = gateway.keys.make(new).map_err(|error| not_made(&error))?;
    change::begin(&gateway).await?.put_key(&record).await?;
    let key = view(&record, gateway.clock.unix_ms());
    answer_with(StatusCode::CREATED, &CreatedView { key, secret: secret.reveal().to_owned() })
}

/// PATCH /keys/{id}
pub(super) async fn change(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Body(body): Body<ChangeBody>,
) -> Answer {
    let making = change::begin(&gateway).await?;
    let before = gateway.keys.get(&key_id(&id)).ok_or_else(|| no_such_key(&id))?;
    if before.revoked_unix_ms.is_some() && body.disabled == Some(false) {
        let message = format!("the key `{id}` is revoked for good: make another one");
        return Err(Refusal::Conflict(message));
    }
    let change = KeyChange {
        label: body.label.map(|label| name("label", label.unwrap_or_default())).transpose()?,
        user: within(body.user, |user| filled("user", user))?,
        team: within(body.team, |team| filled("team", team))?,
        tags: body.tags.map(|given| tags(given.unwrap_or_default())).transpose()?,
        limits: Some(body.limits.0.apply(before.limits.clone())?),
        budgets: body.budgets.map(|given| budgets(given.unwrap_or_default())).transpose()?,
        session_budgets: body
            .session_budgets
            .map(|given| budgets(given.unwrap_or_default()))
            .transpose()?,
        may_pin: body.may_pin,
        priority: body.priority,
        disabled: body.disabled,
        expires_unix_ms: body.expires_unix_ms,
    };
    let record = gateway.keys.changed(&key_id(&id), change).ok_or_else(|| no_such_key(&id))?;
    making.put_key(&record).await?;
    answer(&view(&record, gateway.clock.unix_ms()))
}

/// DELETE /keys/{id}: revokes it. Its record stays, since entries name it.
pub(super) async fn revoke(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    let making = change::begin(&gateway).await?;
    let record = gateway.keys.revoked(&key_id(&id)).ok_or_else(|| no_such_key(&id))?;
    making.put_key(&record).await?;
    answer(&view(&record, gateway.clock.unix_ms()))
}

/// POST /keys/rotate-admin: the key that asked stops working with this answer.
pub(super) async fn rotate_admin(State(gateway): State<Arc<Gateway>>) -> Answer {
    let turn = gateway.keys.changing().await;
    let rotated = super::reading(&gateway, move |gateway| {
        // Until it is done, whether or not the caller waits for it.
        let _one_at_a_time = turn;
        gateway.keys.rotate_admin()
    });
    let rotated = rotated.await?;
    let secret = rotated.map_err(|error| not_made(&error))?;
    answer(&serde_json::json!({ "secret": secret.reveal() }))
}

fn view(record: &KeyRecord, now_ms: u64) -> KeyView {
    let state = if record.revoked_unix_ms.is_some() {
        "revoked"
    } else if record.disabled_unix_ms.is_some() {
        "disabled"
    } else if record.works_at(now_ms) {
        "active"
    } else {
        "expired"
    };
    KeyView {
        id: record.id.clone(),
        hint: format!("{}…", record.hint),
        label: record.label.clone(),
        user: record.user.clone(),
        team: record.team.clone(),
        tags: record.tags.clone(),
        limits: LimitsView::from(&record.limits),
        budgets: views(&record.budgets),
        session_budgets: views(&record.session_budgets),
        may_pin: record.may_pin,
        priority: record.priority,
        state,
        created: rfc3339(record.created_unix_ms),
        created_unix_ms: record.created_unix_ms,
        expires: record.expires_unix_ms.map(rfc3339),
        expires_unix_ms: record.expires_unix_ms,
        revoked: record.revoked_unix_ms.map(rfc3339),
        revoked_unix_ms: record.revoked_unix_ms,
    }
}

fn key_id(text: &str) -> KeyId {
    KeyId(Arc::from(text))
}

fn no_such_key(id: &str) -> Refusal {
    Refusal::NotFound(format!("there is no key `{id}`"))
}

fn not_made(error: &KeysError) -> Refusal {
    match error {
        KeysError::TooMany => Refusal::Conflict(error.to_string()),
        _ => Refusal::Ledger(error.to_string()),
    }
}
