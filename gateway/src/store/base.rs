//! What came before the first segment that is kept: the derived state after the events that were
//! dropped, as keys and values.
//!
//! ```text
//! 0   8 bytes  "TOLLBASE"
//! 8   u32      format version
//! 12  u32      CRC-32 of the rest
//! 16  zstd frame of the postcard of: meta, pairs
//! ```
//! **Invariant:** segments are deleted only after the base that replaces them is durable under its
//! name, so that at any moment a base and the segments after it are the whole.

use super::{
    disk::{private, sync_parent},
    index::{Changes, IndexError, Pairs, Range, Visit},
    record::u32_at,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const MAGIC: [u8; 8] = *b"TOLLBASE";
const FORMAT: u32 = 1;
const HEADER: usize = 16;
const LEVEL: i32 = 3;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A base in memory.
#[derive(Debug, Default)]
pub(crate) struct Base(Mutex<(Vec<u8>, Map)>);

/// File name of the base that stands for everything below `next_seq`.
fn name(next_seq: u64) -> String {
    format!("{next_seq:020}.base")
}

impl Base {
    /// The number of the first event that no base stands for: 1 without any.
    pub(crate) fn begins(dir: &Path) -> io::Result<u64> {
        Ok(files(dir)?.pop().map_or(1, |(next_seq, _)| next_seq))
    }

    /// The newest base of a journal, and the number of the first event that it does not hold.
    pub(crate) fn newest(dir: &Path) -> io::Result<Option<(u64, Self)>> {
        let Some((next_seq, path)) = files(dir)?.pop() else { return Ok(None) };
        let bytes = fs::read(&path)?;
        let damaged = || {
            let text = format!("{} is damaged: restore it from a copy", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        if bytes.len() < HEADER || bytes[..8] != MAGIC || u32_at(&bytes, 8) != FORMAT {
            return Err(damaged());
        }
        if crc32fast::hash(&bytes[HEADER..]) != u32_at(&bytes, 12) {
            return Err(damaged());
        }
        let unpacked = zstd::stream::decode_all(&bytes[HEADER..])?;
        let held = postcard::from_bytes(&unpacked).map_err(|_| damaged())?;
        Ok(Some((next_seq, Self(Mutex::new(held)))))
    }

    /// Makes it durable as the base of everything below `next_seq`.
    pub(crate) fn save(&self, dir: &Path, next_seq: u64) -> io::Result<()> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = postcard::to_allocvec(&*held).map_err(io::Error::other)?;
        let packed = zstd::stream::encode_all(bytes.as_slice(), LEVEL)?;
        let path = dir.join(name(next_seq));
        let temporary = path.with_extension("tmp");
        let mut file = private(&temporary)?;
        file.write_all(&MAGIC)?;
        file.write_all(&FORMAT.to_le_bytes())?;
        file.write_all(&crc32fast::hash(&packed).to_le_bytes())?;
        file.write_all(&packed)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_parent(&path)
    }

    /// Deletes the bases that a newer one replaced.
    pub(crate) fn forget_old(dir: &Path) -> io::Result<()> {
        let mut files = files(dir)?;
        files.pop();
        files.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let stem =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(next_seq), Some("base")) = (stem, path.extension().and_then(|e| e.to_str())) {
            found.push((next_seq, path));
        }
    }
    found.sort();
    Ok(found)
}

impl Pairs for Base {
    fn meta(&self) -> Result<Option<Vec<u8>>, IndexError> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((!held.0.is_empty()).then(|| held.0.clone()))
    }

    fn range(&self, range: Range<'_>, visit: &mut Visit<'_>) -> Result<(), IndexError> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.1.range::<[u8], _>(range).try_for_each(|(key, part)| visit(key, part))
    }

    fn apply(&self, changes: Changes, meta: &[u8]) -> Result<(), IndexError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes.all() {
            match value {
                Some(value) => held.1.insert(key, value),
                None => held.1.remove(&key),
            };
        }
        held.0 = meta.to_vec();
        Ok(())
    }
}
