//! Reading JSON without building it: depth, members and their places, lengths of strings.
//!
//! **Invariant:** nothing here recurses on the input's depth, and no place returned lies outside
//! the text it was found in.

mod cursor;

pub(crate) use cursor::{Cursor, Malformed};

use serde::de::{self, IgnoredAny, Visitor};
use std::{borrow::Cow, fmt};

/// Deepest nesting of a body that is read. Parsers further on recurse, and no real request comes
/// near it.
pub(crate) const DEPTH_MAX: u32 = 128;

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

/// Calls `each` with every member of the object in `text`, in order.
///
/// # Errors
/// What `each` returns, or a syntax error.
pub(crate) fn members<'a, E: From<serde_json::Error>>(
    text: &'a str,
    each: impl FnMut(&str, Member<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::new(text);
    let read = walk(&mut cursor, text, each);
    outcome(text, cursor, read)
}

/// The same of a whole body, which may nest [`DEPTH_MAX`] deep and no deeper.
///
/// # Errors
/// As [`members`], or what `too_deep` makes.
pub(crate) fn members_of_body<'a, E: From<serde_json::Error>>(
    text: &'a str,
    too_deep: impl FnOnce() -> E,
    each: impl FnMut(&str, Member<'a>) -> Result<(), E>,
) -> Result<(), E> {
    // The object itself is the first level.
    let mut cursor = Cursor::bounded(text, DEPTH_MAX - 1);
    let read = walk(&mut cursor, text, each);
    if cursor.is_too_deep() { Err(too_deep()) } else { outcome(text, cursor, read) }
}

fn walk<'a, E>(
    cursor: &mut Cursor<'a>,
    text: &str,
    mut each: impl FnMut(&str, Member<'a>) -> Result<(), E>,
) -> Result<(), Stop<E>> {
    // The opening brace is the first byte that is not white space.
    let mut gap_start = memchr::memchr(b'{', text.as_bytes()).map_or(0, |at| at + 1);
    cursor.object(|cursor, key| {
        let raw = cursor.value()?;
        let end = cursor.at();
        let value = Span { start: end - raw.len(), end };
        each(key, Member { raw, value, gap_start }).map_err(Stop::Own)?;
        gap_start = end;
        Ok(())
    })
}

/// Calls `each` with every element of the array in `text` as it is written, in order.
///
/// # Errors
/// What `each` returns, or a syntax error.
pub(crate) fn elements<'a, E: From<serde_json::Error>>(
    text: &'a str,
    mut each: impl FnMut(usize, &'a str) -> Result<(), E>,
) -> Result<(), E> {
    let mut cursor = Cursor::new(text);
    let mut index = 0;
    let read = cursor.array(|cursor| {
        each(index, cursor.value()?).map_err(Stop::Own)?;
        index += 1;
        Ok(())
    });
    outcome(text, cursor, read)
}

/// Why a walk ended early.
enum Stop<E> {
    Malformed,
    Own(E),
}

impl<E> From<Malformed> for Stop<E> {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// What became of a walk over `text`. What is wrong with it, and where, `serde_json` says.
fn outcome<E: From<serde_json::Error>>(
    text: &str,
    mut cursor: Cursor<'_>,
    read: Result<(), Stop<E>>,
) -> Result<(), E> {
    match read.and_then(|()| Ok(cursor.end()?)) {
        Ok(()) => Ok(()),
        Err(Stop::Own(error)) => Err(error),
        Err(Stop::Malformed) => {
            let wrong = serde_json::from_str::<IgnoredAny>(text).err();
            let other = || de::Error::custom("another kind of value, or a key that is no text");
            Err(wrong.unwrap_or_else(other).into())
        }
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
    text.trim_end().ends_with('}') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A member of a provider's, of which null says as little as its absence.
///
/// # Errors
/// A value of another kind.
pub(crate) fn or_default<'de, D: de::Deserializer<'de>, T: Default + de::Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let given: Option<T> = de::Deserialize::deserialize(deserializer)?;
    Ok(given.unwrap_or_default())
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
