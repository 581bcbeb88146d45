//! One writer per data directory.
//!
//! **Invariant:** while a [`DirLock`] lives no other process can get one for the same directory, also if
//! the lock's file is removed: the directory is locked itself where its file system can do that. The lock
//! goes with the process, however that dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a lock is waited for: who asks whether a directory is [`held`] has it for a moment.
const ASKED_FOR: Duration = Duration::from_millis(200);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// The exclusive right to write a data directory.
#[derive(Debug)]
pub(crate) struct DirLock {
    _held: [Option<File>; 2],
}

impl DirLock {
    /// Takes the lock, or `None` if another process holds it. Blocks for a moment then.
    pub(crate) fn take(dir: &Path) -> io::Result<Option<Self>> {
        patiently(ASKED_FOR, || Self::try_take(dir).transpose()).transpose()
    }

    fn try_take(dir: &Path) -> io::Result<Option<Self>> {
        let file = open(dir)?;
        let directory = File::open(dir)?;
        match (locked(file.try_lock())?, locked(directory.try_lock())) {
            (true, Ok(true)) => Ok(Some(Self { _held: [Some(file), Some(directory)] })),
            // Some network file systems lock files alone.
            (true, Err(_)) => Ok(Some(Self { _held: [Some(file), None] })),
            _ => Ok(None),
        }
    }
}

/// What `attempt` gives, tried again for a while where it gives nothing. Blocks.
pub(crate) fn patiently<T>(longest: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            None if began.elapsed() < longest => thread::park_timeout(TRY_EVERY),
            tried => return tried,
        }
    }
}

/// Whether a process holds the directory for writing now.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn held(dir: &Path) -> io::Result<bool> {
    let is_held = |file: File| locked(file.try_lock_shared()).map(|free| !free);
    // The directory first: the lock's file may be gone, or another one by now.
    if File::open(dir).and_then(is_held).unwrap_or(false) {
        return Ok(true);
    }
    if !dir.join(NAME).exists() {
        return Ok(false);
    }
    is_held(open(dir)?)
}

/// Whether the lock was got.
fn locked(tried: Result<(), TryLockError>) -> io::Result<bool> {
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_asks_keeps_no_server_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let asks = File::open(dir.path()).unwrap();
        asks.try_lock_shared().unwrap();
        let mut tried = 0;
        let lock = patiently(Duration::from_secs(600), || {
            tried += 1;
            if tried == 3 {
                asks.unlock().unwrap();
            }
            DirLock::try_take(dir.path()).unwrap()
        });
        assert!(lock.is_some() && held(dir.path()).unwrap());
        assert!(patiently(Duration::ZERO, || DirLock::try_take(dir.path()).unwrap()).is_none());
    }

    #[test]
    fn a_directory_whose_lock_file_is_gone_is_held_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!held(dir.path()).unwrap());
        let lock = DirLock::take(dir.path()).unwrap().unwrap();
        assert!(held(dir.path()).unwrap());
        assert!(DirLock::take(dir.path()).unwrap().is_none());
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        assert!(held(dir.path()).unwrap());
        assert!(DirLock::take(dir.path()).unwrap().is_none());
        // A new file of the name, which the holder does not have locked, changes nothing.
        assert!(dir.path().join(NAME).exists() && held(dir.path()).unwrap());
        drop(lock);
        assert!(!held(dir.path()).unwrap());
        DirLock::take(dir.path()).unwrap().unwrap();
    }
}
