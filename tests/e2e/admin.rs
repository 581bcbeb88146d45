//! The admin API: who may use it, and that what it shows is what happened.

use crate::harness::{Gate, pico, rows};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{Value, json};

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

#[tokio::test]
async fn nothing_of_it_opens_to_a_callers_key() {
    let (_cloud, gate) = a_cloud().await;
    let key = format!("Bearer {}", gate.key().secret);
    for path in
        ["/keys", "/budgets", "/reservations", "/routes", "/ledger/requests", "/ledger/summary"]
    {
        for headers in [&[("authorization", key.as_str())][..], &[]] {
            let answer = gate.send("GET", &format!("/admin/v1{path}"), headers, Vec::new()).await;
            assert!(matches!(answer.status, 401 | 403), "{path}: {}", answer.status);
            answer.error();
        }
    }
    let body = json!({"label": "mine"}).to_string().into_bytes();
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let answer = gate.send("POST", "/admin/v1/keys", &headers, body).await;
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
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
            for column in ["ttft", "total"] {
                for percentile in ["p50", "p95", "p99"] {
                    let value = &row[format!("{column}_us")][percentile];
                    assert!(value.is_number() || value.is_null(), "{column} {percentile}: {row:#}");
                }
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
    assert!(metrics.contains("model_not_found"), "{metrics}");
    assert!(gate.ledger().entries().await.is_empty(), "what reached no route has no entry");
}

#[tokio::test]
async fn the_routes_tell_their_state() {
    let (_cloud, gate) = a_cloud().await;
    gate.ask("Hi.").send().await.ok();
    let routes = gate.admin("/routes").await;
    let routes = rows(&routes);
    assert_eq!(routes.len(), 1);
    assert!(!routes[0].to_string().contains("canary"), "no key of a provider: {}", routes[0]);
}

#[tokio::test]
async fn exports_hold_every_attempt_and_their_costs_sum_to_the_ledgers() {
    let (cloud, gate) = a_cloud().await;
    for n in 1..=5 {
        cloud.next(Script::default().using(100 * n, 10 * n));
        gate.ask("Count me.").send().await.ok();
    }
    let cost: u128 = gate.ledger().entries().await.iter().map(|e| e.cost().unwrap()).sum();
    let csv = gate.admin_text("/ledger/export?format=csv").await;
    let focus = gate.admin_text("/ledger/export?format=focus").await;
    for (text, column) in [(csv, "cost_usd"), (focus, "BilledCost")] {
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let head = lines.next().expect("a head");
        let at = head.iter().position(|name| *name == column).expect(column);
        // No cell before that column is quoted here.
        let sum: u128 = lines.map(|cells| pico(&Value::from(cells[at])).expect("a cost")).sum();
        assert_eq!(sum, cost, "{column}");
    }
    gate.ask("Count me.").header("x-tollgate-tags", "a b,c").send().await.ok();
    let csv = gate.admin_text("/ledger/export?format=csv").await;
    assert!(csv.contains(",\"a b,c\","), "tags are told apart: {csv}");
    let lines = gate.admin_text("/ledger/export?format=jsonl").await;
    assert_eq!(lines.lines().count(), 6);
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(entry["attempts"].as_array().map(Vec::len), Some(1));
    }
    assert_eq!(gate.admin_send("GET", "/ledger/export?format=xml", Value::Null).await.status, 400);
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
    let key = gate.key().secret.clone();
    let headers = [("authorization", format!("Bearer {key}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let path = format!("/v1/organization/costs?{page}");
    assert_eq!(gate.send("GET", &path, &headers, Vec::new()).await.status, 403);
}
