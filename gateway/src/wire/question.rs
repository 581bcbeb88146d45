//! What a request asks, as a number: to see that it asks the same again.
//!
//! **Invariant:** nothing of the prompt can be read from it, and nothing of the prompt is kept.

use super::{ChatRequest, Field};
use std::hash::BuildHasher as _;

/// Bytes of the end of a conversation that are looked at, and words of the last message in it.
const TAIL_BYTES: usize = 8_192;
const WORDS_MAX: usize = 48;
/// Longer words are identifiers, if they are ASCII. Others are cut there: whole sentences of
/// languages without spaces are one word.
const WORD_BYTES_MAX: usize = 20;
/// What is hashed at most.
const SAID_BYTES: usize = WORDS_MAX * (WORD_BYTES_MAX + 1);

/// A hash of the first words of the last message, in small letters, without numbers, identifiers
/// and punctuation: a counter or a random suffix makes no other question of it. Equal within this
/// process only.
pub(crate) fn question(request: &ChatRequest) -> u64 {
    let messages = request.written(Field::Messages).unwrap_or(&request.body);
    let tail = &messages[messages.len().saturating_sub(TAIL_BYTES)..];
    let mut said = [0; SAID_BYTES];
    let said = gather(&tail[last_content(tail)..], &mut said);
    // In one go: giving the hasher a byte at a time costs more.
    seeded().hash_one(said)
}

/// Where the last `"content"` stands; 0 where there is none.
fn last_content(text: &[u8]) -> usize {
    let mut end = text.len();
    while let Some(quote) = memchr::memrchr(b'"', &text[..end]) {
        if text[quote..].starts_with(b"\"content\"") {
            return quote;
        }
        end = quote;
    }
    0
}

/// What a byte is in a word, as bits that add up over it.
const LETTER: u8 = 1;
const DIGIT: u8 = 2;
const NOT_ASCII: u8 = 4;
/// Of each byte; 0 stands between words.
const KINDS: [u8; 256] = {
    let mut kinds = [NOT_ASCII; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        kinds[byte as usize] = if byte.is_ascii_digit() {
            DIGIT
        } else if byte.is_ascii_alphabetic() {
            LETTER
        } else {
            0
        };
        byte += 1;
    }
    kinds
};

/// Gathers the words that make a question, a space after each and in small letters: letters of ASCII,
/// and whatever is not ASCII.
fn gather<'s>(text: &[u8], said: &'s mut [u8; SAID_BYTES]) -> &'s [u8] {
    let (mut end, mut words) = (0, 0);
    let mut rest = text;
    while words < WORDS_MAX && !rest.is_empty() {
        let (mut kinds, mut length) = (0, 0);
        for byte in rest {
            let kind = KINDS[usize::from(*byte)];
            if kind == 0 {
                break;
            }
            kinds |= kind;
            length += 1;
        }
        let is_identifier = kinds & NOT_ASCII == 0 && length > WORD_BYTES_MAX;
        if length > 0 && kinds & DIGIT == 0 && !is_identifier {
            let kept = length.min(WORD_BYTES_MAX);
            match rest.first_chunk::<WORD_BYTES_MAX>() {
                // A piece of known length costs less; what it has behind the word is written over.
                Some(piece) => said[end..end + WORD_BYTES_MAX].copy_from_slice(piece),
                None => said[end..end + kept].copy_from_slice(&rest[..kept]),
            }
            end += kept;
            said[end] = b' ';
            end += 1;
            words += 1;
        }
        rest = rest.get(length + 1..).unwrap_or_default();
    }
    let said = &mut said[..end];
    said.make_ascii_lowercase();
    said
}

/// A hash of any text, equal within this process only.
pub(crate) fn hashed(text: &str) -> u64 {
    seeded().hash_one(text)
}

fn seeded() -> &'static std::hash::RandomState {
    static SEEDED: std::sync::OnceLock<std::hash::RandomState> = std::sync::OnceLock::new();
    SEEDED.get_or_init(std::hash::RandomState::new)
}

#[cfg(test)]
mod tests {
    use super::{SAID_BYTES, WORDS_MAX, gather, last_content};

    fn said(text: &str) -> Vec<String> {
        let mut said = [0; SAID_BYTES];
        let said = gather(text.as_bytes(), &mut said);
        let words = said.split_inclusive(|byte| *byte == b' ');
        words.map(|word| String::from_utf8_lossy(word).trim_end().to_owned()).collect()
    }

    #[test]
    fn numbers_identifiers_and_punctuation_are_no_words() {
        let id = "abcdefghijklmnopqrstuvwxyz";
        assert_eq!(said(&format!("Try (again), 42 x7 {id} please!")), ["try", "again", "please"]);
        assert_eq!(said("the last word"), ["the", "last", "word"]);
        assert_eq!(said(&"word ".repeat(WORDS_MAX + 1)).len(), WORDS_MAX);
    }

    #[test]
    fn a_language_without_spaces_has_words_too() {
        let [one, other] =
            ["北京今天的天气怎么样，会下雨吗", "请把这段文字翻译成法语，谢谢你"].map(said);
        assert!(!one.is_empty() && one != other, "{one:?} {other:?}");
    }

    #[test]
    fn the_last_message_counts() {
        let text = br#"[{"role":"user","content":"one"},{"content":"two","role":"user"}]"#;
        assert!(text[last_content(text)..].starts_with(br#""content":"two""#));
        assert_eq!(last_content(b"nothing quoted"), 0);
    }
}
