//! A plain segment file: a header, then records, the last of which may be torn.
//!
//! ```text
//! 0   8 bytes  "TOLLGATE"
//! 8   u32      format version
//! 12  u32      CRC-32 of the other 28 bytes
//! 16  u64      sequence number of the first record
//! 24  u64      time of creation, milliseconds since the Unix epoch
//! 32  records, then perhaps zeros: room for more
//! ```
//! **Invariant:** what [`scan`] calls good is exactly the committed prefix, perhaps with records of
//! the last, unacknowledged commit after it. Damage before the end of the last whole commit is told
//! and never cut away; the whole records after it are read. (No record is all zeros: the checksum of
//! one would not be 0.)

use super::{
    damage::{REACH, read_lossy, salvage},
    record::{self, Flaw, HEADER, Record, u32_at, u64_at},
};
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Bytes before the first record.
pub(crate) const FILE_HEADER: usize = 32;
/// Version of the file's form.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"TOLLGATE";
/// Records between two marks.
pub(crate) const MARK_RECORDS: u64 = 512;
const READ_BYTES: usize = 1 << 20;

/// A place in a segment where reading may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Mark {
    /// Where its first record begins.
    pub(crate) offset: u64,
    /// Number of that record.
    pub(crate) seq: u64,
    /// Commit time of that record.
    pub(crate) unix_ms: u64,
}

/// What a segment holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) marks: Vec<Mark>,
    pub(crate) first_seq: u64,
    /// Number the next record gets.
    pub(crate) next_seq: u64,
    /// Commit time of the last record, or of the file's creation.
    pub(crate) last_ms: u64,
    /// End of the last good record.
    pub(crate) end: u64,
    /// Length of the file, without the zeros after what was written.
    pub(crate) length: u64,
    /// Records by kind; the last counts all higher ones.
    pub(crate) kinds: [u32; 8],
    /// What is wrong before the tail, if anything is: some of its events cannot be read.
    pub(crate) damage: Option<String>,
}

/// Why a segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the file's header is not one of a journal")]
    Header,
    #[error("the file has format version {0}, this program knows {FORMAT}")]
    Format(u32),
    #[error("damaged at offset {offset}: {flaw}")]
    Damaged { offset: u64, flaw: Flaw },
    #[error("record {found} stands at offset {offset} where {expected} belongs")]
    Sequence { offset: u64, expected: u64, found: u64 },
}

/// The header of a new segment.
pub(crate) fn file_header(first_seq: u64, unix_ms: u64) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[16..24].copy_from_slice(&first_seq.to_le_bytes());
    header[24..32].copy_from_slice(&unix_ms.to_le_bytes());
    let crc = header_crc(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn header_crc(header: &[u8; FILE_HEADER]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..]);
    hasher.finalize()
}

/// First sequence number and time of creation of a segment.
pub(crate) fn read_file_header(file: &File) -> Result<(u64, u64), ScanError> {
    let mut header = [0; FILE_HEADER];
    file.read_exact_at(&mut header, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ScanError::Header,
        _ => error.into(),
    })?;
    if header[..8] != MAGIC || u32_at(&header, 12) != header_crc(&header) {
        return Err(ScanError::Header);
    }
    match u32_at(&header, 8) {
        FORMAT => Ok((u64_at(&header, 16), u64_at(&header, 24))),
        other => Err(ScanError::Format(other)),
    }
}

/// Reads the whole segment that its name says begins at `named`. `until`: the number that the next
/// segment begins with; the tail of one without may be torn.
pub(crate) fn scan(file: &File, named: u64, until: Option<u64>) -> Result<Scanned, ScanError> {
    let length = file.metadata()?.len();
    let mut scanned = Scanned {
        first_seq: named,
        next_seq: named,
        end: FILE_HEADER as u64,
        length,
        ..Scanned::default()
    };
    match read_file_header(file) {
        Ok((first_seq, created_ms)) => {
            (scanned.first_seq, scanned.next_seq) = (first_seq, first_seq);
            scanned.last_ms = created_ms;
        }
        // The creation of the last one may have been cut short; nothing was in it then.
        Err(ScanError::Header) if until.is_some() || length > FILE_HEADER as u64 => {
            scanned.damage = Some(ScanError::Header.to_string());
        }
        Err(error) => return Err(error),
    }
    let from = scanned.end.min(length);
    let outcome = walk(file, from, length, &mut |offset, record, size| {
        let (expected, found) = (scanned.next_seq, record.head.seq);
        if found != expected {
            return Err(ScanError::Sequence { offset, expected, found });
        }
        scanned.take(offset, record, size);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(ScanError::Damaged { .. }) if scanned.ends_well(file, until)? => {}
        Err(error) => scanned.go_on(file, until, &error)?,
    }
    // Nobody can say how many events were in it: none of their numbers may be given again.
    if until.is_none() && scanned.damage.is_some() && scanned.marks.is_empty() {
        return Err(ScanError::Damaged { offset: 0, flaw: Flaw::Checksum });
    }
    if let Some(until) = until {
        if scanned.next_seq < until {
            scanned.damage.get_or_insert_with(|| "its last events are missing".to_owned());
        }
        scanned.next_seq = until;
        // All of it is lost: it is one block that yields nothing.
        if scanned.marks.is_empty() && scanned.first_seq < until {
            let (seq, unix_ms) = (scanned.first_seq, scanned.last_ms);
            scanned.marks.push(Mark { offset: scanned.end, seq, unix_ms });
        }
    }
    Ok(scanned)
}

impl Scanned {
    fn take(&mut self, offset: u64, record: Record<'_>, size: u64) {
        let head = record.head;
        let stretch = |seq: u64| (seq - self.first_seq) / MARK_RECORDS;
        if self.marks.last().is_none_or(|mark| stretch(mark.seq) < stretch(head.seq)) {
            self.marks.push(Mark { offset, seq: head.seq, unix_ms: head.unix_ms });
        }
        self.kinds[usize::from(head.kind).min(7)] += 1;
        self.next_seq = head.seq + 1;
        self.last_ms = self.last_ms.max(head.unix_ms);
        self.end = offset + size;
    }

    /// Whether nothing stands after the good part but zeros, or (in a segment that none follows) the
    /// rest of a commit that never ended: then `length` is where that rest ends.
    fn ends_well(&mut self, file: &File, until: Option<u64>) -> Result<bool, ScanError> {
        if until.is_some_and(|until| until != self.next_seq) {
            return Ok(false);
        }
        let size = usize::try_from(self.length - self.end).unwrap_or(usize::MAX);
        let mut rest = vec![0; size];
        match file.read_exact_at(&mut rest, self.end) {
            Err(_) if until.is_some() => return Ok(false),
            read => read?,
        }
        let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let well = written == 0 || (until.is_none() && is_torn(&rest, self.next_seq));
        if well {
            self.length = self.end + written as u64;
        }
        Ok(well)
    }

    /// Takes what is whole after damage.
    fn go_on(
        &mut self,
        file: &File,
        until: Option<u64>,
        error: &ScanError,
    ) -> Result<(), ScanError> {
        self.damage.get_or_insert_with(|| error.to_string());
        let from = self.end.min(self.length);
        let rest = read_lossy(file, from, self.length - from)?;
        let seqs = self.next_seq..until.unwrap_or(self.next_seq + REACH);
        salvage(
            &rest,
            seqs,
            &mut |at, record, size| self.take(from + at as u64, record, size as u64),
            &mut |_, _| {},
        );
        Ok(())
    }
}

/// Visits the records in `[from, to)`: offset, record, size.
pub(crate) fn walk<E: From<ScanError>>(
    file: &File,
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(u64, Record<'_>, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = Vec::new();
    let mut start = from;
    let mut want = READ_BYTES;
    while start < to {
        let size = usize::try_from(to - start).unwrap_or(usize::MAX).min(want);
        buffer.resize(size, 0);
        file.read_exact_at(&mut buffer, start).map_err(ScanError::Io)?;
        let mut used = 0;
        while used < size {
            let offset = start + used as u64;
            match record::read(&buffer[used..]) {
                Ok((record, length)) => {
                    visit(offset, record, length as u64)?;
                    used += length;
                }
                // Only cut by the buffer: read on from here.
                Err(Flaw::Short) if start + (size as u64) < to => break,
                Err(flaw) => return Err(ScanError::Damaged { offset, flaw }.into()),
            }
        }
        // A record larger than the buffer: read it alone.
        want = if used == 0 { HEADER + record::PAYLOAD_BYTES_MAX } else { READ_BYTES };
        start += used as u64;
    }
    Ok(())
}

/// Whether `rest`, which begins where record `next_seq` is missing, may be that of a commit that never
/// ended: no whole record in it proves that the missing one had been durable.
fn is_torn(rest: &[u8], next_seq: u64) -> bool {
    let proves = |at: usize| {
        let bytes = &rest[at..];
        if bytes.len() < HEADER {
            return false;
        }
        let (seq, place) = (u64_at(bytes, 8), u16::from_le_bytes([bytes[24], bytes[25]]));
        seq.saturating_sub(u64::from(place)) > next_seq
            && seq - next_seq < 1 << 32
            && record::read(bytes).is_ok()
    };
    !(1..rest.len()).any(proves)
}

/// Opens a segment for reading.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    File::open(path)
}
