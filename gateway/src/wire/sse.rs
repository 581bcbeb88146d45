//! Server-sent events: the framing both ways.
//!
//! **Invariant:** the decoder yields the same events however the bytes are cut into pieces, and
//! holds no more than the limit it was made with.

use bytes::{BufMut, Bytes, BytesMut};

/// The event that ends a stream in OpenAI's format.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// A comment: keeps a connection alive, and no client shows it.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// `data` as one event; each of its lines as a data line.
#[must_use]
pub fn event(data: &[u8]) -> Bytes {
    put_event(BytesMut::with_capacity(data.len() + 8), data)
}

/// `data` as one event of this name.
#[must_use]
pub fn named(name: &str, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + data.len() + 16);
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\n");
    put_event(out, data)
}

fn put_event(mut out: BytesMut, data: &[u8]) -> Bytes {
    let mut rest = data;
    while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
        let (line, after) = rest.split_at(end);
        put_line(&mut out, line);
        rest = after.strip_prefix(b"\r\n").or_else(|| after.get(1..)).unwrap_or_default();
    }
    put_line(&mut out, rest);
    out.put_slice(b"\n");
    out.freeze()
}

fn put_line(out: &mut BytesMut, line: &[u8]) {
    out.put_slice(b"data: ");
    out.put_slice(line);
    out.put_slice(b"\n");
}

/// One event that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent {
    /// Its `event:` name, where it has one.
    pub name: Option<Bytes>,
    /// Its data lines, joined by line feeds; a slice of what was read where it is one line.
    pub data: Bytes,
}

/// An event or line that is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {0} bytes")]
pub struct TooLong(pub usize);

/// Reads events out of bytes that come in any pieces.
#[derive(Debug)]
pub struct Decoder {
    /// What was fed and not yet read.
    fed: Bytes,
    /// The beginning of a line whose end has not come.
    line: BytesMut,
    /// The last line ended with a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    /// No line has been read yet: a byte order mark may stand before the first.
    at_start: bool,
    name: Option<Bytes>,
    data: Data,
    bytes_max: usize,
}

/// The data lines of the event that is being read.
#[derive(Debug)]
enum Data {
    None,
    One(Bytes),
    Many(BytesMut),
}

// === impl Decoder ===

impl Decoder {
    /// A decoder that gives up on an event or a line of more than `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            fed: Bytes::new(),
            line: BytesMut::new(),
            after_cr: false,
            at_start: true,
            name: None,
            data: Data::None,
            bytes_max,
        }
    }

    /// Takes the next piece. Read every event with [`Self::next_event`] before feeding another.
    pub fn feed(&mut self, piece: Bytes) {
        if self.fed.is_empty() {
            self.fed = piece;
        } else {
            let mut both = BytesMut::with_capacity(self.fed.len() + piece.len());
            both.put_slice(&self.fed);
            both.put_slice(&piece);
            self.fed = both.freeze();
        }
    }

    /// The next whole event; `None` until more is fed.
    ///
    /// # Errors
    /// [`TooLong`], after which nothing more is to be read.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, TooLong> {
        while let Some(line) = self.next_line()? {
            if let Some(event) = self.take_line(&line)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// What stands there when the bytes end: an event that lacks its last blank line counts, since
    /// some servers leave that out.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn end(&mut self) -> Result<Option<SseEvent>, TooLong> {
        let line = self.line.split().freeze();
        if !line.is_empty()
            && let Some(event) = self.take_line(&line)?
        {
            return Ok(Some(event));
        }
        Ok(self.dispatch())
    }

    /// The next line, without its end.
    fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        if self.after_cr
            && let Some(first) = self.fed.first()
        {
            if *first == b'\n' {
                let _ = self.fed.split_to(1);
            }
            self.after_cr = false;
        }
        let Some(end) = memchr::memchr2(b'\n', b'\r', &self.fed) else {
            if self.line.len() + self.fed.len() > self.bytes_max {
                return Err(TooLong(self.bytes_max));
            }
            self.line.put_slice(&self.fed);
            self.fed = Bytes::new();
            return Ok(None);
        };
        let piece = self.fed.split_to(end);
        self.after_cr = self.fed.split_to(1).first() == Some(&b'\r');
        if self.line.len() + piece.len() > self.bytes_max {
            return Err(TooLong(self.bytes_max));
        }
        if self.line.is_empty() {
            return Ok(Some(piece));
        }
        self.line.put_slice(&piece);
        Ok(Some(self.line.split().freeze()))
    }

    /// Reads one line; an empty one ends the event.
    fn take_line(&mut self, line: &Bytes) -> Result<Option<SseEvent>, TooLong> {
        let mut line = line.clone();
        if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
            let _ = line.split_to(3);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let colon = memchr::memchr(b':', &line);
        let value_start = match colon {
            Some(at) if line.get(at + 1) == Some(&b' ') => at + 2,
            Some(at) => at + 1,
            None => line.len(),
        };
        match line.get(..colon.unwrap_or(line.len())) {
            Some(b"data") => self.add_data(line.slice(value_start..))?,
            Some(b"event") => self.name = Some(line.slice(value_start..)),
            // A comment, `id`, `retry`, or a field nobody knows.
            _ => {}
        }
        Ok(None)
    }

    fn add_data(&mut self, value: Bytes) -> Result<(), TooLong> {
        let mut joined = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => {
                self.data = Data::One(value);
                return Ok(());
            }
            Data::One(first) => BytesMut::from(first.as_ref()),
            Data::Many(joined) => joined,
        };
        if joined.len() + value.len() > self.bytes_max {
            return Err(TooLong(self.bytes_max));
        }
        joined.put_u8(b'\n');
        joined.put_slice(&value);
        self.data = Data::Many(joined);
        Ok(())
    }

    /// Ends the event; one without data is none.
    fn dispatch(&mut self) -> Option<SseEvent> {
        let name = self.name.take();
        let data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => return None,
            Data::One(line) => line,
            Data::Many(lines) => lines.freeze(),
        };
        Some(SseEvent { name, data })
    }
}
