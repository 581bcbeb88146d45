//! Between a client and its provider nothing changes but what must: the model's name, the cap and
//! the question for usage on the way up, the usage chunk on the way down.

use crate::harness::{Ask, Gate};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{json, value::RawValue};
use std::collections::BTreeMap;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

/// The fields of a JSON object, each byte for byte.
fn fields(body: &[u8]) -> BTreeMap<String, String> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).expect("an object");
    fields.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}

/// A body with spaces, escapes, numbers and an order that no serialiser would write again.
const ODD: &str = concat!(
    "{ \"frobnicate\" :{\"b\": 1.0,  \"a\":1e2, \"c\":[ ]},\n",
    "\"messages\":[ {\"role\":\"user\",\"content\":\"na\\u00efve \\ud83d\\ude42\", \"zz\":0.10} ],",
    "\"model\":\"auto\", \"safety_identifier\":\"u\", \"seed\" : 7, \"metadata\":{\"k\":\"v\"} }"
);

#[tokio::test]
async fn fields_reach_the_provider_byte_for_byte() {
    let (cloud, gate) = a_cloud().await;
    gate.post_chat(ODD).await.ok();
    let sent = fields(ODD.as_bytes());
    let arrived = fields(&cloud.asked()[0].body);
    for (name, value) in &sent {
        if name != "model" {
            assert_eq!(arrived.get(name), Some(value), "{name}");
        }
    }
    assert_eq!(arrived["model"], "\"standin-1\"", "the provider's own name of the model");
    let added: Vec<_> = arrived.keys().filter(|name| !sent.contains_key(*name)).collect();
    assert_eq!(added, ["max_completion_tokens"], "the output cap is always sent");
}

#[tokio::test]
async fn a_stream_asks_for_usage_and_keeps_the_other_options() {
    let (cloud, gate) = a_cloud().await;
    gate.ask("Hello.")
        .streamed()
        .set("stream_options", json!({"include_obfuscation": false}))
        .send()
        .await
        .ok();
    let options = cloud.asked()[0].json()["stream_options"].clone();
    assert_eq!(options, json!({"include_obfuscation": false, "include_usage": true}));
}

#[tokio::test]
async fn the_cap_is_sent_in_the_field_the_provider_takes() {
    let cloud = StandIn::start().await.unwrap();
    let gate =
        Gate::builder().cloud_named("cloud", &cloud, "cap_field = \"max_tokens\"").start().await;
    for field in ["max_tokens", "max_completion_tokens"] {
        let mut body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
        body[field] = json!(9);
        gate.post_chat(body.to_string()).await.ok();
        let asked = cloud.asked().pop().unwrap().json();
        assert_eq!(asked["max_tokens"], 9, "{asked}");
        assert!(asked["max_completion_tokens"].is_null(), "one cap, not two: {asked}");
    }
}

#[tokio::test]
async fn the_providers_answer_arrives_with_all_of_its_fields() {
    let (_cloud, gate) = a_cloud().await;
    let answer = gate.ask("Hello.").send().await.ok().json();
    assert_eq!(answer["id"], "chatcmpl-standin");
    assert_eq!(answer["created"], 1_750_000_000);
    assert_eq!(answer["system_fingerprint"], "fp_standin");
    assert_eq!(answer["object"], "chat.completion");
    let choice = answer["choices"][0].as_object().unwrap();
    assert!(choice.contains_key("logprobs"), "a required key, null allowed");
    assert!(choice["message"].as_object().unwrap().contains_key("refusal"));
}

#[tokio::test]
async fn the_usage_chunk_is_shown_only_to_those_who_asked() {
    let (cloud, gate) = a_cloud().await;
    cloud.always(Script::says("one two").using(5, 2));
    let quiet = gate.ask("Hello.").streamed().send().await.ok();
    assert!(quiet.done());
    assert!(quiet.usage().is_null(), "nobody asked: {}", quiet.body_text());
    for chunk in quiet.chunks() {
        assert!(!chunk["choices"].as_array().unwrap().is_empty(), "old clients index choices[0]");
    }
    let asked = gate.ask("Hello.").streamed_with_usage().send().await.ok();
    let usage = asked.usage();
    assert_eq!(usage["prompt_tokens"], 5);
    assert_eq!(usage["completion_tokens"], 2);
    let last = asked.chunks().pop().unwrap();
    assert_eq!(last["choices"], json!([]), "the usage chunk stands alone, last before [DONE]");
    assert!(asked.done());
    assert_eq!(quiet.text(), asked.text());
}

#[tokio::test]
async fn a_stream_is_the_same_however_it_is_cut_into_segments() {
    let (cloud, gate) = a_cloud().await;
    let text = "naïve 日本語 🙂👩‍👩‍👧‍👦 مرحبا \r\n \\ \" end";
    cloud.next(Script::says(text));
    let whole = gate.ask("Hello.").streamed().send().await.ok();
    assert_eq!(whole.text(), text);
    for bytes in [1, 2, 3, 7] {
        let mut script = Script::says(text);
        script.segment_bytes = Some(bytes);
        cloud.next(script);
        let split = gate.ask("Hello.").streamed().send().await.ok();
        assert_eq!(split.body, whole.body, "in segments of {bytes}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_one_finish_and_done() {
    let (cloud, gate) = a_cloud().await;
    let answer = gate.ask("Hello.").streamed().send().await.ok();
    assert_eq!(answer.finish(), "stop");
    assert!(answer.done());
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    assert!(answer.header("cache-control").contains("no-cache"));
    assert!(answer.header("content-length").is_empty());

    // With a finish reason but without [DONE] it is whole all the same.
    cloud.next(Script::says("one two").with(Fault::NoDone));
    let answer = gate.ask("Hello.").streamed().send().await.ok();
    assert_eq!(answer.text(), "one two");
    assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "completed");

    cloud.next(Script::says("one two three four"));
    assert_eq!(gate.ask("Hello.").at_most(2).streamed().send().await.ok().finish(), "length");
}

#[tokio::test]
async fn a_chunk_above_the_bound_ends_the_stream_and_not_the_gateway() {
    let (cloud, gate) = a_cloud().await;
    cloud.next(Script::default().with(Fault::HugeChunk));
    let answer = gate.ask("Hello.").streamed().send().await;
    assert_eq!(answer.status, 503, "{}", answer.body_text());
    answer.error();
    gate.ask("Still there?").send().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn the_clients_key_stays_here_and_the_providers_key_goes_up() {
    let (cloud, gate) = a_cloud().await;
    gate.ask("Hello.").header("cookie", "a=b").header("x-tollgate-tags", "t").send().await.ok();
    let asked = cloud.asked().remove(0);
    assert_eq!(asked.header("authorization"), Some("Bearer sk-upstream-cloud-canary"));
    let head = format!("{:?}", asked.headers);
    assert!(!head.contains(&gate.key().secret), "{head}");
    assert!(asked.header("cookie").is_none(), "a client's cookies are not the provider's");
}

#[tokio::test]
async fn connections_to_the_provider_are_used_again() {
    let (cloud, gate) = a_cloud().await;
    for _ in 0..10 {
        gate.ask("Hello.").send().await.ok();
        gate.ask("Hello.").streamed().send().await.ok();
    }
    assert_eq!(cloud.counts().requests, 20);
    assert_eq!(cloud.counts().connections, 1);
}

/// The events of one of Anthropic's streams, with what no other format has a place for.
fn anthropics_events() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-1","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1,"service_tier":"standard"}}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"First."}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG1"}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
        ("ping", r#"{"type": "ping"}"#),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"HIDDEN"}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":1}"#),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"text","text":"","citations":[]}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"na\u00efve"}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"naive","document_index":0}}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":2}"#),
        ("yet_to_come", r#"{"type":"yet_to_come","odd":1.0}"#),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5},"context_management":{"applied_edits":[]}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ]
}

/// One of Anthropic's whole answers, which no serialiser would write again.
const MESSAGE: &str = concat!(
    r#"{ "id":"msg_1","type":"message","role":"assistant","model":"claude-1","content":["#,
    r#"{"type":"thinking","thinking":"First.","signature":"SIG1"}, {"type":"redacted_thinking","data":"HIDDEN"},"#,
    r#"{"type":"thinking","thinking":"Second.","signature":"SIG2"},"#,
    r#"{"type":"text","text":"na\u00efve","citations":[{"type":"char_location","cited_text":"naive"}]}],"#,
    r#""stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":5},"odd":1.0 }"#,
);

/// What the answers above cost: 10 tokens at 1 and 5 at 2 USD a million.
const COST: &str = r#","cost":0.00002"#;

async fn anthropic() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate =
        Gate::builder().cloud_of_kind("cloud", &cloud.base_url(), "anthropic", "").start().await;
    (cloud, gate)
}

fn message(gate: &Gate) -> Ask<'_> {
    let said = json!([{"role": "user", "content": "Hello."}]);
    gate.ask_at("/v1/messages", json!({"model": "auto", "max_tokens": 16, "messages": said}))
}

/// The body without the parts of the cost, which are told beside it.
fn without_details(body: &str) -> String {
    let Some((before, after)) = body.split_once(r#","cost_details":{"#) else { panic!("{body}") };
    let (_, after) = after.split_once('}').expect("an object");
    format!("{before}{after}")
}

#[tokio::test]
async fn a_stream_of_anthropics_reaches_its_own_client_as_it_was_written() {
    let (cloud, gate) = anthropic().await;
    let frames = |events: &[(&str, &str)]| -> String {
        let frame = |(name, data): &(&str, &str)| format!("event: {name}\ndata: {data}\n\n");
        events.iter().map(frame).collect()
    };
    let events = anthropics_events();
    cloud.next(Script::body("text/event-stream", &frames(&events)));
    let first = message(&gate).streamed().header("idempotency-key", "k").send().await.ok();
    let told = format!(r#""output_tokens":5{COST}}}"#);
    let expected = frames(&events).replace(r#""output_tokens":5}"#, &told);
    assert_eq!(without_details(&first.body_text()), expected);
    let entry = gate.ledger().entry(first.id()).await;
    assert_eq!((entry.outcome().as_str(), entry.cost()), ("completed", Some(20_000_000)));
    let attempt = entry.only_attempt();
    assert_eq!(attempt.text("usage_source"), "reported");
    assert_eq!((attempt.used("input"), attempt.used("output")), (Some(10), Some(5)));
    assert_eq!(
        (attempt.text("upstream_id"), attempt.text("finish")),
        ("msg_1".into(), "stop".into())
    );

    // Given again it is the same, for nothing.
    let again = message(&gate).streamed().header("idempotency-key", "k").send().await.ok();
    assert_eq!(again.body_text(), frames(&events).replace(r#":5}"#, r#":5,"cost":0}"#));
    assert_eq!(cloud.counts().requests, 1);

    // One that breaks passes as far as it came, and says so.
    cloud.next(Script::body("text/event-stream", &frames(&events[..11])));
    let broken = message(&gate).streamed().send().await;
    let text = broken.body_text();
    let rest = text.strip_prefix(&frames(&events[..11])).expect("what came before the break");
    assert!(rest.starts_with("event: error\n") && !rest.contains("message_stop"), "{rest}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_callers_betas_reach_anthropic_with_its_own_body_after_the_routes() {
    let cloud = StandIn::start().await.unwrap();
    let own = "headers = { anthropic-beta = \"route-1\" }";
    let gate =
        Gate::builder().cloud_of_kind("cloud", &cloud.base_url(), "anthropic", own).start().await;
    let sent = || cloud.asked().pop().unwrap().header("anthropic-beta").unwrap().to_owned();
    message(&gate).header("anthropic-beta", "a-1,b-2").send().await.ok();
    assert_eq!(sent(), "route-1,a-1,b-2");
    gate.ask("Hello.").header("anthropic-beta", "a-1").send().await.ok();
    assert_eq!(sent(), "route-1", "the body is ours");
}

#[tokio::test]
async fn a_whole_answer_of_anthropics_reaches_its_own_client_as_it_was_written() {
    let (cloud, gate) = anthropic().await;
    cloud.next(Script::body("application/json", MESSAGE));
    let answer = message(&gate).send().await.ok();
    let told = format!(r#""output_tokens":5{COST}}}"#);
    let expected = MESSAGE.replace(r#""output_tokens":5}"#, &told);
    assert_eq!(without_details(&answer.body_text()), expected);
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!((entry.outcome().as_str(), entry.cost()), ("completed", Some(20_000_000)));

    // Another format's client gets what its own has a place for.
    cloud.next(Script::body("application/json", MESSAGE));
    let answer = gate.ask("Hello.").send().await.ok();
    assert_eq!(answer.text(), "na\u{ef}ve");
}
