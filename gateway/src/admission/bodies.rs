//! The bodies of all requests that run, together: each is bounded, and so is their sum.
//!
//! **Invariant:** a [`BodyRoom`] gives back what it took when it is dropped.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes are counted in these.
const UNIT_BYTES: usize = 1024;

/// Room for bodies.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

/// The room that one body has.
#[derive(Debug)]
#[must_use = "dropping it gives its room back"]
pub struct BodyRoom {
    bodies: Arc<Semaphore>,
    /// Units.
    taken: u32,
}

impl Bodies {
    /// Room for so many bytes.
    #[must_use]
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS))))
    }

    /// Room for a body of which nothing has come.
    pub fn room(&self) -> BodyRoom {
        BodyRoom { bodies: Arc::clone(&self.0), taken: 0 }
    }
}

impl BodyRoom {
    /// Takes what is missing to `bytes` in all; `false` where there is not so much.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let Ok(units) = u32::try_from(bytes.div_ceil(UNIT_BYTES)) else { return false };
        let more = units.saturating_sub(self.taken);
        let Ok(permit) = self.bodies.try_acquire_many(more) else { return false };
        // It is this one's own to give back.
        permit.forget();
        self.taken += more;
        true
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.bodies.add_permits(usize::try_from(self.taken).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::Bodies;

    #[test]
    fn bodies_have_so_much_room_together_and_give_it_back() {
        let bodies = Bodies::new(10 * 1024);
        let (mut one, mut other) = (bodies.room(), bodies.room());
        assert!(one.grow_to(1) && one.grow_to(1024) && one.grow_to(6 * 1024));
        assert!(one.grow_to(2 * 1024), "it has more than that");
        assert!(!other.grow_to(4 * 1024 + 1) && other.grow_to(4 * 1024));
        assert!(!one.grow_to(6 * 1024 + 1));
        drop(one);
        assert!(other.grow_to(10 * 1024) && !bodies.room().grow_to(1));
        drop(other);
        assert!(bodies.room().grow_to(10 * 1024));
    }
}
