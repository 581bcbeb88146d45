//! The parameters of the ledger's queries.
//!
//! **Invariant:** a parameter that nobody took is refused, and so is one that stands there twice:
//! nothing that was asked is ignored.

use super::{
    ledger::Ledger,
    read::{bad, unknown},
    times,
};
use crate::{
    ledger::{Filter, GroupBy, KeyId},
    refusal::Refusal,
};
use policies::{PicoUsd, PolicyVersion, RouteId, RuleName};
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use std::{collections::BTreeMap, str::FromStr, sync::Arc};

/// A query string, taken apart.
#[derive(Debug)]
pub(super) struct Asked(BTreeMap<String, String>);

impl Asked {
    pub(super) fn new(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut asked = BTreeMap::new();
        for (name, value) in pairs {
            if asked.contains_key(&name) {
                return Err(bad(Some(&name), format!("`{name}` stands there twice")));
            }
            asked.insert(name, value);
        }
        Ok(Self(asked))
    }

    /// Those members of a body that stand there.
    pub(super) fn of_body<const N: usize>(named: [(&str, Option<String>); N]) -> Self {
        let pairs = named.into_iter();
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    /// The text of a parameter.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// A parameter that is parsed.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Refusal>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(name);
        let parse = |text: String| {
            text.parse().map_err(|error| bad(Some(name), format!("`{name}`: {error}")))
        };
        text.map(parse).transpose()
    }

    /// A parameter that is one of a closed set of words.
    pub(super) fn word<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        self.text(name).map(|text| word(name, &text)).transpose()
    }

    /// A time: see [`times::read`].
    pub(super) fn time(&mut self, ledger: &Ledger, name: &str) -> Result<Option<u64>, Refusal> {
        let text = self.text(name);
        text.map(|text| times::parse(&ledger.clock, &ledger.zone, name, &text)).transpose()
    }

    /// A status of HTTP.
    fn status(&mut self) -> Result<Option<u16>, Refusal> {
        const NAME: &str = "status";
        let status = self.parsed(NAME)?;
        if status.is_some_and(|status| !(100..600).contains(&status)) {
            return Err(bad(Some(NAME), format!("`{NAME}` must be between 100 and 599")));
        }
        Ok(status)
    }

    /// By what to group: words with commas, each once.
    pub(super) fn group_by(&mut self) -> Result<Vec<GroupBy>, Refusal> {
        let text = self.text("group_by").unwrap_or_default();
        let mut groups = Vec::new();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let group = word("group_by", name)?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        Ok(groups)
    }

    /// Which requests.
    pub(super) fn filter(&mut self, ledger: &Ledger) -> Result<Filter, Refusal> {
        let (from_unix_ms, to_unix_ms) = (self.time(ledger, "since")?, self.time(ledger, "until")?);
        check_order(("since", from_unix_ms), ("until", to_unix_ms))?;
        let min_cost: Option<PicoUsd> = self.parsed("min_cost_usd")?;
        let max_cost: Option<PicoUsd> = self.parsed("max_cost_usd")?;
        if min_cost > max_cost && max_cost.is_some() {
            return Err(bad(Some("max_cost_usd"), "`max_cost_usd` is less than `min_cost_usd`"));
        }
        Ok(Filter {
            from_unix_ms,
            to_unix_ms,
            key: self.text("key").map(|key| KeyId(Arc::from(key))),
            route: self.text("route").map(|route| RouteId::new(&route)),
            model: self.text("model"),
            provider: self.text("provider"),
            rule: self.text("rule").map(|rule| RuleName(Arc::from(rule))),
            policy_version: self
                .text("policy_version")
                .map(|version| PolicyVersion(Arc::from(version))),
            outcome: self.word("outcome")?,
            status: self.status()?,
            endpoint: self.word("endpoint")?,
            cache: self.word("cache")?,
            session: self.text("session"),
            user: self.text("user"),
            team: self.text("team"),
            tag: self.text("tag"),
            min_cost,
            max_cost,
        })
    }

    /// Nothing more was asked.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.0.into_keys().next() {
            Some(name) => Err(unknown(&name)),
            None => Ok(()),
        }
    }
}

/// Refuses a range that nothing can be in: it ends before it begins, or there.
pub(super) fn check_order(
    (first, from): (&str, Option<u64>),
    (second, to): (&str, Option<u64>),
) -> Result<(), Refusal> {
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(bad(Some(second), format!("`{second}` is not after `{first}`")));
    }
    Ok(())
}

/// serde's own message names the words that are known.
fn word<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Refusal> {
    let reader: serde::de::value::StrDeserializer<'_, serde::de::value::Error> =
        text.into_deserializer();
    T::deserialize(reader).map_err(|error| {
        let message = error.to_string().replace("variant", "word");
        bad(Some(name), format!("`{name}`: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{Asked, check_order};

    #[test]
    fn a_range_ends_after_it_begins() {
        let is_one = |from, to| check_order(("since", from), ("until", to)).is_ok();
        assert!(is_one(Some(1), Some(2)) && is_one(Some(2), None) && is_one(None, Some(0)));
        assert!(!is_one(Some(2), Some(2)) && !is_one(Some(3), Some(2)));
    }

    #[test]
    fn a_status_is_one_of_http() {
        let read = |text: &str| {
            Asked::new(vec![("status".to_owned(), text.to_owned())]).unwrap().status().ok()
        };
        assert_eq!(
            ["100", "499", "599"].map(read),
            [Some(Some(100)), Some(Some(499)), Some(Some(599))]
        );
        assert_eq!(["99", "600", "70000", "-1", "ok"].map(read), [None; 5]);
    }
}
