//! Long words are handed to llama.cpp in parts.
//!
//! Vocabularies that are cut into words by a pattern (`tokenizer.ggml.model` is "gpt2") have it matched
//! by C++'s `std::regex` where llama.cpp has no splitter of its own for the pattern, and that one calls
//! itself for every character of a match: some 7,000 letters without a space overflow a thread's
//! stack and end the process.

use std::collections::{BTreeSet, HashSet};

/// Characters that are handed over without white space, or of nothing but white space. A match takes
/// one stretch of each at most, and some 310 bytes of stack for each character.
const CHARACTERS_MAX: usize = 1000;

/// The texts that are one token wherever they stand, and so must not be cut.
#[derive(Debug)]
pub(super) struct Whole {
    texts: HashSet<String>,
    /// Their lengths in bytes.
    lengths: BTreeSet<usize>,
}

impl Whole {
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Whole {
        let texts: HashSet<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let lengths = texts.iter().map(String::len).collect();
        Whole { texts, lengths }
    }

    /// `at`, or the beginning of the text that would be cut there.
    fn uncut(&self, text: &str, at: usize) -> usize {
        let longest = self.lengths.last().copied().unwrap_or(1);
        let is_cut = |from: usize| {
            let ends = self.lengths.iter().map(|length| from + length).filter(|end| *end > at);
            ends.filter_map(|end| text.get(from..end)).any(|part| self.texts.contains(part))
        };
        (at.saturating_sub(longest - 1)..at).find(|from| is_cut(*from)).unwrap_or(at)
    }
}

/// Whether `text` may have a stretch that is too long: seldom, and cheap to know.
pub(super) fn may_be_long(text: &str) -> bool {
    text.len() > CHARACTERS_MAX
}

/// The parts of `text`, none with a stretch longer than [`CHARACTERS_MAX`]. Cut is before a punctuation
/// mark that follows a word, which changes no token of the usual patterns, or where none is, anywhere.
pub(super) fn parts<'t>(text: &'t str, whole: &Whole) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let (mut from, mut before) = (0, ' ');
    let (mut characters, mut mark) = (0, None);
    for (at, character) in text.char_indices() {
        if character.is_whitespace() != before.is_whitespace() {
            (characters, mark) = (0, None);
        } else if before.is_alphanumeric() && is_mark(character) {
            mark = Some(at);
        }
        if characters >= CHARACTERS_MAX {
            let places = mark.into_iter().chain([at]).map(|place| whole.uncut(text, place));
            if let Some(end) = places.into_iter().find(|place| *place > from) {
                parts.push(&text[from..end]);
                (from, mark) = (end, None);
                characters = text[end..at].chars().count();
            }
        }
        characters += 1;
        before = character;
    }
    parts.push(&text[from..]);
    parts
}

/// What begins a token of its own after a word. An apostrophe may go on with it.
fn is_mark(character: char) -> bool {
    (character.is_ascii_punctuation() && character != '\'')
        || matches!(character, '、' | '。' | '，' | '．' | '！' | '？' | '；' | '：')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<&str> {
        parts(text, &Whole::new(["<|end|>".to_owned(), "<|no|>".to_owned()]))
    }

    fn lengths(text: &str) -> Vec<usize> {
        let parts = of(text);
        assert_eq!(parts.concat(), text);
        parts.iter().map(|part| part.chars().count()).collect()
    }

    #[test]
    fn usual_texts_stay_whole() {
        let prose = "It is a truth universally acknowledged, that a man\n\n  may. ".repeat(100);
        assert_eq!(of(&prose), [prose.as_str()]);
        let word = "x".repeat(CHARACTERS_MAX);
        assert_eq!(of(&format!("{word} {word}\n{word}")).len(), 1);
        assert_eq!(of(""), [""]);
    }

    #[test]
    fn a_long_stretch_of_anything_is_cut() {
        for unit in ["x", "é", "字", "1", "=", " ", "\n", "a1", "e\u{301}"] {
            let text = unit.repeat(2500);
            let lengths = lengths(&text);
            assert!(lengths.iter().all(|length| *length <= CHARACTERS_MAX), "{unit}: {lengths:?}");
        }
        assert_eq!(lengths(&format!("a {}", "x".repeat(2100))), [1002, 1000, 100]);
    }

    #[test]
    fn it_is_cut_before_a_mark_where_one_is() {
        let (path, dash) = ("/users".repeat(200), "it's".repeat(300));
        assert_eq!(lengths(&path), [996, 204]);
        assert_eq!(lengths(&dash), [1000, 200]);
    }

    #[test]
    fn what_is_one_token_is_not_cut() {
        let word = "x".repeat(997);
        // The only mark, and the place where the stretch is full, are within it.
        let text = format!("{word}<|end|>{word}<|no|>{word}");
        let parts = of(&text);
        assert_eq!(parts.concat(), text);
        assert!(parts.len() > 2);
        let named = |name: &str| parts.iter().filter(|part| part.contains(name)).count();
        assert_eq!((named("<|end|>"), named("<|no|>")), (1, 1), "{parts:?}");
        // Even where it begins where the last part ended.
        let text = format!("<|end|>{word}{word}");
        assert!(of(&text)[0].starts_with("<|end|>"));
    }
}
