//! Anthropic's published examples and the faults that peers had, in and out.

use super::{Stream, body, whole};
use crate::{
    providers::Read,
    wire::{DeltaKind, Event, FinishReason, read_chat},
};
use bytes::Bytes;
use http::HeaderMap;
use policies::{ServiceTier, Usage, UsageSource};
use serde_json::{Value, json};

fn sent_to(model: &str, request: &Value) -> Value {
    let request = read_chat(Bytes::from(request.to_string()), &HeaderMap::new(), 500).unwrap();
    serde_json::from_slice(&body(&request, &request.body, model, request.output_cap).unwrap())
        .unwrap()
}

fn sent(request: &Value) -> Value {
    sent_to("claude-sonnet-4-5", request)
}

fn refused(request: &Value) -> Option<String> {
    let request = read_chat(Bytes::from(request.to_string()), &HeaderMap::new(), 500).unwrap();
    let cap = request.output_cap;
    body(&request, &request.body, "claude-sonnet-4-5", cap).unwrap_err().param
}

#[test]
fn a_conversation_with_tools_becomes_turns_of_blocks() {
    let written = sent(&json!({
        "model": "auto", "stream": true, "max_tokens": 300, "stop": "END", "temperature": 0.5,
        "user": "u1", "seed": 7,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1.50}"}},
                {"id": "b", "type": "function", "function": {"name": "wait", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "a", "content": "a cat"},
            {"role": "tool", "tool_call_id": "b", "content": "done"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.",
            "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}}],
        "tool_choice": "required", "parallel_tool_calls": false,
    }));
    assert_eq!(
        written,
        json!({
            "model": "claude-sonnet-4-5", "max_tokens": 300, "stream": true, "temperature": 0.5,
            "stop_sequences": ["END"], "metadata": {"user_id": "u1"},
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "a", "name": "look", "input": {"at": 1.50}},
                    {"type": "tool_use", "id": "b", "name": "wait", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "done"}]},
                    {"type": "text", "text": "And now?"},
                ]},
            ],
            "tools": [{"name": "look", "description": "Looks.",
                "input_schema": {"type": "object", "properties": {"z": {}, "a": {}}}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        })
    );
}

#[test]
fn a_user_is_told_unless_by_an_address() {
    let told = |user: &str| {
        let hi = json!([{"role": "user", "content": "Hi"}]);
        sent(&json!({"model": "auto", "messages": hi, "user": user})).get("metadata").cloned()
    };
    for user in ["u1", "user-12345678", "2b7e1516-28ae-42d2-a6ab-f7158809cf4f", "12345"] {
        assert_eq!(told(user), Some(json!({"user_id": user})));
    }
    for address in ["ann@example.org", "+49 30 1234567", "(030) 123-4567"] {
        assert_eq!(told(address), None, "{address}");
    }
}

#[test]
fn what_openai_lets_be_left_out_is_written() {
    let hi = json!([{"role": "user", "content": "Hi"}]);
    let schema = |parameters: Value| {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters}});
        let written = sent(&json!({"model": "auto", "messages": hi, "tools": [tool]}));
        written["tools"][0]["input_schema"].clone()
    };
    assert_eq!(schema(json!({})), json!({"type": "object"}));
    let typed = json!({"type": "object", "properties": {"type": {}}});
    assert_eq!(schema(json!({"properties": {"type": {}}})), typed);
    assert_eq!(schema(typed.clone()), typed);
    let untooled = json!({"model": "auto", "messages": hi, "tools": [],
        "parallel_tool_calls": false, "tool_choice": "auto"});
    assert_eq!(sent(&untooled).get("tool_choice"), None);
    for messages in
        [json!([{"role": "system", "content": "Hi"}]), json!([{"role": "user", "content": ""}])]
    {
        let refused = refused(&json!({"model": "auto", "messages": messages}));
        assert_eq!(refused.as_deref(), Some("messages"), "{messages}");
    }
}

#[test]
fn of_tools_that_a_choice_lists_the_others_are_left_out() {
    let sent = |mode: &str| {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
        let allowed = json!({"mode": mode, "tools": [tool("wait"), tool("sing")]});
        let sent = sent(&json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}],
            "tools": [tool("look"), tool("wait"), tool("sing")],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}));
        let tools = sent["tools"].as_array().unwrap().iter();
        let names: Vec<_> = tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
        (sent["tool_choice"]["type"].as_str().unwrap().to_owned(), names.join(" "))
    };
    assert_eq!(sent("auto"), ("auto".to_owned(), "wait sing".to_owned()));
    assert_eq!(sent("required"), ("any".to_owned(), "wait sing".to_owned()));
}

#[test]
fn structured_output_and_effort_are_said_in_anthropics_words() {
    let hi = json!([{"role": "user", "content": "Hi"}]);
    let written = sent(&json!({"model": "auto", "messages": hi, "response_format": {
        "type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}}));
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    assert_eq!(written["output_config"]["format"], format);
    let effort =
        json!({"model": "auto", "messages": hi, "reasoning_effort": "medium", "max_tokens": 9000});
    assert_eq!(sent(&effort)["thinking"], json!({"type": "enabled", "budget_tokens": 2048}));
    let new = sent_to("claude-opus-5-5", &effort);
    assert_eq!(new["output_config"], json!({"effort": "medium"}));
    assert_eq!(new["thinking"], json!({"type": "adaptive"}));
    let short =
        json!({"model": "auto", "messages": hi, "reasoning_effort": "high", "max_tokens": 900});
    assert_eq!(sent(&short).get("thinking"), None, "no room below the cap");
}

#[test]
fn thinking_goes_together_with_neither_sampling_nor_a_forced_tool() {
    let thinks = |name: &str, value: Value| {
        let mut request = json!({"model": "auto", "max_tokens": 9000, "reasoning_effort": "low",
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [{"type": "function", "function": {"name": "f"}}]});
        request[name] = value;
        request
    };
    for (name, value) in [("temperature", json!(0.5)), ("top_k", json!(4))] {
        assert_eq!(refused(&thinks(name, value)).as_deref(), Some(name));
    }
    assert_eq!(sent(&thinks("temperature", json!(1.0)))["thinking"]["type"], "enabled");
    for forced in [json!("required"), json!({"type": "function", "function": {"name": "f"}})] {
        let forced = thinks("tool_choice", forced);
        assert_eq!(sent(&forced).get("thinking"), None);
        let new = sent_to("claude-opus-5-5", &forced);
        assert_eq!((new.get("thinking"), &new["output_config"]["effort"]), (None, &json!("low")));
    }
    assert_eq!(sent(&thinks("tool_choice", json!("auto")))["thinking"]["type"], "enabled");
}

#[test]
fn no_budget_is_given_while_calls_are_answered_whose_thinking_did_not_come_back() {
    let asked = |thought: Value, after: Value| {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let mut messages = vec![
            json!({"role": "user", "content": "Hi"}),
            json!({"role": "assistant", "content": null, "tool_calls": [call], "thinking_blocks": thought}),
            json!({"role": "tool", "tool_call_id": "c", "content": "1"}),
        ];
        messages.extend(after.as_array().cloned().unwrap_or_default());
        json!({"model": "auto", "max_tokens": 9000, "reasoning_effort": "low", "messages": messages,
            "tools": [{"type": "function", "function": {"name": "f"}}]})
    };
    let block = json!([{"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}]);
    let thinks = |request: &Value| sent(request).get("thinking").is_some();
    assert!(!thinks(&asked(json!(null), json!([]))), "OpenAI's clients send none back");
    assert!(!thinks(&asked(json!([]), json!([{"role": "user", "content": "And?"}]))));
    assert!(thinks(&asked(block, json!([]))));
    let answered =
        json!([{"role": "assistant", "content": "1."}, {"role": "user", "content": "And?"}]);
    assert!(thinks(&asked(json!(null), answered)), "the calls are answered");
    let new = sent_to("claude-opus-5-5", &asked(json!(null), json!([])));
    assert_eq!(new["thinking"], json!({"type": "adaptive"}), "which asks for nothing before");
}

#[test]
fn what_has_no_counterpart_is_refused_by_name() {
    let with = |name: &str, value: Value| {
        let mut request = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]});
        request[name] = value;
        refused(&request)
    };
    for (name, value) in [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("frequency_penalty", json!(0.5)),
        ("logit_bias", json!({"1": 1})),
        ("response_format", json!({"type": "json_object"})),
        ("functions", json!([{"name": "f"}])),
        ("temperature", json!(1.5)),
        ("grammar", json!("root ::= \"a\"")),
        ("guided_json", json!({"type": "object"})),
        ("min_p", json!(0.1)),
        ("repetition_penalty", json!(1.2)),
        ("ignore_eos", json!(true)),
    ] {
        assert_eq!(with(name, value).as_deref(), Some(name));
    }
    let custom = json!({"type": "custom", "custom": {"name": "sh"}});
    assert_eq!(with("tools", json!([custom])).as_deref(), Some("tools[0].type"));
    let called = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "nothing"},
    ]);
    assert_eq!(with("messages", called).as_deref(), Some("messages[1].tool_calls"));
    let harmless = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}],
        "n": 1, "logprobs": false, "frequency_penalty": 0, "logit_bias": {}, "store": true,
        "grammar": "", "min_p": 0, "repetition_penalty": 1.0, "ignore_eos": false});
    assert_eq!(sent(&harmless)["max_tokens"], json!(500), "the cap is always sent");
}

#[test]
fn what_an_assistant_said_beside_its_calls_or_in_place_of_a_content_stays() {
    let call =
        json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "Oslo"}});
    let written = sent(&json!({"model": "auto", "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "refusal": "I cannot."},
        {"role": "user", "content": "Why?", "refusal": 5},
        {"role": "assistant", "content": "\n\n", "tool_calls": [call]},
    ]}));
    let said = |at: usize| written["messages"][at]["content"].clone();
    assert_eq!(said(1), json!([{"type": "text", "text": "I cannot."}]));
    assert_eq!(said(2), json!([{"type": "text", "text": "Why?"}]));
    let used = json!({"type": "tool_use", "id": "c", "name": "f", "input": {"arguments": "Oslo"}});
    assert_eq!(said(3), json!([used]), "white space alone is refused there");
}

#[test]
fn a_mark_of_a_cached_prefix_is_kept_wherever_it_stands() {
    let mark = json!({"type": "ephemeral"});
    let function = |more: Value| {
        let mut function = json!({"name": "f", "parameters": {"type": "object"}});
        function["cache_control"] = more;
        function
    };
    let written = sent(&json!({"model": "auto", "messages": [
        {"role": "system", "content": "Be brief.", "cache_control": mark},
        {"role": "user", "content": "Hi", "cache_control": mark},
        {"role": "tool", "tool_call_id": "c", "content": "1", "cache_control": mark},
    ], "tools": [
        {"type": "function", "function": function(json!(null)), "cache_control": mark},
        {"type": "function", "function": function(mark.clone())},
    ]}));
    assert_eq!(written["system"][0]["cache_control"], mark);
    assert_eq!(written["messages"][0]["content"][0]["cache_control"], mark);
    let result = &written["messages"][0]["content"][1];
    assert_eq!(
        (&result["cache_control"], &result["content"][0]),
        (&mark, &json!({"type": "text", "text": "1"}))
    );
    for tool in 0..2 {
        assert_eq!(written["tools"][tool]["cache_control"], mark);
    }
}

#[test]
fn a_budget_of_thinking_stays_below_a_cap_that_was_lowered() {
    let thinking = json!({"type": "enabled", "budget_tokens": 10_000});
    let chat = json!({"model": "auto", "max_tokens": 16_000, "thinking": thinking,
        "messages": [{"role": "user", "content": "Hi"}]});
    let own = crate::wire::anthropic::read_messages;
    let read = [
        read_chat(Bytes::from(chat.to_string()), &HeaderMap::new(), 500).unwrap(),
        own(Bytes::from(chat.to_string()), &HeaderMap::new(), 500).unwrap(),
    ];
    for request in read {
        let written = |cap| {
            let body = body(&request, super::source(&request), "claude-sonnet-4-5", cap)?;
            let body: Value = serde_json::from_slice(&body).unwrap();
            Ok::<_, crate::wire::BadRequest>(body["thinking"]["budget_tokens"].clone())
        };
        assert_eq!(written(16_000), Ok(json!(10_000)));
        assert_eq!(written(12_000), Ok(json!(10_000)));
        assert_eq!(written(3_000), Ok(json!(2_999)));
        assert_eq!(written(900).unwrap_err().param.as_deref(), Some("thinking"));
    }
}

/// What a caller's own body becomes.
fn passed(messages: &Value, more: &Value) -> Value {
    let mut own = json!({"model": "auto", "max_tokens": 9000, "messages": messages});
    for (name, value) in more.as_object().unwrap() {
        own[name] = value.clone();
    }
    let read = crate::wire::anthropic::read_messages;
    let request = read(Bytes::from(own.to_string()), &HeaderMap::new(), 500).unwrap();
    let sent = body(&request, super::source(&request), "claude-sonnet-4-5", 9000).unwrap();
    serde_json::from_slice(&sent).unwrap()
}

#[test]
fn thinking_that_anthropic_has_not_signed_is_taken_out_of_a_callers_own_body() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |blocks: &[Value]| json!({"role": "assistant", "content": blocks});
    let unsigned = json!({"type": "thinking", "thinking": "Hm.", "signature": ""});
    let bare = json!({"type": "thinking", "thinking": "Hm."});
    let signed = json!({"type": "thinking", "thinking": "", "signature": "EqQB"});
    let redacted = json!({"type": "redacted_thinking", "data": "x"});
    let text = json!({"type": "text", "text": "\"thinking\" is a word, [and] \\ too"});
    let call = json!({"type": "tool_use", "id": "c", "name": "f", "input": {"type": "thinking"}});
    let result = json!({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c", "content": "1"}]});
    let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 2000},
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}]}});

    let old = json!([user("Hi"), assistant(&[unsigned.clone(), text.clone()]), user("And?")]);
    let sent = passed(&old, &budget);
    let left = json!([user("Hi"), assistant(std::slice::from_ref(&text)), user("And?")]);
    assert_eq!(sent["messages"], left);
    assert_eq!(sent["thinking"], budget["thinking"], "a turn that is over asks for none");

    let alone = json!([user("Hi"), assistant(std::slice::from_ref(&bare)), user("And?")]);
    assert_eq!(passed(&alone, &budget)["messages"], json!([user("Hi"), user("And?")]));

    let called = json!([user("Hi"), assistant(&[bare, call.clone()]), result]);
    let sent = passed(&called, &budget);
    let first = json!([user("Hi"), assistant(std::slice::from_ref(&call)), result]);
    assert_eq!(sent["messages"], first);
    let of = |sent: &Value, name: &str| sent.get(name).cloned();
    assert_eq!(of(&sent, "thinking"), None, "no budget while calls are answered unthought");
    assert_eq!(of(&sent, "context_management"), None, "what edits thinking needs it");
    let again = json!([
        user("Hi"),
        assistant(&[unsigned, call.clone()]),
        result,
        assistant(std::slice::from_ref(&call)),
        result
    ]);
    assert_eq!(of(&passed(&again, &budget), "thinking"), None, "nor later in that turn");
    let adaptive = json!({"thinking": {"type": "adaptive"}});
    assert_eq!(of(&passed(&called, &adaptive), "thinking"), of(&adaptive, "thinking"));

    let kept = json!([user("Hi"), assistant(&[signed, redacted, text, call]), result]);
    let sent = passed(&kept, &budget);
    assert_eq!(sent["messages"], kept);
    assert_eq!(sent["thinking"], budget["thinking"]);
}

/// The events of a stream, and whether it ended.
fn read(frames: &[Value]) -> (Vec<Event>, bool) {
    let mut stream = Stream::new(11);
    let mut all = Vec::new();
    for frame in frames {
        match stream.read(frame.to_string().as_bytes()).unwrap() {
            Read::Events(events) => all.extend(events),
            Read::Last { events, .. } => {
                all.extend(events);
                return (all, true);
            }
            Read::Failed => return (all, false),
        }
    }
    (all, false)
}

fn kinds(events: &[Event]) -> Vec<DeltaKind> {
    let deltas = events.iter().filter_map(|event| match event {
        Event::Delta(delta) => Some(delta.kind.clone()),
        _ => None,
    });
    deltas.collect()
}

fn end(events: &[Event]) -> (Usage, UsageSource) {
    match events.last() {
        Some(Event::End { usage, source, .. }) => (*usage, *source),
        other => panic!("{other:?}"),
    }
}

fn start(usage: &Value) -> Value {
    json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "content": [], "usage": usage}})
}

fn delta(delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": delta})
}

fn stop(reason: &str, usage: &Value) -> [Value; 2] {
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": usage});
    [delta, json!({"type": "message_stop"})]
}

#[test]
fn a_stream_of_thinking_text_and_calls_becomes_deltas() {
    let [last, end_frame] = stop("tool_use", &json!({"output_tokens": 89}));
    let (events, whole) = read(&[
        start(&json!({"input_tokens": 472, "output_tokens": 2})),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        json!({"type": "ping"}),
        delta(&json!({"type": "thinking_delta", "thinking": "Hm."})),
        delta(&json!({"type": "signature_delta", "signature": "EqQB"})),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        delta(&json!({"type": "text_delta", "text": "Okay"})),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}}),
        delta(&json!({"type": "input_json_delta", "partial_json": ""})),
        delta(&json!({"type": "input_json_delta", "partial_json": "{\"city\":"})),
        delta(&json!({"type": "input_json_delta", "partial_json": " \"Rome\"}"})),
        json!({"type": "content_block_stop", "index": 2}),
        json!({"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}}),
        json!({"type": "content_block_stop", "index": 3}),
        last,
        end_frame,
    ]);
    assert!(whole);
    assert!(matches!(&events[0], Event::Begin { id } if id == "msg_1"));
    assert_eq!(
        kinds(&events),
        [
            DeltaKind::Reasoning("Hm.".to_owned()),
            DeltaKind::Signature("EqQB".to_owned()),
            DeltaKind::Text("Okay".to_owned()),
            DeltaKind::ToolCall {
                index: 0,
                id: "toolu_1".to_owned(),
                name: "get_weather".to_owned()
            },
            DeltaKind::ToolArguments { index: 0, json: "{\"city\":".to_owned() },
            DeltaKind::ToolArguments { index: 0, json: " \"Rome\"}".to_owned() },
            DeltaKind::ToolCall { index: 1, id: "toolu_2".to_owned(), name: "now".to_owned() },
            DeltaKind::ToolArguments { index: 1, json: "{}".to_owned() },
            DeltaKind::Finish(FinishReason::ToolCalls),
        ]
    );
    let usage = Usage { input: 472, output: 89, ..Usage::default() };
    assert_eq!(end(&events), (usage, UsageSource::Reported), "the last count, not the sum");
}

#[test]
fn cache_reads_and_one_hour_writes_are_counted_once_each() {
    let start = start(&json!({
        "input_tokens": 21, "cache_creation_input_tokens": 1000, "cache_read_input_tokens": 188_086,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 800},
        "output_tokens": 1, "service_tier": "standard",
    }));
    let [last, end_frame] =
        stop("end_turn", &json!({"output_tokens": 393, "cache_read_input_tokens": 188_086}));
    let (events, _) = read(&[start, last, end_frame]);
    let usage = Usage {
        input: 21,
        cache_read: 188_086,
        cache_write_5m: 200,
        cache_write_1h: 800,
        output: 393,
        ..Usage::default()
    };
    assert_eq!(end(&events).0, usage);
}

#[test]
fn usage_that_nobody_reports_is_estimated_and_says_so() {
    let text = delta(&json!({"type": "text_delta", "text": "12345678"}));
    let [mut last, end_frame] = stop("end_turn", &json!({}));
    last["usage"] = Value::Null;
    let silent = json!({"type": "message_start", "message": {"id": "m"}});
    let (events, _) = read(&[silent, text.clone(), last.clone(), end_frame.clone()]);
    let usage = Usage { input: 11, output: 2, ..Usage::default() };
    assert_eq!(end(&events), (usage, UsageSource::Estimated));
    let known =
        start(&json!({"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}));
    let (events, _) = read(&[known, text, last, end_frame]);
    let usage = Usage { input: 5, cache_read: 4, output: 2, ..Usage::default() };
    assert_eq!(end(&events), (usage, UsageSource::Estimated), "the prompt is known all the same");
}

#[test]
fn an_answer_ends_well_only_when_it_says_so() {
    let begun = start(&json!({"input_tokens": 1}));
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    assert!(!read(&[begun.clone(), error]).1);
    let mut stream = Stream::new(1);
    let _begun = stream.read(begun.to_string().as_bytes()).unwrap();
    assert!(stream.read(b"{\"type\":\"message_stop\"}").is_err(), "no reason was given");
    for data in ["secret", "[1]", "{}"] {
        assert!(!stream.read(data.as_bytes()).unwrap_err().contains("secret"));
    }
    for (reason, expected) in [
        ("max_tokens", FinishReason::Length),
        ("refusal", FinishReason::ContentFilter),
        ("pause_turn", FinishReason::Other("pause_turn".to_owned())),
    ] {
        let [last, end_frame] = stop(reason, &json!({"output_tokens": 1}));
        let (events, _) = read(&[begun.clone(), last, end_frame]);
        assert_eq!(kinds(&events), [DeltaKind::Finish(expected)]);
    }
}

#[test]
fn a_whole_message_is_read_as_its_stream_is() {
    let message = json!({
        "id": "msg_2", "type": "message", "role": "assistant",
        "content": [{"type": "text", "text": "Hi!"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
        "stop_reason": "stop_sequence", "stop_sequence": "END",
        "usage": {"input_tokens": 9, "cache_read_input_tokens": 3, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 5}},
    });
    let Read::Last { events, .. } = whole(message.to_string().as_bytes(), 1).unwrap() else {
        panic!("no whole answer");
    };
    assert_eq!(
        kinds(&events),
        [
            DeltaKind::Text("Hi!".to_owned()),
            DeltaKind::ToolCall { index: 0, id: "t".to_owned(), name: "f".to_owned() },
            DeltaKind::ToolArguments { index: 0, json: "{\"a\":1}".to_owned() },
            DeltaKind::Finish(FinishReason::StopString("END".to_owned())),
        ]
    );
    let usage = Usage { input: 9, cache_read: 3, output: 2, reasoning: 5, ..Usage::default() };
    assert_eq!(end(&events), (usage, UsageSource::Reported));
    assert!(whole(b"{\"id\":1}", 1).is_err());
    let failed = whole(b"{\"type\":\"error\",\"error\":{}}", 1).unwrap();
    assert!(matches!(failed, Read::Failed));
}

#[test]
fn for_its_own_client_every_event_but_the_last_passes_and_the_same_is_seen() {
    let usage = json!({"input_tokens": 5, "output_tokens": 1, "service_tier": "priority"});
    let [last, end_frame] = stop("end_turn", &json!({"output_tokens": 3}));
    let frames = [
        start(&usage),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "redacted_thinking", "data": "x"}}),
        delta(&json!({"type": "thinking_delta", "thinking": "Hm."})),
        delta(&json!({"type": "text_delta", "text": "Okay"})),
        delta(&json!({"type": "citations_delta", "citation": {"cited_text": "Okay"}})),
        json!({"type": "yet_to_come"}),
        last,
    ];
    let mut stream = Stream::new(11);
    let mut passed = Vec::new();
    for frame in &frames {
        let data = Bytes::from(frame.to_string());
        let Read::Events(events) = stream.read_own(&data).unwrap() else { panic!("{frame}") };
        match events.as_slice() {
            [Event::Own { data: own, seen }] => passed.push((own.clone(), seen.clone())),
            [Event::Begin { id }, Event::Own { data: own, seen }] if id == "msg_1" => {
                passed.push((own.clone(), seen.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(passed.iter().map(|(own, _)| own).eq(frames.map(|frame| frame.to_string()).iter()));
    let bytes: Vec<_> =
        passed.iter().map(|(_, seen)| (seen.visible_bytes, seen.reasoning_bytes)).collect();
    assert_eq!(bytes, [(0, 0), (0, 0), (0, 3), (4, 0), (0, 0), (0, 0), (0, 0)]);
    let (_, first) = &passed[0];
    assert_eq!((first.usage, &first.usage_at), (None, &None), "its count is none of the answer");
    let (data, told) = &passed[6];
    assert_eq!(told.usage, Some(Usage { input: 5, output: 3, ..Usage::default() }));
    assert_eq!(told.service, Some(ServiceTier::Priority));
    assert_eq!(told.finish, Some(FinishReason::Stop));
    assert_eq!(data.slice(told.usage_at.clone().unwrap()), r#"{"output_tokens":3}"#);
    let end_frame = Bytes::from(end_frame.to_string());
    let Read::Last { events, .. } = stream.read_own(&end_frame).unwrap() else { panic!() };
    assert!(matches!(events.as_slice(), [Event::End { source: UsageSource::Reported, .. }]));
}

#[test]
fn null_is_as_good_as_nothing() {
    let [last, end_frame] = stop("tool_use", &json!({"output_tokens": 3}));
    let begun = json!({"type": "content_block_start", "index": null, "content_block": {
        "type": "thinking", "thinking": null, "signature": null, "text": null, "id": null, "name": null, "input": null}});
    let mut message = start(&json!({"input_tokens": 5}));
    message["message"]["content"] = Value::Null;
    message["message"]["id"] = Value::Null;
    let call = json!({"type": "content_block_start", "index": 1, "content_block": {
        "type": "tool_use", "id": null, "name": "f", "input": null}});
    let thought = delta(&json!({"type": "thinking_delta", "thinking": "Hm.", "text": null}));
    let (events, whole_one) = read(&[message, begun, thought, call, last, end_frame]);
    assert!(whole_one);
    let kinds_seen = kinds(&events);
    let [
        DeltaKind::Reasoning(hm),
        DeltaKind::ToolCall { id, .. },
        DeltaKind::ToolArguments { json, .. },
        DeltaKind::Finish(_),
    ] = kinds_seen.as_slice()
    else {
        panic!("{kinds_seen:?}")
    };
    assert_eq!((hm.as_str(), json.as_str()), ("Hm.", "{}"));
    assert!(id.len() > 5, "a call has an id: {id}");

    let usage = json!({"input_tokens": 9, "output_tokens": 7});
    let silent = json!({"id": "msg_2", "type": "message", "role": "assistant", "content": null,
        "stop_reason": "end_turn", "stop_sequence": null, "usage": usage});
    let unsigned = json!([{"type": "thinking", "thinking": "Hm.", "signature": null},
                          {"type": "text", "text": "Hi!", "citations": null}]);
    let mut spoken = silent.clone();
    spoken["content"] = unsigned;
    for (message, said) in [(silent, 0), (spoken, 2)] {
        let read = whole(message.to_string().as_bytes(), 1).unwrap();
        let Read::Last { events, .. } = read else { panic!("no whole answer") };
        assert_eq!(kinds(&events).len(), said + 1, "{events:?}");
    }
}

#[test]
fn half_of_a_character_costs_neither_the_text_nor_the_arguments_around_it() {
    let [last, end_frame] = stop("tool_use", &json!({"output_tokens": 3}));
    let call = json!({"type": "content_block_start", "index": 1, "content_block": {
        "type": "tool_use", "id": "t", "name": "f", "input": {}}});
    let frames = [
        start(&json!({"input_tokens": 5})).to_string(),
        r#"{"type":"content_block_delta","delta":{"thinking":"hm \ud83d"}}"#.to_owned(),
        r#"{"type":"content_block_delta","delta":{"text":"see \ude00 here"}}"#.to_owned(),
        call.to_string(),
        r#"{"type":"content_block_delta","delta":{"partial_json":"{\"a\":\"\ud83d\"}"}}"#
            .to_owned(),
        last.to_string(),
        end_frame.to_string(),
    ];
    let mut stream = Stream::new(1);
    let mut events = Vec::new();
    for frame in &frames {
        match stream.read(frame.as_bytes()).unwrap() {
            Read::Events(more) | Read::Last { events: more, .. } => events.extend(more),
            Read::Failed => panic!("{frame}"),
        }
    }
    let kinds = kinds(&events);
    assert_eq!(kinds[0], DeltaKind::Reasoning("hm \u{fffd}".into()));
    assert_eq!(kinds[1], DeltaKind::Text("see \u{fffd} here".into()));
    let json = "{\"a\":\"\u{fffd}\"}".to_owned();
    assert_eq!(kinds[3], DeltaKind::ToolArguments { index: 0, json });
    let body = r#"{"type":"message","content":[{"type":"text","text":"\ud83d b"}],"stop_reason":"end_turn"}"#;
    let Read::Last { events, .. } = whole(body.as_bytes(), 1).unwrap() else { panic!("whole") };
    assert_eq!(self::kinds(&events)[0], DeltaKind::Text("\u{fffd} b".into()));
}

#[test]
fn a_blank_stop_and_a_last_message_without_a_content_are_refused_by_name() {
    let asked = |messages: Value, stop: Value| {
        refused(&json!({"model": "auto", "messages": messages, "stop": stop}))
    };
    let user = |text: &str| json!({"role": "user", "content": text});
    let said = json!({"role": "assistant", "content": "b"});
    let fine = json!([user("a")]);
    for stop in [json!("\n"), json!(["END", " "])] {
        assert_eq!(asked(fine.clone(), stop.clone()).as_deref(), Some("stop"), "{stop}");
    }
    let stops = sent(&json!({"model": "auto", "messages": fine, "stop": ["\nEND"]}));
    assert_eq!(stops["stop_sequences"], json!(["\nEND"]));
    // It would go on with its own words.
    for last in ["", " \n"] {
        let messages = json!([user("a"), said, user(last)]);
        assert_eq!(asked(messages, Value::Null).as_deref(), Some("messages"));
    }
    for (messages, last) in [
        (json!([user("a"), said, user(""), user("c")]), "c"),
        (json!([user("a"), user("")]), "a"),
        (json!([user("a"), said]), "b"),
    ] {
        let turns = sent(&json!({"model": "auto", "messages": messages}));
        let turn = turns["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(turn["content"][0]["text"], last);
    }
}
