//! Dropping what is older than the operator wants to keep.
//!
//! **Invariants:** whole sealed segments go, from the oldest on; what they added up to (balances,
//! keys, policies in force, rollups, open reservations) is durable in a base before they go, so that
//! neither a budget nor a sum of a day forgets; a segment with a reservation that is still open
//! stays. Entries that are gone are gone: export them first. A base lacks what its segments had lost
//! already, as any fold of them does.

use super::{
    books::Books,
    checkpoint,
    derived::{Derived, PolicyNote},
    query::{Reader, unreadable},
    spare::Spares,
};
use crate::store::{
    BooksError,
    base::Base,
    catalogue::{Segment, Snapshot},
    codec,
    index::IndexError,
};
use policies::PolicyVersion;
use serde::Serialize;
use std::{io, ops::Range, path::Path};

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retired {
    /// Segments.
    pub segments: u64,
    /// Entries in them.
    pub entries: u64,
    /// Number of the first event that is kept.
    pub first_seq: u64,
}

impl Books {
    /// Drops the segments whose last event was committed before `before_ms`. Blocking; reads what
    /// it drops.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`]: nothing was dropped then.
    pub fn retire(&self, before_ms: u64) -> Result<Retired, BooksError> {
        let reader = self.reader();
        let dir = self.0.dir.join("journal");
        let (oldest_open, notes) = {
            let derived = self.0.keeper.derived();
            let open = derived.open.values().flat_map(|open| &open.attempts);
            let oldest = open.map(|open| open.reserved_seq).min().unwrap_or(u64::MAX);
            (oldest, derived.policies.clone())
        };
        let old = old_segments(&reader.snapshot, before_ms, oldest_open);
        let Some(last) = old.last() else { return Ok(Retired::default()) };
        let cut = last.next_seq();
        let fault = |error: &dyn std::fmt::Display| unreadable(&dir, error);
        let texts = texts(&reader, &notes, last.first_seq()..cut);
        let base = base_until(&reader, &dir, cut)?;
        let last_ms = reader.snapshot.ended_ms(old.len() - 1);
        checkpoint::put_dropped(&base, last_ms, &texts).map_err(|error| fault(&error))?;
        base.save(&dir, cut).map_err(|error| fault(&error))?;
        let retired = Retired {
            segments: old.len() as u64,
            entries: old.iter().map(entries_of).sum(),
            first_seq: cut,
        };
        // Whoever has just sealed the last of them is still to delete its plain file.
        let _nobody_seals = self.0.catalogue.sealing();
        self.0.catalogue.drop_until(cut);
        remove(&old).and_then(|()| Base::forget_old(&dir)).map_err(|error| fault(&error))?;
        Ok(retired)
    }
}

/// The texts of policies that decided what is kept and stand in what is dropped: of the last one that
/// came into force before it, and of those in `last`, the segment dropped last. A request that was
/// decided then may have ended after it.
fn texts(reader: &Reader, notes: &[PolicyNote], last: Range<u64>) -> Vec<(PolicyVersion, String)> {
    let began = notes.partition_point(|note| note.seq < last.start).saturating_sub(1);
    let until = notes.partition_point(|note| note.seq < last.end);
    let mut texts: Vec<(PolicyVersion, String)> = Vec::new();
    for PolicyNote { version, .. } in &notes[began.min(until)..until] {
        if texts.iter().any(|(known, _)| known == version) {
            continue;
        }
        match reader.policy_source(version) {
            Ok(text) => texts.extend(text.map(|text| (version.clone(), text))),
            // It is lost already; what it decided is kept all the same.
            Err(error) => tracing::warn!(%error, policy = %version, "a policy's text is lost"),
        }
    }
    texts
}

/// The segments at the beginning that are old enough and will not change: sealed ones, and damaged
/// ones, which are never sealed.
fn old_segments(snapshot: &Snapshot, before_ms: u64, oldest_open: u64) -> Vec<Segment> {
    let old = |(at, segment): &(usize, &Segment)| {
        (matches!(segment, Segment::Sealed(_)) || segment.damage().is_some())
            && snapshot.ended_ms(*at) < before_ms
            && segment.next_seq() <= oldest_open
    };
    let old = snapshot.segments.iter().enumerate().take_while(old);
    old.map(|(_, segment)| segment.clone()).collect()
}

fn entries_of(segment: &Segment) -> u64 {
    match segment {
        Segment::Sealed(sealed) => sealed.footer.entries,
        Segment::Plain(_) => 0,
    }
}

fn remove(segments: &[Segment]) -> io::Result<()> {
    segments.iter().try_for_each(|segment| std::fs::remove_file(segment.path()))
}

/// The state after every event below `cut`.
fn base_until(reader: &Reader, dir: &Path, cut: u64) -> Result<Base, BooksError> {
    let fault = |error: &dyn std::fmt::Display| unreadable(dir, error);
    let (base, mut derived) = begin(dir).map_err(|error| fault(&error))?;
    let keep =
        |derived: &mut Derived| checkpoint::save(&base, derived).map_err(|error| fault(&error));
    let mut spares = Spares::of(dir, derived.next_seq);
    let blocks = reader.snapshot.blocks();
    for block in blocks.iter().filter(|block| block.seq < cut) {
        let lost = reader.records(block, &mut |record| {
            let head = record.head;
            if head.seq >= derived.next_seq && head.seq < cut {
                let event = codec::decode(head.kind, head.version, record.payload)?;
                spares.before(&mut derived, head.seq, head.unix_ms);
                derived.apply(head.seq, head.unix_ms, event.into());
            }
            Ok(())
        })?;
        for lost in lost {
            tracing::error!(%lost, "what is dropped was damaged: the base cannot hold it");
        }
        let end = block.next_seq.min(cut);
        if derived.next_seq < end {
            spares.before(&mut derived, end, block.last_ms);
            derived.next_seq = end;
        }
        keep(&mut derived)?;
    }
    keep(&mut derived)?;
    Ok(base)
}

/// The base that there is, and the state that it holds; both new where nothing was dropped yet.
pub(super) fn begin(dir: &Path) -> Result<(Base, Derived), IndexError> {
    let Some((_, base)) = Base::newest(dir)? else { return Ok((Base::default(), Derived::new())) };
    match checkpoint::load(&base)? {
        Some(derived) => Ok((base, derived)),
        None => Err(IndexError::Value),
    }
}
