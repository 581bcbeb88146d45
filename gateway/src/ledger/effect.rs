//! What an event does to the state that is derived from the journal.
//!
//! **Invariant:** the effect that travels beside an event while it is committed and the one made
//! from the event as read back are the same, so that a rebuilt state equals the running one.

use super::{
    accounts::{Amount, Correction},
    budgets::Holds,
    entry::{Adjustment, KeyId, RefusedRow, RequestId},
    notice::{Notice, ToldRecord},
    standing::Stood,
    zones::Configured,
};
use crate::{
    caller::{GroupRecord, KeyRecord},
    store::codec::{Event, PolicyRecord, Row},
};
use policies::PicoUsd;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What an event does.
#[derive(Debug)]
pub(crate) enum Effect {
    Reserved(Hold),
    Extended {
        id: RequestId,
        attempt: u16,
        money: PicoUsd,
    },
    Settled {
        id: RequestId,
        attempt: u16,
        charge: Amount,
    },
    Entry(Box<Row>),
    Refused(RefusedRow),
    Key(Box<KeyRecord>),
    Group(Box<GroupRecord>),
    Policy(Box<PolicyRecord>),
    Notice(Box<Notice>),
    Told(ToldRecord),
    Configured(Box<Configured>),
    Corrected(Box<Correction>),
    Stood(Box<Stood>),
    /// Balances and rollups keep what was booked at the time.
    Adjustment(Box<Adjustment>),
}

/// What is held for one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    pub(crate) id: RequestId,
    pub(crate) attempt: u16,
    pub(crate) key: KeyId,
    /// Shared with the attempt that runs.
    pub(crate) holds: Arc<Holds>,
    pub(crate) held: Amount,
}

impl From<Event> for Effect {
    fn from(event: Event) -> Self {
        match event {
            Event::Reserved(reserved) => Self::Reserved(Hold {
                held: reserved.held(),
                id: reserved.id,
                attempt: reserved.attempt,
                key: reserved.key,
                holds: Arc::new(reserved.holds),
            }),
            Event::Extended((id, attempt, money)) => Self::Extended { id, attempt, money },
            Event::Settled(settled) => Self::Settled {
                id: settled.id,
                attempt: settled.attempt,
                charge: settled.record.charge(),
            },
            Event::Entry(row) => Self::Entry(row),
            Event::Refused(row) => Self::Refused(row),
            Event::Key(record) => Self::Key(record),
            Event::Group(record) => Self::Group(record),
            Event::Notice(notice) => Self::Notice(notice),
            Event::Told(record) => Self::Told(record),
            Event::Configured(configured) => Self::Configured(configured),
            Event::Corrected(correction) => Self::Corrected(correction),
            Event::Stood(stood) => Self::Stood(stood),
            Event::Policy(record) => Self::Policy(Box::new(record)),
            Event::Adjustment(adjustment) => Self::Adjustment(adjustment),
        }
    }
}
