//! `x-tollgate-dry-run` tells how a request would be decided, and that is all it does.

use crate::harness::Gate;
use e2e::standin::StandIn;
use serde_json::json;

#[tokio::test]
async fn a_decision_is_explained_and_nothing_is_asked_held_or_written() {
    let (small, large) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let policy = "description = \"by tag\"\n\
                  [[choose]]\nname = \"large\"\nwhen.tags.has_any = [\"hard\"]\nroutes = [\"large\"]\n\
                  [[choose]]\nname = \"small\"\nroutes = [\"small\", \"large\"]\n";
    let gate = Gate::builder()
        .cloud_named("small", &small, "")
        .cloud_named("large", &large, "")
        .policy_text(policy)
        .section("[[limit]]\nmodel = \"auto\"\nrequests_per_minute = 2\ntokens_per_minute = 100000")
        .start()
        .await;
    let budget = json!([{"window": "total", "money_usd": "1", "requests": 5, "hard": true}]);
    let key = gate.new_key().set("budgets", budget).with_tokens_per_minute(100_000).create().await;
    let before = (gate.admin("/budgets").await, gate.admin("/limits").await);
    let messages = json!([{"role": "user", "content": "Which way?"}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": messages})),
        ("/v1/chat/completions", json!({"messages": messages, "stream": true})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 16})),
        ("/v1/responses", json!({"input": "Which way?"})),
        ("/v1/completions", json!({"prompt": "Which way?"})),
        ("/v1/embeddings", json!({"input": "Which way?"})),
    ] {
        let mut body = body;
        body["model"] = json!("auto");
        for (tags, rule, planned) in
            [("", "small", &["small", "large"][..]), ("hard", "large", &["large"])]
        {
            let ask = gate.ask_at(path, body.clone()).by(&key).header("x-tollgate-tags", tags);
            let told = ask.header("x-tollgate-dry-run", "1").send().await.ok();
            let told = told.json();
            assert_eq!(told["object"], "tollgate.decision", "{path}");
            assert_eq!(told["policy"], "policy", "{path}");
            let decided = &told["trace"]["verdict"]["route"];
            assert_eq!(decided["rule"], rule, "{path}: {told:#}");
            assert_eq!(decided["plan"], json!(planned), "{path}: {told:#}");
        }
    }
    assert_eq!(small.counts().connections + large.counts().connections, 0);
    assert!(gate.ledger().entries().await.is_empty(), "nothing is written down");
    assert!(gate.reservations().await.is_empty());
    assert_eq!((gate.admin("/budgets").await, gate.admin("/limits").await), before);

    let count = json!({"model": "auto", "messages": messages});
    let count = gate.ask_at("/v1/messages/count_tokens", count).header("x-tollgate-dry-run", "1");
    let refused = count.send().await;
    assert_eq!(refused.status, 400);
    assert!(refused.body_text().contains("x-tollgate-dry-run"), "{}", refused.body_text());

    // What was told is what is done.
    let answer = gate.ask("Which way?").by(&key).send().await.ok();
    assert_eq!(answer.header("x-tollgate-rule"), "small");
    assert_eq!(answer.header("x-tollgate-route"), "small");
}

#[tokio::test]
async fn what_the_guard_does_to_the_request_is_in_its_explanation() {
    let cloud = StandIn::start().await.unwrap();
    let policy = "description = \"guarded\"\n\
                  [[choose]]\nname = \"guarded\"\nwhen.tags.has = \"guard:prompt_loop\"\nroutes = [\"edge\"]\n\
                  [[choose]]\nname = \"all\"\nroutes = [\"cloud\", \"edge\"]\n";
    let gate = Gate::builder()
        .cloud(&cloud)
        .edge()
        .policy_text(policy)
        .guard("prompt_loop = \"local_only\"\nloop_max = 2")
        .start()
        .await;
    let ask = || gate.ask("Again?").at_most(2).header("x-session-id", "s");
    for _ in 0..5 {
        ask().send().await.ok();
    }
    for _ in 0..3 {
        let told = ask().header("x-tollgate-dry-run", "1").send().await.ok().json();
        assert_eq!(told["trace"]["verdict"]["route"]["rule"], "guarded", "{told:#}");
    }
    let done = ask().send().await.ok();
    assert_eq!(done.header("x-tollgate-rule"), "guarded");
}

#[tokio::test]
async fn what_would_be_refused_is_explained_as_such_and_not_refused() {
    let cloud = StandIn::start().await.unwrap();
    let policy = "description = \"closed\"\n[[choose]]\nname = \"closed\"\n\
                  refuse = \"closed for today\"\n";
    let gate = Gate::builder().cloud(&cloud).policy_text(policy).start().await;
    let told = gate.ask("May I?").header("x-tollgate-dry-run", "1").send().await.ok();
    let refused = &told.json()["trace"]["verdict"]["refuse"];
    assert_eq!(refused["message"], "closed for today", "{}", told.body_text());
    assert_eq!(gate.ask("May I?").send().await.status, 403);
    // No key, no explanation.
    let headers = [("x-tollgate-dry-run", "1"), ("content-type", "application/json")];
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "?"}]});
    let answer =
        gate.send("POST", "/v1/chat/completions", &headers, body.to_string().into_bytes()).await;
    assert_eq!(answer.status, 401);
}
