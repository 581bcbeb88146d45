//! The key-values of a header. Only what is checked later is kept; the rest is walked over, so that
//! its lengths are known to fit.

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Seek},
};

use super::{
    GgufError,
    read::{NAME_BYTES_MAX, Reader, TEXT_BYTES_MAX},
};

/// Arrays up to this length are kept: the per-layer numbers.
const NUMBERS_MAX: u64 = 1_024;
const TOKENS: &str = "tokenizer.ggml.tokens";
const ARRAY: u32 = 9;
const STRING: u32 = 8;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A whole number of any width.
    Number(i128),
    /// Anything with a point.
    Float,
    Text(Vec<u8>),
    /// A short array of whole numbers.
    Numbers(Vec<i128>),
    /// Any other array: the type of its elements and their number.
    Array(u32, u64),
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Values {
    by_key: HashMap<String, (u32, Value)>,
    /// Bytes that stand for themselves in the vocabulary, as `<0x41>` or alone.
    byte_tokens: HashSet<u8>,
}

impl Values {
    /// Reads `count` of them.
    pub(super) fn read<R: Read + Seek>(
        reader: &mut Reader<R>,
        count: u64,
    ) -> Result<Values, GgufError> {
        let mut values = Values::default();
        for _ in 0..count {
            let key = reader.text("a key", NAME_BYTES_MAX)?;
            let key = String::from_utf8(key).map_err(|_| reader.wrong("a key is not UTF-8"))?;
            if key.is_empty() || key.contains('\0') {
                return Err(reader.wrong("a key is empty or has a zero in it"));
            }
            let kind = reader.u32()?;
            let value = values.value(reader, &key, kind)?;
            if values.by_key.insert(key.clone(), (kind, value)).is_some() {
                return Err(reader.wrong(format!("the key `{}` stands there twice", show(&key))));
            }
        }
        Ok(values)
    }

    fn value<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        key: &str,
        kind: u32,
    ) -> Result<Value, GgufError> {
        match kind {
            STRING => reader.text("a text", TEXT_BYTES_MAX).map(Value::Text),
            ARRAY => self.array(reader, key),
            6 => reader.skip(4, "a number").map(|()| Value::Float),
            12 => reader.skip(8, "a number").map(|()| Value::Float),
            kind => number(reader, key, kind).map(Value::Number),
        }
    }

    fn array<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        key: &str,
    ) -> Result<Value, GgufError> {
        let kind = reader.u32()?;
        let length = reader.u64()?;
        if length > reader.left() {
            return Err(reader.wrong(format!("`{}` has {length} elements", show(key))));
        }
        match kind {
            STRING if key == TOKENS => self.tokens(reader, length)?,
            STRING => {
                for _ in 0..length {
                    let bytes = reader.u64()?;
                    reader.skip(bytes, "a text")?;
                }
            }
            6 | 12 => skip(reader, key, kind, length)?,
            ARRAY => return Err(reader.wrong(format!("`{}` is an array of arrays", show(key)))),
            kind if length <= NUMBERS_MAX => {
                let numbers = (0..length).map(|_| number(reader, key, kind));
                return numbers.collect::<Result<_, _>>().map(Value::Numbers);
            }
            kind => skip(reader, key, kind, length)?,
        }
        Ok(Value::Array(kind, length))
    }

    /// The vocabulary: llama.cpp aborts where two of its tokens have the same text.
    fn tokens<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        length: u64,
    ) -> Result<(), GgufError> {
        let mut seen = HashSet::new();
        for id in 0..length {
            let mut text = reader.text("a token", NAME_BYTES_MAX)?;
            if text.is_empty() {
                // llama.cpp gives it this text.
                text = format!("[EMPTY_{id}]").into_bytes();
            }
            self.byte_tokens.extend(byte_of(&text));
            if !seen.insert(text) {
                return Err(reader.wrong(format!("token {id} has the text of an earlier one")));
            }
        }
        Ok(())
    }

    /// Whether every byte can be written as a token.
    pub(super) fn has_all_bytes(&self) -> bool {
        self.byte_tokens.len() == 256
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|(_, value)| value)
    }

    /// A text that is UTF-8.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// `general.alignment`, or the format's default.
    pub(super) fn alignment<R: Read + Seek>(&self, reader: &Reader<R>) -> Result<u64, GgufError> {
        let Some((kind, value)) = self.by_key.get("general.alignment") else { return Ok(32) };
        match value {
            Value::Number(number) if *kind == 4 => match u64::try_from(*number) {
                Ok(sound) if sound.is_power_of_two() && (8..=1 << 20).contains(&sound) => Ok(sound),
                _ => Err(reader.wrong(format!("an alignment of {number} is not possible"))),
            },
            _ => Err(reader.wrong("`general.alignment` is not a 32-bit number")),
        }
    }
}

/// A whole number of this type.
fn number<R: Read + Seek>(reader: &mut Reader<R>, key: &str, kind: u32) -> Result<i128, GgufError> {
    Ok(match kind {
        0 => i128::from(u8::from_le_bytes(reader.bytes()?)),
        // A byte other than 0 and 1 as a truth value is what llama.cpp reads as true.
        1 | 7 => i128::from(i8::from_le_bytes(reader.bytes()?)),
        2 => i128::from(u16::from_le_bytes(reader.bytes()?)),
        3 => i128::from(i16::from_le_bytes(reader.bytes()?)),
        4 => i128::from(u32::from_le_bytes(reader.bytes()?)),
        5 => i128::from(i32::from_le_bytes(reader.bytes()?)),
        10 => i128::from(u64::from_le_bytes(reader.bytes()?)),
        11 => i128::from(i64::from_le_bytes(reader.bytes()?)),
        kind => {
            let what = format!("`{}` has the type {kind}, which there is not", show(key));
            return Err(reader.wrong(what));
        }
    })
}

fn skip<R: Read + Seek>(
    reader: &mut Reader<R>,
    key: &str,
    kind: u32,
    length: u64,
) -> Result<(), GgufError> {
    let width = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        kind => {
            let what = format!("`{}` has elements of the type {kind}", show(key));
            return Err(reader.wrong(what));
        }
    };
    let bytes = length.checked_mul(width);
    reader.skip(bytes.unwrap_or(u64::MAX), "an array")
}

/// The byte a token stands for.
fn byte_of(text: &[u8]) -> Option<u8> {
    match text {
        [byte] => Some(*byte),
        [b'<', b'0', b'x', high, low, b'>'] => {
            let digits = [*high, *low];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        }
        _ => None,
    }
}

/// A key as it may stand in a message.
pub(super) fn show(key: &str) -> String {
    key.chars().take(80).collect::<String>().escape_default().to_string()
}
