//! The accept loop: HTTP/1 and HTTP/2, in clear or under TLS, on one port.
//!
//! **Invariants:** open connections are limited; a connection that sends no head in time is closed, and
//! so is one whose client stopped reading its answer;
//! every request carries its [`Peer`]; at the stop running answers get [`Listening::drain_max`] to
//! end, then they are cut, and the function returns only when none is left.

mod stalled;
mod streams;

use crate::tls::Tls;
use axum::{body::Body, extract::Request, response::Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use stalled::Stalled;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use streams::Streams;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

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
    /// Longest wait of an answer for a client that reads nothing of it, on a connection of HTTP/1 or a
    /// stream of HTTP/2.
    pub write_stall_max: Duration,
    /// At the stop, longest wait for running answers.
    pub drain_max: Duration,
}

/// Hands requests to `service` until `stop`, then drains.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Listening,
    stop: CancellationToken,
    tls: Option<Arc<Tls>>,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let server = Arc::new(server(&limits));
    while let Some((stream, peer, place)) = accept(&listener, &places, &stop).await {
        let open = Connection { peer, service: service.clone(), tls: tls.clone(), _place: place };
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

struct Connection<S> {
    peer: SocketAddr,
    service: S,
    tls: Option<Arc<Tls>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    async fn run(
        self,
        stream: TcpStream,
        server: Arc<auto::Builder<Streams>>,
        limits: Listening,
        watcher: hyper_util::server::graceful::Watcher,
        cut: CancellationToken,
    ) {
        // Without it a head and its first event, written apart, meet the delayed ACK: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let stream = Stalled::new(stream, limits.write_stall_max);
        let Some(tls) = &self.tls else {
            return self.converse(stream, server, limits, watcher, cut).await;
        };
        let hands = tokio::time::timeout(limits.header_read_max, tls.accept(stream));
        tokio::select! {
            shaken = hands => match shaken {
                Ok(Ok(stream)) => self.converse(stream, server, limits, watcher, cut).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS with this client"),
                Err(_) => tracing::debug!("a client took too long over TLS"),
            },
            () = cut.cancelled() => {}
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        server: Arc<auto::Builder<Streams>>,
        limits: Listening,
        watcher: hyper_util::server::graceful::Watcher,
        cut: CancellationToken,
    ) {
        let asked = Arc::new(AtomicBool::new(false));
        let service = {
            let asked = Arc::clone(&asked);
            let (service, peer) = (self.service.clone(), Peer(self.peer));
            hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(peer);
                let answer = service.clone().call(request.map(Body::new));
                async move { answer.await.map(streams::handed) }
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
async fn nothing_asked(asked: &AtomicBool, wait: Duration) {
    tokio::time::sleep(wait).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn server(limits: &Listening) -> auto::Builder<Streams> {
    let mut server = auto::Builder::new(Streams { longest: limits.write_stall_max });
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        served: tokio::task::JoinHandle<()>,
    }

    #[expect(clippy::disallowed_methods, reason = "a test has nothing to settle")]
    async fn start(router: Router, limits: Listening) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, router, limits, stop.clone(), None));
        Server { address, stop, served }
    }

    fn limits() -> Listening {
        Listening {
            connections_max: 8,
            header_read_max: Duration::from_secs(20),
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
        server.stop.cancel();
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
        server.stop.cancel();
        server.served.await.unwrap();
    }
}
