//! Where loaded models are handed to the device's thread, and how that thread is told to end.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use crate::{error::LoadError, status::nanoseconds, turns::Resident};

/// Models that may wait to move in: loading is one at a time, so this is never reached.
const ARRIVALS_MAX: usize = 64;

/// See the file's head.
pub(crate) struct Desk {
    inbox: Mutex<Inbox>,
    thread: OnceLock<Thread>,
    start: Instant,
    heartbeat_ns: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    arrivals: Vec<Box<dyn Resident>>,
    closing: bool,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk {
            inbox: Mutex::default(),
            thread: OnceLock::new(),
            start: Instant::now(),
            heartbeat_ns: AtomicU64::new(0),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the thread that computes; before that nobody can move in.
    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Hands over a loaded model, whose jobs wake the thread from now on.
    pub(crate) fn move_in(&self, resident: Box<dyn Resident>) -> Result<(), LoadError> {
        let refused = |why: &str| Err(LoadError::Start(why.to_owned()));
        let Some(thread) = self.thread.get() else { return refused("no thread computes") };
        let mut inbox = self.inbox();
        if inbox.closing {
            return refused("the engine is stopped");
        }
        if inbox.arrivals.len() >= ARRIVALS_MAX {
            return refused("too many models are being loaded");
        }
        resident.shared().set_thread(thread.clone());
        inbox.arrivals.push(resident);
        drop(inbox);
        thread.unpark();
        Ok(())
    }

    /// Who has been handed over since the last look.
    pub(crate) fn arrivals(&self) -> Vec<Box<dyn Resident>> {
        std::mem::take(&mut self.inbox().arrivals)
    }

    /// Nobody moves in any more; the thread ends with its last resident.
    pub(crate) fn close(&self) {
        self.inbox().closing = true;
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(crate) fn closing(&self) -> bool {
        self.inbox().closing
    }

    /// The thread is alive.
    pub(crate) fn beat(&self, now: Instant) {
        self.heartbeat_ns.store(nanoseconds(now.saturating_duration_since(self.start)), Relaxed);
    }

    /// Time since the thread last looked around.
    pub(crate) fn heartbeat_age(&self) -> Duration {
        let now = nanoseconds(self.start.elapsed());
        Duration::from_nanos(now.saturating_sub(self.heartbeat_ns.load(Relaxed)))
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("closing", &self.closing()).finish_non_exhaustive()
    }
}
