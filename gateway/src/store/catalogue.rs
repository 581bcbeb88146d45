//! The segments of the journal as readers see them: sealed ones, plain ones and the committed part
//! of the live one, read as one ledger.
//!
//! **Invariant:** a [`Snapshot`] is a committed prefix of the journal that stays readable while
//! segments roll over and are sealed behind it: it holds their files open.

use super::{
    codec::{self, CodecError, Event},
    columns::{Builder, Columns},
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
}

/// The segments now.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    segments: Mutex<Vec<Segment>>,
}

/// The segments at one moment, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) segments: Vec<Segment>,
}

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Codec(#[from] CodecError),
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
        Self { segments: Mutex::new(segments) }
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
        self.lock().retain(|segment| segment.next_seq() > seq);
    }

    /// A plain segment is sealed now.
    pub(crate) fn seal(&self, sealed: &Arc<Sealed>) {
        for segment in self.lock().iter_mut() {
            if segment.first_seq() == sealed.footer.first_seq {
                *segment = Segment::Sealed(Arc::clone(sealed));
            }
        }
    }

    /// The plain segments before the live one, which can be sealed.
    pub(crate) fn unsealed(&self) -> Vec<Plain> {
        let segments = self.lock();
        let full = segments.len().saturating_sub(1);
        segments[..full]
            .iter()
            .filter_map(|segment| match segment {
                Segment::Plain(plain) => Some(plain.clone()),
                Segment::Sealed(_) => None,
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
                    seq: mark.seq,
                    next_seq: next.map_or(segment.next_seq(), |next| next.seq),
                    first_ms: mark.unix_ms,
                    last_ms: next.map_or(segment.last_ms(), |next| next.unix_ms),
                    segment: at,
                    place,
                });
            }
        }
        blocks
    }

    /// Reads a block's records in order, checksums and all.
    pub(crate) fn read(
        &self,
        block: &Block,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), ScanError> {
        match &self.segments[block.segment] {
            Segment::Plain(plain) => {
                let from = plain.marks[block.place].offset;
                let to = plain.marks.get(block.place + 1).map_or(plain.end, |next| next.offset);
                walk(&plain.file, from, to, &mut |_, record, _| {
                    visit(record);
                    Ok::<_, ScanError>(())
                })
            }
            Segment::Sealed(sealed) => {
                let bytes = sealed.block(block.place)?;
                let mut used = 0;
                while used < bytes.len() {
                    let offset = sealed.footer.marks[block.place].offset;
                    let (record, length) =
                        read(&bytes[used..]).map_err(|flaw| ScanError::Damaged { offset, flaw })?;
                    visit(record);
                    used += length;
                }
                Ok(())
            }
        }
    }

    /// The columns that are stored beside a block's records.
    pub(crate) fn stored_columns(&self, block: &Block) -> Result<Option<Columns>, ScanError> {
        match &self.segments[block.segment] {
            Segment::Sealed(sealed) => sealed.columns(block.place),
            Segment::Plain(_) => Ok(None),
        }
    }

    /// What sums and filters read of a block's entries.
    pub(crate) fn columns(&self, block: &Block) -> Result<Columns, ReadError> {
        match self.stored_columns(block)? {
            Some(columns) => Ok(columns),
            None => self.made_columns(block),
        }
    }

    /// The same, made from the records whether or not they are stored.
    pub(crate) fn made_columns(&self, block: &Block) -> Result<Columns, ReadError> {
        let mut builder = Builder::default();
        let mut outcome = Ok(());
        self.read(block, &mut |record| {
            let head = record.head;
            if head.kind != codec::ENTRY || outcome.is_err() {
                return;
            }
            match codec::decode(head.kind, head.version, record.payload) {
                Ok(Event::Entry(row)) => builder.push(head.seq, head.unix_ms, &row),
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        })?;
        outcome?;
        Ok(builder.finish())
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
