//! Ids of requests: UUIDv7.
//!
//! **Invariants:** ids of one process rise strictly, even if the clock steps back; ids of different
//! processes differ by 74 random bits at the start of every millisecond. They are no secrets: the
//! generator is seeded from the system once, because a system call per request costs more than
//! the rest of an id.

use super::RequestId;
use std::sync::{Mutex, PoisonError};

/// Bits of an id that are not time, version or variant.
const TAIL_BITS: u32 = 74;

#[derive(Debug)]
pub(crate) struct Ids(Mutex<State>);

#[derive(Debug)]
struct State {
    unix_ms: u64,
    tail: u128,
    random: u64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        // Without system randomness ids are still unique within the process.
        let random = getrandom::u64().unwrap_or(0x853c_49e6_748f_ea9b);
        Self(Mutex::new(State { unix_ms: 0, tail: 0, random }))
    }

    pub(crate) fn next(&self, unix_ms: u64) -> RequestId {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unix_ms > state.unix_ms {
            state.unix_ms = unix_ms;
            // The top bit is left for the steps of one millisecond.
            let tail = u128::from(state.random()) << 64 | u128::from(state.random());
            state.tail = tail >> (128 - TAIL_BITS + 1);
        } else {
            state.tail += 1 + u128::from(state.random() >> 32);
            if state.tail >> TAIL_BITS != 0 {
                state.tail = 0;
                state.unix_ms += 1;
            }
        }
        let (high, low) = (state.tail >> 62, state.tail & ((1 << 62) - 1));
        let time = u128::from(state.unix_ms) << 80;
        RequestId(uuid::Uuid::from_u128(time | 0x7 << 76 | high << 64 | 0b10 << 62 | low))
    }
}

impl State {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_and_rise_whatever_the_clock_does() {
        let ids = Ids::new();
        let mut last = ids.next(1_780_000_000_000);
        for step in 0..10_000_u64 {
            let next = ids.next(1_780_000_000_000 + (step % 7) - (step % 3) * 1_000);
            assert!(next > last);
            assert_eq!(next.0.get_version_num(), 7);
            assert_eq!(next.0.get_variant(), uuid::Variant::RFC4122);
            last = next;
        }
    }
}
