//! How an answer ends: whole, however its connection does, or with what an error says that came in place
//! of it.

use super::{
    DONE, HELLO, KEY, SSE_HEAD, Step, USAGE, ask_for, ask_scripted, config, request_for, server,
    start, status, write,
};
use crate::{
    config::CloudConfig,
    providers::Kind,
    routes::{FaultKind, Owed},
    wire::Event,
};
use policies::{Usage, UsageSource};
use std::time::Duration;
use tokio::time::Instant;

const CHUNKED_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// How a connection ends behind the last event.
#[derive(Clone, Copy, Debug)]
enum Close {
    /// Well, by a body that ends with it.
    Eof,
    /// Before the end of its body.
    Cut,
    /// Not at all.
    Stalls,
}

fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

fn steps(text: &str, close: Close) -> Vec<Step> {
    match close {
        Close::Eof => write(&[SSE_HEAD, text]),
        Close::Cut => write(&[CHUNKED_HEAD, &format!("{:x}\r\n{text}\r\n", text.len())]),
        Close::Stalls => write(&[SSE_HEAD, text]).into_iter().chain([Step::Hang]).collect(),
    }
}

fn of_kind(kind: &str, base_url: &str) -> CloudConfig {
    let idle_timeout = Duration::from_millis(50);
    CloudConfig { kind: Kind::find(kind).unwrap(), idle_timeout, ..config(base_url) }
}

async fn answered(
    kind: &str,
    steps: Vec<Step>,
    stream: bool,
    choices: u32,
) -> (Vec<Event>, Option<FaultKind>, Owed) {
    let (base_url, _server) = server(steps).await;
    ask_for(of_kind(kind, &base_url), &request_for(stream, choices)).await
}

fn told(events: &[Event]) -> (Usage, UsageSource) {
    match events.last() {
        Some(Event::End { usage, source, .. }) => (*usage, *source),
        other => panic!("{other:?}"),
    }
}

const SAID: &str = r#"{"candidates":[{"content":{"parts":[{"text":"Hello, you."}]},"index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1}}"#;
const STOP: &str = r#"{"candidates":[{"content":{"parts":[]},"finishReason":"STOP","index":0}]}"#;
const STOP_AND_USAGE: &str = r#"{"candidates":[{"content":{"parts":[]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4}}"#;
const LAST_USAGE: &str = r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4}}"#;

fn message(last: &[&str]) -> String {
    let first = [
        r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":9,"output_tokens":1}}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
    ];
    events(&[&first, last].concat())
}

#[tokio::test]
async fn an_answer_that_has_its_end_is_whole_however_its_connection_ends() {
    let gemini = events(&[SAID, STOP_AND_USAGE]);
    let later = events(&[SAID, STOP, LAST_USAGE]);
    let anthropic = message(&[
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
    ]);
    for (kind, text) in [("gemini", &gemini), ("gemini", &later), ("anthropic", &anthropic)] {
        for close in [Close::Eof, Close::Cut, Close::Stalls] {
            let (events, fault, _) = answered(kind, steps(text, close), true, 1).await;
            assert_eq!(fault, None, "{kind} {close:?}");
            let usage = Usage { input: 9, output: 4, ..Usage::default() };
            assert_eq!(told(&events), (usage, UsageSource::Reported), "{kind} {close:?}");
            let ends = events.iter().filter(|event| matches!(event, Event::End { .. })).count();
            assert_eq!(ends, 1, "{kind} {close:?}");
        }
    }
    // Without its end it is broken as ever.
    for (kind, text) in [("gemini", events(&[SAID])), ("anthropic", message(&[]))] {
        for close in [Close::Eof, Close::Cut] {
            let (_, fault, _) = answered(kind, steps(&text, close), true, 1).await;
            assert_eq!(fault, Some(FaultKind::Broken), "{kind} {close:?}");
        }
        let (_, fault, _) = answered(kind, steps(&text, Close::Stalls), true, 1).await;
        assert_eq!(fault, Some(FaultKind::Idle), "{kind}");
    }
}

#[tokio::test]
async fn usage_that_was_told_before_an_end_that_was_cut_is_a_part() {
    let text = events(&[SAID, STOP]);
    let (events, fault, _) = answered("gemini", steps(&text, Close::Cut), true, 1).await;
    assert_eq!(fault, None);
    let (usage, source) = told(&events);
    assert!(usage.input == 9 && usage.output > 1, "{usage:?}");
    assert_eq!(source, UsageSource::Estimated);
    let (events, ..) = answered("gemini", steps(&text, Close::Eof), true, 1).await;
    assert_eq!(told(&events).1, UsageSource::Reported, "nothing was to come");
}

#[tokio::test]
async fn an_answer_that_has_said_all_ends_soon_where_its_connection_does_not() {
    for (kind, text) in [
        ("gemini", events(&[SAID, STOP_AND_USAGE])),
        ("openai", format!("{HELLO}{USAGE}")),
        ("openai", HELLO.to_owned()),
    ] {
        let (base_url, _server) = server(steps(&text, Close::Stalls)).await;
        let patient =
            CloudConfig { idle_timeout: Duration::from_secs(60), ..of_kind(kind, &base_url) };
        let began = Instant::now();
        let (_, fault, _) = ask_for(patient, &request_for(true, 1)).await;
        assert_eq!(fault, None, "{kind}");
        assert!(began.elapsed() < Duration::from_secs(30), "{kind}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_error_behind_the_end_breaks_nothing() {
    let done = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#;
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
    for (kind, text, error) in [
        ("openai", HELLO.to_owned(), r#"{"error":{"code":502,"message":"gone"}}"#),
        ("openai", format!("{HELLO}{USAGE}"), "{garbage"),
        ("gemini", events(&[SAID, STOP_AND_USAGE]), r#"{"error":{"code":503}}"#),
        ("anthropic", message(&[done]), overloaded),
    ] {
        for close in [Close::Eof, Close::Cut, Close::Stalls] {
            let text = format!("{text}{}", events(&[error]));
            let (_, fault, _) = answered(kind, steps(&text, close), true, 1).await;
            assert_eq!(fault, None, "{kind} {error} {close:?}");
        }
    }
}

#[tokio::test]
async fn another_tollgates_refusal_within_a_stream_is_of_this_request_alone() {
    let short = r#"{"error":{"message":"no money","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    let refused =
        r#"{"error":{"message":"not here","type":"permission_error","code":"policy_refused"}}"#;
    for (error, status) in [(short, 429), (refused, 403)] {
        let ends = |kind| answered(kind, steps(&events(&[error]), Close::Eof), true, 1);
        let (_, fault, _) = ends("tollgate").await;
        let is_passed_over = matches!(
            &fault,
            Some(FaultKind::Rejected { status: as_of, elsewhere: true, .. }) if *as_of == status
        );
        assert!(is_passed_over, "{fault:?}");
        let (_, fault, _) = ends("openai").await;
        let is_the_routes =
            matches!(fault, Some(FaultKind::Status { status: as_of, .. }) if as_of == status);
        assert!(is_the_routes, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_cut_behind_the_end_breaks_nothing() {
    for cut in [1, 7, 40, USAGE.len() - 3] {
        for close in [Close::Eof, Close::Cut] {
            let text = format!("{HELLO}{}", &USAGE[..cut]);
            let (events, fault, _) = answered("openai", steps(&text, close), true, 1).await;
            assert_eq!((events.len(), fault), (3, None), "{cut} {close:?}");
        }
    }
    // An event that is whole but for its blank line counts.
    let text = format!("{HELLO}{}", USAGE.trim_end());
    let (events, fault, _) = answered("openai", steps(&text, Close::Eof), true, 1).await;
    assert_eq!((events.len(), fault), (4, None));
    // And in front of the end it is broken.
    let half = &HELLO[..HELLO.len() - 9];
    let (_, fault, _) = answered("openai", steps(half, Close::Eof), true, 1).await;
    assert_eq!(fault, Some(FaultKind::Broken));
}

#[tokio::test]
async fn a_choice_that_ends_twice_does_not_stand_for_another() {
    let ends = |choice: u32| {
        format!(
            r#"{{"choices":[{{"index":{choice},"delta":{{"content":"a"}},"finish_reason":"stop"}}]}}"#
        )
    };
    let candidate = |choice: u32| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"a"}}]}},"finishReason":"STOP","index":{choice}}}],"usageMetadata":{{"promptTokenCount":9,"candidatesTokenCount":4}}}}"#
        )
    };
    for (kind, one) in [("openai", &ends as &dyn Fn(u32) -> String), ("gemini", &candidate)] {
        for (second, fault) in [(0, Some(FaultKind::Broken)), (1, None)] {
            let text = events(&[&one(0), &one(second)]);
            let (_, found, _) = answered(kind, steps(&text, Close::Eof), true, 2).await;
            assert_eq!(found, fault, "{kind}");
        }
    }
    // Who says that the answer is whole is believed.
    let text = format!("{}{DONE}", events(&[&ends(0), &ends(0)]));
    assert_eq!(answered("openai", steps(&text, Close::Eof), true, 2).await.1, None);
}

fn rejected(code: u16, message: &str, error_type: Option<&str>, word: Option<&str>) -> FaultKind {
    FaultKind::Rejected {
        status: code,
        message: message.to_owned(),
        error_type: error_type.map(str::to_owned),
        param: None,
        code: word.map(str::to_owned),
        elsewhere: false,
    }
}

#[tokio::test]
async fn an_error_in_place_of_an_answer_is_what_its_status_would_have_been() {
    let limited = FaultKind::RateLimited { retry_after: None };
    let stands_for = |status| FaultKind::Status { status, retry_after: None };
    for (kind, error, fault, owed) in [
        ("openai", r#"{"error":{"code":429,"message":"slow"}}"#, limited.clone(), Owed::ByFault),
        ("openai", r#"{"error":{"code":"429","message":"slow"}}"#, limited.clone(), Owed::ByFault),
        (
            "openai",
            r#"{"error":{"code":400,"message":"odd"}}"#,
            rejected(400, "odd", None, Some("400")),
            Owed::ByFault,
        ),
        (
            "openai",
            r#"{"error":{"message":"odd","type":"invalid_request_error","code":null}}"#,
            rejected(400, "odd", Some("invalid_request_error"), None),
            Owed::ByFault,
        ),
        ("openai", r#"{"error":{"code":401,"message":"no"}}"#, stands_for(401), Owed::ByFault),
        // It may have been computed by then.
        ("openai", r#"{"error":{"code":502,"message":"gone"}}"#, stands_for(502), Owed::Estimated),
        ("openai", r#"{"error":{"message":"gone"}}"#, FaultKind::Broken, Owed::Estimated),
        (
            "openai",
            r#"{"error":{"code":400,"message":"odd"},"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
            rejected(400, "odd", None, Some("400")),
            Owed::Reported(Box::new(Usage { input: 7, output: 2, ..Usage::default() })),
        ),
        (
            "anthropic",
            r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#,
            stands_for(529),
            Owed::Estimated,
        ),
        (
            "anthropic",
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#,
            limited,
            Owed::ByFault,
        ),
        (
            "gemini",
            r#"{"error":{"code":404,"status":"NOT_FOUND"}}"#,
            stands_for(404),
            Owed::ByFault,
        ),
    ] {
        for stream in [true, false] {
            let steps = match stream {
                true => steps(&events(&[error]), Close::Eof),
                false => status("200 OK", "", error),
            };
            let (events, found, found_owed) = answered(kind, steps, stream, 1).await;
            assert!(events.is_empty());
            assert_eq!(found.as_ref(), Some(&fault), "{error}");
            assert_eq!(found_owed, owed, "{error}");
        }
    }
}

#[tokio::test]
async fn an_error_behind_something_is_owed_and_behind_text_it_breaks_the_answer() {
    let error = r#"{"error":{"code":400,"message":"odd"}}"#;
    let after = |events: usize| {
        let begun: String = HELLO.split_inclusive("\n\n").take(events).collect();
        steps(&format!("{begun}data: {error}\n\n"), Close::Eof)
    };
    let (_, fault, owed) = answered("openai", after(1), true, 1).await;
    assert_eq!((fault, owed), (Some(rejected(400, "odd", None, Some("400"))), Owed::Estimated));
    let (_, fault, _) = answered("openai", after(2), true, 1).await;
    assert_eq!(fault, Some(FaultKind::Broken));
}

#[tokio::test]
async fn no_secret_is_in_an_error_in_place_of_an_answer() {
    for code in ["400", "401", "429", "500", "\"odd\""] {
        let error =
            format!(r#"{{"error":{{"message":"bad key {KEY}","code":{code},"type":"{KEY}"}}}}"#);
        let (_, fault) = ask_scripted(status("200 OK", "", &error), false).await;
        assert!(!format!("{fault:?}").contains(KEY), "{fault:?}");
        let (base_url, _server) = server(steps(&events(&[&error]), Close::Eof)).await;
        let fault = start(config(&base_url), true).await.unwrap().next().await;
        assert!(!format!("{fault:?}").contains(KEY), "{fault:?}");
    }
}
