//! Promises of what the admin plane is asked: what it cannot do as it was said is refused, not passed
//! over.

use super::{Plane, json};
use serde_json::Value;

#[tokio::test]
async fn null_clears_a_list_and_a_label_and_is_no_switch() {
    let plane = Plane::open();
    let full = json!({
        "label": "nightly", "tags": ["x"], "budgets": [{"window": "day", "money_usd": "5"}],
        "session_budgets": [{"window": "total", "money_usd": "1"}], "may_pin": true,
    });
    let (_, made) = plane.ask("POST", "/keys", full).await;
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    let nothing = json!({"label": null, "tags": null, "budgets": null, "session_budgets": null});
    let (status, cleared) = plane.ask("PATCH", &path, nothing).await;
    assert_eq!((status, &cleared["label"], &cleared["tags"]), (200, &json!(""), &json!([])));
    assert_eq!((&cleared["budgets"], &cleared["session_budgets"]), (&json!([]), &json!([])));

    let team = json!({"name": "red", "label": "Red", "budgets": [{"window": "day", "tokens": 5}]});
    assert_eq!(plane.ask("POST", "/teams", team).await.0, 201);
    let nothing = json!({"label": null, "budgets": null, "session_budgets": null});
    let (status, cleared) = plane.ask("PATCH", "/teams/red", nothing).await;
    assert_eq!((status, &cleared["label"], &cleared["budgets"]), (200, &json!(""), &json!([])));

    let budget = json!({"scope": "global", "window": "day", "money_usd": "5"});
    assert_eq!(plane.ask("POST", "/budgets", budget).await.0, 201);
    for (path, switch) in [
        (path.as_str(), "may_pin"),
        (&path, "priority"),
        (&path, "disabled"),
        ("/teams/red", "disabled"),
        ("/budgets/global/day", "hard"),
    ] {
        let (status, said) = plane.ask("PATCH", path, json!({switch: null})).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!(switch)), "{path}: {said}");
    }
}

#[tokio::test]
async fn how_urgent_a_key_is_is_said_when_it_is_made_and_changed_later() {
    let plane = Plane::open();
    let (_, usual) = plane.ask("POST", "/keys", json!({})).await;
    assert_eq!(usual["priority"], "normal");
    for priority in ["low", "normal", "high"] {
        let (status, made) = plane.ask("POST", "/keys", json!({"priority": priority})).await;
        assert_eq!((status, &made["priority"]), (201, &json!(priority)));
        let path = format!("/keys/{}", made["id"].as_str().unwrap());
        let (_, other) = plane.ask("PATCH", &path, json!({"label": "ci"})).await;
        assert_eq!(other["priority"], priority, "what is not named stays");
        let (status, said) = plane.ask("PATCH", &path, json!({"priority": "urgent"})).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("priority")), "{said}");
        let (status, changed) = plane.ask("PATCH", &path, json!({"priority": "high"})).await;
        assert_eq!((status, &changed["priority"]), (200, &json!("high")));
        assert_eq!(plane.ask("GET", &path, Value::Null).await.1["priority"], "high");
    }
    let (_, all) = plane.ask("GET", "/keys", Value::Null).await;
    let of = |key: &Value| key["priority"].as_str().unwrap().to_owned();
    let all: Vec<_> = all["data"].as_array().unwrap().iter().map(of).collect();
    assert_eq!(all.iter().filter(|priority| *priority == "high").count(), 3, "{all:?}");
    // Nothing that a team or a user has.
    for of in ["teams", "users"] {
        let body = json!({"name": "red", "priority": "high"});
        let (status, said) = plane.ask("POST", &format!("/{of}"), body).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("priority")), "{said}");
    }
}

#[tokio::test]
async fn a_credit_takes_no_more_than_is_spent_of_what_is_not_limited_either() {
    let plane = Plane::open();
    let budget = json!({"scope": "global", "window": "total", "money_usd": "5"});
    assert_eq!(plane.ask("POST", "/budgets", budget).await.0, 201);
    let correct = |unit: &str, amount: u64, credit: bool| {
        let body =
            json!({"budget": "global/total", unit: amount, "credit": credit, "reason": "by hand"});
        plane.ask("POST", "/corrections", body)
    };
    for unit in ["tokens", "requests"] {
        assert_eq!(correct(unit, 30, false).await.0, 200);
        let (status, said) = correct(unit, 31, true).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!(unit)), "{said}");
        assert_eq!(correct(unit, 10, true).await.0, 200);
    }
    let limited = json!({"tokens": 100, "requests": 100});
    assert_eq!(plane.ask("PATCH", "/budgets/global/total", limited).await.0, 200);
    let (_, shown) = plane.ask("GET", "/budgets/global/total", Value::Null).await;
    assert_eq!((&shown["spent_tokens"], &shown["spent_requests"]), (&json!(20), &json!(20)));
}

#[tokio::test]
async fn a_parameter_that_nobody_knows_is_refused_everywhere() {
    let plane = Plane::open();
    let (_, key) = plane.ask("POST", "/keys", json!({})).await;
    let key = format!("/keys/{}", key["id"].as_str().unwrap());
    for path in [
        "/keys",
        &key,
        "/teams",
        "/users",
        "/tags",
        "/routes",
        "/models",
        "/reservations",
        "/refusals",
        "/limits",
        "/guard",
        "/webhooks",
        "/policies",
        "/policies/history",
        "/sessions/s",
        "/ledger/verify",
        "/ledger/requests",
        "/ledger/requests/x",
        "/ledger/summary",
        "/budgets",
        "/events",
        "/idle",
        "/prices",
    ] {
        let (status, said) = plane.ask("GET", &format!("{path}?colour=red"), Value::Null).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("colour")), "{path}: {said}");
        let (status, said) = plane.ask("GET", &format!("{path}?"), Value::Null).await;
        assert_ne!(status, 400, "{path}: {said}");
    }
    assert_eq!(plane.ask("DELETE", &format!("{key}?force=1"), Value::Null).await.0, 400);
    assert_eq!(plane.ask("GET", "/no-such?x=1", Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_tag_has_no_keys_that_could_be_disabled() {
    let plane = Plane::open();
    assert_eq!(plane.ask("POST", "/tags", json!({"name": "dis"})).await.0, 201);
    assert_eq!(plane.ask("DELETE", "/tags/dis", Value::Null).await.0, 405);
    let (status, said) = plane.ask("PATCH", "/tags/dis", json!({"disabled": true})).await;
    assert_eq!((status, &said["error"]["param"]), (400, &json!("disabled")), "{said}");
    let (status, tag) = plane.ask("PATCH", "/tags/dis", json!({"disabled": false})).await;
    assert_eq!((status, &tag["state"]), (200, &json!("active")));
}

#[tokio::test]
async fn what_is_set_up_has_a_path_by_which_it_is_found() {
    let plane = Plane::open();
    for name in ["", " ", ".", "..", "a/b", "-", "other"] {
        for kind in ["/teams", "/users", "/tags"] {
            let (status, said) = plane.ask("POST", kind, json!({"name": name})).await;
            // A summary by tags may have others of that name; whoever bears it bears it.
            let expected = if (kind, name) == ("/tags", "-") || (kind, name) == ("/tags", "other") {
                (201, &Value::Null)
            } else {
                (400, &json!("name"))
            };
            assert_eq!((status, &said["error"]["param"]), expected, "{kind} {name:?}");
        }
        for belongs in ["team", "user"] {
            let (status, said) = plane.ask("POST", "/keys", json!({belongs: name})).await;
            assert_eq!((status, &said["error"]["param"]), (400, &json!(belongs)), "{name:?}");
        }
    }
    let of = |scope: &str| json!({"scope": scope, "window": "day", "requests": 5});
    let (status, said) = plane.ask("POST", "/budgets", of("tag:x/sessions")).await;
    assert_eq!((status, &said["error"]["param"]), (400, &json!("scope")), "{said}");
    for scope in ["tag:x/y", "tag:sessions"] {
        let (_, made) = plane.ask("POST", "/budgets", of(scope)).await;
        let path = format!("/budgets/{}", made["id"].as_str().unwrap());
        assert_eq!(plane.ask("DELETE", &path, Value::Null).await.0, 200, "{made}");
    }
}

#[tokio::test]
async fn the_budget_of_one_session_is_no_budget_that_could_be_changed() {
    let plane = Plane::open();
    let id = "key_1/session:S/total";
    let path = format!("/budgets/{id}");
    for (method, body) in
        [("GET", Value::Null), ("PATCH", json!({"tokens": 1})), ("DELETE", Value::Null)]
    {
        let (status, said) = plane.ask(method, &path, body).await;
        assert_eq!((status, &said["error"]["param"]), (404, &Value::Null), "{method}: {said}");
    }
    let correction = json!({"budget": id, "tokens": 1, "reason": "by hand"});
    assert_eq!(plane.ask("POST", "/corrections", correction).await.0, 404);
}
