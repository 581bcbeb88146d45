//! What came before the first segment that is kept: the derived state after the events that were
//! dropped, as keys and values.
//!
//! A file of [`whole`], of the postcard of: meta, pairs.
//!
//! **Invariant:** segments are deleted only after the base that replaces them is durable under its
//! name, so that at any moment a base and the segments after it are the whole.

use super::{
    index::{Changes, IndexError, Pairs, Range, Visit},
    whole::{self, Kind},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

const KIND: Kind = Kind { magic: *b"TOLLBASE", format: 1 };

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
        let base = Self::open(&path)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Some((next_seq, base)))
    }

    /// One by its path; `None` where there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let damaged = || {
            let text = format!("{} is damaged: restore it from a copy", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let unpacked = match whole::load(path, &KIND) {
            Ok(Some(unpacked)) => unpacked,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged()),
            Err(error) => return Err(error),
        };
        let held = postcard::from_bytes(&unpacked).map_err(|_| damaged())?;
        Ok(Some(Self(Mutex::new(held))))
    }

    /// Makes it durable as the base of everything below `next_seq`.
    pub(crate) fn save(&self, dir: &Path, next_seq: u64) -> io::Result<()> {
        self.save_to(&dir.join(name(next_seq)))
    }

    /// Makes it durable under any name.
    pub(crate) fn save_to(&self, path: &Path) -> io::Result<()> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = postcard::to_allocvec(&*held).map_err(io::Error::other)?;
        whole::save(path, &KIND, &bytes)
    }

    /// Deletes the bases that a newer one replaced.
    pub(crate) fn forget_old(dir: &Path) -> io::Result<()> {
        let mut files = files(dir)?;
        files.pop();
        files.into_iter().try_for_each(|(_, path)| fs::remove_file(path))
    }
}

fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    numbered(dir, "base")
}

/// The files of a directory whose name is a number and this ending, by their numbers.
pub(crate) fn numbered(dir: &Path, ending: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let stem =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = stem.filter(|_| path.extension().is_some_and(|end| end == ending)) {
            found.push((number, path));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{sealed::Sealer, writer::sealed_name};

    #[test]
    fn a_base_and_a_segment_that_begins_where_it_ends_are_written_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut sealer = Sealer::create(&dir.path().join(sealed_name(7))).unwrap();
        let base = Base::default();
        base.apply(Changes::default(), b"meta").unwrap();
        base.save(dir.path(), 7).unwrap();
        sealer.add(7, 1, b"a record", None).unwrap();
        sealer.finish().unwrap();
        let (next_seq, base) = Base::newest(dir.path()).unwrap().unwrap();
        assert_eq!((next_seq, base.meta().unwrap()), (7, Some(b"meta".to_vec())));
    }
}
