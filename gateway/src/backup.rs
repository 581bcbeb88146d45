//! A copy of the ledger that can be served as it is, taken while the server runs or not.
//!
//! What is copied is a [`Snapshot`]: a committed prefix, whatever is sealed or dropped meanwhile. A
//! copy that is there already is brought up to date: what it holds to the byte is left alone.
//!
//! **Invariants:** a file has its name in the copy only when it is whole and durable; a segment that
//! cannot be read to its end never replaces a copy of it that can; nothing is copied over another
//! ledger, over one that goes further, or over a directory that a server holds.

use crate::{
    caller::{HASH_KEY_FILE, private_dir},
    guard::KEPT_FILE,
    ledger::{JournalError, Reader, Report, SPARE_ENDING},
    store::{
        base::{Base, numbered},
        catalogue::{Segment, Snapshot},
        disk::{Temporary, private},
        journal,
        lock::{self, DirLock},
        writer::plain_name,
    },
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// How often a journal is listed whose segments were sealed or dropped while it was read.
const LISTED_MAX: usize = 8;
const PIECE_BYTES: usize = 1 << 20;
/// In the copy's journal: whole copies of what is damaged in the ledger and goes on there, by the number
/// of the event after their last.
const ASIDE: &str = "aside";
/// Files of a data directory that go with the journal, where they are: what keys are hashed with, and
/// what the guard knows.
const BESIDE: [&str; 2] = [HASH_KEY_FILE, KEPT_FILE];

/// What a backup did, and what the copy holds.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Files that were written; the others were there.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that are whole and were kept because the ledger's own are damaged: in the copy, or, where
    /// the ledger's goes further, beside it.
    pub kept: Vec<PathBuf>,
    /// Commit time of the last event in the copy, Unix milliseconds; 0 without any.
    pub last_unix_ms: u64,
    /// The copy, checked record by record.
    pub report: Report,
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory is not one to write a backup to.
    #[error("{path} {why}; nothing was changed")]
    Place {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Copies the ledger in the data directory `from` to the directory `to`, or brings the copy there up to
/// date, and checks it. Blocking; reads both of them.
///
/// # Errors
/// [`BackupError`]. What was copied until then stays, and the next backup goes on from there.
pub fn backup(from: &Path, to: &Path) -> Result<Backup, BackupError> {
    let _nobody_else = place(from, to)?;
    let (source, target) = (from.join("journal"), to.join("journal"));
    let ours = Snapshot { segments: listed(&source)? };
    if target.exists() {
        let (segments, _) = journal::list(&target)?;
        follows(&ours, &Snapshot { segments }).map_err(|why| wrong(to, why))?;
    }
    let mut done = Done::default();
    for name in BESIDE {
        done.bring(&from.join(name), &to.join(name))?;
    }
    private_dir(&target).map_err(|source| fault(&target, source))?;
    done.base(&source, &target)?;
    done.spares(&source, &target, ours.next_seq())?;
    for segment in &ours.segments {
        done.segment(segment, &target)?;
    }
    drop_before(ours.segments.first().map_or(0, Segment::first_seq), &target)
        .map_err(|source| fault(&target, source))?;
    done.folder(&from.join("exports"), &to.join("exports"))?;
    for derived in ["index", "index.rebuilt"] {
        forget(&to.join(derived))?;
    }
    let copy = Reader::open(to)?;
    let last = copy.snapshot.segments.last().map_or(0, Segment::last_ms);
    let Done { files, bytes, kept } = done;
    Ok(Backup { files, bytes, kept, last_unix_ms: last, report: copy.verify() })
}

/// What is wrong with bringing `copy` up to `ours`, if anything is: it must be an earlier state of it.
fn follows(ours: &Snapshot, copy: &Snapshot) -> Result<(), &'static str> {
    if copy.segments.is_empty() {
        return Ok(());
    }
    if copy.next_seq() > ours.next_seq() {
        return Err("holds later events than the ledger");
    }
    let last = copy.next_seq().saturating_sub(1);
    match (copy.committed_ms(last), ours.committed_ms(last)) {
        (Some(theirs), Some(ours)) if theirs != ours => {
            Err("was served, and holds events that the ledger does not")
        }
        _ => Ok(()),
    }
}

/// Deletes what a server that had the copy derived from it.
fn forget(dir: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(dir, error)),
        _ => Ok(()),
    }
}

/// Makes sure that `to` may hold a copy of `from`, and holds it.
fn place(from: &Path, to: &Path) -> Result<DirLock, BackupError> {
    let inner = from.canonicalize().map_err(|source| fault(from, source))?;
    let outer = will_be(to).map_err(|source| fault(to, source))?;
    if inner.starts_with(&outer) || outer.starts_with(&inner) {
        return Err(wrong(to, "is the ledger itself, or one is in the other"));
    }
    let key = |dir: &Path| match fs::read(dir.join(HASH_KEY_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| fault(dir, source)),
    };
    let Some(ours) = key(from)? else {
        return Err(BackupError::Place {
            path: from.to_owned(),
            why: format!("has no {HASH_KEY_FILE}, without which no copy could be used"),
        });
    };
    // One that is there keeps its mode: it may be somebody else's.
    if !to.exists() {
        private_dir(to).map_err(|source| fault(to, source))?;
    }
    match key(to)? {
        Some(theirs) if theirs != ours => return Err(wrong(to, "is of another ledger")),
        Some(_) => {}
        None => {
            // What a backup leaves that ended at once.
            let temporary = Temporary::of(Path::new(HASH_KEY_FILE));
            let left = [Path::new(lock::NAME), temporary.path()];
            let items = fs::read_dir(to).map_err(|source| fault(to, source))?;
            if items.flatten().any(|item| !left.contains(&Path::new(&item.file_name()))) {
                return Err(wrong(to, "is neither empty nor a backup"));
            }
        }
    }
    let lock = DirLock::take(to).map_err(|source| fault(to, source))?;
    lock.ok_or_else(|| wrong(to, "is in use by another process"))
}

/// What the path will lead to: its directories may not be there yet.
fn will_be(path: &Path) -> io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(will_be(parent)?.join(name))
        }
        (real, ..) => real,
    }
}

/// The segments of a journal that may be written meanwhile, their files held open.
fn listed(dir: &Path) -> Result<Vec<Segment>, JournalError> {
    let mut tries = 1;
    loop {
        let found = journal::list(dir).map(|(segments, _)| segments);
        // A segment that is sealed or dropped while it is listed is gone, and one that is written while
        // it is read may look damaged: both only once.
        let is_settled = match &found {
            Ok(segments) => segments.last().is_none_or(|last| last.damage().is_none()),
            Err(JournalError::Unknown { .. }) => true,
            Err(JournalError::Io { .. } | JournalError::Gap { .. }) => false,
        };
        if is_settled || tries == LISTED_MAX {
            return found;
        }
        tries += 1;
    }
}

/// What was done so far.
#[derive(Default)]
struct Done {
    files: u64,
    bytes: u64,
    kept: Vec<PathBuf>,
}

impl Done {
    /// Brings a file's copy up to date. Whether there is such a file.
    fn bring(&mut self, path: &Path, to: &Path) -> Result<bool, BackupError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(|source| fault(path, source))?,
        };
        let length = file.metadata().map_err(|source| fault(path, source))?.len();
        if !same(&file, length, to).map_err(|source| fault(to, source))? {
            self.write(&file, length, to)?;
        }
        Ok(true)
    }

    /// Copies the balances that are kept beside the journal, and no others stay. Those of later events
    /// would say that events are missing.
    fn spares(&mut self, from: &Path, to: &Path, next_seq: u64) -> Result<(), BackupError> {
        let all = |dir: &Path| numbered(dir, SPARE_ENDING).map_err(|source| fault(dir, source));
        let mut ours = all(from)?;
        ours.retain(|(seq, _)| *seq <= next_seq);
        for (_, path) in &ours {
            self.bring(path, &to.join(path.file_name().unwrap_or_default()))?;
        }
        for (seq, path) in all(to)? {
            if !ours.iter().any(|(ours, _)| *ours == seq) {
                fs::remove_file(&path).map_err(|source| fault(&path, source))?;
            }
        }
        Ok(())
    }

    /// Copies the newest base, where there is one. One that was made since the segments were listed
    /// stands for those of them that came before it.
    fn base(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        for _ in 0..LISTED_MAX {
            let newest = numbered(from, "base").map_err(|source| fault(from, source))?.pop();
            let Some((_, path)) = newest else { return Ok(()) };
            // A damaged one takes no good one's place; one that is gone has a newer one after it.
            let is_there = Base::open(&path).map_err(|source| fault(&path, source))?.is_some();
            if is_there && self.bring(&path, &to.join(path.file_name().unwrap_or_default()))? {
                return Ok(());
            }
        }
        Err(fault(from, io::ErrorKind::NotFound.into()))
    }

    /// Brings the copies of all files of a directory up to date; nothing where there is none.
    fn folder(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let items = match fs::read_dir(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(|source| fault(from, source))?,
        };
        private_dir(to).map_err(|source| fault(to, source))?;
        for item in items {
            let path = item.map_err(|source| fault(from, source))?.path();
            let is_being_written = path.extension().is_some_and(|ending| ending == "tmp");
            if path.is_file() && !is_being_written {
                self.bring(&path, &to.join(path.file_name().unwrap_or_default()))?;
            }
        }
        Ok(())
    }

    /// Brings a segment's copy up to date.
    fn segment(&mut self, segment: &Segment, dir: &Path) -> Result<(), BackupError> {
        let name = segment.path().file_name().unwrap_or_default();
        let path = dir.join(name);
        let file = segment.file();
        let length = committed(segment).map_err(|source| fault(segment.path(), source))?;
        let is_same = same(file, length, &path).map_err(|source| fault(&path, source))?;
        if is_same {
            // What an interrupted backup left beside it goes all the same.
        } else if journal::is_whole(segment.clone()) {
            self.write(file, length, &path)?;
        } else if let Some(whole) =
            journal::whole_copy(dir, segment.first_seq(), segment.next_seq())
        {
            self.kept.push(whole);
            return Ok(());
        } else {
            self.set_aside(segment.first_seq(), dir)?;
            self.write(file, length, &path)?;
        }
        if matches!(segment, Segment::Sealed(_)) {
            let plain = dir.join(plain_name(segment.first_seq()));
            match fs::remove_file(&plain) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(fault(&plain, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps whole copies of a segment's beginning, which is damaged in the ledger by now: they may hold
    /// what it has lost, and lack what it has won.
    fn set_aside(&mut self, first_seq: u64, dir: &Path) -> Result<(), BackupError> {
        for copy in journal::whole_forms(dir, first_seq, None) {
            if copy.next_seq() == first_seq {
                continue;
            }
            let aside = dir.join(ASIDE);
            private_dir(&aside).map_err(|source| fault(&aside, source))?;
            let mut name = OsString::from(format!("{}-", copy.next_seq()));
            name.push(copy.path().file_name().unwrap_or_default());
            let kept = aside.join(name);
            fs::rename(copy.path(), &kept).map_err(|source| fault(&kept, source))?;
            self.kept.push(kept);
        }
        Ok(())
    }

    fn write(&mut self, file: &File, length: u64, to: &Path) -> Result<(), BackupError> {
        copy(file, length, to).map_err(|source| fault(to, source))?;
        self.files += 1;
        self.bytes += length;
        Ok(())
    }
}

/// Deletes what the ledger no longer holds: bases that a newer one replaced, and segments before `seq`,
/// which a base stands for.
fn drop_before(seq: u64, dir: &Path) -> io::Result<()> {
    Base::forget_old(dir)?;
    for ending in ["journal", "sealed"] {
        for (first_seq, path) in numbered(dir, ending)? {
            if first_seq < seq {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

/// Bytes of a segment that are copied: of a whole plain one, those that are committed.
fn committed(segment: &Segment) -> io::Result<u64> {
    match segment {
        Segment::Plain(plain) if plain.damage.is_none() => Ok(plain.end),
        _ => Ok(segment.file().metadata()?.len()),
    }
}

/// Whether the file at `path` is the first `length` bytes of `file`.
fn same(file: &File, length: u64, path: &Path) -> io::Result<bool> {
    let copy = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    if copy.metadata()?.len() != length {
        return Ok(false);
    }
    let mut theirs = vec![0; PIECE_BYTES];
    pieces(file, length, |offset, ours| {
        let theirs = &mut theirs[..ours.len()];
        copy.read_exact_at(theirs, offset)?;
        Ok(ours == theirs)
    })
}

/// Writes the first `length` bytes of `file` under the name `path`, durably.
fn copy(file: &File, length: u64, path: &Path) -> io::Result<()> {
    let written = Temporary::of(path);
    let mut out = private(written.path())?;
    pieces(file, length, |_, piece| out.write_all(piece).map(|()| true))?;
    out.sync_all()?;
    written.keep(path)
}

/// Gives the first `length` bytes of `file` to `take`, piece by piece, until that says no. Whether it
/// never did.
fn pieces(
    file: &File,
    length: u64,
    mut take: impl FnMut(u64, &[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < length {
        let left = usize::try_from(length - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let piece = &mut buffer[..left];
        file.read_exact_at(piece, offset)?;
        if !take(offset, piece)? {
            return Ok(false);
        }
        offset += left as u64;
    }
    Ok(true)
}

fn fault(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io { path: path.to_owned(), source }
}

fn wrong(path: &Path, why: &str) -> BackupError {
    BackupError::Place { path: path.to_owned(), why: why.to_owned() }
}
