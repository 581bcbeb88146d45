//! The live segment: appends batches, syncs them, rolls over when it is full.
//!
//! Ahead of the end the file holds zeros ([`ROOM_BYTES`]), so that a commit changes bytes of a file
//! whose length and blocks are on disk already and its sync writes those bytes and no metadata.
//! Measured on ext4, 700 bytes a commit: 58 us of processor time instead of 84, 175 us instead of
//! 250 until it is durable.
//!
//! **Invariants:** `end` is the end of what is durable. Nothing is written to a file whose name is gone
//! or stands for another one: no start would find it again. A failed append or sync leaves the file to
//! be cut back to `end`, through a fresh handle, before anything else is written to it. After `end`
//! there is nothing but zeros, in a segment that is closed or followed by another not even those
//! (if the file system lets them be cut off).

use super::{
    catalogue::{Catalogue, Plain},
    disk::{Disk, DiskFile},
    record,
    segment::{FILE_HEADER, MARK_RECORDS, Mark, file_header, open_read},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Zeros that are written at once, ahead of the records.
const ROOM_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    identity: Identity,
    catalogue: Arc<Catalogue>,
    first_seq: u64,
    next_seq: u64,
    last_ms: u64,
    end: u64,
    /// Up to here there are zeros.
    room: u64,
    broken: bool,
    marks: Vec<Mark>,
    /// Records of `counted_kind` so far.
    pub(crate) counted: u32,
    counted_kind: u8,
}

/// Which file it is: device and inode.
type Identity = (u64, u64);

fn identity(meta: &fs::Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

impl Writer {
    /// Goes on with the catalogue's last plain segment.
    pub(crate) fn resume(
        disk: Arc<dyn Disk>,
        catalogue: Arc<Catalogue>,
        live: &Plain,
        counted: u32,
        counted_kind: u8,
    ) -> io::Result<Self> {
        let file = disk.open(&live.path)?;
        let identity = identity(&live.file.metadata()?);
        Ok(Self {
            disk,
            dir: live.path.parent().unwrap_or(Path::new(".")).to_owned(),
            path: live.path.clone(),
            file,
            identity,
            catalogue,
            first_seq: live.first_seq,
            next_seq: live.next_seq,
            last_ms: live.last_ms,
            end: live.end,
            room: live.end,
            broken: false,
            marks: Vec::new(),
            counted,
            counted_kind,
        })
    }

    /// Number the next record gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Numbers the first `count` records of `bytes`, writes and syncs them: their length and the
    /// commit's time.
    pub(crate) fn commit(
        &mut self,
        bytes: &mut [u8],
        count: usize,
        now_ms: u64,
    ) -> io::Result<(usize, u64)> {
        self.check()?;
        let unix_ms = now_ms.max(self.last_ms);
        let mut size = 0;
        let mut counted = 0;
        self.marks.clear();
        for place in 0..count {
            let seq = self.next_seq + place as u64;
            if (seq - self.first_seq).is_multiple_of(MARK_RECORDS) {
                self.marks.push(Mark { offset: self.end + size as u64, seq, unix_ms });
            }
            counted += u32::from(bytes[size + 26] == self.counted_kind);
            let place = u16::try_from(place).unwrap_or(u16::MAX);
            size += record::stamp(&mut bytes[size..], seq, unix_ms, place)
                .ok_or_else(|| io::Error::other("the queue holds half a record"))?;
        }
        self.broken = true;
        self.make_room(self.end + size as u64);
        self.file.write_at(&bytes[..size], self.end)?;
        self.file.sync()?;
        self.broken = false;
        self.end += size as u64;
        self.next_seq += count as u64;
        self.last_ms = unix_ms;
        self.counted += counted;
        self.catalogue.grew(self.next_seq, self.last_ms, self.end, &self.marks);
        Ok((size, unix_ms))
    }

    /// Whether it can be written to: its name stands for it, and it ends where what is durable does.
    /// After a failure that takes a fresh handle, and a cut.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let gone = |error: io::Error| {
            io::Error::new(error.kind(), format!("the journal's segment is gone: {error}"))
        };
        if identity(&fs::metadata(&self.path).map_err(gone)?) != self.identity {
            return Err(io::Error::other("another file stands where the journal's segment was"));
        }
        if self.broken {
            self.file = self.disk.open(&self.path)?;
            self.file.truncate(self.end)?;
            self.file.sync()?;
            self.broken = false;
            self.room = self.end;
        }
        Ok(())
    }

    /// Zeros after `end`, where the next commit will end, if there are none. A disk without room
    /// for them may have some for the commit.
    fn make_room(&mut self, end: u64) {
        if end > self.room && self.file.write_at(&vec![0; ROOM_BYTES], end).is_ok() {
            self.room = end + ROOM_BYTES as u64;
        }
    }

    /// Cuts the zeros off: nothing more is written to this segment.
    pub(crate) fn close(&mut self) {
        if self.room > self.end && !self.broken && self.file.truncate(self.end).is_ok() {
            self.room = self.end;
        }
    }

    /// Begins the next segment.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        self.close();
        let (plain, file) = create(&*self.disk, &self.dir, self.next_seq, self.last_ms)?;
        self.identity = identity(&plain.file.metadata()?);
        self.path.clone_from(&plain.path);
        self.file = file;
        self.first_seq = self.next_seq;
        self.end = FILE_HEADER as u64;
        self.room = self.end;
        self.counted = 0;
        self.catalogue.push(plain);
        Ok(())
    }
}

/// Creates an empty segment, durable with its header.
pub(crate) fn create(
    disk: &dyn Disk,
    dir: &Path,
    first_seq: u64,
    unix_ms: u64,
) -> io::Result<(Plain, Box<dyn DiskFile>)> {
    let path = dir.join(plain_name(first_seq));
    // What is left of an attempt that failed holds nothing.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let begun = |path| -> io::Result<_> {
        let mut file = disk.create(path)?;
        file.write_at(&file_header(first_seq, unix_ms), 0)?;
        file.sync()?;
        Ok((Arc::new(open_read(path)?), file))
    };
    // What cannot be removed now is passed over when the journal is opened.
    let (read, file) = begun(&path).inspect_err(|_| drop(fs::remove_file(&path)))?;
    let plain = Plain {
        file: read,
        path,
        first_seq,
        next_seq: first_seq,
        last_ms: unix_ms,
        end: FILE_HEADER as u64,
        marks: Vec::new(),
        damage: None,
    };
    Ok((plain, file))
}

/// File name of a plain segment: names sort as numbers do.
pub(crate) fn plain_name(first_seq: u64) -> String {
    format!("{first_seq:020}.journal")
}

/// File name of a sealed one.
pub(crate) fn sealed_name(first_seq: u64) -> String {
    format!("{first_seq:020}.sealed")
}
