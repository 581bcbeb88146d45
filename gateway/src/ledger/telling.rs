//! Who is told of notices, and how far: what deliveries and the admin API ask of the books.
//!
//! **Invariants:** the journal is the queue: a receiver's place in it is written down after each
//! delivery, so that a restart goes on where it was; a receiver that is new begins with what comes
//! after it; one that is further behind than notices are kept is told so, not held up.

use super::{
    books::Books,
    effect::Effect,
    notice::{Notice, Notices, Telling, Told, ToldRecord},
};
use crate::store::{BooksError, CommitTicket, codec};
use tokio::sync::watch;

/// What a receiver is to be told next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The oldest notice after its place that it wants, with its number.
    pub notice: Option<(u64, Notice)>,
    /// Notices after its place that it wants.
    pub waiting: u64,
    /// Number of the newest notice there is.
    pub newest: u64,
    /// Whether notices after its place are no longer kept, of which some may have been its own.
    pub missed: bool,
}

impl Books {
    /// The newest notices that are kept, newest first. Blocking.
    #[must_use]
    pub fn notices(&self) -> Vec<(u64, Notice)> {
        self.catch_up();
        self.0.keeper.derived().notices.all().rev().cloned().collect()
    }

    /// Changes with every notice that is written down.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.0.keeper.news()
    }

    /// How far a receiver has been told; `None` if it never was. Blocking.
    #[must_use]
    pub fn told(&self, receiver: &str) -> Option<Told> {
        self.catch_up();
        self.0.keeper.derived().notices.told.get(receiver).copied()
    }

    /// Has a receiver that is new begin with what comes next. Blocking.
    ///
    /// # Errors
    /// [`BooksError`] when that cannot be written down.
    pub fn begin_telling(&self, receiver: &str) -> Result<Told, BooksError> {
        if let Some(told) = self.told(receiver) {
            return Ok(told);
        }
        let seq = self.0.keeper.derived().notices.newest();
        self.put_told(receiver, seq, Telling::Begins).blocking()?;
        Ok(Told { seq, ..Told::default() })
    }

    /// What comes after `seq` for a receiver. Blocking, but not for the disk.
    #[must_use]
    pub fn next_notice(&self, seq: u64, wants: impl Fn(&Notice) -> bool) -> Next {
        next(&self.0.keeper.derived().notices, seq, wants)
    }

    /// Writes down how a receiver stands with the notice `seq`. The ticket resolves when that is
    /// durable, in either mode.
    pub fn put_told(&self, receiver: &str, seq: u64, how: Telling) -> CommitTicket {
        let record = ToldRecord { receiver: receiver.to_owned(), seq, how };
        self.put(codec::TOLD, &record.clone(), Effect::Told(record))
    }
}

fn next(notices: &Notices, seq: u64, wants: impl Fn(&Notice) -> bool) -> Next {
    let mut wanted = notices.after(seq).filter(|(_, notice)| wants(notice));
    let notice = wanted.next().cloned();
    let waiting = u64::from(notice.is_some()) + wanted.count() as u64;
    Next { notice, waiting, newest: notices.newest(), missed: seq < notices.dropped_seq }
}
