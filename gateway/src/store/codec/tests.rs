//! What every version shares never moves.

use crate::ledger::{AttemptOutcome, CacheUse, Endpoint, GuardEffect, KeyId, Outcome, Role, Scope};
use policies::{LeaveOut, RouteState, RuleName, UsageSource};
use serde::Serialize;
use std::sync::Arc;

/// The number that stands for a variant in a journal.
fn number(variant: impl Serialize) -> u8 {
    postcard::to_allocvec(&variant).unwrap()[0]
}

fn numbered<const N: usize>(variants: [u8; N]) {
    let expected: Vec<u8> = (0..).take(N).collect();
    assert_eq!(variants.as_slice(), expected);
}

#[test]
fn numbers_of_variants_never_move() {
    use AttemptOutcome as Ended;
    numbered([
        number(Endpoint::ChatCompletions),
        number(Endpoint::Completions),
        number(Endpoint::Embeddings),
        number(Endpoint::Responses),
        number(Endpoint::Messages),
    ]);
    numbered([
        number(Role::Primary),
        number(Role::Fallback),
        number(Role::Retry),
        number(Role::Hedge),
        number(Role::Cascade),
        number(Role::Shadow),
    ]);
    numbered([
        number(Outcome::Completed),
        number(Outcome::ClientGone),
        number(Outcome::Broken),
        number(Outcome::Failed),
        number(Outcome::Rejected),
        number(Outcome::Short),
        number(Outcome::Crashed),
    ]);
    numbered([
        number(Ended::Completed),
        number(Ended::Cancelled),
        number(Ended::NotSent),
        number(Ended::ErrorStatus),
        number(Ended::FirstTokenTimeout),
        number(Ended::IdleTimeout),
        number(Ended::TotalTimeout),
        number(Ended::Broken),
        number(Ended::EngineFault),
        number(Ended::CrashedUnknown),
    ]);
    numbered([
        number(UsageSource::Reported),
        number(UsageSource::Counted),
        number(UsageSource::Estimated),
        number(UsageSource::CrashedUnknown),
    ]);
    numbered([
        number(CacheUse::Bypass),
        number(CacheUse::Miss),
        number(CacheUse::Hit),
        number(CacheUse::Coalesced),
    ]);
    numbered([
        number(GuardEffect::Logged),
        number(GuardEffect::Throttled),
        number(GuardEffect::LocalOnly),
        number(GuardEffect::Blocked),
    ]);
    let name = || Arc::from("a");
    numbered([
        number(Scope::Global),
        number(Scope::Key(KeyId(name()))),
        number(Scope::Team(name())),
        number(Scope::User(name())),
        number(Scope::Session(KeyId(name()), name())),
        number(Scope::Tag(name())),
        number(Scope::Model(name())),
    ]);
    numbered([
        number(RouteState::Ready),
        number(RouteState::Busy),
        number(RouteState::Unavailable),
    ]);
    numbered([
        number(LeaveOut::Guard(RuleName(Arc::from("a")))),
        number(LeaveOut::NotChosen),
        number(LeaveOut::Unavailable),
        number(LeaveOut::Context),
        number(LeaveOut::Capability(Arc::from("tools"))),
        number(LeaveOut::UnknownPrice),
        number(LeaveOut::Pinned),
    ]);
}
