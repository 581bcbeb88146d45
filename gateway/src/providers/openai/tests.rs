//! Golden files: what clients write beside what is sent upstream, and what providers write beside
//! what is seen in it. `UPDATE_GOLDEN=1` writes them anew; the difference is then to be read.

use super::{
    Differs, ProviderError, Reader, provider_error, read_chunk, read_whole, upstream_body,
};
use crate::{
    config::CapField,
    providers::{CallIds, Recalls},
    wire::{DeltaKind, FinishReason, Seen, read_chat, sse::Decoder},
};
use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where a provider differs that hardly does.
fn differs() -> Differs {
    Differs {
        cap_field: CapField::MaxTokens,
        call_ids: CallIds::Short,
        has_developers: true,
        recalls: Recalls::AsWritten,
        unthinking: None,
    }
}

fn golden(folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/providers/openai/golden").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Compares `found` with the file beside `source` that has `ending` in place of `from`.
fn compare(source: &Path, from: &str, ending: &str, found: &[u8]) {
    let name = source.to_str().unwrap().replace(from, ending);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&name, found).unwrap();
    }
    let expected = fs::read(&name).unwrap_or_default();
    assert_eq!(String::from_utf8_lossy(found), String::from_utf8_lossy(&expected), "{name}");
}

#[test]
fn a_clients_body_changes_only_where_it_must() {
    for path in golden("requests", ".client.json") {
        let body = Bytes::from(fs::read(&path).unwrap());
        let request = read_chat(body, &HeaderMap::new(), 500).unwrap();
        let cap = request.output_cap;
        let of = |cap_field| Differs { cap_field, ..differs() };
        let new = upstream_body(&request, r#""big-1""#, of(CapField::MaxCompletionTokens), cap);
        compare(&path, ".client.json", ".upstream.json", &new);
        let old = upstream_body(&request, r#""big-1""#, of(CapField::MaxTokens), cap);
        compare(&path, ".client.json", ".upstream-old-cap.json", &old);
        for sent in [new, old] {
            let again = read_chat(sent, &HeaderMap::new(), 1).unwrap();
            assert_eq!((again.model.as_str(), again.output_cap), ("big-1", cap));
            assert_eq!((again.stream, again.include_usage), (request.stream, request.stream));
            assert_eq!(again.messages, request.messages);
        }
    }
}

#[test]
fn developers_speak_as_the_system_where_there_are_none() {
    let body = |role: &str| {
        format!(
            r#"{{"model": "big-1", "max_tokens":5, "messages":[ {{"content":"a developer","role" : "{role}"}},
            {{"role":"user","content":[{{"type":"text","text":"developer"}}],"x":{{"role":"developer"}}}} ]}}"#
        )
    };
    let sent = |role: &str, has_developers| {
        let request = read_chat(Bytes::from(body(role)), &HeaderMap::new(), 500).unwrap();
        let cap_field = CapField::MaxTokens;
        let differs = Differs { cap_field, has_developers, ..differs() };
        let sent = upstream_body(&request, r#""big-1""#, differs, 5);
        String::from_utf8(sent.to_vec()).unwrap()
    };
    for role in ["developer", r"\u0064eveloper"] {
        assert_eq!(sent(role, false), body("system"), "{role}");
        assert_eq!(sent(role, true), body(role), "{role}");
    }
    assert_eq!(sent("assistant", false), body("assistant"));
}

#[test]
fn what_a_providers_stream_holds_is_seen() {
    for path in golden("streams", ".sse") {
        let mut decoder = Decoder::new(1 << 20);
        decoder.feed(Bytes::from(fs::read(&path).unwrap()));
        let mut lines = String::new();
        while let Some(event) = decoder.next_event().unwrap() {
            if event.data == "[DONE]" {
                continue;
            }
            let read = read_chunk(&event.data, true, false).unwrap();
            lines += &format!(
                "{} of {} ended; {}\n",
                read.seen.ended().count(),
                read.choices,
                shown(&read.seen)
            );
        }
        compare(&path, ".sse", ".seen.txt", lines.as_bytes());
    }
}

#[test]
fn what_a_providers_whole_answer_holds_is_seen() {
    for path in golden("wholes", ".json") {
        let read = read_whole(&fs::read(&path).unwrap()).unwrap();
        compare(&path, ".json", ".seen.txt", format!("{}\n", shown(&read.seen)).as_bytes());
    }
}

#[test]
fn how_each_choice_ended_is_seen_where_there_are_several() {
    let finishes = |choices: &str| {
        let seen = read_chunk(format!("{{\"choices\":[{choices}]}}").as_bytes(), false, false)
            .unwrap()
            .seen;
        let all: Vec<_> =
            seen.finishes.iter().map(|(at, why)| (*at, why.as_str().to_owned())).collect();
        (seen.finish.unwrap().as_str().to_owned(), all)
    };
    let (first, third) =
        (r#"{"index":0,"finish_reason":"stop"}"#, r#"{"finish_reason":"length","index":2}"#);
    let of = |at, why: &str| (at, why.to_owned());
    assert_eq!(finishes(first), ("stop".to_owned(), vec![]));
    assert_eq!(finishes(r#"{"finish_reason":"stop"}"#), ("stop".to_owned(), vec![]));
    assert_eq!(finishes(third), ("length".to_owned(), vec![of(2, "length")]));
    let all = vec![of(0, "stop"), of(2, "length")];
    assert_eq!(finishes(&format!("{first},{third}")), ("length".to_owned(), all));
    let all = vec![of(2, "length"), of(0, "stop")];
    assert_eq!(finishes(&format!("{third},{first}")), ("stop".to_owned(), all));
}

/// What is not as it is by default.
fn shown(seen: &Seen) -> String {
    let mut parts = Vec::new();
    let mut add = |is: bool, part: String| {
        if is {
            parts.push(part);
        }
    };
    add(seen.visible, format!("visible {}", seen.visible_bytes));
    add(seen.reasoning_bytes > 0, format!("reasoning {}", seen.reasoning_bytes));
    add(seen.finish.is_some(), format!("finish {:?}", seen.finish));
    if let Some(usage) = &seen.usage {
        let policies::Usage { input, cache_read, cache_write_5m, output, reasoning, .. } = usage;
        let policies::Usage { cache_write_1h, image, audio, audio_output, .. } = usage;
        add(*cache_write_1h > 0, format!("write 1h {cache_write_1h}"));
        add(
            image + audio + audio_output > 0,
            format!("image {image}, audio {audio} + {audio_output}"),
        );
        add(
            true,
            format!(
                "usage: input {input} + read {cache_read} + write {cache_write_5m}, output {output} + reasoning {reasoning}"
            ),
        );
    }
    add(seen.usage_only, "usage only".into());
    add(seen.error, "error".into());
    add(seen.id.is_some(), format!("id {:?}", seen.id));
    parts.join("; ")
}

#[test]
fn what_is_no_chunk_is_an_error_without_its_text() {
    for data in
        ["", "secret", "[1]", "\"secret\"", r#"{"choices":"secret"}"#, r#"{"choices":[1]}"#, "{"]
    {
        let error = read_chunk(data.as_bytes(), true, false).unwrap_err();
        assert!(!error.contains("secret"));
    }
    assert!(read_whole(b"{\"choices\":[]}").is_err());
}

#[test]
fn googles_wait_is_read_from_the_errors_details() {
    let read = |details: &str| {
        // As in https://ai.google.dev/gemini-api/docs/troubleshooting and google.rpc.RetryInfo.
        let body = format!(
            r#"{{"error":{{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":{details}}}}}"#
        );
        provider_error(body.as_bytes()).retry_after
    };
    let quota = r#"{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{}]}"#;
    let retry = r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}"#;
    assert_eq!(read(&format!("[{quota},{retry}]")), Some(Duration::from_millis(34_500)));
    for nothing in ["[]", quota, "null", &format!("[{quota}]"), r#"[{"retryDelay":"soon"}]"#] {
        assert_eq!(read(nothing), None, "{nothing}");
    }
    for odd in ["-3s", "1e400s", "3"] {
        assert_eq!(read(&format!(r#"[{{"retryDelay":"{odd}"}}]"#)), None, "{odd}");
    }
}

#[test]
fn an_error_body_is_read_in_every_usual_shape() {
    let some = |text: &str| Some(text.to_owned());
    for (body, expected) in [
        (
            r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#,
            ProviderError {
                message: some("m"),
                error_type: some("t"),
                param: some("p"),
                code: some("c"),
                retry_after: None,
            },
        ),
        (
            r#"{"error":{"message":"m","param":null,"code":429}}"#,
            ProviderError { message: some("m"), code: some("429"), ..ProviderError::default() },
        ),
        (r#"{"error":"m"}"#, ProviderError { message: some("m"), ..ProviderError::default() }),
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
            ProviderError {
                message: some("m"),
                error_type: some("BadRequestError"),
                code: some("400"),
                ..ProviderError::default()
            },
        ),
        (r#"{"detail":"m"}"#, ProviderError { message: some("m"), ..ProviderError::default() }),
        (r#"{"detail":[{"loc":["x"]}]}"#, ProviderError::default()),
        // OpenRouter's of another provider, whose own words these are.
        (
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"m\",\"type\":\"t\"}}"}}}"#,
            ProviderError {
                message: some("m"),
                error_type: some("t"),
                code: some("400"),
                ..ProviderError::default()
            },
        ),
        (
            r#"{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":{"message":"m","code":"c"}}}}"#,
            ProviderError { message: some("m"), code: some("c"), ..ProviderError::default() },
        ),
        (
            r#"{"error":{"message":"o","metadata":{"raw":"overloaded"}}}"#,
            ProviderError { message: some("overloaded"), ..ProviderError::default() },
        ),
        (
            r#"{"error":{"message":"o","metadata":{"raw":"<html>","reasons":["x"]}}}"#,
            ProviderError { message: some("o"), ..ProviderError::default() },
        ),
        ("<html>", ProviderError::default()),
        ("[]", ProviderError::default()),
        ("", ProviderError::default()),
    ] {
        assert_eq!(provider_error(body.as_bytes()), expected, "{body}");
    }
    let long =
        format!(r#"{{"error":{{"message":"{}","code":"{}"}}}}"#, "é".repeat(5000), "x".repeat(500));
    let read = provider_error(long.as_bytes());
    assert!(read.message.unwrap().len() <= 2003 && read.code.is_none());
}

/// The calls that come of pieces of calls, each in a chunk of its own: number, id, name, arguments.
fn calls_of(pieces: &[Value]) -> Vec<(u32, String, String, String)> {
    let mut reader = Reader::default();
    let mut calls: Vec<(u32, String, String, String)> = Vec::new();
    for piece in pieces {
        let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]});
        for delta in reader.read(chunk.to_string().as_bytes()).unwrap() {
            match delta.kind {
                DeltaKind::ToolCall { index, id, name } => {
                    calls.push((index, id, name, String::new()));
                }
                DeltaKind::ToolArguments { index, json } => {
                    let call = calls.iter_mut().rfind(|call| call.0 == index).unwrap();
                    call.3.push_str(&json);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    calls
}

/// A piece of a call; what is empty is absent, but for the arguments.
fn piece(index: Option<u32>, id: &str, name: &str, arguments: &str) -> Value {
    let mut piece = json!({"function": {"arguments": arguments}});
    if let Some(index) = index {
        piece["index"] = json!(index);
    }
    if !id.is_empty() {
        piece["id"] = json!(id);
    }
    if !name.is_empty() {
        piece["function"]["name"] = json!(name);
    }
    piece
}

#[test]
fn a_call_that_is_named_in_every_piece_is_one() {
    let at = Some(0);
    let (start, middle, end) = ("", "{\"x\"", ":\"}\"}");
    for (ids, names) in [
        (["a", "a", "a"], ["f", "f", "f"]),
        (["a", "", ""], ["f", "f", "f"]),
        (["a", "a", ""], ["f", "", ""]),
        (["", "a", "a"], ["f", "f", "f"]),
        (["a", "a", "a"], ["f", "f", ""]),
    ] {
        let mut pieces: Vec<_> = [start, middle, end]
            .into_iter()
            .zip(ids)
            .zip(names)
            .map(|((arguments, id), name)| piece(at, id, name, arguments))
            .collect();
        // Once more, with nothing in it.
        pieces.push(piece(at, ids[2], names[2], ""));
        let calls = calls_of(&pieces);
        assert_eq!(calls.len(), 1, "{calls:?}");
        let (index, id, name, arguments) = &calls[0];
        assert_eq!((*index, name.as_str(), arguments.as_str()), (0, "f", "{\"x\":\"}\"}"));
        assert!(id == "a" || ids[0].is_empty(), "{id}");
    }
}

#[test]
fn calls_of_one_number_are_several_where_they_differ_or_one_was_whole() {
    let two = |first: (&str, &str), second: (&str, &str), index| {
        let pieces = [first, second].map(|(id, name)| piece(index, id, name, "{\"x\":1}"));
        let calls = calls_of(&pieces);
        assert_eq!(calls.len(), 2, "{first:?} {second:?}: {calls:?}");
        assert!(calls.iter().all(|call| call.3 == "{\"x\":1}"), "{calls:?}");
        assert_ne!(calls[0].1, calls[1].1, "each has its own id");
    };
    for index in [None, Some(0)] {
        two(("a", "f"), ("b", "g"), index);
        two(("a", "f"), ("b", "f"), index);
        two(("a", "f"), ("a", "f"), index);
        two(("", "f"), ("", "f"), index);
        two(("", "f"), ("", "g"), index);
        two(("", "f"), ("b", "f"), index);
        two(("a", "f"), ("", "g"), index);
        two(("a", "f"), ("a", "g"), index);
    }
    // Calls without arguments: none of the first one's can be told to be whole.
    for (first, second) in
        [(("a", "f"), ("b", "f")), (("", "f"), ("", "g")), (("a", "f"), ("a", "g"))]
    {
        let pieces = [first, second].map(|(id, name)| piece(None, id, name, ""));
        let names: Vec<_> = calls_of(&pieces).into_iter().map(|call| call.2).collect();
        assert_eq!(names, [first.1, second.1], "{first:?} {second:?}");
    }
    // An id that comes back is another call's by then.
    let calls = calls_of(&["a", "b", "a"].map(|id| piece(Some(0), id, "f", "{}")));
    let ids: std::collections::HashSet<_> = calls.iter().map(|call| call.1.as_str()).collect();
    assert_eq!((calls.len(), ids.len()), (3, 3), "{calls:?}");
    // The second one, whose id was the first one's, is named once more.
    let calls = calls_of(&[
        piece(Some(0), "a", "f", "{}"),
        piece(Some(1), "a", "g", "{}"),
        piece(Some(1), "a", "g", ""),
    ]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    // Side by side, under one id.
    let calls = calls_of(&[piece(Some(0), "a", "f", "{}"), piece(Some(1), "a", "g", "{}")]);
    assert_eq!((calls[0].1.as_str(), calls.len()), ("a", 2));
    assert_ne!(calls[1].1, "a");
}

#[test]
fn arguments_that_come_before_the_name_of_their_call_are_its() {
    let calls = calls_of(&[
        piece(Some(0), "", "", "{\"x\""),
        piece(Some(1), "b", "g", "{}"),
        piece(Some(0), "", "", ":"),
        piece(Some(0), "a", "f", "1"),
        piece(Some(0), "", "", "}"),
    ]);
    let told: Vec<_> =
        calls.iter().map(|call| (call.0, call.2.as_str(), call.3.as_str())).collect();
    assert_eq!(told, [(1, "g", "{}"), (0, "f", "{\"x\":1}")]);
}

#[test]
fn a_list_of_what_is_wrong_names_the_first() {
    for (body, message, param) in [
        (
            r#"{"detail":[{"type":"missing","loc":["body","messages",0,"content"],"msg":"Field required"}]}"#,
            Some("messages[0].content: Field required"),
            Some("messages[0].content"),
        ),
        (
            r#"{"object":"error","message":{"detail":[{"loc":["body"],"msg":"odd"}]},"type":"t"}"#,
            Some("odd"),
            None,
        ),
        (r#"{"detail":[]}"#, None, None),
    ] {
        let read = provider_error(body.as_bytes());
        assert_eq!((read.message.as_deref(), read.param.as_deref()), (message, param), "{body}");
    }
}

#[test]
fn arguments_that_nobody_named_are_no_answer() {
    let unnamed = json!({"index": 0, "function": {"arguments": "{}"}});
    let finished = json!({"choices": [{"index": 0, "delta": {"tool_calls": [unnamed]},
        "finish_reason": "tool_calls"}]});
    let whole = json!({"choices": [{"index": 0, "message": {"tool_calls": [unnamed]},
        "finish_reason": "tool_calls"}]});
    for payload in [finished, whole] {
        let error = Reader::default().read(payload.to_string().as_bytes()).unwrap_err();
        assert!(error.contains("nobody named"), "{error}");
    }
}

#[test]
fn what_a_message_repeats_is_counted_once() {
    let bytes = |chunk: Value, told: bool| {
        let seen = read_chunk(chunk.to_string().as_bytes(), false, told).unwrap().seen;
        (seen.visible_bytes, seen.reasoning_bytes)
    };
    let message = json!({"content": "Hi you", "reasoning": "Hm"});
    let both = json!({"choices": [{"message": message, "delta": {"content": "you"}}]});
    assert_eq!(bytes(both.clone(), false), (3, 0));
    assert_eq!(bytes(both, true), (3, 0));
    let last = json!({"choices": [{"delta": {}, "message": message}]});
    assert_eq!(bytes(last.clone(), true), (0, 0));
    assert_eq!(bytes(last, false), (6, 2), "nobody said it before");
    let read = read_whole(json!({"choices": [{"message": message}]}).to_string().as_bytes());
    assert_eq!(read.unwrap().seen.visible_bytes, 6);
}

#[test]
fn a_choice_that_failed_is_an_error() {
    let failed = json!({"code": 502, "message": "up"});
    for choice in [
        json!({"index": 0, "error": failed, "finish_reason": "error", "message": {"content": "Par"}}),
        json!({"index": 0, "error": failed, "finish_reason": "stop", "message": {"content": "Par"}}),
        json!({"index": 0, "finish_reason": "error", "message": {"content": "Par"}}),
    ] {
        let body = json!({"choices": [choice]}).to_string();
        let seen = read_whole(body.as_bytes()).unwrap().seen;
        assert!(seen.error && seen.visible_bytes == 3, "{body}");
        let code = provider_error(body.as_bytes()).code;
        assert_eq!(code.as_deref(), choice["error"].is_object().then_some("502"), "{body}");
    }
    let fine = json!({"choices": [{"error": null, "finish_reason": "stop", "message": {}}]});
    assert!(!read_whole(fine.to_string().as_bytes()).unwrap().seen.error);
}

#[test]
fn a_message_with_the_whole_of_what_came_in_pieces_tells_nothing_new() {
    let chunk = |said: Value| json!({"choices": [said]}).to_string();
    let mut reader = Reader::default();
    let mut told = |said: Value| {
        let deltas = reader.read(chunk(said).as_bytes()).unwrap();
        deltas.into_iter().map(|delta| delta.kind).collect::<Vec<_>>()
    };
    let call = json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}});
    let text = |text: &str| DeltaKind::Text(text.to_owned());
    assert_eq!(told(json!({"index": 0, "delta": {"content": "Hi "}})), [text("Hi ")]);
    assert_eq!(told(json!({"index": 0, "delta": {"content": "you"}})), [text("you")]);
    assert_eq!(told(json!({"index": 0, "delta": {"tool_calls": [call]}})).len(), 2);
    let whole = json!({"content": "Hi you", "reasoning": "Hm", "tool_calls": [call]});
    let last = json!({"index": 0, "delta": {}, "message": whole, "finish_reason": "stop"});
    let new = [DeltaKind::Reasoning("Hm".to_owned()), DeltaKind::Finish(FinishReason::Stop)];
    assert_eq!(told(last), new, "what was not told is new");
    // Of another choice nothing was.
    assert_eq!(told(json!({"index": 1, "message": whole})).len(), 4);
}

#[test]
fn a_call_without_an_id_has_one_that_no_other_turn_has() {
    let turn = || calls_of(&[piece(Some(0), "", "f", "{}"), piece(Some(1), "", "g", "{}")]);
    let mut ids: Vec<_> = [turn(), turn()].concat().into_iter().map(|call| call.1).collect();
    assert!(ids.iter().all(|id| id.starts_with("call_") && id.len() <= 40), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn null_is_as_good_as_nothing() {
    let chunk = json!({"id": null, "choices": [{"index": null, "delta": {"content": "Hi", "tool_calls": null,
        "refusal": null}, "finish_reason": null, "stop_reason": null,
        "logprobs": {"content": [{"token": "Hi", "logprob": null, "bytes": null, "top_logprobs": null}]}}]});
    let deltas = Reader::default().read(chunk.to_string().as_bytes()).unwrap();
    assert_eq!((deltas.len(), deltas[0].choice), (1, 0));
    assert_eq!(deltas[0].kind, DeltaKind::Text("Hi".into()));
    let chosen = &deltas[0].logprobs[0].chosen;
    assert_eq!((chosen.bytes.as_slice(), chosen.logprob < -1000.0), (&b"Hi"[..], true));
}
