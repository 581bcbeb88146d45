//! How one event lies on disk: a fixed header, then the payload.
//!
//! ```text
//! 0   u32  payload length
//! 4   u32  CRC-32 of everything after this field, payload included
//! 8   u64  sequence number
//! 16  u64  commit time, milliseconds since the Unix epoch, never falling
//! 24  u16  place within its commit, 0 for the first record of a commit
//! 26  u8   kind of event
//! 27  u8   version of the event's form
//! 28  ...  payload
//! ```
//! Integers are little-endian. **Invariant:** sequence numbers are gapless, and a record whose
//! place is `p` and whose number is `s` proves that every record below `s - p` was durable before
//! it was written. That is how a torn tail is told from damage in the middle.

/// Bytes before the payload.
pub const HEADER: usize = 28;
/// No payload is larger; a length above it is damage.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number in the gapless sequence.
    pub seq: u64,
    /// Commit time, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Place within its commit.
    pub place: u16,
    /// Kind of event.
    pub kind: u8,
    /// Version of the event's form.
    pub version: u8,
}

/// One record in memory.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its header.
    pub head: Head,
    /// Its payload.
    pub payload: &'a [u8],
    /// Header and payload as they lie on disk.
    pub raw: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Short,
    /// The length cannot be.
    #[error("the record's length cannot be")]
    Length,
    /// The checksum does not fit.
    #[error("the record's checksum does not fit")]
    Checksum,
}

/// Appends an unstamped record to `buffer`; `write` appends its payload.
///
/// # Errors
/// `write`'s own, or `too_long` for a payload that no reader would take; nothing is appended then.
pub(crate) fn append<E>(
    buffer: &mut Vec<u8>,
    kind: u8,
    version: u8,
    too_long: E,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = buffer.len();
    buffer.resize(start + HEADER, 0);
    let payload = |buffer: &Vec<u8>| buffer.len() - start - HEADER;
    let written = write(buffer)
        .and_then(|()| if payload(buffer) > PAYLOAD_BYTES_MAX { Err(too_long) } else { Ok(()) });
    if let Err(error) = written {
        buffer.truncate(start);
        return Err(error);
    }
    let length = u32::try_from(payload(buffer)).unwrap_or(u32::MAX);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 26] = kind;
    buffer[start + 27] = version;
    Ok(())
}

/// Gives the first record of `bytes` its number, time, place and checksum; returns its length.
/// `None` if `bytes` does not begin with a whole record.
pub(crate) fn stamp(bytes: &mut [u8], seq: u64, unix_ms: u64, place: u16) -> Option<usize> {
    let length = length(bytes).ok()?;
    let record = &mut bytes[..length];
    record[8..16].copy_from_slice(&seq.to_le_bytes());
    record[16..24].copy_from_slice(&unix_ms.to_le_bytes());
    record[24..26].copy_from_slice(&place.to_le_bytes());
    let crc = crc32fast::hash(&record[8..]) ^ crc32fast::hash(&record[..4]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    Some(length)
}

/// Reads the first record of `bytes`, checksum and all.
///
/// # Errors
/// [`Flaw`] when there is none.
pub fn read(bytes: &[u8]) -> Result<(Record<'_>, usize), Flaw> {
    let length = length(bytes)?;
    let record = &bytes[..length];
    let crc = crc32fast::hash(&record[8..]) ^ crc32fast::hash(&record[..4]);
    if crc != u32_at(record, 4) {
        return Err(Flaw::Checksum);
    }
    let head = Head {
        seq: u64_at(record, 8),
        unix_ms: u64_at(record, 16),
        place: u16::from_le_bytes([record[24], record[25]]),
        kind: record[26],
        version: record[27],
    };
    Ok((Record { head, payload: &record[HEADER..], raw: record }, length))
}

/// Length of the first record of `bytes`, if all of it is there.
pub(crate) fn length(bytes: &[u8]) -> Result<usize, Flaw> {
    if bytes.len() < HEADER {
        return Err(Flaw::Short);
    }
    let payload = u32_at(bytes, 0) as usize;
    if payload > PAYLOAD_BYTES_MAX {
        return Err(Flaw::Length);
    }
    if bytes.len() < HEADER + payload { Err(Flaw::Short) } else { Ok(HEADER + payload) }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, 3, 1, Flaw::Length, |out| {
            out.extend_from_slice(payload);
            Ok::<_, Flaw>(())
        })
        .unwrap();
        stamp(&mut bytes, 7, 1_000, 2).unwrap();
        bytes
    }

    #[test]
    fn a_record_that_no_reader_would_take_is_not_written() {
        let mut bytes = one(b"money");
        let before = bytes.clone();
        let long = append(&mut bytes, 3, 1, Flaw::Length, |out| {
            out.resize(out.len() + PAYLOAD_BYTES_MAX + 1, 0);
            Ok(())
        });
        assert_eq!((long, bytes), (Err(Flaw::Length), before));
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = one(b"money");
        let (record, length) = read(&bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(record.payload, b"money");
        assert_eq!(record.head, Head { seq: 7, unix_ms: 1_000, place: 2, kind: 3, version: 1 });
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let whole = one(b"money");
        for at in 0..whole.len() {
            assert!(read(&whole[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(read(&bytes).is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}
