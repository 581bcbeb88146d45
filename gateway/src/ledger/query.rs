//! Reading the ledger: pages of requests, one request, summaries.
//!
//! **Invariants:** a query reads a committed prefix of the journal and never touches the hot path;
//! a page's cursor is a place in the journal, so that what is written meanwhile shifts nothing;
//! what a query holds in memory is bounded.

use super::{
    adjusted::Known,
    books::Books,
    checkpoint,
    entry::{Entry, RequestId},
    filter::Filter,
    keeper::Keeper,
    spare::Spares,
};
use crate::store::{
    BooksError, JournalError, Lost,
    base::Base,
    catalogue::{Block, Segment, Snapshot},
    codec::{self, Event},
    journal,
    record::Record,
    sealed::Name,
};
use policies::PolicyVersion;
use std::{
    fmt,
    num::ParseIntError,
    path::Path,
    str::FromStr,
    sync::{Arc, OnceLock},
};

/// Requests of one page at most.
pub const PAGE_MAX: usize = 1_000;
/// Entries read for one page at most; the page then ends early and its cursor goes on.
const PAGE_SCAN_MAX: u64 = 2_000_000;

/// The ledger for reading: of the running process ([`Books::reader`]), or of a data directory.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) snapshot: Snapshot,
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// The number after the last event that a spare stands for, where the files alone are read; else 0.
    pub(super) known_until: u64,
    /// The adjustments, once they were asked for.
    pub(super) known: OnceLock<Known>,
}

/// A place in the ledger from which a query goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

/// Some requests, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The requests.
    pub entries: Vec<Entry>,
    /// Where older ones follow, if any may.
    pub next: Option<Cursor>,
    /// Events that cannot be read and may be some that were asked for; empty unless the journal is
    /// damaged.
    pub lost: Vec<Lost>,
}

/// An entry with its place and the time of its commit.
struct Found {
    seq: u64,
    unix_ms: u64,
    entry: Entry,
}

impl Books {
    /// The day (UTC, since the Unix epoch) of the oldest request that is kept.
    ///
    /// # Errors
    /// None today.
    pub fn first_day(&self) -> Result<Option<u64>, BooksError> {
        let blocks = self.0.catalogue.snapshot().blocks();
        Ok(blocks.first().map(|block| block.first_ms / 86_400_000))
    }

    /// Whether no entry that ended at or after this time was dropped. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`]: what is known of those that were dropped.
    pub(crate) fn keeps_all_of(&self, from_ms: u64) -> Result<bool, BooksError> {
        let snapshot = self.0.catalogue.snapshot();
        let earlier = |first_ms| first_ms < from_ms;
        if snapshot.kept_since().is_none_or(earlier) {
            return Ok(true);
        }
        // Between the last that was dropped and the first that is kept there may be hours.
        let dir = self.0.dir.join("journal");
        let base = Base::newest(&dir).map_err(|error| unreadable(&dir, &error))?;
        let until = base.map(|(_, base)| checkpoint::dropped_until_ms(&base)).transpose();
        Ok(until.map_err(|error| unreadable(&dir, &error))?.flatten().is_some_and(earlier))
    }

    /// The ledger as it is now, with everything that has been queued. Blocking.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.catch_up();
        Reader::new(self.0.catalogue.snapshot(), Some(Arc::clone(&self.0.keeper)))
    }

    /// Requests that `filter` means, newest first, from `cursor` on. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn requests(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, BooksError> {
        self.reader().requests(filter, cursor, limit)
    }

    /// One request's entry. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`], also where it is not found and may be among what is lost.
    pub fn request(&self, id: RequestId) -> Result<Option<Entry>, BooksError> {
        self.reader().request(id)
    }
}

impl Reader {
    /// Reads a data directory, whether or not a process is writing it, and changes nothing.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let journal = dir.join("journal");
        // Before the segments: a process that writes makes the next one of later events.
        let known_until = Spares::newest_beyond(&journal, 0).unwrap_or(0);
        let (segments, _) = journal::list(&journal)?;
        Ok(Self { known_until, ..Self::new(Snapshot { segments }, None) })
    }

    pub(crate) fn new(snapshot: Snapshot, keeper: Option<Arc<Keeper>>) -> Self {
        Self { snapshot, keeper, known_until: 0, known: OnceLock::new() }
    }

    /// See [`Books::requests`].
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn requests(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, BooksError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let before = cursor.map_or(u64::MAX, |Cursor(seq)| seq);
        let mut page = Page { entries: Vec::new(), next: None, lost: Vec::new() };
        let mut scanned = 0;
        let blocks = self.meant(filter);
        for block in blocks.iter().rev().filter(|block| block.seq < before) {
            scanned += block.next_seq - block.seq;
            let mut found = self.found(block, filter, before, &mut page.lost)?;
            let room = limit - page.entries.len();
            if found.len() >= room {
                let rest = found.split_off(found.len() - room);
                page.next = rest.first().map(|found| Cursor(found.seq));
                page.entries.extend(rest.into_iter().rev().map(|found| found.entry));
                return Ok(page);
            }
            page.entries.extend(found.into_iter().rev().map(|found| found.entry));
            if scanned >= PAGE_SCAN_MAX {
                page.next = Some(Cursor(block.seq));
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// See [`Books::request`].
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn request(&self, id: RequestId) -> Result<Option<Entry>, BooksError> {
        let arrived_ms = id.unix_ms().unwrap_or(0);
        let blocks = self.snapshot.blocks();
        // An entry is committed after its request arrived, unless the clock stepped back between.
        let (likely, others): (Vec<&Block>, Vec<&Block>) =
            blocks.iter().partition(|block| block.last_ms >= arrived_ms);
        let mut excluded = vec![None; self.snapshot.segments.len()];
        let mut lost = Vec::new();
        for block in likely.into_iter().chain(others.into_iter().rev()) {
            let segment = block.segment();
            let exclude = match excluded[segment] {
                Some(exclude) => exclude,
                None => {
                    let exclude = self.excludes(segment, id);
                    excluded[segment] = Some(exclude);
                    exclude
                }
            };
            if exclude {
                continue;
            }
            let mut found = None;
            let gone = self.records(block, &mut |record| {
                if record.head.kind == codec::ENTRY && codec::entry_id(record.payload) == Some(id) {
                    found = Some(entry(record)?);
                }
                Ok(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
            // The columns tell whether it was among what is lost; without them it may have been.
            let columns = self.snapshot.stored_columns(block).ok().flatten();
            let named = columns.is_none_or(|all| all.entries().any(|brief| brief.line.id == id));
            if named && block.last_ms >= arrived_ms {
                lost.extend(gone);
            }
        }
        match lost.first() {
            Some(lost) => Err(BooksError::Unreadable(format!("it may be among {lost}").into())),
            None => Ok(None),
        }
    }

    /// See [`Books::policy_source`]. Without the running books' notes it looks from the end.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn policy_source(&self, version: &PolicyVersion) -> Result<Option<String>, BooksError> {
        let note = self.keeper.as_ref().map(|keeper| {
            let derived = keeper.derived();
            let found = derived.policies.iter().rev().find(|note| note.version == *version);
            found.map(|note| note.seq)
        });
        let only = match note {
            Some(None) => return Ok(None),
            Some(Some(seq)) => Some(seq),
            None => None,
        };
        let holds =
            |block: &&Block| only.is_none_or(|seq| block.seq <= seq && seq < block.next_seq);
        let mut lost = Vec::new();
        for block in self.snapshot.blocks().iter().rev().filter(holds) {
            let mut found = None;
            let gone = self.records(block, &mut |record| {
                let head = record.head;
                if head.kind == codec::POLICY
                    && let Event::Policy(policy) =
                        codec::decode(head.kind, head.version, record.payload)?
                    && policy.version == *version
                {
                    found = Some(policy.source);
                }
                Ok(())
            })?;
            if found.is_some() {
                return Ok(found);
            }
            lost.extend(gone);
        }
        match lost.first() {
            Some(lost) => Err(BooksError::Unreadable(format!("it may be among {lost}").into())),
            // What came into force in what was dropped.
            None => self.dropped_policy(version),
        }
    }

    fn dropped_policy(&self, version: &PolicyVersion) -> Result<Option<String>, BooksError> {
        let Some(dir) = self.snapshot.dir() else { return Ok(None) };
        let text = match Base::newest(&dir) {
            Ok(Some((_, base))) => checkpoint::text(&base, version),
            Ok(None) => return Ok(None),
            Err(error) => return Err(unreadable(&dir, &error)),
        };
        text.map_err(|error| unreadable(&dir, &error))
    }

    /// The blocks that can hold what a filter means, oldest first.
    pub(crate) fn meant(&self, filter: &Filter) -> Vec<Block> {
        let session = filter.session.as_deref().map(Name::Session);
        let key = filter.key.as_ref().map(|key| Name::Key(&key.0));
        let mut holds = Vec::with_capacity(self.snapshot.segments.len());
        for segment in &self.snapshot.segments {
            let mut may = true;
            if let Segment::Sealed(sealed) = segment {
                for name in [session, key].into_iter().flatten() {
                    may &= sealed.may_name(name);
                }
            }
            holds.push(may);
        }
        let mut blocks = self.snapshot.blocks();
        blocks.retain(|block| holds[block.segment()] && filter.reaches(block));
        blocks
    }

    /// The entries of a block that a filter means, below `before`, oldest first. What of them is
    /// lost goes to `lost`.
    fn found(
        &self,
        block: &Block,
        filter: &Filter,
        before: u64,
        lost: &mut Vec<Lost>,
    ) -> Result<Vec<Found>, BooksError> {
        let (columns, gone) = self
            .snapshot
            .columns(block)
            .map_err(|error| unreadable(self.snapshot.path(block), &error))?;
        lost.extend(gone.into_iter().filter(|gone| gone.first_seq < before));
        let known = self.adjusted()?.all;
        let Some(sieve) = filter.on(&columns, &known) else { return Ok(Vec::new()) };
        let meant = columns.entries().filter(|brief| brief.seq < before && sieve.takes(brief));
        let wanted: Vec<u64> = meant.map(|brief| brief.seq).collect();
        let mut found = Vec::with_capacity(wanted.len());
        if !wanted.is_empty() {
            let gone = self.records(block, &mut |record| {
                if wanted.binary_search(&record.head.seq).is_ok() {
                    let head = record.head;
                    found.push(Found {
                        seq: head.seq,
                        unix_ms: head.unix_ms,
                        entry: entry(record)?,
                    });
                }
                Ok(())
            })?;
            // Stored columns tell which of the lost were meant.
            let meant = |gone: &Lost| {
                wanted.iter().any(|seq| (gone.first_seq..=gone.last_seq).contains(seq))
            };
            lost.extend(gone.into_iter().filter(meant));
        }
        Ok(found)
    }

    /// Visits every request that a filter means with the time of its end, oldest first, until
    /// `visit` says no.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`], after everything that can be read was visited.
    pub fn each(
        &self,
        filter: &Filter,
        visit: &mut dyn FnMut(u64, Entry) -> bool,
    ) -> Result<(), BooksError> {
        let mut lost = Vec::new();
        for block in self.meant(filter) {
            for found in self.found(&block, filter, u64::MAX, &mut lost)? {
                if !visit(found.unix_ms, found.entry) {
                    return Ok(());
                }
            }
        }
        match lost.as_slice() {
            [] => Ok(()),
            [only] => Err(BooksError::Unreadable(only.to_string().into())),
            [first, rest @ ..] => {
                let more = format!("{first}; and {} more such places", rest.len());
                Err(BooksError::Unreadable(more.into()))
            }
        }
    }

    pub(super) fn excludes(&self, segment: usize, id: RequestId) -> bool {
        match &self.snapshot.segments[segment] {
            Segment::Plain(_) => false,
            Segment::Sealed(sealed) => !sealed.may_hold(id.0.as_u128()),
        }
    }

    /// Visits a block's records; returns what of it is lost.
    pub(crate) fn records(
        &self,
        block: &Block,
        visit: &mut dyn FnMut(Record<'_>) -> Result<(), codec::CodecError>,
    ) -> Result<Vec<Lost>, BooksError> {
        let mut outcome = Ok(());
        let lost = self.snapshot.read(block, &mut |record| {
            if outcome.is_ok() {
                outcome = visit(record);
            }
        });
        outcome.map_err(|error| unreadable(self.snapshot.path(block), &error))?;
        Ok(lost)
    }
}

/// Reads a record that is an entry.
pub(crate) fn entry(record: Record<'_>) -> Result<Entry, codec::CodecError> {
    codec::decode_entry(record.head.version, record.payload)
}

pub(crate) fn unreadable(path: &Path, error: &dyn fmt::Display) -> BooksError {
    BooksError::Unreadable(format!("{}: {error}", path.display()).into())
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
