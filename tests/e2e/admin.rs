//! The admin API: who may use it, and that what it shows is what happened.

use crate::harness::{Gate, document, pico, rows};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{Value, json};

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

/// What the document says opens to the admin key alone: method, path and an example of a body.
fn of_the_admin_key() -> Vec<(String, String, Vec<u8>)> {
    let mut found = Vec::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"].to_string().contains("adminKey") {
                let named = |part: &str| part.starts_with('{');
                let parts = path.split('/').map(|part| if named(part) { "test" } else { part });
                let path = parts.collect::<Vec<_>>().join("/");
                let body = &operation["requestBody"]["content"]["application/json"]["example"];
                let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
                found.push((method.to_ascii_uppercase(), path, body));
            }
        }
    }
    found
}

#[tokio::test]
async fn nothing_of_it_opens_to_anybody_elses_key() {
    let cloud = StandIn::start().await.unwrap();
    // Here it is the keys that are tried, and not how many of them.
    let often = "failed_auth_per_minute = 1000000";
    let gate = Gate::builder().cloud(&cloud).limit(often).start().await;
    let key = format!("Bearer {}", gate.key().secret);
    let before = (gate.admin("/keys").await, gate.admin("/budgets").await);
    let all = of_the_admin_key();
    assert!(all.len() > 50, "only {}", all.len());
    for part in ["/events", "/sessions/", "/export", "/webhooks", "/organization/", "/metrics"] {
        assert!(all.iter().any(|(_, path, _)| path.contains(part)), "{part}");
    }
    for (method, path, body) in all {
        for (bearer, status, code) in [
            (None, 401, "invalid_api_key"),
            (Some("Bearer sk-tg-wrong"), 401, "invalid_api_key"),
            (Some(key.as_str()), 403, "permission_denied"),
        ] {
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(bearer.map(|bearer| ("authorization", bearer)));
            let answer = gate.send(&method, &path, &headers, body.clone()).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body_text());
            // An answer to HEAD has no body.
            if method != "HEAD" {
                assert_eq!(answer.error().code.as_deref(), Some(code), "{method} {path}");
            }
        }
    }
    assert_eq!((gate.admin("/keys").await, gate.admin("/budgets").await), before);
}

#[tokio::test]
async fn the_metrics_are_everybodys_only_where_the_operator_says_so() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server("metrics_public = true").start().await;
    gate.ask("Hi.").send().await.ok();
    let metrics = gate.send("GET", "/metrics", &[], Vec::new()).await.ok().body_text();
    assert!(metrics.contains("tollgate_requests_total"), "{metrics}");
    assert!(!metrics.contains(&gate.key().id), "whose requests they were is not told");
    for path in ["/admin/v1/keys", "/v1/organization/costs?start_time=0"] {
        assert_eq!(gate.send("GET", path, &[], Vec::new()).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_summary_is_the_sum_of_the_entries() {
    let (cloud, gate) = a_cloud().await;
    let key = gate.new_key().named("other").create().await;
    for n in 1..=9 {
        let script = Script::default().using(100 * n, 10 * n);
        cloud.next(if n == 5 { script.with(Fault::Status500) } else { script });
        let ask = gate.ask("Count me.");
        let ask = if n % 3 == 0 { ask.by(&key) } else { ask };
        if n % 2 == 0 { ask.streamed() } else { ask }.send().await;
    }
    let entries = gate.ledger().entries().await;
    let cost: u128 = entries.iter().map(|e| e.cost().expect("a known cost")).sum();
    assert_eq!(entries.len(), 9);
    for by in ["route", "model", "key", "rule"] {
        let summary = gate.admin(&format!("/ledger/summary?group_by={by}")).await;
        let rows = rows(&summary);
        let requests: u64 = rows.iter().map(|row| row["requests"].as_u64().unwrap()).sum();
        assert_eq!(requests, 9, "by {by}: {summary:#}");
        let sum: u128 = rows.iter().map(|row| pico(&row["cost_usd"]).unwrap()).sum();
        assert_eq!(sum, cost, "by {by}");
        assert_eq!(rows.len(), if by == "key" { 2 } else { 1 }, "by {by}: {summary:#}");
        for row in &rows {
            for column in ["ttft_us", "total_us"] {
                let of = |percentile: &str| row[column][percentile].as_u64();
                let (p50, p95, p99) = (of("p50"), of("p95"), of("p99"));
                assert!(p50 > Some(0) && p50 <= p95 && p95 <= p99, "{column}: {row:#}");
            }
        }
    }
}

#[tokio::test]
async fn requests_are_found_by_filter_and_page() {
    let (cloud, gate) = a_cloud().await;
    let key = gate.new_key().named("other").create().await;
    for n in 0..10 {
        if n % 5 == 4 {
            cloud.next(Script::default().with(Fault::Status500));
        }
        let ask = gate.ask("Find me.").header("x-session-id", if n < 3 { "early" } else { "late" });
        if n % 2 == 0 { ask.by(&key) } else { ask }.send().await;
    }
    let count = async |query: &str| {
        rows(&gate.admin(&format!("/ledger/requests?limit=100&{query}")).await).len()
    };
    assert_eq!(count(&format!("key={}", key.id)).await, 5);
    assert_eq!(count("session=early").await, 3);
    assert_eq!(count("outcome=failed").await, 2);
    assert_eq!(count("route=cloud").await, 10);
    assert_eq!(count("route=nowhere").await, 0);
    let unknown = gate.admin_send("GET", "/ledger/requests?colour=red", Value::Null).await;
    assert_eq!(unknown.status, 400, "a filter that does not exist is not ignored in silence");

    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = gate.admin(&format!("/ledger/requests?limit=3{cursor}")).await;
        assert!(rows(&page).len() <= 3);
        ids.extend(rows(&page).iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 10);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10, "no entry comes twice");
    let missing = gate
        .admin_send("GET", "/ledger/requests/req_0193aaaaaaaa7aaa8aaaaaaaaaaaaaaa", Value::Null)
        .await;
    assert_eq!(missing.status, 404);
    missing.error();
}

#[tokio::test]
async fn an_entry_explains_its_decision() {
    let (_cloud, gate) = a_cloud().await;
    let answer = gate
        .ask("Why?")
        .header("x-tollgate-tags", "red,blue")
        .header("x-session-id", "s-1")
        .set("metadata", json!({"team": "one"}))
        .send()
        .await
        .ok();
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.text("session"), "s-1");
    assert_eq!(entry.0["tags"], json!(["red", "blue"]));
    assert_eq!(entry.text("model_asked"), "auto");
    let decision = &entry.0["decision"];
    assert_eq!(decision["policy"], "cloud-only");
    assert_eq!(decision["plan"], json!(["cloud"]));
    assert!(decision["facts"]["request"]["prompt_tokens"]["max"].is_u64(), "{decision:#}");
    assert!(!entry.0["trace"].is_null(), "the whole trace: {:#}", entry.0);
}

#[tokio::test]
async fn an_operators_tags_go_with_every_request_of_the_key_whatever_it_names_itself() {
    let (_cloud, gate) = a_cloud().await;
    let key = gate.new_key().set("tags", json!(["prod", "red"])).create().await;
    let ask = || gate.ask("Hi.").by(&key);
    let plain = ask().send().await.ok();
    assert_eq!(gate.ledger().entry(plain.id()).await.0["tags"], json!(["prod", "red"]));
    let own = ask().header("x-tollgate-tags", "mine,red").send().await.ok();
    let entry = gate.ledger().entry(own.id()).await;
    assert_eq!(entry.0["tags"], json!(["prod", "red", "mine"]));
    let seen = &entry.0["decision"]["facts"]["request"]["tags"];
    assert_eq!(seen, &json!(["prod", "red", "mine"]), "policies see them");
    let summary = gate.admin("/ledger/summary?group_by=tag&order_by=name").await;
    let by_tag: Vec<_> = rows(&summary).iter().map(|row| row["requests"].clone()).collect();
    assert_eq!(by_tag, [1, 2, 2], "mine, prod, red: {summary}");

    // A tag's budget applies, and the key cannot shed the tag.
    let budget = json!({"scope": "tag:prod", "window": "total", "requests": 2});
    assert_eq!(gate.admin_send("POST", "/budgets", budget).await.status, 201);
    for tags in ["", "other"] {
        ask().header("x-tollgate-tags", tags).send().await.ok();
    }
    let refused = ask().header("x-tollgate-tags", "other").send().await;
    assert_eq!(refused.status, 429);
    assert!(refused.error().message.contains("tag:prod/total"), "{}", refused.error().message);
    let path = format!("/keys/{}", key.id);
    let changed = gate.admin_send("PATCH", &path, json!({"tags": ["blue"]})).await;
    assert_eq!(changed.json()["tags"], json!(["blue"]));
    ask().send().await.ok();
    for wrong in [json!(["a,b"]), json!(["guard:x"]), json!([""]), json!(["x".repeat(65)])] {
        let answer = gate.admin_send("PATCH", &path, json!({"tags": wrong})).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn refusals_are_counted() {
    let (_cloud, gate) = a_cloud().await;
    for _ in 0..3 {
        gate.ask("Hi.").from("no-such-model").send().await;
    }
    let metrics = gate.metrics().await;
    let counted = r#"tollgate_refusals_total{code="model_not_found"} 3"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    assert!(gate.ledger().entries().await.is_empty(), "what reached no route has no entry");
}

#[tokio::test]
async fn the_routes_tell_their_state() {
    let cloud = StandIn::start().await.unwrap();
    let resting = "breaker = { failures_max = 1, open_ms = 60000 }";
    let gate = Gate::builder().cloud_named("cloud", &cloud, resting).start().await;
    let shown = async || {
        let mut routes = rows(&gate.admin("/routes").await);
        assert_eq!(routes.len(), 1);
        let route = routes.remove(0);
        assert!(!route.to_string().contains("canary"), "no key of a provider: {route}");
        (route["state"].clone(), route["breaker"]["state"].clone())
    };
    gate.ask("Hi.").send().await.ok();
    assert_eq!(shown().await, (json!("ready"), json!("closed")));
    cloud.next(Script::default().with(Fault::Status500));
    gate.ask("Hi.").send().await.error();
    assert_eq!(shown().await, (json!("unavailable"), json!("open")));
}

#[tokio::test]
async fn openais_usage_and_cost_pages_have_its_shapes_and_the_ledgers_sums() {
    let (cloud, gate) = a_cloud().await;
    for n in 1..=4 {
        cloud.next(Script::default().using(100 * n, 10 * n));
        gate.ask("Count me.").send().await.ok();
    }
    let usage = gate
        .organization("/usage/completions?start_time=0&bucket_width=1d&limit=1&group_by=model")
        .await;
    assert_eq!(usage["object"], "page");
    assert_eq!(usage["data"][0]["object"], "bucket");
    assert_eq!(usage["has_more"], true);
    assert_eq!(usage["next_page"], "page_86400");
    let arrived = gate.ledger().entries().await[0].0["arrived_unix_ms"].as_u64().expect("a time");
    let today = arrived / 1_000 - arrived / 1_000 % 86_400;
    let page = format!("start_time={today}&bucket_width=1d");
    let usage = gate.organization(&format!("/usage/completions?{page}&group_by=model")).await;
    let result = &usage["data"][0]["results"][0];
    assert_eq!(usage["data"][0]["start_time"], today);
    assert_eq!(usage["data"][0]["end_time"], today + 86_400);
    assert_eq!(result["object"], "organization.usage.completions.result");
    assert_eq!(result["input_tokens"], 1_000);
    assert_eq!(result["output_tokens"], 100);
    assert_eq!(result["num_model_requests"], 4);
    assert!(result["model"].is_string() && result["project_id"].is_null());
    let fields: Vec<&String> = result.as_object().expect("a result").keys().collect();
    assert_eq!(
        fields,
        [
            "object",
            "input_tokens",
            "output_tokens",
            "input_cached_tokens",
            "input_audio_tokens",
            "output_audio_tokens",
            "num_model_requests",
            "project_id",
            "user_id",
            "api_key_id",
            "model",
            "service_tier",
            "batch"
        ]
    );
    let costs = gate.organization(&format!("/costs?{page}")).await;
    let result = &costs["data"][0]["results"][0];
    assert_eq!(result["object"], "organization.costs.result");
    assert_eq!(result["amount"]["currency"], "usd");
    let cost: u128 = gate.ledger().entries().await.iter().map(|e| e.cost().unwrap()).sum();
    let value = result["amount"]["value"].to_string();
    assert_eq!(pico(&Value::from(value)).expect("a number"), cost);
    assert!(result["api_key_id"].is_null() && result["project_id"].is_null(), "{result}");
    let mine = gate.key().id.clone();
    let by_key = format!("/costs?{page}&group_by=api_key_id");
    let by_key = gate.organization(&format!("{by_key}&api_key_ids={mine}&api_key_ids=none")).await;
    let results = by_key["data"][0]["results"].as_array().unwrap();
    assert!(results.iter().all(|result| result["api_key_id"] == mine.as_str()), "{results:?}");
    assert_eq!(results.len(), 1);
    // A grouping that is named again is the same one, however often.
    let once = gate.organization(&format!("/costs?{page}&group_by=api_key_id,project_id")).await;
    let often = ["api_key_id", "project_id"].repeat(20).join(",");
    assert_eq!(gate.organization(&format!("/costs?{page}&group_by={often}")).await, once);
    let key = gate.key().secret.clone();
    let headers = [("authorization", format!("Bearer {key}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let path = format!("/v1/organization/costs?{page}");
    assert_eq!(gate.send("GET", &path, &headers, Vec::new()).await.status, 403);
}
