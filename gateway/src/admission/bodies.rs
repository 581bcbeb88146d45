//! The bodies of all requests that run, together: each is bounded, and so are their sum and what one key
//! may take of it.
//!
//! **Invariant:** a [`BodyRoom`] gives back what it took when it is dropped.

use crate::share::is_fair;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Bytes are counted in these.
const UNIT_BYTES: usize = 1024;

/// Room for bodies.
#[derive(Clone, Debug)]
pub(crate) struct Bodies(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    /// Units.
    max: usize,
    taken: AtomicUsize,
}

/// Units that the bodies of one key take together.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyBodies(Arc<AtomicUsize>);

/// The room that one body has.
#[derive(Debug)]
#[must_use = "dropping it gives its room back"]
pub struct BodyRoom {
    whole: Arc<Whole>,
    of_key: KeyBodies,
    /// Units.
    taken: usize,
}

/// Why a body has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The other bodies take it.
    Full,
    /// The other bodies of its key take all of it that one key may; what there is for all keys, in
    /// bytes.
    Share(usize),
}

impl Bodies {
    /// Room for so many bytes.
    #[must_use]
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Whole { max: bytes_max / UNIT_BYTES, taken: AtomicUsize::new(0) }))
    }

    /// Room for a key's body of which nothing has come.
    pub(crate) fn room(&self, of_key: &KeyBodies) -> BodyRoom {
        BodyRoom { whole: Arc::clone(&self.0), of_key: of_key.clone(), taken: 0 }
    }
}

impl BodyRoom {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// There is not so much for it.
    pub(crate) fn grow_by(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.grow_to((self.taken * UNIT_BYTES).saturating_add(bytes))
    }

    /// Takes what is missing to `bytes` in all.
    ///
    /// # Errors
    /// There is not so much for it.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.taken);
        if more == 0 {
            return Ok(());
        }
        let Whole { max, taken } = &*self.whole;
        // Before the sum, so that of two bodies of one key the later one sees both.
        let mine = self.of_key.0.fetch_add(more, Relaxed) + more;
        // A key's only body is never too much for it: each is bounded.
        let is_only = mine == self.taken + more;
        let grown = |taken: usize| {
            let free = max.checked_sub(taken.checked_add(more)?)?;
            (is_only || is_fair(mine, free)).then_some(max - free)
        };
        if let Err(taken) = taken.fetch_update(Relaxed, Relaxed, grown) {
            self.of_key.0.fetch_sub(more, Relaxed);
            let fits = taken.saturating_add(more) <= *max;
            return Err(if fits { NoRoom::Share(max * UNIT_BYTES) } else { NoRoom::Full });
        }
        self.taken += more;
        Ok(())
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.of_key.0.fetch_sub(self.taken, Relaxed);
            self.whole.taken.fetch_sub(self.taken, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bodies, KeyBodies, NoRoom};

    const KIB: usize = 1024;

    #[test]
    fn bodies_have_so_much_room_together_and_give_it_back() {
        let (bodies, a, b) = (Bodies::new(10 * KIB), KeyBodies::default(), KeyBodies::default());
        let (mut one, mut other) = (bodies.room(&a), bodies.room(&b));
        for bytes in [1, KIB, 6 * KIB] {
            one.grow_to(bytes).unwrap();
        }
        one.grow_to(2 * KIB).expect("it has more than that");
        assert_eq!(other.grow_to(4 * KIB + 1), Err(NoRoom::Full));
        other.grow_to(4 * KIB).unwrap();
        assert_eq!(one.grow_to(6 * KIB + 1), Err(NoRoom::Full));
        drop(one);
        other.grow_to(10 * KIB).unwrap();
        assert_eq!(bodies.room(&a).grow_to(1), Err(NoRoom::Full));
        drop(other);
        bodies.room(&a).grow_to(10 * KIB).unwrap();
    }

    #[test]
    fn a_key_whose_bodies_stall_leaves_room_for_anothers() {
        let (bodies, floods) = (Bodies::new(100 * KIB), KeyBodies::default());
        let mut stalled = Vec::new();
        let refused = loop {
            let mut room = bodies.room(&floods);
            match room.grow_to(5 * KIB) {
                Ok(()) => stalled.push(room),
                Err(why) => break why,
            }
        };
        assert_eq!((stalled.len(), refused), (15, NoRoom::Share(100 * KIB)));
        let mut next = bodies.room(&KeyBodies::default());
        next.grow_to(20 * KIB).expect("another key's is let in");
        assert_eq!(bodies.room(&floods).grow_to(KIB), Err(NoRoom::Share(100 * KIB)));
        drop(stalled);
        drop(next);
        bodies.room(&floods).grow_to(100 * KIB).expect("a key's only body may be as long as any");
    }
}
