//! A request's place in the line for a budget, and what came of it.
//!
//! **Invariant:** a place that is dropped leaves the line.

use super::{
    accounts::Amount,
    budgets::{Holds, Place},
    open_entry::{Ask, AttemptIndex},
    short::Short,
};
use crate::{store::CommitTicket, timeline::micros};
use tokio::time::Instant;

/// What came of asking for money.
#[derive(Debug)]
pub enum Lined {
    /// It is held.
    Reserved(AttemptIndex, CommitTicket),
    /// It is not there yet; the attempt that asked for it.
    Waits(Box<Ask>, InLine),
}

/// A place in the line for a budget. Dropping it leaves the line.
#[derive(Debug)]
pub struct InLine {
    pub(super) place: Place,
    pub(super) held: Amount,
    pub(super) paid: bool,
    pub(super) clock: crate::clock::Clock,
}

/// What a place in the line came to.
#[derive(Debug)]
pub struct Granted {
    pub(super) holds: Result<Holds, Short>,
    pub(super) held: Amount,
    pub(super) paid: bool,
    pub(super) waited_us: u64,
}

impl InLine {
    /// Waits for the line's answer, at most until `until`.
    pub async fn granted(self, until: Instant) -> Granted {
        let since = Instant::now();
        let Self { place, held, paid, clock } = self;
        let holds = place.answer(until, || clock.unix_ms()).await;
        Granted { holds, held, paid, waited_us: micros(since.elapsed()) }
    }
}
