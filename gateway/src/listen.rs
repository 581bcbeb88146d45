//! The accept loop: HTTP/1 and HTTP/2, in clear or under TLS, on one port.
//!
//! **Invariants:** open connections are limited, and so is what one address has of them without a request
//! that runs; a connection that sends no head in time is closed, so
//! is one whose client stopped reading its answer, and one on which nothing is asked is ended in good
//! order; who still sends when it is answered can read the answer;
//! every request carries its [`Peer`]; at the stop running answers get [`Listening::drain_max`] to
//! end, or until the stop is [hurried](Stop::hurried), then they are cut, and the function returns only
//! when none is left.

mod addresses;
mod idle;
mod lingering;
mod stalled;
mod streams;

use crate::tls::Tls;
use addresses::{Addresses, FromAddress};
use axum::{extract::Request, response::Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use idle::Traffic;
use lingering::Lingering;
use stalled::Stalled;
use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use streams::Streams;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
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
/// While none can be accepted, that is said this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The address a request came from: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Limits of the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Open connections; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Longest wait for a request's head, on HTTP/1 counted from the end of the answer before it.
    pub header_read_max: Duration,
    /// How long a connection stays open on which no request runs. Then a client of HTTP/2 is told to
    /// leave, and the connection is closed.
    pub idle_max: Duration,
    /// Longest wait of an answer for a client that reads nothing of it, on a connection of HTTP/1 or a
    /// stream of HTTP/2.
    pub write_stall_max: Duration,
    /// At the stop, longest wait for running answers.
    pub drain_max: Duration,
}

/// How the accept loop is told to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing more is accepted, and what runs is waited for.
    pub asked: CancellationToken,
    /// What runs is not waited for any longer.
    pub hurried: CancellationToken,
}

/// Hands requests to `service` until it is told to `stop`, then drains.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    limits: Listening,
    stop: Stop,
    tls: Option<Arc<Tls>>,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let addresses = Arc::new(Addresses::default());
    let ends = Ends::default();
    let connections = TaskTracker::new();
    let server = Arc::new(server(&limits));
    let (mut complaint, mut of_shares) = (Complaint::default(), Complaint::default());
    while let Some((stream, peer, place)) =
        accept(&listener, &places, &stop.asked, &mut complaint).await
    {
        // It is closed: its address keeps its own places, and shuts out nobody else.
        let Some(from) = addresses.enter(peer.ip(), places.available_permits()) else {
            if of_shares.is_due(Instant::now()) {
                let address = peer.ip();
                tracing::warn!(%address, "this address has its share of connections idle; more are closed");
            }
            continue;
        };
        let open = Connection {
            peer,
            service: service.clone(),
            tls: tls.clone(),
            limits,
            ends: ends.clone(),
            _place: place,
        };
        connections.spawn(open.run(stream, from, Arc::clone(&server)));
    }
    // Closed before the drain, so that newcomers are refused at once and not left waiting.
    drop(listener);
    connections.close();
    ends.drain.cancel();
    let cut = |why: &str| {
        let connections = connections.len();
        tracing::warn!(connections, "{why}: answers that run are cut and settled as they stand");
    };
    tokio::select! {
        () = connections.wait() => {}
        () = tokio::time::sleep(limits.drain_max) => cut("the drain's time is over"),
        () = stop.hurried.cancelled() => cut("told to stop once more"),
    }
    ends.cut.cancel();
    connections.wait().await;
}

/// How the connections hear of the stop.
#[derive(Clone, Debug, Default)]
struct Ends {
    /// They end when what runs on them has.
    drain: CancellationToken,
    /// They end.
    cut: CancellationToken,
}

struct Connection<S> {
    peer: SocketAddr,
    service: S,
    tls: Option<Arc<Tls>>,
    limits: Listening,
    ends: Ends,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    async fn run(self, stream: TcpStream, from: FromAddress, server: Arc<auto::Builder<Streams>>) {
        // Without it a head and its first event, written apart, meet the delayed ACK: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let traffic = Traffic::of(Some(from));
        let stream = Stalled::new(stream, self.limits.write_stall_max, Arc::clone(&traffic));
        let stream = Lingering::new(stream, Arc::clone(&traffic));
        let Some(tls) = &self.tls else { return self.converse(stream, &server, &traffic).await };
        let hands = tokio::time::timeout(self.limits.header_read_max, tls.accept(stream));
        tokio::select! {
            shaken = hands => match shaken {
                Ok(Ok(stream)) => self.converse(stream, &server, &traffic).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS with this client"),
                Err(_) => tracing::debug!("a client took too long over TLS"),
            },
            () = self.ends.cut.cancelled() => {}
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        server: &auto::Builder<Streams>,
        traffic: &Arc<Traffic>,
    ) {
        let (limits, ends) = (&self.limits, &self.ends);
        let service = {
            let (service, peer) = (self.service.clone(), Peer(self.peer));
            let traffic = Arc::clone(traffic);
            hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
                let running = traffic.begins();
                request.extensions_mut().insert(peer);
                let version = request.version();
                let request = request.map(|body| lingering::watched(version, body, &traffic));
                let answer = service.clone().call(request);
                async move { answer.await.map(|answer| running.answered(streams::handed(answer))) }
            })
        };
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut unasked = pin!(nothing_asked(traffic, limits.header_read_max));
        tokio::select! {
            ended = connection.as_mut() => return note_end(ended),
            () = unasked.as_mut() => return,
            () = ends.cut.cancelled() => return,
            () = ends.drain.cancelled() => {}
            () = traffic.idle(Instant::now(), limits.idle_max) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection.as_mut() => note_end(ended),
            () = unasked => {}
            () = ends.cut.cancelled() => {}
            // The client of HTTP/2 that was told to leave has not said that it heard.
            () = traffic.idle(Instant::now(), limits.write_stall_max) => {}
        }
    }
}

fn note_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Ends if no head of a request has come in time: hyper's own timer starts only once it knows
/// which version of HTTP is spoken.
async fn nothing_asked(traffic: &Traffic, wait: Duration) {
    tokio::time::sleep(wait).await;
    if traffic.was_asked() {
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
    complaint: &mut Complaint,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, place)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if complaint.is_due(Instant::now()) {
                        tracing::error!(%error, "no connection can be accepted");
                    }
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

/// When it was last said that no connection can be accepted, which is found at every try.
#[derive(Debug, Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|said| now >= said + COMPLAIN_EVERY);
        if due {
            self.0 = Some(now);
        }
        due
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
mod tests;
