//! Reading JSON without building it: depth, members and their places, lengths of strings.
//!
//! **Invariant:** nothing here recurses on the input's depth, and no place returned lies outside
//! the text it was found in.

use serde::{
    Deserializer as _,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, marker::PhantomData};

/// Deepest nesting of a body that is read. Parsers further on recurse, and no real request comes
/// near it.
pub(crate) const DEPTH_MAX: usize = 128;

/// A half-open range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// One member of an object, by its place in the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    /// The value as it is written.
    pub(crate) raw: &'a str,
    /// Where the value stands.
    pub(crate) value: Span,
    /// End of the value before it, or just inside the brace for the first member.
    pub(crate) gap_start: usize,
}

/// Whether `text` nests objects and arrays at most [`DEPTH_MAX`] deep. It need not be valid JSON;
/// brackets in strings do not count.
pub(crate) fn depth_is_bounded(text: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => match string_end(text, at + 1) {
                Some(end) => at = end,
                None => return true,
            },
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    true
}

/// Place of the quote that closes the string whose text begins at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let found = at + memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(found) == Some(&b'"') {
            return Some(found);
        }
        at = found + 2;
    }
}

/// Calls `each` with every member of the object in `text`, in order.
///
/// # Errors
/// What `each` returns, or a syntax error.
pub(crate) fn members<'a, E: From<serde_json::Error>>(
    text: &'a str,
    mut each: impl FnMut(&str, Member<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let visited =
        deserializer.deserialize_map(Members { text, each: &mut each, failed: &mut failed });
    match failed {
        Some(error) => Err(error),
        None => Ok(visited.and_then(|()| deserializer.end())?),
    }
}

struct Members<'a, 'f, F, E> {
    text: &'a str,
    each: &'f mut F,
    failed: &'f mut Option<E>,
}

impl<'a, F, E> Visitor<'a> for Members<'a, '_, F, E>
where
    F: FnMut(&str, Member<'a>) -> Result<(), E>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let base = self.text.as_ptr() as usize;
        // The opening brace is the first byte that is not white space.
        let mut gap_start = self.text.find('{').map_or(0, |at| at + 1);
        while let Some(Key(key)) = map.next_key()? {
            let value: &'a RawValue = map.next_value()?;
            let raw = value.get();
            let start = (raw.as_ptr() as usize).saturating_sub(base);
            let value = Span { start, end: start + raw.len() };
            if let Err(error) = (self.each)(&key, Member { raw, value, gap_start }) {
                *self.failed = Some(error);
                return Err(de::Error::custom("stopped"));
            }
            gap_start = value.end;
        }
        Ok(())
    }
}

/// Calls `each` with every element of the array in `text`, in order. An element that is no `T` is
/// an error for `each`, which must then return one.
///
/// # Errors
/// What `each` returns, or a syntax error.
pub(crate) fn elements<'a, T, E>(
    text: &'a str,
    each: impl FnMut(usize, Result<T, serde_json::Error>) -> Result<(), E>,
) -> Result<(), E>
where
    T: de::Deserialize<'a>,
    E: From<serde_json::Error>,
{
    let mut failed = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let visitor = Elements { each, failed: &mut failed, of: PhantomData::<T> };
    let visited = deserializer.deserialize_seq(visitor);
    match failed {
        Some(error) => Err(error),
        None => Ok(visited.and_then(|()| deserializer.end())?),
    }
}

struct Elements<'f, F, E, T> {
    each: F,
    failed: &'f mut Option<E>,
    of: PhantomData<T>,
}

impl<'a, F, E, T> Visitor<'a> for Elements<'_, F, E, T>
where
    T: de::Deserialize<'a>,
    F: FnMut(usize, Result<T, serde_json::Error>) -> Result<(), E>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let element = match seq.next_element::<T>() {
                Ok(None) => break,
                Ok(Some(element)) => Ok(element),
                Err(error) => Err(de::Error::custom(error)),
            };
            if let Err(error) = (self.each)(index, element) {
                *self.failed = Some(error);
                return Err(de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// An object's key, borrowed unless it has escapes.
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Whether `text` is an object to its closing brace, so that nothing of it can follow.
pub(crate) fn is_whole_object(text: &str) -> bool {
    text.trim_end().ends_with('}') && serde_json::from_str::<de::IgnoredAny>(text).is_ok()
}

/// What kind of value `raw` is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// The kind of a valid JSON value without white space around it.
pub(crate) fn kind(raw: &str) -> Kind {
    match raw.as_bytes().first() {
        Some(b'"') => Kind::String,
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

/// The text of a valid JSON string; `None` where it has escapes that are no text (a lone
/// surrogate).
pub(crate) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}

/// Bytes of text, ASCII and not, after unescaping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextBytes {
    pub(crate) ascii: u64,
    pub(crate) other: u64,
}

impl TextBytes {
    /// All of them.
    pub(crate) const fn total(self) -> u64 {
        self.ascii + self.other
    }

    /// Counts `more` in.
    pub(crate) const fn add(&mut self, more: Self) {
        self.ascii += more.ascii;
        self.other += more.other;
    }

    /// Counts text as it stands, escapes and all.
    pub(crate) fn of_plain(text: &str) -> Self {
        // Summed in bytes, in pieces that cannot overflow one: the compiler makes vectors of it.
        let others = |piece: &[u8]| u64::from(piece.iter().map(|byte| byte >> 7).sum::<u8>());
        let other = text.as_bytes().chunks(128).map(others).sum();
        Self { ascii: text.len() as u64 - other, other }
    }

    /// Counts what a valid JSON string holds, without its quotes.
    pub(crate) fn of_string(raw: &str) -> Self {
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        let mut counted = Self::of_plain(inner);
        let bytes = inner.as_bytes();
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
            at += found;
            if bytes.get(at + 1) == Some(&b'u') {
                counted.ascii -= 6;
                match inner.get(at + 2..at + 6).and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
                    Some(0..0x80) => counted.ascii += 1,
                    Some(0x80..0x800) => counted.other += 2,
                    // Half of a surrogate pair: four bytes together.
                    Some(0xd800..0xdc00) => counted.other += 1,
                    _ => counted.other += 3,
                }
                at += 6;
            } else {
                counted.ascii -= 1;
                at += 2;
            }
        }
        counted
    }
}
