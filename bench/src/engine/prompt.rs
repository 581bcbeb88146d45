//! Prompts of equal length. Distinct ones differ from their first word on, so that nothing can be
//! reused from the KV cache; shared ones differ only in their last words.

/// A system message and a user message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) system: String,
    pub(crate) user: String,
}

/// Makes prompts, never the same one twice.
#[derive(Debug)]
pub(crate) struct Prompts {
    words: usize,
    made: usize,
}

const FILLER: [&str; 16] = [
    "the", "toll", "keeper", "counts", "every", "cart", "that", "rolls", "over", "the", "old",
    "stone", "bridge", "before", "the", "rain",
];

impl Prompts {
    /// Prompts with so many filler words.
    pub(crate) fn new(words: usize) -> Prompts {
        Prompts { words, made: 0 }
    }

    /// The next prompt.
    pub(crate) fn next(&mut self, shared: bool) -> Prompt {
        let number = self.made;
        self.made += 1;
        prompt(number, self.words, shared)
    }
}

/// The prompt of a number. Four digits, always: equal numbers of tokens.
pub(crate) fn prompt(number: usize, words: usize, shared: bool) -> Prompt {
    let number = 1_000 + number % 9_000;
    let (head, tail) = if shared { (1_000, number) } else { (number, 1_000) };
    // Shifted by the number, so that distinct prompts do not meet again after their first word.
    let text: Vec<&str> =
        (0..words).filter_map(|i| FILLER.get((i + head) % FILLER.len()).copied()).collect();
    Prompt {
        system: format!("{head} is the number of this story. You write long stories."),
        user: format!("{} Go on with this story, part {tail}, at great length.", text.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_prompts_differ_at_their_start_and_shared_ones_at_their_end() {
        let mut prompts = Prompts::new(20);
        let (one, two) = (prompts.next(false), prompts.next(false));
        assert_ne!(one.system.get(..4), two.system.get(..4));
        assert_eq!(one.user.split(' ').count(), two.user.split(' ').count());
        let (one, two) = (prompts.next(true), prompts.next(true));
        assert_eq!(one.system, two.system);
        assert_ne!(one.user, two.user);
        assert_eq!(one.user.get(..100), two.user.get(..100));
    }
}
