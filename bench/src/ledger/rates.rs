//! Entries a second under group commit, and how long an acknowledgement takes at a fixed rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway::ledger::Books;

use super::request::{Maker, answered};
use super::{BEGIN_MS, Figure, Target, memory, nanos};
use crate::stats::Ladder;

/// One request as strict durability has it: the reservation is on disk before it would be sent, the
/// entry before the last byte would leave. Returns how long the entry's commit was waited for.
async fn request(books: &Books, maker: &Maker, n: u64) -> Result<u64, String> {
    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let head = maker.head(books, n, BEGIN_MS);
    let mut entry = books.open_entry(head).map_err(|error| fault(&error))?;
    let (index, ticket) = entry.reserve(maker.ask(n)).map_err(|error| fault(&error))?;
    ticket.committed().await.map_err(|error| fault(&error))?;
    let ending = answered(&mut entry, index, n);
    let began = Instant::now();
    entry.finish(ending).committed().await.map_err(|error| fault(&error))?;
    Ok(nanos(began))
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}

/// As many requests after one another as the time allows, `in_flight` at once.
pub(super) fn group_commit(
    books: &Books,
    in_flight: usize,
    seconds: u64,
) -> Result<Figure, String> {
    let maker = Arc::new(Maker::new());
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let mut waits = runtime()?.block_on(async {
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let (books, maker, next) = (books.clone(), Arc::clone(&maker), Arc::clone(&next));
            workers.spawn(async move {
                let mut waits = Vec::new();
                while Instant::now() < until {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    waits.push(request(&books, &maker, n).await?);
                }
                Ok::<_, String>(waits)
            });
        }
        let mut waits = Vec::new();
        while let Some(worker) = workers.join_next().await {
            waits.extend(worker.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(waits)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "for a table")]
    let per_s = waits.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Figure {
        what: format!("group commit, {in_flight} requests in flight"),
        target: Some(Target::PerSecondAtLeast(20_000)),
        per_s: Some(per_s),
        ns: Ladder::of(&mut waits),
        note: format!("two durable waits a request; {}", memory()),
    })
}

/// Requests that begin at a fixed rate, whether or not those before have ended.
pub(super) fn fixed_rate(books: &Books, rate: u64, seconds: u64) -> Result<Figure, String> {
    let maker = Arc::new(Maker::new());
    let count = rate * seconds;
    let began = Instant::now();
    let mut waits = runtime()?.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut sent = 0;
        while sent < count {
            tick.tick().await;
            let due = nanos(began).saturating_mul(rate) / 1_000_000_000;
            while sent < due.min(count) {
                let (books, maker) = (books.clone(), Arc::clone(&maker));
                running.spawn(async move { request(&books, &maker, sent).await });
                sent += 1;
            }
        }
        let mut waits = Vec::new();
        while let Some(ended) = running.join_next().await {
            waits.push(ended.map_err(|error| error.to_string())??);
        }
        Ok::<_, String>(waits)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "for a table")]
    let per_s = waits.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Figure {
        what: format!("acknowledgement at {rate} requests a second"),
        target: Some(Target::P99UnderMs(5)),
        per_s: Some(per_s),
        ns: Ladder::of(&mut waits),
        note: "the wait for the entry's commit".to_owned(),
    })
}
