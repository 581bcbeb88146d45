//! sled: what is looked up and can be rebuilt from the journal.
//!
//! **Invariants:** a batch is applied with the number of the last event it reflects, in one step,
//! so that what is read back is the state after exactly that event; a directory that cannot be
//! read is set aside, never repaired, because the journal can rebuild it. Values are kept below
//! 4 KiB (sled moves larger ones to files it does not sync).

use super::lock::patiently;
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

/// sled's own cache. Its memory grows to several times this.
const CACHE_BYTES: u64 = 4 << 20;
/// How long one that was closed may still be locked: a thread of sled's lets go of it when it gets to that.
const CLOSED_IN: Duration = Duration::from_secs(2);
const VALUE_BYTES_MAX: usize = 4 << 10;
const META: &[u8] = b"\0meta";

/// Why the index does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("sled panicked")]
    Panicked,
    #[error("a value of the index cannot be read")]
    Value,
    #[error(
        "it could not be written for so long that sums were given up; the next start adds them up"
    )]
    GivenUp,
}

impl IndexError {
    /// Whether another process has it open. sled says so in words alone.
    pub(crate) fn is_in_use(&self) -> bool {
        let Self::Sled(sled::Error::Io(error)) = self else { return false };
        error.kind() == io::ErrorKind::Other
            && error.to_string().starts_with("could not acquire lock")
    }

    /// Whether it says something of the machine (no room, no descriptor) and nothing of the index.
    pub(crate) fn is_the_machines(&self) -> bool {
        let (Self::Sled(sled::Error::Io(error)) | Self::Io(error)) = self else { return false };
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
        );
        full || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }
}

/// Sees a key and its value.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), IndexError> + 'a;

/// From where to where, by keys.
pub(crate) type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Changes that belong together.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Keys and values that are the state after exactly one event: the index, or a base of the journal.
pub(crate) trait Pairs {
    /// What the last changes were tagged with.
    fn meta(&self) -> Result<Option<Vec<u8>>, IndexError>;

    /// Every stored part of a value whose key lies in the range, in order of keys.
    fn range(&self, range: Range<'_>, visit: &mut Visit<'_>) -> Result<(), IndexError>;

    /// Applies the changes in one step, tagged with `meta`, and makes them durable.
    fn apply(&self, changes: Changes, meta: &[u8]) -> Result<(), IndexError>;

    /// Every stored part of a value whose key begins with `prefix`, in order of keys.
    fn parts(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        let after = after(prefix);
        let to = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range((Bound::Included(prefix), to), visit)
    }

    /// Every value whose key begins with `prefix`, in order of keys.
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
        let mut chunks = 0;
        self.parts(prefix, &mut |key, part| {
            let Some((key, chunk)) = key.split_last_chunk::<2>() else {
                return Err(IndexError::Value);
            };
            let chunk = u16::from_be_bytes(*chunk);
            if chunk == 0 {
                chunks = 1;
                return match open.replace((key.to_vec(), part.to_vec())) {
                    Some((key, value)) => visit(&key, &value),
                    None => Ok(()),
                };
            }
            match &mut open {
                Some((name, value)) if name == key => {
                    // Beyond a missing part lies what a longer, earlier value left.
                    if chunk == chunks {
                        value.extend_from_slice(part);
                        chunks += 1;
                    }
                    Ok(())
                }
                _ => Err(IndexError::Value),
            }
        })?;
        match open {
            Some((key, value)) => visit(&key, &value),
            None => Ok(()),
        }
    }

    /// Has everything with this prefix removed.
    fn remove(&self, prefix: &[u8], changes: &mut Changes) -> Result<(), IndexError> {
        self.parts(prefix, &mut |key, _| {
            changes.0.push((key.to_vec(), None));
            Ok(())
        })
    }

    /// Has everything from `from` on and before `until` removed. Reads no more than that.
    fn remove_between(
        &self,
        from: &[u8],
        until: &[u8],
        changes: &mut Changes,
    ) -> Result<(), IndexError> {
        self.range((Bound::Included(from), Bound::Excluded(until)), &mut |key, _| {
            changes.0.push((key.to_vec(), None));
            Ok(())
        })
    }
}

/// The least key after all that begin with `prefix`; `None` where there is none.
fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// The key-value store.
#[derive(Debug)]
pub(crate) struct Index {
    db: sled::Db,
    dir: PathBuf,
}

impl Index {
    /// Opens it, or `Err` if it is broken. sled panics on some damage: that is an error here.
    pub(crate) fn open(dir: &Path) -> Result<Self, IndexError> {
        let open = || -> Result<Self, IndexError> {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .mode(sled::Mode::LowSpace)
                .open()?;
            let index = Self { db, dir: dir.to_owned() };
            // Reads everything once: damage shows here and not later.
            for item in index.db.iter() {
                item?;
            }
            Ok(index)
        };
        let open = || catch_unwind(AssertUnwindSafe(open)).unwrap_or(Err(IndexError::Panicked));
        let opened = patiently(CLOSED_IN, || match open() {
            Err(error) if error.is_in_use() => None,
            tried => Some(tried),
        });
        opened.unwrap_or_else(open)
    }

    /// Moves a broken directory out of the way; returns where to.
    pub(crate) fn set_aside(dir: &Path, now_ms: u64) -> io::Result<PathBuf> {
        let aside = dir.with_extension(format!("broken-{now_ms}"));
        fs::rename(dir, &aside)?;
        Ok(aside)
    }

    /// Whether nothing was ever written to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.db.is_empty()
    }
}

impl Pairs for Index {
    fn meta(&self) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.db.get(META)?.map(|value| value.to_vec()))
    }

    fn range(&self, range: Range<'_>, visit: &mut Visit<'_>) -> Result<(), IndexError> {
        for item in self.db.range::<&[u8], _>(range) {
            let (key, part) = item?;
            visit(&key, &part)?;
        }
        Ok(())
    }

    fn apply(&self, changes: Changes, meta: &[u8]) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes.0 {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch.insert(META, meta);
        let apply = || -> Result<(), IndexError> {
            self.db.apply_batch(batch)?;
            self.db.flush()?;
            // sled's own flush is not durable on Linux.
            File::open(self.dir.join("db"))?.sync_data()?;
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(apply)).unwrap_or(Err(IndexError::Panicked))
    }
}

impl Changes {
    /// Everything that `pairs` has.
    pub(crate) fn copy_of(pairs: &impl Pairs) -> Result<Self, IndexError> {
        let mut all = Self::default();
        pairs.parts(&[], &mut |key, part| {
            all.0.push((key.to_vec(), Some(part.to_vec())));
            Ok(())
        })?;
        Ok(all)
    }

    /// The changes in their order: key, and its value or that it goes.
    pub(crate) fn all(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        self.0.into_iter()
    }

    /// Sets `key` to `value`, in parts where it is large.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let mut rest = value;
        let mut chunk: u16 = 0;
        loop {
            let (part, next) = rest.split_at(rest.len().min(VALUE_BYTES_MAX));
            self.0.push(([key, &chunk.to_be_bytes()].concat(), Some(part.to_vec())));
            chunk = chunk.saturating_add(1);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        // Whatever a longer, earlier value had after this.
        self.0.push(([key, &chunk.to_be_bytes()].concat(), None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(index: &Index, key: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        index
            .scan(key, &mut |_, value| {
                found.push(value.to_vec());
                Ok(())
            })
            .unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn a_value_is_read_whole_whatever_was_longer_or_shorter_before() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        for parts in [1, 7, 2, 5, 1, 3] {
            let long = vec![u8::try_from(parts).unwrap(); parts * VALUE_BYTES_MAX - 9];
            let mut changes = Changes::default();
            changes.put(b"one", &long);
            index.apply(changes, b"meta").unwrap();
            assert_eq!(value(&index, b"one"), long, "{parts} parts");
        }
    }

    #[test]
    fn what_the_machine_lacks_is_told_from_what_is_wrong_with_the_index() {
        let of = |errno: Errno| IndexError::Sled(sled::Error::Io(errno.into())).is_the_machines();
        assert!(of(Errno::NOSPC) && of(Errno::DQUOT) && of(Errno::ROFS) && of(Errno::MFILE));
        assert!(!of(Errno::IO) && !of(Errno::ISDIR));
        let torn = sled::Error::Corruption { at: None, bt: () };
        assert!(!IndexError::from(torn).is_the_machines() && !IndexError::Value.is_the_machines());
    }

    #[test]
    fn an_index_that_another_has_open_is_in_use_and_not_broken() {
        let dir = tempfile::tempdir().unwrap();
        let first = Index::open(dir.path()).unwrap();
        let second = Index::open(dir.path()).unwrap_err();
        assert!(second.is_in_use() && !second.is_the_machines(), "{second}");
        drop(first);
        Index::open(dir.path()).unwrap();
    }

    #[test]
    fn what_is_removed_between_two_keys_is_that_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        for key in [&b"a"[..], b"b1", b"b2", b"b\xff", b"c"] {
            changes.put(key, key);
        }
        index.apply(changes, b"meta").unwrap();
        let mut changes = Changes::default();
        index.remove_between(b"b2", b"b\xff", &mut changes).unwrap();
        index.remove(b"a", &mut changes).unwrap();
        index.apply(changes, b"meta").unwrap();
        for (key, left) in [(&b"a"[..], 0), (b"b1", 1), (b"b2", 0), (b"b\xff", 1), (b"c", 1)] {
            let mut found = 0;
            let looked = index.parts(key, &mut |_, _| {
                found += 1;
                Ok(())
            });
            looked.unwrap();
            assert_eq!(found, left, "{key:?}");
        }
        assert_eq!(after(b"b\xff"), Some(b"c".to_vec()));
        assert_eq!(after(b"\xff\xff"), None);
    }
}
