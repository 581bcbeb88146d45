//! Bytes that went bad in the middle of the journal: what is lost with them, and the whole records
//! around them.
//!
//! **Invariants:** a record is believed only with its checksum and a number that belongs where it
//! stands; what is lost is exactly the numbers between those that are whole; a damaged file is
//! never written to, so that a good copy in its place heals it.

use super::record::{self, HEADER, Record, u64_at};
use schemars::JsonSchema;
use serde::Serialize;
use std::{fmt, fs::File, io, ops::Range, os::unix::fs::FileExt, path::PathBuf};

/// What is read in one piece where reading more of it fails.
const SECTOR: usize = 4_096;
/// In a segment whose end is not known, no number is this far beyond the one expected.
pub(crate) const REACH: u64 = 1 << 32;

/// Events that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Lost {
    /// The segment they stood in. It is left as it is: a good copy in its place is read at the next
    /// start.
    pub file: PathBuf,
    /// Number of the first.
    pub first_seq: u64,
    /// Number of the last.
    pub last_seq: u64,
    /// None was committed earlier, milliseconds since the Unix epoch.
    pub from_unix_ms: u64,
    /// None was committed later.
    pub to_unix_ms: u64,
    /// What is wrong with the bytes.
    pub reason: String,
}

impl Lost {
    /// How many.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.last_seq - self.first_seq + 1
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, first_seq, last_seq, from_unix_ms, to_unix_ms, reason } = self;
        let file = file.display();
        write!(
            f,
            "{file}: events {first_seq} to {last_seq}, committed from {from_unix_ms} to \
             {to_unix_ms} ms, cannot be read: {reason}"
        )
    }
}

/// Visits the whole records in `bytes` whose numbers lie in `seqs` and rise: offset, record, size.
/// `lost` hears of the numbers that are missing between them, and why.
pub(crate) fn salvage(
    bytes: &[u8],
    seqs: Range<u64>,
    visit: &mut dyn FnMut(usize, Record<'_>, usize),
    lost: &mut dyn FnMut(Range<u64>, String),
) {
    let mut expected = seqs.start;
    let mut at = 0;
    let mut flaw = None;
    let why = |flaw: &mut Option<String>| flaw.take().unwrap_or_else(|| "they are missing".into());
    while at < bytes.len() && expected < seqs.end {
        let read = record::read(&bytes[at..]);
        if let Ok((record, length)) = read
            && (expected..seqs.end).contains(&record.head.seq)
        {
            if record.head.seq > expected {
                lost(expected..record.head.seq, why(&mut flaw));
            }
            flaw = None;
            visit(at, record, length);
            expected = record.head.seq + 1;
            at += length;
            continue;
        }
        flaw.get_or_insert_with(|| match read {
            Ok((record, _)) => format!("event {} stands in their place", record.head.seq),
            Err(flaw) => flaw.to_string(),
        });
        match next_record(&bytes[at + 1..], expected..seqs.end) {
            Some(skip) => at += 1 + skip,
            None => break,
        }
    }
    if expected < seqs.end {
        lost(expected..seqs.end, why(&mut flaw));
    }
}

/// Where the next whole record begins whose number lies in `seqs`.
fn next_record(bytes: &[u8], seqs: Range<u64>) -> Option<usize> {
    (0..bytes.len().saturating_sub(HEADER - 1)).find(|at| {
        let here = &bytes[*at..];
        seqs.contains(&u64_at(here, 8)) && record::read(here).is_ok()
    })
}

/// Reads what can be read: where the disk gives nothing, zeros stand.
pub(crate) fn read_lossy(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    if file.read_exact_at(&mut bytes, offset).is_ok() {
        return Ok(bytes);
    }
    for (at, piece) in bytes.chunks_mut(SECTOR).enumerate() {
        if file.read_exact_at(piece, offset + (at * SECTOR) as u64).is_err() {
            piece.fill(0);
        }
    }
    Ok(bytes)
}
