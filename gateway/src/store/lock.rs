//! One writer per data directory.
//!
//! **Invariant:** while a [`DirLock`] lives no other process can get one for the same directory;
//! it goes with the process, however that dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The exclusive right to write a data directory.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or `None` if another process holds it.
    pub(crate) fn take(dir: &Path) -> io::Result<Option<Self>> {
        let file = open(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Whether a process holds the directory for writing now.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn held(dir: &Path) -> io::Result<bool> {
    if !dir.join(NAME).exists() {
        return Ok(false);
    }
    match open(dir)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The file that is locked.
pub(crate) const NAME: &str = "lock";

fn open(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(NAME))
}
