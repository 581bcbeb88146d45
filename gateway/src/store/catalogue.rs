//! The segments of the journal as readers see them: sealed ones, plain ones and the committed part
//! of the live one, read as one ledger.
//!
//! **Invariant:** a [`Snapshot`] is a committed prefix of the journal that stays readable while
//! segments roll over and are sealed behind it: it holds their files open.

use super::{
    codec::{self, CodecError, Event},
    columns::{Builder, Columns},
    damage::{Lost, read_lossy, salvage},
    record::{Record, read},
    sealed::Sealed,
    segment::{Mark, ScanError, walk},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One segment.
#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Plain(Plain),
    Sealed(Arc<Sealed>),
}

/// A segment that is not compressed.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    pub(crate) last_ms: u64,
    /// End of the committed part.
    pub(crate) end: u64,
    pub(crate) marks: Vec<Mark>,
    /// What is wrong before its end, if anything is: some of its events cannot be read, and it is
    /// never sealed, because a good copy may be put in its place.
    pub(crate) damage: Option<String>,
}

/// The segments now.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    segments: Mutex<Vec<Segment>>,
    /// Held while segments are sealed.
    sealing: Mutex<()>,
}

/// The segments at one moment, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) segments: Vec<Segment>,
}

/// A stretch of records that is read in one go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Its first record's number.
    pub(crate) seq: u64,
    /// Number after its last record.
    pub(crate) next_seq: u64,
    /// Commit time of its first record.
    pub(crate) first_ms: u64,
    /// No record in it was committed later.
    pub(crate) last_ms: u64,
    segment: usize,
    place: usize,
}

impl Catalogue {
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        Self { segments: Mutex::new(segments), sealing: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { segments: self.lock().clone() }
    }

    /// The live segment grew.
    pub(crate) fn grew(&self, next_seq: u64, last_ms: u64, end: u64, marks: &[Mark]) {
        if let Some(Segment::Plain(live)) = self.lock().last_mut() {
            live.next_seq = next_seq;
            live.last_ms = last_ms;
            live.end = end;
            live.marks.extend_from_slice(marks);
        }
    }

    pub(crate) fn push(&self, plain: Plain) {
        self.lock().push(Segment::Plain(plain));
    }

    /// The segments below `seq` are no longer part of the ledger.
    pub(crate) fn drop_until(&self, seq: u64) {
        // One that begins there stays, also while nothing is in it: it is being written.
        self.lock().retain(|segment| segment.first_seq() >= seq);
    }

    /// A plain segment is sealed now.
    pub(crate) fn seal(&self, sealed: &Arc<Sealed>) {
        for segment in self.lock().iter_mut() {
            if segment.first_seq() == sealed.footer.first_seq {
                *segment = Segment::Sealed(Arc::clone(sealed));
            }
        }
    }

    /// One sealer at a time, while this is held: two would write the same file and delete the same
    /// plain segment. What is still to be sealed is known only once it is held.
    pub(crate) fn sealing(&self) -> MutexGuard<'_, ()> {
        self.sealing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plain segments before the live one, which can be sealed.
    pub(crate) fn unsealed(&self) -> Vec<Plain> {
        let segments = self.lock();
        let full = segments.len().saturating_sub(1);
        segments[..full]
            .iter()
            .filter_map(|segment| match segment {
                Segment::Plain(plain) if plain.damage.is_none() => Some(plain.clone()),
                _ => None,
            })
            .collect()
    }
}

impl Block {
    /// Which segment it is in, by its place in the snapshot.
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }
}

impl Segment {
    pub(crate) fn first_seq(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.first_seq,
            Self::Sealed(sealed) => sealed.footer.first_seq,
        }
    }

    pub(crate) fn next_seq(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.next_seq,
            Self::Sealed(sealed) => sealed.footer.next_seq,
        }
    }

    pub(crate) fn last_ms(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.last_ms,
            Self::Sealed(sealed) => sealed.footer.last_ms,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Plain(plain) => &plain.path,
            Self::Sealed(sealed) => &sealed.path,
        }
    }

    /// Its file, which stays readable when it has lost its name.
    pub(crate) fn file(&self) -> &File {
        match self {
            Self::Plain(plain) => &plain.file,
            Self::Sealed(sealed) => sealed.file(),
        }
    }

    /// What is wrong with the file itself.
    pub(crate) fn damage(&self) -> Option<&str> {
        match self {
            Self::Plain(plain) => plain.damage.as_deref(),
            Self::Sealed(sealed) => sealed.damage.as_deref(),
        }
    }

    fn marks(&self) -> &[Mark] {
        match self {
            Self::Plain(plain) => &plain.marks,
            Self::Sealed(sealed) => &sealed.footer.marks,
        }
    }
}

impl Snapshot {
    /// Every block, oldest first.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (at, segment) in self.segments.iter().enumerate() {
            let marks = segment.marks();
            for (place, mark) in marks.iter().enumerate() {
                let next = marks.get(place + 1);
                blocks.push(Block {
                    // What is lost before the first whole record belongs to the first block.
                    seq: if place == 0 { segment.first_seq() } else { mark.seq },
                    next_seq: next.map_or(segment.next_seq(), |next| next.seq),
                    first_ms: if place == 0 { self.began_ms(at) } else { mark.unix_ms },
                    last_ms: next.map_or_else(|| self.ended_ms(at), |next| next.unix_ms),
                    segment: at,
                    place,
                });
            }
        }
        blocks
    }

    /// When the first event that is kept was committed; `None` where none was dropped.
    pub(crate) fn kept_since(&self) -> Option<u64> {
        self.segments.first().filter(|first| first.first_seq() > 1).map(|_| self.began_ms(0))
    }

    /// No event of a segment was committed before this: of a damaged one only its neighbour knows.
    fn began_ms(&self, at: usize) -> u64 {
        let segment = &self.segments[at];
        let first = segment.marks().first().map_or(segment.last_ms(), |mark| mark.unix_ms);
        match (segment.damage(), at.checked_sub(1)) {
            (Some(_), Some(before)) => self.segments[before].last_ms(),
            // Before the first there is nobody to ask.
            (Some(_), None) if first == 0 => self.ended_ms(at),
            _ => first,
        }
    }

    /// No event of a segment was committed after this.
    pub(crate) fn ended_ms(&self, at: usize) -> u64 {
        let segment = &self.segments[at];
        if segment.damage().is_none() {
            return segment.last_ms();
        }
        let after = self.segments.get(at + 1);
        let after = after.map(|next| next.marks().first().map_or(next.last_ms(), |m| m.unix_ms));
        after.unwrap_or(u64::MAX).max(segment.last_ms())
    }

    /// When this event was committed, milliseconds since the Unix epoch; `None` where it cannot be read.
    pub(crate) fn committed_ms(&self, seq: u64) -> Option<u64> {
        let block =
            self.blocks().into_iter().find(|block| (block.seq..block.next_seq).contains(&seq))?;
        let mut found = None;
        let _what_is_lost = self.read(&block, &mut |record| {
            if record.head.seq == seq {
                found = Some(record.head.unix_ms);
            }
        });
        found
    }

    /// Reads a block's records in order, checksums and all. Returns what of it is lost.
    #[must_use]
    pub(crate) fn read(&self, block: &Block, visit: &mut dyn FnMut(Record<'_>)) -> Vec<Lost> {
        // Up to the first flaw everything is taken as it comes; the rest is looked through.
        let mut next_seq = block.seq;
        let (rest, flaw) = match &self.segments[block.segment] {
            Segment::Plain(plain) => {
                let mut from = plain.marks[block.place].offset;
                let to = plain.marks.get(block.place + 1).map_or(plain.end, |next| next.offset);
                let outcome = walk(&plain.file, from, to, &mut |offset, record, size| {
                    let (expected, found) = (next_seq, record.head.seq);
                    if found != expected {
                        return Err(ScanError::Sequence { offset, expected, found });
                    }
                    visit(record);
                    next_seq += 1;
                    from = offset + size;
                    Ok(())
                });
                if outcome.is_ok() && next_seq == block.next_seq {
                    return Vec::new();
                }
                let rest = read_lossy(&plain.file, from, to.saturating_sub(from));
                (rest.unwrap_or_default(), outcome.err().map(|error| error.to_string()))
            }
            Segment::Sealed(sealed) => {
                let (mut bytes, flaw) = sealed.block(block.place);
                let mut used = 0;
                while let Ok((record, length)) = read(&bytes[used..])
                    && record.head.seq == next_seq
                {
                    visit(record);
                    next_seq += 1;
                    used += length;
                }
                if next_seq == block.next_seq {
                    return Vec::new();
                }
                (bytes.split_off(used), flaw)
            }
        };
        let mut lost = Vec::new();
        salvage(
            &rest,
            next_seq..block.next_seq,
            &mut |_, record, _| visit(record),
            &mut |seqs, why| {
                lost.push(Lost {
                    file: self.path(block).to_owned(),
                    first_seq: seqs.start,
                    last_seq: seqs.end - 1,
                    from_unix_ms: block.first_ms,
                    to_unix_ms: block.last_ms,
                    reason: flaw.clone().unwrap_or(why),
                });
            },
        );
        lost
    }

    /// The columns that are stored beside a block's records.
    pub(crate) fn stored_columns(&self, block: &Block) -> Result<Option<Columns>, ScanError> {
        match &self.segments[block.segment] {
            Segment::Sealed(sealed) => sealed.columns(block.place),
            Segment::Plain(_) => Ok(None),
        }
    }

    /// What sums and filters read of a block's entries, and what of it is lost.
    pub(crate) fn columns(&self, block: &Block) -> Result<(Columns, Vec<Lost>), CodecError> {
        match self.stored_columns(block) {
            Ok(Some(columns)) => Ok((columns, Vec::new())),
            // What cannot be read beside the records is in the records.
            Ok(None) | Err(_) => self.made_columns(block),
        }
    }

    /// The same, made from the records whether or not they are stored.
    pub(crate) fn made_columns(&self, block: &Block) -> Result<(Columns, Vec<Lost>), CodecError> {
        let mut builder = Builder::default();
        let mut outcome = Ok(());
        let lost = self.read(block, &mut |record| {
            let head = record.head;
            if head.kind != codec::ENTRY || outcome.is_err() {
                return;
            }
            match codec::decode(head.kind, head.version, record.payload) {
                Ok(Event::Entry(row)) => builder.push(head.seq, head.unix_ms, &row),
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        });
        outcome?;
        Ok((builder.finish(), lost))
    }

    /// Whether a block's columns are stored beside its records.
    pub(crate) fn stores_columns(&self, block: &Block) -> bool {
        matches!(&self.segments[block.segment], Segment::Sealed(sealed) if sealed.has_columns())
    }

    /// The directory of the segments; `None` without any.
    pub(crate) fn dir(&self) -> Option<PathBuf> {
        self.segments.first().and_then(|segment| Some(segment.path().parent()?.to_owned()))
    }

    /// The file a block is in, for messages.
    pub(crate) fn path(&self, block: &Block) -> &Path {
        self.segments[block.segment].path()
    }

    /// Number the next record gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.segments.last().map_or(1, Segment::next_seq)
    }
}
