//! Opening the journal: which segments there are, where the last one ends.
//!
//! **Invariants:** segments follow each other without a gap; only the tail of the last one may be
//! torn, and what is cut off is set aside in `torn/` first; a segment that is damaged anywhere else
//! is left as it is: what is whole of it is read, what is not is lost and said to be, and nothing is
//! ever written to it again.

use super::{
    base::Base,
    catalogue::{Catalogue, Plain, Segment},
    disk::{Disk, DiskFile, private, sync_parent},
    sealed::Sealed,
    segment::{FILE_HEADER, ScanError, Scanned, open_read, scan},
    writer::{create, plain_name, sealed_name},
};
use std::{
    collections::BTreeMap,
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

/// Opens the journal for writing: creates it, or cuts off a torn tail.
pub(crate) fn open(disk: &dyn Disk, dir: &Path, now_ms: u64) -> Result<Opened, JournalError> {
    let io = |source| JournalError::Io { path: dir.to_owned(), source };
    fs::create_dir_all(dir).and_then(|()| sync_parent(dir)).map_err(io)?;
    clean(dir).map_err(io)?;
    for leftover in files(dir)?.1 {
        fs::remove_file(dir.join(leftover)).map_err(io)?;
    }
    let (mut segments, tail) = list(dir)?;
    let mut torn_bytes = 0;
    let kinds = tail.as_ref().map_or([0; 8], |tail| tail.kinds);
    let live = match (segments.last_mut(), tail) {
        (Some(Segment::Plain(live)), Some(scanned)) if scanned.damage.is_none() => {
            if scanned.length > scanned.end {
                torn_bytes = scanned.length - scanned.end;
                cut(disk, dir, live, &scanned).map_err(io)?;
            }
            live.clone()
        }
        (last, _) => {
            let begins = base_seq(dir)?;
            let first_seq = last.as_ref().map_or(begins, |last| last.next_seq());
            let now_ms = last.as_ref().map_or(now_ms, |last| last.last_ms());
            let (plain, _) = create(disk, dir, first_seq, now_ms).map_err(io)?;
            segments.push(Segment::Plain(plain.clone()));
            plain
        }
    };
    Ok(Opened { catalogue: Catalogue::new(segments), live, torn_bytes, kinds })
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

/// Removes what an interrupted sealing left: of a segment in both forms the plain one, unless it is
/// the only good one.
fn clean(dir: &Path) -> io::Result<()> {
    for item in fs::read_dir(dir)? {
        let path = item?.path();
        let sealed = path.with_extension("sealed");
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("tmp") => fs::remove_file(path)?,
            Some("journal") if sealed.exists() => {
                let whole = Sealed::open(&sealed).is_ok();
                fs::remove_file(if whole { path } else { sealed })?;
            }
            _ => {}
        }
    }
    Ok(())
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
    let name = format!("{:020}-{}", live.first_seq, scanned.end);
    private(&torn.join(name))?.write_all(&bytes)?;
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
