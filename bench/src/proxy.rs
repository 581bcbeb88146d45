//! `bench proxy`: the floor. axum in front, a pooled reqwest client behind, nothing in between: it
//! reads the body, forwards it and streams the answer back. What tollgate costs above this is what
//! its keys, policy, budgets and ledger cost.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Largest request body read.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What the flags of `bench proxy` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProxyArgs {
    /// Address to listen on; port 0 takes a free one, and the address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where requests go, as http://host:port.
    #[arg(long)]
    upstream: reqwest::Url,
}

#[derive(Clone, Debug)]
struct Floor {
    client: reqwest::Client,
    upstream: reqwest::Url,
}

/// Serves until the process is asked to end.
pub(crate) async fn run(args: ProxyArgs) -> Result<(), String> {
    let client = crate::http_client()?;
    let floor = Floor { client, upstream: args.upstream };
    let listener = TcpListener::bind(args.listen).await.map_err(|e| format!("listen: {e}"))?;
    let address = listener.local_addr().map_err(|e| format!("listen: {e}"))?;
    crate::say(&format!("listening {address}"))?;
    let listener = listener.tap_io(|socket| {
        // Without it a stream's first event waits for a delayed acknowledgement, 40 ms. Only a
        // connection that is already gone refuses it.
        let _ = socket.set_nodelay(true);
    });
    let router = Router::new().fallback(forward).with_state(floor);
    let mut asked = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
    tokio::select! {
        served = axum::serve(listener, router) => served.map_err(|e| format!("serve: {e}")),
        _ = asked.recv() => Ok(()),
    }
}

async fn forward(State(floor): State<Floor>, request: Request) -> Response {
    relay(floor, request).await.unwrap_or_else(|message| {
        let mut response = Response::new(Body::from(message));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

async fn relay(floor: Floor, request: Request) -> Result<Response, String> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|e| e.to_string())?;
    let mut url = floor.upstream;
    url.set_path(head.uri.path());
    let mut forward = floor.client.request(head.method, url).body(body);
    for name in [header::CONTENT_TYPE, header::AUTHORIZATION] {
        if let Some(value) = head.headers.get(&name) {
            forward = forward.header(name, value);
        }
    }
    let answer = forward.send().await.map_err(|e| e.to_string())?;
    let mut response = Response::builder().status(answer.status());
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    response.body(Body::from_stream(answer.bytes_stream())).map_err(|e| e.to_string())
}
