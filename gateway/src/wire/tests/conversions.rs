//! Golden files of the conversions: a request of another format as the chat request that asks the same
//! (`golden/*.in.json`, `*.chat.json`), and an answer's deltas as that format's stream and whole answer
//! (`golden/*.sse`, `*.out.json`). `TOLLGATE_GOLDEN=write` writes what is made in place of comparing.

use crate::{
    config::CapField,
    ledger::{Endpoint, KeyId},
    providers::{Kind, openai},
    refusal::Refusal,
    wire::{
        BadRequest, ChatRequest, Context, Delta, DeltaKind, FinishReason, Gathered, Kept,
        KeptLimits, Outer, chat::AnswerHead, chat::Cost, read,
    },
};
use bytes::Bytes;
use http::HeaderMap;
use policies::{PicoUsd, Usage};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/wire/tests/golden").join(name)
}

fn same(name: &str, made: &str) {
    let file = golden(name);
    if std::env::var_os("TOLLGATE_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&file, made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(made, kept, "{}", file.display());
}

fn pretty(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap();
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

fn asked_with(
    endpoint: Endpoint,
    body: &Value,
    kept: Option<&Arc<Kept>>,
) -> Result<ChatRequest, BadRequest> {
    let owner = KeyId("key".into());
    let context = Context { kept, owner: &owner, output_tokens_default: 1000 };
    read(endpoint, Bytes::from(body.to_string()), &HeaderMap::new(), &context)
}

pub(super) fn asked(endpoint: Endpoint, body: &Value) -> Result<ChatRequest, BadRequest> {
    asked_with(endpoint, body, None)
}

fn converts(endpoint: Endpoint, name: &str) {
    let outer = std::fs::read(golden(&format!("{name}.in.json"))).unwrap();
    let body: Value = serde_json::from_slice(&outer).unwrap();
    let request = asked(endpoint, &body).unwrap();
    assert_eq!(request.endpoint, endpoint);
    let outer_body: Value = serde_json::from_slice(request.outer_body.as_ref().unwrap()).unwrap();
    assert_eq!(outer_body, body, "a provider of the same format gets the client's own body");
    same(&format!("{name}.chat.json"), &pretty(&request.body));
}

#[test]
fn a_message_request_asks_the_same_as_a_chat() {
    converts(Endpoint::Messages, "messages");
}

#[test]
fn a_result_that_is_an_error_says_so_where_a_chat_has_no_place_for_it() {
    let result = |more: Value| {
        let mut result = json!({"type": "tool_result", "tool_use_id": "t"});
        more.as_object().unwrap().iter().for_each(|(name, it)| result[name] = it.clone());
        let body = json!({"model": "auto", "max_tokens": 9, "messages": [
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [result]}]});
        let request = asked(Endpoint::Messages, &body)?;
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        Ok::<_, BadRequest>(body["messages"][2]["content"].clone())
    };
    let part = |text: &str| json!({"type": "text", "text": text});
    let absent = result(json!({"is_error": true, "content": "No such city."})).unwrap();
    assert_eq!(absent, "Error: No such city.");
    let parts =
        json!({"is_error": true, "content": [part("No such \"city\"."), part("Nor town.")]});
    assert_eq!(result(parts).unwrap(), "Error: No such \"city\".\nNor town.");
    assert_eq!(result(json!({"is_error": true})).unwrap(), "Error: ");
    assert_eq!(result(json!({"is_error": false, "content": "7"})).unwrap(), "7");
    let bad = result(json!({"is_error": "yes"})).unwrap_err();
    assert_eq!(bad.param.as_deref(), Some("messages[2].content[0].is_error"));
}

/// The roles and contents of the chat that asks the same.
fn contents(endpoint: Endpoint, body: &Value) -> Vec<(String, Value)> {
    let request = asked(endpoint, body).unwrap();
    let chat: Value = serde_json::from_slice(&request.body).unwrap();
    let messages = chat["messages"].as_array().unwrap().iter();
    let content = |message: &Value| {
        (message["role"].as_str().unwrap().to_owned(), message["content"].clone())
    };
    messages.map(content).collect()
}

#[test]
fn texts_of_all_but_a_user_are_one_string_which_every_server_takes() {
    let part = |kind: &str, text: &str| json!({"type": kind, "text": text});
    let parts = |kind: &str, texts: &[&str]| -> Value {
        texts.iter().map(|text| part(kind, text)).collect()
    };
    let texts = |texts: &[&str]| parts("text", texts);
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://e.example/a"}});
    let shown = json!({"type": "image_url", "image_url": {"url": "https://e.example/a"}});
    let body = json!({"model": "auto", "max_tokens": 9, "system": texts(&["Be brief.", "A \\ \"b\"."]),
        "messages": [
            {"role": "user", "content": texts(&["Hi.", "You."])},
            {"role": "assistant", "content": [part("text", "The gra"), part("text", "ss."),
                {"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                "content": [part("text", "é\n"), image, part("text", "7")]}]},
            {"role": "system", "content": texts(&["So", "then."])}]});
    let expected = [
        ("system", json!("Be brief.\nA \\ \"b\".")),
        ("user", texts(&["Hi.", "You."])),
        ("assistant", json!("The grass.")),
        ("tool", json!("é\n\n7")),
        ("user", json!([shown])),
        ("system", json!("So\nthen.")),
    ];
    let expected = expected.map(|(role, content)| (role.to_owned(), content));
    assert_eq!(contents(Endpoint::Messages, &body), expected);
    let image = json!({"type": "input_image", "image_url": "https://e.example/a"});
    let output = json!([part("input_text", "é\n"), image, part("input_text", "7")]);
    let refused =
        json!([{"type": "output_text", "text": "No"}, {"type": "refusal", "refusal": "."}]);
    let body = json!({"model": "auto", "input": [
        {"role": "developer", "content": parts("input_text", &["Be brief.", "A \\ \"b\"."])},
        {"role": "user", "content": parts("input_text", &["Hi.", "You."])},
        {"role": "assistant", "content": parts("output_text", &["The gra", "ss."])},
        {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t", "output": output},
        {"role": "system", "content": parts("input_text", &["So", "then."])},
        {"role": "assistant", "content": []},
        {"role": "assistant", "content": refused}]});
    let [mut developer, rest @ ..] = expected;
    developer.0 = "developer".to_owned();
    let refused = json!([part("text", "No"), {"type": "refusal", "refusal": "."}]);
    let said = [json!(""), refused].map(|content| ("assistant".to_owned(), content));
    let expected: Vec<_> = [developer].into_iter().chain(rest).chain(said).collect();
    assert_eq!(contents(Endpoint::Responses, &body), expected);
}

#[test]
fn a_budget_of_thinking_is_no_effort_to_a_model_that_takes_none() {
    let effort = |kind: &str, model: &str, body: &Value, endpoint| {
        let kind = Kind::find(kind).unwrap();
        let differs = openai::Differs {
            cap_field: CapField::MaxTokens,
            call_ids: kind.call_ids(),
            has_developers: true,
            recalls: kind.recalls(""),
            unthinking: kind.unthinking(None, model),
        };
        let request = asked(endpoint, body).unwrap();
        let sent = openai::upstream_body(&request, "\"m\"", differs, 9);
        serde_json::from_slice::<Value>(&sent).unwrap()["reasoning_effort"].clone()
    };
    let hi = json!([{"role": "user", "content": "Hi."}]);
    let hinted = json!({"model": "auto", "max_tokens": 9000, "messages": hi,
        "thinking": {"type": "enabled", "budget_tokens": 4096}});
    let mut own = hinted.clone();
    own["output_config"] = json!({"effort": "low"});
    let chat = json!({"model": "auto", "messages": hi, "reasoning_effort": "high"});
    for (kind, model, takes) in [
        ("openai", "gpt-4.1-mini", false),
        ("azure", "gpt-4o", false),
        ("openai", "chatgpt-4o-latest", false),
        ("groq", "llama-3.3-70b-versatile", false),
        ("mistral", "mistral-large-latest", false),
        ("xai", "grok-4-0709", false),
        ("openai", "o3", true),
        ("openai", "gpt-5.2", true),
        ("groq", "openai/gpt-oss-120b", true),
        ("xai", "grok-3-mini", true),
        ("azure", "our-deployment", true),
        ("openai-compatible", "gpt-4o", true),
    ] {
        let hint = if takes { json!("medium") } else { Value::Null };
        assert_eq!(effort(kind, model, &hinted, Endpoint::Messages), hint, "{kind} {model}");
        assert_eq!(effort(kind, model, &own, Endpoint::Messages), "low", "{kind} {model}");
        assert_eq!(effort(kind, model, &chat, Endpoint::ChatCompletions), "high", "{model}");
    }
}

#[test]
fn a_call_in_a_users_message_is_refused_by_its_place() {
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    let body = json!({"model": "auto", "max_tokens": 9,
        "messages": [{"role": "user", "content": [call]}]});
    let bad = asked(Endpoint::Messages, &body).unwrap_err();
    assert_eq!(bad.param.as_deref(), Some("messages[0].content"));
}

#[test]
fn a_response_request_asks_the_same_as_a_chat() {
    converts(Endpoint::Responses, "responses");
}

#[test]
fn a_body_of_very_many_members_is_read() {
    let many: String = (0..100_000).map(|number| format!(r#","m{number}":0"#)).collect();
    for (endpoint, known) in [
        (Endpoint::ChatCompletions, r#""messages":[{"role":"user","content":"Hi."}]"#),
        (Endpoint::Messages, r#""max_tokens":9,"messages":[{"role":"user","content":"Hi."}]"#),
        (Endpoint::Responses, r#""input":"Hi.""#),
    ] {
        let owner = KeyId("key".into());
        let context = Context { kept: None, owner: &owner, output_tokens_default: 1000 };
        let read = |more: &str| {
            let body = format!(r#"{{"model":"auto",{known}{many}{more}}}"#);
            read(endpoint, Bytes::from(body), &HeaderMap::new(), &context)
        };
        read("").unwrap();
        if endpoint != Endpoint::ChatCompletions {
            assert_eq!(read(r#","m7":0"#).unwrap_err().param.as_deref(), Some("m7"));
        }
    }
}

/// Reasoning, text, two calls, the end.
fn pieces() -> Vec<Delta> {
    let call = |index, id: &str| DeltaKind::ToolCall { index, id: id.into(), name: "look".into() };
    let kinds = [
        DeltaKind::Reasoning("Let me ".into()),
        DeltaKind::Reasoning("see.".into()),
        DeltaKind::Signature("c2ln".into()),
        DeltaKind::Text("It is \"7\"".into()),
        DeltaKind::Text("°.\n".into()),
        call(0, "call_a"),
        DeltaKind::ToolArguments { index: 0, json: "{\"city\":".into() },
        DeltaKind::ToolArguments { index: 0, json: "\"Oslo\"}".into() },
        call(1, "call_b"),
        DeltaKind::ToolArguments { index: 1, json: "{}".into() },
        DeltaKind::Finish(FinishReason::ToolCalls),
    ];
    kinds.into_iter().map(|kind| Delta::new(0, kind)).collect()
}

fn usage() -> Usage {
    let usage = Usage { input: 7, cache_read: 3, output: 4, reasoning: 2, ..Usage::default() };
    Usage { cache_write_5m: 5, ..usage }
}

pub(super) fn outer(endpoint: Endpoint, request: &ChatRequest) -> Outer {
    let id = crate::wire::id_prefix(endpoint).to_owned() + "1";
    let head = AnswerHead { id, created: 1_700_000_000, model: "smol".into() };
    Outer::new(head, request, 10)
}

pub(super) fn simple(endpoint: Endpoint, more: &Value) -> ChatRequest {
    let mut body = match endpoint {
        Endpoint::Responses => json!({"model": "auto", "input": "Hi."}),
        _ => {
            json!({"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]})
        }
    };
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    asked(endpoint, &body).unwrap()
}

pub(super) fn stream(outer: &mut Outer, deltas: &[Delta]) -> String {
    let mut frames = Vec::new();
    for delta in deltas {
        outer.delta(delta, &mut |frame| frames.extend_from_slice(&frame));
    }
    frames.extend_from_slice(&outer.end(&usage(), Some(&cost())));
    String::from_utf8(frames).unwrap()
}

fn cost() -> Cost {
    Cost { total: PicoUsd::from_pico(412_500_000), details: Vec::new() }
}

fn writes(endpoint: Endpoint, name: &str) {
    let request = simple(endpoint, &json!({}));
    let streamed = stream(&mut outer(endpoint, &request), &pieces());
    same(&format!("{name}.sse"), &streamed);
    let mut answer = Gathered::default();
    pieces().into_iter().for_each(|delta| answer.add(delta));
    let whole = outer(endpoint, &request).whole(answer, &usage(), Some(&cost()));
    same(&format!("{name}.out.json"), &pretty(&whole));
    // What a client puts together from the stream is the whole answer.
    if endpoint == Endpoint::Responses {
        let last = streamed.trim_end().rsplit("data: ").next().unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["response"], serde_json::from_slice::<Value>(&whole).unwrap());
    }
}

#[test]
fn what_was_thought_is_a_summary_where_one_was_asked_for() {
    let events = |asked: Value| {
        let request = simple(Endpoint::Responses, &json!({"reasoning": asked}));
        let streamed = stream(&mut outer(Endpoint::Responses, &request), &pieces());
        let data = streamed.split("data: ").skip(1);
        let read = |data: &str| serde_json::from_str(data.split_once("\n\n").unwrap().0).unwrap();
        data.map(read).collect::<Vec<Value>>()
    };
    for asked in
        [json!({"summary": "auto"}), json!({"effort": "low", "generate_summary": "detailed"})]
    {
        let events = events(asked);
        let of = |kind: &str| {
            let kind = format!("response.reasoning_summary_{kind}");
            events.iter().filter(|event| event["type"] == *kind).collect::<Vec<_>>()
        };
        assert_eq!(of("part.added")[0]["part"], json!({"type": "summary_text", "text": ""}));
        let deltas = of("text.delta");
        let text: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
        let whole = json!({"type": "summary_text", "text": text});
        assert!(!text.is_empty() && of("text.done")[0]["text"] == text);
        assert_eq!(of("part.done")[0]["part"], whole);
        let all = ["part.added", "text.delta", "text.done", "part.done"];
        let all = all.into_iter().flat_map(of);
        assert!(
            all.clone()
                .all(|event| event["summary_index"] == 0 && event["content_index"].is_null())
        );
        let item = &events.last().unwrap()["response"]["output"][0];
        assert_eq!((&item["summary"], &item["content"]), (&json!([whole]), &json!([])));
        assert!(!events.iter().any(|event| event["type"] == "response.reasoning_text.delta"));
    }
    for none in [json!({"summary": null}), json!({"effort": "low"}), Value::Null] {
        let events = events(none);
        let item = &events.last().unwrap()["response"]["output"][0];
        assert_eq!(
            (&item["summary"], &item["content"][0]["type"]),
            (&json!([]), &json!("reasoning_text"))
        );
    }
}

#[test]
fn an_answer_is_a_message() {
    writes(Endpoint::Messages, "messages");
}

#[test]
fn an_answer_is_a_response() {
    writes(Endpoint::Responses, "responses");
}

#[test]
fn the_events_of_a_response_are_numbered_and_named() {
    let request = simple(Endpoint::Responses, &json!({}));
    let streamed = stream(&mut outer(Endpoint::Responses, &request), &pieces());
    for (number, event) in streamed.trim_end().split("\n\n").enumerate() {
        let (name, data) = event.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["sequence_number"], number);
        assert_eq!(Some(name), data["type"].as_str().map(|t| format!("event: {t}")).as_deref());
    }
}

/// The data of the events of an answer whose calls a provider writes side by side.
fn side_by_side(endpoint: Endpoint) -> Vec<Value> {
    let call = |index, id: &str| DeltaKind::ToolCall { index, id: id.into(), name: "look".into() };
    let says = |index, json: &str| DeltaKind::ToolArguments { index, json: json.into() };
    let kinds = [
        call(0, "call_a"),
        says(0, "{\"a\":"),
        call(1, "call_b"),
        says(1, "{\"b\":{}"),
        call(2, "call_c"),
        says(0, "1}"),
        says(1, "}"),
        says(2, "{}"),
        DeltaKind::Text("Wait.".into()),
    ];
    let pieces: Vec<_> = kinds.into_iter().map(|kind| Delta::new(0, kind)).collect();
    let streamed = stream(&mut outer(endpoint, &simple(endpoint, &json!({}))), &pieces);
    let data = streamed.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// Which event of `names` came for which item, by its number in `at`.
fn told<'e>(events: &'e [Value], names: &[&'e str], at: &str) -> Vec<(&'e str, u64)> {
    let named = events.iter().filter_map(|event| {
        Some((*names.iter().find(|name| event["type"] == **name)?, event[at].as_u64()?))
    });
    named.collect()
}

#[test]
fn calls_that_come_side_by_side_are_whole_when_they_are_told_so() {
    let events = side_by_side(Endpoint::Responses);
    let ended = ["response.output_item.done", "response.function_call_arguments.delta"];
    assert_eq!(
        told(&events, &ended, "output_index"),
        [
            (ended[1], 0),
            (ended[1], 1),
            (ended[1], 0),
            (ended[1], 1),
            (ended[1], 2),
            (ended[0], 0),
            (ended[0], 1),
            (ended[0], 2),
            (ended[0], 3),
        ]
    );
    let done = events.iter().filter(|event| event["type"] == ended[0]).map(|event| &event["item"]);
    let done: Vec<_> = done.cloned().collect();
    let arguments: Vec<_> = done.iter().map(|item| item["arguments"].as_str()).collect();
    assert_eq!(arguments, [Some("{\"a\":1}"), Some("{\"b\":{}}"), Some("{}"), None]);
    assert_eq!(events.last().unwrap()["response"]["output"], json!(done));
}

#[test]
fn what_a_function_is_called_with_is_an_object_also_where_it_takes_nothing() {
    let request = simple(Endpoint::Responses, &json!({}));
    let call = DeltaKind::ToolCall { index: 0, id: "call_a".into(), name: "now".into() };
    let pieces = [call, DeltaKind::Finish(FinishReason::ToolCalls)];
    let pieces: Vec<_> = pieces.into_iter().map(|kind| Delta::new(0, kind)).collect();
    let streamed = stream(&mut outer(Endpoint::Responses, &request), &pieces);
    let data = streamed.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    let of = |name: &str| events.iter().find(|event| event["type"] == name).unwrap();
    assert_eq!(of("response.function_call_arguments.delta")["delta"], "{}");
    assert_eq!(of("response.function_call_arguments.done")["arguments"], "{}");
    assert_eq!(of("response.output_item.done")["item"]["arguments"], "{}");
}

#[test]
fn an_answer_that_its_provider_broke_off_is_not_told_as_whole() {
    for (word, stop, status) in [
        ("model_length", "max_tokens", "incomplete"),
        ("insufficient_system_resource", "max_tokens", "incomplete"),
        ("stop", "end_turn", "completed"),
    ] {
        let pieces = [DeltaKind::Text("Hi".into()), DeltaKind::Finish(FinishReason::from(word))];
        let pieces: Vec<_> = pieces.into_iter().map(|kind| Delta::new(0, kind)).collect();
        let told = [Endpoint::Messages, Endpoint::Responses].map(|endpoint| {
            let request = simple(endpoint, &json!({}));
            stream(&mut outer(endpoint, &request), &pieces)
        });
        assert!(told[0].contains(&format!("\"stop_reason\":\"{stop}\"")), "{word}: {}", told[0]);
        assert!(told[1].contains(&format!("event: response.{status}\n")), "{word}: {}", told[1]);
    }
}

#[test]
fn calls_that_come_side_by_side_are_blocks_one_after_the_other() {
    let events = side_by_side(Endpoint::Messages);
    let names = ["content_block_start", "content_block_delta", "content_block_stop"];
    let told = told(&events, &names, "index");
    let blocks: Vec<_> = told.iter().map(|(_, block)| *block).collect();
    assert!(blocks.is_sorted(), "{told:?}");
    let input = |block: u64| {
        let of = events.iter().filter(|event| event["index"] == block);
        of.filter_map(|event| event["delta"]["partial_json"].as_str()).collect::<String>()
    };
    assert_eq!([input(0), input(1), input(2)], ["{\"a\":1}", "{\"b\":{}}", "{}"]);
    let stops = told.iter().filter(|(name, _)| *name == names[2]).count();
    assert_eq!((stops, blocks.last()), (4, Some(&3)));
}

#[test]
fn how_an_answer_ended_is_told_in_each_formats_words() {
    let end = |endpoint, finish: FinishReason| {
        let request = simple(endpoint, &json!({}));
        let mut answer = Gathered::default();
        answer.add(Delta::new(0, DeltaKind::Finish(finish)));
        let whole = outer(endpoint, &request).whole(answer, &usage(), None);
        serde_json::from_slice::<Value>(&whole).unwrap()
    };
    for (finish, reason, sequence) in [
        (FinishReason::Stop, "end_turn", Value::Null),
        (FinishReason::StopString("END".into()), "stop_sequence", json!("END")),
        (FinishReason::Length, "max_tokens", Value::Null),
        (FinishReason::ToolCalls, "tool_use", Value::Null),
        (FinishReason::ContentFilter, "refusal", Value::Null),
    ] {
        let message = end(Endpoint::Messages, finish);
        assert_eq!(
            (&message["stop_reason"], &message["stop_sequence"]),
            (&json!(reason), &sequence)
        );
        assert_eq!(message["content"], json!([{"type": "text", "text": ""}]));
        assert!(message["usage"].get("cost").is_none(), "an unknown cost is absent");
    }
    let cut = end(Endpoint::Responses, FinishReason::Length);
    assert_eq!(cut["status"], "incomplete");
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(end(Endpoint::Responses, FinishReason::Stop)["status"], "completed");
}

#[test]
fn a_calls_input_has_the_members_that_came_before_the_cap() {
    let request = simple(Endpoint::Messages, &json!({}));
    let input = |arguments: &str, finish| {
        let mut answer = Gathered::default();
        let begun = DeltaKind::ToolCall { index: 0, id: "call_1".into(), name: "w".into() };
        let arguments = DeltaKind::ToolArguments { index: 0, json: arguments.into() };
        for kind in [begun, arguments, DeltaKind::Finish(finish)] {
            answer.add(Delta::new(0, kind));
        }
        let whole = outer(Endpoint::Messages, &request).whole(answer, &usage(), None);
        serde_json::from_slice::<Value>(&whole).unwrap()["content"][0]["input"].clone()
    };
    for (cut, whole) in [
        (r#"{"a": [1, {"b": 2}], "c": "d,\"e", "f"#, json!({"a": [1, {"b": 2}], "c": "d,\"e"})),
        (r#"{"a": [1, 2"#, json!({})),
        (r#"{"a": 1"#, json!({})),
        (r#"{"a": 1,"#, json!({"a": 1})),
        ("{", json!({})),
        ("[1, 2", json!({})),
        ("no object, at all", json!({})),
        (r#"{"a": 1}"#, json!({"a": 1})),
    ] {
        assert_eq!(input(cut, FinishReason::Length), whole, "{cut}");
    }
    assert_eq!(input("Oslo", FinishReason::ToolCalls), json!({"arguments": "Oslo"}));
}

#[test]
fn an_item_that_the_cap_cut_is_no_completed_one() {
    let request = simple(Endpoint::Responses, &json!({}));
    let call = || {
        let begun = DeltaKind::ToolCall { index: 0, id: "call_1".into(), name: "w".into() };
        [begun, DeltaKind::ToolArguments { index: 0, json: "{\"c".into() }]
    };
    for (finish, status) in
        [(FinishReason::Length, "incomplete"), (FinishReason::ToolCalls, "completed")]
    {
        let mut outer = outer(Endpoint::Responses, &request);
        let mut frames = Vec::new();
        let said = DeltaKind::Text("Let me see.".into());
        for kind in [said].into_iter().chain(call()).chain([DeltaKind::Finish(finish)]) {
            outer.delta(&Delta::new(0, kind), &mut |frame| frames.extend_from_slice(&frame));
        }
        frames.extend_from_slice(&outer.end(&Usage::default(), None));
        let text = std::str::from_utf8(&frames).unwrap();
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> = events.map(|data| serde_json::from_str(data).unwrap()).collect();
        let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
        let told: Vec<_> = done.map(|event| event["item"]["status"].clone()).collect();
        assert_eq!(told, ["completed", status], "the message before it is whole");
        let whole = &events.last().unwrap()["response"]["output"];
        let told: Vec<_> = whole.as_array().unwrap().iter().map(|it| &it["status"]).collect();
        assert_eq!(told, ["completed", status]);
    }
}

#[test]
fn a_stream_that_broke_says_so_in_its_formats_words() {
    let broke = Refusal::Upstream("the answer broke off: it ended".into());
    let request = simple(Endpoint::Messages, &json!({}));
    let frame = outer(Endpoint::Messages, &request).broken(&broke);
    let text = std::str::from_utf8(&frame).unwrap();
    assert!(
        text.starts_with(
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\""
        ),
        "{text}"
    );
    assert!(text.contains("\"request_id\":\"req_1\""), "{text}");
    let request = simple(Endpoint::Responses, &json!({}));
    let frame = outer(Endpoint::Responses, &request).broken(&broke);
    let text = std::str::from_utf8(&frame).unwrap();
    assert!(text.contains("event: response.failed\n") && text.contains("\"status\":\"failed\""));
}

#[test]
fn tools_and_the_choice_among_them_stand_where_a_chat_has_them() {
    let grammar = json!({"type": "grammar", "syntax": "lark", "definition": "start: \"a\""});
    let asked_of = |choice: Value| {
        let body = json!({"model": "auto", "input": "Hi.", "tool_choice": choice, "tools": [
            {"type": "function", "name": "look"},
            {"type": "custom", "name": "say", "format": grammar},
            {"type": "custom", "name": "sing", "format": {"type": "text"}},
        ]});
        asked(Endpoint::Responses, &body)
    };
    let chat_of = |choice| {
        let request = asked_of(choice).unwrap();
        serde_json::from_slice::<Value>(&request.body).unwrap()
    };
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "look"}, {"type": "custom", "name": "say"}]});
    let chat = chat_of(allowed);
    let tools = json!([{"type": "function", "function": {"name": "look"}},
                       {"type": "custom", "custom": {"name": "say"}}]);
    assert_eq!(
        chat["tool_choice"],
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}})
    );
    let grammar = json!({"definition": "start: \"a\"", "syntax": "lark"});
    assert_eq!(
        chat["tools"],
        json!([
            {"type": "function", "function": {"name": "look"}},
            {"type": "custom",
             "custom": {"name": "say", "format": {"type": "grammar", "grammar": grammar}}},
            {"type": "custom", "custom": {"name": "sing", "format": {"type": "text"}}},
        ])
    );
    let named = chat_of(json!({"type": "custom", "name": "say"}));
    assert_eq!(named["tool_choice"], json!({"type": "custom", "custom": {"name": "say"}}));
    for (choice, param) in [
        (json!({"type": "allowed_tools", "tools": []}), "tool_choice.mode"),
        (json!({"type": "allowed_tools", "mode": "none", "tools": []}), "tool_choice.mode"),
        (json!({"type": "allowed_tools", "mode": "auto"}), "tool_choice.tools"),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}),
            "tool_choice.tools[0].type",
        ),
        (json!({"type": "function"}), "tool_choice.name"),
        (json!({"type": "file_search"}), "tool_choice.type"),
    ] {
        let bad = asked_of(choice.clone()).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(param), "{choice}");
    }
}

#[test]
fn tools_of_anthropics_that_the_caller_runs_are_read_with_what_they_take() {
    let with = |tools: &Value| {
        let user = json!([{"role": "user", "content": "Hi."}]);
        let body = json!({"model": "auto", "max_tokens": 9, "messages": user, "tools": tools,
            "tool_choice": {"type": "auto"}});
        asked(Endpoint::Messages, &body).unwrap()
    };
    let custom = json!({"name": "f", "input_schema": {"type": "object"}});
    let own = |kind: &str, name: &str| json!({"type": kind, "name": name});
    let plain = with(&json!([custom]));
    assert_eq!(plain.own_tool, None);
    let bash = with(&json!([custom, own("bash_20250124", "bash")]));
    assert_eq!(bash.own_tool.as_deref(), Some("tools[1].type"));
    assert!(bash.needs.tools);
    assert!(bash.prompt_tokens_max >= plain.prompt_tokens_max + 245);
    let all = with(&json!([
        custom,
        own("bash_20250124", "bash"),
        own("text_editor_20250728", "str_replace_based_edit_tool"),
        own("computer_20250124", "computer"),
        own("memory_20250818", "memory"),
    ]));
    assert!(all.prompt_tokens_max >= bash.prompt_tokens_max + 700 + 735 + 499);
}

#[test]
fn what_messages_cannot_be_served_is_refused_by_its_name() {
    let user = json!([{"role": "user", "content": "Hi."}]);
    for (more, param) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "bash_2025", "name": "b"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "computer_use_cloud", "name": "c"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "code_execution_20250825", "name": "c"}]}), "tools[0].type"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (json!({"speed": "fast"}), "speed"),
        (json!({"n": 2}), "n"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"tool_choice": {"type": "any"}}), "tool_choice"),
        (json!({"inference_geo": "us"}), "inference_geo"),
        (
            json!({"context_management": {"edits": [
                {"type": "clear_tool_uses_20250919"}, {"type": "compact_20260112"}]}}),
            "context_management.edits[1].type",
        ),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "document",
            "source": {"type": "base64", "data": ""}}]}]}),
            "messages[0].content[0].source.type",
        ),
    ] {
        let mut body = json!({"model": "auto", "max_tokens": 9, "messages": user});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let bad = asked(Endpoint::Messages, &body).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(param), "{more}");
    }
}

#[test]
fn what_responses_cannot_be_served_is_refused_by_its_name() {
    for (more, param) in [
        (json!({"input": null}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": []}), "input"),
        (json!({"max_output_tokens": -1}), "max_output_tokens"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"background": true}), "background"),
        (json!({"n": 2}), "n"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "code_interpreter"}]}), "tools[0].type"),
        (json!({"input": [{"type": "computer_call"}]}), "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "input[0].content[0].type",
        ),
    ] {
        let mut body = json!({"model": "auto", "input": "Hi."});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let bad = asked(Endpoint::Responses, &body).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(param), "{more}");
    }
}

#[tokio::test]
async fn a_conversation_goes_on_from_a_kept_answer() {
    let limits = KeptLimits { entries_max: 9, bytes_max: 1 << 20, ttl: Duration::from_secs(60) };
    let kept = Arc::new(Kept::new(limits));
    let first = json!({"model": "auto", "instructions": "Be brief.", "input": "Hi."});
    let request = asked_with(Endpoint::Responses, &first, Some(&kept)).unwrap();
    stream(&mut outer(Endpoint::Responses, &request), &pieces());
    let second = json!({"model": "auto", "previous_response_id": "resp_1", "input": [
        {"type": "function_call_output", "call_id": "call_a", "output": "7"}]});
    let request = asked_with(Endpoint::Responses, &second, Some(&kept)).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let call = |id, arguments| {
        json!({"id": id, "type": "function",
        "function": {"name": "look", "arguments": arguments}})
    };
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "It is \"7\"°.\n",
             "tool_calls": [call("call_a", "{\"city\":\"Oslo\"}"), call("call_b", "{}")]},
            {"role": "tool", "tool_call_id": "call_a", "content": "7"},
        ]),
        "instructions are those of their own request"
    );
    let named = |ids: &[&str]| {
        let named = ids.iter().map(|id| json!({"type": "item_reference", "id": id}));
        let input: Vec<_> = named.chain(second["input"].as_array().unwrap().clone()).collect();
        asked_with(Endpoint::Responses, &json!({"model": "auto", "input": input}), Some(&kept))
    };
    let request = named(&["rs_100", "msg_101", "fc_102", "fc_103"]).unwrap();
    let by_ids: Value = serde_json::from_slice(&request.body).unwrap();
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(by_ids["messages"], json!(messages[1..]), "the same by the ids of its items");
    for (ids, at) in
        [(&["msg_101", "msg_101"][..], 1), (&["msg_104"], 0), (&["msg_201"], 0), (&["x"], 0)]
    {
        let bad = named(ids).unwrap_err();
        assert_eq!(bad.param, Some(format!("input[{at}].id")), "{ids:?}");
    }
    let reference = json!([{"type": "item_reference", "id": "msg_101"}]);
    let nowhere = json!({"model": "auto", "input": reference});
    let bad = asked(Endpoint::Responses, &nowhere).unwrap_err();
    assert_eq!(bad.param.as_deref(), Some("input[0].id"), "nothing is kept");
    let unkept = json!({"model": "auto", "input": "Hi.", "store": false});
    let request = asked_with(Endpoint::Responses, &unkept, Some(&kept)).unwrap();
    assert!(request.responses.unwrap().keep.is_none(), "`store` is respected");
    let absent = json!({"model": "auto", "input": "Hi.", "previous_response_id": "resp_2"});
    let bad = asked_with(Endpoint::Responses, &absent, Some(&kept)).unwrap_err();
    assert_eq!(bad.code, "previous_response_not_found");
}

#[test]
fn a_providers_chunks_are_read_as_deltas() {
    let chunk = json!({"choices": [
        {"index": 1, "delta": {"reasoning": "hm", "content": "a",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}},
                           {"index": 3, "id": "d", "function": {"name": "g", "arguments": "}"}}]},
         "finish_reason": "stop", "stop_reason": "END"},
        {"index": 0, "delta": {"content": null, "refusal": "no"}, "finish_reason": null},
    ]});
    let deltas = openai::Reader::default().read(chunk.to_string().as_bytes()).unwrap();
    let kinds: Vec<_> = deltas.into_iter().map(|delta| (delta.choice, delta.kind)).collect();
    assert_eq!(
        kinds,
        [
            (1, DeltaKind::Reasoning("hm".into())),
            (1, DeltaKind::Text("a".into())),
            (1, DeltaKind::ToolCall { index: 0, id: "c".into(), name: "f".into() }),
            (1, DeltaKind::ToolArguments { index: 0, json: "{".into() }),
            (1, DeltaKind::ToolCall { index: 3, id: "d".into(), name: "g".into() }),
            (1, DeltaKind::ToolArguments { index: 3, json: "}".into() }),
            (1, DeltaKind::Finish(FinishReason::StopString("END".into()))),
            (0, DeltaKind::Refusal("no".into())),
        ]
    );
    for silent in ["{\"choices\":null}", "{\"choices\":[]}", "{}"] {
        assert_eq!(openai::Reader::default().read(silent.as_bytes()), Ok(Vec::new()));
    }
    for odd in ["", "null", "{\"choices\":5}", "{\"choices\":[{\"message\":{\"tool_calls\":5}}]}"] {
        assert!(
            openai::Reader::default().read(odd.as_bytes()).is_err(),
            "{odd}: never an answer without a word"
        );
    }
    let call = json!({"choices": [{"message": {"content": "Yes.", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": {"a": 1.50}}},
        {"id": "d", "function": {"name": "g", "arguments": null}}]}}]});
    let call = call.to_string().replace("1.5", "1.50");
    let kinds: Vec<_> = openai::Reader::default()
        .read(call.as_bytes())
        .unwrap()
        .into_iter()
        .map(|delta| delta.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            DeltaKind::Text("Yes.".into()),
            DeltaKind::ToolCall { index: 0, id: "c".into(), name: "f".into() },
            DeltaKind::ToolArguments { index: 0, json: "{\"a\":1.50}".into() },
            DeltaKind::ToolCall { index: 1, id: "d".into(), name: "g".into() },
        ],
        "arguments that are an object are its text"
    );
}

#[test]
fn half_of_a_character_costs_neither_the_text_nor_the_arguments_around_it() {
    let chunk = r#"{"choices":[{"delta":{"reasoning_content":"hm \ud83d","content":"see \ud83d here",
        "tool_calls":[{"index":0,"id":"c\udc00","function":{"name":"f","arguments":"{\"at\":\"\ude00\"}"}},
        {"index":1,"id":"d","custom":{"name":"g\ud83d","input":"whole \ud83d\ude00"}}]},
        "logprobs":{"content":[{"token":"\ud83d","logprob":-1.0}]},
        "finish_reason":"stop","stop_reason":"\ud83d"}]}"#;
    let deltas = openai::Reader::default().read(chunk.as_bytes()).unwrap();
    let kinds: Vec<_> = deltas.into_iter().map(|delta| delta.kind).collect();
    let call = |index, id: &str, name: &str| DeltaKind::ToolCall {
        index,
        id: id.to_owned(),
        name: name.to_owned(),
    };
    let arguments = |index, json: &str| DeltaKind::ToolArguments { index, json: json.to_owned() };
    assert_eq!(
        kinds,
        [
            DeltaKind::Reasoning("hm \u{fffd}".into()),
            DeltaKind::Text("see \u{fffd} here".into()),
            call(0, "c\u{fffd}", "f"),
            arguments(0, "{\"at\":\"\u{fffd}\"}"),
            call(1, "d", "g\u{fffd}"),
            arguments(1, "whole \u{1f600}"),
            DeltaKind::Finish(FinishReason::StopString("\u{fffd}".into())),
        ]
    );
}

#[test]
fn a_part_that_cannot_be_read_costs_none_of_the_others() {
    let part = |text: &str| json!({"type": "text", "text": text});
    let content = json!([part("a"), {"type": "reference", "text": 7}, null, "b", part("c")]);
    let chunk = json!({"choices": [{"delta": {"content": content}}]}).to_string();
    let deltas = openai::Reader::default().read(chunk.as_bytes()).unwrap();
    let kinds: Vec<_> = deltas.into_iter().map(|delta| delta.kind).collect();
    assert_eq!(kinds, [DeltaKind::Text("abc".into())]);
}
