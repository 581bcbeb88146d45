//! The memory of the context in which texts are embedded: taken with the first of them, from what all
//! models share, and given back when the model leaves.

use std::sync::Arc;

use crate::placed::{Claim, Memory};

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Room {
    memory: Arc<Memory>,
    bytes: u64,
    claim: Option<Claim>,
}

impl Room {
    /// A context's memory, by estimate, not taken yet.
    pub(crate) fn new(memory: Arc<Memory>, bytes: u64) -> Room {
        Room { memory, bytes, claim: None }
    }

    /// Takes it, unless that was done before.
    ///
    /// # Errors
    /// There is not so much.
    pub(super) fn take(&mut self) -> Result<(), String> {
        if self.claim.is_none() {
            let short = |free: u64| {
                let (needed, free) = (self.bytes >> 20, free >> 20);
                format!("they need about {needed} MiB of memory more, and {free} MiB are free")
            };
            self.claim = Some(self.memory.claim(self.bytes).map_err(short)?);
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) fn free(&mut self) {
        self.claim = None;
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> u64 {
        self.claim.as_ref().map_or(0, Claim::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_once_and_only_where_there_is_so_much() {
        let memory = Arc::new(Memory::new(Some(100)));
        let mut room = Room::new(Arc::clone(&memory), 60);
        assert_eq!((room.take(), room.take()), (Ok(()), Ok(())));
        assert_eq!((room.taken(), memory.free()), (60, 40));
        let mut other = Room::new(Arc::clone(&memory), 60);
        assert!(other.take().is_err_and(|why| why.contains("MiB")));
        room.free();
        assert_eq!((other.take(), memory.free()), (Ok(()), 40));
    }
}
