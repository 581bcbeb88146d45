//! A change that an operator makes to keys, groups, budgets and balances: durable first, then in effect, and
//! never half of it.
//!
//! **Invariants:** changes are made one at a time, each from what the one before left; one that was
//! begun is carried out whatever becomes of its caller; while the ledger cannot be written none is
//! begun, so that what is answered 503 can be asked for again.

use crate::{
    caller::{GroupRecord, KeyRecord},
    ledger::{BooksError, CommitTicket, Condition},
    refusal::Refusal,
    serve::Gateway,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// How often a ledger that fails is looked at for a change that was begun.
const AGAIN: Duration = Duration::from_millis(200);

/// Leave to make one change. What it starts from is to be read after it was given.
pub(super) struct Change {
    gateway: Arc<Gateway>,
    turn: OwnedMutexGuard<()>,
}

/// Waits for its turn.
///
/// # Errors
/// The ledger cannot be written now.
pub(super) async fn begin(gateway: &Arc<Gateway>) -> Result<Change, Refusal> {
    writable(gateway)?;
    let turn = gateway.keys.changing().await;
    writable(gateway)?;
    Ok(Change { gateway: Arc::clone(gateway), turn })
}

/// Whether a change may be begun.
///
/// # Errors
/// The ledger cannot be written now.
pub(super) fn writable(gateway: &Gateway) -> Result<(), Refusal> {
    match gateway.books.state().condition {
        Condition::Failed { reason } => {
            let error = BooksError::Failed(reason);
            Err(Refusal::Ledger(format!("{error}; nothing was changed")))
        }
        Condition::Healthy | Condition::LowSpace { .. } | Condition::Closed => Ok(()),
    }
}

impl Change {
    /// A key's record replaces the one there is.
    pub(super) async fn put_key(self, record: &KeyRecord) -> Result<(), Refusal> {
        let ticket = self.gateway.books.put_key(record.clone());
        let record = record.clone();
        self.carry_out(ticket, |gateway| gateway.keys.install(record)).await
    }

    /// A group's record replaces the one there is.
    pub(super) async fn put_group(self, record: &GroupRecord) -> Result<(), Refusal> {
        let ticket = self.gateway.books.put_group(record.clone());
        let record = record.clone();
        self.carry_out(ticket, |gateway| gateway.keys.install_groups(vec![record])).await
    }

    /// Has the change take effect once it is durable, in a task that needs no caller. `ticket`: what of
    /// it was queued.
    ///
    /// # Errors
    /// It is not durable; where it will be, that is said, so that nobody asks for it again.
    pub(super) async fn carry_out(
        self,
        ticket: CommitTicket,
        take_effect: impl FnOnce(&Gateway) + Send + 'static,
    ) -> Result<(), Refusal> {
        let (tell, told) = oneshot::channel();
        #[expect(
            clippy::disallowed_methods,
            reason = "a store that fails would hold up the shutdown; what is queued its close writes"
        )]
        tokio::spawn(async move {
            let Self { gateway, turn } = self;
            let first = ticket.clone().committed().await;
            let (durable, answer) = match first {
                // It is in the queue, and is written as soon as anything can be.
                Err(error @ BooksError::Failed(_)) if ticket.is_queued() => {
                    let message =
                        "the change was begun before that and is made as soon as it can be";
                    let answer = Err(Refusal::Ledger(format!("{error}; {message}")));
                    drop(tell.send(answer));
                    (durable(ticket).await, None)
                }
                first => {
                    let answer = first.clone().map_err(super::unreadable);
                    (first, Some((tell, answer)))
                }
            };
            if durable.is_ok() {
                take_effect(&gateway);
            }
            drop(turn);
            if let Some((tell, answer)) = answer {
                drop(tell.send(answer));
            }
        });
        told.await.unwrap_or(Err(Refusal::Draining))
    }
}

/// Waits until it is durable, also while the ledger cannot be written.
///
/// # Errors
/// The ledger was closed before it was written.
async fn durable(ticket: CommitTicket) -> Result<(), BooksError> {
    loop {
        match ticket.clone().committed().await {
            Err(BooksError::Failed(_)) => tokio::time::sleep(AGAIN).await,
            ended => return ended,
        }
    }
}
