//! A request's body on its way out, and whether it has begun to leave.
//!
//! **Invariant:** a client asks for a body once it has a connection to write it to. So what was not asked
//! for has reached nobody, and what is called off before that never will.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

const HERE: u8 = 0;
const LEFT: u8 = 1;
const CALLED_OFF: u8 = 2;

/// Whether a request's body has begun to leave.
#[derive(Clone, Debug, Default)]
pub struct Departure(Arc<AtomicU8>);

/// See the file's head.
pub(super) struct Outgoing {
    pub(super) body: Bytes,
    pub(super) departure: Departure,
}

impl Departure {
    /// Keeps it here, if nothing of it has left yet; whether that was so.
    #[must_use]
    pub fn call_off(&self) -> bool {
        self.0.compare_exchange(HERE, CALLED_OFF, Relaxed, Relaxed) != Err(LEFT)
    }

    fn leave(&self) -> bool {
        self.0.compare_exchange(HERE, LEFT, Relaxed, Relaxed) != Err(CALLED_OFF)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.departure.leave() {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        let body = std::mem::take(&mut self.body);
        Poll::Ready((!body.is_empty()).then(|| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn outgoing() -> (Outgoing, Departure) {
        let departure = Departure::default();
        let body = Bytes::from_static(b"a prompt");
        (Outgoing { body, departure: departure.clone() }, departure)
    }

    #[tokio::test]
    async fn what_has_left_cannot_be_called_off() {
        let (body, departure) = outgoing();
        assert_eq!(body.size_hint().exact(), Some(8));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "a prompt");
        assert!(!departure.call_off() && !departure.call_off());
    }

    #[tokio::test]
    async fn what_is_called_off_never_leaves() {
        let (body, departure) = outgoing();
        assert!(departure.call_off() && departure.call_off());
        assert!(body.collect().await.is_err());
    }
}
