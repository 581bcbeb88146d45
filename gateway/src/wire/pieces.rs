//! A whole body in the pieces it is made of: what requests share is not copied for each of them.

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

/// Longest body that is copied into one piece: it costs less than writing several.
const JOINED_BYTES_MAX: usize = 64 * 1024;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Pieces {
    first: Bytes,
    rest: VecDeque<Bytes>,
}

impl Pieces {
    /// These pieces one after another; joined where all are short.
    #[must_use]
    pub fn of(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut rest: VecDeque<Bytes> = pieces.into_iter().filter(|it| !it.is_empty()).collect();
        let bytes: usize = rest.iter().map(Bytes::len).sum();
        if bytes > JOINED_BYTES_MAX {
            return Self { first: rest.pop_front().unwrap_or_default(), rest };
        }
        let mut joined = BytesMut::with_capacity(bytes);
        rest.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze().into()
    }

    /// Whether a body of so many bytes stays in pieces.
    #[must_use]
    pub(super) fn stays(bytes: usize) -> bool {
        bytes > JOINED_BYTES_MAX
    }

    /// The body of a response.
    pub fn into_body(self) -> axum::body::Body {
        if self.rest.is_empty() {
            return self.first.into();
        }
        axum::body::Body::new(self)
    }

    fn next(&mut self) -> Option<Bytes> {
        let following = self.rest.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.first, following)).filter(|piece| !piece.is_empty())
    }

    /// All of it, copied.
    #[cfg(test)]
    pub(crate) fn joined(mut self) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next() {
            all.extend_from_slice(&piece);
        }
        all.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        Self { first: whole, rest: VecDeque::new() }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>();
        SizeHint::with_exact(bytes as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{JOINED_BYTES_MAX, Pieces};
    use bytes::Bytes;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn long_pieces_are_not_copied_and_their_length_is_known() {
        let long = Bytes::from(vec![b'x'; JOINED_BYTES_MAX]);
        let parts = || [Bytes::from_static(b"{"), long.clone(), Bytes::new(), "}".into()];
        let body = Pieces::of(parts()).into_body();
        assert_eq!(body.size_hint().exact(), Some(long.len() as u64 + 2));
        assert!(!long.is_unique());
        let all = body.collect().await.unwrap().to_bytes();
        assert_eq!(all, parts().concat());
        assert!(long.is_unique());

        let short = Pieces::of([Bytes::from_static(b"{"), Bytes::from_static(b"}")]);
        assert_eq!((short.rest.len(), short.joined()), (0, Bytes::from_static(b"{}")));
        assert!(Pieces::default().into_body().is_end_stream());
    }
}
