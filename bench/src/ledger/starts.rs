//! Starting with a full ledger: after an orderly stop, and as after a kill.

use std::io;
use std::path::Path;
use std::time::Instant;

use gateway::clock::Clock;

use super::{BEGIN_MS, Figure, House, LedgerArgs, Target, fill, memory, nanos};
use crate::stats::Ladder;

/// Copies that are made of the running ledger.
const KILLS: usize = 3;
/// Requests since the last checkpoint when it is killed: a checkpoint is due after 65,536 events.
const SINCE_CHECKPOINT: u64 = 30_000;

/// Starts and closes again.
pub(super) fn orderly(house: &House, args: &LedgerArgs) -> Result<Figure, String> {
    let mut starts = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let began = Instant::now();
        let books = house.open()?;
        starts.push(nanos(began));
        books.close();
    }
    Ok(Figure {
        what: format!("start with {} entries kept", args.entries),
        target: Some(Target::MedianUnderMs(2_000)),
        per_s: None,
        ns: Ladder::of(&mut starts),
        note: format!("{} on disk; {}", fill::on_disk(&house.config.dir), memory()),
    })
}

/// Starts with what a kill would leave: the running ledger's files as they lie there, most of a
/// checkpoint's events not yet in the index.
pub(super) fn killed(house: &House, beside: &Path, args: &LedgerArgs) -> Result<Figure, String> {
    let last_ms = BEGIN_MS + fill::at_ms(args.entries, args.day_entries);
    let books = house.open()?;
    fill::write(house, &books, args.entries, SINCE_CHECKPOINT, args.day_entries)?;
    let (mut starts, mut replayed) = (Vec::new(), 0);
    for kill in 0..KILLS {
        let left = beside.join(format!("killed-{kill}"));
        as_they_lie(&house.config.dir, &left).map_err(|error| error.to_string())?;
        let after = House::at(left, Clock::standing(last_ms));
        let began = Instant::now();
        let (survivor, recovered) =
            gateway::ledger::Books::open(after.config.clone(), after.clock.clone())
                .map_err(|error| error.to_string())?;
        starts.push(nanos(began));
        replayed = recovered.replayed_events;
        survivor.close();
        drop(survivor);
        std::fs::remove_dir_all(&after.config.dir).map_err(|error| error.to_string())?;
    }
    books.close();
    Ok(Figure {
        what: format!("start with {} entries kept, after a kill", args.entries),
        target: Some(Target::MedianUnderMs(2_000)),
        per_s: None,
        ns: Ladder::of(&mut starts),
        note: format!("{replayed} events replayed; {}", memory()),
    })
}

/// Copies a directory whose files may come and go meanwhile: again until none did. What is sealed
/// never changes and is linked.
fn as_they_lie(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        let before = names(from)?;
        let copied = copy(from, to);
        if names(from)? == before {
            return copied;
        }
        std::fs::remove_dir_all(to)?;
    }
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        names.push(item.file_name());
        if item.file_type()?.is_dir() {
            names.extend(self::names(&item.path())?);
        }
    }
    names.sort();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let (source, target) = (item.path(), to.join(item.file_name()));
        if item.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else if source.extension().is_some_and(|ending| ending == "sealed") {
            std::fs::hard_link(source, target)?;
        } else {
            std::fs::copy(source, target)?;
        }
    }
    Ok(())
}
