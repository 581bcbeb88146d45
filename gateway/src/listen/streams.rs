//! A stream of HTTP/2 whose client takes nothing is given up, as a connection of HTTP/1 is: the client
//! that opens no window answers pings all the same, and its answer would hold a place on a route, a
//! permit and money for as long as it likes.
//!
//! **Invariants:** a client that takes [`PIECE_BYTES_MAX`] of each answer in the longest wait keeps all
//! of them; a stream that is given up is dropped alone, with its answer, and the others of its
//! connection go on; a stream that waits for us is never timed here.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use hyper_util::rt::TokioExecutor;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Largest piece in which a body is handed out: what a client has taken is seen piece by piece, and
/// this is the size of HTTP/2's own frames.
const PIECE_BYTES_MAX: usize = 16 * 1024;

tokio::task_local! {
    /// Whose turn it is on the stream that this task runs.
    static TURN: Arc<Turn>;
}

/// Runs the streams of a connection, each with a watch on its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// Longest wait for a client that takes nothing of its answer.
    pub(super) longest: Duration,
}

/// Who is waited for.
#[derive(Debug, Default)]
struct Turn(AtomicU8);

/// We are: no answer has begun, or its next piece has not come.
const OURS: u8 = 0;
/// The client is, since it was looked last: a piece was handed out.
const HANDED: u8 = 1;
/// The client is still.
const CLIENTS: u8 = 2;

/// An answer's body that notes whose turn it is.
struct Handed {
    body: Body,
    /// What is left of a frame that was larger than a piece.
    rest: Bytes,
    turn: Arc<Turn>,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        hyper::rt::Executor::execute(&TokioExecutor::new(), watched(stream, self.longest));
    }
}

/// Runs `stream` to its end, or until its client has taken nothing for `longest`.
async fn watched(stream: impl Future<Output = ()>, longest: Duration) {
    let turn = Arc::new(Turn::default());
    let mut stream = pin!(TURN.scope(Arc::clone(&turn), stream));
    let mut wait = pin!(sleep(longest));
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match turn.look() {
            OURS => return Poll::Pending,
            HANDED => wait.as_mut().reset(Instant::now() + longest),
            _ => {}
        }
        ready!(wait.as_mut().poll(cx));
        tracing::debug!("a client takes nothing of its answer: its stream is given up");
        Poll::Ready(())
    })
    .await;
}

/// The answer, watched where it goes out on a stream of HTTP/2.
pub(super) fn handed(answer: Response<Body>) -> Response<Body> {
    match TURN.try_with(Arc::clone) {
        Ok(turn) => answer.map(|body| Body::new(Handed { body, rest: Bytes::new(), turn })),
        Err(_) => answer,
    }
}

// === impl Turn ===

impl Turn {
    /// Whose turn it is; a piece that was handed out is told once.
    fn look(&self) -> u8 {
        match self.0.load(Ordering::Relaxed) {
            HANDED => {
                self.0.store(CLIENTS, Ordering::Relaxed);
                HANDED
            }
            turn => turn,
        }
    }

    fn is(&self, turn: u8) {
        self.0.store(turn, Ordering::Relaxed);
    }
}

// === impl Handed ===

impl http_body::Body for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.turn.is(OURS);
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(piece);
        self.turn.is(HANDED);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, of_body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower().saturating_add(rest));
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::cell::Cell;

    const LONGEST: Duration = Duration::from_secs(5);
    const ALMOST: Duration = Duration::from_millis(4_999);

    /// What an answer of `bytes` is handed out as.
    fn body(bytes: usize) -> Body {
        handed(Response::new(Body::from(vec![7; bytes]))).into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_with_its_answer() {
        let (began, alive) = (Instant::now(), Arc::new(()));
        let held = Arc::clone(&alive);
        watched(
            async move {
                let mut body = body(64);
                body.frame().await.unwrap().unwrap();
                std::future::pending::<()>().await;
                drop(held);
            },
            LONGEST,
        )
        .await;
        assert_eq!(began.elapsed(), LONGEST);
        assert_eq!(Arc::strong_count(&alive), 1, "the answer is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_piece_now_and_then_gets_everything() {
        let taken = Cell::new(0);
        watched(
            async {
                let mut body = body(5 * PIECE_BYTES_MAX + 1);
                while let Some(frame) = body.frame().await {
                    let piece = frame.unwrap().into_data().unwrap();
                    assert!(piece.len() <= PIECE_BYTES_MAX, "what is taken is seen");
                    taken.set(taken.get() + piece.len());
                    sleep(ALMOST).await;
                }
            },
            LONGEST,
        )
        .await;
        assert_eq!(taken.get(), 5 * PIECE_BYTES_MAX + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_or_pauses_is_not_its_clients_fault() {
        let pieces = futures::stream::unfold(0, async |piece| {
            sleep(3 * LONGEST).await;
            (piece < 2).then_some((Ok::<_, axum::Error>("piece"), piece + 1))
        });
        let taken = Cell::new(0);
        watched(
            async {
                sleep(3 * LONGEST).await;
                let mut body = handed(Response::new(Body::from_stream(pieces))).into_body();
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                    taken.set(taken.get() + 1);
                }
            },
            LONGEST,
        )
        .await;
        assert_eq!(taken.get(), 2);
    }
}
