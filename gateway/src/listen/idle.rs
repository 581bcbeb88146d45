//! When a connection is idle: it holds one of the listener's places, and an HTTP/2 client that answers
//! pings would hold it for as long as it likes.
//!
//! **Invariant:** a connection is never idle while a request on it runs, its answer is handed out, or a
//! byte waits for the client. What runs is counted by guards, so a request that is cancelled or whose
//! stream is given up ends here too.

use super::addresses::FromAddress;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// What goes on on one connection.
#[derive(Debug)]
pub(super) struct Traffic {
    opened: Instant,
    asked: AtomicBool,
    running: AtomicUsize,
    /// When the last request or waiting write ended, in milliseconds after the opening; rounded up.
    quiet_ms: AtomicU64,
    /// A write waits for the client.
    writes: AtomicBool,
    /// The last request's body was given up before its end.
    unread: AtomicBool,
    /// Where it comes from.
    from: Option<FromAddress>,
}

/// A request that runs: counted until this is dropped.
#[derive(Debug)]
pub(super) struct Running(Arc<Traffic>);

/// An answer's body, which runs until it is handed out or given up.
#[derive(Debug)]
pub(super) struct Answered {
    body: Body,
    _running: Running,
}

// === impl Traffic ===

impl Traffic {
    /// A connection that was opened now.
    #[cfg(test)]
    pub(super) fn new() -> Arc<Self> {
        Self::of(None)
    }

    /// A connection that was opened now, from there.
    pub(super) fn of(from: Option<FromAddress>) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            asked: AtomicBool::default(),
            running: AtomicUsize::default(),
            quiet_ms: AtomicU64::default(),
            writes: AtomicBool::default(),
            unread: AtomicBool::default(),
            from,
        })
    }

    /// Counts a request in.
    pub(super) fn begins(self: &Arc<Self>) -> Running {
        self.asked.store(true, Ordering::Relaxed);
        self.unread.store(false, Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(from) = &self.from
        {
            from.is_used();
        }
        Running(Arc::clone(self))
    }

    /// Whether there has been a request.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says that a request's body was given up before its end.
    pub(super) fn leaves_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether the last request's was.
    pub(super) fn left_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// Says whether a write waits for the client.
    pub(super) fn writes(&self, waits: bool) {
        if !waits {
            self.is_quiet();
        }
        self.writes.store(waits, Ordering::Release);
    }

    /// Ends when the connection has been idle for `longest`, counted from `since` at the earliest. It
    /// looks only when that may be so: a request costs no timer.
    pub(super) async fn idle(&self, since: Instant, longest: Duration) {
        let mut until = since + longest;
        loop {
            sleep_until(until).await;
            let now = Instant::now();
            // Acquire: when nothing runs it is known since when.
            if self.running.load(Ordering::Acquire) > 0 || self.writes.load(Ordering::Acquire) {
                until = now + longest;
                continue;
            }
            let quiet = self.opened + Duration::from_millis(self.quiet_ms.load(Ordering::Relaxed));
            until = quiet.max(since) + longest;
            if until <= now {
                return;
            }
        }
    }

    fn ends(&self) {
        self.is_quiet();
        if self.running.fetch_sub(1, Ordering::Release) == 1
            && let Some(from) = &self.from
        {
            from.is_idle();
        }
    }

    /// Notes that something has ended now.
    fn is_quiet(&self) {
        let after = self.opened.elapsed().as_millis().saturating_add(1);
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.quiet_ms.fetch_max(after, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ends();
    }
}

// === impl Answered ===

impl Running {
    /// The answer, which runs on while its body is handed out. One that came before its request's body
    /// was read is the last on its connection, and says so: nobody may ask again on it meanwhile.
    pub(super) fn answered(self, mut answer: Response<Body>) -> Response<Answered> {
        if self.0.left_unread() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(|body| Answered { body, _running: self })
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const LONGEST: Duration = Duration::from_secs(60);

    /// How long after its opening a connection is idle on which `happens`.
    async fn idle_after(happens: impl AsyncFnOnce(&Arc<Traffic>)) -> Duration {
        let (traffic, opened) = (Traffic::new(), Instant::now());
        tokio::join!(happens(&traffic), traffic.idle(opened, LONGEST));
        opened.elapsed()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The millisecond to which ends are rounded up.
    const ROUND: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_last_requests_end() {
        assert_eq!(idle_after(async |_| ()).await, LONGEST, "nothing was asked");
        let one = async |traffic: &Arc<Traffic>| {
            let _running = traffic.begins();
            sleep(seconds(7)).await;
        };
        assert_eq!(idle_after(one).await, seconds(67) + ROUND);
        let two = async |traffic: &Arc<Traffic>| {
            let (long, short) = (traffic.begins(), traffic.begins());
            sleep(seconds(10)).await;
            drop(short);
            sleep(seconds(600)).await;
            drop(long);
        };
        assert_eq!(idle_after(two).await, seconds(670) + ROUND, "while one runs it is not idle");
        let again = async |traffic: &Arc<Traffic>| {
            sleep(seconds(59)).await;
            drop(traffic.begins());
        };
        assert_eq!(idle_after(again).await, seconds(119) + ROUND, "a request is traffic");
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_takes_its_answer_is_not_idle() {
        let taking = async |traffic: &Arc<Traffic>| {
            traffic.writes(true);
            sleep(seconds(200)).await;
            traffic.writes(false);
        };
        assert_eq!(idle_after(taking).await, seconds(260) + ROUND);
    }
}
