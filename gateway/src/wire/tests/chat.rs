//! Writing chat answers.

use crate::{
    providers::openai,
    wire::{
        Delta, DeltaKind, FinishReason, Gathered, Likely, TokenLogprob,
        chat::{AnswerHead, Chunks, Cost, whole, with_cost, with_cost_whole},
    },
};
use bytes::Bytes;
use policies::{PicoUsd, Usage};
use serde_json::{Value, json};

fn head() -> AnswerHead {
    AnswerHead { id: "chatcmpl-1".into(), created: 1_700_000_000, model: "smol\"lm2".into() }
}

fn usage() -> Usage {
    Usage { input: 7, cache_read: 3, output: 4, reasoning: 1, ..Usage::default() }
}

fn cost() -> Cost {
    let pico = PicoUsd::from_pico;
    Cost {
        total: pico(412_500_000),
        details: vec![("input", pico(1)), ("output", pico(2_000_000_000_000))],
    }
}

/// The frames of one piece.
fn frames(chunks: &mut Chunks, kind: DeltaKind) -> Vec<Value> {
    let mut frames = Vec::new();
    chunks.delta(&Delta::new(0, kind), &mut |frame| frames.push(payload(&frame)));
    frames
}

fn text(chunks: &mut Chunks, text: &str) -> Vec<Value> {
    frames(chunks, DeltaKind::Text(text.to_owned()))
}

fn answer(text: &str) -> Gathered {
    let mut answer = Gathered::default();
    answer.add(Delta::new(0, DeltaKind::Text(text.to_owned())));
    answer.add(Delta::new(0, DeltaKind::Finish(FinishReason::Stop)));
    answer
}

fn payload(event: &Bytes) -> Value {
    let text = std::str::from_utf8(event).unwrap();
    let data = text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
    assert!(!data.contains('\n'));
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_stream_has_openais_shape() {
    let mut chunks = Chunks::new(&head(), false);
    let with = |choice: Value| {
        json!({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1_700_000_000,
               "model":"smol\"lm2","choices":[choice]})
    };
    let odd = "quote \" back \\ \n nul \0 🙂 \u{2028}";
    assert_eq!(
        text(&mut chunks, odd),
        [
            with(json!({"index":0,"delta":{"role":"assistant","content":"","refusal":null},
                        "logprobs":null,"finish_reason":null})),
            with(json!({"index":0,"delta":{"content":odd},"logprobs":null,"finish_reason":null})),
        ]
    );
    assert_eq!(
        frames(&mut chunks, DeltaKind::Finish(FinishReason::Length)),
        [with(json!({"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}))]
    );
}

#[test]
fn usage_comes_once_and_is_null_before() {
    let mut chunks = Chunks::new(&head(), true);
    assert!(text(&mut chunks, "x").iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    let last = payload(&chunks.usage(&usage(), None));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"],
        json!({"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,
               "prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":1}}),
        "an unknown cost is absent"
    );
}

#[test]
fn a_long_stream_is_as_right_at_its_end() {
    let mut chunks = Chunks::new(&head(), false);
    let long = "x".repeat(1500);
    let mut events = Vec::new();
    for _ in 0..50 {
        let delta = Delta::new(0, DeltaKind::Text(long.clone()));
        chunks.delta(&delta, &mut |frame| events.push(frame));
    }
    assert_eq!(events.len(), 51);
    for event in events.iter().skip(1) {
        assert_eq!(payload(event)["choices"][0]["delta"]["content"], long);
    }
}

#[test]
fn a_whole_answer_has_openais_shape() {
    let body = whole(&head(), &answer("Hi\n"), &usage(), Some(&cost()));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        body["choices"],
        json!([{"index":0,"message":{"role":"assistant","content":"Hi\n","refusal":null},
                "logprobs":null,"finish_reason":"stop"}])
    );
    assert_eq!(body["usage"]["total_tokens"], 15);
}

#[test]
fn every_piece_of_an_answer_has_its_place() {
    let pieces = [
        DeltaKind::Reasoning("hm".into()),
        DeltaKind::Signature("never shown".into()),
        DeltaKind::ToolCall { index: 1, id: "call_1".into(), name: "look".into() },
        DeltaKind::ToolArguments { index: 1, json: "{\"a\":".into() },
        DeltaKind::Refusal("no".into()),
    ];
    let mut chunks = Chunks::new(&head(), false);
    let mut deltas: Vec<_> = pieces
        .into_iter()
        .flat_map(|kind| frames(&mut chunks, kind))
        .map(|chunk| chunk["choices"][0]["delta"].clone())
        .collect();
    deltas.remove(0);
    assert_eq!(
        json!(deltas),
        json!([
            {"reasoning_content":"hm"},
            {"tool_calls":[{"index":1,"id":"call_1","type":"function",
                            "function":{"name":"look","arguments":""}}]},
            {"tool_calls":[{"index":1,"function":{"arguments":"{\"a\":"}}]},
            {"refusal":"no"},
        ])
    );
}

#[test]
fn log_probabilities_stand_beside_their_text() {
    let likely = |bytes: &[u8], logprob| Likely { bytes: bytes.to_vec(), logprob };
    let token = TokenLogprob {
        chosen: likely(b"\xf0\x9f", -0.5),
        top: vec![likely(b"a", -0.25), likely(b"b", f32::NEG_INFINITY)],
    };
    let delta = Delta { logprobs: vec![token], ..Delta::new(0, DeltaKind::Text("x".into())) };
    let expected = json!({"content":[{"token":"\u{fffd}","logprob":-0.5,"bytes":[240,159],
        "top_logprobs":[{"token":"a","logprob":-0.25,"bytes":[97]},
                        {"token":"b","logprob":-9999.0,"bytes":[98]}]}],"refusal":null});
    let mut last = Value::Null;
    Chunks::new(&head(), false).delta(&delta, &mut |frame| last = payload(&frame));
    assert_eq!(last["choices"][0]["logprobs"], expected);
    let mut gathered = Gathered::default();
    gathered.add(delta);
    let body: Value = serde_json::from_slice(&whole(&head(), &gathered, &usage(), None)).unwrap();
    assert_eq!(body["choices"][0]["logprobs"], expected);
}

#[test]
fn choices_and_calls_are_gathered_apart() {
    let mut answer = Gathered::default();
    for (choice, kind) in [
        (1, DeltaKind::ToolCall { index: 0, id: "c".into(), name: "f".into() }),
        (0, DeltaKind::Text("a".into())),
        (1, DeltaKind::ToolArguments { index: 0, json: "{".into() }),
        (0, DeltaKind::Text("b".into())),
        (1, DeltaKind::ToolArguments { index: 0, json: "}".into() }),
        (1, DeltaKind::Finish(FinishReason::ToolCalls)),
        (u32::MAX, DeltaKind::Text("wild".into())),
        (0, DeltaKind::ToolArguments { index: u32::MAX, json: "wild".into() }),
    ] {
        answer.add(Delta::new(choice, kind));
    }
    let body: Value = serde_json::from_slice(&whole(&head(), &answer, &usage(), None)).unwrap();
    assert_eq!(
        body["choices"],
        json!([
            {"index":0,"message":{"role":"assistant","content":"ab","refusal":null},
             "logprobs":null,"finish_reason":"stop"},
            {"index":1,"message":{"role":"assistant","content":null,"refusal":null,
                "tool_calls":[{"id":"c","type":"function",
                               "function":{"name":"f","arguments":"{}"}}]},
             "logprobs":null,"finish_reason":"tool_calls"},
        ])
    );
}

#[test]
fn money_is_written_from_the_integer() {
    let text = whole(&head(), &answer(""), &usage(), Some(&cost()));
    let text = std::str::from_utf8(&text).unwrap();
    assert!(
        text.contains(r#""cost":0.0004125,"cost_details":{"input":0.000000000001,"output":2}"#),
        "{text}"
    );
    let free = Cost { total: PicoUsd::ZERO, details: Vec::new() };
    let text = whole(&head(), &answer(""), &usage(), Some(&free));
    assert!(text.ends_with(br#","cost":0}}"#));
    let most = Cost { total: PicoUsd::MAX, details: Vec::new() };
    let text = whole(&head(), &answer(""), &usage(), Some(&most));
    assert!(text.ends_with(br#","cost":18446744.073709551615}}"#));
}

#[test]
fn a_cost_is_put_into_a_providers_payload_and_nothing_else_changes() {
    let cost = Cost { total: PicoUsd::from_pico(5), details: Vec::new() };
    let five = "0.000000000005";
    for (before, after) in [
        (
            r#"{ "id" : "a\u0041", "usage" : { "prompt_tokens" : 1 } , "x":[1.0e3] }"#,
            r#"{ "id" : "a\u0041", "usage" : { "prompt_tokens" : 1 ,"cost":FIVE} , "x":[1.0e3] }"#,
        ),
        (r#"{"usage":{}}"#, r#"{"usage":{"cost":FIVE}}"#),
        (
            r#"{"usage":{"a":1,"cost":0.9,"b":2},"usage_x":{}}"#,
            r#"{"usage":{"a":1,"cost":FIVE,"b":2},"usage_x":{}}"#,
        ),
        (r#"{"usage":null}"#, r#"{"usage":null}"#),
        (r#"{"choices":[{"usage":{}}]}"#, r#"{"choices":[{"usage":{}}]}"#),
        ("not json", "not json"),
    ] {
        let with = priced(before, &cost);
        assert_eq!(std::str::from_utf8(&with).unwrap(), after.replace("FIVE", five));
    }
}

#[test]
fn the_cost_in_a_long_answer_is_put_beside_the_providers_own_bytes() {
    let cost = Cost { total: PicoUsd::from_pico(5), details: vec![("input", PicoUsd::ZERO)] };
    for usage in ["{}", r#"{"prompt_tokens":1,"completion_tokens":2}"#, r#"{"cost":7,"x":1}"#] {
        let text = "word ".repeat(20_000);
        let body = Bytes::from(format!(r#"{{"choices":"{text}","usage":{usage},"id":"c"}}"#));
        let start = body.windows(8).position(|at| at == b"\"usage\":").unwrap() + 8;
        let at = start..start + usage.len();
        let pieces = with_cost_whole(&body, &at, &cost);
        assert!(!body.is_unique(), "they are its bytes");
        assert_eq!(pieces.joined(), with_cost(&body, &at, &cost));
    }
}

/// A payload priced as the relay does it: where it has a usage object.
fn priced(payload: &'static str, cost: &Cost) -> Bytes {
    let bytes = Bytes::from_static(payload.as_bytes());
    let at = openai::read_chunk(&bytes, false, false).ok().and_then(|read| read.seen.usage_at);
    at.map_or(bytes.clone(), |at| with_cost(&bytes, &at, cost))
}

#[test]
fn cost_details_are_put_in_or_replaced() {
    let cost = Cost { total: PicoUsd::ZERO, details: vec![("input", PicoUsd::ZERO)] };
    let with = priced(r#"{"usage":{"cost_details":{"y":1},"z":2}}"#, &cost);
    assert_eq!(with, br#"{"usage":{"cost_details":{"input":0},"z":2,"cost":0}}"#.as_slice());
    let with = priced(r#"{"usage":{"z":2}}"#, &cost);
    assert_eq!(with, br#"{"usage":{"z":2,"cost":0,"cost_details":{"input":0}}}"#.as_slice());
}
