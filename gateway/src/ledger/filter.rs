//! Which requests a query means.
//!
//! **Invariant:** a filter picks whole requests. Times are those of the end of a request (its
//! commit), because the ledger is ordered and summed by them.

use super::{
    adjusted::Adjustments,
    entry::{CacheUse, Endpoint, KeyId, Outcome},
};
use crate::store::{
    catalogue::Block,
    columns::{Brief, Columns},
};
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
    /// Asked this provider.
    pub provider: Option<String>,
    /// Sent there by this rule.
    pub rule: Option<RuleName>,
    /// Decided by this policy version.
    pub policy_version: Option<PolicyVersion>,
    /// Ended so.
    pub outcome: Option<Outcome>,
    /// The caller saw this HTTP status.
    pub status: Option<u16>,
    /// Served by this endpoint.
    pub endpoint: Option<Endpoint>,
    /// Used the answer cache so.
    pub cache: Option<CacheUse>,
    /// Belongs to this session.
    pub session: Option<String>,
    /// The key's user was this.
    pub user: Option<String>,
    /// The key's team was this.
    pub team: Option<String>,
    /// Has this tag, in any spelling.
    pub tag: Option<String>,
    /// Cost at least this; a request of unknown cost is not among them.
    pub min_cost: Option<PicoUsd>,
    /// Cost at most this; a request of unknown cost is not among them.
    pub max_cost: Option<PicoUsd>,
}

/// A filter with its names as the numbers of one block's dictionary.
pub(crate) struct Sieve<'a> {
    filter: &'a Filter,
    adjusted: &'a Adjustments,
    key: Option<u32>,
    route: Option<u32>,
    model: Option<u32>,
    provider: Option<u32>,
    rule: Option<u32>,
    version: Option<u32>,
    session: Option<u32>,
    user: Option<u32>,
    team: Option<u32>,
    /// Any of these will do.
    tag: Option<Vec<u32>>,
}

impl Filter {
    /// Whether a block can hold requests that are meant.
    pub(crate) fn reaches(&self, block: &Block) -> bool {
        self.from_unix_ms.is_none_or(|from| block.last_ms >= from)
            && self.to_unix_ms.is_none_or(|to| block.first_ms < to)
    }

    /// Prepares it for a block's rows; `None` when no row of the block can be meant.
    pub(crate) fn on<'a>(
        &'a self,
        columns: &Columns,
        adjusted: &'a Adjustments,
    ) -> Option<Sieve<'a>> {
        // The outer `None`: the block does not know the name. The inner: any name will do.
        let number = |name: Option<&str>| match name {
            None => Some(None),
            Some(name) => columns.number(name).map(Some),
        };
        let tag = self.tag.as_deref().map(|tag| columns.spellings(tag));
        if tag.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        Some(Sieve {
            filter: self,
            adjusted,
            key: number(self.key.as_ref().map(|key| key.0.as_ref()))?,
            route: number(self.route.as_ref().map(RouteId::as_str))?,
            model: number(self.model.as_deref())?,
            provider: number(self.provider.as_deref())?,
            rule: number(self.rule.as_ref().map(|rule| rule.0.as_ref()))?,
            version: number(self.policy_version.as_ref().map(|version| version.0.as_ref()))?,
            session: number(self.session.as_deref())?,
            user: number(self.user.as_deref())?,
            team: number(self.team.as_deref())?,
            tag,
        })
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

impl Sieve<'_> {
    /// Whether a request is meant.
    pub(crate) fn takes(&self, brief: &Brief<'_>) -> bool {
        let line = brief.line;
        let is = |wanted: Option<u32>, value: u32| wanted.is_none_or(|wanted| wanted == value);
        self.in_time(brief.unix_ms)
            && is(self.key, line.key)
            && is(self.rule, line.rule)
            && is(self.version, line.version)
            && is(self.session, line.session)
            && is(self.user, line.user)
            && is(self.team, line.team)
            && self.tag.as_ref().is_none_or(|any| brief.tags.iter().any(|tag| any.contains(tag)))
            && self.ended(brief)
            && self.went(brief)
    }

    fn in_time(&self, unix_ms: u64) -> bool {
        self.filter.from_unix_ms.is_none_or(|from| unix_ms >= from)
            && self.filter.to_unix_ms.is_none_or(|to| unix_ms < to)
    }

    fn ended(&self, brief: &Brief<'_>) -> bool {
        let (filter, line) = (self.filter, brief.line);
        filter.outcome.is_none_or(|outcome| line.outcome == outcome)
            && filter.status.is_none_or(|status| line.status == Some(status))
            && filter.endpoint.is_none_or(|endpoint| line.endpoint == endpoint)
            && filter.cache.is_none_or(|cache| line.cache == cache)
            && filter.min_cost.is_none_or(|min| self.cost(brief).is_some_and(|cost| cost >= min))
            && filter.max_cost.is_none_or(|max| self.cost(brief).is_some_and(|cost| cost <= max))
    }

    /// As it is now.
    fn cost(&self, brief: &Brief<'_>) -> Option<PicoUsd> {
        match self.adjusted.has(brief.line.id) {
            true => self.adjusted.cost_of(brief.line.id, brief.legs.iter().map(|leg| leg.cost)),
            false => brief.line.cost,
        }
    }

    fn went(&self, brief: &Brief<'_>) -> bool {
        let any = |wanted: u32, of: fn(&crate::store::columns::Leg) -> u32| {
            brief.legs.iter().any(|leg| of(leg) == wanted)
        };
        self.route.is_none_or(|route| any(route, |leg| leg.route))
            && self.provider.is_none_or(|provider| any(provider, |leg| leg.provider))
            && self
                .model
                .is_none_or(|model| brief.line.model_asked == model || any(model, |leg| leg.model))
    }
}
