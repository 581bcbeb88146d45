//! Guesses without a model: what followed the last tokens when they came before.

/// Fewest tokens at the end that must have been there before, and most that are compared.
const MATCH_MIN: usize = 2;
const MATCH_MAX: usize = 8;
/// Tokens that are looked through.
const LOOK_BACK_MAX: usize = 16_384;

/// What followed the end of `history` the last time: after the place where most of its last tokens
/// are found again, the latest of equals.
pub(crate) fn lookup(history: &[i32], most: usize) -> &[i32] {
    let Some((last, before)) = history.split_last() else { return &[] };
    let begin = before.len().saturating_sub(LOOK_BACK_MAX);
    let (mut longest, mut end) = (MATCH_MIN - 1, None);
    for at in (begin..before.len()).rev() {
        if before[at] != *last {
            continue;
        }
        let ends = before[..at].iter().rev().zip(before.iter().rev());
        let length = 1 + ends.take(MATCH_MAX - 1).take_while(|(there, here)| there == here).count();
        if length > longest {
            (longest, end) = (length, Some(at + 1));
            if length == MATCH_MAX {
                break;
            }
        }
    }
    let Some(from) = end else { return &[] };
    &history[from..history.len().min(from + most)]
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn what_followed_the_longest_match_is_proposed() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        assert_eq!(lookup(&[9, 1, 2, 3, 8, 1, 2, 4, 7, 9, 1, 2], 2), [3, 8], "9 1 2, not 1 2");
        assert_eq!(lookup(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4], "the latest of equals");
        assert_eq!(lookup(&[1, 1, 1], 4), [1], "no further than what is there");
        assert_eq!(lookup(&[5, 2, 3, 1, 2], 4), [] as [i32; 0], "one token is no match");
        assert_eq!(lookup(&[1, 2, 3, 1, 2], 0), [] as [i32; 0]);
        assert_eq!(lookup(&[], 4), [] as [i32; 0]);
    }
}
