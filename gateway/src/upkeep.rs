//! What a running server does for its ledger: once a minute it writes down what was refused and is
//! only counted, once an hour it writes out the days that are over and drops what is older than it is
//! to be kept.
//!
//! **Invariants:** a day's file is there whole under its name or not at all; where days are to be
//! exported, no entry is dropped before the file of its day is there; what is adjusted later is in the
//! file of the day on which it was charged, which is written anew, unless a part of the day was dropped
//! already.

use crate::{
    config::DailyExport,
    ledger::{Books, Filter},
    serve::Gateway,
    store::disk::sync_parent,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often refusals that are only counted are written down.
const COUNTED_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a day is due.
const EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: u64 = 86_400_000;
/// Days that are looked back for one that was not exported. What is older gets a file where there is
/// something to write: a clock that once stood at 1970 is no reason for 20,000 files.
const DAYS_BACK_MAX: u64 = 400;
const LEVEL: i32 = 9;

/// Until the server stops.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let ledger = &gateway.config.ledger;
    let by_days = ledger.keep_days.is_some() || ledger.daily_export.is_some();
    let mut looked: Option<Instant> = None;
    loop {
        if by_days && looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            looked = Some(Instant::now());
            let due = Arc::clone(&gateway);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || once(&due)).await {
                tracing::error!(%error, "the ledger's upkeep failed; it is tried again in an hour");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(COUNTED_EVERY) => gateway.books.write_refusals(),
            () = stop.cancelled() => return,
        }
    }
}

/// Does what is due. Blocking.
///
/// # Errors
/// What could not be read or written; the rest is done. Nothing is dropped of a day that has no file
/// because of it, or of a later one.
pub fn once(gateway: &Gateway) -> io::Result<()> {
    let config = &gateway.config.ledger;
    let today = gateway.clock.unix_ms() / DAY_MS;
    let (mut until, mut outcome) = (today, Ok(()));
    if let Some(form) = config.daily_export {
        let dir = gateway.config.data_dir.join("exports");
        fs::create_dir_all(&dir)?;
        (until, outcome) = export(&gateway.books, form, &dir, today);
    }
    if let Some(days) = config.keep_days {
        let before = today.saturating_sub(u64::from(days)).min(until) * DAY_MS;
        let retired = gateway.books.retire(before).map_err(io::Error::other)?;
        if retired.segments > 0 {
            let (segments, entries) = (retired.segments, retired.entries);
            tracing::info!(segments, entries, "old segments of the ledger were dropped");
        }
    }
    outcome
}

/// Writes the days (UTC) before `today` that have no file, and those of which something was adjusted
/// since theirs was written. A day of which entries were dropped gets no file any more: it would be a
/// part under the name of the whole.
///
/// Returns the day before which every one has the file that it wants, and the first error of those that
/// have not.
pub(crate) fn export(
    books: &Books,
    form: DailyExport,
    dir: &Path,
    today: u64,
) -> (u64, io::Result<()>) {
    let ending = match form {
        DailyExport::Csv => "csv",
        DailyExport::Jsonl => "jsonl",
        DailyExport::Focus => "focus.csv",
    };
    let first = match books.first_day() {
        Ok(first) => first.unwrap_or(today),
        Err(error) => return (0, Err(io::Error::other(error))),
    };
    let adjusted = books.adjusted_days();
    let file_of = |day| dir.join(format!("{}.{ending}.zst", date(day)));
    let lately = today.saturating_sub(DAYS_BACK_MAX).max(first);
    let without = (first..lately).filter(|day| !file_of(*day).exists());
    let (old, mut until, mut outcome) = with_entries(books, without, today);
    for day in first..today {
        let file = file_of(day);
        // What of the adjustments is in the file; there is none where none was made.
        let note = dir.join(format!("{}.{ending}.adjusted", date(day)));
        let wanted = adjusted.get(&day).map_or("", String::as_str);
        let written = || {
            let due = match file.exists() {
                true => wanted != noted(&note)?,
                false => day >= lately || old.contains(&day),
            };
            if due && books.keeps_all_of(day * DAY_MS).map_err(io::Error::other)? {
                write(books, form, &file, day)?;
                if !wanted.is_empty() {
                    fs::write(&note, wanted)?;
                }
            }
            Ok(())
        };
        // One that cannot be read, or written, keeps no other one from its file.
        let written = written();
        if written.is_err() {
            until = until.min(day);
        }
        outcome = outcome.and(written);
    }
    (until, outcome)
}

/// Those of these days, which are in order, on which something was written down, the day up to which all
/// could be read (`today`: all of them), and what could not. Each stretch of them is read once.
fn with_entries(
    books: &Books,
    days: impl Iterator<Item = u64>,
    today: u64,
) -> (BTreeSet<u64>, u64, io::Result<()>) {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for day in days {
        match stretches.last_mut() {
            Some(stretch) if stretch.end == day => stretch.end += 1,
            _ => stretches.push(day..day + 1),
        }
    }
    let (mut found, mut until, mut outcome) = (BTreeSet::new(), today, Ok(()));
    for stretch in stretches {
        let filter = Filter {
            from_unix_ms: Some(stretch.start * DAY_MS),
            to_unix_ms: Some(stretch.end * DAY_MS),
            ..Filter::default()
        };
        let read = books.reader().each(&filter, &mut |unix_ms, _| {
            found.insert(unix_ms / DAY_MS);
            true
        });
        if read.is_err() {
            until = until.min(stretch.start);
        }
        outcome = outcome.and(read.map_err(io::Error::other));
    }
    (found, until, outcome)
}

fn noted(note: &Path) -> io::Result<String> {
    match fs::read_to_string(note) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Writes one day out, whole and durable under its name or not at all.
fn write(books: &Books, form: DailyExport, file: &Path, day: u64) -> io::Result<()> {
    let part = file.with_extension("part");
    let written = write_part(books, form, &part, day)
        .and_then(|()| fs::rename(&part, file))
        .and_then(|()| sync_parent(file));
    if written.is_err() {
        let _renamed_or_never_made = fs::remove_file(&part);
    }
    written
}

/// Writes one day out, compressed.
fn write_part(books: &Books, form: DailyExport, part: &Path, day: u64) -> io::Result<()> {
    let out = BufWriter::new(File::create(part)?);
    let mut packed = zstd::stream::Encoder::new(out, LEVEL)?;
    packed.include_checksum(true)?;
    crate::admin::write_days(books, form, day * DAY_MS, (day + 1) * DAY_MS, &mut packed)?;
    let mut out = packed.finish()?;
    out.flush()?;
    out.get_ref().sync_all()
}

fn date(day: u64) -> Date {
    let ms = i64::try_from(day * DAY_MS).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date()
}
