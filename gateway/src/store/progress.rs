//! How far the journal is durable, and those who wait for it.
//!
//! **Invariant:** a waiter always ends: with the commit of its event, or with an error as soon as
//! the store fails or closes. Nobody is woken for a commit that is not theirs.

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, Thread, current, park};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

/// Why the books cannot take something now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BooksError {
    /// More is waiting to be written than the queue holds.
    #[error("the ledger's queue is full")]
    Full,
    /// The disk is nearly full.
    #[error(
        "the ledger's disk has {free_bytes} bytes left, less than the low-water mark of {low_water_bytes}"
    )]
    LowSpace {
        /// What is left.
        free_bytes: u64,
        /// The configured mark.
        low_water_bytes: u64,
    },
    /// Writing fails.
    #[error("the ledger cannot be written: {0}")]
    Failed(Arc<str>),
    /// The books are closed.
    #[error("the ledger is closed")]
    Closed,
    /// Something in the ledger cannot be read.
    #[error("the ledger cannot be read: {0}")]
    Unreadable(Arc<str>),
    /// Exact percentiles are asked of more values than a query holds.
    #[error("exact percentiles of more than {0} values are held by no query")]
    TooManyValues(usize),
    /// More requests are meant than one query looks at.
    #[error("more than {0} requests are meant: choose a shorter time")]
    TooManyRequests(u64),
}

/// The store's condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Writing works.
    #[default]
    Healthy,
    /// Writing works, and the disk has less left than the low-water mark: paid work is refused.
    LowSpace {
        /// Bytes left.
        free_bytes: u64,
        /// The configured mark.
        low_water_bytes: u64,
    },
    /// Writing fails; it is tried again until it works. Paid work is refused.
    Failed {
        /// What the file system said.
        reason: Arc<str>,
    },
    /// Closed for good.
    Closed,
}

impl Condition {
    /// Why paid work is refused now, if it is.
    ///
    /// # Errors
    /// Unless [`Condition::Healthy`].
    pub fn paid_work(&self) -> Result<(), BooksError> {
        match self {
            Self::Healthy => Ok(()),
            Self::LowSpace { free_bytes, low_water_bytes } => Err(BooksError::LowSpace {
                free_bytes: *free_bytes,
                low_water_bytes: *low_water_bytes,
            }),
            Self::Failed { reason } => Err(BooksError::Failed(Arc::clone(reason))),
            Self::Closed => Err(BooksError::Closed),
        }
    }

    fn writes(&self) -> Result<(), BooksError> {
        match self {
            Self::Healthy | Self::LowSpace { .. } => Ok(()),
            Self::Failed { .. } | Self::Closed => self.paid_work(),
        }
    }
}

/// How many of the events ever queued are durable.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    committed: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    condition: Condition,
    waiters: Vec<(u64, Waker)>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    pub(crate) fn condition(&self) -> Condition {
        self.lock().condition.clone()
    }

    /// The first `count` events ever queued are durable.
    pub(crate) fn commit(&self, count: u64) {
        self.committed.store(count, Ordering::Release);
        let mut due = Vec::new();
        self.lock().waiters.retain_mut(|(wanted, waker)| {
            let wait = *wanted > count;
            if !wait {
                due.push(std::mem::replace(waker, Waker::noop().clone()));
            }
            wait
        });
        due.into_iter().for_each(Waker::wake);
    }

    /// The store is in this condition now; if it cannot write, whoever waits is told.
    pub(crate) fn set(&self, condition: Condition) {
        let due = {
            let mut inner = self.lock();
            inner.condition = condition;
            match inner.condition.writes() {
                Ok(()) => Vec::new(),
                Err(_) => std::mem::take(&mut inner.waiters),
            }
        };
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn poll(&self, wanted: u64, context: &Context<'_>) -> Poll<Result<(), BooksError>> {
        if self.committed() >= wanted {
            return Poll::Ready(Ok(()));
        }
        let mut inner = self.lock();
        // Again under the lock: `commit` stores the count before it takes it.
        if self.committed() >= wanted {
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = inner.condition.writes() {
            return Poll::Ready(Err(error));
        }
        inner.waiters.push((wanted, context.waker().clone()));
        Poll::Pending
    }
}

/// A place in the journal's future: resolves when what was handed over is durable.
#[derive(Clone, Debug)]
#[must_use = "an answer that does not wait for its ticket may be lost in a crash"]
pub struct CommitTicket(Wait);

#[derive(Clone, Debug)]
enum Wait {
    Nothing,
    Until(Arc<Progress>, u64),
    Failed(BooksError),
}

impl CommitTicket {
    /// Nothing to wait for.
    pub fn ready() -> Self {
        Self(Wait::Nothing)
    }

    pub(crate) fn at(progress: &Arc<Progress>, count: u64) -> Self {
        Self(Wait::Until(Arc::clone(progress), count))
    }

    /// It was not even queued.
    pub(crate) fn failed(error: BooksError) -> Self {
        Self(Wait::Failed(error))
    }

    /// Waits until it is durable. In `grouped` mode nothing waits.
    ///
    /// # Errors
    /// As soon as the store fails: whether the event will be written later is then open.
    pub async fn committed(self) -> Result<(), BooksError> {
        Committed(self).await
    }

    /// Whether it is in the queue, so that it will be written unless the store never works again.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self.0, Wait::Until(..))
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// See [`CommitTicket::committed`].
    pub fn blocking(self) -> Result<(), BooksError> {
        let waker = Waker::from(Arc::new(Unpark(current())));
        let mut context = Context::from_waker(&waker);
        let mut future = Committed(self);
        loop {
            match Pin::new(&mut future).poll(&mut context) {
                Poll::Ready(result) => return result,
                Poll::Pending => park(),
            }
        }
    }
}

struct Committed(CommitTicket);

impl Future for Committed {
    type Output = Result<(), BooksError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0.0 {
            Wait::Nothing => Poll::Ready(Ok(())),
            Wait::Until(progress, count) => progress.poll(*count, context),
            Wait::Failed(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
