//! Clients that send slowly, or read nothing, cost themselves alone.

use crate::harness::{EntrySeen, Gate, eventually};
use e2e::standin::{Script, StandIn};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A longer wait is a failure.
const SOON: Duration = Duration::from_secs(60);

async fn a_cloud(timeouts: &str) -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server(timeouts).start().await;
    (cloud, gate)
}

async fn connect(gate: &Gate) -> TcpStream {
    TcpStream::connect(gate.url().trim_start_matches("http://")).await.unwrap()
}

/// The head of a chat request of this caller.
fn head(gate: &Gate, body_bytes: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n",
        gate.key().secret
    )
}

/// Everything that comes until the connection is closed.
async fn rest(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, socket.read_to_end(&mut answer)).await;
    // A reset is an end too.
    drop(read.expect("the connection is closed"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn who_sends_no_whole_head_is_closed_and_others_are_served() {
    let (_cloud, gate) = a_cloud("header_read_timeout_ms = 300").await;
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut socket = connect(&gate).await;
        socket.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g").await.unwrap();
        slow.push(socket);
    }
    gate.ask("Am I served?").send().await.ok();
    for socket in &mut slow {
        let answer = rest(socket).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn who_asks_nothing_more_is_closed() {
    let (_cloud, gate) = a_cloud("idle_timeout_ms = 300\nheader_read_timeout_ms = 600000").await;
    let mut socket = connect(&gate).await;
    socket.write_all(b"GET /health HTTP/1.1\r\nhost: gate\r\n\r\n").await.unwrap();
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "it was served before: {answer}");
}

#[tokio::test]
async fn who_sends_no_whole_body_is_told_so_and_nothing_was_asked() {
    let (cloud, gate) = a_cloud("body_read_timeout_ms = 300").await;
    let mut socket = connect(&gate).await;
    socket.write_all(head(&gate, 1000).as_bytes()).await.unwrap();
    socket.write_all(b"{\"model\":").await.unwrap();
    let mut answer = [0; 1024];
    let read = tokio::time::timeout(SOON, socket.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(cloud.counts().requests, 0);
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn who_is_refused_before_its_body_was_read_is_told_so() {
    let (cloud, gate) = a_cloud("").await;
    let own = head(&gate, 8 << 20);
    let wrong = own.replace(&gate.key().secret, "tg-wrong");
    for (head, body_bytes, status) in
        [(wrong, 8 << 20, 401), (head(&gate, 24 << 20), 24 << 20, 413)]
    {
        let mut socket = connect(&gate).await;
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b' '; body_bytes]).await.expect("what it sends is taken");
        let answer = rest(&mut socket).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("\nconnection: close\r"), "{answer}");
    }
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn who_reads_nothing_of_its_answer_gives_its_place_back() {
    let (cloud, gate) = a_cloud("write_stall_timeout_ms = 300").await;
    // More than the sockets between us hold: sooner or later a write waits.
    let piece = "x".repeat(256 * 1024);
    cloud.next(Script::pieces((0..400).map(|_| piece.clone())).using(10, 16));
    let body = r#"{"model":"auto","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"Flood me."}]}"#;
    let mut socket = connect(&gate).await;
    socket.write_all(head(&gate, body.len()).as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    cloud.until(|counts| counts.requests == 1).await.expect("it was asked");

    // It reads nothing; others are served all the while, and its upstream is cancelled.
    gate.ask("And I?").send().await.ok();
    cloud.until(|counts| counts.left == 1).await.expect("the upstream is cancelled");
    gate.until_nothing_is_reserved().await;
    let entries = gate.ledger().until_entries(2).await;
    let gone: Vec<_> = entries.iter().filter(|entry| entry.outcome() == "client_gone").collect();
    assert_eq!(gone.len(), 1, "{entries:#?}");
    assert!(gone[0].cost().unwrap() > 0, "what was seen is charged");
    drop(socket);
}

/// Memory that a process takes, in bytes.
#[cfg(target_os = "linux")]
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn repeats_of_a_long_answer_that_nobody_reads_take_its_memory_once() {
    // One whose answers pass as they are, and one whose are written in the client's format.
    for kind in ["openai", "anthropic"] {
        repeated(kind).await;
    }
}

#[cfg(target_os = "linux")]
async fn repeated(kind: &str) {
    const BYTES: usize = 8 << 20;
    const REPEATS: usize = 24;
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud_of_kind("cloud", &cloud.base_url(), kind, "");
    let mut gate = gate.start().await;
    let pid = gate.child().pid();
    cloud.next(Script::pieces(["x".repeat(BYTES)]).using(10, 16));
    let body = r#"{"model":"auto","messages":[{"role":"user","content":"How long?"}]}"#;
    let ask = async || {
        let mut socket = connect(&gate).await;
        let named = head(&gate, body.len()).replace(
            "content-type",
            "idempotency-key: long-1\r\nconnection: close\r\ncontent-type",
        );
        socket.write_all(named.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        socket
    };
    let first = rest(&mut ask().await).await;
    assert!(first.starts_with("HTTP/1.1 200") && first.len() > BYTES);
    let before = memory(pid);
    let mut unread = Vec::new();
    for _ in 0..REPEATS {
        unread.push(ask().await);
    }
    // Each is written down when its answer is ready to be read.
    gate.ledger().until_entries(1 + REPEATS).await;
    let more = memory(pid).saturating_sub(before);
    assert!(more < REPEATS * BYTES / 4, "{kind}: {more} bytes more for {REPEATS} of {BYTES}");
    let again = rest(&mut unread[0]).await;
    assert!(again.starts_with("HTTP/1.1 200") && again.len() > BYTES);
    assert!(again.contains("idempotent-replayed: true"));
    let length = first.lines().find(|line| line.starts_with("content-length: "));
    assert!(length.is_some() && again.contains("content-length: "), "its length is told");
    assert_eq!(cloud.counts().requests, 1);
}

#[tokio::test]
async fn repeats_of_a_long_response_have_room_with_the_bodies_that_are_sent() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).limit("bodies_mib = 16").start().await;
    cloud.next(Script::pieces(["x".repeat(9 << 20)]).using(10, 16));
    let body = r#"{"model":"auto","input":"How long?"}"#;
    let ask = async || {
        let mut socket = connect(&gate).await;
        let named = head(&gate, body.len()).replace("chat/completions", "responses").replace(
            "content-type",
            "idempotency-key: long-1\r\nconnection: close\r\ncontent-type",
        );
        socket.write_all(named.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.unwrap();
        (socket, String::from_utf8_lossy(&status).into_owned())
    };
    let (mut first, status) = ask().await;
    assert_eq!(status, "HTTP/1.1 200");
    assert!(rest(&mut first).await.len() > 9 << 20, "it is given whole");
    let (mut unread, status) = ask().await;
    assert_eq!(status, "HTTP/1.1 200");
    let (_refused, status) = ask().await;
    assert_eq!(status, "HTTP/1.1 503", "two of them are more than there is room for");
    assert!(rest(&mut unread).await.len() > 9 << 20);
    drop(unread);
    eventually("its room is given back", || async {
        (ask().await.1 == "HTTP/1.1 200").then_some(())
    })
    .await;
    assert_eq!(cloud.counts().requests, 1);
}

#[tokio::test]
async fn who_opens_no_window_gives_its_place_back_and_its_connection_goes_on() {
    let (cloud, gate) = a_cloud("write_stall_timeout_ms = 300").await;
    // A stream's window is never opened, the connection's is: pings are answered, and others read.
    let window = 16 * 1024;
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(1 << 20)
        .handshake::<_, bytes::Bytes>(connect(&gate).await)
        .await
        .unwrap();
    let driver = tokio_util::task::TaskTracker::new();
    let connection = driver.spawn(connection);
    let mut ask = async |text: &str, stream: bool| {
        let body = format!(
            r#"{{"model":"auto","stream":{stream},"max_tokens":1000,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        );
        let request = http::Request::post(format!("{}/v1/chat/completions", gate.url()))
            .header("authorization", format!("Bearer {}", gate.key().secret))
            .header("content-type", "application/json");
        client = client.clone().ready().await.unwrap();
        let (answer, mut sends) = client.send_request(request.body(()).unwrap(), false).unwrap();
        sends.send_data(body.into(), true).unwrap();
        answer.await.unwrap()
    };
    let piece = "x".repeat(256 * 1024);
    cloud.next(Script::pieces((0..400).map(|_| piece.clone())).using(10, 16));
    let stalled = ask("Flood me.", true).await;
    cloud.next(Script::says("Whole.").using(10, 4));
    let whole = ask("Tell me all.", false).await;

    cloud.until(|counts| counts.left == 1).await.expect("the upstream is cancelled");
    gate.until_nothing_is_reserved().await;
    let entries = gate.ledger().until_entries(2).await;
    let mut outcomes: Vec<_> = entries.iter().map(EntrySeen::outcome).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["client_gone", "completed"]);
    for entry in &entries {
        assert!(entry.cost().is_some_and(|cost| cost > 0), "{entry:#?}");
    }

    // What was answered before is still there to be read, and the connection takes a next request.
    let told = whole.into_body().data().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&told).contains("Whole."));
    assert_eq!(ask("And now?", false).await.status(), 200);
    drop(stalled);
    connection.abort();
}

#[tokio::test]
async fn who_reads_slowly_gets_everything() {
    let (cloud, gate) = a_cloud("write_stall_timeout_ms = 5000").await;
    let piece = "y".repeat(64 * 1024);
    cloud.next(Script::pieces((0..64).map(|_| piece.clone())).using(10, 16));
    let mut open = gate.ask("Slowly, please.").at_most(1000).streamed().open().await;
    for pieces in 1..=8 {
        open.read_pieces(pieces).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = open.rest().await.ok();
    assert!(answer.done());
    assert_eq!(answer.text().len(), 64 * 64 * 1024);
}
