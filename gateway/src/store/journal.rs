//! Opening the journal: which segments there are, where the last one ends.
//!
//! **Invariants:** segments follow each other without a gap; only the tail of the last one may be
//! torn, and what is cut off is set aside in `torn/` first, unless it is known to have been durable; a
//! segment that is damaged anywhere else is left as it is: what is whole of it is read, what is not is
//! lost and said to be, and nothing is ever written to it again. No number is given twice.

use super::{
    base::Base,
    catalogue::{Block, Catalogue, Plain, Segment, Snapshot},
    disk::{Disk, DiskFile, private, sync_parent},
    sealed::Sealed,
    segment::{FILE_HEADER, ScanError, Scanned, open_read, scan},
    writer::{create, plain_name, sealed_name},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files kept in `torn/`; older ones are deleted.
const TORN_FILES_MAX: usize = 16;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system says no.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A segment is of a form that this program does not know.
    #[error("{path}: {reason}; nothing was changed")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Which form.
        reason: String,
    },
    /// A segment is missing.
    #[error("the journal has a gap: event {expected} belongs at the start of {path}")]
    Gap {
        /// The segment after the gap.
        path: PathBuf,
        /// First missing number.
        expected: u64,
    },
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) catalogue: Catalogue,
    pub(crate) live: Plain,
    /// Bytes of a torn tail that were set aside.
    pub(crate) torn_bytes: u64,
    /// Records of the live segment by kind, see [`Scanned::kinds`].
    pub(crate) kinds: [u32; 8],
}

/// Reads the segments there are, changing nothing. A torn tail of the last one is left out.
pub(crate) fn list(dir: &Path) -> Result<(Vec<Segment>, Option<Scanned>), JournalError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut tail = None;
    // What was dropped before the first segment stands in a base.
    let begins = base_seq(dir)?;
    let (files, _) = files(dir)?;
    let mut files = files.into_iter().peekable();
    while let Some((named, file)) = files.next() {
        let path = dir.join(file);
        let until = files.peek().map(|(next, _)| *next);
        let segment = if path.extension().is_some_and(|ending| ending == "sealed") {
            let sealed = Sealed::open_or_salvage(&path, named, until)
                .map_err(|error| unusable(&path, error))?;
            Segment::Sealed(Arc::new(sealed))
        } else {
            match plain(&path, named, until) {
                Ok((plain, scanned)) => {
                    tail = until.is_none().then_some(scanned);
                    Segment::Plain(plain)
                }
                // The creation of the segment itself was cut short: it held nothing yet.
                Err(ScanError::Header) if until.is_none() => continue,
                Err(error) => return Err(unusable(&path, error)),
            }
        };
        let follows =
            |segment: &Segment| segment.next_seq() == named || segment.next_seq() > begins;
        if !segments.last().is_none_or(follows) && named <= begins {
            // A base stands for them: they are only waiting to be deleted, in whatever order.
            segments.clear();
        }
        let expected = segments.last().map_or_else(|| named.min(begins), Segment::next_seq);
        if segment.first_seq() != expected || segment.first_seq() != named {
            return Err(JournalError::Gap { path, expected });
        }
        segments.push(segment);
    }
    Ok((segments, tail))
}

/// The number of the first event that no base stands for.
fn base_seq(dir: &Path) -> Result<u64, JournalError> {
    Base::begins(dir).map_err(|source| JournalError::Io { path: dir.to_owned(), source })
}

/// The segments that a process is about to write on, as they lie there.
#[derive(Debug)]
pub(crate) struct Found {
    dir: PathBuf,
    segments: Vec<Segment>,
    tail: Option<Scanned>,
}

/// Looks at the journal before it is written: creates its directory, and clears away what was never
/// part of it.
pub(crate) fn find(dir: &Path) -> Result<Found, JournalError> {
    let io = |source| JournalError::Io { path: dir.to_owned(), source };
    fs::create_dir_all(dir).and_then(|()| sync_parent(dir)).map_err(io)?;
    clean(dir).map_err(io)?;
    for leftover in files(dir)?.1 {
        fs::remove_file(dir.join(leftover)).map_err(io)?;
    }
    let (segments, tail) = list(dir)?;
    Ok(Found { dir: dir.to_owned(), segments, tail })
}

impl Found {
    /// The number after the last event that can be read; `None` without a segment.
    pub(crate) fn next_seq(&self) -> Option<u64> {
        self.segments.last().map(Segment::next_seq)
    }

    /// The segments as they lie there.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { segments: self.segments.clone() }
    }

    /// Opens the journal for writing: cuts off a torn tail, or begins a segment. `known` is the number
    /// after the last event that is known to have been durable. Where the segments end before it, what
    /// is missing is lost, as in the middle of the journal, and no number is given again.
    pub(crate) fn open(
        self,
        disk: &dyn Disk,
        now_ms: u64,
        known: u64,
    ) -> Result<Opened, JournalError> {
        let is_short = self.next_seq().is_some_and(|next_seq| next_seq < known);
        let Self { dir, mut segments, tail } = self;
        let io = |source| JournalError::Io { path: dir.clone(), source };
        let whole = tail.filter(|tail| tail.damage.is_none() && !is_short);
        let (mut torn_bytes, mut kinds) = (0, [0; 8]);
        let live = match (segments.last_mut(), whole) {
            (Some(Segment::Plain(live)), Some(scanned)) => {
                if scanned.length > scanned.end {
                    torn_bytes = scanned.length - scanned.end;
                    cut(disk, &dir, live, &scanned).map_err(io)?;
                }
                kinds = scanned.kinds;
                live.clone()
            }
            _ => {
                if is_short {
                    lose_until(known, disk, &dir, &mut segments)?;
                }
                let last = segments.last();
                let first_seq = last.map_or(base_seq(&dir)?, Segment::next_seq);
                // It says until when the events before it may have been committed, if those are lost.
                let now_ms = last.map_or(now_ms, |last| now_ms.max(last.last_ms()));
                let (plain, _) = create(disk, &dir, first_seq, now_ms).map_err(io)?;
                segments.push(Segment::Plain(plain.clone()));
                plain
            }
        };
        Ok(Opened { catalogue: Catalogue::new(segments), live, torn_bytes, kinds })
    }
}

/// The last segment ends at `known`: it is damaged, since it holds less. Where that one is sealed, the
/// one that followed it is gone, and one without an event stands for it.
fn lose_until(
    known: u64,
    disk: &dyn Disk,
    dir: &Path,
    segments: &mut Vec<Segment>,
) -> Result<(), JournalError> {
    let (path, named) = match segments.pop() {
        Some(Segment::Plain(last)) => (last.path, last.first_seq),
        Some(last) => {
            let (first_seq, last_ms) = (last.next_seq(), last.last_ms());
            segments.push(last);
            let begun = create(disk, dir, first_seq, last_ms);
            let io = |source| JournalError::Io { path: dir.to_owned(), source };
            (begun.map_err(io)?.0.path, first_seq)
        }
        None => return Ok(()),
    };
    let (lost, _) = plain(&path, named, Some(known)).map_err(|error| unusable(&path, error))?;
    segments.push(Segment::Plain(lost));
    Ok(())
}

/// The segment files by first number, and those that are none. A segment that is there in both forms
/// was sealed completely.
fn files(dir: &Path) -> Result<(BTreeMap<u64, String>, Vec<String>), JournalError> {
    let io = |source| JournalError::Io { path: dir.to_owned(), source };
    let mut files = BTreeMap::new();
    for item in fs::read_dir(dir).map_err(io)? {
        let name = item.map_err(io)?.file_name().to_string_lossy().into_owned();
        let Some((stem, _)) = name.split_once('.') else { continue };
        let Ok(first_seq) = stem.parse() else { continue };
        if name == sealed_name(first_seq) {
            files.insert(first_seq, name);
        } else if name == plain_name(first_seq) {
            files.entry(first_seq).or_insert(name);
        }
    }
    let (mut kept, mut leftovers) = (BTreeMap::new(), Vec::new());
    for (first_seq, name) in files {
        if is_leftover(dir, kept.last_key_value(), &name, first_seq).map_err(io)? {
            leftovers.push(name);
        } else {
            kept.insert(first_seq, name);
        }
    }
    Ok((kept, leftovers))
}

/// Whether the file is what a failed beginning of a segment left: it holds no record, and the segment
/// `before` it went on beyond its number.
fn is_leftover(
    dir: &Path,
    before: Option<(&u64, &String)>,
    name: &str,
    first_seq: u64,
) -> io::Result<bool> {
    let Some((named, before)) = before else { return Ok(false) };
    let holds_records = fs::metadata(dir.join(name))?.len() > FILE_HEADER as u64;
    if name == sealed_name(first_seq) || holds_records {
        return Ok(false);
    }
    let path = dir.join(before);
    let reached = if *before == sealed_name(*named) {
        Sealed::open(&path).ok().map(|before| Segment::Sealed(Arc::new(before)).next_seq())
    } else {
        scan(&open_read(&path)?, *named, None).ok().map(|before| before.next_seq)
    };
    Ok(reached.is_some_and(|reached| reached > first_seq))
}

/// Removes what was being written, and of a segment that is there in both forms one of them.
fn clean(dir: &Path) -> io::Result<()> {
    let mut starts = BTreeSet::new();
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("tmp") => fs::remove_file(path)?,
            Some("journal" | "sealed") => {
                starts.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
            }
            _ => {}
        }
    }
    for first_seq in &starts {
        let (plain, sealed) = (dir.join(plain_name(*first_seq)), dir.join(sealed_name(*first_seq)));
        if plain.exists() && sealed.exists() {
            let next = starts.range(first_seq + 1..).next().copied();
            choose(plain, sealed, *first_seq, next)?;
        }
    }
    Ok(())
}

/// Keeps one form of a segment: the sealed one, unless the plain one alone is whole (a good copy that
/// was put beside it). The other one is deleted; where neither is whole it is kept under another name,
/// for it may have what this one lacks.
fn choose(
    plain_path: PathBuf,
    sealed_path: PathBuf,
    first_seq: u64,
    next: Option<u64>,
) -> io::Result<()> {
    let sealed = Sealed::open(&sealed_path).ok();
    let opens = sealed.is_some();
    let until = sealed.as_ref().map(|sealed| sealed.footer.next_seq).or(next);
    if sealed.is_some_and(|sealed| is_whole(Segment::Sealed(Arc::new(sealed)))) {
        // What an interrupted sealing left.
        return fs::remove_file(plain_path);
    }
    let copy = plain(&plain_path, first_seq, until);
    if copy.is_ok_and(|(copy, _)| is_whole(Segment::Plain(copy))) {
        let (damaged, whole) = (sealed_path.display(), plain_path.display());
        tracing::warn!(%damaged, %whole, "a damaged segment is replaced by its whole copy");
        return fs::remove_file(sealed_path);
    }
    let aside = if opens { plain_path } else { sealed_path };
    let mut name = aside.as_os_str().to_owned();
    name.push(".aside");
    let segment = aside.display();
    tracing::error!(%segment, "a segment is damaged in both of its forms: this one is set aside");
    fs::rename(&aside, name)
}

/// The file in `dir` that holds every event of the segment with these numbers, in either form.
pub(crate) fn whole_copy(dir: &Path, first_seq: u64, next_seq: u64) -> Option<PathBuf> {
    let mut whole = whole_forms(dir, first_seq, Some(next_seq));
    let found = whole.find(|form| form.next_seq() == next_seq)?;
    Some(found.path().to_owned())
}

/// The segment in `dir` that begins with this number and can be read to its end, in either form. `until`
/// is where it ends, if that is known.
pub(crate) fn whole_forms(
    dir: &Path,
    first_seq: u64,
    until: Option<u64>,
) -> impl Iterator<Item = Segment> {
    let sealed = Sealed::open(&dir.join(sealed_name(first_seq))).ok();
    let plain = plain(&dir.join(plain_name(first_seq)), first_seq, until).ok();
    let sealed = sealed.map(|sealed| Segment::Sealed(Arc::new(sealed)));
    let plain = plain.map(|(plain, _)| Segment::Plain(plain));
    [sealed, plain].into_iter().flatten().filter(|form| is_whole(form.clone()))
}

/// Whether every event of a segment can be read.
pub(crate) fn is_whole(segment: Segment) -> bool {
    let alone = Snapshot { segments: vec![segment] };
    let reads = |block: &Block| alone.read(block, &mut |_| {}).is_empty();
    alone.segments.iter().all(|segment| segment.damage().is_none())
        && alone.blocks().iter().all(reads)
}

fn plain(path: &Path, named: u64, until: Option<u64>) -> Result<(Plain, Scanned), ScanError> {
    let file = open_read(path)?;
    let scanned = scan(&file, named, until)?;
    let plain = Plain {
        path: path.to_owned(),
        file: Arc::new(file),
        first_seq: scanned.first_seq,
        next_seq: scanned.next_seq,
        last_ms: scanned.last_ms,
        end: scanned.end,
        marks: scanned.marks.clone(),
        damage: scanned.damage.clone(),
    };
    Ok((plain, scanned))
}

/// Sets the torn tail aside and cuts it off.
fn cut(disk: &dyn Disk, dir: &Path, live: &Plain, scanned: &Scanned) -> io::Result<()> {
    let torn = dir.join("torn");
    fs::create_dir_all(&torn)?;
    let size = usize::try_from(scanned.length - scanned.end).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    live.file.read_exact_at(&mut bytes, scanned.end)?;
    let aside = torn.join(format!("{:020}-{}", live.first_seq, scanned.end));
    let mut file = private(&aside)?;
    file.write_all(&bytes)?;
    // It is safe before it is cut off.
    file.sync_all()?;
    sync_parent(&aside).and_then(|()| sync_parent(&torn))?;
    let mut kept: Vec<_> =
        fs::read_dir(&torn)?.filter_map(Result::ok).map(|item| item.path()).collect();
    kept.sort();
    for old in &kept[..kept.len().saturating_sub(TORN_FILES_MAX)] {
        fs::remove_file(old)?;
    }
    let mut file: Box<dyn DiskFile> = disk.open(&live.path)?;
    file.truncate(scanned.end)?;
    file.sync()
}

fn unusable(path: &Path, error: ScanError) -> JournalError {
    match error {
        ScanError::Io(source) => JournalError::Io { path: path.to_owned(), source },
        other => JournalError::Unknown { path: path.to_owned(), reason: other.to_string() },
    }
}
