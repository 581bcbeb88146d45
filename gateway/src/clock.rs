//! The wall clock: the one place where the time of day comes from, so that tests can move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Tells the time of day. Durations are measured with `tokio::time::Instant`, never with this.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    moved: Option<Arc<AtomicU64>>,
}

/// A hand on a test's [`Clock`].
#[derive(Clone, Debug)]
pub struct Hand(Arc<AtomicU64>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `unix_ms` until its hand moves it.
    #[must_use]
    pub fn standing(unix_ms: u64) -> (Self, Hand) {
        let moved = Arc::new(AtomicU64::new(unix_ms));
        (Self { moved: Some(Arc::clone(&moved)) }, Hand(moved))
    }

    /// The day of the UTC calendar, `YYYY-MM-DD`: prices are dated by it.
    #[must_use]
    pub fn day(&self) -> String {
        day_of(self.unix_ms())
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        match &self.moved {
            Some(moved) => moved.load(Ordering::Relaxed),
            None => system_unix_ms(),
        }
    }
}

/// The day of the UTC calendar of a time, `YYYY-MM-DD`.
#[must_use]
pub(crate) fn day_of(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%Y-%m-%d").to_string()
}

impl Hand {
    /// Sets the clock, forwards or back.
    pub fn set(&self, unix_ms: u64) {
        self.0.store(unix_ms, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock the ban points to")]
fn system_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
