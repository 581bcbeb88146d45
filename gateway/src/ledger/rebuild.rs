//! Making the rollups anew from the journal.
//!
//! **Invariant:** what is rebuilt is what was there, to the byte: rollups follow from the entries in
//! their order and from nothing else. If they were not what they should be, they are afterwards.

use super::{
    books::Books,
    checkpoint,
    derived::Derived,
    keeper::Keeper,
    query::{Reader, unreadable},
    retire,
    rollups::{Level, MINUTES_KEPT, Rollups, Rows, SETS},
};
use crate::store::{
    BooksError,
    codec::{self, Event},
    index::{Changes, IndexError, Pairs},
};
use schemars::JsonSchema;
use serde::Serialize;

/// What was rebuilt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "RollupsRebuilt")]
pub struct Rebuilt {
    /// Entries that were summed.
    pub entries: u64,
    /// Minutes, hours and days.
    pub spans: u64,
    /// Rows in them.
    pub rows: u64,
    /// Spans whose rows were not what they are now; 0 where the books were in order.
    pub spans_changed: u64,
}

impl Books {
    /// Makes the rollups anew from the journal. Blocking, reads everything.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`], also where events are lost: the rollups may still know their sums.
    pub fn rebuild_rollups(&self) -> Result<Rebuilt, BooksError> {
        let reader = self.reader();
        let keeper = &self.0.keeper;
        // Spans that are over since the last checkpoint are in memory alone. The index gets them
        // first: what is rebuilt is compared with it, and a minute that it lacks counts as forgotten.
        save(keeper, &mut keeper.derived())?;
        let mut rebuilt = Rebuilt::default();
        let dir = self.0.dir.join("journal");
        let (_, base) = retire::begin(&dir).map_err(|error| broken(&error))?;
        let mut rollups = base.rollups;
        let mut next_seq = base.next_seq;
        // Most of it while the books go on, the rest while they wait for it.
        let newest = keeper.derived().rollups.minute();
        fold(&reader, keeper, (&mut rollups, newest), &mut next_seq, &mut rebuilt, u64::MAX)?;
        let mut derived = keeper.derived();
        save(keeper, &mut derived)?;
        let reader = Reader::new(self.0.catalogue.snapshot(), None);
        let (until, newest) = (derived.next_seq, derived.rollups.minute());
        fold(&reader, keeper, (&mut rollups, newest), &mut next_seq, &mut rebuilt, until)?;
        for ((_, rows), (_, before)) in
            rollups.current().iter().zip(derived.rollups.current().iter())
        {
            rebuilt.count(rows, Some(before));
        }
        derived.rollups = rollups;
        derived.dirty.names_from = 0;
        save(keeper, &mut derived)?;
        Ok(rebuilt)
    }
}

/// Adds the entries from `next_seq` on, and writes the spans that are over; `newest` is the minute
/// that lasts.
fn fold(
    reader: &Reader,
    keeper: &Keeper,
    (rollups, newest): (&mut Rollups, u64),
    next_seq: &mut u64,
    rebuilt: &mut Rebuilt,
    until: u64,
) -> Result<(), BooksError> {
    let blocks = reader.snapshot.blocks();
    let from = *next_seq;
    for block in blocks.iter().filter(|block| block.next_seq > from && block.seq < until) {
        let lost = reader.records(block, &mut |record| {
            let head = record.head;
            if head.kind != codec::ENTRY || head.seq < from || head.seq >= until {
                return Ok(());
            }
            if let Event::Entry(row) = codec::decode(head.kind, head.version, record.payload)? {
                rollups.add(head.unix_ms, &row);
                rebuilt.entries += 1;
            }
            Ok(())
        })?;
        // The rollups that there are know more than what is left of the journal.
        if let Some(lost) = lost.first() {
            return Err(BooksError::Unreadable(lost.to_string().into()));
        }
        *next_seq = block.next_seq.min(until);
        // No checkpoint between reading its head and writing it back: the older head beside the
        // newer balances would have events applied twice at the next start. Without a keeper the
        // reader's caller holds the state already.
        let no_checkpoint = reader.keeper.as_ref().map(|keeper| keeper.derived());
        // Minutes that were forgotten since the beginning are not there to be compared.
        let newest = no_checkpoint.as_ref().map_or(newest, |derived| derived.rollups.minute());
        write(keeper, rollups, newest, rebuilt)
            .map_err(|error| unreadable(reader.snapshot.path(block), &error))?;
    }
    Ok(())
}

fn write(
    keeper: &Keeper,
    rollups: &mut Rollups,
    newest: u64,
    rebuilt: &mut Rebuilt,
) -> Result<(), IndexError> {
    for (span, rows) in rollups.take_past() {
        let Some(index) = &keeper.index else {
            rebuilt.count(&rows, None);
            continue;
        };
        let before = checkpoint::span_rows(index, span, &SETS)?;
        // Old minutes are not kept: they were not there, and will not be.
        let is_old = span.at + MINUTES_KEPT <= newest;
        if before.is_empty() && span.level == Level::Minute && is_old {
            continue;
        }
        rebuilt.count(&rows, Some(&before));
        let meta = index.meta()?.unwrap_or_default();
        let mut changes = Changes::default();
        checkpoint::put_span(span, &rows, &mut changes)?;
        index.apply(changes, &meta)?;
    }
    Ok(())
}

/// A checkpoint, if there is an index.
fn save(keeper: &Keeper, derived: &mut Derived) -> Result<(), BooksError> {
    let Some(index) = &keeper.index else { return Ok(()) };
    checkpoint::save(index, derived).map_err(|error| broken(&error))
}

fn broken(error: &IndexError) -> BooksError {
    BooksError::Unreadable(error.to_string().into())
}

impl Rebuilt {
    fn count(&mut self, rows: &Rows, before: Option<&Rows>) {
        self.spans += u64::from(!rows.is_empty());
        self.rows += rows.len() as u64;
        let same = before.is_none_or(|before| {
            postcard::to_allocvec(before).ok() == postcard::to_allocvec(rows).ok()
        });
        self.spans_changed += u64::from(!same);
    }
}
