//! What the journal added up to, kept beside it: should the index be lost and a part of the journal
//! too, balances, keys and open reservations are taken from here instead of being given back.
//!
//! A spare is a checkpoint without rollups in a file of its own, `journal/<next event>.balances`; the
//! newest two are kept. **Invariants:** a replay takes from a spare only when something before it
//! could not be read, at exactly the event that it names, and never from one that is older than what it
//! began with; what no spare covers stays noted as not counted, with the balances and in every checkpoint after, until the operator has booked it.

use super::{
    Scope, checkpoint,
    derived::{Derived, Kept},
};
use crate::{
    caller::Window,
    store::{base::Base, index::IndexError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

/// Spares that are kept: one more than is needed, should the newest be damaged too.
const KEPT: usize = 2;
/// Stretches of lost events that are told apart; later ones extend the last.
const STRETCHES_MAX: usize = 64;
/// Budgets of a stretch that are noted as booked by hand.
const BOOKED_MAX: usize = 4_096;
/// How their names end.
pub(crate) const SPARE_ENDING: &str = "balances";

/// Events that could not be read and whose charges are in no balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Uncounted {
    /// The first event that is missing.
    pub first_seq: u64,
    /// The last one.
    pub last_seq: u64,
    /// Commit time of the last event before them, milliseconds since the Unix epoch; 0: none.
    pub from_unix_ms: u64,
    /// Commit time of the first event after them.
    pub to_unix_ms: u64,
}

/// The same, and for which budgets the operator has booked what was missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missed {
    pub(crate) events: Uncounted,
    booked: Vec<(Scope, Window)>,
}

/// The spares of a journal that a replay may still meet, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    dir: PathBuf,
    ahead: VecDeque<u64>,
    /// Commit time of the event before.
    last_ms: u64,
}

impl Uncounted {
    /// How many events.
    #[must_use]
    pub fn events(&self) -> u64 {
        (self.last_seq - self.first_seq).saturating_add(1)
    }
}

impl Missed {
    /// Whether they may have charged a window of this budget that began then.
    pub(crate) fn concerns(&self, scope: &Scope, window: Window, began_unix_ms: u64) -> bool {
        // An event charges a window that is open when it is committed or an earlier one.
        let reach = window.sub_bucket_ms().map_or(0, |bucket| bucket * crate::caller::SUB_BUCKETS);
        began_unix_ms.saturating_sub(reach) <= self.events.to_unix_ms
            && !self.booked.iter().any(|(of, over)| of == scope && *over == window)
    }
}

impl Derived {
    /// The events from the next one to the one before `seq` cannot be read.
    fn miss(&mut self, seq: u64, from_unix_ms: u64, to_unix_ms: u64) {
        let (first_seq, last_seq) = (self.next_seq, seq - 1);
        let full = self.uncounted.len() >= STRETCHES_MAX;
        if let Some(last) = self.uncounted.last_mut().filter(|_| full) {
            (last.events.last_seq, last.events.to_unix_ms) = (last_seq, to_unix_ms);
            last.booked.clear();
            return;
        }
        let events = Uncounted { first_seq, last_seq, from_unix_ms, to_unix_ms };
        self.uncounted.push(Missed { events, booked: Vec::new() });
    }

    /// Everything but rollups is what it was at `spare`'s event.
    fn take_from(&mut self, spare: Self) {
        let gone = self.accounts.keys().filter(|scope| !spare.accounts.contains_key(*scope));
        self.dirty.forgotten.extend(gone.cloned());
        let (rollups, dirty) = (std::mem::take(&mut self.rollups), std::mem::take(&mut self.dirty));
        *self = Self { rollups, ..spare };
        self.dirty = dirty;
        self.all_dirty();
    }

    /// A copy without rollups, which are most of it.
    pub(super) fn without_rollups(&mut self) -> Self {
        let rollups = std::mem::take(&mut self.rollups);
        let copy = self.clone();
        self.rollups = rollups;
        copy
    }

    /// Everything is to be written with the next checkpoint.
    pub(super) fn all_dirty(&mut self) {
        self.accounts.values_mut().for_each(|kept: &mut Kept| kept.dirty = true);
        self.dirty.keys = self.keys.keys().cloned().collect();
        self.dirty.groups = self.groups.keys().cloned().collect();
        self.dirty.adjusted = self.adjusted.all().map(|(attempt, _)| *attempt).collect();
        self.dirty.policies_from = 0;
        self.notices.saved_seq = 0;
        self.notices.told_dirty = true;
    }

    /// The operator has booked what was missing of a budget.
    pub(super) fn booked(&mut self, scope: &Scope, window: Window) {
        for missed in self.uncounted.iter_mut().filter(|one| one.booked.len() < BOOKED_MAX) {
            if !missed.booked.iter().any(|(of, over)| of == scope && *over == window) {
                missed.booked.push((scope.clone(), window));
            }
        }
    }
}

impl Spares {
    /// Those of a journal, for a replay that begins with the event `from`.
    pub(crate) fn of(dir: &Path, from: u64) -> Self {
        let ahead = files(dir).unwrap_or_default().into_iter().map(|(seq, _)| seq);
        let ahead = ahead.filter(|seq| *seq > from);
        Self { dir: dir.to_owned(), ahead: ahead.collect(), last_ms: 0 }
    }

    /// The number after the last event of the newest spare that can be read, where that is above `end`,
    /// at which the journal seems to end: what lies between was durable.
    pub(crate) fn newest_beyond(dir: &Path, end: u64) -> Option<u64> {
        let files = files(dir).unwrap_or_default().into_iter().map(|(seq, _)| seq);
        let reads = |seq: &u64| {
            let spare = load(dir, *seq).ok().flatten();
            spare.is_some_and(|spare| spare.next_seq == *seq)
        };
        files.rev().take_while(|seq| *seq > end).find(reads)
    }

    /// Those of a journal whose next event is `end`. What is ahead of it cannot be read, or the journal
    /// that it was of is gone: it is deleted, for its number will be given again.
    pub(crate) fn until(dir: &Path, from: u64, end: u64) -> Self {
        for (_, path) in files(dir).unwrap_or_default().into_iter().filter(|(seq, _)| *seq > end) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "a spare of another journal stays");
            }
        }
        Self::of(dir, from)
    }

    /// Before the event `seq` is applied, or where the events end: notes what is missing before it,
    /// and takes from a spare what would be.
    pub(crate) fn before(&mut self, derived: &mut Derived, seq: u64, unix_ms: u64) {
        if seq > derived.next_seq {
            derived.miss(seq, self.last_ms, unix_ms);
        }
        while let Some(next) = self.ahead.front().copied().filter(|next| *next <= seq) {
            self.ahead.pop_front();
            let covers = derived.uncounted.iter().any(|missed| missed.events.first_seq < next);
            if !covers {
                continue;
            }
            match load(&self.dir, next) {
                Ok(Some(spare)) => {
                    tracing::warn!(
                        event = next,
                        "balances before lost events are taken from a spare"
                    );
                    derived.take_from(spare);
                    if seq > derived.next_seq {
                        derived.miss(seq, self.last_ms, unix_ms);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, event = next, "a spare cannot be read"),
            }
        }
        self.last_ms = unix_ms;
    }
}

/// Writes a copy of the state without its rollups as the newest spare, and forgets old ones.
pub(crate) fn save(dir: &Path, derived: Derived) -> io::Result<()> {
    let next_seq = derived.next_seq;
    let base = checkpoint::without_rollups(derived).map_err(io::Error::other)?;
    base.save_to(&path(dir, next_seq))?;
    let mut files = files(dir)?;
    files.truncate(files.len().saturating_sub(KEPT));
    files.into_iter().try_for_each(|(_, old)| fs::remove_file(old))
}

fn load(dir: &Path, seq: u64) -> Result<Option<Derived>, IndexError> {
    match Base::open(&path(dir, seq))? {
        Some(base) => checkpoint::load(&base),
        None => Ok(None),
    }
}

fn path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("{seq:020}.{SPARE_ENDING}"))
}

fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    crate::store::base::numbered(dir, SPARE_ENDING)
}
