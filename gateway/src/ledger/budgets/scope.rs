//! Whose budgets and limits a request counts against.
//!
//! **Invariant:** team and user come from the operator's records, never from the request; a session
//! belongs to its key, so that nobody spends another key's session by knowing its name.

use crate::ledger::KeyId;
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, fmt, sync::Arc};

/// Whose budget or limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Everyone's.
    Global,
    /// One key's.
    Key(KeyId),
    /// All keys' of a team.
    Team(Arc<str>),
    /// All keys' of a user.
    User(Arc<str>),
    /// One session's (agent run's) of a key. The session `*` is what those share that are too many
    /// to be told apart.
    Session(KeyId, Arc<str>),
    /// Everything that bears a tag, in lower case: see [`Scope::tag`].
    Tag(#[serde(deserialize_with = "lower")] Arc<str>),
    /// Everything that asks for a model by this name.
    Model(Arc<str>),
}

/// Every scope that a request counts against, the widest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetPath(Vec<Scope>);

/// What a path is made from.
#[derive(Clone, Copy, Debug)]
pub struct Payer<'a> {
    /// The key.
    pub key: &'a KeyId,
    /// The operator's team of it.
    pub team: Option<&'a str>,
    /// The operator's user of it.
    pub user: Option<&'a str>,
    /// The session that the request names.
    pub session: Option<&'a str>,
    /// The request's tags.
    pub tags: &'a [String],
    /// The model it asks for, where that has limits of its own.
    pub model: Option<&'a str>,
}

fn lower<'de, D: Deserializer<'de>>(name: D) -> Result<Arc<str>, D::Error> {
    Ok(String::deserialize(name)?.to_ascii_lowercase().into())
}

impl Scope {
    /// A tag's. Policies tell tags apart without regard to ASCII case, and so do budgets: another
    /// spelling of a tag gets round neither.
    #[must_use]
    pub fn tag(name: &str) -> Self {
        Self::Tag(name.to_ascii_lowercase().into())
    }

    /// What kind of scope, as it is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Key(_) => "key",
            Self::Team(_) => "team",
            Self::User(_) => "user",
            Self::Session(..) => "session",
            Self::Tag(_) => "tag",
            Self::Model(_) => "model",
        }
    }

    /// Its name within its kind; `None` for the global one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Global => None,
            Self::Key(key) => Some(&key.0),
            Self::Team(name)
            | Self::User(name)
            | Self::Session(_, name)
            | Self::Tag(name)
            | Self::Model(name) => Some(name),
        }
    }

    /// Whose limit it is, as a sentence to its caller says it.
    #[must_use]
    pub fn whose(&self) -> Cow<'static, str> {
        let whose = match self {
            Self::Global => "the gateway's",
            Self::Key(_) => "this key's",
            Self::Team(_) => "this team's",
            Self::User(_) => "this user's",
            Self::Session(..) => "this session's",
            Self::Tag(_) => "this tag's",
            Self::Model(name) => return format!("the model `{name}`'s").into(),
        };
        whose.into()
    }
}

impl Scope {
    /// Appends its name: `global`, a key's id, or `team:` and the like before a name.
    pub(super) fn write(&self, out: &mut String) {
        let (before, name) = match self {
            Self::Global => ("global", ""),
            Self::Key(key) => ("", &*key.0),
            Self::Team(name) => ("team:", &**name),
            Self::User(name) => ("user:", &**name),
            Self::Session(key, name) => {
                out.push_str(&key.0);
                ("/session:", &**name)
            }
            Self::Tag(name) => ("tag:", &**name),
            Self::Model(name) => ("model:", &**name),
        };
        out.push_str(before);
        out.push_str(name);
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = String::new();
        self.write(&mut name);
        f.write_str(&name)
    }
}

impl BudgetPath {
    /// The path of a request.
    #[must_use]
    pub fn of(payer: &Payer<'_>) -> Self {
        let mut scopes = Vec::with_capacity(6 + payer.tags.len());
        scopes.push(Scope::Global);
        scopes.extend(payer.model.map(|model| Scope::Model(model.into())));
        scopes.extend(payer.team.map(|team| Scope::Team(team.into())));
        scopes.extend(payer.user.map(|user| Scope::User(user.into())));
        scopes.push(Scope::Key(payer.key.clone()));
        let session = |session: &str| Scope::Session(payer.key.clone(), session.into());
        scopes.extend(payer.session.map(session));
        scopes.extend(payer.tags.iter().map(|tag| Scope::tag(tag)));
        Self(scopes)
    }

    /// A model alone, to look at its limits.
    pub(crate) fn of_model(model: &str) -> Self {
        Self(vec![Scope::Model(model.into())])
    }

    /// The scopes, the widest first.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.0
    }
}
