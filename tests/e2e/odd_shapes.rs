//! What clients send beside the usual: HTTP/2 in clear, images, audio, the older form of functions.
//! Served where a route can, refused with the reason where none can.

use crate::harness::Gate;
use e2e::standin::{Script, StandIn};
use reqwest::Version;
use serde_json::{Value, json};

async fn both() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().edge().cloud(&cloud).policy("edge-first").start().await;
    (cloud, gate)
}

fn with_image() -> Value {
    json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]}])
}

#[tokio::test]
async fn http_2_in_clear_is_spoken_with_prior_knowledge() {
    let (_cloud, gate) = both().await;
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let chat = format!("{}/v1/chat/completions", gate.url());
    let body = |stream: bool| {
        json!({"model": "cloud", "stream": stream,
               "messages": [{"role": "user", "content": "Hi."}]})
        .to_string()
    };
    let ask = |stream: bool| {
        let request = client.post(&chat).bearer_auth(&gate.key().secret).body(body(stream));
        async move { request.send().await.expect("an answer") }
    };
    // Several at once, on one connection.
    let (whole, streamed) = tokio::join!(ask(false), ask(true));
    for answer in [&whole, &streamed] {
        assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    }
    let text = whole.text().await.unwrap();
    assert!(text.contains("All is well in the cloud."), "{text}");
    assert!(streamed.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let absent = client.get(format!("{}/nowhere", gate.url())).send().await.unwrap();
    assert_eq!((absent.version(), absent.status().as_u16()), (Version::HTTP_2, 404));
    assert_eq!(error_of(absent).await["code"], "path_not_found");
    let wrong = client.get(&chat).send().await.unwrap();
    assert_eq!(wrong.status().as_u16(), 405);
    assert_eq!(wrong.headers()["allow"], "POST");
    assert_eq!(error_of(wrong).await["code"], "method_not_allowed");
    assert_eq!(gate.ledger().until_entries(2).await.len(), 2);
}

/// The error of an answer that the harness did not ask for.
async fn error_of(answer: reqwest::Response) -> Value {
    let bytes = answer.bytes().await.expect("a body");
    serde_json::from_slice::<Value>(&bytes).expect("JSON")["error"].clone()
}

#[tokio::test]
async fn an_image_goes_to_a_route_that_can_see_it_and_passes_as_it_is() {
    let (cloud, gate) = both().await;
    let text = gate.ask("Hi.").at_most(2).send().await.ok();
    assert_eq!(text.header("x-tollgate-route"), "edge", "text stays at home");
    let answer = gate.ask("").set("messages", with_image()).send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "cloud");
    assert_eq!(cloud.asked().pop().unwrap().json()["messages"], with_image());
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.0["decision"]["left_out"][0]["route"], "edge");
    let reason = entry.0["decision"]["left_out"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("images"), "{reason}");
}

#[tokio::test]
async fn an_image_is_refused_with_the_reason_where_no_route_can_see_it() {
    let (cloud, gate) = both().await;
    let pinned = gate.ask("").set("messages", with_image()).from("edge").send().await;
    let blind = Gate::builder().cloud_named("cloud", &cloud, "images = false").start().await;
    let refused = blind.ask("").set("messages", with_image()).send().await;
    for answer in [pinned, refused] {
        assert_eq!(answer.status, 400, "{}", answer.body_text());
        let error = answer.error();
        assert_eq!(error.param.as_deref(), Some("messages"));
        assert!(error.message.contains("`images`"), "{}", error.message);
    }
    assert_eq!(cloud.counts().requests, 0);
    // The other formats say so too.
    let block =
        json!({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}});
    let body = json!({"model": "edge", "max_tokens": 8,
                      "messages": [{"role": "user", "content": [block]}]});
    let answer = gate.post("/v1/messages", &body).await;
    assert_eq!(answer.status, 400, "{}", answer.body_text());
    assert!(answer.body_text().contains("images"), "{}", answer.body_text());
    let part = json!({"type": "input_image", "image_url": "https://example.com/a.png"});
    let body = json!({"model": "edge", "input": [{"role": "user", "content": [part]}]});
    let answer = gate.post("/v1/responses", &body).await;
    assert_eq!(answer.status, 400, "{}", answer.body_text());
    assert!(answer.error().message.contains("images"), "{}", answer.error().message);
}

#[tokio::test]
async fn audio_is_refused_by_its_name_wherever_it_stands() {
    let (cloud, gate) = both().await;
    let part = json!({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}});
    let heard = json!([{"role": "user", "content": [part]}]);
    for (field, value, param) in [
        ("messages", heard, "messages[0].content[0]"),
        ("modalities", json!(["text", "audio"]), "modalities"),
        ("audio", json!({"voice": "alloy", "format": "wav"}), "audio"),
    ] {
        for model in ["auto", "edge", "cloud"] {
            let answer = gate.ask("Hi.").from(model).set(field, value.clone()).send().await;
            assert_eq!(answer.status, 400, "{field}: {}", answer.body_text());
            let error = answer.error();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert_eq!(error.code.as_deref(), Some("unsupported_parameter"));
            assert!(error.message.contains("not served"), "{}", error.message);
        }
    }
    assert_eq!(cloud.counts().requests, 0);
}

/// A function, and the choice of it.
fn functions() -> (Value, Value) {
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                        "required": ["city"], "additionalProperties": false});
    (json!([{"name": "get_weather", "parameters": schema}]), json!({"name": "get_weather"}))
}

#[tokio::test]
async fn the_older_form_of_functions_passes_to_a_cloud_and_back() {
    let (cloud, gate) = both().await;
    let call = json!({"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"});
    let said = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "function_call", "logprobs": null,
            "message": {"role": "assistant", "content": null, "function_call": call}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16}});
    cloud.next(Script::body("application/json", &said.to_string()));
    let (functions, choice) = functions();
    let ask = gate.ask("Weather?").from("cloud");
    let ask = ask.set("functions", functions.clone()).set("function_call", choice.clone());
    let answer = ask.send().await.ok().json();
    assert_eq!(answer["choices"][0]["message"]["function_call"], call);
    assert_eq!(answer["choices"][0]["finish_reason"], "function_call");
    let asked = cloud.asked().pop().unwrap().json();
    assert_eq!((&asked["functions"], &asked["function_call"]), (&functions, &choice));
}

#[tokio::test]
async fn the_older_form_of_functions_is_streamed_by_the_local_model() {
    let (_cloud, gate) = both().await;
    let (functions, choice) = functions();
    let ask = gate.ask("Weather in Oslo?").from("edge").at_most(80);
    let ask = ask.set("functions", functions).set("function_call", choice);
    let answer = ask.streamed().send().await.ok();
    assert_eq!(answer.finish(), "function_call");
    let chunks = answer.chunks();
    let calls: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["function_call"])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(calls[0]["name"], "get_weather");
    let arguments: String = calls.iter().filter_map(|call| call["arguments"].as_str()).collect();
    let arguments: Value = serde_json::from_str(&arguments).expect("JSON");
    assert!(["Oslo", "Rome"].contains(&arguments["city"].as_str().unwrap()), "{arguments}");
}

#[tokio::test]
async fn a_call_that_its_provider_names_in_every_chunk_is_one_in_every_format() {
    let (cloud, gate) = both().await;
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": null, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                           "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let named = |arguments: &str| {
        let function = json!({"name": "look", "arguments": arguments});
        let call = json!({"index": 0, "id": "a", "type": "function", "function": function});
        chunk(json!({"tool_calls": [call]}), Value::Null)
    };
    let pieces = [named(""), named("{\"x\""), named(":1}"), chunk(json!({}), json!("tool_calls"))];
    let said = pieces.concat() + "data: [DONE]\n\n";
    cloud.always(Script::body("text/event-stream", &said));

    let schema = json!({"type": "object"});
    let tools = json!([{"name": "look", "input_schema": schema}]);
    let body = json!({"model": "cloud", "max_tokens": 9, "stream": true, "tools": tools,
                      "messages": [{"role": "user", "content": "Look."}]});
    let answer = gate.post("/v1/messages", &body).await.ok();
    let events: Vec<Value> = answer.named_events().into_iter().map(|(_, data)| data).collect();
    let calls = events.iter().filter(|event| event["type"] == "content_block_start");
    let ids: Vec<_> = calls.map(|event| event["content_block"]["id"].clone()).collect();
    assert_eq!(ids, ["a"], "{}", answer.body_text());
    let arguments = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str());
    assert_eq!(arguments.collect::<String>(), "{\"x\":1}");

    let tools = json!([{"type": "function", "name": "look", "parameters": schema}]);
    let body = json!({"model": "cloud", "stream": true, "tools": tools, "input": "Look."});
    let answer = gate.post("/v1/responses", &body).await.ok();
    let (_, last) = answer.named_events().pop().expect("an end");
    let output = last["response"]["output"].as_array().expect("items").clone();
    assert_eq!(output.len(), 1, "{}", answer.body_text());
    assert_eq!(
        (&output[0]["call_id"], &output[0]["arguments"]),
        (&json!("a"), &json!("{\"x\":1}"))
    );
}
