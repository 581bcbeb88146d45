//! The accept loop: HTTP/1 and HTTP/2 (without TLS) on one port.
//!
//! **Invariants:** open connections are limited; a connection that sends no head in time is closed;
//! every request carries its [`Peer`]; at the stop running answers get [`Listening::drain_max`] to
//! end, then they are cut, and the function returns only when none is left.

use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// A silent HTTP/2 connection is asked for a sign of life this often.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// After an error that closing some connection may cure (such as too many open files), the next
/// one is accepted this much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The address a request came from: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Limits of the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Open connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Longest wait for a request's head; also how long an idle connection stays open.
    pub header_read_max: Duration,
    /// At the stop, longest wait for running answers.
    pub drain_max: Duration,
}

/// Serves `router` until `stop`, then drains.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Listening,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let server = Arc::new(server(&limits));
    while let Some((stream, peer, place)) = accept(&listener, &places, &stop).await {
        let open = Connection { peer, router: router.clone(), _place: place };
        let watched = graceful.watcher();
        connections.spawn(open.run(stream, Arc::clone(&server), limits, watched, cut.clone()));
    }
    // Closed before the drain, so that newcomers are refused at once and not left waiting.
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain_max, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "answers are still running after the drain's time: they are cut and settled as they \
             stand"
        );
    }
    cut.cancel();
    connections.wait().await;
}

struct Connection {
    peer: SocketAddr,
    router: Router,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(
        self,
        stream: TcpStream,
        server: Arc<auto::Builder<TokioExecutor>>,
        limits: Listening,
        watcher: hyper_util::server::graceful::Watcher,
        cut: CancellationToken,
    ) {
        // Without it a head and its first event, written apart, meet the delayed ACK: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let asked = Arc::new(AtomicBool::new(false));
        let service = {
            let asked = Arc::clone(&asked);
            let (router, peer) = (self.router.clone(), Peer(self.peer));
            hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(peer);
                router.clone().oneshot(request.map(Body::new))
            })
        };
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection.into_owned());
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
            }
            () = nothing_asked(&asked, limits.header_read_max) => {}
            () = cut.cancelled() => {}
        }
    }
}

/// Ends if no head of a request has come in time: hyper's own timer starts only once it knows
/// which version of HTTP is spoken.
fn nothing_asked(asked: &AtomicBool, wait: Duration) -> impl Future<Output = ()> {
    async move {
        tokio::time::sleep(wait).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

fn server(limits: &Listening) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_max)
        .max_buf_size(HEAD_BYTES_MAX);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_INTERVAL);
    server
}

/// The next connection with its place; `None` at the stop.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, place)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => None,
        next = next => next,
    }
}

/// Whether an error of `accept` is about the connection that was to be accepted alone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}
