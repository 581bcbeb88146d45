//! A request's body: all of it, within its limits, decompressed.
//!
//! **Invariant:** neither the bytes that come nor those they decompress to exceed the limit, nor what there
//! is room for beside others, and no more is ever held: a bomb is given up when it passes the limit, not
//! after. What a decoder or a reader holds counts as long as it runs, also when its client has left.

use super::{Gateway, headers};
use crate::{
    admission::{BodyRoom, NoRoom, SHARE_OF_GATEWAYS},
    caller::Caller,
    makers::{NotMade, Wanted},
    refusal::Refusal,
    wire::BadRequest,
};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use std::{
    io::{self, Read},
    pin::pin,
    time::Duration,
};

/// Of zstd as a content encoding: windows of at most 8 MiB (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;
/// Buffer of the brotli decoder.
const BROTLI_BUFFER_BYTES: usize = 16 * 1024;
/// What is decompressed at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Longest body that is read on its request's own thread: about a millisecond.
const READ_INLINE_BYTES_MAX: usize = 256 * 1024;
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
    caller: &Caller,
    body: Body,
    headers: &HeaderMap,
) -> Result<(Bytes, BodyRoom), Refusal> {
    let limits = &gateway.config.limits;
    headers::refuse_long_body(headers, limits.body_bytes_max)?;
    let encodings = encodings(headers)?;
    let mut room = gateway.admission.body_room(caller);
    let collected = collect(body, limits.body_bytes_max, &mut room);
    let body = tokio::time::timeout(limits.body_read_max, collected)
        .await
        .map_err(|_| Refusal::BodyTimeout(limits.body_read_max))??;
    if encodings.is_empty() {
        return Ok((body, room));
    }
    let bytes_max = limits.body_bytes_max;
    // Boxed: few bodies are compressed, and every request would have room for it.
    let decode = move |wanted: &Wanted| decoded(encodings, body, bytes_max, room, wanted);
    Box::pin(gateway.admission.readers().make(Some(caller.id()), false, decode)).await
}

/// What `read` makes of a body: on the request's own thread, or where it is long on one that may block, so
/// that nobody else's request waits for it. The body has its room as long.
///
/// # Errors
/// `read`'s own; [`Refusal::Crowded`] where too many are being read.
pub(super) async fn read_apart<T: Send + 'static>(
    gateway: &Gateway,
    caller: &Caller,
    room: BodyRoom,
    read: impl FnOnce() -> Result<T, BadRequest> + Send + 'static,
) -> Result<(T, BodyRoom), Refusal> {
    let read = move |_: &Wanted| Ok((read().map_err(Refusal::Bad)?, room));
    gateway.admission.readers().make(Some(caller.id()), false, read).await
}

/// Whether a body of so many bytes is read by [`read_apart`].
pub(super) fn is_long(body: &Bytes) -> bool {
    body.len() > READ_INLINE_BYTES_MAX
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
        room.grow_to(first.len() + joined.len() + data.len())?;
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// How long a caller is told to wait for the end of other bodies: nobody knows when one ends.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<NoRoom> for Refusal {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Full => Self::Crowded(ROOM_RETRY_AFTER),
            NoRoom::Share(bytes_max) => Self::RateLimited {
                scope: SHARE_OF_GATEWAYS.to_owned(),
                limit: format!("{bytes_max} bytes of request bodies at once"),
                left: 0,
                retry_after: ROOM_RETRY_AFTER,
            },
        }
    }
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

/// The body without its encodings, and its room.
fn decoded(
    encodings: Vec<Encoding>,
    mut body: Bytes,
    bytes_max: usize,
    mut room: BodyRoom,
    wanted: &Wanted,
) -> Result<(Bytes, BodyRoom), Refusal> {
    for encoding in encodings.into_iter().rev() {
        body = decode(encoding, &body, Output { bytes_max, room: &mut room, wanted })?;
    }
    Ok((body, room))
}

/// What bounds the output of a decoder.
struct Output<'a> {
    bytes_max: usize,
    room: &'a mut BodyRoom,
    wanted: &'a Wanted,
}

fn decode(encoding: Encoding, body: &[u8], output: Output<'_>) -> Result<Bytes, Refusal> {
    match encoding {
        Encoding::Gzip => output.of(flate2::read::MultiGzDecoder::new(body)),
        Encoding::Deflate => output.of(flate2::read::ZlibDecoder::new(body)),
        Encoding::Brotli => {
            output.of(brotli_decompressor::Decompressor::new(body, BROTLI_BUFFER_BYTES))
        }
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(body).map_err(|_| not_as_said())?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| not_as_said())?;
            output.of(decoder)
        }
    }
}

impl Output<'_> {
    /// All that a decoder puts out.
    fn of(self, mut decoder: impl Read) -> Result<Bytes, Refusal> {
        let (mut decoded, mut piece) = (Vec::new(), [0; PIECE_BYTES]);
        while self.wanted.is_so() {
            let read = match decoder.read(&mut piece) {
                Ok(0) => return Ok(decoded.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(not_as_said()),
            };
            let bytes = decoded.len() + read;
            if bytes > self.bytes_max {
                return Err(Refusal::TooLarge(self.bytes_max));
            }
            self.room.grow_to(bytes)?;
            decoded.extend_from_slice(&piece[..read]);
        }
        Err(broken("nobody waits for the request body"))
    }
}

fn not_as_said() -> Refusal {
    broken("the request body is not what its content-encoding says")
}

impl From<NotMade> for Refusal {
    fn from(why: NotMade) -> Self {
        match why {
            NotMade::Busy => NoRoom::Full.into(),
            NotMade::Died(_) => broken("the request body could not be read"),
        }
    }
}

fn broken(message: &str) -> Refusal {
    Refusal::Bad(BadRequest { param: None, message: message.to_owned(), code: "invalid_body" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Bodies, KeyBodies},
        makers::Makers,
    };
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    const MIB: usize = 1 << 20;

    fn zeros(bytes: usize) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![0; bytes]).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn what_a_body_decompresses_to_has_room_before_it_is_there() {
        let bodies = Bodies::new(2 * MIB);
        let gzip = || vec![Encoding::Gzip];
        let decode = |bytes, bytes_max| {
            let room = bodies.room(&KeyBodies::default());
            decoded(gzip(), zeros(bytes), bytes_max, room, &Wanted::default())
        };
        let (body, room) = decode(MIB, 8 * MIB).unwrap();
        assert_eq!(body.len(), MIB);
        let refused = decode(MIB + 1024, 8 * MIB);
        assert!(matches!(refused, Err(Refusal::Crowded(_))), "beside the other");
        assert!(matches!(decode(MIB, MIB - 1), Err(Refusal::TooLarge(_))));
        drop(room);
        assert_eq!(decode(2 * MIB, 8 * MIB).unwrap().0.len(), 2 * MIB);
    }

    #[test]
    fn a_zstd_body_asks_for_no_larger_window_than_the_encoding_allows() {
        let bodies = Bodies::new(2 * MIB);
        let decode = |window_log| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window_log).unwrap();
            encoder.write_all(b"{}").unwrap();
            // Its length is not told: the window is as it was set.
            encoder.flush().unwrap();
            let body = Bytes::from(encoder.finish().unwrap());
            let room = bodies.room(&KeyBodies::default());
            let zstd = vec![Encoding::Zstd];
            decoded(zstd, body, MIB, room, &Wanted::default()).map(|(body, _)| body)
        };
        assert_eq!(decode(ZSTD_WINDOW_LOG).unwrap(), "{}");
        assert!(matches!(decode(ZSTD_WINDOW_LOG + 1), Err(Refusal::Bad(_))));
    }

    #[tokio::test]
    async fn a_decoder_keeps_its_room_until_it_ends_and_ends_when_its_client_has_left() {
        let bodies = Bodies::new(MIB);
        let decoders = Makers::new(Duration::from_secs(60));
        let of_key = KeyBodies::default();
        let mut room = bodies.room(&of_key);
        room.grow_to(MIB).unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let endless = move |wanted: &Wanted| {
            tell.send(()).unwrap();
            Output { bytes_max: MIB, room: &mut room, wanted }.of(Endless)
        };
        let decoding = decoders.make(None, false, endless);
        let leaves = async {
            while told.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            decoded = decoding => panic!("{decoded:?}"),
            () = leaves => {}
        }
        // Another one finds room once that has ended, which it does.
        while bodies.room(&of_key).grow_to(MIB).is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// A body that never ends, and of which nothing ever comes.
    struct Endless;

    impl Read for Endless {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::Interrupted.into())
        }
    }
}
