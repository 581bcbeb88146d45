//! The policy in force, its history, and trying another one out.

use super::{
    Answer, answer, list,
    read::{Body, bad},
    reading,
    times::rfc3339,
    unreadable,
};
use crate::{config::PolicySource, policy_watch::doubts, refusal::Refusal, serve::Gateway};
use axum::extract::{Path, State};
use policies::{Policy, PolicyError, PolicyVersion, PolicyWarning};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The largest policy that is validated, in bytes.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// What a policy without a name is called in errors.
pub(super) const UNNAMED: &str = "policy";

/// GET /policies: the one in force, and why a newer file is not.
pub(super) async fn current(State(gateway): State<Arc<Gateway>>) -> Answer {
    let policy = gateway.policy.current();
    let file = match gateway.policy.source() {
        PolicySource::File(path) => Some(path.display().to_string()),
        PolicySource::Shipped(_) => None,
    };
    let last_error = gateway.policy.last_error().map(|rejected| {
        json!({
            "error": rejected.error,
            "at": rfc3339(rejected.unix_ms),
            "at_unix_ms": rejected.unix_ms,
        })
    });
    answer(&json!({
        "name": policy.name(),
        "version": policy.version(),
        "description": policy.description(),
        "tests": policy.tests(),
        "file": file,
        "shipped": matches!(gateway.policy.source(), PolicySource::Shipped(_)),
        "aliases": gateway.config.policy.aliases,
        "last_error": last_error,
        "source": policy.source(),
    }))
}

/// POST /policies/reload: reads the file again, now, as SIGHUP does.
pub(super) async fn reload(State(gateway): State<Arc<Gateway>>) -> Answer {
    gateway.policy.reload(&gateway.books, true).await;
    current(State(gateway)).await
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ValidateBody {
    /// The policy's text.
    text: String,
    /// Its name, for errors.
    #[serde(default)]
    name: Option<String>,
}

/// POST /policies/validate: parses a policy, runs its tests, checks it against the routes.
/// Nothing changes.
pub(super) async fn validate(
    State(gateway): State<Arc<Gateway>>,
    Body(body): Body<ValidateBody>,
) -> Answer {
    let text = text_of(body.text)?;
    let said = reading(&gateway, move |gateway| {
        let name = body.name.as_deref().unwrap_or(UNNAMED);
        verdict(as_configured(name, &text, gateway))
    })
    .await?;
    answer(&said)
}

/// A policy's text, if it is not too long.
pub(super) fn text_of(text: String) -> Result<String, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("a policy has at most {TEXT_BYTES_MAX} bytes");
        return Err(bad(Some("text"), message));
    }
    Ok(text)
}

/// A policy as it could come into force here, and what may not be meant in it. Blocking: its tests run.
///
/// # Errors
/// Why it could not.
pub(super) fn as_configured(
    name: &str,
    text: &str,
    gateway: &Gateway,
) -> Result<(Policy, Vec<PolicyWarning>), PolicyError> {
    let policy = Policy::parse(name, text)?;
    let mut warnings = policy.check(gateway.policy.routes())?;
    warnings.extend(doubts::of(&policy));
    Ok((policy, warnings))
}

fn verdict(checked: Result<(Policy, Vec<PolicyWarning>), PolicyError>) -> Value {
    match checked {
        Ok((policy, warnings)) => json!({
            "valid": true,
            "name": policy.name(),
            "version": policy.version(),
            "tests": policy.tests(),
            "warnings": warnings
                .iter()
                .map(|warning| json!({ "line": warning.line, "message": warning.message }))
                .collect::<Vec<_>>(),
        }),
        Err(error) => json!({
            "valid": false,
            "error": {
                "message": error.to_string(),
                "line": error.line,
                "column": error.column,
                "key": error.key,
            },
        }),
    }
}

/// GET /policies/history: every version that came into force, oldest first.
pub(super) async fn history(State(gateway): State<Arc<Gateway>>) -> Answer {
    let notes = reading(&gateway, |gateway| gateway.books.policies()).await?;
    let rows = notes
        .iter()
        .map(|note| {
            json!({
                "name": note.name,
                "version": note.version,
                "since": rfc3339(note.unix_ms),
                "since_unix_ms": note.unix_ms,
            })
        })
        .collect();
    list(rows)
}

/// GET /policies/history/{version}: its text.
pub(super) async fn version(
    State(gateway): State<Arc<Gateway>>,
    Path(version): Path<String>,
) -> Answer {
    let wanted = PolicyVersion(Arc::from(version.as_str()));
    let found = reading(&gateway, move |gateway| gateway.books.policy_source(&wanted)).await?;
    match found.map_err(unreadable)? {
        Some(source) => answer(&json!({ "version": version, "source": source })),
        None => Err(Refusal::NotFound(format!("no policy version `{version}` was ever in force"))),
    }
}
