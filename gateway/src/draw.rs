//! Random numbers for choices and jitter, where no secret depends on them.

use std::{
    cell::Cell,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
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

/// How long to wait before the try after so many failed ones: exponential, half of it jittered, so
/// between a half and the whole of `first * 2^round`, and never more than `max`.
#[must_use]
pub fn backoff(first: Duration, max: Duration, round: u32, draw: u64) -> Duration {
    let whole = first.saturating_mul(1 << round.min(20)).min(max);
    let half = whole / 2;
    let part = u32::try_from(draw >> 32).unwrap_or(u32::MAX);
    let jitter = (u128::from(part) * half.as_nanos()) >> 32;
    half + Duration::from_nanos(u64::try_from(jitter).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::backoff;
    use std::time::Duration;

    #[test]
    fn waits_double_up_to_their_limit_and_keep_their_half() {
        let (first, max) = (Duration::from_millis(100), Duration::from_millis(300));
        let millis = |round, draw| backoff(first, max, round, draw).as_millis();
        let rounds = [0, 1, 2, 60, u32::MAX];
        assert_eq!(rounds.map(|round| millis(round, 0)), [50, 100, 150, 150, 150]);
        assert_eq!(rounds.map(|round| millis(round, u64::MAX)), [99, 199, 299, 299, 299]);
    }
}
