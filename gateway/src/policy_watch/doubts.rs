//! What in a policy may not be meant, as far as only the gateway knows: how budgets are called, and
//! what a tag is.

use crate::{
    caller::Window,
    wire::{GUARD_TAG, check_tags},
};
use policies::{Policy, PolicyWarning};

/// Warns of what cannot be: conditions on it never match.
pub(crate) fn of(policy: &Policy) -> Vec<PolicyWarning> {
    let mut all = budgets(policy);
    all.extend(tags(policy));
    all
}

/// Warns of tags that no request can bear.
fn tags(policy: &Policy) -> impl Iterator<Item = PolicyWarning> {
    let is_guards = |tag: &str| {
        let start = tag.get(..GUARD_TAG.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(GUARD_TAG))
    };
    let named = policy.named_tags().into_iter();
    named.filter(move |(_, _, tag)| !is_guards(tag)).filter_map(|(line, rule, tag)| {
        let why = check_tags(vec![tag.to_owned()]).err()?;
        let message = format!(
            "rule `{rule}` looks for the tag `{}`, which no request can bear: {why}",
            tag.escape_debug()
        );
        Some(PolicyWarning { line, message })
    })
}

/// Warns of budgets that no budget's id can be.
fn budgets(policy: &Policy) -> Vec<PolicyWarning> {
    let odd = |(line, rule, id): (usize, &policies::RuleName, &str)| {
        let meant = called(id);
        let help = match meant {
            Some(meant) if meant == id => return None,
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "an id is a scope and a window, such as \"team:red/month\"".to_owned(),
        };
        let message =
            format!("rule `{rule}` looks at the budget `{id}`, and none is ever called so; {help}");
        Some(PolicyWarning { line, message })
    };
    policy.named_budgets().into_iter().filter_map(odd).collect()
}

/// The id of the budget that is meant by `id`; `None` where that is none.
fn called(id: &str) -> Option<String> {
    let (scope, window) = id.rsplit_once('/')?;
    let window: Window = window.parse().ok()?;
    let scope = match scope.split_once(':') {
        Some((_, "")) => return None,
        Some(("tag", _)) => scope.to_ascii_lowercase(),
        Some(("team" | "user", _)) => scope.to_owned(),
        Some((key, _)) if key.starts_with("key_") && key.ends_with("/session") => scope.to_owned(),
        None if scope == "global" || scope.starts_with("key_") => scope.to_owned(),
        _ => return None,
    };
    Some(format!("{scope}/{window}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_meant_by_its_scope_and_its_window() {
        let same = [
            "global/month",
            "team:red/month",
            "user:a/b/day",
            "key_1/total",
            "key_1/session:run 1/total",
            "tag:nightly/rolling:1d",
        ];
        for id in same {
            assert_eq!(called(id).as_deref(), Some(id));
        }
        assert_eq!(called("team:red/rolling:24h").as_deref(), Some("team:red/rolling:1d"));
        assert_eq!(called("tag:Nightly/day").as_deref(), Some("tag:nightly/day"));
        for id in ["month", "red/month", "team:/month", "team:red", "team:red/year", "group:a/day"]
        {
            assert_eq!(called(id), None, "{id}");
        }
    }

    #[test]
    fn a_condition_on_a_budget_that_cannot_be_is_a_warning() {
        let policy = |id: &str| {
            let text = format!(
                "[[choose]]\nname = \"low\"\nwhen.budgets.\"{id}\".left_usd.lt = \"5\"\n\
                 routes = [\"@all\"]\n"
            );
            Policy::parse("p", &text).unwrap()
        };
        assert_eq!(budgets(&policy("team:red/rolling:1d")), []);
        let said = |id: &str| budgets(&policy(id))[0].to_string();
        assert_eq!(
            said("team:red/rolling:24h"),
            "line 1: rule `low` looks at the budget `team:red/rolling:24h`, and none is ever called so; \
             did you mean `team:red/rolling:1d`?"
        );
        assert!(said("month").ends_with("such as \"team:red/month\""));
    }

    #[test]
    fn a_tag_that_no_request_can_bear_is_a_warning() {
        let said = |tag: &str| {
            let text = format!(
                "[[choose]]\nname = \"home\"\nwhen.not.tags.has_any = [\"x\", \"{tag}\"]\n\
                 routes = [\"@all\"]\n"
            );
            of(&Policy::parse("p", &text).unwrap())
        };
        for sound in ["private", "a b", "guard:home"] {
            assert_eq!(said(sound), []);
        }
        for odd in ["priv\u{e9}", "private ", "a,b", &"x".repeat(65)] {
            let warning = said(odd)[0].to_string();
            let start =
                format!("line 1: rule `home` looks for the tag `{odd}`, which no request can");
            assert!(warning.starts_with(&start), "{warning}");
        }
    }
}
