//! Reads little-endian numbers and texts, and never past the file's end: every length is compared
//! with what is left before anything is allocated or skipped.

use std::io::{Read, Seek, SeekFrom};

use super::GgufError;

/// Longest key or tensor name; llama.cpp's own limits are 64 KiB and 63 bytes.
pub(super) const NAME_BYTES_MAX: u64 = 65_535;
/// Longest text value: chat templates have some KiB.
pub(super) const TEXT_BYTES_MAX: u64 = 16 << 20;

/// A place in the file.
#[derive(Debug)]
pub(super) struct Reader<R> {
    source: R,
    at: u64,
    end: u64,
}

impl<R: Read + Seek> Reader<R> {
    pub(super) fn new(source: R, end: u64) -> Reader<R> {
        Reader { source, at: 0, end }
    }

    /// An error at this place.
    pub(super) fn wrong(&self, what: impl Into<String>) -> GgufError {
        GgufError { at: self.at, what: what.into() }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// Refuses a length that the file cannot hold.
    fn need(&self, bytes: u64, what: &str) -> Result<(), GgufError> {
        if bytes > self.left() {
            let left = self.left();
            return Err(self.wrong(format!("{what} has {bytes} bytes, and the file {left} more")));
        }
        Ok(())
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if count > self.left() {
            return Err(self.wrong("the file ends in the middle of its header"));
        }
        self.source.read_exact(bytes).map_err(|error| self.wrong(error.to_string()))?;
        self.at += count;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A number of things, each of which takes at least a byte of the file.
    pub(super) fn count(&mut self, what: &str, max: u64) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count > max.min(self.left()) {
            return Err(self.wrong(format!("{count} {what}: more than there can be")));
        }
        Ok(count)
    }

    /// A text of at most `max` bytes. It need not be UTF-8.
    pub(super) fn text(&mut self, what: &str, max: u64) -> Result<Vec<u8>, GgufError> {
        let bytes = self.u64()?;
        self.need(bytes, what)?;
        if bytes > max {
            return Err(self.wrong(format!("{what} has {bytes} bytes, and may have {max}")));
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.fill(&mut text)?;
        Ok(text)
    }

    /// Moves on by `bytes`, unread.
    pub(super) fn skip(&mut self, bytes: u64, what: &str) -> Result<(), GgufError> {
        self.need(bytes, what)?;
        let offset = i64::try_from(bytes).map_err(|_| self.wrong("a length beyond all files"))?;
        // A relative seek inside the buffer would still throw it away: small ones are read.
        if bytes <= 4_096 {
            std::io::copy(&mut (&mut self.source).take(bytes), &mut std::io::sink())
                .map_err(|error| self.wrong(error.to_string()))?;
        } else {
            self.source
                .seek(SeekFrom::Current(offset))
                .map_err(|error| self.wrong(error.to_string()))?;
        }
        self.at += bytes;
        Ok(())
    }
}
