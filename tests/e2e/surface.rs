//! The other endpoints live the same life as a chat: reserved, answered, charged, written down once.

use crate::harness::Gate;
use e2e::standin::{Script, StandIn};
use serde_json::json;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

#[tokio::test]
async fn a_completion_passes_through_and_is_charged() {
    let (cloud, gate) = a_cloud().await;
    let body = json!({"model": "auto", "prompt": "Once", "max_tokens": 7, "odd": [1.0]});
    let answer = gate.post("/v1/completions", &body).await.ok();
    assert_eq!(answer.json()["object"], "text_completion");
    assert_eq!(answer.json()["choices"][0]["text"], "All is well in the cloud.");
    assert_eq!(answer.json()["usage"]["cost"], 0.000_022, "10 at 1 and 6 at 2 USD a million");
    let asked = cloud.asked().pop().unwrap();
    assert_eq!(asked.path, "/v1/completions");
    assert_eq!(asked.json()["max_tokens"], 7);
    assert!(asked.json()["max_completion_tokens"].is_null());
    assert_eq!(asked.json()["odd"], json!([1.0]));
    let entry = gate.ledger().only_entry().await;
    entry.adds_up();
    assert_eq!(entry.text("endpoint"), "completions");
    assert_eq!(entry.cost(), Some(22_000_000));
}

#[tokio::test]
async fn a_streamed_completion_hides_the_usage_nobody_asked_for() {
    let (cloud, gate) = a_cloud().await;
    let body = json!({"model": "auto", "prompt": "Once", "stream": true});
    let answer = gate.post("/v1/completions", &body).await.ok();
    assert!(answer.done() && answer.usage().is_null());
    let texts: Vec<_> = answer.chunks().iter().map(|c| c["choices"][0]["text"].clone()).collect();
    assert_eq!(json!(texts), json!(["All ", "is ", "well ", "in ", "the ", "cloud.", ""]));
    assert_eq!(cloud.asked()[0].json()["stream_options"]["include_usage"], true);
    assert_eq!(cloud.asked()[0].json()["max_tokens"], 16, "the cap is always sent");
    let entry = gate.ledger().only_entry().await;
    assert_eq!(entry.cost(), Some(22_000_000));
    assert!(entry.0["ttft_us"].is_u64());
}

#[tokio::test]
async fn vectors_pass_through_and_are_charged_for_their_input_alone() {
    let (cloud, gate) = a_cloud().await;
    let body = json!({"model": "auto", "input": ["a cat", "a dog"], "encoding_format": "base64"});
    let answer = gate.post("/v1/embeddings", &body).await.ok();
    let data = answer.json()["data"].clone();
    assert_eq!(data.as_array().unwrap().len(), 2);
    assert!(data[0]["embedding"].is_string());
    assert_eq!(answer.json()["usage"]["cost"], 0.000_01);
    let asked = cloud.asked().pop().unwrap();
    assert_eq!(asked.path, "/v1/embeddings");
    assert_eq!(asked.json()["model"], "standin-1");
    assert!(asked.json()["max_tokens"].is_null() && asked.json()["stream"].is_null());
    let entry = gate.ledger().only_entry().await;
    entry.adds_up();
    assert_eq!(entry.text("endpoint"), "embeddings");
    assert_eq!(entry.cost(), Some(10_000_000));
    assert_eq!(entry.only_attempt().used("output"), Some(0));
}

#[tokio::test]
async fn a_spent_budget_stops_every_endpoint() {
    let (cloud, gate) = a_cloud().await;
    let key = gate.new_key().named("poor").with_budget_usd("0.000001").create().await;
    for (path, body) in [
        ("/v1/completions", json!({"model": "auto", "prompt": "Once"})),
        ("/v1/embeddings", json!({"model": "auto", "input": "Once upon a time"})),
    ] {
        let answer = gate.post_by(&key, path, &body).await;
        assert_eq!(answer.status, 429, "{path}: {}", answer.body_text());
        assert_eq!(answer.error().code.as_deref(), Some("insufficient_quota"));
    }
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn what_is_no_answer_of_the_endpoint_is_no_answer() {
    let (cloud, gate) = a_cloud().await;
    cloud.always(Script::body("application/json", r#"{"object":"list"}"#));
    for (path, body) in [
        ("/v1/completions", json!({"model": "auto", "prompt": "Once"})),
        ("/v1/embeddings", json!({"model": "auto", "input": "Once"})),
    ] {
        let answer = gate.post(path, &body).await;
        assert_eq!(answer.status, 503, "{path}: {}", answer.body_text());
        answer.error();
    }
    gate.ledger().until_entries(2).await;
}
