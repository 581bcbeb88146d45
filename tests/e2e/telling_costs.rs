//! What an answer tells of its cost is what the ledger has, in every format, streamed or not, with the
//! attempts that failed before it.

use crate::harness::{Answer, Gate, pico};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{Value, json};

struct Case {
    first: StandIn,
    second: StandIn,
    gate: Gate,
}

async fn two_clouds() -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "first_token_timeout_ms = 200")
        .cloud_named("second", &second, "")
        .start()
        .await;
    second.always(Script::says("From the second.").using(1_000, 50));
    Case { first, second, gate }
}

/// A body for each format.
fn asked(stream: bool) -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": "How much?"}]);
    let told = json!({"include_usage": true});
    let mut chat = json!({"model": "auto", "messages": messages, "max_tokens": 16});
    let mut text = json!({"model": "auto", "prompt": "How much?", "max_tokens": 16});
    let mut message = chat.clone();
    let mut response = json!({"model": "auto", "input": "How much?", "max_output_tokens": 16});
    if stream {
        for body in [&mut chat, &mut text, &mut message, &mut response] {
            body["stream"] = json!(true);
        }
        (chat["stream_options"], text["stream_options"]) = (told.clone(), told);
    }
    [
        ("/v1/chat/completions", chat),
        ("/v1/completions", text),
        ("/v1/messages", message),
        ("/v1/responses", response),
    ]
}

/// The usage that an answer tells, wherever its format has it.
fn usage(path: &str, answer: &Answer) -> Value {
    if !answer.is_stream() {
        return answer.json()["usage"].clone();
    }
    match path {
        "/v1/messages" => {
            let events = answer.named_events();
            let (_, last) = events.iter().rfind(|(name, _)| name == "message_delta").unwrap();
            last["usage"].clone()
        }
        "/v1/responses" => {
            let events = answer.named_events();
            let (_, last) = events.iter().find(|(name, _)| name == "response.completed").unwrap();
            last["response"]["usage"].clone()
        }
        _ => answer.usage(),
    }
}

/// Whether a number of JSON is so many pico-USD.
fn is_pico(number: &Value, pico: u128) -> bool {
    // The amounts here are far below what a float tells apart.
    number.as_f64().is_some_and(|usd| (usd * 1e12 - pico as f64).abs() < 0.5)
}

impl Case {
    /// Asks in every format, and holds what each answer tells against its entry.
    async fn tell(&self, stream: bool, before: impl Fn(), failed: bool) {
        for (path, body) in asked(stream) {
            before();
            let answer = self.gate.post(path, &body).await.ok();
            let entry = self.gate.ledger().entry(answer.id()).await;
            let cost = entry.cost().unwrap();
            let attempts = entry.attempts();
            let others: u128 = attempts.iter().rev().skip(1).map(|a| a.cost().unwrap()).sum();
            assert_eq!((attempts.len(), others > 0), (2, failed), "{path}: {:#}", entry.0);
            let usage = usage(path, &answer);
            assert!(is_pico(&usage["cost"], cost), "{path} {stream}: {cost} in {usage}");
            let missed = &usage["cost_details"]["other_attempts_cost"];
            if failed {
                assert!(is_pico(missed, others), "{path} {stream}: {others} in {usage}");
            } else {
                assert!(missed.is_null(), "{path} {stream}: {usage}");
            }
            if !stream {
                let told = json!(answer.header("x-tollgate-cost-usd"));
                assert_eq!(pico(&told), Some(cost), "{path}");
            }
        }
        self.gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn a_whole_answer_tells_what_it_cost_with_what_failed_before_it() {
    let case = two_clouds().await;
    let fails = |fault: Fault| {
        case.first.next(Script::default().with(fault));
    };
    case.tell(false, || fails(Fault::WrongJson), true).await;
    case.tell(false, || fails(Fault::Status503), false).await;
    assert_eq!(case.second.counts().requests, 8);
}

#[tokio::test]
async fn a_stream_tells_what_it_cost_with_what_failed_before_it() {
    let case = two_clouds().await;
    let fails = |fault: Fault| {
        case.first.next(Script::default().with(fault));
    };
    case.tell(true, || fails(Fault::HangAfterHead), true).await;
    case.tell(true, || fails(Fault::Status503), false).await;
    assert_eq!(case.second.counts().requests, 8);
}
