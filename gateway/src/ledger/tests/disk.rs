//! A disk that is full, fails, or is nearly full: a state, not an end.

use super::harness::{
    House, NOON, all, ask, complete, done, free, group, head, key, money, records, request,
    segment, usd, used,
};
use crate::{
    caller::Window,
    ledger::{Amount, Books, BooksError, Condition, Filter, Outcome, Scope, Short},
    store::disk::{Disk, DiskFile, RealDisk},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Faults on demand.
#[derive(Debug, Default)]
struct Faults {
    writes_fail: AtomicBool,
    syncs_fail: AtomicBool,
    truncates_fail: AtomicBool,
    headers_fail: AtomicBool,
    free_bytes: AtomicU64,
}

#[derive(Debug)]
struct FaultyDisk(Arc<Faults>);

#[derive(Debug)]
struct FaultyFile(Box<dyn DiskFile>, Arc<Faults>);

fn fail(on: &AtomicBool, what: &str) -> io::Result<()> {
    if on.load(Ordering::SeqCst) { Err(io::Error::other(what.to_owned())) } else { Ok(()) }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        fail(&self.0.writes_fail, "no space left on device")?;
        Ok(Box::new(FaultyFile(RealDisk.create(path)?, Arc::clone(&self.0))))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FaultyFile(RealDisk.open(path)?, Arc::clone(&self.0))))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Ordering::SeqCst))
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.1.writes_fail.load(Ordering::SeqCst) {
            // What a full disk takes before it says so.
            self.0.write_at(&bytes[..bytes.len() / 2], offset)?;
        }
        fail(&self.1.writes_fail, "no space left on device")?;
        if offset == 0 {
            fail(&self.1.headers_fail, "no space left on device")?;
        }
        self.0.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        fail(&self.1.syncs_fail, "input/output error")?;
        self.0.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        fail(&self.1.truncates_fail, "input/output error")?;
        self.0.truncate(length)
    }
}

fn faulty(house: &House) -> (Books, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    faults.free_bytes.store(1 << 40, Ordering::SeqCst);
    let books = house.open_on(Arc::new(FaultyDisk(Arc::clone(&faults))));
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "100")]));
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    (books, faults)
}

fn count(books: &Books) -> usize {
    books.requests(&Filter::default(), None, 1_000).unwrap().entries.len()
}

fn breaks_and_heals(break_it: impl Fn(&Faults, bool)) {
    let house = House::new();
    let (books, faults) = faulty(&house);
    // One that runs when the disk fails.
    let mut running = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, ticket) = running.reserve(ask("1", 30)).unwrap();
    ticket.blocking().unwrap();
    break_it(&faults, true);

    // The first to notice is told, nothing hangs.
    let error = request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap_err();
    assert!(matches!(error, Short::Store(BooksError::Failed(_))), "{error}");
    assert!(matches!(books.state().condition, Condition::Failed { .. }));
    // Paid work is refused at the door, free work goes on.
    let mut refused = books.open_entry(head(&books, "key_a")).unwrap();
    assert!(matches!(refused.reserve(ask("1", 10)), Err(Short::Store(_))));
    drop(refused);
    let mut local = books.open_entry(head(&books, "key_a")).unwrap();
    let (at, ticket) = local.reserve(free(10)).unwrap();
    ticket.blocking().unwrap();
    complete(&mut local, at, used(1, 1));
    assert!(local.finish(done(at)).blocking().is_err());
    complete(&mut running, index, used(10, 20));
    assert!(running.finish(done(index)).blocking().is_err());

    break_it(&faults, false);
    // As soon as it can be written, all that was waiting is, in order, and whole.
    while books.0.queue.flush().blocking().is_err() {
        std::thread::yield_now();
    }
    assert_eq!(books.state().condition, Condition::Healthy);
    assert_eq!(books.state().lost_entries, 0);
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    // Before, running, the one that was told, the refused one, the local one, the last one.
    assert_eq!(count(&books), 6);
    let report = books.verify();
    assert!(report.is_clean(), "{report:?}");
    books.close();
    drop(books);
    let books = house.open();
    assert_eq!(count(&books), 6);
    assert!(books.verify().is_clean());
}

#[test]
fn a_full_disk_stops_paid_work_and_heals() {
    breaks_and_heals(|faults, broken| faults.writes_fail.store(broken, Ordering::SeqCst));
}

#[test]
fn a_sync_that_fails_is_never_trusted_and_heals() {
    breaks_and_heals(|faults, broken| faults.syncs_fail.store(broken, Ordering::SeqCst));
}

#[test]
fn a_disk_that_cannot_even_be_cut_back_heals() {
    breaks_and_heals(|faults, broken| {
        faults.truncates_fail.store(broken, Ordering::SeqCst);
        faults.writes_fail.store(broken, Ordering::SeqCst);
    });
}

#[test]
fn a_close_with_a_broken_disk_ends() {
    let house = House::new();
    let (books, faults) = faulty(&house);
    faults.writes_fail.store(true, Ordering::SeqCst);
    assert!(request(&books, "key_a", ask("1", 10), used(10, 20)).is_err());
    books.close();
    assert_eq!(books.state().condition, Condition::Closed);
    drop(books);
    // What was acknowledged is there.
    assert_eq!(count(&house.open()), 1);
}

#[test]
fn a_close_after_a_short_fault_writes_all_that_had_queued_in_it() {
    let house = House::new();
    let (books, faults) = faulty(&house);
    let running: Vec<_> = (0..4)
        .map(|_| {
            let mut running = books.open_entry(head(&books, "key_a")).unwrap();
            let (index, ticket) = running.reserve(ask("1", 30)).unwrap();
            ticket.blocking().unwrap();
            (running, index)
        })
        .collect();
    faults.writes_fail.store(true, Ordering::SeqCst);
    for (mut running, index) in running {
        complete(&mut running, index, used(10, 20));
        // The first is in the commit that fails, the others come while it is tried again.
        assert!(running.finish(done(index)).blocking().is_err());
    }
    faults.writes_fail.store(false, Ordering::SeqCst);
    books.close();
    drop(books);
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 0);
    let outcomes: Vec<_> = all(&books).iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes, [Outcome::Completed; 5]);
}

#[test]
fn a_commit_that_is_ahead_of_the_clock_is_told_until_the_clock_is_there() {
    let house = House::new();
    let (books, _) = faulty(&house);
    assert_eq!(books.state().ahead_ms, 0);
    for (set, ahead_ms) in [(3_600_000, 0), (1_000, 3_599_000), (3_601_000, 0)] {
        house.hand.set(NOON + set);
        request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
        assert_eq!(books.state().ahead_ms, ahead_ms);
    }
}

#[test]
fn a_nearly_full_disk_stops_paid_work_before_it_is_full() {
    let house = House::new().with(|config| config.low_water_bytes = 1_000);
    let (books, faults) = faulty(&house);
    books.close();
    drop(books);
    faults.free_bytes.store(999, Ordering::SeqCst);
    let books = house.open_on(Arc::new(FaultyDisk(Arc::clone(&faults))));
    while books.state().condition == Condition::Healthy {
        std::thread::yield_now();
    }
    let short = request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap_err();
    let low = BooksError::LowSpace { free_bytes: 999, low_water_bytes: 1_000 };
    assert_eq!(short, Short::Store(low));
    // Free work is recorded as ever.
    request(&books, "key_a", free(10), used(1, 1)).unwrap();
    faults.free_bytes.store(1 << 40, Ordering::SeqCst);
    while books.state().condition != Condition::Healthy {
        std::thread::yield_now();
    }
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("1").into());
}

#[test]
fn a_full_queue_is_an_error_for_new_requests_and_never_for_running_ones() {
    let house = House::new();
    let books = house.open();
    let free_places = books.state().queue_max - books.state().queued;
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(ask("1", 10)).unwrap();
    let _flushed = books.0.queue.flush().blocking();
    books.0.queue.take_places(free_places - 2).unwrap();
    assert_eq!(books.open_entry(head(&books, "key_a")).unwrap_err(), BooksError::Full);
    complete(&mut entry, index, used(1, 1));
    entry.finish(done(index)).blocking().unwrap();
    assert_eq!(count(&books), 1);
}

#[test]
fn a_change_that_finds_no_place_in_the_queue_is_not_made() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "100")])).blocking().unwrap();
    let team = Scope::Team("red".into());
    books.put_group(group(team.clone(), vec![money(Window::Day, "50")])).blocking().unwrap();
    let (keys, groups, budgets) = (books.keys(), books.groups(), books.budgets());
    while books.0.queue.take_places(1).is_ok() {}
    let dearer = || vec![money(Window::Day, "1000")];
    let both = (Amount { money: usd("7"), ..Amount::default() }, Amount::default());
    let tickets = [
        books.put_key(key("key_a", dearer())),
        books.put_key(key("key_b", dearer())),
        books.put_group(group(team.clone(), dearer())),
        books.correct(&team, Window::Day, both, "x").unwrap(),
    ];
    for ticket in tickets {
        assert_eq!(ticket.blocking(), Err(BooksError::Full));
    }
    assert_eq!((books.keys(), books.groups()), (keys, groups));
    assert_eq!(books.budgets(), budgets);
}

#[test]
fn whoever_counts_what_runs_hears_of_entries_that_are_lost_too() {
    let house = House::new();
    let (books, faults) = faulty(&house);
    let heard = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&heard);
    books.observe(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        Vec::new()
    });
    faults.writes_fail.store(true, Ordering::SeqCst);
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap_err();
    while books.0.queue.take_places(1).is_ok() {}
    let before = heard.load(Ordering::SeqCst);
    let mut local = books.open_entry(head(&books, "key_a")).unwrap();
    let (at, _ticket) = local.reserve(free(10)).unwrap();
    complete(&mut local, at, used(1, 1));
    drop(local.finish(done(at)));
    assert_eq!((books.state().lost_entries, heard.load(Ordering::SeqCst)), (1, before + 1));
}

#[test]
fn a_segment_that_cannot_be_begun_leaves_the_full_one_to_go_on() {
    let house = House::new().with(|config| config.segment_entries_max = 5);
    let (books, faults) = faulty(&house);
    faults.headers_fail.store(true, Ordering::SeqCst);
    let asked = |times| {
        for _ in 0..times {
            request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
        }
    };
    asked(11);
    let files = fs::read_dir(house.journal()).unwrap().map(|item| item.unwrap().path());
    let segments = files.filter(|path| path.extension().is_some_and(|it| it == "journal")).count();
    assert_eq!(segments, 1, "nothing is left of those that failed");
    faults.headers_fail.store(false, Ordering::SeqCst);
    asked(3);
    assert!(books.verify().is_clean());
    books.close();
    drop(books);
    let books = house.open();
    assert_eq!(count(&books), 15);
    assert!(books.verify().is_clean());
}

/// Looks until it is so.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_directory_that_is_gone_stops_paid_work_and_it_goes_on_when_it_is_back() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "100")]));
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    let away = house.data().with_extension("away");
    fs::rename(house.data(), &away).unwrap();
    // The first to come finds it, before anything is acknowledged.
    let error = request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap_err();
    assert!(matches!(error, Short::Store(BooksError::Failed(_))), "{error}");
    assert!(matches!(books.state().condition, Condition::Failed { .. }));
    let refused = request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap_err();
    assert!(refused.to_string().contains("the journal's segment is gone"), "{refused}");

    fs::rename(&away, house.data()).unwrap();
    until(|| books.state().condition == Condition::Healthy);
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    assert!(books.verify().is_clean());
    books.close();
    drop(books);
    // The one before, the two that were told, the one after.
    assert_eq!(count(&house.open()), 4);
}

#[test]
fn a_directory_that_goes_while_nobody_asks_is_found_missing() {
    let house = House::new();
    let books = house.open();
    fs::remove_dir_all(house.data()).unwrap();
    until(|| matches!(books.state().condition, Condition::Failed { .. }));
    books.close();
}

#[test]
fn another_file_under_the_segments_name_is_not_written_to() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "100")]));
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    let (path, copy) = (segment(&house), house.data().join("copy"));
    fs::copy(&path, &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    fs::rename(&copy, &path).unwrap();
    assert!(request(&books, "key_a", ask("1", 10), used(10, 20)).is_err());
    books.close();
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_ballast_of_another_size_is_given_up_too_and_makes_room_for_the_one_that_is_wanted() {
    for bytes in [0, 1 << 20] {
        let house = House::new().with(|config| config.ballast_bytes = bytes);
        let ballast = house.data().join("ballast");
        fs::create_dir_all(house.data()).unwrap();
        fs::write(&ballast, vec![0; 2 << 20]).unwrap();
        let (books, faults) = faulty(&house);
        until(|| fs::metadata(&ballast).map_or(0, |meta| meta.len()) == bytes);
        books.close();
        drop(books);
        fs::write(&ballast, vec![0; 2 << 20]).unwrap();
        faults.free_bytes.store(1_000, Ordering::SeqCst);
        let books = house.open_on(Arc::new(FaultyDisk(faults)));
        assert!(!ballast.exists());
        drop(books);
    }
}

#[test]
fn an_opening_without_room_gives_the_ballast_up_first() {
    let house = House::new().with(|config| config.ballast_bytes = 1 << 20);
    let ballast = house.data().join("ballast");
    let (books, faults) = faulty(&house);
    until(|| ballast.exists());
    books.close();
    drop(books);
    faults.free_bytes.store(1_000, Ordering::SeqCst);
    let books = house.open_on(Arc::new(FaultyDisk(faults)));
    assert!(!ballast.exists());
    assert_eq!(count(&books), 1);
}

/// A disk on which there is no room while a file is there.
#[derive(Debug)]
struct FullOf(PathBuf);

impl FullOf {
    fn room(&self) -> io::Result<()> {
        if self.0.exists() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for FullOf {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.room()?;
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.room()?;
        RealDisk.open(path)
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn an_opening_without_room_gives_the_ballast_up_before_it_cuts_a_torn_tail_off() {
    let house = House::new().with(|config| config.ballast_bytes = 1 << 20);
    let (books, _) = faulty(&house);
    until(|| house.data().join("ballast").exists());
    let after = house.crashed();
    drop(books);
    let path = segment(&after);
    let mut bytes = fs::read(&path).unwrap();
    let end = records(&bytes).last().unwrap().end;
    bytes[end..end + 60].fill(1);
    fs::write(&path, &bytes).unwrap();
    let ballast = after.data().join("ballast");
    let books = after.open_on(Arc::new(FullOf(ballast.clone())));
    assert_eq!((ballast.exists(), count(&books)), (false, 1));
}
