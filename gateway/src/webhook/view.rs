//! An event as receivers and operators see it.

use crate::{
    admin::times::rfc3339,
    ledger::{Guarded, Notice, Reached, Unit, What, budget_id},
};
use policies::PicoUsd;
use serde_json::{Value, json};

/// The JSON of an event. Money is a decimal string in US dollars.
pub(crate) fn view(notice: &Notice) -> Value {
    json!({
        "id": notice.id.to_string(),
        "object": "event",
        "type": notice.kind(),
        "created": rfc3339(notice.unix_ms),
        "created_unix_ms": notice.unix_ms,
        "data": match &notice.what {
            What::Budget(reached) => budget(reached),
            What::Guard(guarded) => guard(guarded),
            What::Lifted(subject) => json!({ "subject": subject }),
        },
    })
}

fn budget(reached: &Reached) -> Value {
    let Reached { scope, window, unit, percent, limit, spent, began_unix_ms } = reached;
    let mut data = json!({
        "budget": budget_id(scope, *window),
        "scope": scope.kind(),
        "name": scope.name(),
        "window": window.to_string(),
        "began": rfc3339(*began_unix_ms),
        "began_unix_ms": began_unix_ms,
        "unit": unit,
        "percent": percent,
    });
    let (limit_name, spent_name) = match unit {
        Unit::Money => ("limit_usd", "spent_usd"),
        Unit::Tokens => ("limit_tokens", "spent_tokens"),
        Unit::Requests => ("limit_requests", "spent_requests"),
    };
    for (name, amount) in [(limit_name, *limit), (spent_name, *spent)] {
        data[name] = match unit {
            Unit::Money => json!(PicoUsd::from_pico(amount)),
            Unit::Tokens | Unit::Requests => json!(amount),
        };
    }
    if scope.name().is_none()
        && let Some(fields) = data.as_object_mut()
    {
        fields.remove("name");
    }
    data
}

fn guard(guarded: &Guarded) -> Value {
    let Guarded { subject, signal, effect, seen, until_unix_ms } = guarded;
    let mut data = json!({ "subject": subject, "signal": signal, "effect": effect, "seen": seen });
    if let Some(until) = until_unix_ms {
        data["until"] = json!(rfc3339(*until));
        data["until_unix_ms"] = json!(until);
        data["lift"] = json!(format!("tollgate guard lift {subject}"));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        caller::Window,
        ledger::{GuardEffect, NoticeId, Scope},
    };

    fn notice(what: What) -> Value {
        let id = NoticeId(uuid::Uuid::from_u128(7));
        view(&Notice { id, unix_ms: 1_780_315_200_000, what })
    }

    #[test]
    fn a_budget_says_which_part_of_what_is_spent() {
        let reached = Reached {
            scope: Scope::Team("red".into()),
            window: Window::Day,
            unit: Unit::Money,
            percent: 80,
            limit: 5_000_000_000_000,
            spent: 4_000_000_000_001,
            began_unix_ms: 1_780_272_000_000,
        };
        assert_eq!(
            notice(What::Budget(reached)),
            json!({
                "id": "evt_00000000000000000000000000000007",
                "object": "event",
                "type": "budget.reached_80",
                "created": "2026-06-01T12:00:00.000Z",
                "created_unix_ms": 1_780_315_200_000_u64,
                "data": {
                    "budget": "team:red/day",
                    "scope": "team",
                    "name": "red",
                    "window": "day",
                    "began": "2026-06-01T00:00:00.000Z",
                    "began_unix_ms": 1_780_272_000_000_u64,
                    "unit": "money",
                    "percent": 80,
                    "limit_usd": "5.000000000000",
                    "spent_usd": "4.000000000001",
                },
            })
        );
    }

    #[test]
    fn a_guards_act_says_what_was_seen_and_how_to_lift_it() {
        let seen = notice(What::Guard(Guarded {
            subject: "user:ada".to_owned(),
            signal: "spend_velocity".to_owned(),
            effect: GuardEffect::Blocked,
            seen: "much".to_owned(),
            until_unix_ms: Some(1_780_315_260_000),
        }));
        assert_eq!(seen["type"], "guard.blocked");
        assert_eq!(seen["data"]["lift"], "tollgate guard lift user:ada");
        assert_eq!(seen["data"]["until"], "2026-06-01T12:01:00.000Z");
    }
}
