//! Providers that do not speak OpenAI's format: the caller cannot tell, and the books say the same.

use crate::harness::Gate;
use e2e::standin::{Cut, Hold, Point, Reported, Script, StandIn};
use serde_json::{Value, json};

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
async fn of_an_answer_that_was_cut_what_the_provider_had_told_is_booked() {
    for kind in ["anthropic", "gemini"] {
        let (cloud, gate) = gate(kind).await;
        let told = || Script::says("one two three four").using(1000, 50).cached(400);
        let hold = Hold::after_pieces(2);
        cloud.next(told().held(&hold));
        let mut left = gate.ask("Count.").streamed().open().await;
        left.read_pieces(2).await;
        left.leave();
        gate.ledger().until_entries(1).await;
        cloud.next(told().cut(Cut::Close(Point::Piece(2))));
        gate.ask("Count.").streamed().send().await;
        for entry in gate.ledger().until_entries(2).await {
            let attempt = entry.only_attempt();
            let how = entry.outcome();
            assert_eq!(attempt.text("usage_source"), "estimated", "{kind}, {how}: of the answer");
            let used = ["input", "cache_read"].map(|name| attempt.used(name));
            assert_eq!(used, [Some(600), Some(400)], "{kind}, {how}");
            assert!(attempt.used("output").unwrap() >= 2, "{kind}, {how}: a token each");
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_its_end_is_whole_however_its_connection_ends() {
    for kind in KINDS {
        let cloud = StandIn::start().await.expect("a stand-in");
        let hasty = "idle_timeout_ms = 400";
        let gate =
            Gate::builder().cloud_of_kind("cloud", &cloud.base_url(), kind, hasty).start().await;
        for cut in [Cut::Reset(Point::End), Cut::Close(Point::End), Cut::Hang(Point::End)] {
            // Without its `message_stop` or `[DONE]`; Gemini's have no sign of the end to leave out.
            cloud.always(Script { done: kind == "gemini", ..script() }.cut(cut));
            let said = json!([{"role": "user", "content": "Hi."}]);
            for (path, body, last) in [
                ("/v1/chat/completions", json!({"messages": said}), "data: [DONE]"),
                ("/v1/messages", json!({"max_tokens": 9, "messages": said}), "event: message_stop"),
                ("/v1/responses", json!({"input": "Hi."}), "event: response.completed"),
            ] {
                let answer = gate.ask_at(path, body).from("auto").streamed().send().await.ok();
                let text = answer.body_text();
                let what = format!("{kind}, {cut:?}, {path}: {text}");
                let end = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
                assert!(end.starts_with(last), "{what}");
                let entry = gate.ledger().entry(answer.id()).await;
                entry.adds_up();
                let attempt = entry.only_attempt();
                assert_eq!(
                    (entry.outcome(), attempt.outcome()),
                    ("completed".into(), "completed".into()),
                    "{what}"
                );
                assert_eq!(attempt.text("usage_source"), "reported", "{what}");
                assert_eq!(attempt.used("output"), Some(6), "{what}");
            }
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
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
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

#[tokio::test]
async fn tools_that_are_no_functions_and_their_calls_are_refused_by_other_families() {
    let custom = json!([{"type": "custom", "custom": {"name": "sh"}}]);
    let called = json!([
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "nothing"},
    ]);
    for (kind, refuses) in [("openai", false), ("anthropic", true), ("gemini", true)] {
        let (cloud, gate) = gate(kind).await;
        for (name, value, param) in
            [("tools", &custom, "tools[0].type"), ("messages", &called, "messages[1].tool_calls")]
        {
            let answer = gate.ask("Hi").set(name, value.clone()).send().await;
            if refuses {
                assert_eq!(answer.status, 400, "{kind}: {}", answer.body_text());
                let error = answer.error();
                let said = (error.param.as_deref(), error.code.as_deref());
                assert_eq!(said, (Some(param), Some("unsupported_parameter")), "{kind}");
            } else {
                answer.ok();
            }
        }
        assert_eq!(cloud.counts().requests == 0, refuses, "{kind}");
    }
}

/// Fields that change the price in a body of this endpoint, and the parameter that is named.
fn dearer(path: &str) -> Vec<(Value, &'static str)> {
    match path {
        "/v1/messages" => vec![
            (json!({"speed": "fast"}), "speed"),
            (json!({"inference_geo": "us"}), "inference_geo"),
            (json!({"service_tier": "priority"}), "service_tier"),
            (json!({"container": "container_1"}), "container"),
            (json!({"mcp_servers": [{"type": "url", "url": "https://m.example"}]}), "mcp_servers"),
            (json!({"tools": [{"type": "web_search_20250305", "name": "s"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "web_fetch_20250910", "name": "f"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "code_execution_20250825", "name": "c"}]}), "tools[0].type"),
            (
                json!({"context_management": {"edits": [{"type": "compact_20260112"}]}}),
                "context_management.edits[0].type",
            ),
        ],
        "/v1/responses" => vec![
            (json!({"service_tier": "batch"}), "service_tier"),
            (json!({"service_tier": "warp"}), "service_tier"),
            (json!({"background": true}), "background"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "file_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "code_interpreter"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "image_generation"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "mcp", "server_label": "m"}]}), "tools[0].type"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
        ],
        _ => vec![
            (json!({"service_tier": "warp"}), "service_tier"),
            (json!({"web_search_options": {}}), "web_search_options"),
            (json!({"tools": [{"type": "google_search"}]}), "tools[0].type"),
            (json!({"tools": [{"type": "code_execution"}]}), "tools[0].type"),
            (json!({"modalities": ["text", "image"]}), "modalities"),
            (json!({"prediction": {"type": "content", "content": "x"}}), "prediction"),
        ],
    }
}

#[tokio::test]
async fn what_changes_the_price_is_refused_by_name_where_a_body_would_pass_as_it_is() {
    let said = json!([{"role": "user", "content": "Hi."}]);
    for (kind, path, plain) in [
        ("anthropic", "/v1/messages", json!({"max_tokens": 9, "messages": said})),
        ("openai", "/v1/responses", json!({"input": "Hi."})),
        ("anthropic", "/v1/responses", json!({"input": "Hi."})),
        ("openai", "/v1/chat/completions", json!({"messages": said})),
        ("gemini", "/v1/chat/completions", json!({"messages": said})),
    ] {
        let (cloud, gate) = gate(kind).await;
        let with = |more: &Value| {
            let mut body = plain.clone();
            body["model"] = json!("auto");
            let fields = more.as_object().into_iter().flatten();
            fields.for_each(|(name, value)| body[name] = value.clone());
            body
        };
        for (more, param) in dearer(path) {
            let answer = gate.post(path, &with(&more)).await;
            assert_eq!(answer.status, 400, "{kind}, {more}: {}", answer.body_text());
            let error = answer.json()["error"].clone();
            let message = error["message"].as_str().expect("a message");
            let named = error["param"] == param || message.contains(param);
            assert!(named, "{kind}, {more}: {error} names {param}");
        }
        assert_eq!(cloud.counts().requests, 0, "{kind}: nothing is sent");
        gate.post(path, &with(&json!({}))).await.ok();
        assert_eq!(cloud.counts().requests, 1, "{kind}: nothing else is wrong with it");
    }
}

#[tokio::test]
async fn what_is_kept_for_an_hour_is_held_and_charged_at_its_own_rate() {
    let cloud = StandIn::start().await.expect("a stand-in");
    let route = |name: &str, rates: &str| {
        format!(
            "\n[routes.{name}]\nkind = \"anthropic\"\nbase_url = \"{}\"\nmodel = \"standin-1\"\n\
             [routes.{name}.price]\ninput = \"1\"\noutput = \"5\"\n{rates}\n",
            cloud.base_url()
        )
    };
    let five = "cache_write_5m = \"1.25\"";
    let hour = format!("{five}\ncache_write_1h = \"2\"");
    let gate =
        Gate::builder().routes(&route("cloud", five)).routes(&route("hour", &hour)).start().await;
    let written = r#"{"id":"msg_1","type":"message","role":"assistant","model":"standin-1",
        "content":[{"type":"text","text":"Kept."}],"stop_reason":"end_turn","stop_sequence":null,
        "usage":{"input_tokens":3,"cache_creation_input_tokens":40,"cache_read_input_tokens":0,
        "cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":30},
        "output_tokens":2}}"#;
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let mut reserved = Vec::new();
    for name in ["cloud", "hour"] {
        cloud.next(Script::body("application/json", written));
        let body = json!({"model": name, "max_tokens": 9, "messages": [{"role": "user",
            "content": [{"type": "text", "text": "Keep this.", "cache_control": mark}]}]});
        let answer = gate.post("/v1/messages", &body).await.ok();
        let sent = cloud.asked().pop().expect("a request").json();
        assert_eq!(sent["messages"], body["messages"], "the mark goes out as it came");
        let attempt = gate.ledger().entry(answer.id()).await.only_attempt();
        reserved.push(attempt.reserved());
        if name == "hour" {
            // 3 at 1, 10 at 1.25, 30 at 2 and 2 at 5 USD a million.
            assert_eq!(attempt.cost(), Some(85_500_000));
            assert_eq!(attempt.used("cache_write_1h"), Some(30));
        }
    }
    assert!(reserved[1] > reserved[0], "the dearest way to read the prompt is held: {reserved:?}");
}

#[tokio::test]
async fn a_tool_that_only_anthropic_knows_reaches_it_and_nobody_else() {
    let tools = json!([{"type": "bash_20250124", "name": "bash"}]);
    let body = json!({"model": "auto", "max_tokens": 9, "tools": tools,
        "messages": [{"role": "user", "content": "Hi."}]});
    for (kind, knows) in [("anthropic", true), ("openai", false), ("gemini", false)] {
        let (cloud, gate) = gate(kind).await;
        let answer = gate.post("/v1/messages", &body).await;
        if knows {
            answer.ok();
            let sent = cloud.asked().pop().expect("a request").json();
            assert_eq!(sent["tools"], tools);
            continue;
        }
        assert_eq!(answer.status, 400, "{kind}: {}", answer.body_text());
        assert!(answer.body_text().contains("tools[0].type"), "{kind}: {}", answer.body_text());
        assert_eq!(cloud.counts().requests, 0, "{kind}: nothing is sent");
    }
}

/// What a model thought before it called, in the words of each format.
fn thought() -> [(&'static str, Value); 3] {
    let call =
        json!([{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    [
        (
            "/v1/chat/completions",
            json!({"messages": [
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": call},
                {"role": "tool", "tool_call_id": "call_1", "content": "7"},
            ]}),
        ),
        (
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [
                {"role": "user", "content": "Look."},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "thinking", "thinking": "Another's.", "signature": "c2ln"},
                    {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "7"}]},
            ]}),
        ),
        (
            "/v1/responses",
            json!({"input": [
                {"role": "user", "content": "Look."},
                {"type": "reasoning", "id": "rs_1", "summary": [],
                 "content": [{"type": "reasoning_text", "text": "Hm."}]},
                {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_1", "output": "7"},
            ]}),
        ),
    ]
}

#[tokio::test]
async fn what_was_thought_goes_back_to_who_wants_it_and_to_nobody_who_refuses_it() {
    let hm = json!("Hm.");
    for (kind, [chat, others]) in [
        ("deepseek", [&hm, &hm]),
        ("openrouter", [&hm, &hm]),
        ("openai-compatible", [&hm, &Value::Null]),
        ("groq", [&Value::Null, &Value::Null]),
        ("mistral", [&Value::Null, &Value::Null]),
    ] {
        let (cloud, gate) = gate(kind).await;
        for (path, body) in thought() {
            gate.ask_at(path, body).from("auto").send().await.ok();
            let sent = cloud.asked().pop().unwrap().json();
            let expected = if path == "/v1/chat/completions" { chat } else { others };
            assert_eq!(
                &sent["messages"][1]["reasoning_content"], expected,
                "{kind} {path}: {sent}"
            );
            assert_eq!(
                sent["messages"][1]["tool_calls"][0]["function"]["name"], "f",
                "{kind} {path}"
            );
        }
    }
    // DeepSeek refuses a turn of calls without it.
    let (cloud, gate) = gate("deepseek").await;
    let [(path, mut body), ..] = thought();
    body["messages"][1].as_object_mut().unwrap().remove("reasoning_content");
    gate.ask_at(path, body).from("auto").send().await.ok();
    assert_eq!(cloud.asked().pop().unwrap().json()["messages"][1]["reasoning_content"], "");
}

#[tokio::test]
async fn who_asks_for_no_thinking_in_messages_asks_for_none_anywhere() {
    let body = json!({"max_tokens": 9, "thinking": {"type": "disabled"},
        "messages": [{"role": "user", "content": "Hi."}]});
    for (kind, said) in [
        ("deepseek", json!({"thinking": {"type": "disabled"}})),
        ("vllm", json!({"chat_template_kwargs": {"enable_thinking": false}})),
        ("ollama", json!({"reasoning_effort": "none"})),
        ("openai", json!({})),
        ("mistral", json!({})),
    ] {
        let (cloud, gate) = gate(kind).await;
        gate.ask_at("/v1/messages", body.clone()).from("auto").send().await.ok();
        let sent = cloud.asked().pop().unwrap().json();
        for name in ["thinking", "chat_template_kwargs", "reasoning_effort"] {
            assert_eq!(sent[name], said[name], "{kind}: {sent}");
        }
    }
    // What a chat's caller says in OpenAI's words passes.
    let (cloud, gate) = gate("openai").await;
    gate.ask("Hi.").set("reasoning_effort", json!("none")).send().await.ok();
    assert_eq!(cloud.asked().pop().unwrap().json()["reasoning_effort"], "none");
    let (cloud, gate) = self::gate("anthropic").await;
    gate.ask_at("/v1/messages", body).from("auto").send().await.ok();
    let sent = cloud.asked().pop().unwrap().json();
    assert_eq!(
        (&sent["thinking"]["type"], &sent["reasoning_effort"]),
        (&json!("disabled"), &Value::Null)
    );
}
