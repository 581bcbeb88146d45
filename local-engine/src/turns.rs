//! The one thread that computes on a device. It owns every loaded model's scheduler and gives each
//! a turn: the one that has had the least time comes next, so that two models share the device by
//! time, never compute at once, and no second is booked twice.
//!
//! **Invariant:** a panic or a fault in one model's turn ends that model's jobs, each with an
//! event, and nobody else's.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{desk::Desk, scheduler::Turn, shared::Shared, status::nanoseconds};

/// A thread with nothing to do looks around this often.
const IDLE: Duration = Duration::from_secs(1);

/// A loaded model on the device's thread.
pub(crate) trait Resident: Send {
    /// What it shares with its callers.
    fn shared(&self) -> &Shared;

    /// One look around and at most one batch. An error means that its device is lost.
    fn turn(&mut self, now: Instant) -> Result<Turn, String>;

    /// Ends what is left, with a reason for each job.
    fn end(&mut self, reason: &str);
}

/// A resident and when its next turn is.
struct Lodger {
    resident: Box<dyn Resident>,
    /// Not before this.
    due: Instant,
    /// Time it has had, in nanoseconds. One that was idle does not save it up.
    spent: u64,
}

/// Everybody who lives on the device.
#[derive(Default)]
struct House {
    lodgers: Vec<Lodger>,
    /// The time of whoever had the last turn: where a newcomer starts.
    level: u64,
}

/// Takes turns until the desk closes and the last resident has ended.
pub(crate) fn run(desk: &Desk) {
    let mut house = House::default();
    loop {
        let now = Instant::now();
        desk.beat(now);
        house.admit(desk.arrivals(), now);
        if desk.closing() && house.lodgers.is_empty() {
            return;
        }
        match house.next(now) {
            Ok(at) => house.take_turn(at, now),
            Err(wait) => std::thread::park_timeout(wait),
        }
    }
}

impl House {
    fn admit(&mut self, arrivals: Vec<Box<dyn Resident>>, now: Instant) {
        for resident in arrivals {
            self.lodgers.push(Lodger { resident, due: now, spent: self.level });
        }
        let crowded = self.lodgers.len() > 1;
        for lodger in &self.lodgers {
            lodger.resident.shared().set_crowded(crowded);
        }
    }

    /// Whose turn it is, or how long nobody's.
    fn next(&mut self, now: Instant) -> Result<usize, Duration> {
        for lodger in &mut self.lodgers {
            if lodger.resident.shared().was_woken() {
                lodger.due = now;
            }
        }
        let ready = self.lodgers.iter().enumerate().filter(|(_, lodger)| lodger.due <= now);
        if let Some((at, _)) = ready.min_by_key(|(_, lodger)| lodger.spent) {
            return Ok(at);
        }
        let waits = self.lodgers.iter().map(|lodger| lodger.due.saturating_duration_since(now));
        Err(waits.fold(IDLE, Duration::min))
    }

    fn take_turn(&mut self, at: usize, now: Instant) {
        let lodger = &mut self.lodgers[at];
        // Who was idle starts from where the others are, or it would have the device to itself.
        lodger.spent = lodger.spent.max(self.level);
        self.level = lodger.spent;
        let turn = guarded(lodger.resident.as_mut(), now);
        lodger.spent = lodger.spent.saturating_add(nanoseconds(now.elapsed()));
        match turn {
            Some(Turn::Again) => lodger.due = now,
            Some(Turn::Park(wait)) => lodger.due = now + wait,
            Some(Turn::Done) | None => {
                let gone = self.lodgers.swap_remove(at);
                // Freeing a broken device may panic too, and concerns nobody else.
                if catch_unwind(AssertUnwindSafe(|| drop(gone))).is_err() {
                    tracing::error!("a model that had ended could not be freed");
                }
            }
        }
    }
}

/// One turn, whatever happens in it. `None`: the resident has failed. After that and after
/// [`Turn::Done`] all its jobs have been told.
fn guarded(resident: &mut dyn Resident, now: Instant) -> Option<Turn> {
    let fault = match catch_unwind(AssertUnwindSafe(|| resident.turn(now))) {
        Ok(Ok(Turn::Done)) => {
            resident.shared().gauges.stop();
            resident.end("the engine was stopped");
            return Some(Turn::Done);
        }
        Ok(Ok(turn)) => return Some(turn),
        Ok(Err(reason)) => reason,
        Err(panic) => format!("the scheduler panicked: {}", panic_text(panic.as_ref())),
    };
    tracing::error!(reason = %fault, "the engine has failed");
    resident.shared().gauges.fail(fault.clone());
    // Before anybody is told: who was told finds that no more jobs are taken.
    resident.shared().queue().open = false;
    if catch_unwind(AssertUnwindSafe(|| resident.end(&fault))).is_err() {
        tracing::error!("a failed engine could not tell its jobs: they end without a reason");
    }
    None
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// Takes turns alone until the end.
#[cfg(test)]
pub(crate) fn to_the_end(resident: &mut dyn Resident) {
    loop {
        match guarded(resident, Instant::now()) {
            Some(Turn::Again) => {}
            Some(Turn::Park(wait)) => std::thread::park_timeout(wait),
            Some(Turn::Done) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Computes for a given time each turn, or is idle.
    struct Worker {
        shared: Arc<Shared>,
        idle: bool,
    }

    impl Resident for Worker {
        fn shared(&self) -> &Shared {
            &self.shared
        }

        fn turn(&mut self, _: Instant) -> Result<Turn, String> {
            Ok(if self.idle { Turn::Park(Duration::from_secs(1)) } else { Turn::Again })
        }

        fn end(&mut self, _: &str) {}
    }

    fn lodger(idle: bool, spent: u64, now: Instant) -> Lodger {
        let shared = Arc::new(Shared::new(1, 1));
        Lodger { resident: Box::new(Worker { shared, idle }), due: now, spent }
    }

    #[test]
    fn who_had_the_least_time_comes_next() {
        let now = Instant::now();
        let lodgers = vec![lodger(false, 30, now), lodger(false, 10, now), lodger(false, 20, now)];
        let mut house = House { lodgers, level: 0 };
        let mut order = Vec::new();
        for _ in 0..6 {
            let at = house.next(now).expect("all are ready");
            order.push(at);
            house.lodgers[at].spent += 15;
        }
        assert_eq!(order, [1, 2, 1, 0, 2, 1]);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let now = Instant::now();
        let mut house = House { lodgers: vec![lodger(false, 1_000, now)], level: 1_000 };
        house.lodgers.push(lodger(true, 3, now));
        assert_eq!(house.next(now), Ok(1), "it had the least");
        house.take_turn(1, now);
        assert!(house.lodgers[1].spent >= 1_000, "and starts from where the others are");
        assert_eq!(house.next(now), Ok(0), "it is parked now");
        house.lodgers[1].resident.shared().wake();
        assert!(house.lodgers[1].due > now);
        let _woken = house.next(now);
        assert_eq!(house.lodgers[1].due, now, "until it is woken");
    }
}
