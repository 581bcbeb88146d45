//! A backup is the ledger once more, brought up to date file by file, and never worse than it was.

use super::harness::{House, NOON, all, ask, copy, key, money, request, used};
use crate::{
    backup::{Backup, BackupError, backup},
    caller::{HASH_KEY_FILE, Window},
    ledger::{Books, BooksConfig, Filter, Reader, keeper::seal_all},
    store::lock::{self, DirLock},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

const DAY_MS: u64 = 86_400_000;

/// A ledger in segments of five entries, and a place for its backup.
struct Kept {
    house: House,
    books: Books,
    asked: u64,
    to: PathBuf,
    _dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let house = House::new().with(|config| config.segment_entries_max = 5);
        let books = house.open();
        fs::write(house.data().join(HASH_KEY_FILE), "of this ledger").unwrap();
        books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { house, books, asked: 0, to: dir.path().join("backup"), _dir: dir }
    }

    fn requests(&mut self, count: u64) {
        for _ in 0..count {
            self.asked += 1;
            self.house.hand.set(NOON + self.asked * 1_000);
            request(&self.books, "key_a", ask("1", 10), used(self.asked % 1_000, 1)).unwrap();
        }
    }

    fn sealed(&self) {
        self.books.catch_up();
        seal_all(&self.books.0.catalogue, &false.into()).unwrap();
    }

    fn backup(&self) -> Result<Backup, BackupError> {
        backup(self.house.data(), &self.to)
    }

    /// The backup holds what the ledger holds. A copy of it is opened, since a start writes.
    fn is_the_ledger(&self) {
        let served = tempfile::tempdir().unwrap();
        let mut config = self.house.config.clone();
        config.dir = served.path().join("data");
        copy(&self.to, &config.dir).unwrap();
        let served = Books::open(config, self.house.clock.clone()).unwrap().0;
        assert_eq!(all(&served), all(&self.books));
        assert_eq!(served.budgets(), self.books.budgets());
        assert!(served.verify().is_clean(), "{:?}", served.verify());
        served.close();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap().map(|item| item.unwrap().file_name());
    let mut names: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes bytes in the middle of a file go bad.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0xA5);
    fs::write(path, bytes).unwrap();
}

/// Makes the last bytes of the first `length` of a file go bad.
fn spoil_record(path: &Path, length: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[length - 40..length].fill(0xA5);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_backup_is_the_ledger_and_the_next_one_writes_only_what_is_new() {
    let mut kept = Kept::new();
    kept.requests(12);
    kept.sealed();
    let first = kept.backup().unwrap();
    assert!(first.report.is_clean(), "{:?}", first.report);
    assert_eq!((first.report.entries, first.last_unix_ms), (12, NOON + 12_000));
    kept.is_the_ledger();

    let again = kept.backup().unwrap();
    assert_eq!((again.files, again.bytes), (0, 0), "nothing is new");
    kept.requests(1);
    let live = kept.backup().unwrap();
    assert_eq!(live.files, 1, "only the segment that is written");
    kept.is_the_ledger();

    // What was plain at one backup and sealed at the next is there once.
    let left = kept.to.join("journal/00000000000000000001.journal");
    fs::write(&left, "of before").unwrap();
    kept.requests(7);
    kept.sealed();
    kept.backup().unwrap();
    assert!(!left.exists());
    kept.is_the_ledger();
    assert_eq!(fs::read(kept.to.join(HASH_KEY_FILE)).unwrap(), b"of this ledger");
    assert!(!names(&kept.to.join("journal")).iter().any(|name| name.ends_with("tmp")));
}

#[test]
fn a_damaged_segment_replaces_no_whole_copy_of_it() {
    let mut kept = Kept::new();
    kept.requests(12);
    kept.sealed();
    kept.backup().unwrap();
    let first = kept.house.journal().join("00000000000000000001.sealed");
    let good = fs::read(&first).unwrap();
    spoil(&first);
    kept.requests(1);
    let made = kept.backup().unwrap();
    let copied = kept.to.join("journal/00000000000000000001.sealed");
    assert_eq!(made.kept, std::slice::from_ref(&copied));
    assert_eq!(fs::read(&copied).unwrap(), good);
    assert!(made.report.is_clean(), "the copy has everything: {:?}", made.report);
    assert_eq!(made.report.entries, 13);

    // One that goes on is copied, and the whole beginning that was there is kept beside it.
    let live = names(&kept.house.journal()).into_iter().rfind(|name| name.ends_with("journal"));
    let live = live.unwrap();
    let good_beginning = fs::read(kept.to.join("journal").join(&live)).unwrap();
    spoil_record(&kept.house.journal().join(&live), good_beginning.len());
    kept.requests(1);
    let made = kept.backup().unwrap();
    let aside = kept.to.join("journal/aside");
    assert_eq!((made.kept.len(), names(&aside).len()), (2, 1), "{:?}", made.kept);
    assert_eq!(fs::read(aside.join(&names(&aside)[0])).unwrap(), good_beginning);
    assert!(names(&aside)[0].ends_with(&live), "{:?}", names(&aside));
    assert!(!made.report.is_clean(), "the copy is the ledger's, damage and all");
    kept.requests(1);
    kept.backup().unwrap();
    assert_eq!(names(&aside).len(), 1, "what is damaged in the copy too takes no place");

    // Without a better one it is copied as it is, and said.
    fs::remove_dir_all(&kept.to).unwrap();
    let made = kept.backup().unwrap();
    assert!(made.kept.is_empty() && !made.report.is_clean());
    assert!(!made.report.lost.is_empty(), "{:?}", made.report);
    assert_eq!(fs::read(&copied).unwrap(), fs::read(&first).unwrap());
}

#[test]
fn what_the_ledger_has_dropped_is_dropped_from_the_copy_and_still_counted() {
    let mut kept = Kept::new();
    kept.requests(10);
    kept.sealed();
    kept.backup().unwrap();
    kept.house.hand.set(NOON + 10 * DAY_MS);
    kept.asked += 10 * DAY_MS / 1_000;
    kept.requests(6);
    kept.sealed();
    assert!(kept.books.retire(NOON + DAY_MS).unwrap().segments > 0);
    kept.backup().unwrap();
    let reader = Reader::open(&kept.to).unwrap();
    let entries = reader.requests(&Filter::default(), None, 100).unwrap().entries.len();
    assert_eq!(entries, all(&kept.books).len(), "the others are gone");
    assert!(entries < 16);
    let bases = names(&kept.to.join("journal"));
    assert_eq!(bases.iter().filter(|name| name.ends_with("base")).count(), 1, "{bases:?}");
    kept.is_the_ledger();
}

#[test]
fn nothing_is_written_over_what_is_no_backup_of_this_ledger() {
    let mut kept = Kept::new();
    kept.requests(3);
    let refused = |to: &Path| match backup(kept.house.data(), to) {
        Err(error @ BackupError::Place { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let says = |to: &Path, what: &str| assert!(refused(to).contains(what), "{}", refused(to));
    says(kept.house.data(), "is the ledger itself");
    says(&kept.house.data().join("some/backup"), "one is in the other");
    assert!(!kept.house.data().join("some").exists(), "nothing was changed");
    says(kept.house.data().parent().unwrap(), "one is in the other");

    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("letters"), "dear").unwrap();
    says(full.path(), "neither empty nor a backup");
    assert_eq!(names(full.path()), ["letters"]);
    let mode = |dir: &Path| fs::metadata(dir).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(full.path(), fs::Permissions::from_mode(0o755)).unwrap();
    says(full.path(), "neither empty nor a backup");
    assert_eq!(mode(full.path()), 0o755, "it stays as it was");

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join(HASH_KEY_FILE), "of another").unwrap();
    says(other.path(), "is of another ledger");

    // One that was killed at once is gone on with.
    fs::create_dir(&kept.to).unwrap();
    fs::write(kept.to.join(lock::NAME), "").unwrap();
    fs::write(kept.to.join("hash.key.tmp"), "of th").unwrap();
    fs::set_permissions(&kept.to, fs::Permissions::from_mode(0o700)).unwrap();
    kept.backup().unwrap();
    assert_eq!(mode(&kept.to), 0o700);
    let held = DirLock::take(&kept.to).unwrap().unwrap();
    says(&kept.to, "in use by another process");
    drop(held);

    // The ledger was set back to what it was before the backup.
    let older = House::new().with(|config| config.segment_entries_max = 5);
    older.open().close();
    fs::write(older.data().join(HASH_KEY_FILE), "of this ledger").unwrap();
    let before = names(&kept.to.join("journal"));
    let error = backup(older.data(), &kept.to).unwrap_err();
    assert!(error.to_string().contains("holds later events"), "{error}");
    assert_eq!(names(&kept.to.join("journal")), before);
}

#[test]
fn a_copy_that_was_served_is_brought_up_to_date_unless_it_went_its_own_way() {
    let mut kept = Kept::new();
    kept.requests(3);
    kept.backup().unwrap();
    let config = BooksConfig { dir: kept.to.clone(), ..kept.house.config.clone() };
    Books::open(config.clone(), kept.house.clock.clone()).unwrap().0.close();
    assert!(kept.to.join("index").exists());
    kept.requests(3);
    assert!(kept.backup().unwrap().report.is_clean());
    assert!(!kept.to.join("index").exists(), "it is made anew from what is there now");
    kept.is_the_ledger();

    let served = Books::open(config, kept.house.clock.clone()).unwrap().0;
    kept.house.hand.set(NOON + DAY_MS);
    request(&served, "key_a", ask("1", 10), used(1, 1)).unwrap();
    served.close();
    drop(served);
    kept.asked += 2 * DAY_MS / 1_000;
    kept.requests(3);
    let error = kept.backup().unwrap_err();
    assert!(error.to_string().contains("was served"), "{error}");
}
