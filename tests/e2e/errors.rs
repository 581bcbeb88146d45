//! Every error has the shape, the status and the headers that OpenAI's SDKs read, and every
//! response an id.

use crate::harness::{Answer, Gate, rows};
use e2e::standin::StandIn;
use serde_json::json;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

const CHAT: &str = "/v1/chat/completions";

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

async fn chat_with(gate: &Gate, headers: &[(&str, &str)]) -> Answer {
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
    gate.send("POST", CHAT, headers, body.to_string().into_bytes()).await
}

#[tokio::test]
async fn no_key_or_a_wrong_one_is_401_and_never_echoed() {
    let (cloud, gate) = a_cloud().await;
    let wrong = "sk-tg-verysecretvalue0123456789";
    let upper = gate.key().secret.to_uppercase();
    for authorization in
        ["", "Bearer", "Bearer ", "Basic abc", &bearer(wrong), wrong, &bearer(&upper)]
    {
        let answer = chat_with(&gate, &[("authorization", authorization)]).await;
        assert_eq!(answer.status, 401, "{authorization}");
        assert_eq!(answer.error().code.as_deref(), Some("invalid_api_key"));
        assert!(
            !answer.body_text().contains("verysecretvalue"),
            "a refused key is not written back"
        );
        answer.id();
    }
    assert_eq!(chat_with(&gate, &[]).await.status, 401);
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn a_key_may_come_in_either_header_and_the_scheme_in_any_case() {
    let (_cloud, gate) = a_cloud().await;
    let secret = gate.key().secret.clone();
    chat_with(&gate, &[("authorization", &format!("bearer {secret}"))]).await.ok();
    chat_with(&gate, &[("authorization", &format!("BEARER {secret}"))]).await.ok();
    chat_with(&gate, &[("x-api-key", &secret)]).await.ok();
}

#[tokio::test]
async fn a_header_that_steers_what_is_charged_is_given_once() {
    let (cloud, gate) = a_cloud().await;
    let key = bearer(&gate.key().secret);
    for (name, values) in [
        ("idempotency-key", ["a", "b"]),
        ("x-tollgate-dry-run", ["0", "1"]),
        ("x-tollgate-cache", ["on", "off"]),
        ("x-tollgate-max-cost-usd", ["1", "2"]),
    ] {
        let twice = values.map(|value| (name, value));
        let headers = [&[("authorization", key.as_str())], &twice[..]].concat();
        let refused = chat_with(&gate, &headers).await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.body_text());
        let error = refused.error();
        assert_eq!(error.param.as_deref(), Some(name));
        assert_eq!(error.message, format!("`{name}` is given twice"));
    }
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn an_unknown_model_is_404_model_not_found() {
    let (cloud, gate) = a_cloud().await;
    let answer = gate.ask("Hi.").from("no-such-model").send().await;
    assert_eq!(answer.status, 404);
    let error = answer.error();
    assert_eq!(error.code.as_deref(), Some("model_not_found"));
    assert_eq!(error.param.as_deref(), Some("model"));
    assert!(error.message.contains("no-such-model"));
    assert_eq!(cloud.counts().requests, 0);
    let answer = gate.get("/v1/models/no-such-model").await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (404, Some("model_not_found")));
}

#[tokio::test]
async fn a_wrong_method_is_405_with_allow_and_an_unknown_path_404() {
    let (_cloud, gate) = a_cloud().await;
    let key = bearer(&gate.key().secret);
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let answer = gate.send(method, CHAT, &[("authorization", &key)], Vec::new()).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.header("allow").contains("POST"), "{method}");
        answer.error();
        answer.id();
    }
    for path in
        ["/no/such/path", "/v1", "/v1/no-such", "/admin/v1/no-such", "/v1/chat/completions/more"]
    {
        let answer = gate.send("POST", path, &[("authorization", &key)], Vec::new()).await;
        assert!(matches!(answer.status, 401 | 403 | 404 | 405), "{path}: {}", answer.status);
        answer.error();
        answer.id();
    }
    let answer = gate.send("GET", "/no/such/path", &[], Vec::new()).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn a_request_id_is_on_every_response_and_never_twice() {
    let (_cloud, gate) = a_cloud().await;
    let mut ids = Vec::new();
    for answer in [
        gate.ask("Hi.").send().await,
        gate.ask("Hi.").streamed().send().await,
        gate.ask("Hi.").from("no-such-model").send().await,
        gate.post_chat("{").await,
        gate.get("/v1/models").await,
        gate.send("GET", "/health", &[], Vec::new()).await,
        gate.send("GET", "/nowhere", &[], Vec::new()).await,
        gate.admin_send("GET", "/keys", serde_json::Value::Null).await,
    ] {
        ids.push(answer.id().to_owned());
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "{ids:?}");
}

#[tokio::test]
async fn an_answer_tells_where_it_came_from_and_how_long_it_took() {
    let (_cloud, gate) = a_cloud().await;
    let answer = gate.ask("Hi.").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "cloud");
    assert_eq!(answer.header("x-tollgate-attempts"), "1");
    for name in ["x-tollgate-rule", "x-tollgate-policy", "server-timing"] {
        assert!(!answer.header(name).is_empty(), "no {name}");
    }
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(answer.header("x-tollgate-rule"), entry.rule());
    assert!(answer.header("server-timing").contains("dur="), "{}", answer.header("server-timing"));
}

#[tokio::test]
async fn models_are_listed_and_each_can_be_asked_for() {
    let cloud = StandIn::start().await.unwrap();
    let alias = "aliases = [\"meta/llama-3\"]";
    let gate = Gate::builder().cloud_named("cloud", &cloud, alias).start().await;
    let list = gate.get("/v1/models").await.ok().json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap().to_owned())
        .collect();
    for name in ["auto", "cloud", "meta/llama-3"] {
        assert!(ids.iter().any(|id| id == name), "{ids:?}");
    }
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
        let one = gate.get(&format!("/v1/models/{}", model["id"].as_str().unwrap())).await.ok();
        assert_eq!(&one.json(), model);
    }
    assert_eq!(gate.send("GET", "/v1/models", &[], Vec::new()).await.status, 401);
}

#[tokio::test]
async fn health_and_readiness_need_no_key_and_tell_no_secret() {
    let (_cloud, gate) = a_cloud().await;
    for path in ["/health", "/ready"] {
        let answer = gate.send("GET", path, &[], Vec::new()).await.ok();
        assert!(!answer.body_text().contains("canary"), "{}", answer.body_text());
    }
}

#[tokio::test]
async fn only_a_key_that_may_pin_chooses_its_route() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "")
        .cloud_named("second", &second, "aliases = [\"gpt-second\"]")
        .start()
        .await;
    let pinned = gate.ask("Hi.").from("second").send().await.ok();
    assert_eq!(pinned.header("x-tollgate-route"), "second");

    let key = gate.new_key().create().await;
    let refused = gate.ask("Hi.").from("second").by(&key).send().await;
    assert!(matches!(refused.status, 403 | 404), "{}", refused.status);
    refused.error();
    // A model's own name is not a pin.
    let named = gate.ask("Hi.").from("gpt-second").by(&key).send().await.ok();
    assert_eq!(named.header("x-tollgate-route"), "second");
}

#[tokio::test]
async fn revoked_and_expired_keys_are_wrong_keys() {
    let (_cloud, gate) = a_cloud().await;
    let key = gate.new_key().create().await;
    gate.ask("Hi.").by(&key).send().await.ok();
    let revoked =
        gate.admin_send("DELETE", &format!("/keys/{}", key.id), serde_json::Value::Null).await;
    assert!(matches!(revoked.status, 200 | 204), "{}", revoked.body_text());
    let answer = gate.ask("Hi.").by(&key).send().await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (401, Some("invalid_api_key")));

    let expired = gate.new_key().create().await;
    let past = json!({"expires_unix_ms": 1_000});
    let changed = gate.admin_send("PATCH", &format!("/keys/{}", expired.id), past).await;
    assert_eq!(changed.ok().json()["state"], "expired");
    let other = gate.ask("Hi.").by(&expired).send().await;
    assert_eq!(other.status, 401);
    assert_eq!(other.error(), answer.error(), "which of them it is, is never said");
}

#[tokio::test]
async fn what_the_caller_asked_for_is_refused_for_its_own_fault_and_by_a_rule_that_is_named() {
    let cloud = StandIn::start().await.unwrap();
    // A provider that wants a key and has none is asked nothing, and is nobody's fault.
    let keyless = "[routes.keyless]\nkind = \"groq\"\nmodel = \"m\"\n\
                   price = \"openai/gpt-5-mini\"\naliases = [\"keyless-1\"]\n";
    let policy = "[[guard]]\nname = \"away from cloud\"\nwhen.tags.has = \"private\"\n\
                  deny = [\"cloud\"]\n[[guard]]\nname = \"shut\"\nwhen.tags.has = \"shut\"\n\
                  refuse = \"closed today\"\n[[choose]]\nname = \"all\"\nroutes = [\"@all\"]\n";
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "context_tokens = 1000")
        .routes(keyless)
        .policy_text(policy)
        .start()
        .await;
    let routes = gate.get("/ready").await.json()["routes"].clone();
    assert_eq!(routes[1]["state"], "unavailable", "{routes:#}");
    let answer = gate.ask("Hi.").send().await.ok();
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.0["decision"]["plan"], json!(["cloud"]), "{:#}", entry.0["decision"]);

    let pinned = || gate.ask("Hi.").from("cloud");
    let private = pinned().header("x-tollgate-tags", "private").send().await;
    assert_eq!((private.status, private.header("x-tollgate-rule")), (403, "@pinned"));
    let long = gate.ask(&"word ".repeat(40_000)).from("cloud").send().await;
    assert_eq!(long.status, 400, "{}", long.body_text());
    assert_eq!(long.error().code.as_deref(), Some("context_length_exceeded"));
    assert_eq!(long.header("x-tollgate-rule"), "@pinned");
    assert_eq!(gate.ask("Hi.").from("keyless-1").send().await.status, 503);

    for _ in 0..2 {
        let shut = gate.ask("Hi.").header("x-tollgate-tags", "shut").send().await;
        assert_eq!(shut.error().message, "closed today");
        assert_eq!(shut.header("x-tollgate-rule"), "shut");
        let policy = shut.header("x-tollgate-policy");
        assert!(policy.starts_with("policy@"), "{policy}");
    }
    let refusals = gate.admin("/refusals").await;
    let refused = rows(&refusals).into_iter().find(|row| row["code"] == "policy_refused");
    let rules = json!([{"rule": "@pinned", "count": 1}, {"rule": "shut", "count": 2}]);
    assert_eq!(refused.unwrap(), json!({"code": "policy_refused", "count": 3, "rules": rules}));
}
