//! Random numbers for choices and jitter, where no secret depends on them.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

/// A uniformly random number: half of a fresh UUIDv4's random bits would do, but the hasher's keys
/// are cheaper and are drawn from the same source.
#[must_use]
pub fn draw() -> u64 {
    thread_local! {
        static SEEDED: (RandomState, Cell<u64>) = (RandomState::new(), Cell::new(0));
    }
    SEEDED.with(|(state, count)| {
        count.set(count.get().wrapping_add(1));
        let mut hasher = state.build_hasher();
        hasher.write_u64(count.get());
        hasher.finish()
    })
}
