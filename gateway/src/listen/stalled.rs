//! A connection whose client stopped reading is given up: its answer holds a place on a route, a permit
//! and money for as long as it lasts.
//!
//! **Invariant:** as long as a client takes a byte now and then, its connection stays. An HTTP/2 client
//! that reads the connection and opens no window is found by [`super::streams`].

use super::idle::Traffic;
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

/// A stream whose writes fail when they have waited too long.
pub(super) struct Stalled<S> {
    stream: S,
    longest: Duration,
    /// Runs while a write waits; made by the first that does.
    timer: Option<Pin<Box<Sleep>>>,
    waits: bool,
    traffic: Arc<Traffic>,
}

impl<S> Stalled<S> {
    pub(super) fn new(stream: S, longest: Duration, traffic: Arc<Traffic>) -> Self {
        Self { stream, longest, timer: None, waits: false, traffic }
    }

    /// What a write came to: one that waits is given up once it has waited for `longest`.
    fn judged<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if std::mem::take(&mut self.waits) {
                self.traffic.writes(false);
            }
            return written;
        }
        let by = Instant::now() + self.longest;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(by)));
        if !self.waits {
            self.waits = true;
            self.traffic.writes(true);
            timer.as_mut().reset(by);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judged(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judged(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.judged(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judged(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const LONGEST: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_reads_is_given_up_and_one_that_is_read_slowly_is_not() {
        let ((mut client, server), traffic) = (duplex(4), Traffic::new());
        let mut server = Stalled::new(server, LONGEST, Arc::clone(&traffic));
        let reads_slowly = async {
            for _ in 0..8 {
                tokio::time::sleep(LONGEST - Duration::from_millis(1)).await;
                client.read_exact(&mut [0; 4]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[7; 36]), reads_slowly);
        written.unwrap();

        let began = Instant::now();
        let error = tokio::select! {
            written = server.write_all(&[7; 36]) => written.unwrap_err(),
            () = traffic.idle(began, LONGEST / 4) => panic!("it is not idle while a byte waits"),
        };
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, LONGEST));
    }
}
