//! A file that only takes up room: given up when the disk is full, so that what runs can be settled.
//!
//! **Invariant:** giving it up never fails the commit that needs the room, and it is taken back only
//! from room above the low-water mark.

use super::disk::private;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The file, or that there is none.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
    there: bool,
    /// It could not be made: not tried again.
    failed: bool,
}

impl Ballast {
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("ballast");
        let there = fs::metadata(&path).is_ok_and(|meta| meta.len() == bytes);
        Self { path, bytes, there, failed: false }
    }

    /// The disk is full: room for what runs.
    pub(crate) fn give_up(&mut self) {
        if std::mem::take(&mut self.there) {
            tracing::error!(bytes = self.bytes, "the disk is full: the ballast is given up");
            let _gone_already = fs::remove_file(&self.path);
        }
    }

    /// Makes it again if there is room for it twice.
    pub(crate) fn take_back(&mut self, room: u64) {
        if self.there || self.failed || self.bytes == 0 || room / 2 < self.bytes {
            return;
        }
        match self.make() {
            Ok(()) => self.there = true,
            Err(error) => {
                self.failed = true;
                tracing::warn!(%error, "no ballast can be kept on this disk");
                let _none_left = fs::remove_file(&self.path);
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        let file = private(&self.path)?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, self.bytes)?;
        file.sync_all()
    }
}
