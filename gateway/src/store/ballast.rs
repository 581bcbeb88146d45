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
    /// The size of the file that is there, which may be that of an earlier configuration.
    there: Option<u64>,
    /// It could not be made: not tried again.
    failed: bool,
}

impl Ballast {
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("ballast");
        let there = fs::metadata(&path).ok().map(|meta| meta.len());
        Self { path, bytes, there, failed: false }
    }

    /// The disk is full: room for what runs.
    pub(crate) fn give_up(&mut self) {
        if let Some(bytes) = self.there.take() {
            tracing::error!(bytes, "the disk is full: the ballast is given up");
            let _gone_already = fs::remove_file(&self.path);
        }
    }

    /// Makes it again if there is room for it twice. One of another size goes.
    pub(crate) fn take_back(&mut self, room: u64) {
        if self.there.is_some_and(|bytes| bytes != self.bytes || bytes == 0) {
            self.there = None;
            let _gone_already = fs::remove_file(&self.path);
        }
        if self.there.is_some() || self.failed || self.bytes == 0 || room / 2 < self.bytes {
            return;
        }
        match self.make() {
            Ok(()) => self.there = Some(self.bytes),
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
