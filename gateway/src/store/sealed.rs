//! A full segment, compressed: blocks of whole records, then a footer that says where they are.
//!
//! ```text
//! 0   8 bytes  "TOLLSEAL"
//! 8   u32      format version
//! 12  blocks   one zstd frame each, of whole records
//!     filter   Bloom filter over the request ids of the segment's entries
//!     footer   postcard: number and time ranges, entry count, marks of the blocks, filter's place
//!     u32      length of the footer
//!     u32      CRC-32 of filter and footer
//!     8 bytes  "TOLLSEAL"
//! ```
//! **Invariant:** a sealed segment holds the records of its plain one to the byte, and the plain
//! one is deleted only after the sealed one is durable under its name.

use super::{
    disk::{private, sync_parent},
    record::u32_at,
    segment::{MARK_RECORDS, Mark, ScanError},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"TOLLSEAL";
const FORMAT: u32 = 1;
const HEADER: usize = 12;
const TRAILER: usize = 16;
/// Of zstd: 3 packs entries about 5 to 1 at several hundred MB/s.
const LEVEL: i32 = 3;
/// Bits of the filter per id: about 1 % of foreign ids pass.
const FILTER_BITS_PER_ID: usize = 10;
const FILTER_PROBES: u64 = 7;
/// No block unpacks to more: 512 records of the largest payload would not fit, real ones are 1 KB.
const BLOCK_BYTES_MAX: usize = 1 << 30;

/// What a sealed segment holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Footer {
    pub(crate) first_seq: u64,
    pub(crate) next_seq: u64,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) entries: u64,
    /// Offsets are those of the compressed blocks.
    pub(crate) marks: Vec<Mark>,
    filter_offset: u64,
    filter_bytes: u64,
}

/// A sealed segment, open for reading.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) footer: Footer,
    file: File,
}

impl Sealed {
    /// Opens one and reads its footer.
    pub(crate) fn open(path: &Path) -> Result<Self, ScanError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < (HEADER + TRAILER) as u64 {
            return Err(ScanError::Header);
        }
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0)?;
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, length - TRAILER as u64)?;
        if head[..8] != MAGIC || trailer[8..] != MAGIC {
            return Err(ScanError::Header);
        }
        if u32_at(&head, 8) != FORMAT {
            return Err(ScanError::Format(u32_at(&head, 8)));
        }
        let footer_bytes = u64::from(u32_at(&trailer, 0));
        let start = (length - TRAILER as u64).checked_sub(footer_bytes).ok_or(ScanError::Header)?;
        let bytes = read_at(&file, start, footer_bytes)?;
        let footer: Footer = postcard::from_bytes(&bytes).map_err(|_| ScanError::Header)?;
        if footer.filter_offset.checked_add(footer.filter_bytes) != Some(start) {
            return Err(ScanError::Header);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&read_at(&file, footer.filter_offset, footer.filter_bytes)?);
        crc.update(&bytes);
        if crc.finalize() != u32_at(&trailer, 4) {
            return Err(ScanError::Header);
        }
        Ok(Self { path: path.to_owned(), footer, file })
    }

    /// The records of one block.
    pub(crate) fn block(&self, place: usize) -> Result<Vec<u8>, ScanError> {
        let from = self.footer.marks[place].offset;
        let to =
            self.footer.marks.get(place + 1).map_or(self.footer.filter_offset, |next| next.offset);
        let packed = read_at(&self.file, from, to.saturating_sub(from))?;
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::new(packed.as_slice())
            .and_then(|decoder| {
                io::copy(&mut io::Read::take(decoder, BLOCK_BYTES_MAX as u64), &mut bytes)
            })
            .map_err(|error| io::Error::new(error.kind(), format!("block at {from}: {error}")))?;
        Ok(bytes)
    }

    /// Whether the entry of this request can be here. Never wrong when it says no.
    pub(crate) fn may_hold(&self, id: u128) -> io::Result<bool> {
        let bits = self.footer.filter_bytes * 8;
        if bits == 0 {
            return Ok(false);
        }
        let mut byte = [0];
        for bit in probes(id, bits) {
            self.file.read_exact_at(&mut byte, self.footer.filter_offset + bit / 8)?;
            if byte[0] & (1 << (bit % 8)) == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes a sealed segment from records in order.
pub(crate) struct Sealer {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    offset: u64,
    block: Vec<u8>,
    footer: Footer,
    ids: Vec<u128>,
}

impl Sealer {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let mut out = BufWriter::new(private(&temporary)?);
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        let footer = Footer {
            first_seq: 0,
            next_seq: 0,
            first_ms: 0,
            last_ms: 0,
            entries: 0,
            marks: Vec::new(),
            filter_offset: 0,
            filter_bytes: 0,
        };
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out,
            offset: HEADER as u64,
            block: Vec::new(),
            footer,
            ids: Vec::new(),
        })
    }

    /// Takes the next record, whole, and the id of the request whose entry it is.
    pub(crate) fn add(
        &mut self,
        seq: u64,
        unix_ms: u64,
        bytes: &[u8],
        id: Option<u128>,
    ) -> io::Result<()> {
        let footer = &mut self.footer;
        if footer.marks.is_empty() {
            footer.first_seq = seq;
            footer.first_ms = unix_ms;
        } else if (seq - footer.first_seq).is_multiple_of(MARK_RECORDS) {
            self.end_block()?;
        }
        if self.block.is_empty() {
            self.footer.marks.push(Mark { offset: self.offset, seq, unix_ms });
        }
        self.block.extend_from_slice(bytes);
        self.footer.next_seq = seq + 1;
        self.footer.last_ms = unix_ms;
        self.footer.entries += u64::from(id.is_some());
        self.ids.extend(id);
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        let packed = zstd::stream::encode_all(self.block.as_slice(), LEVEL)?;
        self.block.clear();
        self.out.write_all(&packed)?;
        self.offset += packed.len() as u64;
        Ok(())
    }

    /// Makes it durable under its name and opens it.
    pub(crate) fn finish(mut self) -> Result<Sealed, ScanError> {
        self.end_block()?;
        let filter = filter(&self.ids);
        self.footer.filter_offset = self.offset;
        self.footer.filter_bytes = filter.len() as u64;
        let footer = postcard::to_allocvec(&self.footer).map_err(io::Error::other)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&filter);
        crc.update(&footer);
        self.out.write_all(&filter)?;
        self.out.write_all(&footer)?;
        let length = u32::try_from(footer.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc.finalize().to_le_bytes())?;
        self.out.write_all(&MAGIC)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(&self.temporary, &self.path)?;
        sync_parent(&self.path)?;
        Sealed::open(&self.path)
    }
}

fn filter(ids: &[u128]) -> Vec<u8> {
    let mut filter = vec![0u8; (ids.len() * FILTER_BITS_PER_ID).div_ceil(8)];
    let bits = filter.len() as u64 * 8;
    for id in ids {
        for bit in probes(*id, bits) {
            filter[usize::try_from(bit / 8).unwrap_or_default()] |= 1 << (bit % 8);
        }
    }
    filter
}

/// The filter's bits of an id. The low half of a UUIDv7 is random, so it needs no hash.
fn probes(id: u128, bits: u64) -> impl Iterator<Item = u64> {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    let (low, high) = (id as u64, (id >> 64) as u64);
    let step = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..FILTER_PROBES).map(move |probe| low.wrapping_add(probe.wrapping_mul(step)) % bits)
}

fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
