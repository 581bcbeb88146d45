//! A request marked local-only opens no outbound connection, whatever fails.

use crate::harness::{Answer, Gate, GateBuilder, eventually, model_file};
use e2e::standin::StandIn;
use futures::future::join_all;
use serde_json::{Value, json};

const TEXT: &str = "My diary says:";

/// Two clouds that would answer at once, and the model in the process.
struct Case {
    small: StandIn,
    large: StandIn,
    gate: Gate,
}

async fn with_clouds(edge: impl FnOnce(GateBuilder) -> GateBuilder) -> Case {
    let (small, large) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let builder = Gate::builder().policy("private-stays-home");
    let gate = edge(builder)
        .cloud_named("small", &small, "aliases = [\"gpt-small\"]")
        .cloud_named("large", &large, "")
        .start()
        .await;
    Case { small, large, gate }
}

impl Case {
    /// Nothing left, and it is not that nothing could have: the same clouds answer what is not marked.
    async fn nothing_left(&self) {
        assert_eq!(self.small.counts().connections + self.large.counts().connections, 0);
        let public = self.gate.ask("Hello.").from("small").send().await.ok();
        assert_eq!(public.header("x-tollgate-route"), "small");
    }

    /// Sends this to every endpoint that generates or embeds, streamed where that can be, marked in
    /// every way there is.
    async fn private_requests(&self, model: &str) -> Vec<(String, Answer)> {
        let mut answers = Vec::new();
        let messages = json!([{"role": "user", "content": TEXT}]);
        for (path, body, streams) in [
            ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 4}), true),
            ("/v1/messages", json!({"messages": messages, "max_tokens": 4}), true),
            ("/v1/responses", json!({"input": TEXT, "max_output_tokens": 4}), true),
            ("/v1/completions", json!({"prompt": TEXT, "max_tokens": 4}), true),
            ("/v1/embeddings", json!({"input": [TEXT]}), false),
        ] {
            for stream in if streams { &[false, true][..] } else { &[false] } {
                let ask = |more: &Value| {
                    let mut body = body.clone();
                    body["model"] = json!(model);
                    if *stream {
                        body["stream"] = json!(true);
                    }
                    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                    self.gate.ask_at(path, body)
                };
                let by_tag = ask(&json!({})).header("x-tollgate-tags", "Private").send().await;
                let metadata = json!({"metadata": {"privacy": "local-only"}});
                let by_metadata = ask(&metadata).send().await;
                answers.push((format!("{path} by its tag, {stream}"), by_tag));
                answers.push((format!("{path} by its metadata, {stream}"), by_metadata));
            }
        }
        answers
    }
}

/// It was refused by the policy.
fn is_kept_at_home(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 403, "{what}: {}", answer.body_text());
    let error = &answer.json()["error"];
    assert_eq!(error["type"], "permission_error", "{what}: {error}");
}

#[tokio::test]
async fn it_is_answered_here_whatever_it_asks_for() {
    let case = with_clouds(GateBuilder::edge).await;
    for (what, answer) in case.private_requests("auto").await {
        assert_eq!(answer.status, 200, "{what}: {}", answer.body_text());
        assert_eq!(answer.header("x-tollgate-route"), "edge", "{what}");
    }
    let messages = json!([{"role": "user", "content": TEXT}]);
    let body = json!({"model": "auto", "messages": messages});
    let count = case.gate.ask_at("/v1/messages/count_tokens", body);
    let count = count.header("x-tollgate-tags", "private").send().await.ok();
    assert_eq!(count.header("x-tollgate-count"), "exact", "counted here");
    case.nothing_left().await;
}

#[tokio::test]
async fn it_is_refused_where_it_names_a_cloud() {
    let case = with_clouds(GateBuilder::edge).await;
    for model in ["small", "gpt-small", "large"] {
        for (what, answer) in case.private_requests(model).await {
            is_kept_at_home(&format!("{model} at {what}"), &answer);
        }
    }
    case.nothing_left().await;
}

#[tokio::test]
async fn what_the_local_model_cannot_hold_is_refused() {
    let case = with_clouds(GateBuilder::edge).await;
    let long = case.gate.ask(&"word ".repeat(30_000)).header("x-tollgate-tags", "private");
    let long = long.send().await;
    assert_eq!(long.status, 400, "{}", long.body_text());
    assert_eq!(long.error().code.as_deref(), Some("context_length_exceeded"));
    case.nothing_left().await;
}

#[tokio::test]
async fn when_the_local_model_is_full() {
    let full = "slots = 1\nqueue_max = 1\nqueue_wait_max_ms = 200";
    let case = with_clouds(|builder| builder.edge_with(full)).await;
    let asks = (0..8).map(|_| {
        let ask = case.gate.ask("Tell me a story.").at_most(48);
        ask.header("x-tollgate-tags", "private").send()
    });
    let answers = join_all(asks).await;
    assert!(answers.iter().any(|a| a.status == 200), "some are answered");
    assert!(answers.iter().any(|a| a.status != 200), "eight do not fit into two places");
    for answer in answers.iter().filter(|a| a.status != 200) {
        assert_eq!(answer.status, 503, "{}", answer.body_text());
        assert_eq!(answer.error().code.as_deref(), Some("busy"));
    }
    case.nothing_left().await;
}

#[tokio::test]
async fn when_there_is_no_local_model() {
    let case = with_clouds(|builder| builder).await;
    for (what, answer) in case.private_requests("auto").await {
        is_kept_at_home(&what, &answer);
    }
    case.nothing_left().await;
}

#[tokio::test]
async fn when_the_engine_fails_while_it_answers() {
    for isolation in ["in_process", "process"] {
        let drill = format!("isolation = \"{isolation}\"\ndrill = \"panic:6\"");
        let case = with_clouds(|builder| builder.edge_with(&drill)).await;
        let ask = case.gate.ask("Tell me a long story.").at_most(64);
        let met = ask.header("x-tollgate-tags", "private").send().await;
        assert!(matches!(met.status, 502 | 503), "{isolation}: {} {}", met.status, met.body_text());
        eventually("the fault in the model's report", || async {
            (case.gate.admin("/models/edge").await["faults"] == 1).then_some(())
        })
        .await;
        case.nothing_left().await;
    }
}

#[tokio::test]
async fn when_the_models_file_is_gone_before_its_first_use() {
    let mut file = None;
    let case = with_clouds(|builder| {
        let link = builder.config_file().with_file_name("model.gguf");
        std::os::unix::fs::symlink(std::path::absolute(model_file()).unwrap(), &link).unwrap();
        let route = format!(
            "[routes.edge]\nkind = \"local\"\nfile = \"{}\"\nusd_per_hour = \"0.36\"\n\
             load = \"first_use\"\n",
            link.display()
        );
        file = Some(link);
        builder.routes(&route)
    })
    .await;
    std::fs::remove_file(file.unwrap()).unwrap();
    for (what, answer) in case.private_requests("auto").await {
        assert_eq!(answer.status, 503, "{what}: {}", answer.body_text());
    }
    case.nothing_left().await;
}

#[tokio::test]
async fn when_its_key_has_no_money_left_and_the_local_model_costs() {
    let case = with_clouds(|builder| builder.edge_with("budgeted = true")).await;
    let key = case.gate.new_key().with_budget_usd("0.000000000001").create().await;
    let ask = case.gate.ask(TEXT).by(&key).header("x-tollgate-tags", "private");
    let refused = ask.send().await;
    assert_eq!(refused.status, 429, "{}", refused.body_text());
    case.nothing_left().await;
}

/// An answer that a cloud gave to somebody else is not sent for, nor waited for, in its place.
#[tokio::test]
async fn beside_the_same_request_that_is_not_private() {
    let case = with_clouds(|builder| {
        builder.edge().section("[cache]\nmode = \"asked\"\n[idempotency]\nttl_s = 60")
    })
    .await;
    let ask = || {
        let ask = case.gate.ask(TEXT).at_most(4).header("x-tollgate-cache", "on");
        ask.header("x-tollgate-tags", "private")
    };
    for (asked, cache) in [(ask(), "MISS"), (ask(), "HIT")] {
        let answer = asked.send().await.ok();
        assert_eq!(answer.header("x-tollgate-cache"), cache);
        assert_eq!(answer.header("x-tollgate-route"), "edge");
    }
    for _ in 0..2 {
        let answer = ask().header("idempotency-key", "once").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "edge");
    }
    case.nothing_left().await;
    // What a cloud has answered is not an answer to the same words when they are private.
    let public = || case.gate.ask(TEXT).from("small").header("x-tollgate-cache", "on");
    assert_eq!(public().send().await.ok().header("x-tollgate-cache"), "MISS");
    assert_eq!(public().send().await.ok().header("x-tollgate-cache"), "HIT");
    let private = public().header("x-tollgate-tags", "private").send().await;
    is_kept_at_home("the same words", &private);
}

#[tokio::test]
async fn what_is_taken_from_a_private_answer_stays_private() {
    let case = with_clouds(|gate| gate.edge().ledger("[responses]\nstore = true")).await;
    let ask = |more: Value| {
        let mut body = json!({"model": "auto", "max_output_tokens": 4});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case.gate.ask_at("/v1/responses", body)
    };
    let id = |answer: &Answer| answer.json()["id"].as_str().expect("an id").to_owned();
    let item = |answer: &Answer| answer.json()["output"][0]["id"].clone();
    let marked = json!({"input": TEXT, "metadata": {"privacy": "local-only"}});
    let by_metadata = ask(marked).send().await.ok();
    let by_tag = ask(json!({"input": TEXT})).header("x-tollgate-tags", "private").send().await.ok();
    let at_home = |what: &str, answer: &Answer| {
        assert_eq!(answer.header("x-tollgate-route"), "edge", "{what}: {}", answer.body_text());
    };
    // Long enough for a cloud, where it may go there.
    let long = "word ".repeat(3_000);
    for first in [&by_metadata, &by_tag] {
        at_home("the first", first);
        let mut before = id(first);
        for turn in ["the next", "the one after"] {
            let next = ask(json!({"input": "And?", "previous_response_id": before})).send().await;
            at_home(turn, &next);
            before = id(&next);
        }
        let referred = json!([{"type": "item_reference", "id": item(first)}, {"role": "user", "content": "And?"}]);
        at_home("an item", &ask(json!({"input": referred})).send().await);
        let last = ask(json!({"input": long, "previous_response_id": before})).send().await;
        assert_ne!(last.header("x-tollgate-route"), "small");
    }
    assert_eq!(case.small.counts().connections + case.large.counts().connections, 0);
    let public = ask(json!({"input": long})).send().await.ok();
    assert_ne!(public.header("x-tollgate-route"), "edge", "nothing else stays for its length");
}
