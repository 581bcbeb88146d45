//! Who spent what. Money and tokens are reserved before work and settled exactly once after it.
//!
//! [`Books`] is the whole interface of the hot path: [`Books::open_entry`] when a request's routes
//! are about to be tried, [`OpenEntry::reserve`] each attempt, [`OpenEntry::finish`] it. An
//! [`OpenEntry`] that is dropped unfinished (the caller left, the handler died) finishes itself as
//! [`Outcome::ClientGone`].

pub(crate) mod accounts;
pub(crate) mod adjusted;
mod books;
pub(crate) mod budgets;
mod calendar;
mod checkpoint;
mod corrections;
mod derived;
pub(crate) mod effect;
pub mod entry;
mod extension;
mod filter;
mod gather;
mod ids;
mod keeper;
mod line;
mod lined;
pub(crate) mod notice;
pub(crate) mod open_entry;
mod opening;
mod query;
mod rate;
mod rebuild;
mod recovery;
mod refusals;
mod replay;
mod rerate;
mod retire;
mod rollups;
mod running;
mod session;
mod short;
mod spare;
mod standing;
mod summary;
mod tally;
mod telling;
mod verify;
pub(crate) mod zones;

pub use crate::store::lock::held;
pub use crate::store::{BooksError, CommitTicket, Condition, JournalError, Lost};
pub use accounts::Amount;
pub(crate) use adjusted::Adjustments;
pub use adjusted::Place;
pub use books::{Books, OpenReservation, StoreState};
pub use budgets::{
    At, BudgetPath, BudgetState, Crossing, Holds, Machine, Need, Payer, Scope, Side, Spent, Ticket,
    TokenRate, Unit, budget_id,
};
pub use derived::PolicyNote;
pub use entry::{
    Adjustment, Attempt, AttemptOutcome, AttemptTimes, CacheUse, DecisionRecord, Endpoint, Entry,
    GuardAction, GuardEffect, Guesses, KeyId, ModelFile, Notes, Outcome, RefusedRow, RequestId,
    Role, word,
};
pub use extension::Extension;
pub use filter::Filter;
pub use lined::{Granted, InLine, Lined};
pub use notice::{Guarded, NOTICE_KINDS, Notice, NoticeId, Reached, Telling, Told, What};
pub use open_entry::{Ask, AttemptIndex, Ending, EntryHead, OpenEntry};
pub use opening::{BooksConfig, OpenError, Recovered};
pub use query::{Cursor, PAGE_MAX, Page, Reader};
pub use rebuild::Rebuilt;
pub use replay::{Cost, Costs, Move, Moved, REPLAY_MAX, Replay, ReplayReport, Spread, Times};
pub(crate) use rerate::signed;
pub use rerate::{Difference, RatedFrom, Rerate, Rerated};
pub use retire::Retired;
pub use session::{SessionNode, SessionTree, Sessions};
pub use short::Short;
pub(crate) use spare::SPARE_ENDING;
pub use spare::Uncounted;
pub use standing::{Stood, StoodDay};
pub use summary::{
    Group, GroupBy, Line, NONE, OTHER, OrderBy, Percentiles, Quantiles, Summary, SummaryQuery,
};
pub(crate) use tally::percentile;
pub use telling::Next;
pub use verify::{Finding, Report};

#[cfg(test)]
mod tests;
