//! What every version shares never moves.

use super::{Event, GROUP, KEY, decode};
use crate::caller::{BudgetSpec, GroupRecord, KeyLimits, KeyRecord, Priority, Window};
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
    // Every field has a value of its own, so that none is taken for another.
    let budget = |window, money, tokens: Option<u64>, hard, requests: Option<u64>| {
        let money = Some(PicoUsd::from_pico(money));
        let now = BudgetSpec { window, money, tokens, hard, requests, zone: None, turn: None };
        ((window, money, tokens, hard, requests), now)
    };
    let (first, first_now) = budget(Window::Day, 7, None, true, Some(8));
    let (second, second_now) = budget(Window::Month, 9, Some(10), false, None);
    let limits = KeyLimits {
        requests_per_minute: Some(1),
        tokens_per_minute: Some(2),
        concurrency: Some(3),
        request_cost_max: Some(PicoUsd::from_pico(4)),
    };
    let now = KeyRecord {
        id: KeyId(Arc::from("key_a")),
        secret_hash: [7; 32],
        hint: "tg_abc".to_owned(),
        label: "label".to_owned(),
        user: Some("ada".to_owned()),
        team: Some("red".to_owned()),
        limits: limits.clone(),
        budgets: vec![first_now.clone()],
        may_pin: true,
        created_unix_ms: 5,
        expires_unix_ms: Some(6),
        revoked_unix_ms: Some(11),
        session_budgets: vec![second_now.clone(), first_now.clone()],
        disabled_unix_ms: Some(12),
        tags: Vec::new(),
        priority: Priority::Normal,
    };
    let key = (
        (&now.id, now.secret_hash, &now.hint, &now.label, &now.user, &now.team),
        (&limits, vec![first], now.may_pin, now.created_unix_ms),
        (now.expires_unix_ms, now.revoked_unix_ms, vec![second, first], now.disabled_unix_ms),
    );
    let key = postcard::to_allocvec(&key).unwrap();
    let Event::Key(read) = decode(KEY, 2, &key).unwrap() else { panic!("no key") };
    assert_eq!(*read, now);
    assert!(decode(KEY, 4, &key).is_err(), "it is not today's form");
    let tagged = KeyRecord { tags: vec!["nightly".to_owned()], ..now };
    a_key_of_version_3_is_as_urgent_as_usual(&tagged);

    let now = GroupRecord {
        scope: Scope::User("ada".into()),
        label: "label".to_owned(),
        team: Some("red".to_owned()),
        limits: limits.clone(),
        budgets: vec![second_now.clone()],
        session_budgets: vec![first_now, second_now],
        created_unix_ms: 5,
        disabled_unix_ms: Some(6),
    };
    let group = (
        (&now.scope, &now.label, &now.team, &limits),
        (vec![second], vec![first, second], now.created_unix_ms, now.disabled_unix_ms),
    );
    let group = postcard::to_allocvec(&group).unwrap();
    let Event::Group(read) = decode(GROUP, 2, &group).unwrap() else { panic!("no group") };
    assert_eq!(*read, now);
    assert!(decode(GROUP, 3, &group).is_err(), "it is not today's form");
}

fn a_key_of_version_3_is_as_urgent_as_usual(usual: &KeyRecord) {
    let today = postcard::to_allocvec(usual).unwrap();
    let (priority, old) = today.split_last().unwrap();
    assert_eq!(*priority, number(Priority::Normal), "it stands last");
    let read = |version, payload: &[u8]| match decode(KEY, version, payload) {
        Ok(Event::Key(read)) => Some(*read),
        _ => None,
    };
    assert_eq!(read(3, old).as_ref(), Some(usual));
    assert!(read(4, old).is_none() && read(3, &today).is_none(), "each is read as what it is");
    for priority in [Priority::High, Priority::Normal, Priority::Low] {
        let key = KeyRecord { priority, ..usual.clone() };
        assert_eq!(read(4, &postcard::to_allocvec(&key).unwrap()), Some(key));
    }
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
    numbered([number(Priority::High), number(Priority::Normal), number(Priority::Low)]);
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
