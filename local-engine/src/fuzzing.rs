//! Doors for the fuzz driver to what no caller reaches directly. Not an interface.

use crate::text::TextStream;

/// Feeds pieces of bytes through the text stream with these stop texts; returns what was shown and
/// whether a stop text was met.
#[must_use]
pub fn shown(stops: &[String], pieces: &[&[u8]]) -> (String, bool) {
    let mut stream = TextStream::new(stops.to_vec());
    let mut shown = String::new();
    for piece in pieces {
        shown.push_str(&stream.push(piece));
    }
    let stopped = stream.stopped().is_some();
    if !stopped {
        shown.push_str(&stream.rest());
    }
    (shown, stopped)
}
