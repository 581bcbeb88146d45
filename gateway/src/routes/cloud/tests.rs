//! The cloud route against a scripted server on a real socket: whatever a provider does, the
//! attempt ends as a whole answer or as the right fault.

mod ends;

use super::{CloudAnswer, CloudRoute};
use crate::{
    config::{CapField, CloudConfig},
    providers::Kind,
    routes::{Fault, FaultKind, Owed},
    wire::{ChatRequest, Event, FinishReason, read_chat},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(super) const KEY: &str = "sk-very-secret-value";
const SSE_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const HELLO: &str = r#"data: {"id":"c1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hé"},"finish_reason":null}]}

data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

"#;
const USAGE: &str = r#"data: {"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}

"#;
const DONE: &str = "data: [DONE]\n\n";

/// What a server does with the connection once it has read one request.
enum Step {
    Write(String),
    Bytes(Vec<u8>),
    /// Says nothing until the client is gone.
    Hang,
    /// Closes with a reset in place of an end.
    Reset,
}

/// A server for one connection, and what it read: head and body. With [`Step::Hang`] it ends when
/// the client closes.
async fn server(steps: Vec<Step>) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "a test's server settles nothing")]
    let handle = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let request = read_request(&mut socket).await;
        for step in steps {
            match step {
                Step::Write(text) => socket.write_all(text.as_bytes()).await.unwrap(),
                Step::Bytes(bytes) => socket.write_all(&bytes).await.unwrap(),
                Step::Hang => while socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {},
                Step::Reset => socket.set_zero_linger().unwrap(),
            }
        }
        request
    });
    (base_url, handle)
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = socket.read(&mut piece).await.unwrap();
        assert!(count > 0, "the client left before its request was whole");
        read.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

pub(super) fn config(base_url: &str) -> CloudConfig {
    CloudConfig {
        provider: "stand-in".into(),
        base_url: base_url.into(),
        api_key: Some(KEY.into()),
        lacks_key: false,
        model: "big-1".into(),
        headers: vec![("x-team".into(), "blue".into())],
        in_flight_max: 1,
        pool_wait_max: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(60),
        first_token_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(600),
        kind: Kind::find("openai").unwrap(),
        api_version: None,
        drop_fields: Vec::new(),
        cap_field: CapField::MaxCompletionTokens,
        reasoning: false,
    }
}

fn request(stream: bool) -> ChatRequest {
    request_for(stream, 1)
}

fn request_for(stream: bool, choices: u32) -> ChatRequest {
    let n = if choices > 1 { format!(",\"n\":{choices}") } else { String::new() };
    let body = format!(
        r#"{{"model":"auto","messages":[{{"role":"user","content":"Hi"}}],"stream":{stream},"odd":[1]{n}}}"#
    );
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer callers-own-key"));
    read_chat(Bytes::from(body), &headers, 50).unwrap()
}

async fn start(config: CloudConfig, stream: bool) -> Result<CloudAnswer, Fault> {
    let route = CloudRoute::new(config).unwrap();
    let place = route.place().await?;
    route.start(place, &request(stream), 50).await
}

/// The whole answer: its events, and the fault it ended with.
async fn ask(config: CloudConfig, stream: bool) -> (Vec<Event>, Option<FaultKind>) {
    let (events, fault, _) = ask_for(config, &request(stream)).await;
    (events, fault)
}

/// The whole answer to `request`, and what is owed where it failed.
async fn ask_for(
    config: CloudConfig,
    request: &ChatRequest,
) -> (Vec<Event>, Option<FaultKind>, Owed) {
    let route = CloudRoute::new(config).unwrap();
    let place = route.place().await.unwrap();
    let mut events = Vec::new();
    let mut answer = match route.start(place, request, 50).await {
        Ok(answer) => answer,
        Err(fault) => return (events, Some(fault.kind), Owed::ByFault),
    };
    while let Some(event) = answer.next().await {
        match event {
            Ok(event) => events.push(event),
            Err(fault) => {
                assert!(answer.next().await.is_none(), "nothing follows a fault");
                return (events, Some(fault.kind), answer.owed());
            }
        }
    }
    (events, None, Owed::ByFault)
}

async fn ask_scripted(steps: Vec<Step>, stream: bool) -> (Vec<Event>, Option<FaultKind>) {
    let (base_url, _server) = server(steps).await;
    ask(config(&base_url), stream).await
}

fn write(parts: &[&str]) -> Vec<Step> {
    parts.iter().map(|part| Step::Write((*part).to_owned())).collect()
}

fn status(line: &str, headers: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    write(&[&format!("HTTP/1.1 {line}\r\n{headers}content-length: {length}\r\n\r\n{body}")])
}

fn visible(events: &[Event]) -> u32 {
    events
        .iter()
        .map(|event| match event {
            Event::Chunk { seen, .. } | Event::Whole { seen, .. } => seen.visible_bytes,
            _ => 0,
        })
        .sum()
}

#[tokio::test]
async fn a_stream_is_relayed_as_it_is() {
    let (events, fault) = ask_scripted(write(&[SSE_HEAD, HELLO, USAGE, DONE]), true).await;
    assert_eq!(fault, None);
    let data: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Chunk { data, .. } => {
                format!("data: {}\n\n", std::str::from_utf8(data).unwrap())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(data.concat(), format!("{HELLO}{USAGE}"));
    let Event::Chunk { seen, .. } = &events[3] else { panic!() };
    assert!(seen.usage_only && seen.usage.is_some_and(|usage| usage.total() == 11));
    let Event::Chunk { seen, .. } = &events[2] else { panic!() };
    assert_eq!(seen.finish, Some(FinishReason::Stop));
    assert_eq!(visible(&events), 3);
}

#[tokio::test]
async fn what_is_sent_is_ours_and_nothing_of_the_callers_key() {
    let (base_url, server) = server(write(&[SSE_HEAD, HELLO, DONE])).await;
    ask(config(&base_url), true).await;
    let sent = server.await.unwrap();
    assert!(sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains(&format!("authorization: Bearer {KEY}\r\n")), "{sent}");
    assert!(sent.contains("x-team: blue\r\n") && !sent.contains("callers-own-key"), "{sent}");
    assert!(sent.ends_with(r#"{"model":"big-1","messages":[{"role":"user","content":"Hi"}],"stream":true,"odd":[1],"max_completion_tokens":50,"stream_options":{"include_usage":true}}"#), "{sent}");
}

#[tokio::test]
async fn a_character_cut_in_two_is_whole_again() {
    let text = format!("{HELLO}{DONE}").into_bytes();
    let mut steps = write(&[SSE_HEAD]);
    steps.extend(text.chunks(1).map(|byte| Step::Bytes(byte.to_vec())));
    let (events, fault) = ask_scripted(steps, true).await;
    assert_eq!((visible(&events), fault), (3, None));
}

/// A whole answer in HTTP chunks, which come one by one however they are read.
fn chunked(chunks: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<Step> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    for chunk in chunks {
        let chunk = chunk.as_ref();
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    vec![Step::Bytes(bytes), Step::Hang]
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let body =
        r#"{"id":"c1","choices":[{"index":0,"message":{"content":"Hé"},"finish_reason":"stop"}]}"#;
    for size in [1, 7, body.len() - 1] {
        let (events, fault) = ask_scripted(chunked(body.as_bytes().chunks(size)), false).await;
        assert_eq!(fault, None);
        let [Event::Whole { body: relayed, .. }] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(relayed, body, "in pieces of {size}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let piece = vec![b' '; 1 << 20];
    let pieces = std::iter::repeat_n(&piece, super::answer::WHOLE_BYTES_MAX / piece.len() + 1);
    let (base_url, _server) = server(chunked(pieces)).await;
    let fault = start(config(&base_url), false).await.unwrap().next().await.unwrap().unwrap_err();
    assert!(fault.detail().contains("larger than"), "{fault}");
}

#[tokio::test]
async fn an_answer_that_finished_is_whole_without_its_done() {
    let (events, fault) = ask_scripted(write(&[SSE_HEAD, HELLO]), true).await;
    assert_eq!((events.len(), fault), (3, None));
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_broken() {
    let (first, _) =
        HELLO.split_once(r#"data: {"id":"c1","choices":[{"index":0,"delta":{},"#).unwrap();
    for steps in [
        write(&[SSE_HEAD, first]),
        write(&[SSE_HEAD]),
        write(&[SSE_HEAD, first]).into_iter().chain([Step::Reset]).collect(),
        write(&[SSE_HEAD, "data: {garbage\n\n"]),
        write(&[SSE_HEAD, "data: [1]\n\n"]),
        write(&[
            SSE_HEAD,
            r#"data: {"error":{"message":"my prompt","code":"overloaded"}}"#,
            "\n\n",
            DONE,
        ]),
        write(&[SSE_HEAD, "event: error\ndata: {}\n\n", DONE]),
        write(&["HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>"]),
        write(&["garbage\r\n\r\n"]),
        write(&[SSE_HEAD, &"x".repeat(5 << 20)]),
    ] {
        let (_, fault) = ask_scripted(steps, true).await;
        assert_eq!(fault, Some(FaultKind::Broken));
    }
}

#[tokio::test]
async fn an_error_within_a_stream_is_named_by_its_code_alone() {
    let error = r#"data: {"error":{"message":"about my prompt","type":"server_error","code":"overloaded"}}"#;
    let (base_url, _server) = server(write(&[SSE_HEAD, error, "\n\n"])).await;
    let fault = start(config(&base_url), true).await.unwrap().next().await.unwrap().unwrap_err();
    assert!(fault.detail().contains("overloaded") && !fault.detail().contains("prompt"), "{fault}");
}

#[tokio::test]
async fn an_unstreamed_answer_is_one_event() {
    let body = r#"{"id":"c9","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
    let (events, fault) = ask_scripted(status("200 OK", "", body), false).await;
    assert_eq!(fault, None);
    let [Event::Whole { body: relayed, seen }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(relayed, body);
    assert_eq!(seen.id.as_deref(), Some("c9"));
    assert_eq!(seen.finish, Some(FinishReason::Length));
    assert_eq!(seen.usage.map(|usage| usage.total()), Some(11));
}

#[tokio::test]
async fn an_unstreamed_answer_that_is_none_is_broken() {
    for body in ["<html>", "{}", r#"{"choices":[]}"#, r#"{"error":{"message":"x"}}"#, ""] {
        let (_, fault) = ask_scripted(status("200 OK", "", body), false).await;
        assert_eq!(fault, Some(FaultKind::Broken), "{body}");
    }
    let short = write(&["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"choices\""]);
    assert_eq!(ask_scripted(short, false).await.1, Some(FaultKind::Broken));
}

#[tokio::test]
async fn a_rate_limit_says_when_it_opens_again() {
    for (headers, millis) in [
        ("retry-after: 7\r\n", Some(7000)),
        ("retry-after: 1.5\r\n", Some(1500)),
        ("retry-after: 7\r\nretry-after-ms: 250\r\n", Some(250)),
        (
            "date: Wed, 21 Oct 2026 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2026 07:28:30 GMT\r\n",
            Some(30_000),
        ),
        ("retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n", Some(0)),
        ("retry-after: soon\r\n", None),
        ("retry-after: -5\r\n", None),
        ("retry-after: 1e300\r\n", None),
        ("", None),
    ] {
        let (_, fault) = ask_scripted(status("429 Too Many", headers, "{}"), true).await;
        let retry_after = millis.map(Duration::from_millis);
        assert_eq!(fault, Some(FaultKind::RateLimited { retry_after }), "{headers}");
    }
}

#[tokio::test]
async fn an_error_status_is_the_providers_or_the_callers() {
    for (line, status_code) in [
        ("500 Oops", 500),
        ("503 Busy", 503),
        ("401 No", 401),
        ("403 No", 403),
        ("404 None", 404),
        ("408 Slow", 408),
        ("302 Found", 302),
        ("402 Pay", 402),
    ] {
        let steps = status(line, "location: http://127.0.0.1:9/\r\n", "<html>");
        let (_, fault) = ask_scripted(steps, true).await;
        assert_eq!(fault, Some(FaultKind::Status { status: status_code, retry_after: None }));
    }
    let body = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    for (line, code) in [("400 Bad", 400), ("413 Big", 413), ("422 Odd", 422)] {
        let (_, fault) = ask_scripted(status(line, "", body), false).await;
        let expected = FaultKind::Rejected {
            status: code,
            elsewhere: true,
            message: "too long".into(),
            error_type: Some("invalid_request_error".into()),
            param: Some("messages".into()),
            code: Some("context_length_exceeded".into()),
        };
        assert_eq!(fault, Some(expected));
    }
}

#[tokio::test]
async fn no_secret_is_in_any_fault() {
    let body = format!(r#"{{"error":{{"message":"bad key {KEY}","code":"{KEY}"}}}}"#);
    for line in ["400 Bad", "401 No", "500 Oops"] {
        let (base_url, _server) = server(status(line, "", &body)).await;
        let fault = start(config(&base_url), true).await.unwrap_err();
        assert!(!format!("{fault:?} {fault}").contains(KEY), "{fault:?}");
    }
    let route = CloudRoute::new(config("http://127.0.0.1:9/v1?key=hidden")).unwrap();
    let place = route.place().await.unwrap();
    let fault = route.start(place, &request(true), 5).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Connect);
    let shown = format!("{fault:?} {route:?}");
    assert!(!shown.contains("hidden") && !shown.contains(KEY), "{shown}");
}

#[tokio::test]
async fn silence_before_the_head_is_no_first_token() {
    for stream in [true, false] {
        let (base_url, _server) = server(vec![Step::Hang]).await;
        let mut config = config(&base_url);
        config.first_token_timeout = Duration::from_millis(50);
        config.total_timeout = Duration::from_millis(if stream { 60_000 } else { 50 });
        let kind = if stream { FaultKind::FirstToken } else { FaultKind::Total };
        assert_eq!(ask(config, stream).await.1, Some(kind));
    }
}

#[tokio::test]
async fn silence_before_the_first_token_is_no_first_token() {
    let mut steps =
        write(&[SSE_HEAD, ": processing\n\n", HELLO.split_inclusive("\n\n").next().unwrap()]);
    steps.push(Step::Hang);
    let (base_url, _server) = server(steps).await;
    let mut config = config(&base_url);
    config.first_token_timeout = Duration::from_millis(50);
    let (events, fault) = ask(config, true).await;
    assert_eq!(fault, Some(FaultKind::FirstToken), "neither a comment nor a role is a token");
    assert!(events.len() <= 1);
}

#[tokio::test]
async fn silence_between_chunks_is_idle_and_closes_the_connection() {
    let two: String = HELLO.split_inclusive("\n\n").take(2).collect();
    let mut steps = write(&[SSE_HEAD, &two]);
    steps.push(Step::Hang);
    let (base_url, server) = server(steps).await;
    let mut config = config(&base_url);
    config.idle_timeout = Duration::from_millis(50);
    let (events, fault) = ask(config, true).await;
    assert_eq!((events.len(), fault), (2, Some(FaultKind::Idle)));
    server.await.unwrap();
}

#[tokio::test]
async fn silence_after_the_end_is_an_end() {
    let mut steps = write(&[SSE_HEAD, HELLO]);
    steps.push(Step::Hang);
    let (base_url, _server) = server(steps).await;
    let mut config = config(&base_url);
    config.idle_timeout = Duration::from_millis(50);
    let (events, fault) = ask(config, true).await;
    assert_eq!((events.len(), fault), (3, None));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_end_breaks_nothing() {
    let chunked = SSE_HEAD.replace("connection: close", "transfer-encoding: chunked");
    let chunk = format!("{:x}\r\n{HELLO}\r\n", HELLO.len());
    let (events, fault) = ask_scripted(write(&[&chunked, &chunk]), true).await;
    assert_eq!((events.len(), fault), (3, None));
    let half = HELLO.split_inclusive("\n\n").take(2).collect::<String>();
    let chunk = format!("{:x}\r\n{half}\r\n", half.len());
    let (events, fault) = ask_scripted(write(&[&chunked, &chunk]), true).await;
    assert_eq!((events.len(), fault), (2, Some(FaultKind::Broken)));
}

#[tokio::test]
async fn an_answer_takes_no_longer_than_its_total() {
    let two: String = HELLO.split_inclusive("\n\n").take(2).collect();
    let mut steps = write(&[SSE_HEAD, &two]);
    steps.push(Step::Hang);
    let (base_url, _server) = server(steps).await;
    let mut config = config(&base_url);
    config.total_timeout = Duration::from_millis(50);
    assert_eq!(ask(config, true).await.1, Some(FaultKind::Total));
}

#[tokio::test]
async fn dropping_an_answer_cancels_it_upstream() {
    let mut steps = write(&[SSE_HEAD, HELLO]);
    steps.push(Step::Hang);
    let (base_url, server) = server(steps).await;
    let mut answer = start(config(&base_url), true).await.unwrap();
    answer.next().await.unwrap().unwrap();
    drop(answer);
    server.await.expect("the server saw the connection close");
}

#[tokio::test]
async fn dropping_a_start_cancels_it_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let route = CloudRoute::new(config(&base_url)).unwrap();
    let place = route.place().await.unwrap();
    let asked = request(true);
    let arrives = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        socket
    };
    let mut socket = tokio::select! {
        socket = arrives => socket,
        _ = route.start(place, &asked, 5) => panic!("no answer was sent"),
    };
    assert_eq!(socket.read(&mut [0; 64]).await.unwrap_or(0), 0, "the client closed");
    assert_eq!(route.in_flight(), 0);
}

#[tokio::test]
async fn a_connection_is_used_again_after_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = format!("{head}{}{}", chunk(HELLO), chunk(DONE));
    #[expect(clippy::disallowed_methods, reason = "a test's server settles nothing")]
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            read_request(&mut socket).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
            // The end of the body comes in a piece of its own.
            tokio::task::yield_now().await;
            socket.write_all(b"0\r\n\r\n").await.unwrap();
        }
    });
    let route = CloudRoute::new(config(&base_url)).unwrap();
    for _ in 0..3 {
        // The place comes back with the connection, so waiting for one waits for the other.
        let place = route.place().await.unwrap();
        let mut answer = route.start(place, &request(true), 5).await.unwrap();
        while let Some(event) = answer.next().await {
            event.unwrap();
        }
    }
    server.await.expect("one connection served all three");
}

#[tokio::test]
async fn a_request_is_sent_once_whatever_becomes_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let read = Arc::new(AtomicUsize::new(0));
    let body = r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let counted = Arc::clone(&read);
    #[expect(clippy::disallowed_methods, reason = "a test's server settles nothing")]
    tokio::spawn(async move {
        // Every connection answers one request, reads another and closes in silence.
        while let Ok((mut socket, _)) = listener.accept().await {
            read_request(&mut socket).await;
            counted.fetch_add(1, Ordering::SeqCst);
            socket.write_all(answer.as_bytes()).await.unwrap();
            read_request(&mut socket).await;
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let route = CloudRoute::new(config(&base_url)).unwrap();
    for expected in [None, Some(FaultKind::Broken), None] {
        let place = route.place().await.unwrap();
        let answered = match route.start(place, &request(false), 5).await {
            Ok(mut answer) => answer.next().await.unwrap().map(drop),
            Err(fault) => Err(fault),
        };
        assert_eq!(answered.err().map(|fault| fault.kind), expected);
    }
    assert_eq!(read.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_failed_handshake_sends_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("https://{}/v1", listener.local_addr().unwrap());
    let answers = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"this is no TLS\r\n").await.unwrap();
        socket
    };
    let (_socket, (_, fault)) = tokio::join!(answers, ask(config(&base_url), true));
    assert_eq!(fault, Some(FaultKind::Connect));
}

#[tokio::test(start_paused = true)]
async fn places_are_as_many_as_configured_and_the_wait_is_bounded() {
    let route = CloudRoute::new(config("http://127.0.0.1:9/v1")).unwrap();
    let first = route.place().await.unwrap();
    assert_eq!((route.in_flight(), route.queued()), (1, 0));
    let mut waiting = Box::pin(route.place());
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    assert_eq!(route.queued(), 1);
    assert_eq!(route.place().await.unwrap_err().kind, FaultKind::Busy, "too many wait");
    drop(first);
    let second = waiting.await.unwrap();
    assert_eq!(route.queued(), 0);
    assert_eq!(route.place().await.unwrap_err().kind, FaultKind::Busy, "waited too long");
    drop(second);
    assert_eq!((route.in_flight(), route.queued()), (0, 0));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_says_why() {
    for (base_url, why) in [
        ("not a url", "base_url"),
        ("ftp://x/v1", "http"),
        ("http://user:pass@x/v1", "credentials"),
    ] {
        assert!(CloudRoute::new(config(base_url)).unwrap_err().contains(why));
    }
    let mut bad = config("http://x/v1");
    bad.headers = vec![("bad name".into(), "x".into())];
    assert!(CloudRoute::new(bad).unwrap_err().contains("bad name"));
    let mut bad = config("http://x/v1");
    bad.api_key = Some("line\nbreak".into());
    let error = CloudRoute::new(bad).unwrap_err();
    assert!(error.contains("api_key") && !error.contains("break"));
}
