//! What a request asks, as a number: to see that it asks the same again.
//!
//! **Invariant:** nothing of the prompt can be read from it, and nothing of the prompt is kept.

use super::{ChatRequest, Field};
use std::hash::{BuildHasher as _, Hasher as _};

/// Bytes of the end of a conversation that are looked at, and words of the last message in it.
const TAIL_BYTES: usize = 8_192;
const WORDS_MAX: usize = 48;
/// Longer words are identifiers.
const WORD_BYTES_MAX: usize = 20;

/// A hash of the first words of the last message, in small letters, without numbers, identifiers
/// and punctuation: a counter or a random suffix makes no other question of it. Equal within this
/// process only.
pub(crate) fn question(request: &ChatRequest) -> u64 {
    let whole = || std::str::from_utf8(&request.body).unwrap_or_default();
    let text = request.given(Field::Messages).unwrap_or_else(whole);
    let mut from = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let tail = &text[from..];
    let last = tail.rfind("\"content\"").map_or(tail, |at| &tail[at..]);
    let words = last
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX)
        .filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
    let mut hasher = seeded().build_hasher();
    for word in words.take(WORDS_MAX) {
        word.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        hasher.write_u8(b' ');
    }
    hasher.finish()
}

/// A hash of any text, equal within this process only.
pub(crate) fn hashed(text: &str) -> u64 {
    seeded().hash_one(text)
}

fn seeded() -> &'static std::hash::RandomState {
    static SEEDED: std::sync::OnceLock<std::hash::RandomState> = std::sync::OnceLock::new();
    SEEDED.get_or_init(std::hash::RandomState::new)
}
