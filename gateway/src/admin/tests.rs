//! Promises of the admin plane over a real data directory, without a socket.

mod asking;

use super::{times, *};
use crate::{
    caller::{ADMIN_KEY_FILE, Priority, read_secret},
    clock::{Clock, Hand},
    config::{Config, Environment, Surroundings},
    ledger::Condition,
    serve::{Front, Planes},
    start,
};
use axum::body::Body;
use http::{HeaderMap, Method, Request as HttpRequest};
use http_body_util::BodyExt as _;
use serde_json::json;
use std::path::Path;
use tower::ServiceExt as _;

/// 2027-01-15T08:00:00Z
const NOW: u64 = 1_800_000_000_000;

struct Plane {
    dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
    hand: Hand,
    admin: String,
}

impl Plane {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::standing(NOW);
        let gateway = start::offline(config(dir.path()), clock).unwrap();
        let admin = read_secret(&dir.path().join("data"), ADMIN_KEY_FILE).unwrap().unwrap();
        Self { dir, gateway, hand, admin: admin.reveal().to_owned() }
    }

    async fn send(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, Value) {
        let request = HttpRequest::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("authorization", format!("Bearer {key}"))
            .body(Body::from(body.to_owned()))
            .unwrap();
        let front = Front::new(Arc::clone(&self.gateway), Planes::Both);
        let response = front.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/admin/v1{path}"), &self.admin, &body).await
    }

    async fn models(&self, secret: &Value) -> u16 {
        self.send("GET", "/v1/models", secret.as_str().unwrap(), "").await.0
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.gateway.books.close();
    }
}

fn config(dir: &Path) -> Config {
    let text = "[policy]\nshipped = \"cloud-only\"\n[routes.c]\nkind = \"openai\"\n\
                provider = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n\
                api_key = \"sk-upstream-secret\"\n";
    let surroundings =
        Surroundings { lookup: &|_| None, environment: Environment::Needed, now_s: 1_795_305_600 };
    Config::parse(text, &dir.join("tollgate.toml"), surroundings).unwrap()
}

#[tokio::test]
async fn nothing_answers_without_the_admin_key() {
    let plane = Plane::open();
    let (_, created) = plane.ask("POST", "/keys", json!({})).await;
    let user_key = created["secret"].as_str().unwrap().to_owned();
    for path in [
        "/keys",
        "/keys/key_x",
        "/keys/rotate-admin",
        "/budgets",
        "/reservations",
        "/refusals",
        "/routes",
        "/prices",
        "/policies",
        "/policies/validate",
        "/policies/history",
        "/policies/history/x",
        "/policies/reload",
        "/ledger/requests",
        "/ledger/requests/x",
        "/ledger/summary",
        "/ledger/verify",
        "/no-such",
    ] {
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            let path = format!("/admin/v1{path}");
            assert_eq!(
                plane.send(method, &path, "sk-tg-wrong", "").await.0,
                401,
                "{method} {path}"
            );
            let (status, said) = plane.send(method, &path, &user_key, "").await;
            assert_eq!(status, 403, "{method} {path}");
            assert_eq!(said["error"]["code"], "permission_denied");
        }
    }
    assert_eq!(plane.send("GET", "/metrics", &user_key, "").await.0, 403);
    assert_eq!(plane.send("GET", "/metrics", &plane.admin, "").await.0, 200);
}

#[tokio::test]
async fn a_query_has_its_place_until_it_ends_whoever_waits_for_it() {
    let free = QUERIES.available_permits();
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
    {
        let query = std::pin::pin!(blocking(move || ended.recv()));
        assert!(futures::poll!(query).is_pending());
    }
    assert_eq!(QUERIES.available_permits(), free - 1, "its caller has left, and it reads on");
    end.send(()).unwrap();
    while QUERIES.available_permits() < free {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn credits_at_the_same_time_take_no_more_than_was_spent() {
    let plane = Plane::open();
    let budget = json!({ "scope": "global", "window": "total", "money_usd": "5" });
    assert_eq!(plane.ask("POST", "/budgets", budget).await.0, 201);
    let correct = |usd: &str, credit: bool| {
        let body = json!({
            "budget": "global/total", "money_usd": usd, "credit": credit, "reason": "by hand",
        });
        plane.ask("POST", "/corrections", body)
    };
    assert_eq!(correct("1", false).await.0, 200);
    let at_once = futures::future::join_all((0..4).map(|_| correct("0.9", true))).await;
    let taken = at_once.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(taken, 1, "{at_once:?}");
}

#[tokio::test]
async fn wrong_keys_are_limited_wherever_the_admin_key_is_asked_for() {
    let plane = Plane::open();
    let front = Front::new(Arc::clone(&plane.gateway), Planes::Both);
    for (host, path) in [(1, "/metrics"), (2, "/admin/v1/keys")] {
        let ask = || {
            let peer = Peer(([192, 0, 2, host], 1).into());
            let request = HttpRequest::get(path).header("authorization", "Bearer sk-tg-wrong");
            front.clone().oneshot(request.extension(peer).body(Body::empty()).unwrap())
        };
        let limit = plane.gateway.config.limits.failed_auth_per_minute;
        for _ in 0..limit {
            assert_eq!(ask().await.unwrap().status(), 401, "{path}");
        }
        assert_eq!(ask().await.unwrap().status(), 429, "{path}");
    }
}

#[tokio::test]
async fn a_key_lives_from_creation_to_revocation() {
    let plane = Plane::open();
    let body = json!({
        "label": "ci", "user": "ana", "team": "core", "may_pin": true,
        "limits": {"requests_per_minute": 7, "tokens_per_minute": 100},
        "budgets": [{"window": "day", "money_usd": "1.5", "tokens": 5}, {"window": "total", "tokens": 9, "hard": false}],
        "expires_unix_ms": NOW + 1000,
    });
    let (status, created) = plane.ask("POST", "/keys", body).await;
    assert_eq!(status, 201);
    let (id, secret) = (created["id"].as_str().unwrap(), &created["secret"]);
    assert_eq!(created["created"], "2027-01-15T08:00:00.000Z");
    assert_eq!(created["budgets"][0]["money_usd"], "1.500000000000");
    assert_eq!(plane.models(secret).await, 200);

    let (_, shown) = plane.ask("GET", &format!("/keys/{id}"), Value::Null).await;
    assert!(shown.get("secret").is_none() && shown.get("secret_hash").is_none());
    assert_eq!(shown["state"], "active");
    assert!(shown.get("revoked").is_none(), "what is not so is absent");
    let (_, budgets) = plane.ask("GET", "/budgets", Value::Null).await;
    assert_eq!(budgets["data"].as_array().unwrap().len(), 2);
    assert_eq!(budgets["data"][0]["left_usd"], "1.500000000000");

    let change = json!({"user": null, "limits": {"requests_per_minute": null}, "budgets": []});
    let (status, changed) = plane.ask("PATCH", &format!("/keys/{id}"), change).await;
    assert_eq!(status, 200);
    assert!(changed.get("user").is_none());
    assert_eq!(changed["team"], "core", "what was not named stays");
    assert_eq!(changed["limits"], json!({"tokens_per_minute": 100}));
    let (_, budgets) = plane.ask("GET", "/budgets", Value::Null).await;
    assert_eq!(budgets["data"], json!([]));

    plane.hand.set(NOW + 1000);
    assert_eq!(plane.models(secret).await, 401);
    let later = json!({"expires_unix_ms": null});
    plane.ask("PATCH", &format!("/keys/{id}"), later).await;
    assert_eq!(plane.models(secret).await, 200);

    let (status, revoked) = plane.ask("DELETE", &format!("/keys/{id}"), Value::Null).await;
    assert_eq!((status, &revoked["state"]), (200, &json!("revoked")));
    assert_eq!(plane.models(secret).await, 401);
    assert_eq!(plane.ask("DELETE", "/keys/key_none", Value::Null).await.0, 404);

    let enabled = json!({"disabled": false});
    let (status, said) = plane.ask("PATCH", &format!("/keys/{id}"), enabled).await;
    assert_eq!(status, 409, "revoked is for good: {said}");
    let (status, said) = plane.ask("PATCH", &format!("/keys/{id}"), json!({"label": "old"})).await;
    assert_eq!((status, &said["state"]), (200, &json!("revoked")), "its record may be written on");
}

#[tokio::test]
async fn a_key_that_would_never_work_is_not_made() {
    let plane = Plane::open();
    for past in [0, NOW - 1, NOW] {
        let (status, said) = plane.ask("POST", "/keys", json!({"expires_unix_ms": past})).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("expires_unix_ms")), "{said}");
    }
    let (_, keys) = plane.ask("GET", "/keys", Value::Null).await;
    assert_eq!(keys["data"], json!([]));
    let (_, key) = plane.ask("POST", "/keys", json!({"expires_unix_ms": NOW + 1})).await;
    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    let (status, ended) = plane.ask("PATCH", &path, json!({"expires_unix_ms": NOW})).await;
    assert_eq!((status, &ended["state"]), (200, &json!("expired")), "to end one is a change");
}

#[tokio::test]
async fn keys_are_still_there_after_the_directory_is_opened_again() {
    let plane = Plane::open();
    let (_, created) =
        plane.ask("POST", "/keys", json!({"label": "kept", "priority": "high"})).await;
    plane.gateway.books.close();
    let config = config(plane.dir.path());
    // The books let go of the directory with their last holder.
    let Plane { dir, .. } = &plane;
    let dir = dir.path().to_owned();
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&dir.join("data"), &copy.path().join("data"));
    let mut config = config;
    config.data_dir = copy.path().join("data");
    let gateway = start::offline(config, Clock::standing(NOW).0).unwrap();
    let kept = &gateway.keys.list()[0];
    assert_eq!((kept.label.as_str(), kept.priority), ("kept", Priority::High));
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", created["secret"].as_str().unwrap().parse().unwrap());
    assert!(gateway.keys.authenticate(&headers, None).is_ok());
    gateway.books.close();
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn the_admin_key_rotates_over_the_api() {
    let plane = Plane::open();
    let (status, made) = plane.ask("POST", "/keys/rotate-admin", Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(plane.ask("GET", "/keys", Value::Null).await.0, 401);
    let new = made["secret"].as_str().unwrap();
    assert_eq!(plane.send("GET", "/admin/v1/keys", new, "").await.0, 200);
}

#[tokio::test]
async fn a_tag_that_no_request_can_bear_is_set_up_nowhere() {
    let plane = Plane::open();
    for tag in ["a,b", "ü", " lead", "guard:spend", &"x".repeat(65)] {
        let (status, said) = plane.ask("POST", "/tags", json!({"name": tag})).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("name")), "{tag}: {said}");
        let budget = json!({"scope": format!("tag:{tag}"), "window": "day", "requests": 1});
        let (status, said) = plane.ask("POST", "/budgets", budget).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!("scope")), "{tag}: {said}");
    }
    assert_eq!(plane.ask("POST", "/tags", json!({"name": "two words"})).await.0, 201);
    let budget = json!({"scope": "tag:two words", "window": "day", "requests": 1});
    assert_eq!(plane.ask("POST", "/budgets", budget).await.0, 201);
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_named() {
    let plane = Plane::open();
    let long = "x".repeat(201);
    for (body, param) in [
        (json!({"colour": "red"}), json!("colour")),
        (json!({"limits": {"requests_per_minute": 0}}), json!("limits.requests_per_minute")),
        (json!({"limits": {"per_hour": 1}}), json!("per_hour")),
        (json!({"label": long}), json!("label")),
        (json!({"budgets": [{"window": "day"}]}), json!("budgets")),
        (json!({"budgets": [{"window": "year", "tokens": 1}]}), json!("budgets[0].window")),
        (json!({"budgets": [{"window": "day", "money_usd": 5.0}]}), json!("budgets[0].money_usd")),
        (json!({"limits": {"concurrency": -1}}), json!("limits.concurrency")),
        (json!({"limits": [1]}), json!("limits")),
        (json!({"may_pin": "yes"}), json!("may_pin")),
        (json!({"priority": "urgent"}), json!("priority")),
        (json!({"priority": 1}), json!("priority")),
        (json!({"priority": null}), json!("priority")),
        (json!({"user": ""}), json!("user")),
        (
            json!({"budgets": [{"window": "day", "tokens": 1}, {"window": "day", "tokens": 2}]}),
            json!("budgets"),
        ),
        (json!([]), Value::Null),
    ] {
        let (status, said) = plane.ask("POST", "/keys", body.clone()).await;
        assert_eq!(status, 400, "{body}: {said}");
        assert_eq!(said["error"]["param"], param, "{body}: {said}");
        assert_eq!(said["error"]["type"], "invalid_request_error");
    }
    for (path, param) in [
        ("/ledger/requests?colour=red", json!("colour")),
        ("/ledger/requests?limit=0", json!("limit")),
        ("/ledger/requests?limit=x", json!("limit")),
        ("/ledger/requests?since=yesterday", json!("since")),
        ("/ledger/requests?outcome=good", json!("outcome")),
        ("/ledger/requests?cursor=x", json!("cursor")),
        ("/ledger/requests?min_cost_usd=1,5", json!("min_cost_usd")),
        ("/ledger/summary?group_by=colour", json!("group_by")),
        ("/ledger/summary?limit=5", json!("limit")),
        ("/prices?colour=red", json!("colour")),
        ("/budgets?of_sessions=2", json!("of_sessions")),
        ("/events?limit=-1", json!("limit")),
        ("/events?limit=0", json!("limit")),
        ("/events?limit=1001", json!("limit")),
    ] {
        let (status, said) = plane.ask("GET", path, Value::Null).await;
        assert_eq!(status, 400, "{path}: {said}");
        assert_eq!(said["error"]["param"], param, "{path}: {said}");
    }
    let (status, said) = plane.send("POST", "/admin/v1/keys", &plane.admin, "{} {}").await;
    assert_eq!((status, &said["error"]["param"]), (400, &Value::Null), "{said}");
    assert_eq!(plane.ask("GET", "/ledger/requests/nonsense", Value::Null).await.0, 404);
    assert_eq!(plane.ask("GET", "/no-such", Value::Null).await.0, 404);
    assert_eq!(plane.ask("PUT", "/keys", Value::Null).await.0, 405);
}

#[tokio::test]
async fn routes_and_prices_are_shown_without_secrets() {
    let plane = Plane::open();
    let (_, routes) = plane.ask("GET", "/routes", Value::Null).await;
    assert_eq!(routes["data"][0]["id"], "c");
    assert_eq!(routes["data"][0]["price"], json!({"kind": "unknown"}));
    assert!(!routes.to_string().contains("upstream-secret"));
    let (_, prices) = plane.ask("GET", "/prices?model=gpt-5-mini", Value::Null).await;
    assert_eq!(prices["data"][0]["per_million_usd"]["input"], "0.250000000000");
}

#[tokio::test]
async fn a_policy_is_validated_without_changing_anything() {
    let plane = Plane::open();
    let (_, before) = plane.ask("GET", "/policies", Value::Null).await;
    let good = "[[choose]]\nname = \"x\"\nroutes = [\"c\"]\n";
    let (status, said) = plane.ask("POST", "/policies/validate", json!({"text": good})).await;
    assert_eq!((status, &said["valid"]), (200, &json!(true)));
    let bad = "[[choose]]\nname = \"x\"\nroots = [\"c\"]\n";
    let (status, said) = plane.ask("POST", "/policies/validate", json!({"text": bad})).await;
    assert_eq!((status, &said["valid"]), (200, &json!(false)));
    assert_eq!(said["error"]["line"], 3, "{said}");
    let unknown = "[[choose]]\nname = \"x\"\nroutes = [\"nowhere\"]\n";
    let (_, said) = plane.ask("POST", "/policies/validate", json!({"text": unknown})).await;
    assert_eq!(said["valid"], false, "{said}");
    assert_eq!(plane.ask("GET", "/policies", Value::Null).await.1, before);
}

#[tokio::test]
async fn an_empty_ledger_answers_and_balances() {
    let plane = Plane::open();
    let (_, page) = plane.ask("GET", "/ledger/requests", Value::Null).await;
    assert_eq!(page, json!({"object": "list", "data": []}));
    let (_, summary) = plane.ask("GET", "/ledger/summary?group_by=route,key", Value::Null).await;
    assert_eq!(summary["data"], json!([]));
    assert_eq!(summary["total"]["requests"], 0);
    let (_, report) = plane.ask("GET", "/ledger/verify", Value::Null).await;
    assert_eq!(report["clean"], true);
}

#[test]
fn times_are_read_in_every_form_that_is_promised() {
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    let read = |text| times::read(text, NOW, &zone);
    assert_eq!(read("1800000000000"), Some(NOW));
    assert_eq!(read("2027-01-15T08:00:00Z"), Some(NOW));
    assert_eq!(read("2027-01-15"), Some(NOW - 9 * 3_600_000), "the day begins in its zone");
    assert_eq!(read("90s"), Some(NOW - 90_000));
    assert_eq!(read("15m"), Some(NOW - 15 * 60_000));
    assert_eq!(read("24h"), Some(NOW - 86_400_000));
    assert_eq!(read("7d"), Some(NOW - 7 * 86_400_000));
    for wrong in ["", "d", "-5d", "yesterday", "2027-13-01", "1969-01-01"] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
    assert_eq!(times::rfc3339(NOW + 7), "2027-01-15T08:00:00.007Z");
}

#[tokio::test]
async fn a_correction_that_is_durable_only_later_says_so_and_is_booked_once() {
    let plane = Plane::open();
    let (_, created) = plane
        .ask("POST", "/keys", json!({"budgets": [{"window": "total", "money_usd": "1"}]}))
        .await;
    let id = format!("{}/total", created["id"].as_str().unwrap());
    let body = json!({"budget": id, "money_usd": "0.25", "reason": "the invoice"});
    let data = plane.dir.path().join("data");
    let away = data.with_extension("away");
    std::fs::rename(&data, &away).unwrap();
    let (status, said) = plane.ask("POST", "/corrections", body.clone()).await;
    let message = said["error"]["message"].as_str().unwrap();
    assert_eq!(status, 503, "{said}");
    assert!(message.contains("was begun before that and is made as soon as it can be"), "{said}");
    // Nothing else is begun meanwhile.
    let (status, said) = plane.ask("POST", "/corrections", body.clone()).await;
    let message = said["error"]["message"].as_str().unwrap();
    assert!(status == 503 && message.contains("nothing was changed"), "{said}");
    std::fs::rename(&away, &data).unwrap();
    while plane.gateway.books.state().condition != Condition::Healthy {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, booked) = plane.ask("POST", "/corrections", body).await;
    assert_eq!((status, &booked["spent_usd"]), (200, &json!("0.500000000000")), "{booked}");
}

#[tokio::test]
async fn teams_users_and_budgets_are_made_changed_and_disabled() {
    let plane = Plane::open();
    let budget = json!({"window": "month", "money_usd": "20"});
    let team = json!({"name": "red", "budgets": [budget], "limits": {"concurrency": 9}});
    assert_eq!(plane.ask("POST", "/teams", team.clone()).await.0, 201);
    assert_eq!(plane.ask("POST", "/teams", team).await.0, 409);
    let (status, user) = plane.ask("POST", "/users", json!({"name": "ada", "team": "red"})).await;
    assert_eq!((status, &user["team"]), (201, &json!("red")));
    let (_, key) = plane.ask("POST", "/keys", json!({"user": "ada"})).await;
    // The key counts against its user and, by it, against the team.
    let (_, shown) = plane.ask("GET", "/teams/red", Value::Null).await;
    assert_eq!((&shown["keys"], &shown["state"]), (&json!(1), &json!("active")));

    let made = json!({"scope": "user:ada", "window": "rolling:24h", "requests": 5});
    let (status, made) = plane.ask("POST", "/budgets", made).await;
    assert_eq!((status, &made["id"]), (201, &json!("user:ada/rolling:1d")));
    let (_, changed) =
        plane.ask("PATCH", "/budgets/team:red/month", json!({"money_usd": "1"})).await;
    assert_eq!(changed["money_usd"], json!("1.000000000000"));
    let (_, state) = plane.ask("GET", "/budgets/team:red/month", Value::Null).await;
    assert_eq!((&state["limit_usd"], &state["name"]), (&json!("1.000000000000"), &json!("red")));
    assert_eq!(plane.ask("DELETE", "/budgets/user:ada/rolling:1d", Value::Null).await.0, 200);
    assert_eq!(plane.ask("GET", "/budgets/user:ada/rolling:1d", Value::Null).await.0, 404);
    assert_eq!(
        plane
            .ask(
                "POST",
                "/budgets",
                json!({"scope": "team:blue", "window": "day",
        "tokens": 1})
            )
            .await
            .0,
        404
    );

    assert_eq!(plane.models(&key["secret"]).await, 200);
    let (_, disabled) = plane.ask("DELETE", "/teams/red", Value::Null).await;
    assert_eq!(disabled["state"], json!("disabled"));
    assert_eq!(plane.models(&key["secret"]).await, 401);
    plane.ask("PATCH", "/teams/red", json!({"disabled": false})).await;
    assert_eq!(plane.models(&key["secret"]).await, 200);
}

#[tokio::test]
async fn an_object_is_not_read_from_an_array_wherever_it_stands() {
    let plane = Plane::open();
    for body in [
        json!([]),
        json!({"limits": []}),
        json!({"limits": [60, null, null, null]}),
        json!({"budgets": [["day", "5.00", null, null, true]]}),
        json!({"session_budgets": [["day", "5.00", null, null, true]]}),
    ] {
        for path in ["/keys", "/teams"] {
            let mut body = body.clone();
            if path == "/teams" && body.is_object() {
                body["name"] = json!("red");
            }
            let (status, said) = plane.ask("POST", path, body.clone()).await;
            assert_eq!(status, 400, "{path} {body}: {said}");
        }
    }
    let (status, keys) = plane.ask("GET", "/keys", Value::Null).await;
    assert_eq!((status, keys["data"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn a_change_that_was_begun_takes_effect_though_its_caller_leaves() {
    let plane = Plane::open();
    let (_, created) = plane.ask("POST", "/keys", json!({"label": "first"})).await;
    let path = format!("/keys/{}", created["id"].as_str().unwrap());
    assert_eq!(plane.models(&created["secret"]).await, 200);
    {
        let mut revoking = std::pin::pin!(plane.ask("DELETE", &path, Value::Null));
        // It is handed over, and its caller does not wait for the commit.
        assert!(futures::poll!(&mut revoking).is_pending());
    }
    // The next one starts from what that one left.
    let (status, renamed) = plane.ask("PATCH", &path, json!({"label": "second"})).await;
    assert_eq!((status, &renamed["state"]), (200, &json!("revoked")));
    assert_eq!(plane.models(&created["secret"]).await, 401);
}

#[tokio::test]
async fn while_the_ledger_cannot_be_written_no_change_is_begun() {
    let plane = Plane::open();
    let made = json!({"scope": "global", "window": "day", "money_usd": "5"});
    assert_eq!(plane.ask("POST", "/budgets", made).await.0, 201);
    let before = plane.ask("GET", "/budgets", Value::Null).await;
    let condition = |condition| plane.gateway.books.0.queue.set(condition);
    condition(Condition::Failed { reason: "no space left on device".into() });
    let correction = json!({"budget": "global/day", "money_usd": "1", "reason": "a test"});
    for (method, path, body) in [
        ("POST", "/keys", json!({})),
        ("POST", "/corrections", correction.clone()),
        ("POST", "/teams", json!({"name": "red"})),
        ("PATCH", "/budgets/global/day", json!({"money_usd": "9"})),
    ] {
        let (status, refused) = plane.ask(method, path, body).await;
        assert_eq!(
            (status, &refused["error"]["code"]),
            (503, &json!("ledger_unavailable")),
            "{path}"
        );
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.ends_with("nothing was changed"), "{message}");
    }
    condition(Condition::Healthy);
    assert_eq!(plane.ask("GET", "/budgets", Value::Null).await, before);
    assert_eq!(plane.ask("GET", "/keys", Value::Null).await.1["data"], json!([]));
    let (status, booked) = plane.ask("POST", "/corrections", correction).await;
    assert_eq!(status, 200, "{booked}");
}
