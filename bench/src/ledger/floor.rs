//! The floor: the same bytes appended to a file by one thread, fdatasync after each batch.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Figure, nanos};
use crate::stats::Ladder;

/// Bytes that an entry and its reservation take in the journal, about.
const REQUEST_BYTES: usize = 1_100;

/// Appends for so many seconds in all, in batches of 1, 64 and 512 requests.
pub(super) fn measure(dir: &Path, seconds: u64) -> Result<Vec<Figure>, String> {
    [1, 64, 512]
        .into_iter()
        .map(|batch| one(dir, batch, Duration::from_secs(seconds) / 3))
        .collect::<std::io::Result<_>>()
        .map_err(|error| error.to_string())
}

fn one(dir: &Path, batch: usize, time: Duration) -> std::io::Result<Figure> {
    let path = dir.join("floor");
    let mut file = File::create(&path)?;
    let bytes = vec![0x5a; REQUEST_BYTES * batch];
    let mut commits = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let commit = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        commits.push(nanos(commit));
    }
    let taken = began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    #[expect(clippy::cast_precision_loss, reason = "for a table")]
    let per_s = (commits.len() * batch) as f64 / taken;
    Ok(Figure {
        what: format!("bare append + fdatasync, batches of {batch}"),
        target: None,
        per_s: Some(per_s),
        ns: Ladder::of(&mut commits),
        note: format!("{REQUEST_BYTES} bytes a request"),
    })
}
