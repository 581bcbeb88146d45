//! Reading JSON without building it: depth, members and their places, lengths of strings.
//!
//! **Invariant:** nothing here recurses on the input's depth, and no place returned lies outside
//! the text it was found in.

mod cursor;

pub(crate) use cursor::{Cursor, Malformed};

use serde::de::{self, IgnoredAny, Visitor};
use serde_json::value::RawValue;
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

/// The text of a valid JSON string that a caller wrote; `None` where it has escapes that are no text (a
/// lone surrogate). What a provider wrote is [`Shown`].
pub(crate) fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}

/// A string of a provider's as text. Half of a surrogate pair without the other, which is no text and
/// comes of cutting between the two, is U+FFFD: the rest of the string is as good as before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown<'a>(pub(crate) Cow<'a, str>);

impl<'a> Shown<'a> {
    /// The text of a valid JSON string; `None` of other values.
    pub(crate) fn of(raw: &'a str) -> Option<Self> {
        let text = text_of(raw);
        text.or_else(|| serde_json::from_str(&with_whole_pairs(raw)).ok().map(Cow::Owned)).map(Self)
    }
}

impl<'de: 'a, 'a> de::Deserialize<'de> for Shown<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &'de RawValue = de::Deserialize::deserialize(deserializer)?;
        Self::of(raw.get()).ok_or_else(|| de::Error::custom("no string"))
    }
}

/// A string of a provider's, or null.
///
/// # Errors
/// A value of another kind.
pub(crate) fn shown<'de, D: de::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let given: Option<Shown<'de>> = de::Deserialize::deserialize(deserializer)?;
    Ok(given.map(|Shown(text)| text.into_owned()))
}

/// The same, of which null says as little as an empty one.
///
/// # Errors
/// A value of another kind.
pub(crate) fn shown_or_empty<'de, D: de::Deserializer<'de>>(
    deserializer: D,
) -> Result<String, D::Error> {
    Ok(shown(deserializer)?.unwrap_or_default())
}

/// A valid JSON string with U+FFFD for every escaped half of a surrogate pair that stands alone.
fn with_whole_pairs(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        let part = |from: usize, to: usize| rest.get(from..to).unwrap_or_default();
        let half_at = |at: usize| {
            let hex = part(at, at + 6).strip_prefix("\\u")?;
            u16::from_str_radix(hex, 16).ok().filter(|unit| (0xd800..0xe000).contains(unit))
        };
        let (length, is_lone) = match (half_at(at), half_at(at + 6)) {
            // An escape of another kind: its letter is no backslash that begins one.
            (None, _) => (2, false),
            (Some(..0xdc00), Some(0xdc00..)) => (12, false),
            (Some(_), _) => (6, true),
        };
        out.push_str(part(0, at));
        out.push_str(if is_lone { "\\ufffd" } else { part(at, at + length) });
        rest = rest.get(at + length..).unwrap_or_default();
    }
    out.push_str(rest);
    out
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

#[cfg(test)]
mod tests {
    use super::{Shown, text_of};
    use proptest::prelude::*;
    use std::borrow::Cow;

    #[test]
    fn half_of_a_pair_costs_nothing_but_itself() {
        for (raw, text) in [
            (r#""plain""#, "plain"),
            (r#""caf\u00e9 \ud83d\ude00""#, "café \u{1f600}"),
            (r#""half \ud83d of one""#, "half \u{fffd} of one"),
            (r#""\ude00 the other""#, "\u{fffd} the other"),
            (r#""cut \ud83d""#, "cut \u{fffd}"),
            (r#""\ud83d\ud83d\ude00\n""#, "\u{fffd}\u{1f600}\n"),
            (r#""\ude00\ud83d\u0041""#, "\u{fffd}\u{fffd}A"),
            // Escaped backslashes are no escapes of a half.
            (r#""\\ud83d \ud83d \\\\\"""#, r#"\ud83d � \\""#),
            (r#""{\"at\":\"\ud83d\"}""#, "{\"at\":\"\u{fffd}\"}"),
        ] {
            assert_eq!(Shown::of(raw).map(|shown| shown.0).as_deref(), Some(text), "{raw}");
        }
        for other in ["null", "1", "{}", "[\"a\"]"] {
            assert_eq!(Shown::of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_text_is_shown_as_it_is(text in ".{0,24}") {
            let raw = serde_json::Value::String(text.clone()).to_string();
            prop_assert_eq!(text_of(&raw).map(Cow::into_owned), Some(text.clone()));
            prop_assert_eq!(Shown::of(&raw).map(|shown| shown.0.into_owned()), Some(text));
        }

        #[test]
        fn whatever_halves_stand_where_the_string_is_read(
            units in prop::collection::vec(prop_oneof![0xd7f0_u16..0xe010, 0x20_u16..0x7f], 0..12),
        ) {
            let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let shown = Shown::of(&format!("\"{escaped}\"")).map(|shown| shown.0.into_owned());
            prop_assert_eq!(shown, Some(String::from_utf16_lossy(&units)));
        }
    }
}
