//! Who spent what. Money and tokens are reserved before work and settled exactly once after it.
//!
//! [`Books`] is the whole interface of the hot path: [`Books::open`] a request's entry, reserve each
//! attempt on it, finish it. An [`OpenEntry`] that is dropped unfinished (the caller left, the
//! handler died) finishes itself as [`Outcome::ClientGone`].

pub mod entry;

pub use entry::{
    Attempt, AttemptOutcome, AttemptTimes, DecisionRecord, Endpoint, Entry, KeyId, Outcome,
    RefusedRow, RequestId, Role,
};
