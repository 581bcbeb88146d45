//! Comments in a stream that has nothing to say: `: keep-alive`.
//!
//! Proxies close a connection that is silent for too long, and SDKs pass over comments.
//! **Invariant:** a comment stands between two frames, never inside of one.

use bytes::Bytes;
use futures::Stream;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// A comment, with the empty line that ends it.
const COMMENT: &[u8] = b": keep-alive\n\n";
/// Silences are not waited for longer than this, so that no clock overflows.
const EVERY_MAX: Duration = Duration::from_secs(24 * 3600);

/// A stream of whole frames that is never silent for longer than `every`.
#[derive(Debug)]
pub struct KeepAlive<S> {
    frames: Pin<Box<S>>,
    every: Duration,
    /// When something was last said. The timer is only set anew when it fires: a frame costs no more
    /// than a look at the clock.
    said_at: Instant,
    timer: Pin<Box<Sleep>>,
    /// Whether a comment is due now.
    is_late: bool,
}

impl<S> KeepAlive<S> {
    /// `frames` with comments wherever `every` passes without one.
    pub fn new(frames: S, every: Duration) -> Self {
        let (now, every) = (Instant::now(), every.min(EVERY_MAX));
        let timer = Box::pin(sleep_until(now + every));
        Self { frames: Box::pin(frames), every, said_at: now, timer, is_late: false }
    }

    /// The same with a comment at its beginning: it was silent for long already.
    pub fn late(frames: S, every: Duration) -> Self {
        let mut late = Self::new(frames, every);
        late.is_late = true;
        late
    }
}

impl<E, S: Stream<Item = Result<Bytes, E>>> Stream for KeepAlive<S> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(frame) = self.frames.as_mut().poll_next(context) {
            self.said_at = Instant::now();
            return Poll::Ready(frame);
        }
        if std::mem::take(&mut self.is_late) {
            return Poll::Ready(Some(Ok(Bytes::from_static(COMMENT))));
        }
        while self.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let silent_until = self.said_at + self.every;
            if now >= silent_until {
                self.said_at = now;
                let next = now + self.every;
                self.timer.as_mut().reset(next);
                return Poll::Ready(Some(Ok(Bytes::from_static(COMMENT))));
            }
            self.timer.as_mut().reset(silent_until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use std::convert::Infallible;
    use tokio::time::sleep;

    const EVERY: Duration = Duration::from_secs(10);

    /// A frame after each of these many seconds.
    fn frames(after_s: &'static [u64]) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures::stream::iter(after_s).then(|seconds| async move {
            sleep(Duration::from_secs(*seconds)).await;
            Ok(Bytes::from(format!("data: {seconds}\n\n")))
        })
    }

    async fn heard(stream: impl Stream<Item = Result<Bytes, Infallible>>) -> Vec<String> {
        let text = |frame: Result<Bytes, Infallible>| {
            String::from_utf8(frame.unwrap().to_vec()).unwrap().trim_end().to_owned()
        };
        stream.map(text).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn comments_fill_a_silence_and_nothing_else() {
        let said = heard(KeepAlive::new(frames(&[1, 9, 9, 25, 1]), EVERY)).await;
        let comment = ": keep-alive";
        assert_eq!(
            said,
            ["data: 1", "data: 9", "data: 9", comment, comment, "data: 25", "data: 1"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_stream_begins_with_a_comment() {
        let said = heard(KeepAlive::late(frames(&[3, 12]), EVERY)).await;
        assert_eq!(said, [": keep-alive", "data: 3", ": keep-alive", "data: 12"]);
    }
}
