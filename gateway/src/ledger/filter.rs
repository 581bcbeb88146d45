//! Which requests a query means.
//!
//! **Invariant:** a filter picks whole requests. Times are those of the end of a request (its
//! commit), because the ledger is ordered and summed by them.

use super::entry::{KeyId, Outcome};
use crate::store::{catalogue::Block, codec::Row};
use policies::{PicoUsd, PolicyVersion, RouteId, RuleName};

/// Which requests. Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Ended at or after this, milliseconds since the Unix epoch.
    pub from_unix_ms: Option<u64>,
    /// Ended before this.
    pub to_unix_ms: Option<u64>,
    /// Asked by this key.
    pub key: Option<KeyId>,
    /// Tried this route.
    pub route: Option<RouteId>,
    /// Asked a route for this model, by the provider's name, or wrote it as `model`.
    pub model: Option<String>,
    /// Sent there by this rule.
    pub rule: Option<RuleName>,
    /// Decided by this policy version.
    pub policy_version: Option<PolicyVersion>,
    /// Ended so.
    pub outcome: Option<Outcome>,
    /// Belongs to this session.
    pub session: Option<String>,
    /// The key's user was this.
    pub user: Option<String>,
    /// The key's team was this.
    pub team: Option<String>,
    /// Has this tag.
    pub tag: Option<String>,
    /// Cost at least this; a request of unknown cost is not among them.
    pub min_cost: Option<PicoUsd>,
}

impl Filter {
    /// Whether a block can hold requests that are meant.
    pub(crate) fn reaches(&self, block: &Block) -> bool {
        self.from_unix_ms.is_none_or(|from| block.last_ms >= from)
            && self.to_unix_ms.is_none_or(|to| block.first_ms < to)
    }

    /// Whether a request that was committed at `unix_ms` is meant.
    pub(crate) fn takes(&self, unix_ms: u64, row: &Row) -> bool {
        let is =
            |wanted: &Option<String>, value: &Option<String>| wanted.is_none() || wanted == value;
        self.from_unix_ms.is_none_or(|from| unix_ms >= from)
            && self.to_unix_ms.is_none_or(|to| unix_ms < to)
            && self.key.as_ref().is_none_or(|key| row.key == *key)
            && self.outcome.is_none_or(|outcome| row.outcome == outcome)
            && self.rule.as_ref().is_none_or(|rule| row.rule == *rule)
            && self.policy_version.as_ref().is_none_or(|version| row.version == *version)
            && is(&self.session, &row.session)
            && is(&self.user, &row.user)
            && is(&self.team, &row.team)
            && self.tag.as_ref().is_none_or(|tag| row.tags.contains(tag))
            && self.min_cost.is_none_or(|min| row.cost.is_some_and(|cost| cost >= min))
            && self.took_route(row)
            && self.asked_model(row)
    }

    fn took_route(&self, row: &Row) -> bool {
        let Some(route) = &self.route else { return true };
        row.attempts.iter().any(|attempt| attempt.route == *route)
    }

    fn asked_model(&self, row: &Row) -> bool {
        let Some(model) = &self.model else { return true };
        row.model_asked == *model || row.attempts.iter().any(|attempt| attempt.model == *model)
    }

    /// Whether nothing but the time is asked for.
    pub(crate) fn is_time_only(&self) -> bool {
        let time = Self {
            from_unix_ms: self.from_unix_ms,
            to_unix_ms: self.to_unix_ms,
            ..Self::default()
        };
        *self == time
    }
}
