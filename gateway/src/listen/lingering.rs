//! A connection that is closed while its client still sends: an answer was given before the request's
//! body was read. A socket closed over unread bytes is reset, and the reset overtakes the answer; many
//! clients then see a broken connection in its place. So what still comes is read for a while and thrown
//! away, after the answer and the end of our side have left.
//!
//! **Invariants:** it is bounded in time, in silence and in bytes; the answer waits for none of it, and
//! nothing but the connection's own place is held. On HTTP/2 a reset of the stream says the same, and
//! nothing lingers.

use super::idle::Traffic;
use axum::body::Body;
use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// How long is read at most.
const LONGEST: Duration = Duration::from_secs(10);
/// Who sends nothing for so long waits for us.
const SILENCE: Duration = Duration::from_secs(2);
/// What is read at most.
const BYTES_MAX: usize = 64 << 20;
/// Of which so much at once.
const PIECE_BYTES: usize = 16 * 1024;

/// A stream that reads on when it is shut down while a request's body is unread.
pub(super) struct Lingering<S> {
    stream: S,
    traffic: Arc<Traffic>,
    rest: Option<Rest>,
}

/// What may still be read.
struct Rest {
    until: Instant,
    bytes: usize,
    silence: Pin<Box<Sleep>>,
}

/// A request's body that says whether it was given up unread.
struct Unread {
    body: Incoming,
    ended: bool,
    traffic: Arc<Traffic>,
}

/// A request's body, watched where its connection would have to linger.
pub(super) fn watched(version: Version, body: Incoming, traffic: &Arc<Traffic>) -> Body {
    if version >= Version::HTTP_2 || body.is_end_stream() {
        return Body::new(body);
    }
    Body::new(Unread { body, ended: false, traffic: Arc::clone(traffic) })
}

// === impl Lingering ===

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic, rest: None }
    }
}

impl<S: AsyncRead + Unpin> Lingering<S> {
    /// Throws away what comes, until the client has closed its side or has sent enough.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let rest = self.rest.get_or_insert_with(|| {
            let now = Instant::now();
            let silence = Box::pin(sleep_until(now + SILENCE));
            Rest { until: now + LONGEST, bytes: BYTES_MAX, silence }
        });
        let mut piece = [0; PIECE_BYTES];
        loop {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    rest.bytes = rest.bytes.saturating_sub(piece.filled().len());
                    if rest.bytes == 0 || Instant::now() >= rest.until {
                        return Poll::Ready(());
                    }
                    rest.silence.as_mut().reset(rest.until.min(Instant::now() + SILENCE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return rest.silence.as_mut().poll(cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.traffic.left_unread() {
            ready!(self.poll_rest(cx));
        }
        Poll::Ready(Ok(()))
    }
}

// === impl Unread ===

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended |= !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.traffic.leaves_unread();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    /// How long the shutdown of a connection lasts whose client does `sends`.
    async fn lingers(unread: bool, sends: impl AsyncFnOnce(DuplexStream)) -> Duration {
        let (client, server) = duplex(4 * PIECE_BYTES);
        let traffic = Traffic::new();
        if unread {
            traffic.leaves_unread();
        }
        let (mut server, began) = (Lingering::new(server, traffic), Instant::now());
        let shut = async move {
            server.write_all(b"no").await.unwrap();
            server.shutdown().await.unwrap();
            began.elapsed()
        };
        let (lasted, ()) = tokio::join!(shut, sends(client));
        lasted
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_reads_its_answer() {
        let sends = async |mut client: DuplexStream| {
            client.write_all(&vec![7; 8 << 20]).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"no");
        };
        assert!(lingers(true, sends).await < SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_for_a_while_and_for_so_many_bytes() {
        let silent = async |_client: DuplexStream| sleep(2 * LONGEST).await;
        assert_eq!(lingers(true, silent).await, SILENCE);
        assert_eq!(lingers(false, silent).await, Duration::ZERO, "all was read");
        let drips = async |mut client: DuplexStream| {
            while client.write_all(b".").await.is_ok() {
                sleep(SILENCE / 2).await;
            }
        };
        assert_eq!(lingers(true, drips).await, LONGEST);
        let floods = async |mut client: DuplexStream| {
            let mut sent = 0;
            while client.write_all(&[7; PIECE_BYTES]).await.is_ok() {
                sent += PIECE_BYTES;
            }
            assert!(sent <= BYTES_MAX + 8 * PIECE_BYTES, "{sent}");
        };
        assert_eq!(lingers(true, floods).await, Duration::ZERO);
    }
}
