//! A stream that has nothing to say is kept alive by comments, and what may happen before its first
//! token happens all the same.

use crate::harness::{Gate, Open, eventually};
use e2e::standin::{Cut, Hold, Point, Script, StandIn};
use serde_json::json;

const COMMENT: &str = ": keep-alive\n\n";
const OFTEN: &str = "keep_alive_ms = 20";
const EARLY: &str = "keep_alive_ms = 20\nkeep_alive_early = true";

/// A script that waits after so many pieces until it is let go.
fn held(pieces: usize) -> (Script, Hold) {
    let hold = Hold::after_pieces(pieces);
    let script = Script { hold: Some(hold.clone()), ..Script::default() };
    (script, hold)
}

async fn two_comments(open: &mut Open) {
    open.read_until(|text| text.matches(COMMENT).count() >= 2).await;
}

#[tokio::test]
async fn a_stream_that_pauses_is_kept_alive_between_its_events() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server(OFTEN).start().await;
    let (script, hold) = held(2);
    cloud.next(script);
    let mut open = gate.ask("Hi.").streamed_with_usage().open().await;
    two_comments(&mut open).await;
    hold.let_go();
    let answer = open.rest().await;
    assert_eq!(answer.text(), "All is well in the cloud.");
    assert!(answer.done());
    let text = answer.body_text();
    assert!(text.starts_with("data: "), "nothing is said before the answer: {text}");
    // Without the comments it is the stream it would have been.
    assert!(
        text.replace(COMMENT, "").split("\n\n").all(|it| it.is_empty() || it.starts_with("data: "))
    );
    gate.ledger().only_entry().await;
}

#[tokio::test]
async fn no_proxy_is_to_keep_a_stream_back_whoever_answers_it() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).edge().start().await;
    let messages = json!([{"role": "user", "content": "Hi."}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 2})),
        ("/v1/completions", json!({"prompt": "Hi.", "max_tokens": 2})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 2})),
        ("/v1/responses", json!({"input": "Hi.", "max_output_tokens": 2})),
    ] {
        for route in ["cloud", "edge"] {
            let ask = || gate.ask_at(path, body.clone()).from(route);
            let stream = ask().streamed().send().await.ok();
            assert!(stream.is_stream(), "{path} {route}");
            assert_eq!(stream.header("x-accel-buffering"), "no", "{path} {route}");
            assert_eq!(stream.header("cache-control"), "no-cache", "{path} {route}");
            let whole = ask().send().await.ok();
            assert_eq!(whole.header("x-accel-buffering"), "", "{path} {route}");
        }
    }
}

#[tokio::test]
async fn before_the_first_token_nothing_is_said_unless_the_operator_wants_it() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server(OFTEN).start().await;
    cloud.next(Script { cut: Some(Cut::Close(Point::Piece(0))), ..Script::default() });
    // The status is still the fault's own.
    let answer = gate.ask("Hi.").streamed().send().await;
    assert_eq!(answer.status, 503, "{}", answer.body_text());
}

#[tokio::test]
async fn an_early_head_does_not_stop_a_fallback() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "")
        .cloud_named("second", &second, "")
        .server(EARLY)
        .start()
        .await;
    let (script, hold) = held(0);
    first.always(Script { cut: Some(Cut::Close(Point::Piece(0))), ..script });
    second.always(Script::says("From the second."));
    let mut open = gate.ask("Hi.").streamed().open().await;
    two_comments(&mut open).await;
    assert_eq!(open.status, 200);
    hold.let_go();
    let answer = open.rest().await;
    assert_eq!(answer.text(), "From the second.");
    assert!(answer.done());
    assert_eq!(answer.header("x-tollgate-route"), "", "nobody knew it when the head left");
    assert!(!answer.header("x-tollgate-rule").is_empty());
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.attempts().len(), 2);
    assert_eq!(entry.outcome(), "completed");
}

#[tokio::test]
async fn a_refusal_after_an_early_head_is_an_event_in_every_format() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server(EARLY).start().await;
    let message = json!([{"role": "user", "content": "Hi."}]);
    for (path, body, last) in [
        (
            "/v1/chat/completions",
            json!({"model": "auto", "messages": message}),
            "data: {\"error\":",
        ),
        ("/v1/completions", json!({"model": "auto", "prompt": "Hi."}), "data: {\"error\":"),
        ("/v1/responses", json!({"model": "auto", "input": "Hi."}), "event: response.failed\n"),
        (
            "/v1/messages",
            json!({"model": "auto", "max_tokens": 9, "messages": message}),
            "event: error\n",
        ),
    ] {
        let (script, hold) = held(0);
        cloud.next(Script { cut: Some(Cut::Close(Point::Piece(0))), ..script });
        let mut body = body.clone();
        body["stream"] = json!(true);
        let mut open = gate.open(path, &body).await;
        two_comments(&mut open).await;
        hold.let_go();
        let answer = open.rest().await;
        let text = answer.body_text();
        let said: Vec<&str> = text.split("\n\n").filter(|it| !it.is_empty()).collect();
        assert!(said.last().unwrap().starts_with(last), "{path}: {text}");
        assert!(!text.contains("[DONE]"), "{path}: {text}");
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.0["status"], 200, "{path}: the status that the caller saw");
        assert_eq!(entry.outcome(), "failed", "{path}");
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_slow_refusal_before_any_route_is_one_too_and_is_counted() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "in_flight_max = 1\npool_wait_max_ms = 2000")
        .server(EARLY)
        .start()
        .await;
    let (script, hold) = held(1);
    cloud.next(script);
    let first = gate.ask("Hi.").streamed().open().await;
    // The only place is taken: the second waits for it, and is told so under its head.
    let second = gate.ask("Hi.").streamed().send().await;
    assert_eq!(second.status, 200);
    assert!(second.body_text().starts_with(COMMENT), "{}", second.body_text());
    assert!(second.events().last().unwrap().contains("\"error\""), "{}", second.body_text());
    hold.let_go();
    assert!(first.rest().await.done());
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_kept_waiting_is_settled() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server(EARLY).start().await;
    let (script, _hold) = held(0);
    cloud.next(script);
    let mut open = gate.ask("Hi.").streamed().open().await;
    two_comments(&mut open).await;
    open.leave();
    let id = gate.ledger().until_entries(1).await.remove(0).id();
    let entry = gate.ledger().entry(&id).await;
    assert_eq!(entry.outcome(), "client_gone");
    assert_eq!(entry.0["status"], 200, "its head had left");
    eventually("the provider to be left too", || async {
        (cloud.counts().left == 1).then_some(())
    })
    .await;
    gate.until_nothing_is_reserved().await;
}
