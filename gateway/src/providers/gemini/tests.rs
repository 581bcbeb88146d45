//! Gemini's published examples and the faults that peers had, in and out.

use super::{Stream, body, whole};
use crate::{
    providers::Read,
    wire::{DeltaKind, Event, FinishReason, read_chat},
};
use bytes::Bytes;
use http::HeaderMap;
use policies::{Usage, UsageSource};
use serde_json::{Value, json};

fn sent_to(model: &str, request: &Value) -> Value {
    let request = read_chat(Bytes::from(request.to_string()), &HeaderMap::new(), 500).unwrap();
    serde_json::from_slice(&body(&request, &request.body, model, request.output_cap).unwrap())
        .unwrap()
}

fn refused(model: &str, more: &Value) -> Option<String> {
    let mut request = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    let request = read_chat(Bytes::from(request.to_string()), &HeaderMap::new(), 500).unwrap();
    body(&request, &request.body, model, 500).err()?.param
}

#[test]
fn models_that_draw_or_speak_are_refused_by_name() {
    for model in
        ["gemini-2.5-flash-image", "gemini-3-pro-image-preview", "gemini-2.5-pro-preview-tts"]
    {
        assert_eq!(refused(model, &json!({})).as_deref(), Some("model"), "{model}");
    }
    for model in ["gemini-2.5-flash", "gemini-3.5-flash-lite", "gemma-4-31b-it"] {
        assert_eq!(refused(model, &json!({})), None, "{model}");
    }
}

#[test]
fn a_seed_that_does_not_fit_is_let_go_and_a_sixth_stop_string_is_refused() {
    let seed = |seed: i64| {
        let request = json!({"model": "auto", "seed": seed,
            "messages": [{"role": "user", "content": "Hi"}]});
        sent_to("gemini-2.5-flash", &request)["generationConfig"]["seed"].clone()
    };
    assert_eq!(seed(i64::from(i32::MAX)), json!(i32::MAX));
    assert_eq!(seed(-5), json!(-5));
    for large in [i64::from(i32::MAX) + 1, i64::MIN, i64::MAX] {
        assert_eq!(seed(large), Value::Null, "{large}");
    }
    let stops = |count: usize| refused("gemini-2.5-flash", &json!({"stop": vec!["x"; count]}));
    assert_eq!(stops(5), None);
    assert_eq!(stops(6).as_deref(), Some("stop"));
}

#[test]
fn each_family_is_told_of_an_effort_in_words_that_it_takes() {
    let told = |model: &str, effort: &str, cap: u64| {
        let request = json!({"model": "auto", "reasoning_effort": effort, "max_tokens": cap,
            "messages": [{"role": "user", "content": "Hi"}]});
        let config = sent_to(model, &request)["generationConfig"]["thinkingConfig"].clone();
        match (config.get("thinkingLevel"), config.get("thinkingBudget")) {
            (Some(level), None) => level.as_str().unwrap().to_owned(),
            (None, Some(budget)) => budget.to_string(),
            (None, None) => "untold".to_owned(),
            both => panic!("{both:?}"),
        }
    };
    for (model, [none, minimal, low, medium, high]) in [
        ("gemini-1.5-flash", ["untold"; 5]),
        ("gemini-2.0-flash", ["untold"; 5]),
        ("gemma-4-31b-it", ["untold"; 5]),
        ("gemini-2.5-flash", ["0", "512", "1024", "8192", "24576"]),
        ("gemini-2.5-flash-lite", ["0", "512", "1024", "8192", "24576"]),
        ("gemini-2.5-pro", ["128", "512", "1024", "8192", "24576"]),
        ("gemini-3-pro-preview", ["low", "low", "low", "high", "high"]),
        ("gemini-3-flash-preview", ["minimal", "minimal", "low", "medium", "high"]),
        ("gemini-3.1-pro-preview", ["low", "low", "low", "medium", "high"]),
        ("gemini-3.1-flash-lite", ["minimal", "minimal", "low", "medium", "high"]),
        ("gemini-3.7-flash", ["low", "low", "low", "medium", "high"]),
        ("gemini-3.8-flash", ["low", "low", "low", "medium", "high"]),
        ("gemini-pro-latest", ["low", "low", "low", "medium", "high"]),
    ] {
        for (effort, wanted) in [
            ("none", none),
            ("minimal", minimal),
            ("low", low),
            ("medium", medium),
            ("high", high),
            ("xhigh", high),
        ] {
            assert_eq!(told(model, effort, 60_000), wanted, "{model}, {effort}");
        }
    }
    for (model, effort, cap, wanted) in [
        ("gemini-2.5-flash-lite", "high", 511, "untold"),
        ("gemini-2.5-flash-lite", "none", 511, "0"),
        ("gemini-2.5-flash-lite", "high", 600, "600"),
        ("gemini-2.5-pro", "none", 127, "untold"),
        ("gemini-2.5-flash", "low", 100, "100"),
    ] {
        assert_eq!(told(model, effort, cap), wanted, "{model}, {effort}, {cap}");
    }
}

#[test]
fn nothing_is_said_of_no_tools_and_no_contents_are_refused() {
    let asks = |content: &str| {
        json!({"model": "auto", "tools": [], "tool_choice": "auto",
            "messages": [{"role": "user", "content": content}]})
    };
    assert_eq!(sent_to("gemini-2.5-flash", &asks("Hi")).get("toolConfig"), None);
    let request = read_chat(asks("").to_string().into(), &HeaderMap::new(), 500).unwrap();
    let refused = body(&request, &request.body, "gemini-2.5-flash", 9).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("messages"));
}

#[test]
fn of_tools_that_a_choice_lists_the_others_are_left_out() {
    let sent = |mode: &str, name: &str| {
        let tool =
            |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {}}});
        let allowed = json!({"mode": mode, "tools": [
            {"type": "function", "function": {"name": name}}]});
        let request = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}],
            "tools": [tool("look"), tool("wait")],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}});
        let request = read_chat(request.to_string().into(), &HeaderMap::new(), 500).unwrap();
        let sent = body(&request, &request.body, "gemini-2.5-flash", 9).map_err(|bad| bad.param)?;
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let declared = sent["tools"][0]["functionDeclarations"].as_array();
        let names = declared.into_iter().flatten().map(|tool| tool["name"].clone());
        let mode = sent["toolConfig"]["functionCallingConfig"]["mode"].clone();
        Ok::<_, Option<String>>((mode, names.collect::<Vec<_>>()))
    };
    assert_eq!(sent("auto", "wait"), Ok((json!("AUTO"), vec![json!("wait")])));
    assert_eq!(sent("required", "wait"), Ok((json!("ANY"), vec![json!("wait")])));
    assert_eq!(sent("auto", "other"), Ok((Value::Null, vec![])));
    let unknown = Err(Some("tool_choice.allowed_tools.tools".to_owned()));
    assert_eq!(sent("required", "other"), unknown);
}

#[test]
fn a_conversation_with_tools_becomes_contents() {
    let request = json!({
        "model": "auto", "max_tokens": 300, "stop": ["END"], "temperature": 0.5, "seed": 7, "n": 2,
        "presence_penalty": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1__thought__c2ln", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "wait", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_1__thought__c2ln", "content": "a cat"},
            {"role": "tool", "tool_call_id": "b", "content": "{\"ok\":true}"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    });
    assert_eq!(
        sent_to("gemini-2.5-flash", &request),
        json!({
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [
                    {"text": "What is this?"},
                    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                ]},
                {"role": "model", "parts": [
                    {"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"name": "wait", "args": {}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "look", "response": {"result": "a cat"}}},
                    {"functionResponse": {"name": "wait", "response": {"ok": true}}},
                ]},
            ],
            "tools": [{"functionDeclarations": [{"name": "look", "parametersJsonSchema": {"type": "object"}}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
            "generationConfig": {
                "maxOutputTokens": 300, "candidateCount": 2, "temperature": 0.5, "seed": 7,
                "presencePenalty": 0.5, "stopSequences": ["END"],
                "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"},
            },
        })
    );
}

#[test]
fn an_image_in_a_result_is_shown_beside_it() {
    let shown = |url: &str| {
        let request = json!({"model": "auto", "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "x", "content": [
                {"type": "text", "text": "here"}, {"type": "image_url", "image_url": {"url": url}}]},
        ]});
        let request = read_chat(Bytes::from(request.to_string()), &HeaderMap::new(), 500).unwrap();
        body(&request, &request.body, "gemini-2.5-flash", 500)
    };
    let sent: Value =
        serde_json::from_slice(&shown("data:image/png;base64,AAAA").unwrap()).unwrap();
    let result = json!({"functionResponse": {"name": "f", "response": {"result": "here"}}});
    let image = json!({"inlineData": {"mimeType": "image/png", "data": "AAAA"}});
    assert_eq!(sent["contents"][2], json!({"role": "user", "parts": [result, image]}));
    let refused = shown("https://example.com/a.png").unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("messages"));
}

#[test]
fn what_is_said_is_kept_and_what_cannot_be_is_refused() {
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let other = json!({"type": "function", "function": {"name": "g"}});
    let request = |tools: Value| {
        json!({"model": "auto", "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": null, "refusal": "I cannot."},
            {"role": "tool", "tool_call_id": "x", "content": " {\"b\": 1.50,\"a\":[]} "},
        ], "tools": tools, "parallel_tool_calls": false})
    };
    let written = sent_to("gemini-2.5-flash", &request(json!([tool])));
    assert_eq!(written["contents"][1]["parts"], json!([{"text": "I cannot."}]));
    let result = &written["contents"][2]["parts"][0]["functionResponse"];
    assert_eq!(result["response"], json!({"b": 1.5, "a": []}));
    let request = request(json!([tool, other])).to_string();
    let request = read_chat(Bytes::from(request), &HeaderMap::new(), 500).unwrap();
    let refused = body(&request, &request.body, "gemini-2.5-flash", 500).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("parallel_tool_calls"));
}

#[test]
fn a_call_from_elsewhere_carries_a_stand_in_for_its_signature_where_one_is_needed() {
    let request = json!({"model": "auto", "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "x", "content": "1"}], "reasoning_effort": "low"});
    let signature = |model: &str| {
        sent_to(model, &request)["contents"][1]["parts"][0]["thoughtSignature"].clone()
    };
    assert_eq!(signature("gemini-3.5-flash"), json!("skip_thought_signature_validator"));
    assert_eq!(signature("gemini-2.5-flash"), Value::Null);
    let thinking =
        |model: &str| sent_to(model, &request)["generationConfig"]["thinkingConfig"].clone();
    assert_eq!(
        thinking("gemini-3.5-flash"),
        json!({"thinkingLevel": "low", "includeThoughts": true})
    );
    assert_eq!(
        thinking("gemini-2.5-flash"),
        json!({"thinkingBudget": 500, "includeThoughts": true})
    );
}

fn read(chunks: &[Value], choices: u32) -> Option<Vec<Event>> {
    let mut stream = Stream::new(11, choices);
    let mut all = Vec::new();
    for chunk in chunks {
        match stream.read(chunk.to_string().as_bytes()).unwrap() {
            Read::Events(events) => all.extend(events),
            other => panic!("{other:?}"),
        }
    }
    all.push(stream.end(false)?);
    Some(all)
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

fn chunk(parts: &Value, finish: Option<&str>, usage: &Value) -> Value {
    json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": finish, "index": 0}],
        "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", "responseId": "r1"})
}

#[test]
fn a_stream_of_thoughts_and_text_becomes_deltas_and_the_last_counts_hold() {
    let events = read(&[
        chunk(&json!([{"text": "Hm.", "thought": true}]), None,
            &json!({"promptTokenCount": 1200, "totalTokenCount": 1290, "thoughtsTokenCount": 90})),
        chunk(&json!([{"text": "Okay"}]), None, &json!({"promptTokenCount": 1200, "candidatesTokenCount": 1})),
        chunk(&json!([{"text": ""}]), Some("STOP"), &json!({
            "promptTokenCount": 1200, "cachedContentTokenCount": 1000, "candidatesTokenCount": 30,
            "thoughtsTokenCount": 90, "totalTokenCount": 1320, "toolUsePromptTokenCount": 8,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1100}, {"modality": "IMAGE", "tokenCount": 100}],
        })),
    ], 1).unwrap();
    assert!(matches!(&events[0], Event::Begin { id } if id == "r1"));
    assert_eq!(
        kinds(&events),
        [
            DeltaKind::Reasoning("Hm.".to_owned()),
            DeltaKind::Text("Okay".to_owned()),
            DeltaKind::Finish(FinishReason::Stop),
        ]
    );
    let usage = Usage {
        input: 108,
        cache_read: 1000,
        image: 100,
        output: 30,
        reasoning: 90,
        ..Usage::default()
    };
    assert_eq!(end(&events), (usage, UsageSource::Reported));
    assert_eq!(usage.total(), 1328, "thoughts beside the candidates, the cache within the prompt");
}

#[test]
fn calls_keep_their_signature_in_their_id() {
    let body = chunk(
        &json!([
            {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "g"}},
        ]),
        Some("STOP"),
        &json!({}),
    );
    let Read::Last { events, .. } = whole(body.to_string().as_bytes(), 11, 1).unwrap() else {
        panic!("no whole answer");
    };
    let kinds = kinds(&events);
    let DeltaKind::ToolCall { index: 0, id, name } = &kinds[0] else { panic!("{kinds:?}") };
    assert!(name == "f" && id.starts_with("call_") && id.ends_with("__thought__c2ln"));
    assert_eq!(kinds[1], DeltaKind::ToolArguments { index: 0, json: "{\"a\":1}".to_owned() });
    let DeltaKind::ToolCall { index: 1, id, .. } = &kinds[2] else { panic!("{kinds:?}") };
    assert!(!id.contains("__thought__"));
    assert_eq!(kinds[3], DeltaKind::ToolArguments { index: 1, json: "{}".to_owned() });
    assert_eq!(kinds[4], DeltaKind::Finish(FinishReason::ToolCalls), "a STOP after calls");
    assert_eq!(end(&events).1, UsageSource::Estimated, "no usage is never zero");
    assert_eq!(end(&events).0.input, 11);
}

#[test]
fn a_blocked_prompt_is_filtered_and_an_unfinished_answer_is_none() {
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}});
    let events = read(&[blocked], 1).unwrap();
    assert_eq!(kinds(&events), [DeltaKind::Finish(FinishReason::ContentFilter)]);
    assert_eq!(end(&events).0, Usage { input: 4, ..Usage::default() });
    let text = chunk(&json!([{"text": "a"}]), None, &json!({}));
    assert!(read(std::slice::from_ref(&text), 1).is_none());
    let last = chunk(&json!([{"text": "a"}]), Some("MAX_TOKENS"), &json!({}));
    assert!(read(&[text, last], 2).is_none(), "one of two choices is missing");
    for reason in ["MALFORMED_FUNCTION_CALL", "OTHER"] {
        let usage = json!({"promptTokenCount": 4, "totalTokenCount": 4});
        let silent = chunk(&json!([]), Some(reason), &usage).to_string();
        let mut stream = Stream::new(1, 1);
        stream.read(silent.as_bytes()).unwrap_err();
        assert_eq!(stream.told(), Some(Usage { input: 4, ..Usage::default() }), "it is charged");
        whole(silent.as_bytes(), 1, 1).unwrap_err();
        let spoke = chunk(&json!([{"text": "a"}]), Some(reason), &usage);
        assert_eq!(kinds(&read(&[spoke], 1).unwrap())[1], DeltaKind::Finish(FinishReason::Stop));
    }
    let mut stream = Stream::new(1, 1);
    assert!(matches!(stream.read(b"{\"error\":{\"code\":503}}"), Ok(Read::Failed)));
    for data in ["secret", "[\"secret\"]"] {
        assert!(!stream.read(data.as_bytes()).unwrap_err().contains("secret"));
    }
}

#[test]
fn a_part_that_is_neither_text_nor_a_call_is_an_error_and_what_it_took_is_told() {
    let usage = json!({"promptTokenCount": 4, "candidatesTokenCount": 1290, "totalTokenCount": 1294,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}]});
    for part in [
        json!({"inlineData": {"mimeType": "image/png", "data": "secret"}}),
        json!({"fileData": {"fileUri": "secret"}}),
        json!({"executableCode": {"code": "secret"}}),
        json!({"codeExecutionResult": {"output": "secret"}}),
    ] {
        let drawn = chunk(&json!([{"text": "Here."}, part]), Some("STOP"), &usage).to_string();
        let mut stream = Stream::new(1, 1);
        let error = stream.read(drawn.as_bytes()).unwrap_err();
        assert!(error.contains("neither text nor a call") && !error.contains("secret"), "{error}");
        assert_eq!(stream.told(), Some(Usage { input: 4, output: 1290, ..Usage::default() }));
        assert_eq!(whole(drawn.as_bytes(), 1, 1).unwrap_err(), error);
    }
    let spoken = json!({"promptTokenCount": 4, "candidatesTokenCount": 30, "totalTokenCount": 34,
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 20}]});
    let events = read(&[chunk(&json!([{"text": "Hm."}]), Some("STOP"), &spoken)], 1).unwrap();
    let usage = Usage { input: 4, output: 10, audio_output: 20, ..Usage::default() };
    assert_eq!(end(&events).0, usage, "speech has a rate of its own");
}

#[test]
fn null_is_as_good_as_nothing_and_half_of_a_character_costs_only_itself() {
    let thought = json!({"candidates": [{"index": null, "finishReason": null, "finishMessage": null,
        "content": {"role": null, "parts": [{"text": "Hm.", "thought": true, "functionCall": null,
            "thoughtSignature": null, "inlineData": null}]}}],
        "promptFeedback": {"blockReason": null, "safetyRatings": null},
        "usageMetadata": {"promptTokenCount": null, "promptTokensDetails": null}, "error": null});
    let text = json!({"candidates": [{"content": {"parts": [{"text": "Hi", "thought": null},
        {"functionCall": {"name": "f", "args": null}}]}}], "usageMetadata": null});
    let silent = json!({"candidates": null, "responseId": null});
    let partless = json!({"candidates": [{"content": {"parts": null}}]});
    let usage = json!({"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": null,
        "promptTokensDetails": [{"modality": null, "tokenCount": null}], "candidatesTokensDetails": null});
    let last =
        json!({"candidates": [{"content": null, "finishReason": "STOP"}], "usageMetadata": usage});
    let events = read(&[thought, silent, partless, text, last], 1).unwrap();
    let kinds_seen = kinds(&events);
    let [
        DeltaKind::Reasoning(hm),
        DeltaKind::Text(hi),
        DeltaKind::ToolCall { name, .. },
        DeltaKind::ToolArguments { json, .. },
        DeltaKind::Finish(FinishReason::ToolCalls),
    ] = kinds_seen.as_slice()
    else {
        panic!("{kinds_seen:?}")
    };
    assert_eq!([hm, hi, name, json], ["Hm.", "Hi", "f", "{}"]);
    assert_eq!(end(&events).0, Usage { input: 4, output: 2, ..Usage::default() });

    let half =
        r#"{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"a\ud83d b"}]}}]}"#;
    let Read::Last { events, .. } = whole(half.as_bytes(), 1, 1).unwrap() else { panic!() };
    assert_eq!(kinds(&events)[0], DeltaKind::Text("a\u{fffd} b".into()));
}
