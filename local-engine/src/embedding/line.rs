//! The embedding jobs that wait, in a line that is fair between callers.
//!
//! **Invariant:** at most one job is in the middle of a text, since there are cells for one. It goes on
//! first, unless it waits for more engine time: then another may take its cells, and it reads its text
//! anew.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{EmbedError, Reading, Room};
use crate::job::Scheduling;

/// The embedding jobs that wait; one may be under way.
#[derive(Debug)]
pub(crate) struct Embeds {
    line: Mutex<Line>,
    /// The memory that it takes to compute them; none where that is not bounded.
    room: Mutex<Option<Room>>,
}

/// The jobs in the order they came, and the tokens that each waiting caller has had.
#[derive(Debug)]
pub(super) struct Line {
    jobs: Vec<Reading>,
    served: BTreeMap<u64, u64>,
    /// Jobs that were taken out and have not ended, where another process computes.
    elsewhere: usize,
    most: usize,
}

// === impl Embeds ===

impl Embeds {
    pub(crate) fn new(most: usize) -> Embeds {
        let line = Line { jobs: Vec::new(), served: BTreeMap::new(), elsewhere: 0, most };
        Embeds { line: Mutex::new(line), room: Mutex::default() }
    }

    pub(super) fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what memory it takes to compute them.
    pub(crate) fn set_room(&self, room: Room) {
        *self.room() = Some(room);
    }

    /// Takes the memory, before the first of them is computed.
    ///
    /// # Errors
    /// There is not so much.
    pub(crate) fn take_room(&self) -> Result<(), String> {
        self.room().as_mut().map_or(Ok(()), Room::take)
    }

    /// Gives the memory back.
    pub(crate) fn free_room(&self) {
        if let Some(room) = self.room().as_mut() {
            room.free();
        }
    }

    /// Bytes of memory that are taken for them.
    pub(crate) fn room_taken(&self) -> u64 {
        self.room().as_ref().map_or(0, Room::taken)
    }

    fn room(&self) -> MutexGuard<'_, Option<Room>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line().jobs.is_empty()
    }

    /// Gives them all up: whoever waits is told that the engine ended.
    pub(crate) fn clear(&self) {
        drop(self.line().take_out(|_| true));
    }

    /// Takes out the job whose turn it is, to be computed elsewhere.
    pub(crate) fn take(&self) -> Option<Reading> {
        let mut line = self.line();
        let reading = line.next(|_| false)?;
        line.done(reading.job.scheduling.caller);
        line.elsewhere += 1;
        Some(reading)
    }

    /// So many jobs that were taken out have not ended.
    pub(crate) fn count_elsewhere(&self, jobs: usize) {
        self.line().elsewhere = jobs;
    }

    /// See [`Line::tidy`].
    pub(crate) fn tidy(&self, now: Instant, queue_wait_max: Duration) {
        self.line().tidy(now, queue_wait_max);
    }
}

impl Line {
    /// The jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.jobs.len() + self.elsewhere
    }

    /// Whether another job may wait.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.most
    }

    /// Drops the jobs that nobody waits for and tells those that have waited too long.
    pub(super) fn tidy(&mut self, now: Instant, queue_wait_max: Duration) {
        drop(self.take_out(Reading::is_left));
        for reading in self.take_out(|reading| reading.is_expired(now, queue_wait_max)) {
            let waited = reading.waited(now);
            reading.tell(Err(EmbedError::Expired(waited)));
        }
    }

    /// Takes out all jobs that `gone` names.
    pub(super) fn take_out(&mut self, gone: impl Fn(&Reading) -> bool) -> Vec<Reading> {
        if !self.jobs.iter().any(&gone) {
            return Vec::new();
        }
        let (taken, left): (Vec<_>, _) = std::mem::take(&mut self.jobs).into_iter().partition(gone);
        self.jobs = left;
        for reading in &taken {
            self.done(reading.job.scheduling.caller);
        }
        taken
    }

    pub(super) fn push(&mut self, reading: Reading) {
        // A newcomer has had what the others have had least: it waits for nobody's past.
        let least = self.served.values().copied().min().unwrap_or(0);
        self.served.entry(reading.job.scheduling.caller).or_insert(least);
        self.jobs.push(reading);
    }

    /// The job in the middle of a text, else the most urgent one of the caller who has had least; none
    /// that waits.
    pub(super) fn next(&mut self, waits: impl Fn(&Reading) -> bool) -> Option<Reading> {
        let rank = |reading: &Reading| {
            let Scheduling { caller, priority, .. } = reading.job.scheduling;
            (reading.read == 0, priority, self.served.get(&caller).copied(), reading.submitted)
        };
        let jobs = self.jobs.iter().enumerate().filter(|(_, reading)| !waits(reading));
        let (at, _) = jobs.min_by_key(|(_, reading)| rank(reading))?;
        Some(self.jobs.remove(at))
    }

    /// Tells the owners of those who wait that what they have added since is too little.
    pub(super) fn remind(&self) {
        self.jobs
            .iter()
            .filter(|reading| reading.waits_since.is_some())
            .for_each(Reading::tell_if_low);
    }

    /// Puts a job back that is not done.
    pub(super) fn put_back(&mut self, reading: Reading) {
        self.jobs.push(reading);
    }

    /// A caller's job is done: who does not wait saves nothing up.
    pub(super) fn done(&mut self, caller: u64) {
        if self.jobs.iter().all(|other| other.job.scheduling.caller != caller) {
            self.served.remove(&caller);
        }
    }

    /// A job that is not in the line begins a text: the cells of the one that was in the middle of
    /// another are no longer its own.
    pub(super) fn lose_cells(&mut self) {
        for other in self.jobs.iter_mut().filter(|other| other.read > 0) {
            other.lose_cells();
        }
    }

    /// So many tokens of a caller's are read.
    pub(super) fn charge(&mut self, caller: u64, tokens: u64) {
        if let Some(served) = self.served.get_mut(&caller) {
            *served = served.saturating_add(tokens);
        }
    }
}
