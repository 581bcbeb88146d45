//! sled: what is looked up and can be rebuilt from the journal.
//!
//! **Invariants:** a batch is applied with the number of the last event it reflects, in one step,
//! so that what is read back is the state after exactly that event; a directory that cannot be
//! read is set aside, never repaired, because the journal can rebuild it. Values are kept below
//! 4 KiB (sled moves larger ones to files it does not sync).

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// sled's own cache. Its memory grows to several times this.
const CACHE_BYTES: u64 = 4 << 20;
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
}

/// Sees a key and its value.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), IndexError> + 'a;

/// Changes that belong together.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Keys and values that are the state after exactly one event: the index, or a base of the journal.
pub(crate) trait Pairs {
    /// What the last changes were tagged with.
    fn meta(&self) -> Result<Option<Vec<u8>>, IndexError>;

    /// Every stored part of a value whose key begins with `prefix`, in order of keys.
    fn parts(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError>;

    /// Applies the changes in one step, tagged with `meta`, and makes them durable.
    fn apply(&self, changes: Changes, meta: &[u8]) -> Result<(), IndexError>;

    /// Every value whose key begins with `prefix`, in order of keys.
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
        self.parts(prefix, &mut |key, part| {
            let Some((key, chunk)) = key.split_last_chunk::<2>() else {
                return Err(IndexError::Value);
            };
            if *chunk != [0, 0] {
                return match &mut open {
                    Some((name, value)) if name == key => {
                        value.extend_from_slice(part);
                        Ok(())
                    }
                    _ => Err(IndexError::Value),
                };
            }
            match open.replace((key.to_vec(), part.to_vec())) {
                Some((key, value)) => visit(&key, &value),
                None => Ok(()),
            }
        })?;
        match open {
            Some((key, value)) => visit(&key, &value),
            None => Ok(()),
        }
    }

    /// Has everything with this prefix removed, but for keys from `from` on.
    fn remove_until(
        &self,
        prefix: &[u8],
        from: Option<&[u8]>,
        changes: &mut Changes,
    ) -> Result<(), IndexError> {
        self.parts(prefix, &mut |key, _| {
            if from.is_none_or(|from| key < from) {
                changes.0.push((key.to_vec(), None));
            }
            Ok(())
        })
    }
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
        catch_unwind(AssertUnwindSafe(open)).unwrap_or(Err(IndexError::Panicked))
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

    fn parts(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), IndexError> {
        for item in self.db.scan_prefix(prefix) {
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
