//! From token pieces to text. What leaves here is whole UTF-8 and never part of a stop text: the
//! longest tail that may still become one is held back until that is decided.

/// The text of one job as it grows.
#[derive(Debug)]
pub(crate) struct TextStream {
    stops: Vec<String>,
    /// Bytes that do not make a whole character yet.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop text.
    held: String,
    /// Which stop text was met.
    stopped: Option<usize>,
    /// Bytes of whole characters that came in, and that went out.
    taken: usize,
    shown: usize,
}

impl TextStream {
    /// `stops` are not empty strings.
    pub(crate) fn new(stops: Vec<String>) -> TextStream {
        TextStream {
            stops,
            bytes: Vec::new(),
            held: String::new(),
            stopped: None,
            taken: 0,
            shown: 0,
        }
    }

    /// Takes a token's bytes and yields the text that may be shown.
    pub(crate) fn push(&mut self, piece: &[u8]) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        self.bytes.extend_from_slice(piece);
        let text = whole_characters(&mut self.bytes);
        self.taken += text.len();
        self.held.push_str(&text);
        let places = self.stops.iter().enumerate();
        let met = places.filter_map(|(stop, text)| Some((self.held.find(text.as_str())?, stop)));
        if let Some((at, stop)) = met.min() {
            self.stopped = Some(stop);
            self.bytes.clear();
            self.held.truncate(at);
            self.shown += at;
            return std::mem::take(&mut self.held);
        }
        let held_back = self.held.split_off(self.held.len() - self.undecided());
        let text = std::mem::replace(&mut self.held, held_back);
        self.shown += text.len();
        text
    }

    /// The index of the stop text that was met: what follows is never shown.
    pub(crate) fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// Bytes taken so far, those of a character that has only begun among them: a token's place is
    /// where the text will have it.
    pub(crate) fn taken(&self) -> usize {
        self.taken + self.bytes.len()
    }

    /// Bytes of text that may be shown, and have been yielded.
    pub(crate) fn shown(&self) -> usize {
        self.shown
    }

    /// What was held back, when the job ends for another reason than a stop text. A character that
    /// the cap cut in two is not shown: half of it is no text.
    pub(crate) fn rest(&mut self) -> String {
        self.bytes.clear();
        self.shown += self.held.len();
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` that may begin a stop text.
    fn undecided(&self) -> usize {
        let begins = |stop: &String| {
            let starts = stop.char_indices().skip(1).map(|(at, _)| at);
            starts.filter(|at| self.held.ends_with(&stop[..*at])).max().unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

/// Takes the whole characters off the front. Bytes that can never become a character turn into
/// U+FFFD; an unfinished character stays.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[..valid]));
                let Some(invalid) = error.error_len() else {
                    bytes.drain(..valid);
                    return text;
                };
                text.push('\u{FFFD}');
                bytes.drain(..valid + invalid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TextStream;

    fn stream(stops: &[&str]) -> TextStream {
        TextStream::new(stops.iter().map(|stop| (*stop).to_owned()).collect())
    }

    fn shown(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stream = stream(stops);
        let mut text = String::new();
        for piece in pieces {
            text.push_str(&stream.push(piece.as_bytes()));
            if stream.stopped().is_some() {
                return (text, true);
            }
        }
        text.push_str(&stream.rest());
        (text, false)
    }

    #[test]
    fn a_stop_over_several_tokens_is_never_shown_in_part() {
        assert_eq!(shown(&["END"], &["Hel", "lo E", "N", "D", "!"]), ("Hello ".into(), true));
        assert_eq!(shown(&["END"], &["Hello EN", "X"]), ("Hello ENX".into(), false));
        assert_eq!(shown(&["END"], &["Hello EN"]), ("Hello EN".into(), false));
    }

    #[test]
    fn the_earliest_stop_wins() {
        assert_eq!(shown(&["zz", "o w"], &["hello", " world zz"]), ("hell".into(), true));
        assert_eq!(shown(&["aab"], &["aa", "a", "b"]), ("a".into(), true));
    }

    #[test]
    fn only_the_undecided_tail_is_held() {
        let mut stream = stream(&["<stop>"]);
        assert_eq!(stream.push(b"abc<st"), "abc");
        assert_eq!(stream.push(b"art"), "<start");
    }

    #[test]
    fn characters_are_whole() {
        let mut stream = stream(&["é"]);
        let crab = "🦀".as_bytes();
        assert_eq!(stream.push(&crab[..1]), "");
        assert_eq!(stream.push(&crab[1..3]), "");
        assert_eq!(stream.push(&crab[3..]), "🦀");
        assert_eq!(stream.push(&"é".as_bytes()[..1]), "");
        assert_eq!(stream.push(&"é".as_bytes()[1..]), "");
        assert_eq!(stream.stopped(), Some(0));
    }

    #[test]
    fn the_tokens_of_one_character_follow_one_another() {
        let mut stream = stream(&[]);
        let mut places = vec![0];
        for piece in [&b"a\xF0\x9F"[..], b"\x98", b"\x80b", b"\xF0", b"c"] {
            stream.push(piece);
            places.push(stream.taken());
        }
        assert_eq!(places, [0, 3, 4, 6, 7, 10]);
        assert_eq!(stream.shown(), 10);
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_dropped_and_a_broken_one_replaced() {
        let mut stream = stream(&[]);
        assert_eq!(stream.push(&[b'a', 0xF0, 0x9F]), "a");
        assert_eq!(stream.rest(), "");
        assert_eq!(stream.push(&[0xFF, b'b']), "\u{FFFD}b");
    }
}
