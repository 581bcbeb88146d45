//! Where another format is not a chat in other words: what only it says, and what it says otherwise.

use super::conversions::{asked, outer, simple, stream};
use crate::{
    ledger::Endpoint,
    providers::openai,
    refusal::Refusal,
    wire::{ChatRequest, Delta, DeltaKind, FinishReason, Gathered, anthropic, chat::Cost},
};
use policies::{PicoUsd, Usage};
use serde_json::{Value, json};

/// A message request whose conversation is `messages`.
fn message(messages: &Value) -> ChatRequest {
    let body = json!({"model": "auto", "max_tokens": 9, "messages": messages});
    asked(Endpoint::Messages, &body).unwrap()
}

fn call(index: u32, id: &str, arguments: &str) -> [DeltaKind; 2] {
    [
        DeltaKind::ToolCall { index, id: id.into(), name: "look".into() },
        DeltaKind::ToolArguments { index, json: arguments.into() },
    ]
}

fn deltas(kinds: impl IntoIterator<Item = DeltaKind>) -> Vec<Delta> {
    kinds.into_iter().map(|kind| Delta::new(0, kind)).collect()
}

fn whole(endpoint: Endpoint, said: &[Delta], usage: &Usage) -> Value {
    let mut answer = Gathered::default();
    said.iter().cloned().for_each(|delta| answer.add(delta));
    let whole = outer(endpoint, &simple(endpoint, &json!({}))).whole(answer, usage, None);
    serde_json::from_slice(&whole).unwrap()
}

#[test]
fn a_member_that_another_reader_takes_for_a_known_one_is_refused() {
    for (endpoint, name, param) in [
        (Endpoint::Messages, "System", "system"),
        (Endpoint::Messages, "Max_Tokens", "max_tokens"),
        (Endpoint::Messages, "SPEED", "speed"),
        (Endpoint::Messages, "n_predict", "n_predict"),
        (Endpoint::Responses, "Input", "input"),
        (Endpoint::Responses, "Max_Tokens", "max_output_tokens"),
        (Endpoint::Responses, "n_predict", "n_predict"),
    ] {
        let mut body = json!({"model": "auto", "input": "Hi."});
        if endpoint == Endpoint::Messages {
            let said = json!([{"role": "user", "content": "Hi."}]);
            body = json!({"model": "auto", "max_tokens": 9, "messages": said});
        }
        body[name] = json!(9);
        let bad = asked(endpoint, &body).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(param), "{endpoint:?} {name}: {bad}");
    }
}

#[test]
fn what_costs_extra_is_refused_in_a_body_that_passes_unchanged() {
    for (name, value) in [
        ("fallbacks", json!([{"model": "dear"}])),
        ("compaction", json!({"trigger": 1})),
        ("billing_policy", json!("best")),
        ("speed", json!("fast")),
        ("inference_geo", json!("us")),
        ("container", json!({"skills": []})),
    ] {
        let said = json!([{"role": "user", "content": "Hi."}]);
        let mut body = json!({"model": "auto", "max_tokens": 9, "messages": said});
        body[name] = value;
        let bad = asked(Endpoint::Messages, &body).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(name), "{bad}");
        body[name] = Value::Null;
        asked(Endpoint::Messages, &body).unwrap();
    }
}

#[test]
fn a_thread_is_refused_in_the_words_that_a_client_looks_for() {
    let said = json!([{"role": "user", "content": "Hi."}]);
    let body = json!({"model": "auto", "max_tokens": 9, "messages": said,
        "thread": {"type": "create"}});
    let bad = asked(Endpoint::Messages, &body).unwrap_err();
    let refusal = Refusal::Bad(bad);
    let told = anthropic::error_body(&refusal, refusal.status(), None);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["error"]["details"]["error_code"], "thread_unsupported_request");
    assert_eq!(told["error"]["details"]["unsupported"], json!(["thread"]));
}

#[test]
fn what_a_chat_has_no_place_for_is_a_part_of_the_prompt_all_the_same() {
    let long = "word ".repeat(1_000);
    let with = |block: Value| {
        message(&json!([
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": [{"type": "text", "text": "So."}, block]},
            {"role": "user", "content": "And?"},
        ]))
    };
    let short = with(json!({"type": "text", "text": "x"}));
    for block in [
        json!({"type": "text", "text": "x", "odd": long}),
        json!({"type": "thinking", "thinking": long, "signature": "s"}),
        json!({"type": "redacted_thinking", "data": long}),
        json!({"type": "document", "context": long,
            "source": {"type": "text", "media_type": "text/plain", "data": "x"}}),
    ] {
        let request = with(block.clone());
        assert!(request.prompt_tokens_max >= short.prompt_tokens_max + 5_000, "{block}");
        assert!(request.prompt_tokens_estimate >= short.prompt_tokens_estimate + 1_200, "{block}");
    }
    let image = |data: &str| {
        with(json!({"type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": data}}))
    };
    assert_eq!(image("AAAA").prompt_tokens_max, image(&"A".repeat(4_000)).prompt_tokens_max);
}

#[test]
fn metadata_is_the_policies_and_no_inner_requests() {
    let more = json!({"metadata": {"k": "v", "none": null}});
    for endpoint in [Endpoint::Responses, Endpoint::Messages] {
        let request = simple(endpoint, &more);
        let told: Vec<_> = request.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(told, [("k", "v")], "{endpoint:?}");
        let inner: Value = serde_json::from_slice(&request.body).unwrap();
        assert!(inner.get("metadata").is_none(), "{inner}");
    }
}

#[test]
fn a_message_that_calls_stops_for_that_whatever_its_provider_says() {
    let said =
        deltas(call(0, "a", "{}").into_iter().chain([DeltaKind::Finish(FinishReason::Stop)]));
    let answer = whole(Endpoint::Messages, &said, &Usage::default());
    assert_eq!(answer["stop_reason"], "tool_use", "{answer}");
    let request = simple(Endpoint::Messages, &json!({}));
    let streamed = stream(&mut outer(Endpoint::Messages, &request), &said);
    assert!(streamed.contains(r#""stop_reason":"tool_use""#), "{streamed}");
}

#[test]
fn calls_of_one_number_are_told_apart_by_their_order() {
    let said = deltas(call(0, "a", r#"{"x":1}"#).into_iter().chain(call(0, "b", r#"{"y":2}"#)));
    let request = simple(Endpoint::Messages, &json!({}));
    let streamed = stream(&mut outer(Endpoint::Messages, &request), &said);
    let begun = streamed.find(r#""id":"b""#).unwrap();
    let second = streamed.find(r#"{\"y\":2}"#).unwrap();
    let event = streamed[..second].rfind("event: ").unwrap();
    assert!(event > begun && streamed[event..second].contains(r#""index":1"#), "{streamed}");

    let call =
        |id: &str| json!({"index": 0, "id": id, "function": {"name": "f", "arguments": "{}"}});
    let body = json!({"choices": [{"message": {"tool_calls": [call("a"), call("b")]}}]});
    let read = openai::Reader::default().read(body.to_string().as_bytes()).unwrap();
    let mut answer = Gathered::default();
    read.into_iter().for_each(|delta| answer.add(delta));
    let ids: Vec<_> = answer.choices[0].calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

/// The blocks of a streamed message: their kinds and what is in them. No event is about a block that
/// is not open.
fn blocks(said: &[Delta]) -> Vec<(String, String)> {
    let request = simple(Endpoint::Messages, &json!({}));
    let streamed = stream(&mut outer(Endpoint::Messages, &request), said);
    let mut blocks = Vec::new();
    let mut open = None;
    for data in streamed.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(data).unwrap();
        let index = event["index"].as_u64();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open, index), (None, Some(blocks.len() as u64)), "{streamed}");
                open = index;
                let kind = event["content_block"]["type"].as_str().unwrap();
                blocks.push((kind.to_owned(), String::new()));
            }
            "content_block_delta" => {
                assert_eq!(open, index, "{streamed}");
                let piece = event["delta"].as_object().unwrap();
                let text = piece.iter().find(|(name, _)| *name != "type").unwrap().1;
                blocks.last_mut().unwrap().1 += text.as_str().unwrap();
            }
            "content_block_stop" => {
                assert_eq!(open.take(), index, "{streamed}");
                assert!(index.is_some());
            }
            _ => {}
        }
    }
    assert_eq!(open, None, "{streamed}");
    blocks
}

#[test]
fn words_between_the_parts_of_a_call_come_behind_it() {
    let [begun, half] = call(0, "a", r#"{"x""#);
    let rest = || DeltaKind::ToolArguments { index: 0, json: ":1}".into() };
    let text = |text: &str| DeltaKind::Text(text.into());
    let of = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
    let middle = [
        text("Wait"),
        text("."),
        DeltaKind::Reasoning("Hm.".into()),
        DeltaKind::Signature("c2ln".into()),
    ];
    let [second, seconds] = call(1, "b", "{}");
    let start = [text("So: "), begun, half];
    let said =
        start.iter().cloned().chain(middle.clone()).chain([second, text("Then."), rest(), seconds]);
    let said = said.chain([text(" So.")]);
    let all = [
        of("text", "So: "),
        of("tool_use", r#"{"x":1}"#),
        of("text", "Wait."),
        of("thinking", "Hm.c2ln"),
        of("tool_use", "{}"),
        of("text", "Then. So."),
    ];
    assert_eq!(blocks(&deltas(said)), all);

    // A call that is never whole keeps nothing back for ever.
    let cut = start.iter().cloned().chain(middle);
    let mut known = all[..4].to_vec();
    known[1].1 = r#"{"x""#.to_owned();
    assert_eq!(blocks(&deltas(cut)), known);

    // What follows a whole call is written at once, and what comes of that call after it is nothing.
    let [begun, whole] = call(0, "a", r#"{"x":1}"#);
    let space = DeltaKind::ToolArguments { index: 0, json: "\n".into() };
    let said = [begun, whole, text("Well."), space];
    assert_eq!(blocks(&deltas(said)), [of("tool_use", r#"{"x":1}"#), of("text", "Well.")]);
}

#[test]
fn tokens_of_images_and_sound_are_input() {
    let usage = Usage { input: 42, image: 258, audio: 7, cache_read: 3, ..Usage::default() };
    let told = whole(Endpoint::Messages, &[], &usage)["usage"].clone();
    assert_eq!((&told["input_tokens"], &told["cache_read_input_tokens"]), (&json!(307), &json!(3)));
}

#[test]
fn an_image_in_a_tools_output_is_shown_behind_the_results() {
    let image = json!({"type": "input_image", "image_url": "https://example.com/a.png"});
    let output = |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
    let call =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let input = json!([
        {"role": "user", "content": "Hi."},
        call("a"), call("b"),
        {"type": "message", "role": "assistant", "content": "Hm."},
        output("a", json!([{"type": "input_text", "text": "here"}, image])),
        output("b", json!([image])),
        {"role": "user", "content": "And?"},
    ]);
    let request = asked(Endpoint::Responses, &json!({"model": "auto", "input": input})).unwrap();
    let inner: Value = serde_json::from_slice(&request.body).unwrap();
    let said: Vec<_> = inner["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let role = message["role"].as_str().unwrap();
            (role, message["content"].clone())
        })
        .collect();
    let shown = json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}});
    assert_eq!(
        said,
        [
            ("user", json!("Hi.")),
            ("assistant", Value::Null),
            ("tool", json!("here")),
            ("tool", json!("")),
            ("user", json!([shown, shown])),
            ("assistant", json!("Hm.")),
            ("user", json!("And?")),
        ]
    );
}

#[test]
fn an_answer_written_around_its_shared_content_is_the_one_that_is_written_at_once() {
    let [begun, argued] = call(0, "call_1", r#"{"where":"here"}"#);
    let text = DeltaKind::Text("word ".repeat(20_000));
    let finish = DeltaKind::Finish(FinishReason::ToolCalls);
    let said = deltas([DeltaKind::Reasoning("Hm.".into()), text, begun, argued, finish]);
    let mut answer = Gathered::default();
    said.iter().cloned().for_each(|delta| answer.add(delta));
    let vectors = vec![vec![0.5; 20_000], vec![-1.0; 3]];
    let usage = Usage { input: 10, output: 40, ..Usage::default() };
    let cost = Cost { total: PicoUsd::from_pico(5), details: vec![("input", PicoUsd::ZERO)] };
    let all = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Messages,
        Endpoint::Embeddings,
    ];
    for endpoint in all {
        let answer = Gathered { vectors: vectors.clone(), ..answer.clone() };
        let request = match endpoint {
            Endpoint::Messages => simple(endpoint, &json!({})),
            Endpoint::ChatCompletions => super::read(&super::body_with("")).unwrap(),
            Endpoint::Embeddings => {
                asked(endpoint, &json!({"model": "m", "input": "Hi."})).unwrap()
            }
            _ => asked(endpoint, &json!({"model": "m", "prompt": "Hi."})).unwrap(),
        };
        for cost in [None, Some(&cost)] {
            let content = outer(endpoint, &request).content(&answer);
            let around = outer(endpoint, &request).around(content, &usage, cost).joined();
            let whole = outer(endpoint, &request).whole(answer.clone(), &usage, cost);
            assert!(whole.len() > 64 * 1024 && around == whole, "{endpoint:?}");
        }
    }
}

#[test]
fn a_gateway_behind_another_reads_the_usage_that_was_written() {
    let usage = Usage {
        input: 10,
        cache_read: 7,
        cache_write_5m: 5,
        cache_write_1h: 1_000,
        image: 3,
        audio: 2,
        output: 40,
        reasoning: 4,
        audio_output: 6,
    };
    let said = deltas([DeltaKind::Text("Hi.".into()), DeltaKind::Finish(FinishReason::Stop)]);
    let mut answer = Gathered::default();
    said.iter().cloned().for_each(|delta| answer.add(delta));
    let request = super::read(&super::body_with("")).unwrap();
    let written = outer(Endpoint::ChatCompletions, &request).whole(answer, &usage, None);
    assert_eq!(openai::read_whole(&written).unwrap().seen.usage, Some(usage));
    let told = whole(Endpoint::Responses, &said, &usage)["usage"].clone();
    let details = &told["input_tokens_details"];
    assert_eq!(
        (&details["cached_tokens"], &details["cache_write_tokens"]),
        (&json!(7), &json!(1_005))
    );
}

#[test]
fn what_was_found_is_told_with_where_it_stands() {
    let found = json!({"type": "search_result", "source": "https://a.example", "title": "Tides",
        "content": [{"type": "text", "text": "Twice a day."}], "citations": {"enabled": true}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [found]});
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {}});
    let request = message(&json!([
        {"role": "user", "content": [found, {"type": "text", "text": "How often?"}]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]));
    let inner: Value = serde_json::from_slice(&request.body).unwrap();
    let texts = |content: &Value| -> String {
        let parts = content.as_array().unwrap();
        parts.iter().map(|part| part["text"].as_str().unwrap()).collect()
    };
    let told = "Tides\nhttps://a.example\nTwice a day.";
    assert_eq!(texts(&inner["messages"][0]["content"]), format!("{told}How often?"));
    assert_eq!(inner["messages"][2]["content"], told);
    let body = json!({"model": "auto", "max_tokens": 9, "messages": [{"role": "user",
        "content": [{"type": "search_result", "title": "Tides", "content": []}]}]});
    let bad = asked(Endpoint::Messages, &body).unwrap_err();
    assert_eq!(bad.param.as_deref(), Some("messages[0].content[0].source"));
}

#[test]
fn what_was_thought_is_told_unless_it_is_sealed() {
    let reasoning = |sealed: Value| {
        json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed,
            "content": [{"type": "reasoning_text", "text": "Hm."}, {"type": "reasoning_text", "text": " So."}]})
    };
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let said = json!({"role": "assistant", "content": "a"});
    let asks = json!({"role": "user", "content": "q"});
    let thought = |input: &Value| -> Vec<Value> {
        let body = json!({"model": "auto", "input": input});
        let request = asked(Endpoint::Responses, &body).unwrap();
        let inner: Value = serde_json::from_slice(&request.body).unwrap();
        let messages = inner["messages"].as_array().unwrap().iter();
        messages.map(|message| message["reasoning_content"].clone()).collect()
    };
    let open = reasoning(Value::Null);
    let told = json!("Hm. So.");
    for item in [&call, &said] {
        assert_eq!(thought(&json!([asks, open, item])), [Value::Null, told.clone()]);
        assert_eq!(
            thought(&json!([asks, reasoning(json!("c2ln")), item])),
            [Value::Null, Value::Null]
        );
    }
    // Of a turn that said nothing there is nobody to tell it of.
    assert_eq!(thought(&json!([open, asks, said])), [Value::Null, Value::Null]);
    assert_eq!(thought(&json!([said, open, call])), [told]);
    let summary = json!([{"type": "summary_text", "text": "In short."}]);
    let summed =
        |content: Value| json!({"type": "reasoning", "summary": summary, "content": content});
    for (content, told) in [
        (Value::Null, "In short."),
        (json!([]), "In short."),
        (json!([{"type": "reasoning_text", "text": "Hm."}]), "Hm."),
    ] {
        assert_eq!(thought(&json!([summed(content), call])), [told]);
    }
}
