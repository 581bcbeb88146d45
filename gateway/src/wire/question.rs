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

/// A hash of the first words of the last message, in small letters, without numbers, identifiers
/// and punctuation: a counter or a random suffix makes no other question of it. Equal within this
/// process only.
pub(crate) fn question(request: &ChatRequest) -> u64 {
    let whole: &[u8] = &request.body;
    let messages = request.given(Field::Messages).map_or(whole, str::as_bytes);
    let tail = &messages[messages.len().saturating_sub(TAIL_BYTES)..];
    // Gathered first and hashed in one go: giving the hasher a byte at a time costs more.
    let mut said = [0; WORDS_MAX * (WORD_BYTES_MAX + 1)];
    let mut end = 0;
    for word in words(&tail[last_content(tail)..]).take(WORDS_MAX) {
        let place = &mut said[end..=end + word.len()];
        place[..word.len()].copy_from_slice(word);
        place.make_ascii_lowercase();
        place[word.len()] = b' ';
        end += place.len();
    }
    seeded().hash_one(&said[..end])
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

/// The words that make a question: letters of ASCII, and whatever is not ASCII.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric()).filter_map(|word| {
        let is_ascii = word.is_ascii();
        let is_no_word = word.is_empty()
            || word.iter().any(u8::is_ascii_digit)
            || (is_ascii && word.len() > WORD_BYTES_MAX);
        (!is_no_word).then(|| &word[..word.len().min(WORD_BYTES_MAX)])
    })
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
    use super::{last_content, words};

    fn said(text: &str) -> Vec<String> {
        words(text.as_bytes()).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    #[test]
    fn numbers_identifiers_and_punctuation_are_no_words() {
        let id = "abcdefghijklmnopqrstuvwxyz";
        assert_eq!(said(&format!("Try (again), 42 x7 {id} please!")), ["Try", "again", "please"]);
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
