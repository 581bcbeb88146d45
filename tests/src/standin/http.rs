//! Just enough HTTP/1.1 to read a request from a bare socket.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body of a request.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Which connection it came on, counted from 1.
    pub connection: u64,
}

impl Asked {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Reads one request; `None` when the client closed the connection between requests.
pub(crate) async fn read_request<S>(
    socket: &mut S,
    buffer: &mut BytesMut,
    connection: u64,
) -> io::Result<Option<Asked>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(head_bytes) = read_head(socket, buffer).await? else { return Ok(None) };
    let head = String::from_utf8_lossy(&buffer.split_to(head_bytes)).into_owned();
    buffer.advance(4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut asked = Asked { method, path, headers, body: Bytes::new(), connection };
    if asked.header("expect").is_some() {
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    asked.body = if asked.header("transfer-encoding").is_some() {
        read_chunks(socket, buffer).await?
    } else {
        let length = asked.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        take(socket, buffer, length).await?
    };
    Ok(Some(asked))
}

/// Fills the buffer up to the blank line; returns the head's length.
async fn read_head<S>(socket: &mut S, buffer: &mut BytesMut) -> io::Result<Option<usize>>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(at));
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("the head is too long"));
        }
        if socket.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

async fn take<S>(socket: &mut S, buffer: &mut BytesMut, length: usize) -> io::Result<Bytes>
where
    S: AsyncRead + Unpin,
{
    if length > BODY_BYTES_MAX {
        return Err(io::Error::other("the body is too long"));
    }
    while buffer.len() < length {
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.split_to(length).freeze())
}

async fn read_chunks<S>(socket: &mut S, buffer: &mut BytesMut) -> io::Result<Bytes>
where
    S: AsyncRead + Unpin,
{
    let mut body = BytesMut::new();
    loop {
        let line = loop {
            if let Some(at) = buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&buffer.split_to(at)).into_owned();
                buffer.advance(2);
                break line;
            }
            if socket.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let length = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| io::Error::other("a chunk without a length"))?;
        let chunk = take(socket, buffer, length).await?;
        take(socket, buffer, 2).await?;
        if length == 0 {
            return Ok(body.freeze());
        }
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(io::Error::other("the body is too long"));
        }
        body.extend_from_slice(&chunk);
    }
}
