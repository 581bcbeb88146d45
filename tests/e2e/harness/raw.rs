//! Bytes written to the socket as they are, for what no HTTP client would send.

use super::Gate;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Writes `bytes`, closes our side, and reads what comes until the other side closes.
pub(crate) async fn raw(gate: &Gate, bytes: &[u8]) -> String {
    let mut socket =
        TcpStream::connect(gate.url().trim_start_matches("http://")).await.expect("a connection");
    socket.write_all(bytes).await.expect("to write");
    socket.shutdown().await.expect("to close our side");
    let mut answer = Vec::new();
    // A reset is an answer too: what came before it counts.
    let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answer));
    drop(read.await.expect("an end of the answer"));
    String::from_utf8_lossy(&answer).into_owned()
}
