//! A request's body: all of it, within its limits, decompressed.
//!
//! **Invariant:** neither the bytes that come nor those they decompress to exceed the limit, and no more
//! is ever held: a bomb is given up when it passes the limit, not after.

use super::{Gateway, headers};
use crate::{admission::BodyRoom, refusal::Refusal, wire::BadRequest};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use std::{
    io::{self, Read},
    pin::pin,
    time::Duration,
};

/// Buffer of the brotli decoder.
const BROTLI_BUFFER_BYTES: usize = 16 * 1024;
/// Encodings that may lie on top of each other.
const ENCODINGS_MAX: usize = 2;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The whole body, size- and time-limited, decompressed, and the room that it has while it is there.
///
/// # Errors
/// A [`Refusal`]: too large, too slow, broken off, compressed in a way that is not known, or more than
/// there is room for beside others.
pub(super) async fn whole(
    gateway: &Gateway,
    body: Body,
    headers: &HeaderMap,
) -> Result<(Bytes, BodyRoom), Refusal> {
    let limits = &gateway.config.limits;
    headers::refuse_long_body(headers, limits.body_bytes_max)?;
    let encodings = encodings(headers)?;
    let mut room = gateway.admission.body_room();
    let collected = collect(body, limits.body_bytes_max, &mut room);
    let body = tokio::time::timeout(limits.body_read_max, collected)
        .await
        .map_err(|_| Refusal::BodyTimeout(limits.body_read_max))??;
    if encodings.is_empty() {
        return Ok((body, room));
    }
    let bytes_max = limits.body_bytes_max;
    let decoded = tokio::task::spawn_blocking(move || {
        encodings
            .into_iter()
            .rev()
            .try_fold(body, |body, encoding| decode(encoding, &body, bytes_max))
    });
    let body =
        decoded.await.map_err(|_| broken("the request body could not be decompressed"))??;
    if room.grow_to(body.len()) { Ok((body, room)) } else { Err(no_room()) }
}

async fn collect(body: Body, bytes_max: usize, room: &mut BodyRoom) -> Result<Bytes, Refusal> {
    let mut body = pin!(Limited::new(body, bytes_max));
    // Most come in one piece. Others are copied: small pieces take more than they hold.
    let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Refusal::TooLarge(bytes_max));
            }
            Err(_) => return Err(broken("the request body ended before it was whole")),
        };
        let Ok(data) = frame.into_data() else { continue };
        if !room.grow_to(first.len() + joined.len() + data.len()) {
            return Err(no_room());
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn no_room() -> Refusal {
    Refusal::Busy(Duration::from_secs(1))
}

/// The encodings that the headers name, in the order in which they were applied.
fn encodings(headers: &HeaderMap) -> Result<Vec<Encoding>, Refusal> {
    let mut encodings = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            encodings.push(match name.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Encoding::Gzip,
                "deflate" => Encoding::Deflate,
                "br" => Encoding::Brotli,
                "zstd" => Encoding::Zstd,
                _ => return Err(Refusal::UnknownEncoding),
            });
        }
    }
    if encodings.len() > ENCODINGS_MAX {
        return Err(Refusal::UnknownEncoding);
    }
    Ok(encodings)
}

fn decode(encoding: Encoding, body: &[u8], bytes_max: usize) -> Result<Bytes, Refusal> {
    let mut decoded = Vec::new();
    // One byte more than may be, so that what is too large shows.
    let limit = bytes_max as u64 + 1;
    let read = match encoding {
        Encoding::Gzip => read(flate2::read::MultiGzDecoder::new(body), limit, &mut decoded),
        Encoding::Deflate => read(flate2::read::ZlibDecoder::new(body), limit, &mut decoded),
        Encoding::Brotli => {
            let decoder = brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER_BYTES);
            read(decoder, limit, &mut decoded)
        }
        Encoding::Zstd => zstd::stream::read::Decoder::new(body)
            .and_then(|decoder| read(decoder, limit, &mut decoded)),
    };
    if decoded.len() > bytes_max {
        return Err(Refusal::TooLarge(bytes_max));
    }
    match read {
        Ok(()) => Ok(Bytes::from(decoded)),
        Err(_) => Err(broken("the request body is not what its content-encoding says")),
    }
}

fn read(decoder: impl Read, limit: u64, into: &mut Vec<u8>) -> io::Result<()> {
    decoder.take(limit).read_to_end(into).map(|_| ())
}

fn broken(message: &str) -> Refusal {
    Refusal::Bad(BadRequest { param: None, message: message.to_owned(), code: "invalid_body" })
}
