//! The texts of a model's control tokens, found in what a caller wrote in time that does not grow with
//! their number: a vocabulary may have thousands of them, and a caller may write little else.

/// See the file's head.
#[derive(Debug)]
pub(super) struct Controls {
    /// Sorted, and none begins with another: where the longer one stands the shorter one does.
    texts: Vec<Box<str>>,
    /// Whether one begins with this byte.
    first: [bool; 256],
}

impl Controls {
    /// Those of more than one character: a mark cannot stand inside the others.
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Controls {
        let long = texts.into_iter().filter(|text| text.chars().nth(1).is_some());
        let mut texts: Vec<Box<str>> = long.map(String::into_boxed_str).collect();
        texts.sort_unstable();
        // Sorted, those that begin with a text stand right behind it.
        texts.dedup_by(|longer, shorter| longer.starts_with(&**shorter));
        let mut first = [false; 256];
        for text in &texts {
            if let Some(byte) = text.bytes().next() {
                first[usize::from(byte)] = true;
            }
        }
        Controls { texts, first }
    }

    /// The text with `mark` inside every control text, after its first character; overlapping ones
    /// included.
    pub(super) fn cut(&self, text: &str, mark: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| self.first[usize::from(byte)]) {
            // A first byte begins a character: no byte inside one is like it.
            let (before, from) = rest.split_at(at);
            let (character, after) = from.split_at(from.chars().next().map_or(0, char::len_utf8));
            out.push_str(before);
            out.push_str(character);
            if self.begins(from) {
                out.push_str(mark);
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// Whether a control text begins the text. None of them begins with another, so that one which
    /// does is the last that sorts before the text.
    fn begins(&self, text: &str) -> bool {
        let before = self.texts.partition_point(|control| **control <= *text);
        before.checked_sub(1).is_some_and(|last| text.starts_with(&*self.texts[last]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controls(texts: &[&str]) -> Controls {
        Controls::new(texts.iter().map(|text| (*text).to_owned()))
    }

    /// As it is said: every character is held against every text.
    fn compared(texts: &[&str], text: &str) -> String {
        let mut out = String::new();
        for (at, character) in text.char_indices() {
            out.push(character);
            let begins = |control: &&&str| text[at..].starts_with(**control);
            if texts.iter().filter(|control| control.chars().count() > 1).any(|c| begins(&c)) {
                out.push('#');
            }
        }
        out
    }

    #[test]
    fn what_is_found_is_what_comparing_everything_finds() {
        let texts =
            ["<a>", "<a", "<ab>", "<a>b", "é<", "<|x|>", "x", "é", "aé", "<", "ab", "\u{10ffff}a"];
        let controls = controls(&texts);
        let letters = ["<", "a", "b", ">", "é", "|", "x", "\u{10ffff}", "\u{e8}"];
        // Every text of five of the letters.
        for number in 0..letters.len().pow(5) {
            let letter = |place: u32| letters[number / letters.len().pow(place) % letters.len()];
            let text: String = (0..5).map(letter).collect();
            assert_eq!(controls.cut(&text, "#"), compared(&texts, &text));
        }
    }

    #[test]
    fn without_controls_nothing_is_cut() {
        assert_eq!(controls(&["x", ""]).cut("a x", "#"), "a x");
    }

    /// The number of comparisons is what a caller could make dear.
    #[test]
    fn thousands_of_controls_are_no_more_to_compare_with_than_a_few() {
        let many = (0..6_249).map(|number| format!("<unused{number}>"));
        let controls = Controls::new(many);
        assert_eq!(controls.texts.len(), 6_249);
        let text = "<unused<unused62481><unused6248><unused7".repeat(2);
        let cut = "<unused<unused62481><#unused6248><unused7".repeat(2);
        assert_eq!(controls.cut(&text, "#"), cut);
    }
}
