//! What in a policy may not be meant, as far as only the gateway knows: how budgets are called.

use crate::caller::Window;
use policies::{Policy, PolicyWarning};

/// Warns of budgets that no budget's id can be: conditions on them never match.
pub(crate) fn budgets(policy: &Policy) -> Vec<PolicyWarning> {
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
}
