//! Keys: create, list, show, change, revoke; the admin key's rotation.
//!
//! **Invariant:** a change is durable in the books before it takes effect here, and changes are
//! made one at a time, so that none is lost.

use super::{
    Answer, answer, answer_with,
    read::{Body, bad},
    times::rfc3339,
    unreadable,
};
use crate::{
    caller::{BudgetSpec, KeyChange, KeyLimits, KeyRecord, KeysError, NewKey, Window},
    ledger::KeyId,
    refusal::Refusal,
    serve::Gateway,
};
use axum::extract::{Path, State};
use http::StatusCode;
use policies::PicoUsd;
use serde::{Deserialize, Deserializer, Serialize};
use std::{collections::HashSet, sync::Arc};

/// Longest label, user or team, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// A key as the admin API shows it.
#[derive(Debug, Serialize)]
struct KeyView {
    id: KeyId,
    hint: String,
    label: String,
    user: Option<String>,
    team: Option<String>,
    limits: KeyLimits,
    budgets: Vec<BudgetView>,
    may_pin: bool,
    state: &'static str,
    created: String,
    created_unix_ms: u64,
    expires: Option<String>,
    expires_unix_ms: Option<u64>,
    revoked: Option<String>,
    revoked_unix_ms: Option<u64>,
}

/// A new key with its secret, shown this once.
#[derive(Debug, Serialize)]
struct CreatedView {
    #[serde(flatten)]
    key: KeyView,
    secret: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetView {
    window: Window,
    #[serde(default)]
    money_usd: Option<PicoUsd>,
    #[serde(default)]
    tokens: Option<u64>,
    #[serde(default = "yes")]
    hard: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsBody {
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrency: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CreateBody {
    label: String,
    user: Option<String>,
    team: Option<String>,
    limits: LimitsBody,
    budgets: Vec<BudgetView>,
    may_pin: bool,
    expires_unix_ms: Option<u64>,
}

/// What is absent stays; what is null is cleared.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeBody {
    label: Option<String>,
    #[serde(deserialize_with = "given")]
    user: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    team: Option<Option<String>>,
    limits: ChangeLimits,
    budgets: Option<Vec<BudgetView>>,
    may_pin: Option<bool>,
    #[serde(deserialize_with = "given")]
    expires_unix_ms: Option<Option<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ChangeLimits {
    #[serde(deserialize_with = "given")]
    requests_per_minute: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    tokens_per_minute: Option<Option<u64>>,
    #[serde(deserialize_with = "given")]
    concurrency: Option<Option<u32>>,
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
    let new = NewKey {
        label: name("label", body.label)?,
        user: body.user.map(|user| name("user", user)).transpose()?,
        team: body.team.map(|team| name("team", team)).transpose()?,
        limits: KeyLimits {
            requests_per_minute: at_least_one(
                "limits.requests_per_minute",
                body.limits.requests_per_minute,
            )?,
            tokens_per_minute: at_least_one(
                "limits.tokens_per_minute",
                body.limits.tokens_per_minute,
            )?,
            concurrency: at_least_one("limits.concurrency", body.limits.concurrency)?,
        },
        budgets: budgets(body.budgets)?,
        may_pin: body.may_pin,
        expires_unix_ms: body.expires_unix_ms,
    };
    let (record, secret) = gateway.keys.make(new).map_err(|error| not_made(&error))?;
    let _one_at_a_time = gateway.keys.changing().await;
    put(&gateway, &record).await?;
    let key = view(&record, gateway.clock.unix_ms());
    answer_with(StatusCode::CREATED, &CreatedView { key, secret: secret.reveal().to_owned() })
}

/// PATCH /keys/{id}
pub(super) async fn change(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    Body(body): Body<ChangeBody>,
) -> Answer {
    let limits = body.limits;
    let change = KeyChange {
        label: body.label.map(|label| name("label", label)).transpose()?,
        user: within(body.user, |user| name("user", user))?,
        team: within(body.team, |team| name("team", team))?,
        requests_per_minute: limits
            .requests_per_minute
            .map(|limit| at_least_one("limits.requests_per_minute", limit))
            .transpose()?,
        tokens_per_minute: limits
            .tokens_per_minute
            .map(|limit| at_least_one("limits.tokens_per_minute", limit))
            .transpose()?,
        concurrency: limits
            .concurrency
            .map(|limit| at_least_one("limits.concurrency", limit))
            .transpose()?,
        budgets: body.budgets.map(budgets).transpose()?,
        may_pin: body.may_pin,
        expires_unix_ms: body.expires_unix_ms,
    };
    let _one_at_a_time = gateway.keys.changing().await;
    let record = gateway.keys.changed(&key_id(&id), change).ok_or_else(|| no_such_key(&id))?;
    put(&gateway, &record).await?;
    answer(&view(&record, gateway.clock.unix_ms()))
}

/// DELETE /keys/{id}: revokes it. Its record stays, since entries name it.
pub(super) async fn revoke(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Answer {
    let _one_at_a_time = gateway.keys.changing().await;
    let record = gateway.keys.revoked(&key_id(&id)).ok_or_else(|| no_such_key(&id))?;
    put(&gateway, &record).await?;
    answer(&view(&record, gateway.clock.unix_ms()))
}

/// POST /keys/rotate-admin: the key that asked stops working with this answer.
pub(super) async fn rotate_admin(State(gateway): State<Arc<Gateway>>) -> Answer {
    let _one_at_a_time = gateway.keys.changing().await;
    let rotated = super::reading(&gateway, |gateway| gateway.keys.rotate_admin()).await?;
    let secret = rotated.map_err(|error| not_made(&error))?;
    answer(&serde_json::json!({ "secret": secret.reveal() }))
}

/// Durable first, then in effect.
async fn put(gateway: &Gateway, record: &KeyRecord) -> Result<(), Refusal> {
    gateway.books.put_key(record.clone()).committed().await.map_err(unreadable)?;
    gateway.keys.install(record.clone());
    Ok(())
}

fn view(record: &KeyRecord, now_ms: u64) -> KeyView {
    let state = if record.revoked_unix_ms.is_some() {
        "revoked"
    } else if record.works_at(now_ms) {
        "active"
    } else {
        "expired"
    };
    let budget = |budget: &BudgetSpec| BudgetView {
        window: budget.window,
        money_usd: budget.money,
        tokens: budget.tokens,
        hard: budget.hard,
    };
    KeyView {
        id: record.id.clone(),
        hint: format!("{}…", record.hint),
        label: record.label.clone(),
        user: record.user.clone(),
        team: record.team.clone(),
        limits: record.limits.clone(),
        budgets: record.budgets.iter().map(budget).collect(),
        may_pin: record.may_pin,
        state,
        created: rfc3339(record.created_unix_ms),
        created_unix_ms: record.created_unix_ms,
        expires: record.expires_unix_ms.map(rfc3339),
        expires_unix_ms: record.expires_unix_ms,
        revoked: record.revoked_unix_ms.map(rfc3339),
        revoked_unix_ms: record.revoked_unix_ms,
    }
}

fn budgets(written: Vec<BudgetView>) -> Result<Vec<BudgetSpec>, Refusal> {
    let mut windows = HashSet::new();
    written
        .into_iter()
        .map(|budget| {
            if budget.money_usd.is_none() && budget.tokens.is_none() {
                return Err(bad(
                    Some("budgets"),
                    "a budget limits `money_usd` or `tokens` or both",
                ));
            }
            if !windows.insert(budget.window) {
                return Err(bad(Some("budgets"), "a key has at most one budget for each window"));
            }
            Ok(BudgetSpec {
                window: budget.window,
                money: budget.money_usd,
                tokens: budget.tokens,
                hard: budget.hard,
            })
        })
        .collect()
}

fn name(param: &str, text: String) -> Result<String, Refusal> {
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("`{param}` has at most {NAME_BYTES_MAX} bytes of plain text");
        return Err(bad(Some(param), message));
    }
    Ok(text)
}

fn at_least_one<T: PartialEq + From<u8>>(
    param: &str,
    limit: Option<T>,
) -> Result<Option<T>, Refusal> {
    if limit.as_ref().is_some_and(|limit| *limit == T::from(0)) {
        let message = format!("`{param}` is at least 1; to stop a key, revoke it");
        return Err(bad(Some(param), message));
    }
    Ok(limit)
}

fn within<T>(
    change: Option<Option<T>>,
    check: impl FnOnce(T) -> Result<T, Refusal>,
) -> Result<Option<Option<T>>, Refusal> {
    match change {
        Some(Some(value)) => check(value).map(|value| Some(Some(value))),
        other => Ok(other),
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

fn yes() -> bool {
    true
}

/// A field that is there, null or not.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
