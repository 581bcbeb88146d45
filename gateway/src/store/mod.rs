//! The journal and sled: the only code that touches the ledger's files.
//!
//! The *journal* (`journal/`) is the record: append-only segments of checksummed events in one
//! gapless sequence, written by one thread ([`committer`]). *sled* (`index/`) holds what can be
//! rebuilt from it ([`index`]). This module knows bytes, order and durability; what the events mean
//! is the ledger's business, but for their encoding ([`codec`]).

pub(crate) mod ballast;
pub(crate) mod base;
pub(crate) mod catalogue;
pub(crate) mod codec;
pub(crate) mod columns;
pub(crate) mod committer;
pub(crate) mod damage;
pub(crate) mod disk;
pub(crate) mod index;
pub(crate) mod journal;
pub mod lock;
pub(crate) mod progress;
pub(crate) mod queue;
pub mod record;
pub(crate) mod sealed;
pub(crate) mod segment;
mod sync;
pub(crate) mod whole;
pub(crate) mod writer;

pub use damage::Lost;
pub use journal::JournalError;
pub use progress::{BooksError, CommitTicket, Condition};
