//! A route that fails before the first byte is followed by the next of the plan; after the first
//! byte, never. Each attempt is booked for what it was.

use crate::harness::{Gate, eventually};
use e2e::standin::{Fault, Script, StandIn};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const INPUT: u128 = 1_000_000;
const OUTPUT: u128 = 2_000_000;
/// What the first route waits for a token at least.
const IMPATIENCE_US: u64 = 400_000;

struct Case {
    first: StandIn,
    second: StandIn,
    gate: Gate,
}

async fn two_clouds() -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let impatient = "first_token_timeout_ms = 400\nidle_timeout_ms = 400\ntotal_timeout_ms = 1500";
    let gate = Gate::builder()
        .cloud_named("first", &first, impatient)
        .cloud_named("second", &second, "")
        .start()
        .await;
    Case { first, second, gate }
}

impl Case {
    async fn falls_back_after(&self, fault: Fault, stream: bool) {
        self.first.next(Script::default().with(fault));
        self.second.next(Script::says("From the second.").using(10, 3));
        let ask = self.gate.ask("Who answers?");
        let answer = if stream { ask.streamed_with_usage() } else { ask }.send().await.ok();
        let what = fault.name();
        assert_eq!(answer.text(), "From the second.", "{what}");
        assert_eq!(answer.header("x-tollgate-route"), "second", "{what}");
        assert_eq!(answer.header("x-tollgate-attempts"), "2", "{what}");

        let entry = self.gate.ledger().entry(answer.id()).await;
        entry.adds_up();
        answer.tells_cost(entry.cost().unwrap());
        assert_eq!(entry.outcome(), "completed", "{what}");
        assert_eq!(entry.0["answered_by"], 1, "{what}");
        let attempts = entry.attempts();
        assert_eq!(attempts.len(), 2, "{what}");
        assert_eq!((attempts[0].route(), attempts[1].route()), ("first".into(), "second".into()));
        assert_eq!(attempts[0].text("role"), "primary", "{what}");
        assert_eq!(attempts[1].text("role"), "fallback", "{what}");
        assert_eq!(attempts[1].0["parent"], 0, "{what}");
        assert_eq!(attempts[1].cost(), Some(10 * INPUT + 3 * OUTPUT), "{what}");
        // What was waited in vain is in the record, and over when the next begins.
        let (began, took) = (attempts[0].time("offset_us"), attempts[0].took_us());
        assert!(took > 0 && began + took <= attempts[1].time("offset_us"), "{what}: {attempts:#?}");
        let hung = matches!(fault, Fault::Hang | Fault::HangAfterHead);
        assert!(!hung || took >= IMPATIENCE_US, "{what}: {attempts:#?}");
        if owes_nothing(fault) {
            assert_eq!(attempts[0].cost(), Some(0), "{what}: an error status is not charged");
            assert!(attempts[0].0["usage"].is_null(), "{what}");
        } else {
            assert_eq!(attempts[0].text("usage_source"), "estimated", "{what}");
            assert!(attempts[0].cost().unwrap() > 0, "{what}: sent and silent may be billed");
        }
    }
}

fn owes_nothing(fault: Fault) -> bool {
    matches!(fault, Fault::RateLimited | Fault::Status500 | Fault::Status503 | Fault::Status401)
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_byte_comes_from_the_next_route() {
    let case = two_clouds().await;
    for fault in [
        Fault::RateLimited,
        Fault::Status500,
        Fault::Status503,
        Fault::Status401,
        Fault::ResetBeforeHead,
        Fault::Hang,
        Fault::HangAfterHead,
        Fault::WrongJson,
        Fault::Html,
    ] {
        case.falls_back_after(fault, true).await;
    }
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn an_answer_that_fails_comes_from_the_next_route() {
    let case = two_clouds().await;
    for fault in [
        Fault::RateLimited,
        Fault::Status500,
        Fault::Status503,
        Fault::Status401,
        Fault::ResetBeforeHead,
        Fault::ResetMidStream,
        Fault::CloseMidStream,
        Fault::Hang,
        Fault::WrongJson,
        Fault::Html,
    ] {
        case.falls_back_after(fault, false).await;
    }
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_stream_that_breaks_after_its_first_byte_is_not_begun_again() {
    let case = two_clouds().await;
    for fault in [Fault::ResetMidStream, Fault::CloseMidStream, Fault::HangMidStream] {
        case.first.next(Script::says("one two three four").with(fault));
        let answer = case.gate.ask("Count.").streamed().send().await.ok();
        let what = fault.name();
        assert_eq!(answer.text(), "one two ", "{what}");
        assert!(!answer.done(), "{what}: a broken stream has no [DONE]");
        let last = answer.chunks().pop().unwrap();
        crate::harness::ErrorSeen::read(&last);

        let entry = case.gate.ledger().entry(answer.id()).await;
        entry.adds_up();
        assert_eq!(entry.outcome(), "broken", "{what}");
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "estimated", "{what}");
        assert!(attempt.cost().unwrap() > 0, "{what}");
    }
    assert_eq!(case.second.counts().connections, 0);
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn what_does_not_fit_a_route_is_asked_of_the_next() {
    let case = two_clouds().await;
    let bad = "invalid_request_error";
    for (status, code, message, told) in [
        (400, Some("context_length_exceeded"), "Too long.", 400),
        (
            413,
            Some("rate_limit_exceeded"),
            "Request too large for model `m`: tokens per minute",
            413,
        ),
        (404, None, "No endpoints found that support tool use", 400),
    ] {
        let refused = Script::error(status, bad, code, message);
        case.first.next(refused.clone());
        case.second.next(Script::says("It has room."));
        let answer = case.gate.ask("A long story.").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second", "{message}");

        // Told where none answers.
        case.first.next(refused.clone());
        case.second.next(refused);
        let answer = case.gate.ask("A long story.").send().await;
        let error = answer.error();
        assert_eq!((answer.status, error.code.as_deref()), (told, code), "{message}");
        let entry = case.gate.ledger().entry(answer.id()).await;
        assert_eq!((entry.attempts().len(), entry.outcome()), (2, "rejected".into()));
    }
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn what_is_the_operators_is_asked_of_the_next_whatever_its_status() {
    let case = two_clouds().await;
    for message in
        ["Model Not Exist", "This organization has been disabled.", "a/b is not a valid model ID"]
    {
        let refused = Script::error(400, "invalid_request_error", None, message);
        case.first.next(refused.clone());
        case.second.next(Script::says("Here."));
        let answer = case.gate.ask("Who?").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second", "{message}");

        case.first.next(refused.clone());
        case.second.next(refused);
        let answer = case.gate.ask("Who?").send().await;
        assert_eq!(answer.status, 502, "{message}");
        assert!(!answer.body_text().contains(message), "{message}");
    }
}

#[tokio::test]
async fn what_the_provider_calls_the_callers_fault_is_passed_on() {
    let case = two_clouds().await;
    for stream in [true, false] {
        case.first.next(Script::default().with(Fault::Status400));
        let ask = case.gate.ask("Something odd.");
        let answer = if stream { ask.streamed() } else { ask }.send().await;
        assert_eq!(answer.status, 400);
        let error = answer.error();
        assert_eq!(error.message, "No such thing.");
        assert_eq!(error.code.as_deref(), Some("bad_thing"));
        let entry = case.gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.outcome(), "rejected");
        assert_eq!(entry.cost(), Some(0));
    }
    assert_eq!(case.second.counts().connections, 0, "no other route is tried with it");
}

/// An error in place of an answer, under a 200, as OpenRouter tells what befell it upstream.
fn error_under_200(stream: bool, code: u16, usage: &str) -> Script {
    let error = format!(r#"{{"error":{{"code":{code},"message":"No such thing."}}{usage}}}"#);
    match stream {
        true => Script::body("text/event-stream", &format!("data: {error}\n\n")),
        false => Script::body("application/json", &error),
    }
}

#[tokio::test]
async fn an_error_under_a_200_is_what_it_says_it_is() {
    let case = two_clouds().await;
    let usage =
        r#","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}"#;
    for stream in [true, false] {
        for (usage, cost) in [("", 0), (usage, 7 * INPUT + 2 * OUTPUT)] {
            case.first.next(error_under_200(stream, 400, usage));
            let ask = case.gate.ask("Something odd.");
            let answer = if stream { ask.streamed() } else { ask }.send().await;
            assert_eq!((answer.status, answer.error().message.as_str()), (400, "No such thing."));
            let entry = case.gate.ledger().entry(answer.id()).await;
            entry.adds_up();
            assert_eq!((entry.outcome().as_str(), entry.cost()), ("rejected", Some(cost)));
            let attempt = entry.only_attempt();
            assert_eq!((attempt.outcome().as_str(), attempt.cost()), ("error_status", Some(cost)));
            assert_eq!(attempt.0["upstream_status"], 400);
            assert_eq!(attempt.0["voided"], cost == 0);
        }
    }
    assert_eq!(case.second.counts().connections, 0, "no other route is tried with it");
    for stream in [true, false] {
        case.first.next(error_under_200(stream, 429, ""));
        case.second.next(Script::says("From the second.").using(10, 3));
        let ask = case.gate.ask("Who answers?");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        assert_eq!(answer.text(), "From the second.");
        let attempts = case.gate.ledger().entry(answer.id()).await.attempts();
        assert_eq!((attempts[0].outcome().as_str(), attempts[0].cost()), ("error_status", Some(0)));
    }
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn signs_of_life_are_no_answer_however_many() {
    let case = two_clouds().await;
    let silent = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    let overloaded = r#"{"error":{"message":"Overloaded.","type":"overloaded_error"}}"#;
    let said = format!("data: {silent}\n\n").repeat(60) + &format!("data: {overloaded}\n\n");
    case.first.next(Script::body("text/event-stream", &said));
    case.second.next(Script::says("From the second."));
    let answer = case.gate.ask("Who answers?").streamed().send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "second");
    assert_eq!(answer.text(), "From the second.");
    // They are not kept without end.
    let many = format!("data: {silent}\n\n").repeat(2000);
    let said = many
        + r#"data: {"choices":[{"index":0,"delta":{"content":"At last."},"finish_reason":"stop"}]}"#;
    case.first.next(Script::body("text/event-stream", &format!("{said}\n\ndata: [DONE]\n\n")));
    let answer = case.gate.ask("Who answers?").streamed().send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "first");
    assert_eq!(answer.text(), "At last.");
}

#[tokio::test]
async fn what_the_provider_calls_the_callers_fault_is_told_whatever_failed_before() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "retry = { max = 1, backoff_ms = 10 }")
        .cloud_named("second", &second, "retry = { max = 0 }")
        .start()
        .await;
    first.next(Script::default().with(Fault::Status503));
    second.next(Script::default().with(Fault::Status503));
    first.next(Script::default().with(Fault::Status400));
    let answer = gate.ask("Something odd.").send().await;
    assert_eq!((answer.status, answer.error().message.as_str()), (400, "No such thing."));
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!((entry.outcome().as_str(), entry.attempts().len()), ("rejected", 3));
}

#[tokio::test]
async fn a_route_that_was_not_asked_again_keeps_its_allowance_of_retries() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let few = "retry = { max = 1, backoff_ms = 1, extra_permille = 1 }";
    let gate = Gate::builder()
        .cloud_named("first", &first, few)
        .cloud_named("second", &second, few)
        .start()
        .await;
    let fails = |cloud: &StandIn| {
        cloud.next(Script::default().with(Fault::Status503));
    };
    // Ten are saved up at the start: the first route uses up its own.
    for _ in 0..10 {
        fails(&first);
        fails(&second);
        let answer = gate.ask("Once more.").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "first");
    }
    fails(&first);
    fails(&second);
    let answer = gate.ask("Once more.").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "second");
}

#[tokio::test]
async fn when_every_route_fails_the_error_says_so_and_nothing_is_held() {
    let case = two_clouds().await;
    case.first.always(Script::default().with(Fault::Status500));
    case.second.always(Script::default().with(Fault::Status503));
    let answer = case.gate.ask("Anyone?").send().await;
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    let error = answer.error();
    assert!(!error.message.contains("It broke inside"), "a provider's inside stays inside");
    let entry = case.gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.outcome(), "failed");
    assert_eq!(entry.attempts().len(), 2);
    assert_eq!(entry.cost(), Some(0));
    case.gate.until_nothing_is_reserved().await;
    let metrics = case.gate.metrics().await;
    assert!(metrics.contains("outcome=\"failed\""), "{metrics}");
    assert!(
        !metrics.contains("tollgate_refusals_total{"),
        "one request is counted once: {metrics}"
    );

    // Rate limits everywhere are the caller's to wait for.
    case.first.always(Script::default().with(Fault::RateLimited));
    case.second.always(Script::default().with(Fault::RateLimited));
    let answer = case.gate.ask("Anyone?").send().await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.error().code.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(answer.header("retry-after"), "7");
}

#[tokio::test]
async fn nobody_is_let_to_ask_again_for_what_no_wait_mends() {
    let case = two_clouds().await;
    let (wrong_key, no_model) = (
        || Script::default().with(Fault::Status401),
        || Script::error(404, "invalid_request_error", Some("model_not_found"), "No such model."),
    );
    let overloaded = || Script::default().with(Fault::Status503);
    let later = || wrong_key().header("retry-after", "3");
    for (first, second, stops) in [
        (wrong_key(), no_model(), true),
        (wrong_key(), overloaded(), false),
        (overloaded(), wrong_key(), false),
        (wrong_key(), later(), false),
    ] {
        case.first.next(first);
        case.second.next(second);
        let refused = case.gate.ask("Who answers?").send().await;
        assert_eq!(
            (refused.status, refused.error().code.as_deref()),
            (502, Some("upstream_failed"))
        );
        let told = refused.headers.get("x-should-retry").is_some_and(|word| word == "false");
        assert_eq!(told, stops, "{}", refused.body_text());
    }
    case.first.next(wrong_key());
    let refused = case.gate.ask("Who answers?").from("first").send().await;
    assert_eq!((refused.status, refused.header("x-should-retry")), (503, "false"));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_not_sent_to_and_not_charged() {
    let second = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_at("first", "http://127.0.0.1:1/v1", "")
        .cloud_named("second", &second, "")
        .start()
        .await;
    let answer = gate.ask("Who answers?").send().await.ok();
    let attempts = gate.ledger().entry(answer.id()).await.attempts();
    assert_eq!(attempts[0].outcome(), "not_sent");
    assert_eq!(attempts[0].cost(), Some(0));
    assert_eq!(attempts[1].outcome(), "completed");
    let told = |line: &str| line.contains("attempt failed") && line.contains(answer.id());
    assert!(gate.log().lines().any(told), "the log leads to the entry: {}", gate.log());
}

/// A listener that takes no more connections: whoever comes now waits for one.
async fn a_full_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address));
    while let Ok(connected) = connect().await {
        taken.push(connected.unwrap());
        assert!(taken.len() < 64, "it takes every connection");
    }
    (listener, taken)
}

#[tokio::test]
async fn an_address_that_takes_no_connection_is_given_up_in_time_and_not_charged() {
    let (full, _taken) = a_full_listener().await;
    let full = format!("http://{}/v1", full.local_addr().unwrap());
    let last = StandIn::start().await.unwrap();
    // By the wait for a connection, and by the one for the first token or for all of the answer where
    // that is the shorter.
    let by_token = "connect_timeout_ms = 60000\nfirst_token_timeout_ms = 300";
    let by_all =
        "connect_timeout_ms = 60000\nfirst_token_timeout_ms = 60000\ntotal_timeout_ms = 300";
    let gate = Gate::builder()
        .cloud_at("connects", &full, "connect_timeout_ms = 200")
        .cloud_at("answers", &full, by_token)
        .cloud_at("ends", &full, by_all)
        .cloud_named("last", &last, "")
        .start()
        .await;
    for stream in [false, true] {
        let begun = Instant::now();
        let ask = gate.ask("Who answers?");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(answer.header("x-tollgate-route"), "last");
        let attempts = gate.ledger().entry(answer.id()).await.attempts();
        assert_eq!(attempts.len(), 4);
        for attempt in &attempts[..3] {
            assert_eq!((attempt.outcome().as_str(), attempt.cost()), ("not_sent", Some(0)));
        }
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn who_leaves_before_there_is_a_connection_owes_nothing() {
    let (full, _taken) = a_full_listener().await;
    let full = format!("http://{}/v1", full.local_addr().unwrap());
    let gate = Gate::builder().cloud_at("first", &full, "connect_timeout_ms = 60000").start().await;
    let connects = async {
        eventually("a reservation", || async { gate.reservations().await.pop() }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    gate.ask("Who answers?").leave_before_head(connects).await;
    let entry = gate.ledger().until_entries(1).await.remove(0);
    let attempt = gate.ledger().entry(&entry.id()).await.only_attempt();
    assert_eq!((attempt.outcome().as_str(), attempt.cost()), ("not_sent", Some(0)));
    assert!(attempt.0["usage"].is_null() && attempt.0["voided"] == true, "{:#}", attempt.0);
    assert!(attempt.time("head_us") > 0, "{:#}", attempt.0);
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn callers_faults_do_not_count_against_a_route() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "breaker = { failures_max = 1, samples_min = 1 }")
        .cloud_named("second", &second, "")
        .start()
        .await;
    for _ in 0..30 {
        first.next(Script::default().with(Fault::Status400));
        assert_eq!(gate.ask("Something odd.").send().await.status, 400);
    }
    let answer = gate.ask("Something ordinary.").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "first");
}
