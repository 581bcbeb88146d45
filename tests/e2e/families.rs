//! Providers that do not speak OpenAI's format: the caller cannot tell, and the books say the same.

use crate::harness::Gate;
use e2e::standin::{Cut, Point, Reported, Script, StandIn};
use serde_json::json;

const KINDS: [&str; 3] = ["openai", "anthropic", "gemini"];

/// A stand-in and a gateway whose only route leads to it.
async fn gate(kind: &str) -> (StandIn, Gate) {
    let cloud = StandIn::start().await.expect("a stand-in");
    let gate = Gate::builder().cloud_of_kind("cloud", &cloud.base_url(), kind, "").start().await;
    (cloud, gate)
}

fn script() -> Script {
    let mut script = Script::says("All is well in the cloud.");
    script.cached_tokens = 4;
    script
}

#[tokio::test]
async fn an_answer_is_the_same_whichever_family_gave_it() {
    for kind in KINDS {
        let (cloud, gate) = gate(kind).await;
        cloud.always(script());
        let whole = gate.ask("Hi").send().await.ok();
        let stream = gate.ask("Hi").streamed_with_usage().send().await.ok();
        for answer in [&whole, &stream] {
            assert_eq!(answer.text(), "All is well in the cloud.", "{kind}");
            assert_eq!(answer.finish(), "stop", "{kind}");
            let usage = answer.usage();
            assert_eq!(usage["prompt_tokens"], json!(10), "{kind}: {usage}");
            assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], json!(4), "{kind}");
            assert_eq!(usage["completion_tokens"], json!(6), "{kind}");
        }
        assert!(stream.done(), "{kind}");
        for entry in gate.ledger().entries().await {
            entry.adds_up();
            let attempt = entry.only_attempt();
            assert_eq!(attempt.text("usage_source"), "reported", "{kind}");
            let used = ["input", "cache_read", "output"].map(|name| attempt.used(name));
            assert_eq!(used, [Some(6), Some(4), Some(6)], "{kind}: every token once");
            // 6 at 1, 4 at 0.5 and 6 at 2 USD a million.
            assert_eq!(entry.cost(), Some(20_000_000), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_call_of_a_tool_is_the_same_whichever_family_made_it() {
    for kind in KINDS {
        let (cloud, gate) = gate(kind).await;
        let mut script = Script::says("");
        script.call = Some(("look".to_owned(), "{\"at\":1}".to_owned()));
        script.finish = "tool_calls".to_owned();
        cloud.always(script);
        let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
        let answer = gate.ask("Hi").set("tools", tools).send().await.ok().json();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{kind}: {answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "look", "{kind}");
        let arguments = call["arguments"].as_str().unwrap_or_default();
        let arguments: serde_json::Value = serde_json::from_str(arguments).expect("JSON");
        assert_eq!(arguments, json!({"at": 1}), "{kind}");
    }
}

#[tokio::test]
async fn the_key_goes_where_the_family_wants_it_and_the_cap_is_always_sent() {
    for (kind, header, path) in [
        ("anthropic", "x-api-key", "/v1/messages"),
        ("gemini", "x-goog-api-key", "/v1/models/standin-1:generateContent"),
        ("azure", "api-key", "/v1/chat/completions"),
    ] {
        let (cloud, gate) = gate(kind).await;
        gate.ask("Hi").at_most(7).send().await.ok();
        let asked = cloud.asked().pop().expect("a request");
        assert_eq!(asked.path, path, "{kind}");
        assert_eq!(asked.header(header), Some("sk-upstream-cloud-canary"), "{kind}");
        assert_eq!(asked.header("authorization"), None, "{kind}: nobody else's key");
        let body = asked.json();
        let cap = ["/max_tokens", "/max_completion_tokens", "/generationConfig/maxOutputTokens"];
        assert!(cap.iter().any(|at| body.pointer(at) == Some(&json!(7))), "{kind}: {body}");
    }
}

#[tokio::test]
async fn usage_that_is_not_reported_is_estimated_and_a_broken_answer_is_booked() {
    for kind in KINDS {
        let (cloud, gate) = gate(kind).await;
        let mut silent = script();
        silent.reported = Reported::Never;
        let mut broken = script();
        broken.cut = Some(Cut::Close(Point::Piece(2)));
        cloud.next(silent).next(broken);
        gate.ask("Hi").streamed().send().await.ok();
        let answer = gate.ask("Hi").streamed().send().await;
        assert!(!answer.done(), "{kind}: it did not end well");
        for entry in gate.ledger().entries().await {
            entry.adds_up();
            let attempt = entry.only_attempt();
            assert_eq!(attempt.text("usage_source"), "estimated", "{kind}");
            assert!(entry.cost().is_some_and(|cost| cost > 0), "{kind}: never zero");
        }
    }
}

#[tokio::test]
async fn what_a_family_has_no_counterpart_for_is_refused_by_name_and_nothing_is_sent() {
    let (cloud, gate) = gate("anthropic").await;
    let answer = gate.ask("Hi").set("frequency_penalty", json!(0.5)).send().await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.error().param.as_deref(), Some("frequency_penalty"));
    assert_eq!(cloud.counts().requests, 0);
}
