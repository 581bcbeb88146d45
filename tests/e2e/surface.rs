//! The other endpoints live the same life as a chat: reserved, answered, charged, written down once.

use crate::harness::{EntrySeen, Gate, rows};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{Value, json};
use std::io::Write as _;

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
async fn a_service_tier_without_a_price_is_refused_at_every_endpoint() {
    let (cloud, gate) = a_cloud().await;
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "Hi."}]})),
        ("/v1/completions", json!({"prompt": "Once"})),
        ("/v1/embeddings", json!({"input": "Once"})),
        ("/v1/responses", json!({"input": "Hi."})),
    ] {
        let mut body = body;
        (body["model"], body["service_tier"]) = (json!("auto"), json!("priority"));
        let answer = gate.post(path, &body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body_text());
        assert_eq!(answer.error().param.as_deref(), Some("service_tier"), "{path}");
    }
    assert_eq!(cloud.counts().requests, 0, "nothing is sent");
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

fn message(stream: bool) -> Value {
    json!({"model": "auto", "max_tokens": 30, "stream": stream, "system": "Be brief.",
           "messages": [{"role": "user", "content": "Hi."}]})
}

#[tokio::test]
async fn a_message_is_answered_by_a_route_of_another_format() {
    let (cloud, gate) = a_cloud().await;
    let answer = gate.post("/v1/messages", &message(false)).await.ok();
    let body = answer.json();
    assert_eq!(body["content"], json!([{"type": "text", "text": "All is well in the cloud."}]));
    assert_eq!(body["stop_reason"], "end_turn");
    assert_eq!(body["usage"]["input_tokens"], 10);
    assert_eq!(body["usage"]["cost"], 0.000_022);
    let asked = cloud.asked().pop().unwrap();
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.json()["messages"][0], json!({"role": "system", "content": "Be brief."}));
    let entry = gate.ledger().only_entry().await;
    assert_eq!((entry.text("endpoint").as_str(), entry.cost()), ("messages", Some(22_000_000)));
}

#[tokio::test]
async fn a_streamed_message_has_anthropics_events_in_their_order() {
    let (_cloud, gate) = a_cloud().await;
    let answer = gate.post("/v1/messages", &message(true)).await.ok();
    let events = answer.named_events();
    let mut names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let text: String = events.iter().filter_map(|(_, e)| e["delta"]["text"].as_str()).collect();
    assert_eq!(text, "All is well in the cloud.");
    let (_, delta) = &events[events.len() - 2];
    assert_eq!(delta["usage"]["output_tokens"], 6);
    assert_eq!(gate.ledger().only_entry().await.cost(), Some(22_000_000));
}

#[tokio::test]
async fn a_tool_call_and_a_break_reach_every_format() {
    let (cloud, gate) = a_cloud().await;
    cloud.always(Script::calls("look", r#"{"city":"Oslo"}"#));
    let answer = gate.post("/v1/messages", &message(false)).await.ok().json();
    assert_eq!(answer["content"][0]["input"], json!({"city": "Oslo"}));
    assert_eq!(answer["stop_reason"], "tool_use");
    let asked = json!({"model": "auto", "input": "Hi.", "stream": true});
    let events = gate.post("/v1/responses", &asked).await.ok().named_events();
    let (name, last) = events.last().unwrap();
    assert_eq!(name, "response.completed");
    assert_eq!(last["response"]["output"][0]["arguments"], r#"{"city":"Oslo"}"#);

    cloud.always(Script::default().with(Fault::CloseMidStream));
    let events = gate.post("/v1/messages", &message(true)).await.ok().named_events();
    assert_eq!(events.last().unwrap().0, "error");
    let events = gate.post("/v1/responses", &asked).await.ok().named_events();
    assert_eq!(events.last().unwrap().0, "response.failed");
    gate.until_nothing_is_reserved().await;
    assert_eq!(gate.ledger().until_entries(4).await.len(), 4);
}

#[tokio::test]
async fn an_answer_that_another_format_cannot_be_made_of_is_told_and_none_is_made_up() {
    let (cloud, gate) = a_cloud().await;
    let answer = |call: Value| {
        let said = json!({"role": "assistant", "content": "I look.", "tool_calls": call});
        json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
               "choices": [{"index": 0, "message": said, "finish_reason": "tool_calls"}],
               "usage": {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}})
    };
    let call = json!([{"id": "a", "type": "function",
                       "function": {"name": "look", "arguments": {"city": "Oslo"}}}]);
    cloud.next(Script::body("application/json", &answer(call).to_string()));
    let body = gate.post("/v1/messages", &message(false)).await.ok().json();
    assert_eq!(body["content"][0], json!({"type": "text", "text": "I look."}));
    assert_eq!(body["content"][1]["input"], json!({"city": "Oslo"}), "an object is its own text");

    cloud.next(Script::body("application/json", &answer(json!("none")).to_string()));
    let broken = gate.post("/v1/messages", &message(false)).await;
    assert_eq!((broken.status, broken.json()["type"].as_str()), (502, Some("error")));
    let chunk = json!({"id": "c", "choices": [{"index": 0, "finish_reason": null,
                       "delta": {"content": "I look.", "tool_calls": "none"}}]});
    cloud.next(Script::body("text/event-stream", &format!("data: {chunk}\n\n")));
    let events = gate.post("/v1/messages", &message(true)).await.named_events();
    assert_eq!(events.last().unwrap().0, "error");
    let entries = gate.ledger().until_entries(3).await;
    let broken: Vec<_> = entries.iter().filter(|entry| entry.outcome() == "broken").collect();
    assert_eq!(broken.len(), 2, "{entries:?}");
    let charged = |entry: &&EntrySeen| entry.cost().is_some_and(|cost| cost > 0);
    assert!(broken.iter().all(charged), "what was seen is charged");
}

#[tokio::test]
async fn anthropics_paths_answer_errors_in_its_shape() {
    let (_cloud, gate) = a_cloud().await;
    let no_key = gate.send("POST", "/v1/messages", &[], b"{}".to_vec()).await;
    let wrong_method = gate.get("/v1/messages").await;
    let no_path = gate.get("/v1/messages/nothing").await;
    let bad = gate.post("/v1/messages", &json!({"model": "auto"})).await;
    for (answer, status, kind) in [
        (no_key, 401, "authentication_error"),
        (wrong_method, 405, "invalid_request_error"),
        (no_path, 404, "not_found_error"),
        (bad, 400, "invalid_request_error"),
    ] {
        assert_eq!(answer.status, status);
        let body = answer.json();
        assert_eq!(body["type"], "error", "{body}");
        assert_eq!(body["error"]["type"], kind, "{body}");
        assert_eq!(body["request_id"], answer.id());
        assert_eq!(answer.header("request-id"), answer.id(), "where Anthropic's SDKs look for it");
    }
    let answer = gate.post("/v1/messages", &message(false)).await.ok();
    assert_eq!(answer.header("request-id"), answer.id());
}

#[tokio::test]
async fn tokens_are_counted_without_asking_anybody() {
    let (cloud, gate) = a_cloud().await;
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
    let answer = gate.post("/v1/messages/count_tokens", &body).await.ok();
    assert!(answer.json()["input_tokens"].as_u64().unwrap() > 0);
    assert_eq!(answer.header("x-tollgate-count"), "estimate");
    let mut wrong = body.clone();
    wrong["tool_choice"] = json!({"type": "auto", "name": {}});
    let refused = gate.post("/v1/messages/count_tokens", &wrong).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["type"].as_str()),
        (400, Some("invalid_request_error"))
    );
    assert_eq!(cloud.counts().requests, 0);
    assert!(gate.ledger().entries().await.is_empty());
}

#[tokio::test]
async fn a_count_that_is_refused_names_the_rule_as_any_refusal() {
    let cloud = StandIn::start().await.unwrap();
    let policy = "[[choose]]\nname = \"no-nightly\"\nwhen.tags.has = \"nightly\"\n\
        refuse = \"not at night\"\n[[choose]]\nname = \"all\"\nroutes = [\"cloud\"]\n";
    let gate = Gate::builder().cloud(&cloud).policy_text(policy).start().await;
    let key = gate.new_key().with_requests_per_minute(60).create().await;
    let told = async |path: &'static str| {
        let ask = gate.ask_at(path, message(false)).by(&key).header("x-tollgate-tags", "Nightly");
        let refused = ask.send().await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body_text());
        assert_eq!(refused.json()["error"]["message"], "not at night", "{path}");
        let headers = ["x-tollgate-rule", "x-tollgate-policy", "x-ratelimit-limit-requests"];
        headers.map(|name| refused.header(name).to_owned())
    };
    let counted = told("/v1/messages/count_tokens").await;
    assert_eq!(counted, told("/v1/messages").await);
    assert_eq!((counted[0].as_str(), counted[2].as_str()), ("no-nightly", "60"));
    assert!(counted[1].contains('@'), "{counted:?}");
    let refusals = rows(&gate.admin("/refusals").await);
    assert_eq!(refusals.len(), 1, "a count is no request of the ledger's: {refusals:?}");
    assert_eq!(refusals[0]["count"], 1);
}

#[tokio::test]
async fn tokens_are_counted_on_a_route_whose_price_has_a_day() {
    let cloud = StandIn::start().await.unwrap();
    let prices = tempfile::NamedTempFile::new().unwrap();
    let row = "[[price]]\nprovider = \"standin\"\nmodel = \"standin-unheard-of\"\n\
        effective_from = \"2026-01-01\"\ninput = \"1\"\noutput = \"2\"\n\
        source = \"a test\"\nsource_date = \"2026-01-01\"\n";
    std::fs::write(prices.path(), row).unwrap();
    let section = format!("[prices]\nfile = {:?}", prices.path());
    let gate = Gate::builder().unpriced_cloud(&cloud).section(&section).start().await;
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
    gate.post("/v1/messages/count_tokens", &body).await.ok();
}

#[tokio::test]
async fn tokens_are_counted_that_the_context_does_not_hold() {
    let gate = Gate::builder().policy("edge-first").edge().start().await;
    let count = async |words: usize| {
        let message = json!({"role": "user", "content": "word ".repeat(words)});
        let body = json!({"model": "edge", "messages": [message]});
        let answer = gate.post("/v1/messages/count_tokens", &body).await.ok();
        assert_eq!(answer.header("x-tollgate-count"), "exact");
        answer.json()["input_tokens"].as_u64().unwrap()
    };
    let context = gate.get("/ready").await.json()["routes"][0]["engine"]["context_tokens"].clone();
    let (few, many) = (count(1_000).await, count(21_000).await);
    assert!(many > context.as_u64().unwrap(), "{many} {context}");
    assert_eq!(many - few, 20_000);
    // Nor what is so long that no context could: reading it would be too much work for a count.
    let message = json!({"role": "user", "content": "word ".repeat(400_000)});
    let body = json!({"model": "edge", "messages": [message]});
    let answer = gate.post("/v1/messages/count_tokens", &body).await.ok();
    assert!(answer.json()["input_tokens"].as_u64().unwrap() > many);
}

#[tokio::test]
async fn a_response_goes_on_from_a_kept_one_and_only_where_they_are_kept() {
    let (_cloud, gate) = a_cloud().await;
    let first = gate.post("/v1/responses", &json!({"model": "auto", "input": "Hi."})).await.ok();
    assert_eq!(first.json()["store"], false, "nothing is kept unless the operator says so");
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let next = json!({"model": "auto", "input": "And?", "previous_response_id": id});
    let refused = gate.post("/v1/responses", &next).await;
    assert_eq!(refused.error().param.as_deref(), Some("previous_response_id"));
    assert_eq!(gate.get(&format!("/v1/responses/{id}")).await.status, 404);
    let referring = |first: &Value| {
        let said = json!({"type": "item_reference", "id": first["output"][0]["id"]});
        json!({"model": "auto", "input": [{"role": "user", "content": "Hi."}, said,
               {"role": "user", "content": "And?"}]})
    };
    let refused = gate.post("/v1/responses", &referring(&first.json())).await;
    assert_eq!(refused.error().param.as_deref(), Some("input[1].id"));

    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).ledger("[responses]\nstore = true").start().await;
    let first = gate.post("/v1/responses", &json!({"model": "auto", "input": "Hi."})).await.ok();
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let next = json!({"model": "auto", "input": "And?", "previous_response_id": id});
    gate.post("/v1/responses", &next).await.ok();
    let said = cloud.asked().pop().unwrap().json()["messages"].clone();
    assert_eq!(said[1], json!({"role": "assistant", "content": "All is well in the cloud."}));
    gate.post("/v1/responses", &referring(&first.json())).await.ok();
    assert_eq!(cloud.asked().pop().unwrap().json()["messages"], said);
    let path = format!("/v1/responses/{id}");
    assert_eq!(gate.get(&path).await.ok().json(), first.json());
    let streamed = gate.get(&format!("{path}?stream=true")).await;
    assert_eq!((streamed.status, streamed.error().param.as_deref()), (400, Some("stream")));
    for word in ["input_tokens", "compact"] {
        let path = format!("/v1/responses/{word}");
        assert_eq!(gate.post(&path, &json!({})).await.status, 404, "{word} is no id of an answer");
    }
    let given = gate.get(&format!("{path}/input_items")).await.ok().json();
    assert_eq!(given["data"][0]["content"], json!([{"type": "input_text", "text": "Hi."}]));
    assert_eq!((&given["has_more"], &given["last_id"]), (&json!(false), &given["data"][0]["id"]));
    assert_eq!(gate.get(&format!("{path}/input_items?limit=0")).await.status, 400);
    assert_eq!(gate.get("/v1/responses/resp_none/input_items").await.status, 404);
    let other = gate.new_key().named("other").create().await;
    let stranger = format!("Bearer {}", other.secret);
    let headers = [("authorization", stranger.as_str())];
    assert_eq!(gate.send("DELETE", &path, &headers, Vec::new()).await.status, 404);
    let own = format!("Bearer {}", gate.key().secret);
    let headers = [("authorization", own.as_str())];
    assert_eq!(gate.send("DELETE", &path, &headers, Vec::new()).await.ok().json()["deleted"], true);
    assert_eq!(gate.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_compressed_body_is_read_and_a_bomb_is_not() {
    let (cloud, gate) = a_cloud().await;
    let bearer = format!("Bearer {}", gate.key().secret);
    let gzip = |body: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(body).unwrap();
        out.finish().unwrap()
    };
    let post = async |encoding: &str, body: Vec<u8>| {
        let headers = [("authorization", bearer.as_str()), ("content-encoding", encoding)];
        gate.send("POST", "/v1/messages", &headers, body).await
    };
    let plain = message(false).to_string();
    post("gzip", gzip(plain.as_bytes())).await.ok();
    post("identity", plain.clone().into_bytes()).await.ok();
    let asked = cloud.counts().requests;
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    assert_eq!(post("gzip", bomb).await.status, 413);
    assert_eq!(post("gzip", plain.clone().into_bytes()).await.status, 400);
    assert_eq!(post("compress", plain.into_bytes()).await.status, 415);
    assert_eq!(cloud.counts().requests, asked);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_and_read() {
    let cloud = StandIn::start().await.unwrap();
    let origins = r#"cors_origins = ["https://app.example.com"]"#;
    let gate = Gate::builder().cloud(&cloud).server(origins).start().await;
    let preflight = async |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-stainless-lang"),
        ];
        gate.send("OPTIONS", "/v1/chat/completions", &headers, Vec::new()).await
    };
    let allowed = preflight("https://app.example.com").await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    assert!(allowed.header("access-control-allow-headers").contains("x-stainless-lang"));
    assert!(allowed.header("access-control-allow-headers").contains("authorization"));
    let stranger = preflight("https://evil.example.com").await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
    let headers = [("origin", "https://app.example.com")];
    let refused = gate.send("POST", "/v1/chat/completions", &headers, b"{}".to_vec()).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example.com");
    assert!(refused.header("access-control-expose-headers").contains("x-request-id"));
    let admin = gate.send("OPTIONS", "/admin/v1/keys", &headers, Vec::new()).await;
    assert_eq!(admin.header("access-control-allow-origin"), "", "the admin plane is closed");
}
