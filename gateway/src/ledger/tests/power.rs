//! A power cut: what the disk holds at a moment is all that is left, and every acknowledged entry is
//! in it.
//!
//! The disk is a file behind a loop device with a file system of its own. What was not handed to
//! the device (synced) is in memory only, and a copy of the file does not have it. Making one needs
//! root; without it the tests say so and check nothing. **The model is judged too**: with a disk
//! that does not sync it must lose entries.

use super::harness::{House, ask, complete, done, head, key, money, usd, used};
use crate::{
    caller::Window,
    ledger::{Books, RequestId},
    store::disk::{Disk, DiskFile, RealDisk},
};
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const WRITERS: u64 = 8;

/// A file system in a file.
struct Loop {
    image: PathBuf,
    at: PathBuf,
}

impl Loop {
    /// Mounts an image; `None` where that is not allowed.
    fn mount(image: PathBuf, at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", "loop", image.to_str()?, at.to_str()?])?;
        Some(Self { image, at })
    }

    fn make(dir: &Path) -> Option<Self> {
        let image = dir.join("disk");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str()?])?;
        Self::mount(image, dir.join("mounted"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A busy one would outlive the test; lazily it goes with its last file.
        let _best_effort = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn run(program: &str, args: &[&str]) -> Option<()> {
    let ran = Command::new(program).args(args).output().ok()?;
    ran.status.success().then_some(())
}

/// A disk whose syncs do nothing, as if the call were not there.
#[derive(Debug)]
struct Unsynced;

#[derive(Debug)]
struct UnsyncedFile(Box<dyn DiskFile>);

impl Disk for Unsynced {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile(RealDisk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile(RealDisk.open(path)?)))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

impl DiskFile for UnsyncedFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
}

/// What the cuts came to.
#[derive(Debug, Default)]
struct Judged {
    requests: u64,
    acknowledged: u64,
    lost: u64,
    overspent_pico: u128,
}

/// Writers that stop at any step while somebody holds the gate.
#[derive(Default)]
struct Traffic {
    gate: RwLock<()>,
    stop: AtomicBool,
    begun: AtomicU64,
    acknowledged: Mutex<Vec<RequestId>>,
}

impl Traffic {
    fn write(&self, books: &Books) {
        while !self.stop.load(Ordering::SeqCst) {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let head = head(books, "key_a");
            let id = head.id;
            let (mut entry, index, ticket) = {
                let _step = self.gate.read().unwrap();
                let mut entry = books.open_entry(head).unwrap();
                let (index, ticket) = entry.reserve(ask("1", 10)).unwrap();
                (entry, index, ticket)
            };
            ticket.blocking().unwrap();
            let ticket = {
                let _step = self.gate.read().unwrap();
                complete(&mut entry, index, used(1, 1));
                entry.finish(done(index))
            };
            ticket.blocking().unwrap();
            self.acknowledged.lock().unwrap().push(id);
        }
    }

    fn until_acknowledged(&self, count: usize) {
        while self.acknowledged.lock().unwrap().len() < count {
            std::thread::yield_now();
        }
    }
}

/// Cuts the power so many times under load; `None` where no file system can be mounted.
fn cuts(disk: Arc<dyn Disk>, cuts: usize) -> Option<Judged> {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Loop::make(dir.path())?;
    let house = House::new().with(|config| config.dir = mounted.at.join("data"));
    let books = house.open_on(disk);
    books.put_key(key("key_a", vec![money(Window::Total, "100000")])).blocking().unwrap();
    let traffic = Arc::new(Traffic::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (traffic, books) = (Arc::clone(&traffic), books.clone());
            std::thread::spawn(move || traffic.write(&books))
        })
        .collect();
    let mut judged = Judged::default();
    for cut in 0..cuts {
        // Each time after another number of answers, with requests at every step.
        traffic.until_acknowledged(20 + cut * 37);
        // Nobody moves until it is judged: else a fast machine fills the small disk meanwhile.
        let _nobody_moves = traffic.gate.write().unwrap();
        let promised = traffic.acknowledged.lock().unwrap().clone();
        let image = dir.path().join(format!("cut-{cut}"));
        std::fs::copy(&mounted.image, &image).unwrap();
        // The first could be mounted: that this one cannot is what the cut did to it.
        let after = Loop::mount(image, dir.path().join("after")).expect("a whole file system");
        judge(&mut judged, &house, &after, &promised);
    }
    traffic.stop.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    judged.requests = traffic.begun.load(Ordering::SeqCst);
    books.close();
    Some(judged)
}

/// Opens what is left and looks for what was promised.
fn judge(judged: &mut Judged, house: &House, after: &Loop, promised: &[RequestId]) {
    judged.acknowledged += promised.len() as u64;
    let mut config = house.config.clone();
    config.dir = after.at.join("data");
    let Ok((books, _)) = Books::open(config, house.clock.clone()) else {
        judged.lost += promised.len() as u64;
        return;
    };
    let kept = |id: &&RequestId| books.request(**id).unwrap().is_some();
    judged.lost += (promised.len() - promised.iter().filter(kept).count()) as u64;
    if let Some(side) = books.budgets().first().and_then(|budget| budget.money) {
        let used = side.spent.pico() + side.reserved.pico();
        let limit = u128::from(usd("100000").pico());
        judged.overspent_pico += used.saturating_sub(limit);
        assert!(books.verify().is_clean(), "{:?}", books.verify());
    }
    books.close();
}

/// Says that no disk could be had, to whoever runs the tests too: see `harness/mod.rs` of the end-to-end
/// tests.
fn not_checked() {
    let required = std::env::var("TOLLGATE_REQUIRE").unwrap_or_default();
    let why = "no file system can be mounted here (root is needed)";
    assert!(!required.split(',').any(|word| word == "disk"), "disk is required, and {why}");
    println!("{why}: not checked");
    if let Some(file) = std::env::var_os("TOLLGATE_SKIPPED") {
        let mut file = std::fs::File::options().append(true).create(true).open(file).unwrap();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

fn slow() -> bool {
    let slow = std::env::var_os("TOLLGATE_SLOW_TESTS").is_some();
    if !slow {
        println!("slow: run by `make test-all`");
    }
    slow
}

#[test]
fn no_acknowledged_entry_is_lost_to_a_power_cut() {
    if !slow() {
        return;
    }
    let Some(judged) = cuts(Arc::new(RealDisk), 12) else {
        return not_checked();
    };
    println!("12 power cuts: {judged:?}");
    assert!(judged.acknowledged > 0);
    assert_eq!((judged.lost, judged.overspent_pico), (0, 0), "{judged:?}");
}

#[test]
fn the_model_of_a_power_cut_sees_a_sync_that_is_missing() {
    if !slow() {
        return;
    }
    let Some(judged) = cuts(Arc::new(Unsynced), 3) else {
        return not_checked();
    };
    println!("3 power cuts without fdatasync: {judged:?}");
    assert!(judged.lost > 0, "{judged:?}");
}
