//! One pass over JSON text: values are checked to the letter and handed out where they stand.
//!
//! **Invariant:** what is passed over is JSON exactly where `serde_json` takes it for that (a test
//! compares the two), and nothing recurses on the input's depth.

use super::{Kind, kind, text_of};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Brackets whose kinds fit into one word. What nests deeper, and may, is left to `serde_json`.
const WORD_DEPTH: u32 = u128::BITS;

/// A place in a text, before a value or after one.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Deepest nesting of a value.
    depth_max: u32,
    is_too_deep: bool,
}

/// What stands there is no JSON, or not of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

// === impl Cursor ===

impl<'a> Cursor<'a> {
    /// At the beginning of `text`.
    pub(crate) const fn new(text: &'a str) -> Self {
        Self::bounded(text, u32::MAX)
    }

    /// The same for values that nest at most `depth_max` deep.
    pub(crate) const fn bounded(text: &'a str, depth_max: u32) -> Self {
        Self { text, at: 0, depth_max, is_too_deep: false }
    }

    /// Whether a value nested deeper than it may, and was not passed over for that.
    pub(crate) const fn is_too_deep(&self) -> bool {
        self.is_too_deep
    }

    /// Bytes before this place.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The kind of the value here, by its first byte.
    pub(crate) fn kind(&mut self) -> Kind {
        self.next();
        kind(self.text.get(self.at..).unwrap_or_default())
    }

    /// Passes over the value here, and hands it out as it is written.
    pub(crate) fn value(&mut self) -> Result<&'a str, Malformed> {
        self.next();
        let start = self.at;
        // The open brackets' kinds, the innermost in the lowest bit: one is an object.
        let mut open = 0_u128;
        let mut depth = 0;
        loop {
            let byte = self.next().ok_or(Malformed)?;
            if matches!(byte, b'{' | b'[') {
                if depth == self.depth_max {
                    self.is_too_deep = true;
                    return Err(Malformed);
                }
                let is_object = byte == b'{';
                self.at += 1;
                if self.next() == Some(if is_object { b'}' } else { b']' }) {
                    self.at += 1;
                } else {
                    if depth == WORD_DEPTH {
                        return self.deep(start);
                    }
                    open = open << 1 | u128::from(is_object);
                    depth += 1;
                    if is_object {
                        self.skip_key()?;
                    }
                    continue;
                }
            } else {
                self.scalar(byte)?;
            }
            // A value has ended, and perhaps what it stands in.
            loop {
                if depth == 0 {
                    return self.text.get(start..self.at).ok_or(Malformed);
                }
                let is_object = open & 1 == 1;
                match self.next() {
                    Some(b',') => {
                        self.at += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => return Err(Malformed),
                }
                self.at += 1;
                open >>= 1;
                depth -= 1;
            }
        }
    }

    /// Passes over the value here.
    pub(crate) fn skip(&mut self) -> Result<(), Malformed> {
        self.value().map(|_| ())
    }

    /// Calls `each` with the key of every member of the object here; it must pass over the value.
    pub(crate) fn object<E: From<Malformed>>(
        &mut self,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.mark(b'{')?;
        if self.next() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key()?;
            each(self, &key)?;
            if self.is_last(b'}')? {
                return Ok(());
            }
        }
    }

    /// Calls `each` at every element of the array here; it must pass over it.
    pub(crate) fn array<E: From<Malformed>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.mark(b'[')?;
        if self.next() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            if self.is_last(b']')? {
                return Ok(());
            }
        }
    }

    /// Nothing may follow but white space.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }

    /// After a member or an element: whether `close` follows, and not a comma.
    fn is_last(&mut self, close: u8) -> Result<bool, Malformed> {
        let mark = self.next().filter(|mark| *mark == b',' || *mark == close).ok_or(Malformed)?;
        self.at += 1;
        Ok(mark == close)
    }

    /// The next byte that is no white space.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn mark(&mut self, mark: u8) -> Result<(), Malformed> {
        if self.next() != Some(mark) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// A member's key, and the colon after it.
    fn key(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.next();
        let start = self.at;
        let is_plain = self.string()?;
        let key = if is_plain {
            self.text.get(start + 1..self.at - 1).map(Cow::Borrowed)
        } else {
            self.text.get(start..self.at).and_then(text_of)
        };
        self.mark(b':')?;
        key.ok_or(Malformed)
    }

    /// The same, of an object that is passed over as a whole.
    fn skip_key(&mut self) -> Result<(), Malformed> {
        self.next();
        self.string()?;
        self.mark(b':')
    }

    /// Passes over the string here. Whether it has no escapes.
    fn string(&mut self) -> Result<bool, Malformed> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return Err(Malformed);
        }
        let mut at = self.at + 1;
        let mut is_plain = true;
        loop {
            at = mark_in_string(bytes, at).ok_or(Malformed)?;
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at = after_escape(bytes, at + 1).ok_or(Malformed)?,
                _ => return Err(Malformed),
            }
            is_plain = false;
        }
        self.at = at + 1;
        Ok(is_plain)
    }

    /// Passes over the value here that holds no others and begins with `byte`.
    fn scalar(&mut self, byte: u8) -> Result<(), Malformed> {
        match byte {
            b'"' => self.string().map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    /// Passes over the number here.
    fn number(&mut self) -> Result<(), Malformed> {
        let bytes = self.text.as_bytes();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        let digits = |from: usize| {
            let mut at = from;
            while byte(at).is_ascii_digit() {
                at += 1;
            }
            if at > from { Ok(at) } else { Err(Malformed) }
        };
        let mut at = self.at + usize::from(byte(self.at) == b'-');
        at = if byte(at) == b'0' { at + 1 } else { digits(at)? };
        if byte(at) == b'.' {
            at = digits(at + 1)?;
        }
        if matches!(byte(at), b'e' | b'E') {
            at = digits(at + 1 + usize::from(matches!(byte(at + 1), b'+' | b'-')))?;
        }
        self.at = at;
        Ok(())
    }

    /// Passes over one of the three words.
    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes over the value at `start`, which nests deeper than is kept track of here.
    #[cold]
    fn deep(&mut self, start: usize) -> Result<&'a str, Malformed> {
        let rest = self.text.get(start..).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&'a RawValue>();
        let raw = values.next().and_then(Result::ok).ok_or(Malformed)?.get();
        self.at = start + raw.len();
        Ok(raw)
    }
}

/// The first byte at or after `at` that cannot stand in a string for itself: a quote, a backslash or a
/// control character.
fn mark_in_string(text: &[u8], at: usize) -> Option<usize> {
    let mut rest = text.get(at..)?;
    // Most strings are short; looking for vectors' worth of them would cost more.
    for _ in 0..SHORT_WORDS {
        let Some((word, behind)) = rest.split_first_chunk() else { break };
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            let before = text.len() - rest.len();
            return Some(before + (marks.trailing_zeros() / 8) as usize);
        }
        rest = behind;
    }
    let before = text.len() - rest.len();
    let mark = memchr::memchr2(b'"', b'\\', rest)?;
    let plain = rest.get(..mark)?;
    if has_control(plain) {
        return plain.iter().position(|byte| is_control(*byte)).map(|control| before + control);
    }
    Some(before + mark)
}

/// Words of eight bytes after which a string counts as long.
const SHORT_WORDS: usize = 3;

const fn is_control(byte: u8) -> bool {
    byte < 0x20
}

/// Whether there is a control character. Counted in bytes, in pieces that cannot overflow one: the
/// compiler makes vectors of it.
fn has_control(text: &[u8]) -> bool {
    let controls = |piece: &[u8]| piece.iter().map(|byte| u8::from(is_control(*byte))).sum::<u8>();
    text.chunks(128).any(|piece| controls(piece) > 0)
}

/// The high bits of those bytes of `word` that are a quote, a backslash or a control character. Only
/// the lowest bit is to be relied on: what is borrowed from the next byte may set its bit too.
const fn marks(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const fn zeros(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word
    }
    let controls = word.wrapping_sub(0x20 * ONES) & !word;
    let quotes = zeros(word ^ (ONES * b'"' as u64));
    let slashes = zeros(word ^ (ONES * b'\\' as u64));
    (controls | quotes | slashes) & (0x80 * ONES)
}

/// The place after the escape whose letter stands at `at`.
fn after_escape(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => {
            let hex = text.get(at + 1..at + 5)?;
            hex.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, Malformed, WORD_DEPTH};
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    /// Whether all of `text` is one value, as the cursor and as `serde_json` see it.
    fn both(text: &str) -> (Option<&str>, Option<&str>) {
        let mut cursor = Cursor::new(text);
        let value = cursor.value().ok().filter(|_| cursor.end().is_ok());
        (value, serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get))
    }

    fn agree(text: &str) {
        let (ours, theirs) = both(text);
        assert_eq!(ours, theirs, "{text:?}");
    }

    #[test]
    fn every_corner_of_the_grammar_is_taken_as_serde_json_takes_it() {
        let alone = [
            "",
            " ",
            "null",
            "nul",
            "nulll",
            "true",
            "false",
            "True",
            "0",
            "-0",
            "-",
            "01",
            "1.",
            ".5",
            "1.5",
            "1e5",
            "1E+5",
            "1e-",
            "1e",
            "-1.25e-07",
            "+1",
            "1 2",
            "\"\"",
            "\"a\"",
            "\"",
            "\"\\\"",
            "\"\\\\\"",
            "\"\\u00e9\"",
            "\"\\u00g9\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"a\nb\"",
            "\"a\tb\"",
            "\"\u{7f}é北\u{1f600}\"",
            "{}",
            "[]",
            "[1,]",
            "[,1]",
            "{,}",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\" : 1 , \"b\":[{}]}",
            "{a:1}",
            "{1:1}",
            "[}",
            "{]",
            "[[[]]]",
            "[1,[2,{\"a\":[3]}],{}]",
            "{\"a\":1}}",
            "\u{feff}1",
            "\u{a0}1",
            "\u{b}1",
        ];
        for text in alone {
            agree(text);
            agree(&format!(" \r\n\t{text} \r\n\t"));
            agree(&format!("[{text}]"));
            agree(&format!("{{\"k\":{text},\"l\":[{text}]}}"));
        }
    }

    #[test]
    fn a_mark_is_found_at_every_place_of_a_text() {
        for length in 0..100 {
            for mark in ["\"", "\\n", "\u{1}", "\u{1f}", "\u{0}"] {
                for at in 0..=length {
                    let (before, after) = ("é".repeat(at), "!".repeat(length - at));
                    agree(&format!("\"{before}{mark}{after}\""));
                }
            }
        }
    }

    #[test]
    fn what_nests_deep_is_passed_over_all_the_same() {
        for depth in [1, 2, WORD_DEPTH - 1, WORD_DEPTH, WORD_DEPTH + 1, 10_000] {
            let depth = depth as usize;
            let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            agree(&nested);
            agree(&nested[1..]);
            agree(&format!("{}{{}}{}", "{\"a\":[".repeat(depth), "]}".repeat(depth)));
        }
    }

    #[test]
    fn a_bound_on_depth_is_kept_to_the_level() {
        for (text, depth) in [("1", 0), ("[]", 1), ("[1]", 1), ("[[],{\"a\":[[2]]}]", 4)] {
            let passes = |depth_max| {
                let mut cursor = Cursor::bounded(text, depth_max);
                (cursor.value().is_ok(), cursor.is_too_deep())
            };
            assert_eq!(passes(depth), (true, false), "{text}");
            if let Some(less) = depth.checked_sub(1) {
                assert_eq!(passes(less), (false, true), "{text}");
            }
        }
    }

    #[test]
    fn members_and_elements_are_walked_in_order() {
        let mut seen = Vec::new();
        let mut cursor = Cursor::new(r#" { "a" : [ 1 , "x" ] , "\u0062" : { } } "#);
        cursor
            .object::<Malformed>(|cursor, key| {
                if key == "a" {
                    return cursor.array(|cursor| {
                        seen.push(cursor.value()?.to_owned());
                        Ok(())
                    });
                }
                seen.push(format!("{key}={}", cursor.value()?));
                Ok(())
            })
            .unwrap();
        cursor.end().unwrap();
        assert_eq!(seen, ["1", "\"x\"", "b={ }"]);
        let skipped = |_: &mut Cursor<'_>, _: &str| Ok::<_, Malformed>(());
        assert_eq!(Cursor::new(r#"{"a":1}"#).object(skipped), Err(Malformed));
        assert_eq!(Cursor::new("[]").object(skipped), Err(Malformed));
        // A lone surrogate is no key.
        assert_eq!(Cursor::new(r#"{"\ud800":1}"#).object(skipped), Err(Malformed));
    }

    /// Pieces of which JSON is made, and some of which it is not.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "\"",
        "\"key\"",
        "\"a longer text of words\"",
        "\\",
        "\\n",
        "\\u12aF",
        "null",
        "true",
        "false",
        "0",
        "-1",
        "2.5e3",
        ".",
        "e",
        "é",
        "\u{2}",
        "\"k\":",
        "[1,2]",
        "{\"a\":[]}",
        "0123456789 and so on until a piece is full, and more",
    ];

    proptest! {
        #[test]
        fn any_text_is_taken_as_serde_json_takes_it(
            pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24),
        ) {
            agree(&pieces.concat());
        }

        #[test]
        fn a_byte_more_or_less_is_seen_as_serde_json_sees_it(
            names in prop::collection::vec("[ -~é\n]{0,40}", 1..6),
            numbers in prop::collection::vec(any::<f64>(), 1..4),
            at in any::<prop::sample::Index>(),
            with in prop::option::of(prop::sample::select(PIECES)),
        ) {
            let inner: Vec<_> = numbers.iter().map(|number| serde_json::json!([number, {}])).collect();
            let object: serde_json::Map<_, _> =
                names.iter().map(|name| (name.clone(), serde_json::json!([name, inner]))).collect();
            let text = serde_json::Value::Object(object).to_string();
            agree(&text);
            let at = (0..=at.index(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let mut rest = text[at..].chars();
            rest.next();
            agree(&format!("{}{}{}", &text[..at], with.unwrap_or_default(), rest.as_str()));
        }
    }
}
