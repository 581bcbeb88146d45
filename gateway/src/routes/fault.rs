//! What can go wrong in one attempt, and what follows from it for the books and for the caller.

use crate::{
    ledger::{AttemptOutcome, Outcome},
    wire::BadRequest,
};
use policies::{PicoUsd, Usage};
use std::time::Duration;

/// An attempt that gave no answer, or broke while it gave one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {}", .beside.detail)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    beside: Box<Beside>,
}

/// What a fault says beside its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Beside {
    /// For the operator's log: no secret, no prompt, nothing a caller sees.
    detail: Box<str>,
    owed: Owed,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// No place in the route's queue or pool, or no descriptor for a connection: nothing was sent.
    #[error("busy")]
    Busy,
    /// The bodies of other requests leave no room for one more body of an answer that is there already.
    #[error("no room for its body")]
    Crowded,
    /// Its breaker is open, or half open and its probes are taken, for so long as far as that is
    /// known: nothing was sent.
    #[error("left alone after failures")]
    Resting(Duration),
    /// No connection: nothing was sent.
    #[error("no connection")]
    Connect,
    /// This route cannot serve this request (its context is too short, it lacks an ability), which
    /// another might: nothing was sent.
    #[error("the request does not fit this route")]
    Unfit(BadRequest),
    /// The model was unloaded or exchanged before the engine had taken the request, and whatever follows
    /// it is as good as before: nothing was computed.
    #[error("the model was unloaded or exchanged")]
    Unloaded,
    /// The engine had failed before it had taken the request: nothing was computed.
    #[error("engine failed")]
    Down,
    /// The provider limits our rate.
    #[error("rate limited by the provider")]
    RateLimited {
        /// When it says that it opens again.
        retry_after: Option<Duration>,
    },
    /// The provider answered with this status, for reasons that are not the caller's.
    #[error("status {status}")]
    Status {
        /// A 5xx, 401, 403, 404 (the model is the operator's), 408 or anything unexpected.
        status: u16,
        /// When it says that it may be asked again.
        retry_after: Option<Duration>,
    },
    /// The provider answered a raw completion or texts to embed as one that has no such endpoint: the
    /// caller chose it, another route may have it, and this one is as good as before.
    #[error("no such endpoint")]
    Unserved {
        /// 404, 405 or 501.
        status: u16,
    },
    /// The provider says that the request itself is wrong, or will not have it of this route: the
    /// caller's fault, never the route's.
    #[error("rejected with {status}")]
    Rejected {
        /// 400, 413, 415 or 422; 403 where the prompt was moderated; 404 or 429 where it does not
        /// fit; what another tollgate refused with.
        status: u16,
        /// Whether another route may well take it: it is too long for this one, say.
        elsewhere: bool,
        /// The provider's message.
        message: String,
        /// The provider's error `type`.
        error_type: Option<String>,
        /// The provider's `param`.
        param: Option<String>,
        /// The provider's `code`.
        code: Option<String>,
    },
    /// Sent, and no first token in time.
    #[error("no first token in time")]
    FirstToken,
    /// Silent between tokens for too long.
    #[error("silent for too long")]
    Idle,
    /// Took longer than the route's total timeout.
    #[error("took too long")]
    Total,
    /// The connection broke, or the answer was not what the protocol says.
    #[error("broken answer")]
    Broken,
    /// Its caller read nothing of it for too long, and counts as one that left.
    #[error("nothing of it was read for too long")]
    Unread,
    /// It took more engine time than there was money for, and what it made by then is no answer.
    #[error("there was no money for more engine time")]
    Unpaid,
    /// What the request demands of its answer takes more than a request may take: it was computed up
    /// to there and given up. The caller's fault, never the route's.
    #[error("what it demands of its answer takes too much")]
    TooDear(BadRequest),
    /// The answer was not whole within the time that its caller asked for.
    #[error("no answer within the {} ms asked", .0.as_millis())]
    Late(Duration),
    /// The engine was ended by an operator's order or for an idle model's memory while it had the request,
    /// and whatever follows it is as good as before.
    #[error("the model was unloaded or exchanged")]
    Stopped,
    /// The engine failed while it had the request.
    #[error("engine failed")]
    Engine,
}

/// What is owed for an attempt that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owed {
    /// What its fault says ([`Fault::voids`]).
    #[default]
    ByFault,
    /// An estimate, whatever its fault is: the provider may have begun to answer.
    Estimated,
    /// What the provider reported with its error.
    Reported(Box<Usage>),
    /// What another tollgate says that it was charged until then.
    Told(PicoUsd),
    /// Nobody knows: another tollgate may have asked several routes, and says nothing of what they cost.
    Unknown,
}

impl Fault {
    /// A fault with a detail for the log.
    #[must_use]
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        let detail = detail.into().into_boxed_str();
        Self { kind, beside: Box::new(Beside { detail, owed: Owed::ByFault }) }
    }

    /// The same with what is owed for it.
    #[must_use]
    pub fn owing(mut self, owed: Owed) -> Self {
        self.beside.owed = owed;
        self
    }

    /// What is owed for it, where no answer had begun to show.
    #[must_use]
    pub fn owed(&self) -> &Owed {
        &self.beside.owed
    }

    /// For the operator's log.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.beside.detail
    }

    /// Whether nothing is owed for the attempt: nothing was sent, or the provider answered with an
    /// error status. Sent and then silent is not void: the provider may bill it.
    #[must_use]
    pub fn voids(&self) -> bool {
        matches!(
            self.kind,
            FaultKind::Busy
                | FaultKind::Resting(_)
                | FaultKind::Connect
                | FaultKind::Unfit(_)
                | FaultKind::Unloaded
                | FaultKind::Down
                | FaultKind::RateLimited { .. }
                | FaultKind::Status { .. }
                | FaultKind::Unserved { .. }
                | FaultKind::Rejected { .. }
        )
    }

    /// Whether the provider found the request itself wrong: another would, too.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self.kind, FaultKind::Rejected { elsewhere: false, .. })
    }

    /// Whether the route is at fault, so that its health suffers: not for a caller's own bad
    /// request, haste, slow reading or empty purse, nor for an order of the operator, and not where
    /// nothing was asked of it.
    #[must_use]
    pub fn is_upstreams(&self) -> bool {
        !matches!(
            self.kind,
            FaultKind::Rejected { .. }
                | FaultKind::Unserved { .. }
                | FaultKind::Unfit(_)
                | FaultKind::Busy
                | FaultKind::Crowded
                | FaultKind::Resting(_)
                | FaultKind::Unread
                | FaultKind::Unpaid
                | FaultKind::TooDear(_)
                | FaultKind::Late(_)
                | FaultKind::Unloaded
                | FaultKind::Stopped
        )
    }

    /// How a request ended whose answer broke off so.
    #[must_use]
    pub fn request_outcome(&self) -> Outcome {
        match self.kind {
            FaultKind::Unread => Outcome::ClientGone,
            FaultKind::TooDear(_) => Outcome::Rejected,
            _ => Outcome::Broken,
        }
    }

    /// How an attempt ended that had begun to answer, for its record.
    #[must_use]
    pub fn outcome_of_begun(&self) -> AttemptOutcome {
        match self.outcome() {
            AttemptOutcome::NotSent => AttemptOutcome::Broken,
            outcome => outcome,
        }
    }

    /// How the attempt ended, for its record.
    #[must_use]
    pub fn outcome(&self) -> AttemptOutcome {
        match self.kind {
            FaultKind::Busy
            | FaultKind::Resting(_)
            | FaultKind::Connect
            | FaultKind::Unfit(_)
            | FaultKind::Unloaded
            | FaultKind::Down => AttemptOutcome::NotSent,
            FaultKind::RateLimited { .. }
            | FaultKind::Status { .. }
            | FaultKind::Unserved { .. }
            | FaultKind::Rejected { .. } => AttemptOutcome::ErrorStatus,
            FaultKind::FirstToken => AttemptOutcome::FirstTokenTimeout,
            FaultKind::Idle => AttemptOutcome::IdleTimeout,
            FaultKind::Total => AttemptOutcome::TotalTimeout,
            FaultKind::Broken => AttemptOutcome::Broken,
            FaultKind::Unread
            | FaultKind::Crowded
            | FaultKind::Unpaid
            | FaultKind::TooDear(_)
            | FaultKind::Late(_)
            | FaultKind::Stopped => AttemptOutcome::Cancelled,
            FaultKind::Engine => AttemptOutcome::EngineFault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_caller_or_the_operator_brings_about_is_no_fault_of_the_route_and_is_owed() {
        for (kind, ends) in [
            (FaultKind::Unread, Outcome::ClientGone),
            (FaultKind::Unpaid, Outcome::Broken),
            (FaultKind::Stopped, Outcome::Broken),
            (FaultKind::Late(Duration::from_secs(1)), Outcome::Broken),
            (FaultKind::TooDear(BadRequest::value("grammar", "")), Outcome::Rejected),
        ] {
            let fault = Fault::new(kind, "");
            assert!(!fault.is_upstreams() && !fault.voids(), "{fault}");
            assert_eq!(fault.outcome(), AttemptOutcome::Cancelled);
            assert_eq!(fault.request_outcome(), ends);
        }
        assert!(Fault::new(FaultKind::Engine, "").is_upstreams());
    }
}
