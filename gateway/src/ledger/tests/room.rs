//! The zeros ahead of the live segment's end: they are room and never taken for anything else.

use super::harness::{
    House, all, ask, complete, done, head, house_of, records, request, segment, used, written,
};
use crate::{
    ledger::Reader,
    store::disk::{Disk, DiskFile, RealDisk},
};
use std::{fs, io, path::Path, sync::Arc};

/// Where the records end; zeros follow.
fn end_of(bytes: &[u8]) -> usize {
    records(bytes).last().map_or(32, |last| last.end)
}

/// A directory that a crash left after so many requests: room and no index.
fn crashed_after(requests: usize) -> (House, Vec<u8>) {
    let house = House::new();
    let books = house.open();
    for _ in 0..requests {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    let after = house.crashed();
    fs::remove_dir_all(after.data().join("index")).unwrap();
    let bytes = fs::read(segment(&after)).unwrap();
    (after, bytes)
}

fn aside(house: &House) -> usize {
    fs::read_dir(house.journal().join("torn")).map_or(0, Iterator::count)
}

#[test]
fn commits_lie_in_room_that_was_there_and_no_room_is_left_by_a_close() {
    let house = House::new();
    let books = house.open();
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    let length = || fs::metadata(segment(&house)).unwrap().len();
    let before = length();
    let ended = end_of(&fs::read(segment(&house)).unwrap());
    assert!(before > ended as u64 + (128 << 10), "{before} bytes, {ended} of records");
    for _ in 0..20 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    assert_eq!(length(), before, "no commit made the file longer");
    for _ in 0..1_000 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    assert!(length() > before, "and when it is used up there is more");
    books.close();
    let bytes = fs::read(segment(&house)).unwrap();
    assert_eq!(end_of(&bytes), bytes.len());
}

#[test]
fn a_crash_leaves_room_and_that_is_no_torn_tail() {
    let (house, bytes) = crashed_after(3);
    assert!(end_of(&bytes) < bytes.len());
    assert!(Reader::open(house.data()).unwrap().verify().is_clean());
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.torn_bytes, recovered.replayed_events, aside(&house)), (0, 6, 0));
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(all(&books).len(), 4);
    assert!(books.verify().is_clean());
    books.close();
    drop(books);
    assert_eq!(all(&house.open()).len(), 4);
}

#[test]
fn a_torn_commit_in_the_room_is_set_aside_without_it() {
    let (original, mut bytes) = crashed_after(3);
    let whole = end_of(&bytes);
    // A commit of which only the first part came to the disk; the last byte is not a zero.
    let rest: Vec<u8> = bytes[32..32 + 90].iter().map(|byte| byte | 1).collect();
    bytes[whole..whole + rest.len()].copy_from_slice(&rest);
    let house = house_of(&original, &bytes);
    let report = Reader::open(house.data()).unwrap().verify();
    assert!(report.is_clean(), "{report:?}");
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.torn_bytes, aside(&house)), (rest.len() as u64, 1));
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(all(&books).len(), 4);
    assert!(books.verify().is_clean());
}

#[test]
fn wherever_in_the_room_a_commit_was_torn_the_prefix_before_it_is_left() {
    let (original, bytes) = crashed_after(2);
    let last = records(&bytes)[3].clone();
    for cut in last.start..last.end {
        // What came after the cut was never written: the room is still there.
        let mut torn = bytes.clone();
        torn[cut..last.end].fill(0);
        if torn == bytes {
            continue;
        }
        let house = house_of(&original, &torn);
        let (books, recovered) = house.try_open().unwrap();
        assert_eq!((recovered.replayed_events, recovered.crashed_requests), (3, 1), "cut at {cut}");
        let written =
            torn[last.start..cut].iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        assert_eq!(recovered.torn_bytes, written as u64, "cut at {cut}");
        assert!(books.verify().is_clean());
    }
}

#[test]
fn damage_before_the_room_is_still_damage() {
    let (original, mut bytes) = crashed_after(3);
    bytes[32 + 40] ^= 1;
    let house = house_of(&original, &bytes);
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.damaged.len(), recovered.lost.len()), (1, 1));
    assert_eq!(fs::read(house.journal().join("00000000000000000001.journal")).unwrap(), bytes);
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(all(&books).len(), 4);
}

#[test]
fn room_that_was_left_in_a_full_segment_is_no_damage() {
    let house = House::new().with(|config| config.segment_entries_max = 2);
    let books = house.open();
    for _ in 0..3 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    books.close();
    drop(books);
    // As after a crash before the cut was on disk, and before the segment was sealed.
    let plain = written(2);
    let mut bytes = fs::read(segment(&plain)).unwrap();
    bytes.resize(bytes.len() + 10_000, 0);
    let first = house.journal().join("00000000000000000001.journal");
    fs::write(&first, bytes).unwrap();
    let _may_be_sealed_already = fs::remove_file(first.with_extension("sealed"));
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.damaged.len(), recovered.lost.len()), (0, 0), "{recovered:?}");
    assert_eq!(all(&books).len(), 3);
}

/// A disk that has room for records and for nothing larger.
#[derive(Debug)]
struct Narrow;

#[derive(Debug)]
struct NarrowFile(Box<dyn DiskFile>);

impl Disk for Narrow {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(NarrowFile(RealDisk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(NarrowFile(RealDisk.open(path)?)))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

impl DiskFile for NarrowFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fits = bytes.len().min(64 << 10);
        self.0.write_at(&bytes[..fits], offset)?;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
}

#[test]
fn a_disk_without_room_for_the_zeros_still_takes_commits() {
    let house = House::new();
    let books = house.open_on(Arc::new(Narrow));
    let mut open = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, ticket) = open.reserve(ask("1", 10)).unwrap();
    ticket.blocking().unwrap();
    complete(&mut open, index, used(1, 1));
    open.finish(done(index)).blocking().unwrap();
    for _ in 0..5 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    let crashed = house.crashed();
    let after = crashed.open();
    assert_eq!(all(&after).len(), 6);
    assert!(after.verify().is_clean());
}
