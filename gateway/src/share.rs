//! How what all callers use is shared out, so that no one of them can shut the others out.
//!
//! One rule for all of it: nobody takes so much that they hold more than three times what is left free.
//! Who is alone has three quarters, who comes beside somebody that floods three quarters of the rest, and
//! a little is free at any time for who comes next. Whoever uses this lets a caller's first through
//! wherever there is room at all, however little that is.

/// How many times what is left free one caller may hold.
const TIMES: usize = 3;

/// Whether somebody who then has `mine` of it may take what leaves so much `free`.
pub(crate) const fn is_fair(mine: usize, free: usize) -> bool {
    mine <= free.saturating_mul(TIMES)
}

#[cfg(test)]
mod tests {
    use super::is_fair;

    /// How many of `max` places each of so many has who take one after another while they may.
    fn taken(max: usize, callers: usize) -> Vec<usize> {
        let (mut held, mut free) = (vec![0; callers], max);
        for mine in &mut held {
            while free > 0 && (*mine == 0 || is_fair(*mine + 1, free - 1)) {
                (*mine, free) = (*mine + 1, free - 1);
            }
        }
        held
    }

    #[test]
    fn whoever_floods_leaves_room_for_who_comes_next() {
        assert_eq!(taken(512, 4), [384, 96, 24, 6]);
        assert_eq!(taken(1, 2), [1, 0], "one place is nobody's to share");
        assert_eq!(taken(2, 2), [1, 1]);
        assert_eq!(taken(8, 3), [6, 1, 1]);
    }
}
