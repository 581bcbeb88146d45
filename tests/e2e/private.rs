//! A request marked local-only opens no outbound connection, whatever fails.

use crate::harness::{Answer, Gate, GateBuilder};
use e2e::standin::StandIn;
use futures::future::join_all;
use serde_json::json;

/// Two clouds that would answer at once, and the model in the process.
async fn with_clouds(edge: impl FnOnce(GateBuilder) -> GateBuilder) -> (StandIn, StandIn, Gate) {
    let (small, large) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let builder = Gate::builder().policy("private-stays-home");
    let gate = edge(builder)
        .cloud_named("small", &small, "aliases = [\"gpt-small\"]")
        .cloud_named("large", &large, "")
        .start()
        .await;
    (small, large, gate)
}

/// Every way to ask for something that must stay here.
async fn private_requests(gate: &Gate, tokens: u64) -> Vec<Answer> {
    let by_tag = || gate.ask("My diary says:").at_most(tokens).header("x-tollgate-tags", "private");
    let by_metadata = || {
        gate.ask("My diary says:").at_most(tokens).set("metadata", json!({"privacy": "local-only"}))
    };
    let in_format = |path: &'static str, more: serde_json::Value| {
        let mut body =
            json!({"model": "auto", "max_tokens": tokens, "metadata": {"privacy": "local-only"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        async move { gate.post(path, &body).await }
    };
    let message = json!([{"role": "user", "content": "My diary says:"}]);
    vec![
        in_format("/v1/messages", json!({"messages": message})).await,
        in_format("/v1/messages", json!({"messages": message, "model": "small"})).await,
        in_format("/v1/responses", json!({"input": "My diary", "max_tokens": null})).await,
        in_format("/v1/completions", json!({"prompt": "My diary", "model": "small"})).await,
        by_tag().send().await,
        by_tag().streamed().send().await,
        by_metadata().send().await,
        by_tag().from("small").send().await,
        by_tag().from("gpt-small").send().await,
        by_metadata().from("large").streamed().send().await,
    ]
}

#[tokio::test]
async fn it_is_answered_here_or_not_at_all() {
    let (small, large, gate) = with_clouds(GateBuilder::edge).await;
    for answer in private_requests(&gate, 4).await {
        if answer.status == 200 {
            assert_eq!(answer.header("x-tollgate-route"), "edge");
        } else {
            assert!((400..500).contains(&answer.status), "{}", answer.body_text());
            assert!(answer.json()["error"]["message"].is_string(), "{}", answer.body_text());
        }
    }
    // A prompt that the local model cannot hold.
    let long = gate.ask(&"word ".repeat(30_000)).header("x-tollgate-tags", "private").send().await;
    assert!((400..500).contains(&long.status), "{}", long.status);
    assert_eq!(small.counts().connections + large.counts().connections, 0);

    // The same clouds answer what is not marked, so they could have been asked.
    let public = gate.ask("Hello.").from("small").send().await.ok();
    assert_eq!(public.header("x-tollgate-route"), "small");
}

#[tokio::test]
async fn when_the_local_model_is_full() {
    let (small, large, gate) =
        with_clouds(|b| b.edge_with("slots = 1\nqueue_max = 1\nqueue_wait_max_ms = 200")).await;
    let asks = (0..8).map(|_| {
        gate.ask("Tell me a story.").at_most(48).header("x-tollgate-tags", "private").send()
    });
    let answers = join_all(asks).await;
    assert!(answers.iter().any(|a| a.status == 200), "some are answered");
    assert!(answers.iter().any(|a| a.status != 200), "eight do not fit into two places");
    for answer in answers.iter().filter(|a| a.status != 200) {
        assert!(matches!(answer.status, 429 | 503), "{}", answer.status);
        assert!(answer.json()["error"]["message"].is_string(), "{}", answer.body_text());
    }
    assert_eq!(small.counts().connections + large.counts().connections, 0);
}

#[tokio::test]
async fn when_there_is_no_local_model() {
    let (small, large, gate) = with_clouds(|builder| builder).await;
    for answer in private_requests(&gate, 4).await {
        assert!(answer.status >= 400, "nobody here could answer: {}", answer.body_text());
        assert!(answer.json()["error"]["message"].is_string(), "{}", answer.body_text());
    }
    assert_eq!(small.counts().connections + large.counts().connections, 0);
}
