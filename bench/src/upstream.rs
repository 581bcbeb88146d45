//! `bench upstream`: a provider in its own process that answers chat completions at once, in
//! OpenAI's wire format, as cheaply as possible, so that what is measured is the server in between.
//!
//! Invariant: what an answer looks like depends only on the request body (`stream`,
//! `max_completion_tokens`, `mock_pace_us`), so every subject gets the same answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

/// Every piece of content begins with this; the generator counts it. The space keeps it from ever
/// appearing in an id.
pub(crate) const MARK: &str = " zqzq";
/// Prompt tokens that every answer reports.
pub(crate) const PROMPT_TOKENS: u64 = 235;
/// Output tokens that an unstreamed answer reports; a stream reports its pieces.
pub(crate) const COMPLETION_TOKENS: u64 = 128;
/// Content pieces of a stream when the request sets no cap.
const PIECES_DEFAULT: u64 = 16;
/// Largest request body read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the flags of `bench upstream` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpstreamArgs {
    /// Address to listen on; port 0 takes a free one, and the address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Every so many streams one stalls before its first piece; unset: none does.
    #[arg(long)]
    stall_every: Option<std::num::NonZeroU64>,
    /// How long it stalls, milliseconds.
    #[arg(long, default_value_t = 1000)]
    stall_ms: u64,
}

type AnswerBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// The parts of answers that never change, and the count of answers begun.
#[derive(Debug)]
struct Mock {
    whole: Bytes,
    served: AtomicU64,
    stall_every: Option<std::num::NonZeroU64>,
    stall: Duration,
}

/// Serves until the process is ended.
pub(crate) async fn run(args: UpstreamArgs) -> Result<(), String> {
    let listener = TcpListener::bind(args.listen).await.map_err(|e| format!("listen: {e}"))?;
    let address = listener.local_addr().map_err(|e| format!("listen: {e}"))?;
    crate::say(&format!("listening {address}"))?;
    let mock = Arc::new(Mock {
        whole: whole_answer(),
        served: AtomicU64::new(0),
        stall_every: args.stall_every,
        stall: Duration::from_millis(args.stall_ms),
    });
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.map_err(|e| format!("accept: {e}"))?;
        socket.set_nodelay(true).map_err(|e| format!("nodelay: {e}"))?;
        while connections.try_join_next().is_some() {}
        let mock = Arc::clone(&mock);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&mock), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service);
            // A peer that closes its connection is how every phase ends.
            let _ = connection.await;
        });
    }
}

async fn answer(
    mock: Arc<Mock>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    if request.method() != Method::POST {
        let text = match request.uri().path() {
            "/served" => mock.served.load(Ordering::Relaxed).to_string(),
            _ => "{\"object\":\"list\",\"data\":[]}".to_owned(),
        };
        return Ok(reply(StatusCode::OK, "application/json", Either::Left(text.into())));
    }
    let limited = http_body_util::Limited::new(request.into_body(), BODY_BYTES_MAX);
    let Ok(body) = limited.collect().await.map(http_body_util::Collected::to_bytes) else {
        let error = Either::Left(Full::from("{\"error\":{\"message\":\"body\"}}"));
        return Ok(reply(StatusCode::BAD_REQUEST, "application/json", error));
    };
    let number = mock.served.fetch_add(1, Ordering::Relaxed) + 1;
    let wish = Wish::read(&body);
    if !wish.stream {
        let whole = Either::Left(Full::new(mock.whole.clone()));
        return Ok(reply(StatusCode::OK, "application/json", whole));
    }
    if mock.stall_every.is_some_and(|every| number % every == 0) {
        tokio::time::sleep(mock.stall).await;
    }
    let body = StreamBody::new(pieces(wish).map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync();
    Ok(reply(StatusCode::OK, "text/event-stream", Either::Right(body)))
}

fn reply(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// What a request body asks for. Scanned, not parsed: the mock's time is not what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    stream: bool,
    usage: bool,
    pieces: u64,
    pace: Duration,
}

impl Wish {
    fn read(body: &[u8]) -> Wish {
        let cap = number_after(body, b"\"max_completion_tokens\":")
            .or_else(|| number_after(body, b"\"max_tokens\":"));
        Wish {
            stream: is_true(body, b"\"stream\":"),
            usage: is_true(body, b"\"include_usage\":"),
            pieces: cap.unwrap_or(PIECES_DEFAULT),
            pace: Duration::from_micros(number_after(body, b"\"mock_pace_us\":").unwrap_or(0)),
        }
    }
}

fn value_after<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = memmem::find(body, key)? + key.len();
    body.get(at..).map(<[u8]>::trim_ascii_start)
}

fn is_true(body: &[u8], key: &[u8]) -> bool {
    value_after(body, key).is_some_and(|value| value.starts_with(b"true"))
}

fn number_after(body: &[u8], key: &[u8]) -> Option<u64> {
    let value = value_after(body, key)?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

/// An unstreamed answer of about 1.1 KB.
fn whole_answer() -> Bytes {
    let mut text = String::new();
    for piece in 0..64 {
        text.push_str(MARK);
        text.push_str(&format!(" word{piece:02}"));
    }
    Bytes::from(format!(
        "{{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1760000000,\
         \"model\":\"mock-1\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
         \"content\":\"{text}\",\"refusal\":null}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{COMPLETION_TOKENS},\
         \"total_tokens\":{}}},\
         \"system_fingerprint\":\"fp_mock\"}}",
        PROMPT_TOKENS + COMPLETION_TOKENS
    ))
}

/// One step of a stream.
struct Streaming {
    wish: Wish,
    next: u64,
    pace: Option<Interval>,
}

/// The stream's writes: nothing first (so that the head travels alone, as a provider's does), then
/// role chunk and first piece, then piece by piece at the pace asked for, then the tail.
fn pieces(wish: Wish) -> impl Stream<Item = Bytes> + Send {
    let pace = (!wish.pace.is_zero()).then(|| {
        let mut interval = tokio::time::interval(wish.pace);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    stream::unfold(Streaming { wish, next: 0, pace }, |mut at| async move {
        if at.next > at.wish.pieces {
            return None;
        }
        match &mut at.pace {
            // The first tick is immediate.
            Some(interval) if at.next > 0 => drop(interval.tick().await),
            Some(interval) => {
                interval.tick().await;
                tokio::task::yield_now().await;
            }
            // Lets hyper write what it has: every piece is a write of its own.
            None => tokio::task::yield_now().await,
        }
        let mut bytes = BytesMut::new();
        if at.next == 0 {
            chunk(&mut bytes, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}", "null");
        }
        if at.next < at.wish.pieces {
            chunk(&mut bytes, &format!("{{\"content\":\"{MARK}{:03}\"}}", at.next), "null");
        } else {
            chunk(&mut bytes, "{}", "\"stop\"");
            if at.wish.usage {
                usage_chunk(&mut bytes, at.wish.pieces);
            }
            bytes.extend_from_slice(b"data: [DONE]\n\n");
        }
        at.next += 1;
        Some((bytes.freeze(), at))
    })
}

fn chunk(into: &mut BytesMut, delta: &str, finish: &str) {
    into.extend_from_slice(
        b"data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\
          \"created\":1760000000,\"model\":\"mock-1\",\"service_tier\":\"default\",\
          \"system_fingerprint\":\"fp_mock\",\"choices\":[{\"index\":0,\"delta\":",
    );
    into.extend_from_slice(delta.as_bytes());
    into.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
    into.extend_from_slice(finish.as_bytes());
    into.extend_from_slice(b"}],\"usage\":null}\n\n");
}

fn usage_chunk(into: &mut BytesMut, pieces: u64) {
    let text = format!(
        "data: {{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\
         \"created\":1760000000,\"model\":\"mock-1\",\"choices\":[],\"usage\":{{\
         \"prompt_tokens\":{PROMPT_TOKENS},\"completion_tokens\":{pieces},\"total_tokens\":{}}}}}\n\n",
        PROMPT_TOKENS + pieces
    );
    into.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_understood_with_and_without_spaces() {
        let tight = br#"{"stream":true,"max_completion_tokens":64,"mock_pace_us":10000,"stream_options":{"include_usage":true}}"#;
        let wish = Wish::read(tight);
        assert_eq!((wish.stream, wish.usage, wish.pieces), (true, true, 64));
        assert_eq!(wish.pace, Duration::from_millis(10));
        let loose = br#"{ "stream": true, "max_tokens": 5 }"#;
        let wish = Wish::read(loose);
        assert_eq!((wish.stream, wish.usage, wish.pieces), (true, false, 5));
        assert!(!Wish::read(br#"{"stream":false}"#).stream);
        assert_eq!(Wish::read(b"").pieces, PIECES_DEFAULT);
    }

    #[test]
    fn the_whole_answer_is_json_of_about_eleven_hundred_bytes() {
        let answer = whole_answer();
        let json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert!(json["choices"][0]["message"]["content"].as_str().unwrap().contains(MARK));
        assert!((1_050..=1_250).contains(&answer.len()), "{} bytes", answer.len());
    }

    #[tokio::test]
    async fn a_stream_has_its_pieces_its_usage_and_its_end() {
        let wish = Wish { stream: true, usage: true, pieces: 3, pace: Duration::ZERO };
        let writes: Vec<Bytes> = pieces(wish).collect().await;
        assert_eq!(writes.len(), 4);
        let text = String::from_utf8(writes.concat()).unwrap();
        assert_eq!(text.matches(MARK).count(), 3);
        assert!(text.ends_with("data: [DONE]\n\n"));
        let payloads: Vec<serde_json::Value> = text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .filter(|payload| *payload != "[DONE]")
            .map(|payload| serde_json::from_str(payload).unwrap())
            .collect();
        assert_eq!(payloads.len(), 1 + 3 + 1 + 1);
        assert_eq!(payloads.last().unwrap()["usage"]["completion_tokens"], 3);
    }
}
