//! Filling a ledger to the size that is asked, over as many days as it takes.

use std::path::Path;
use std::time::Instant;

use gateway::ledger::{Books, CommitTicket};

use super::request::{Maker, answered};
use super::{BEGIN_MS, Figure, House, memory};

const DAY_MS: u64 = 86_400_000;
/// Requests between two waits: the queue has 32,768 places, a request takes up to three.
const UNWAITED: u64 = 4_096;

/// Writes `entries` requests, `day_entries` to a day of the standing clock.
pub(super) fn fill(house: &House, entries: u64, day_entries: u64) -> Result<Figure, String> {
    let books = house.open()?;
    let began = Instant::now();
    write(house, &books, 0, entries, day_entries)?;
    let taken = began.elapsed().as_secs_f64();
    // Sealing ends with the books; what it left is sealed at the next start.
    let note = memory();
    books.close();
    #[expect(clippy::cast_precision_loss, reason = "for a table")]
    let per_s = entries as f64 / taken;
    Ok(Figure {
        what: format!("filling to {entries} entries, one thread"),
        target: None,
        per_s: Some(per_s),
        ns: None,
        note: format!("segments sealed meanwhile; {note}"),
    })
}

/// Writes `count` requests from the `first`th on, and waits until the last is durable.
pub(super) fn write(
    house: &House,
    books: &Books,
    first: u64,
    count: u64,
    day_entries: u64,
) -> Result<(), String> {
    let maker = Maker::new();
    let mut last: Option<CommitTicket> = None;
    for n in first..first + count {
        let unix_ms = BEGIN_MS + at_ms(n, day_entries);
        house.hand.set(unix_ms);
        let mut entry =
            books.open_entry(maker.head(books, n, unix_ms)).map_err(|error| error.to_string())?;
        let (index, _not_sent_anywhere) =
            entry.reserve(maker.ask(n)).map_err(|error| error.to_string())?;
        let ending = answered(&mut entry, index, n);
        last = Some(entry.finish(ending));
        if n % UNWAITED == UNWAITED - 1
            && let Some(ticket) = last.take()
        {
            ticket.blocking().map_err(|error| error.to_string())?;
        }
    }
    if let Some(ticket) = last {
        ticket.blocking().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// When the `n`th request ends, in milliseconds since the first day's beginning.
pub(super) fn at_ms(n: u64, day_entries: u64) -> u64 {
    u64::try_from(u128::from(n) * u128::from(DAY_MS) / u128::from(day_entries.max(1)))
        .unwrap_or(u64::MAX)
}

/// Size of a directory.
pub(super) fn on_disk(dir: &Path) -> String {
    fn bytes(dir: &Path) -> u64 {
        let items = std::fs::read_dir(dir).into_iter().flatten().flatten();
        items
            .map(|item| match item.metadata() {
                Ok(meta) if meta.is_dir() => bytes(&item.path()),
                Ok(meta) => meta.len(),
                Err(_) => 0,
            })
            .sum()
    }
    format!("{} MiB", bytes(dir) >> 20)
}
