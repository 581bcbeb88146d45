//! Refusals: counted always, written at a capped rate.
//!
//! **Invariant:** a flood of refused requests costs the journal at most [`BURST`] rows and then one
//! a second per key, code and rule of the policy; the rows that are written say how many were not, so
//! the counts stay whole.

use super::entry::{KeyId, RefusedRow};
use policies::RuleName;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
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
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = (row.key.clone(), row.code.clone(), row.rule.clone());
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
            kind = (None, String::new(), None);
        }
        let counted = kinds.entry(kind).or_default();
        let from = counted.whole_at_ms.max(row.unix_ms);
        if from + EVERY_MS > row.unix_ms + BURST * EVERY_MS {
            counted.unwritten += 1;
            counted.last = Some(row);
            return None;
        }
        counted.whole_at_ms = from + EVERY_MS;
        row.unwritten = std::mem::take(&mut counted.unwritten);
        counted.last = None;
        Some(row)
    }

    /// What was counted and not written: one row for each kind, at the close.
    pub(crate) fn rest(&self) -> Vec<RefusedRow> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = kinds.drain().filter_map(|(_, counted)| {
            let unwritten = counted.unwritten.saturating_sub(1);
            counted.last.map(|row| RefusedRow { unwritten, ..row })
        });
        rest.collect()
    }
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
        let rest = refusals.rest();
        let counted: u64 = written.iter().chain(&rest).map(|row| 1 + row.unwritten).sum();
        assert_eq!(counted, 10_000);
    }
}
