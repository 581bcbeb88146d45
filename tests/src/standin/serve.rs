//! The socket's side: accept, read, write the scripted answer, notice who leaves.

use super::{
    Cut, Point, Script, Shared,
    answer::{Answer, Body, answer},
    http::read_request,
};
use bytes::BytesMut;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Accepts until told to stop.
pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut connection = 0;
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = socket else { continue };
        connection += 1;
        shared.count(|counts| counts.connections += 1);
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that breaks off is what it is; nothing here depends on it.
                _ended = converse(socket, &shared, connection) => {}
            }
        });
    }
}

/// How one answer ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// To its end: the connection lives on.
    Whole,
    /// Cut by its script: close the connection.
    Cut,
    /// Cut by its script: reset the connection.
    Reset,
}

/// Serves one connection, request after request.
async fn converse(mut socket: TcpStream, shared: &Shared, connection: u64) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    while let Some(asked) = read_request(&mut socket, &mut buffer, connection).await? {
        let script = shared.script_for(&asked);
        let answer = answer(&asked, &script);
        let (mut read, mut write) = socket.split();
        let ended = tokio::select! {
            biased;
            ended = write_answer(&mut write, &script, answer) => ended,
            () = left(&mut read, &mut buffer) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        match ended {
            Ok(Ended::Whole) => shared.count(|counts| counts.answered += 1),
            Ok(Ended::Cut) => {
                shared.count(|counts| counts.cut += 1);
                return Ok(());
            }
            Ok(Ended::Reset) => {
                // Closing with no time to linger sends RST instead of FIN.
                socket.set_zero_linger()?;
                shared.count(|counts| counts.cut += 1);
                return Ok(());
            }
            Err(error) => {
                shared.count(|counts| counts.left += 1);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Returns when the client has closed its side.
async fn left(read: &mut ReadHalf<'_>, buffer: &mut BytesMut) {
    // A well-behaved client sends nothing while it waits; a pipelined request is kept.
    while let Ok(1..) = read.read_buf(buffer).await {}
}

async fn write_answer(
    write: &mut WriteHalf<'_>,
    script: &Script,
    answer: Answer,
) -> io::Result<Ended> {
    wait(script.before_head).await;
    if let Some(ended) = cut_at(script, Point::Head).await {
        return Ok(ended);
    }
    write.write_all(head(&answer).as_bytes()).await?;
    match answer.body {
        Body::Whole(body) => {
            if let Some(hold) = script.hold.as_ref() {
                hold.go.cancelled().await;
            }
            wait(script.before_first).await;
            if script.cut.is_some() {
                // A cut inside an unstreamed body: half of it comes.
                write_segments(write, script, &body[..body.len() / 2]).await?;
                if let Some(ended) = cut(script).await {
                    return Ok(ended);
                }
            }
            write_segments(write, script, &body).await?;
        }
        Body::Stream { opening, pieces, ending } => {
            if !opening.is_empty() {
                write_chunk(write, script, &opening).await?;
            }
            wait(script.before_first).await;
            for (index, piece) in pieces.iter().enumerate() {
                if let Some(ended) = cut_at(script, Point::Piece(index)).await {
                    return Ok(ended);
                }
                if index > 0 {
                    wait(script.between).await;
                }
                write_chunk(write, script, piece).await?;
            }
            if let Some(ended) = cut_at(script, Point::Piece(pieces.len())).await {
                return Ok(ended);
            }
            write_chunk(write, script, &ending).await?;
            if let Some(ended) = cut_at(script, Point::End).await {
                return Ok(ended);
            }
            write.write_all(b"0\r\n\r\n").await?;
        }
    }
    write.flush().await?;
    Ok(Ended::Whole)
}

fn head(answer: &Answer) -> String {
    let framing = match &answer.body {
        Body::Whole(body) => format!("content-length: {}", body.len()),
        Body::Stream { .. } => "transfer-encoding: chunked".to_owned(),
    };
    let own: String =
        answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!(
        "HTTP/1.1 {} Scripted\r\ncontent-type: {}\r\nx-request-id: standin\r\n{own}{framing}\r\n\r\n",
        answer.status, answer.content_type
    )
}

async fn write_chunk(write: &mut WriteHalf<'_>, script: &Script, data: &[u8]) -> io::Result<()> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    write_segments(write, script, &chunk).await
}

async fn write_segments(write: &mut WriteHalf<'_>, script: &Script, data: &[u8]) -> io::Result<()> {
    let Some(bytes) = script.segment_bytes else { return write.write_all(data).await };
    for segment in data.chunks(bytes.max(1)) {
        write.write_all(segment).await?;
        wait(script.between_segments).await;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The script's hold and its cut, if they fall here.
async fn cut_at(script: &Script, here: Point) -> Option<Ended> {
    if let Some(hold) = script.hold.as_ref().filter(|hold| hold.at == here) {
        hold.go.cancelled().await;
    }
    match script.cut {
        Some(Cut::Reset(at) | Cut::Close(at) | Cut::Hang(at)) if at == here => cut(script).await,
        _ => None,
    }
}

async fn cut(script: &Script) -> Option<Ended> {
    match script.cut? {
        Cut::Reset(_) => Some(Ended::Reset),
        Cut::Close(_) => Some(Ended::Cut),
        Cut::Hang(_) => std::future::pending().await,
    }
}

async fn wait(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
