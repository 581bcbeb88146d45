//! What a running server does for its ledger once an hour: writes out the days that are over, and
//! drops what is older than it is to be kept.
//!
//! **Invariants:** a day's file is there whole under its name or not at all; where days are to be
//! exported, none is dropped before its file is there.

use crate::{config::DailyExport, serve::Gateway};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: u64 = 86_400_000;
/// Days that are looked back for one that was not exported.
const DAYS_BACK_MAX: u64 = 400;
const LEVEL: i32 = 9;

/// Until the server stops.
pub async fn run(gateway: Arc<Gateway>, stop: CancellationToken) {
    let ledger = &gateway.config.ledger;
    if ledger.keep_days.is_none() && ledger.daily_export.is_none() {
        return;
    }
    loop {
        let due = Arc::clone(&gateway);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || once(&due)).await {
            tracing::error!(%error, "the ledger's upkeep failed; it is tried again in an hour");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Does what is due. Blocking.
///
/// # Errors
/// What could not be read or written; the rest is done.
pub fn once(gateway: &Gateway) -> io::Result<()> {
    let config = &gateway.config.ledger;
    let today = gateway.clock.unix_ms() / DAY_MS;
    if let Some(form) = config.daily_export {
        let dir = gateway.config.data_dir.join("exports");
        fs::create_dir_all(&dir)?;
        let first = gateway.books.first_day().map_err(io::Error::other)?;
        let from = first.unwrap_or(today).max(today.saturating_sub(DAYS_BACK_MAX));
        for day in from..today {
            export(gateway, form, &dir, day)?;
        }
    }
    if let Some(days) = config.keep_days {
        let before = today.saturating_sub(u64::from(days)) * DAY_MS;
        let retired = gateway.books.retire(before).map_err(io::Error::other)?;
        if retired.segments > 0 {
            let (segments, entries) = (retired.segments, retired.entries);
            tracing::info!(segments, entries, "old segments of the ledger were dropped");
        }
    }
    Ok(())
}

/// Writes one day (UTC) out, compressed, unless its file is there.
fn export(gateway: &Gateway, form: DailyExport, dir: &Path, day: u64) -> io::Result<()> {
    let ending = match form {
        DailyExport::Csv => "csv",
        DailyExport::Jsonl => "jsonl",
        DailyExport::Focus => "focus.csv",
    };
    let file = dir.join(format!("{}.{ending}.zst", date(day)));
    if file.exists() {
        return Ok(());
    }
    let part = file.with_extension("part");
    let out = BufWriter::new(File::create(&part)?);
    let mut packed = zstd::stream::Encoder::new(out, LEVEL)?;
    packed.include_checksum(true)?;
    crate::admin::write_days(&gateway.books, form, day * DAY_MS, (day + 1) * DAY_MS, &mut packed)?;
    let mut out = packed.finish()?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&part, &file)
}

fn date(day: u64) -> Date {
    let ms = i64::try_from(day * DAY_MS).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date()
}
