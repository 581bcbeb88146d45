//! Bytes written to the socket as they are, for what no HTTP client would send.

use super::Gate;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Writes a head, and behind it this piece again and again until an answer's head has come; returns that
/// and how many bytes were written. Of an empty piece nothing is sent, and the answer is waited for.
pub(crate) async fn raw_without_end(gate: &Gate, head: &[u8], piece: &[u8]) -> (String, usize) {
    let address = gate.url();
    let socket = TcpStream::connect(address.trim_start_matches("http://")).await;
    let (mut read, mut write) = socket.expect("a connection").into_split();
    write.write_all(head).await.expect("to write");
    let mut written = head.len();
    let mut answer = Vec::new();
    let writing = async {
        // A connection that is closed takes no more.
        while !piece.is_empty() && write.write_all(piece).await.is_ok() {
            written += piece.len();
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            if read.read_buf(&mut answer).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
    }
    (String::from_utf8_lossy(&answer).into_owned(), written)
}

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
