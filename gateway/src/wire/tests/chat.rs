//! Writing chat answers.

use crate::{
    providers::openai,
    wire::{
        FinishReason,
        chat::{AnswerHead, Chunks, Cost, whole, with_cost},
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
    assert_eq!(
        payload(&chunks.role()),
        with(json!({"index":0,"delta":{"role":"assistant","content":"","refusal":null},
                    "logprobs":null,"finish_reason":null}))
    );
    let odd = "quote \" back \\ \n nul \0 🙂 \u{2028}";
    assert_eq!(
        payload(&chunks.text(odd)),
        with(json!({"index":0,"delta":{"content":odd},"logprobs":null,"finish_reason":null}))
    );
    assert_eq!(
        payload(&chunks.finish(&FinishReason::Length)),
        with(json!({"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}))
    );
}

#[test]
fn usage_comes_once_and_is_null_before() {
    let mut chunks = Chunks::new(&head(), true);
    assert_eq!(payload(&chunks.text("x")).get("usage"), Some(&Value::Null));
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
    let text = "x".repeat(1500);
    let events: Vec<_> = (0..50).map(|_| chunks.text(&text)).collect();
    for event in events {
        assert_eq!(payload(&event)["choices"][0]["delta"]["content"], text);
    }
}

#[test]
fn a_whole_answer_has_openais_shape() {
    let body = whole(&head(), "Hi\n", &FinishReason::Stop, &usage(), Some(&cost()));
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
fn money_is_written_from_the_integer() {
    let text = whole(&head(), "", &FinishReason::Stop, &usage(), Some(&cost()));
    let text = std::str::from_utf8(&text).unwrap();
    assert!(
        text.contains(r#""cost":0.0004125,"cost_details":{"input":0.000000000001,"output":2}"#),
        "{text}"
    );
    let free = Cost { total: PicoUsd::ZERO, details: Vec::new() };
    let text = whole(&head(), "", &FinishReason::Stop, &usage(), Some(&free));
    assert!(text.ends_with(br#","cost":0}}"#));
    let most = Cost { total: PicoUsd::MAX, details: Vec::new() };
    let text = whole(&head(), "", &FinishReason::Stop, &usage(), Some(&most));
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

/// A payload priced as the relay does it: where it has a usage object.
fn priced(payload: &'static str, cost: &Cost) -> Bytes {
    let bytes = Bytes::from_static(payload.as_bytes());
    let at = openai::read_chunk(&bytes, false).ok().and_then(|read| read.seen.usage_at);
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
