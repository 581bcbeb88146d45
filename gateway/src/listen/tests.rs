//! The accept loop over real sockets.

use super::*;
use axum::{Router, body::Body, routing::get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Server {
    address: SocketAddr,
    stop: Stop,
    served: tokio::task::JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "a test has nothing to settle")]
async fn start(router: Router, limits: Listening) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Stop::default();
    let served = tokio::spawn(serve(listener, router, limits, stop.clone(), None));
    Server { address, stop, served }
}

fn limits() -> Listening {
    Listening {
        connections_max: 8,
        header_read_max: Duration::from_secs(20),
        idle_max: Duration::from_secs(20),
        write_stall_max: Duration::from_secs(20),
        drain_max: Duration::from_secs(20),
    }
}

async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    let read = stream.read(&mut buffer).await.unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn every_request_carries_its_peer() {
    let router = Router::new().route(
        "/",
        get(|request: Request| async move {
            request.extensions().get::<Peer>().map(|peer| peer.0.to_string()).unwrap()
        }),
    );
    let server = start(router, limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let own = stream.local_addr().unwrap().to_string();
    assert!(ask(&mut stream).await.ends_with(&own));
}

#[test]
fn what_is_found_at_every_try_is_said_now_and_then() {
    let (mut complaint, now) = (Complaint::default(), Instant::now());
    let tries = (0..=400_u32).filter(|tried| complaint.is_due(now + ACCEPT_PAUSE * *tried));
    assert_eq!(tries.collect::<Vec<_>>(), [0, 200, 400]);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let header_read_max = Duration::from_millis(50);
    let server = start(Router::new(), Listening { header_read_max, ..limits() }).await;
    for sent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nHost"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let closed = tokio::time::timeout(Duration::from_secs(20), closed).await;
        assert!(closed.is_ok(), "the server closes it: {}", String::from_utf8_lossy(sent));
    }
}

#[tokio::test]
async fn a_connection_that_asks_its_next_request_too_slowly_is_closed() {
    let header_read_max = Duration::from_millis(50);
    let router = Router::new().route("/", get(|| async { "served" }));
    let server = start(router, Listening { header_read_max, ..limits() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let half = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost";
    stream.write_all(half).await.unwrap();
    let mut answer = String::new();
    // Within the wait of the test and the idle limit's 20 seconds, which would close it too.
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer));
    closed.await.expect("the server closes it").unwrap();
    assert!(answer.contains("served"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_gives_its_place_to_who_waits_for_one() {
    let idle_max = Duration::from_millis(50);
    let router = Router::new().route("/", get(|| async { "served" }));
    let limits = Listening { connections_max: 1, idle_max, ..limits() };
    let server = start(router, limits).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    assert!(ask(&mut first).await.ends_with("served"));
    let mut waits = TcpStream::connect(server.address).await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(20), ask(&mut waits)).await;
    assert!(served.expect("the place is given back").ends_with("served"));
    assert_eq!(first.read(&mut [0; 64]).await.unwrap(), 0, "the idle one is closed in order");
}

#[tokio::test]
async fn connections_of_one_address_that_ask_nothing_leave_places_to_another() {
    let router = Router::new().route("/", get(|| async { "served" }));
    let server = start(router, limits()).await;
    let mut silent = Vec::new();
    for _ in 0..limits().connections_max {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = async { ask(&mut socket.connect(server.address).await.unwrap()).await };
    let served = tokio::time::timeout(Duration::from_secs(10), other).await;
    assert!(served.expect("it has a place").ends_with("served"));
    let mut last = silent.pop().unwrap();
    assert!(matches!(last.read(&mut [0; 1]).await, Ok(0) | Err(_)), "one too many is closed");
    assert!(ask(&mut silent[0]).await.ends_with("served"), "and the others are open");
}

#[tokio::test]
async fn who_is_answered_while_it_still_sends_can_read_the_answer() {
    let router = Router::new().route("/", get(|| async { "refused" }));
    let server = start(router, limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = vec![7; 16 << 20];
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.expect("what it sends is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("refused"), "{answer}");
}

#[tokio::test]
async fn a_running_answer_ends_before_the_server_does() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let (arrived, mut arrival) = tokio::sync::mpsc::channel(1);
    let router = Router::new().route(
        "/",
        get(move || {
            let (mut gone, arrived) = (gone.clone(), arrived.clone());
            async move {
                arrived.send(()).await.unwrap();
                gone.wait_for(|gone| *gone).await.unwrap();
                "whole"
            }
        }),
    );
    let server = start(router, limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    arrival.recv().await.unwrap();
    server.stop.asked.cancel();
    assert!(!server.served.is_finished());
    go.send(true).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("whole"), "{answer}");
    server.served.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_after_the_drains_time() {
    let router = Router::new().route("/", get(std::future::pending::<&'static str>));
    let drain_max = Duration::from_millis(50);
    let server = start(router, Listening { drain_max, ..limits() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    server.stop.asked.cancel();
    server.served.await.unwrap();
}

/// Frames of HTTP/2 that a client by hand sends and sees.
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    /// Of a ping: it is an answer to one. Of data and a head: the stream's last.
    pub(super) const LAST: u8 = 1;
    /// Of a head: it is whole.
    pub(super) const WHOLE_HEAD: u8 = 4;
}

/// A client of HTTP/2 by hand: it answers pings and does nothing that it is not told to.
struct Client {
    stream: TcpStream,
    answers_pings: bool,
    /// What came on each stream, one after the other.
    text: String,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The preface and no settings.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        stream.write_all(preface).await.unwrap();
        Self { stream, answers_pings: true, text: String::new() }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        self.stream.write_all(&[&head[..], payload].concat()).await.unwrap();
    }

    /// GET in clear: method and scheme by their numbers, the path as it is.
    async fn get(&mut self, stream: u8, path: &str) {
        let head = [&[0x82, 0x86, 4, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
        self.send(frame::HEADERS, frame::LAST | frame::WHOLE_HEAD, stream, &head).await;
    }

    /// The next frame's kind and stream that is no ping; `None` at the connection's end.
    async fn next(&mut self) -> Option<(u8, u8)> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let [_, high, low, kind, flags, .., stream] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            self.stream.read_exact(&mut payload).await.ok()?;
            match kind {
                frame::PING if !self.answers_pings => {}
                frame::PING if flags & frame::LAST == 0 => {
                    self.send(frame::PING, frame::LAST, 0, &payload).await;
                }
                frame::DATA => {
                    self.text.push_str(str::from_utf8(&payload).unwrap());
                    return Some((kind, stream));
                }
                kind => return Some((kind, stream)),
            }
        }
    }

    /// The kinds of frames until one of this kind on this stream; of all others until the end.
    async fn until(&mut self, kind: u8, stream: u8) -> Vec<u8> {
        let mut kinds = Vec::new();
        let look = async {
            while let Some(next) = self.next().await {
                kinds.push(next.0);
                if next == (kind, stream) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.expect("it comes or ends");
        kinds
    }

    /// The kinds of frames until the connection's end.
    async fn until_the_end(&mut self) -> Vec<u8> {
        self.until(u8::MAX, 0).await
    }
}

/// A server whose connections are idle soon; the answer at `/held`, and the rest of the one at `/begun`,
/// wait for `go`.
async fn a_held_answer() -> (Server, tokio::sync::watch::Sender<bool>) {
    let (go, gone) = tokio::sync::watch::channel(false);
    let held = move || {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.unwrap();
            Ok::<_, Infallible>("whole")
        }
    };
    let whole = held.clone();
    let begun = move || {
        let begin = futures::stream::iter([Ok("begun, ")]);
        let pieces = futures::StreamExt::chain(begin, futures::stream::once(whole()));
        async { Body::from_stream(pieces) }
    };
    let router = Router::new()
        .route("/held", get(held))
        .route("/begun", get(begun))
        .route("/", get(|| async { "at once" }));
    let idle_max = Duration::from_millis(50);
    (start(router, Listening { idle_max, ..limits() }).await, go)
}

/// Lets the idle limit pass: a connection that is opened now is closed for it.
async fn until_another_was_idle(server: &Server) {
    let mut other = TcpStream::connect(server.address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let closed = other.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it is closed").unwrap();
    assert!(answer.ends_with("at once"), "{answer}");
}

#[tokio::test]
async fn a_client_that_only_answers_pings_is_told_to_leave() {
    let (server, _go) = a_held_answer().await;
    let mut client = Client::connect(&server).await;
    client.get(1, "/").await;
    let before = client.until(frame::DATA, 1).await;
    assert!(!before.contains(&frame::GOAWAY), "it was served: {before:?}");
    let rest = client.until_the_end().await;
    assert_eq!(rest.last(), Some(&frame::GOAWAY), "and the connection is closed: {rest:?}");
}

#[tokio::test]
async fn a_client_that_does_not_hear_that_is_left() {
    let limits = Listening {
        idle_max: Duration::from_millis(50),
        write_stall_max: Duration::from_millis(50),
        ..limits()
    };
    let server = start(Router::new(), limits).await;
    let mut client = Client::connect(&server).await;
    client.answers_pings = false;
    client.get(1, "/").await;
    let seen = client.until_the_end().await;
    assert!(seen.contains(&frame::GOAWAY), "it was told: {seen:?}");
}

#[tokio::test]
async fn a_stream_in_progress_keeps_its_connection_whole() {
    for (path, told) in [("/held", "whole"), ("/begun", "begun, whole")] {
        let (server, go) = a_held_answer().await;
        let mut client = Client::connect(&server).await;
        client.get(1, path).await;
        // Another one, that ends.
        client.get(3, "/").await;
        client.until(frame::DATA, 3).await;
        until_another_was_idle(&server).await;
        until_another_was_idle(&server).await;
        client.get(5, "/").await;
        let seen = client.until(frame::DATA, 5).await;
        assert!(!seen.contains(&frame::GOAWAY), "{path}: nobody was told to leave: {seen:?}");
        assert_eq!(seen.last(), Some(&frame::DATA), "{path}: it takes more requests: {seen:?}");
        go.send(true).unwrap();
        let rest = client.until_the_end().await;
        assert_eq!(client.text.replace("at once", ""), told, "{path} is answered");
        assert_eq!(rest.last(), Some(&frame::GOAWAY), "{path}: and then idle: {rest:?}");
    }
}

#[tokio::test]
async fn a_request_in_progress_keeps_its_connection_over_http_1() {
    for path in ["/held", "/begun"] {
        let (server, go) = a_held_answer().await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let asked = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        until_another_was_idle(&server).await;
        until_another_was_idle(&server).await;
        go.send(true).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("whole"), "{answer}");
        assert!(!answer.contains("connection: close"), "it might have asked again: {answer}");
    }
}
