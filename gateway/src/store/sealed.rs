//! A full segment, compressed: blocks of whole records, then a footer that says where they are.
//!
//! ```text
//! 0   8 bytes  "TOLLSEAL"
//! 8   u32      format version
//! 12  blocks   one zstd frame each, of whole records
//!     columns  for each block its CRC-32 and a zstd frame, see [`super::columns`] (since version 2)
//!     filter   Bloom filter over the request ids of the segment's entries, and (since version 2)
//!              over the names of their sessions and keys
//!     footer   postcard: number and time ranges, entry count, marks of the blocks, places of the
//!              filter and (since version 2) of the columns
//!     u32      length of the footer
//!     u32      CRC-32 of filter and footer
//!     8 bytes  "TOLLSEAL"
//! ```
//! **Invariants:** a sealed segment holds the records of its plain one to the byte, and the plain
//! one is deleted only after the sealed one is durable under its name. Where its ends are damaged the
//! blocks are found by themselves: each is a frame of its own, of records with checksums. (A later
//! format must have a footer that does not read as this one, so that it is told from damage.)

use super::{
    codec::{self, Event},
    columns::{self, Builder, Columns},
    damage::{REACH, read_lossy, salvage},
    disk::{Temporary, private},
    record::u32_at,
    segment::{MARK_RECORDS, Mark, ScanError},
};
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MAGIC: [u8; 8] = *b"TOLLSEAL";
const FORMAT: u32 = 2;
/// The first format: no columns, and no names in the filter.
const FORMAT_1: u32 = 1;
const HEADER: usize = 12;
const TRAILER: usize = 16;
/// How every zstd frame begins.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Of zstd: 3 packs entries about 5 to 1 at several hundred MB/s.
const LEVEL: i32 = 3;
/// Bits of the filter per id: about 1 % of foreign ids pass.
const FILTER_BITS_PER_ID: usize = 10;
const FILTER_PROBES: u64 = 7;
/// No block unpacks to more: 512 records of the largest payload would not fit, real ones are 1 KB.
const BLOCK_BYTES_MAX: usize = 1 << 30;
/// Room that is made for a block before it is unpacked.
const UNPACKED_BYTES: usize = 1 << 20;

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
    /// Places of the blocks' columns; none before format 2.
    columns: Vec<u64>,
    columns_version: u32,
}

impl Footer {
    /// Of a segment that holds nothing yet.
    fn new() -> Self {
        Self {
            first_seq: 0,
            next_seq: 0,
            first_ms: 0,
            last_ms: 0,
            entries: 0,
            marks: Vec::new(),
            filter_offset: 0,
            filter_bytes: 0,
            columns: Vec::new(),
            columns_version: columns::VERSION,
        }
    }

    /// The format that has such a footer.
    fn format(&self) -> u32 {
        if self.columns_version == 0 { FORMAT_1 } else { FORMAT }
    }
}

/// The footer of format 1.
#[derive(Deserialize)]
struct FooterV1 {
    first_seq: u64,
    next_seq: u64,
    first_ms: u64,
    last_ms: u64,
    entries: u64,
    marks: Vec<Mark>,
    filter_offset: u64,
    filter_bytes: u64,
}

/// A sealed segment, open for reading.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) footer: Footer,
    /// What is wrong with its header or footer; the blocks were found without them then.
    pub(crate) damage: Option<String>,
    file: File,
}

impl Sealed {
    /// Its file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Opens one and reads its footer.
    pub(crate) fn open(path: &Path) -> Result<Self, ScanError> {
        let file = File::open(path)?;
        let (footer, format) = read_ends(&file)?;
        let damage = (format != footer.format()).then(|| "its header is damaged".to_owned());
        Ok(Self { path: path.to_owned(), footer, damage, file })
    }

    /// The same; where header and footer are damaged the blocks are looked for. `named`: the number
    /// that its name says it begins with; `until`: the one that the next segment begins with.
    pub(crate) fn open_or_salvage(
        path: &Path,
        named: u64,
        until: Option<u64>,
    ) -> Result<Self, ScanError> {
        match Self::open(path) {
            Err(ScanError::Header | ScanError::Io(_)) => {}
            opened => return opened,
        }
        let file = File::open(path)?;
        let footer = find_blocks(&file, named, until)?;
        let damage = Some("its header or footer is damaged".to_owned());
        Ok(Self { path: path.to_owned(), footer, damage, file })
    }

    /// The records of one block, as many as can be unpacked, and why the rest cannot.
    pub(crate) fn block(&self, place: usize) -> (Vec<u8>, Option<String>) {
        let footer = &self.footer;
        let end = footer.columns.first().copied().unwrap_or(footer.filter_offset);
        let from = footer.marks[place].offset;
        let to = footer.marks.get(place + 1).map_or(end, |next| next.offset);
        match read_lossy(&self.file, from, to.saturating_sub(from)) {
            Ok(packed) => unpack_lossy(from, &packed),
            Err(error) => (Vec::new(), Some(error.to_string())),
        }
    }

    /// Whether the columns of every block are stored.
    pub(crate) fn has_columns(&self) -> bool {
        self.footer.columns.len() == self.footer.marks.len()
            && self.footer.columns_version == columns::VERSION
    }

    /// The columns of one block; `None` if they are not stored in a form that is known.
    pub(crate) fn columns(&self, place: usize) -> Result<Option<Columns>, ScanError> {
        let footer = &self.footer;
        let Some(from) = footer.columns.get(place).copied() else { return Ok(None) };
        if footer.columns_version != columns::VERSION {
            return Ok(None);
        }
        let to = footer.columns.get(place + 1).copied().unwrap_or(footer.filter_offset);
        let packed = read_at(&self.file, from, to.saturating_sub(from))?;
        let Some((crc, packed)) = packed.split_first_chunk::<4>() else { return Ok(None) };
        if crc32fast::hash(packed) != u32::from_le_bytes(*crc) {
            // The records say the same, and a check of the ledger names the damage.
            return Ok(None);
        }
        let (bytes, flaw) = unpack_lossy(from, packed);
        Ok(if flaw.is_none() { postcard::from_bytes(&bytes).ok() } else { None })
    }

    /// Whether an entry of this session or key, or an adjustment, can be here. Never wrong when it says no.
    pub(crate) fn may_name(&self, name: Name<'_>) -> bool {
        self.footer.columns.is_empty() || self.may_hold(name.number())
    }

    /// Whether the entry of this request can be here. Never wrong when it says no.
    pub(crate) fn may_hold(&self, id: u128) -> bool {
        let bits = self.footer.filter_bytes * 8;
        if bits == 0 {
            // A segment without entries has an empty filter; one whose footer is lost has none.
            return self.damage.is_some();
        }
        let mut byte = [0];
        probes(id, bits).all(|bit| {
            let read = self.file.read_exact_at(&mut byte, self.footer.filter_offset + bit / 8);
            // A filter that cannot be read excludes nothing.
            read.is_err() || byte[0] & (1 << (bit % 8)) != 0
        })
    }
}

/// A name that the filter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name<'a> {
    Session(&'a str),
    Key(&'a str),
    /// That of every adjustment: segments without one are told from those with.
    Adjustment,
}

impl Name<'_> {
    /// What stands for it in the filter. It is on disk: it must never change.
    fn number(self) -> u128 {
        let (kind, name) = match self {
            Self::Session(name) => (b's', name),
            Self::Key(name) => (b'k', name),
            Self::Adjustment => (b'a', ""),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]);
        hasher.update(name.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_le_bytes(half)
    }
}

/// Unpacks one frame as far as it goes.
fn unpack_lossy(from: u64, packed: &[u8]) -> (Vec<u8>, Option<String>) {
    let mut bytes = Vec::with_capacity(packed.len().saturating_mul(4).min(UNPACKED_BYTES));
    let read = zstd::stream::read::Decoder::with_buffer(packed).and_then(|decoder| {
        decoder.single_frame().take(BLOCK_BYTES_MAX as u64).read_to_end(&mut bytes)
    });
    (bytes, read.err().map(|error| format!("block at {from}: {error}")))
}

/// The footer, and the format that the header names.
fn read_ends(file: &File) -> Result<(Footer, u32), ScanError> {
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
    let footer_bytes = u64::from(u32_at(&trailer, 0));
    let start = (length - TRAILER as u64).checked_sub(footer_bytes).ok_or(ScanError::Header)?;
    let bytes = read_at(file, start, footer_bytes)?;
    let format = u32_at(&head, 8);
    let fits = |footer: &Footer| {
        footer.filter_offset.checked_add(footer.filter_bytes) == Some(start)
            && read_at(file, footer.filter_offset, footer.filter_bytes).is_ok_and(|filter| {
                let mut crc = crc32fast::Hasher::new();
                crc.update(&filter);
                crc.update(&bytes);
                crc.finalize() == u32_at(&trailer, 4)
            })
    };
    // The header's number has no checksum: a footer that fits tells the format better.
    let known = [FORMAT, FORMAT_1].into_iter().filter_map(|form| read_footer(form, &bytes).ok());
    match known.into_iter().find(fits) {
        Some(footer) => Ok((footer, format)),
        None if format != FORMAT && format != FORMAT_1 => Err(ScanError::Format(format)),
        None => Err(ScanError::Header),
    }
}

/// A footer for the blocks that are found without one: every frame that holds a record of this
/// segment. It has neither columns nor a filter.
fn find_blocks(file: &File, named: u64, until: Option<u64>) -> Result<Footer, ScanError> {
    let length = file.metadata()?.len();
    let bytes = read_lossy(file, 0, length)?;
    let mut footer = Footer { first_seq: named, next_seq: named, ..Footer::new() };
    let mut at = 0;
    while let Some(skip) = bytes[at..].windows(FRAME_MAGIC.len()).position(|at| at == FRAME_MAGIC) {
        at += skip;
        let (records, _) = unpack_lossy(at as u64, &bytes[at..]);
        let seqs = footer.next_seq..until.unwrap_or(footer.next_seq + REACH);
        let marks = footer.marks.len();
        salvage(
            &records,
            seqs,
            &mut |_, record, _| {
                let head = record.head;
                if footer.marks.len() == marks {
                    let offset = at as u64;
                    footer.marks.push(Mark { offset, seq: head.seq, unix_ms: head.unix_ms });
                }
                footer.next_seq = head.seq + 1;
                footer.last_ms = head.unix_ms;
                footer.entries += u64::from(head.kind == codec::ENTRY);
            },
            &mut |_, _| {},
        );
        let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]);
        at += match frame {
            Ok(size) if footer.marks.len() > marks => size,
            _ => FRAME_MAGIC.len(),
        };
    }
    footer.next_seq = until.unwrap_or(footer.next_seq);
    if footer.marks.is_empty() && footer.first_seq < footer.next_seq {
        footer.marks.push(Mark { offset: length, seq: footer.first_seq, unix_ms: 0 });
    }
    footer.first_ms = footer.marks.first().map_or(0, |mark| mark.unix_ms);
    footer.filter_offset = length;
    Ok(footer)
}

fn read_footer(format: u32, bytes: &[u8]) -> Result<Footer, postcard::Error> {
    if format == FORMAT {
        return codec::whole(bytes);
    }
    let old: FooterV1 = codec::whole(bytes)?;
    Ok(Footer {
        first_seq: old.first_seq,
        next_seq: old.next_seq,
        first_ms: old.first_ms,
        last_ms: old.last_ms,
        entries: old.entries,
        marks: old.marks,
        filter_offset: old.filter_offset,
        filter_bytes: old.filter_bytes,
        columns: Vec::new(),
        columns_version: 0,
    })
}

/// Writes a sealed segment from records in order.
pub(crate) struct Sealer {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
    offset: u64,
    block: Vec<u8>,
    footer: Footer,
    ids: HashSet<u128, RandomState>,
    builder: Builder,
    /// Packed columns of the blocks so far: some 30 bytes an entry.
    columns: Vec<Vec<u8>>,
}

impl Sealer {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let temporary = Temporary::of(path);
        let mut out = BufWriter::new(private(temporary.path())?);
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        let footer = Footer::new();
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out,
            offset: HEADER as u64,
            block: Vec::new(),
            footer,
            ids: HashSet::default(),
            builder: Builder::default(),
            columns: Vec::new(),
        })
    }

    /// Takes the next record, whole, and what it says if it is an entry or an adjustment.
    pub(crate) fn add(
        &mut self,
        seq: u64,
        unix_ms: u64,
        bytes: &[u8],
        event: Option<&Event>,
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
        if let Some(Event::Adjustment(adjustment)) = event {
            self.ids.insert(Name::Adjustment.number());
            self.ids.insert(adjustment.id.0.as_u128());
        }
        if let Some(Event::Entry(row)) = event {
            self.footer.entries += 1;
            self.ids.insert(row.id.0.as_u128());
            self.ids.insert(Name::Key(&row.key.0).number());
            if let Some(session) = &row.session {
                self.ids.insert(Name::Session(session).number());
            }
            self.builder.push(seq, unix_ms, row);
        }
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        let packed = zstd::stream::encode_all(self.block.as_slice(), LEVEL)?;
        self.block.clear();
        self.out.write_all(&packed)?;
        self.offset += packed.len() as u64;
        let columns = postcard::to_allocvec(&self.builder.finish()).map_err(io::Error::other)?;
        let packed = zstd::stream::encode_all(columns.as_slice(), LEVEL)?;
        self.columns.push([&crc32fast::hash(&packed).to_le_bytes(), packed.as_slice()].concat());
        Ok(())
    }

    /// Makes it durable under its name and opens it.
    pub(crate) fn finish(mut self) -> Result<Sealed, ScanError> {
        self.end_block()?;
        for packed in std::mem::take(&mut self.columns) {
            self.footer.columns.push(self.offset);
            self.out.write_all(&packed)?;
            self.offset += packed.len() as u64;
        }
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
        self.temporary.keep(&self.path)?;
        Sealed::open(&self.path)
    }
}

fn filter(ids: &HashSet<u128, RandomState>) -> Vec<u8> {
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
