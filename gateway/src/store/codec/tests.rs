//! What every version shares never moves.

use super::{Event, GROUP, KEY, decode};
use crate::caller::{KeyLimits, Window};
use crate::ledger::{AttemptOutcome, CacheUse, Endpoint, GuardEffect, KeyId, Outcome, Role, Scope};
use policies::{LeaveOut, PicoUsd, RouteState, RuleName, UsageSource};
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
fn keys_and_groups_of_version_2_are_read_without_tags_and_zones() {
    let budget = (Window::Day, Some(PicoUsd::from_pico(7)), None::<u64>, true, None::<u64>);
    let (one, two, nobody) = (vec![budget], vec![budget, budget], None::<String>);
    let (id, none) = (KeyId(Arc::from("key_a")), None::<u64>);
    let key = (
        (&id, [7_u8; 32], "tg_abc", "label", &nobody, Some("red")),
        (KeyLimits::default(), &one, true, 5_u64, none, none),
        (&two, Some(9_u64)),
    );
    let key = postcard::to_allocvec(&key).unwrap();
    let Event::Key(read) = decode(KEY, 2, &key).unwrap() else { panic!("no key") };
    assert_eq!((&read.id, read.team.as_deref(), read.may_pin), (&id, Some("red"), true));
    assert_eq!((read.session_budgets.len(), read.disabled_unix_ms), (2, Some(9)));
    assert_eq!(
        (read.budgets[0].money, &read.budgets[0].zone),
        (Some(PicoUsd::from_pico(7)), &None)
    );
    assert!(read.tags.is_empty());
    assert!(decode(KEY, 3, &key).is_err(), "it is not today's form");

    let group = (
        (Scope::Team("red".into()), "label", &nobody, KeyLimits::default()),
        (&one, &two, 5_u64, none),
    );
    let group = postcard::to_allocvec(&group).unwrap();
    let Event::Group(read) = decode(GROUP, 2, &group).unwrap() else { panic!("no group") };
    assert_eq!((read.scope.name(), read.budgets.len(), read.created_unix_ms), (Some("red"), 1, 5));
}

#[test]
fn numbers_of_scopes_never_move() {
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
