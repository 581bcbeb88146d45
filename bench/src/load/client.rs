//! One connection of the load generator: a request out, the answer read and checked.
//!
//! Invariant: an answer counts only when it is complete: status 200 and, in a stream, exactly the
//! pieces asked for and `[DONE]`. A fast wrong answer is a failure, not a measurement.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::upstream::MARK;

/// Longest wait for one answer: a server that hangs is reported, not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of a wrong answer quoted in the report.
const QUOTE_BYTES: usize = 300;

/// What is asked, and what a right answer to it holds.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    request: Request<Full<Bytes>>,
    /// Content pieces of the stream; `None` when unstreamed.
    pieces: Option<u64>,
}

/// What makes up a question.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Host and port, for the `host` header.
    pub(crate) target: SocketAddr,
    /// Bearer key.
    pub(crate) key: String,
    /// Model name.
    pub(crate) model: String,
    /// Pieces and pace when streamed.
    pub(crate) stream: Option<(u64, Duration)>,
}

impl Question {
    /// A request of about 1.1 KB.
    pub(crate) fn new(ask: &Ask) -> Result<Question, String> {
        let text = "The quick brown fox jumps over the lazy dog while the toll is counted. ";
        let mut body = serde_json::json!({
            "model": ask.model,
            "messages": [
                {"role": "system", "content": "You answer in one paragraph."},
                {"role": "user", "content": text.repeat(12)},
            ],
            "temperature": 0.7,
            "max_completion_tokens": ask.stream.map_or(128, |(pieces, _)| pieces),
        });
        if let (Some((_, pace)), Some(fields)) = (ask.stream, body.as_object_mut()) {
            fields.insert("stream".to_owned(), true.into());
            fields.insert("stream_options".to_owned(), serde_json::json!({"include_usage": true}));
            let pace_us = u64::try_from(pace.as_micros()).unwrap_or(u64::MAX);
            fields.insert("mock_pace_us".to_owned(), pace_us.into());
        }
        let request = Request::post("/v1/chat/completions")
            .header(header::HOST, ask.target.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", ask.key))
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| format!("request: {e}"))?;
        Ok(Question { request, pieces: ask.stream.map(|(pieces, _)| pieces) })
    }
}

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; ends with the connection.
    _driver: JoinSet<()>,
}

/// When an answer's parts arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// The first content piece; the whole body when unstreamed.
    pub(crate) first: Instant,
    /// The end of the body.
    pub(crate) last: Instant,
}

impl Connection {
    /// Connects, without Nagle's delay.
    pub(crate) async fn open(target: SocketAddr) -> Result<Connection, String> {
        let socket = TcpStream::connect(target).await.map_err(|e| format!("{target}: {e}"))?;
        socket.set_nodelay(true).map_err(|e| format!("{target}: {e}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(|e| format!("{target}: {e}"))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its fault reaches whoever waits for the answer.
            let _ = connection.await;
        });
        Ok(Connection { sender, _driver: driver })
    }

    /// Asks and reads to the end. `on_pieces` is told of content pieces as they arrive.
    pub(crate) async fn ask(
        &mut self,
        question: &Question,
        on_pieces: impl FnMut(u64),
    ) -> Result<Arrival, String> {
        match tokio::time::timeout(ANSWER_MAX, self.exchange(question, on_pieces)).await {
            Ok(arrival) => arrival,
            Err(_) => Err(format!("no complete answer within {} s", ANSWER_MAX.as_secs())),
        }
    }

    async fn exchange(
        &mut self,
        question: &Question,
        on_pieces: impl FnMut(u64),
    ) -> Result<Arrival, String> {
        self.sender.ready().await.map_err(|e| format!("connection: {e}"))?;
        let answer = self.sender.send_request(question.request.clone()).await;
        let answer = answer.map_err(|e| format!("request: {e}"))?;
        let status = answer.status();
        let body = answer.into_body();
        if status != StatusCode::OK {
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(format!("status {status}: {}", quote(&bytes)));
        }
        match question.pieces {
            Some(pieces) => read_stream(body, pieces, on_pieces).await,
            None => read_whole(body).await,
        }
    }
}

async fn read_whole(body: Incoming) -> Result<Arrival, String> {
    let bytes = body.collect().await.map_err(|e| format!("body: {e}"))?.to_bytes();
    let at = Instant::now();
    if memmem::find(&bytes, MARK.as_bytes()).is_none() {
        return Err(format!("not the mock's answer: {}", quote(&bytes)));
    }
    Ok(Arrival { first: at, last: at })
}

async fn read_stream(
    mut body: Incoming,
    pieces: u64,
    mut on_pieces: impl FnMut(u64),
) -> Result<Arrival, String> {
    let mut counter = PieceCounter::default();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("after {} pieces: {e}", counter.pieces))?;
        let Some(data) = frame.data_ref() else { continue };
        let new = counter.feed(data);
        if new > 0 {
            first.get_or_insert_with(Instant::now);
            on_pieces(new);
        }
    }
    let last = Instant::now();
    let tail = String::from_utf8_lossy(&counter.tail).into_owned();
    match first {
        Some(first) if counter.pieces == pieces && tail.contains("[DONE]") => {
            Ok(Arrival { first, last })
        }
        _ => Err(format!("{} of {pieces} pieces, stream ends with {tail:?}", counter.pieces)),
    }
}

fn quote(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..QUOTE_BYTES).unwrap_or(bytes)).into_owned()
}

/// Counts marks in a byte stream however it is cut.
#[derive(Debug, Default)]
struct PieceCounter {
    pieces: u64,
    /// The last bytes seen.
    tail: Vec<u8>,
}

/// Bytes kept of what has passed: more than a mark, enough to see `[DONE]`.
const TAIL_BYTES: usize = 32;

impl PieceCounter {
    /// Marks completed by this frame.
    fn feed(&mut self, frame: &[u8]) -> u64 {
        let mark = MARK.as_bytes();
        let overlap = mark.len() - 1;
        let inside = memmem::find_iter(frame, mark).count();
        // A mark cut by the frame's start: both parts are shorter than a mark, so one found in
        // their join can only be that one.
        let mut seam =
            self.tail.get(self.tail.len().saturating_sub(overlap)..).unwrap_or_default().to_vec();
        seam.extend_from_slice(frame.get(..overlap.min(frame.len())).unwrap_or_default());
        let across = memmem::find_iter(&seam, mark).count();
        self.tail.extend_from_slice(
            frame.get(frame.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default(),
        );
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        let new = u64::try_from(inside + across).unwrap_or(u64::MAX);
        self.pieces += new;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_counted_at_every_split() {
        let text = format!("data: x{MARK}001\n\ndata:{MARK}002{MARK}\n\ndata: [DONE]\n\n");
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut counter = PieceCounter::default();
                for part in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    counter.feed(part);
                }
                assert_eq!(counter.pieces, 3, "split at {first} and {second}");
                assert!(String::from_utf8_lossy(&counter.tail).contains("[DONE]"));
            }
        }
    }

    #[test]
    fn a_request_is_about_eleven_hundred_bytes() {
        let ask = Ask {
            target: "127.0.0.1:1".parse().unwrap(),
            key: "k".to_owned(),
            model: "auto".to_owned(),
            stream: None,
        };
        let question = Question::new(&ask).unwrap();
        let bytes = http_body::Body::size_hint(question.request.body()).exact().unwrap();
        assert!((1_000..=1_200).contains(&bytes), "{bytes} bytes");
    }

    /// Asks a server that answers one request with these bytes and closes.
    async fn asked(stream: Option<u64>, head: &str, body: &str) -> Result<Arrival, String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let bytes = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}");
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            socket.write_all(bytes.as_bytes()).await.unwrap();
        });
        let ask = Ask {
            target,
            key: "k".to_owned(),
            model: "auto".to_owned(),
            stream: stream.map(|pieces| (pieces, Duration::ZERO)),
        };
        let mut connection = Connection::open(target).await?;
        connection.ask(&Question::new(&ask)?, |_| {}).await
    }

    #[tokio::test]
    async fn only_a_complete_right_answer_counts() {
        let whole = format!("{{\"content\":\"{MARK}\"}}");
        assert!(asked(None, "200 OK", &whole).await.is_ok());
        let wrong = asked(None, "200 OK", "{\"content\":\"\"}").await.unwrap_err();
        assert!(wrong.contains("not the mock's answer"), "{wrong}");
        let refused = asked(None, "429 Too Many Requests", &whole).await.unwrap_err();
        assert!(refused.contains("429"), "{refused}");

        let two = format!("data: {MARK}001\n\ndata: {MARK}002\n\n");
        let ended = format!("{two}data: [DONE]\n\n");
        assert!(asked(Some(2), "200 OK", &ended).await.is_ok());
        assert!(asked(Some(3), "200 OK", &ended).await.unwrap_err().contains("2 of 3 pieces"));
        assert!(asked(Some(2), "200 OK", &two).await.unwrap_err().contains("stream ends with"));
    }
}
