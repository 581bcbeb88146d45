//! Refusals: counted always, written at a capped rate.
//!
//! **Invariant:** a flood of refused requests costs the journal at most [`BURST`] rows and then one
//! a second per key, code and rule of the policy; the rows that are written say how many were not, and
//! what no row says yet is written once a minute, when someone asks, and at the close, so the counts
//! stay whole.

use super::entry::{KeyId, RefusedRow};
use policies::RuleName;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Rows of one kind that are written without delay.
const BURST: u64 = 10;
/// Then one in this many milliseconds.
const EVERY_MS: u64 = 1_000;
/// Kinds that are told apart; the rest shares one.
const KINDS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    kinds: Mutex<HashMap<Kind, Counted>>,
}

/// Whom what refused: the key, the code and the rule of the policy, where there is one.
type Kind = (Option<KeyId>, String, Option<RuleName>);

#[derive(Debug, Default)]
struct Counted {
    /// When the burst will be whole again, as in a GCRA.
    whole_at_ms: u64,
    /// The last row that was not written, standing for `unwritten` of them.
    last: Option<RefusedRow>,
    unwritten: u64,
}

impl Refusals {
    /// The row to write now for this refusal, if its turn has come.
    pub(crate) fn count(&self, mut row: RefusedRow) -> Option<RefusedRow> {
        let mut kinds = self.lock();
        let counted = of_kind(&mut kinds, &row);
        // No further ahead than it can be: a clock that was and is right again silences nothing.
        let whole_at_ms = counted.whole_at_ms.min(row.unix_ms + BURST * EVERY_MS);
        let from = whole_at_ms.max(row.unix_ms);
        if from + EVERY_MS > row.unix_ms + BURST * EVERY_MS {
            counted.whole_at_ms = whole_at_ms;
            counted.unwritten += 1;
            counted.last = Some(row);
            return None;
        }
        counted.whole_at_ms = from + EVERY_MS;
        row.unwritten = std::mem::take(&mut counted.unwritten);
        counted.last = None;
        Some(row)
    }

    /// What was counted and not written: one row for each kind.
    pub(crate) fn rest(&self, now_unix_ms: u64) -> Vec<RefusedRow> {
        let mut kinds = self.lock();
        let rows = kinds.values_mut().filter_map(|counted| {
            let unwritten = std::mem::take(&mut counted.unwritten).saturating_sub(1);
            counted.last.take().map(|row| RefusedRow { unwritten, ..row })
        });
        let rows = rows.collect();
        kinds.retain(|_, counted| counted.whole_at_ms > now_unix_ms);
        rows
    }

    /// A row that could not be written: it is counted with the next of its kind.
    pub(crate) fn put_back(&self, row: RefusedRow) {
        let mut kinds = self.lock();
        let counted = of_kind(&mut kinds, &row);
        counted.unwritten += 1 + row.unwritten;
        counted.last.get_or_insert(row);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Counted>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_kind<'k>(kinds: &'k mut HashMap<Kind, Counted>, row: &RefusedRow) -> &'k mut Counted {
    let mut kind = (row.key.clone(), row.code.clone(), row.rule.clone());
    if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
        kind = (None, String::new(), None);
    }
    kinds.entry(kind).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::RequestId;

    fn row(unix_ms: u64) -> RefusedRow {
        RefusedRow {
            id: RequestId(uuid::Uuid::nil()),
            unix_ms,
            key: None,
            code: "invalid_api_key".to_owned(),
            status: 401,
            rule: None,
            unwritten: 0,
        }
    }

    #[test]
    fn a_flood_is_counted_whole_and_written_thinly() {
        let refusals = Refusals::default();
        let written: Vec<_> =
            (0..10_000).filter_map(|at| refusals.count(row(1_000_000 + at))).collect();
        assert!(written.len() <= 20, "{} rows", written.len());
        let rest = refusals.rest(1_000_000);
        let counted: u64 = written.iter().chain(&rest).map(|row| 1 + row.unwritten).sum();
        assert_eq!(counted, 10_000);
    }

    #[test]
    fn what_found_no_place_is_counted_with_the_next() {
        let refusals = Refusals::default();
        refusals.put_back(RefusedRow { unwritten: 4, ..row(1_000) });
        assert_eq!(refusals.count(row(2_000)).map(|row| row.unwritten), Some(5));
        assert_eq!(refusals.rest(2_000), []);
    }

    #[test]
    fn a_clock_that_was_an_hour_ahead_silences_nobody() {
        let refusals = Refusals::default();
        let flood = |at| (0..50).filter(|_| refusals.count(row(at)).is_some()).count();
        assert_eq!(flood(4_600_000), 10);
        assert_eq!(flood(1_000_000), 0);
        assert_eq!(flood(1_001_000), 1);
        assert_eq!(flood(1_020_000), 10);
    }
}
