//! What happens to money while requests run.

use super::harness::{
    House, NOON, ask, complete, done, free, head, key, key_id, money, path, request, token_price,
    usd, used,
};
use crate::{
    caller::Window,
    ledger::{
        Ask, AttemptOutcome, Filter, Outcome, RefusedRow, Role, Scope, Short, SummaryQuery, Unit,
    },
};
use policies::{ComputePrice, PicoUsd, PolicyName, PolicyVersion, RoutePrice, UsageSource};
use std::sync::Arc;

#[test]
fn a_request_holds_its_worst_case_and_pays_what_it_used() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "10")]));
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, ticket) = entry.reserve(ask("4", 200)).unwrap();
    ticket.blocking().unwrap();
    let side = books.budgets()[0].money.unwrap();
    assert_eq!(
        (side.spent.pico(), side.reserved, side.left),
        (0, usd("4").into(), usd("6").into())
    );

    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("0.5").into(), 0));
}

#[test]
fn a_hard_budget_refuses_what_could_overspend_it_and_says_why() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    let short = request(&books, "key_a", ask("0.6", 10), used(1, 1)).unwrap_err();
    let Short::Budget { id, scope, unit, limit, left, needed, opens_unix_ms, .. } = short else {
        panic!("{short:?}");
    };
    assert_eq!((id.as_ref(), unit), ("key_a/day", Unit::Money));
    assert!(matches!(scope, Scope::Key(_)));
    assert_eq!([limit, left, needed].map(|pico| pico / 1_000_000_000), [1_000, 500, 600]);
    assert_eq!(opens_unix_ms, Some(NOON + 12 * 3_600_000));
}

#[test]
fn a_free_route_passes_an_exhausted_money_budget() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Total, "0")]));
    assert!(request(&books, "key_a", ask("0.01", 1), used(1, 0)).is_err());
    request(&books, "key_a", free(50), used(20, 30)).unwrap();
}

#[test]
fn a_dropped_entry_settles_itself_with_what_its_record_holds() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "10")]));
    let head = head(&books, "key_a");
    let id = head.id;
    let mut entry = books.open_entry(head).unwrap();
    let (index, _ticket) = entry.reserve(ask("4", 200)).unwrap();
    entry.attempt(index).usage = Some(used(10, 5));
    entry.attempt(index).usage_source = Some(UsageSource::Counted);
    entry.attempt(index).times.ttft_us = Some(77);
    drop(entry);

    let entry = books.request(id).unwrap().unwrap();
    assert_eq!(entry.outcome, Outcome::ClientGone);
    assert_eq!(entry.answered_by, Some(0));
    assert_eq!(entry.attempts[0].outcome, AttemptOutcome::Cancelled);
    assert_eq!(entry.cost, Some(usd("0.2")));
    assert_eq!(books.state().open_reservations, 0);
    assert_eq!(books.state().queued, 0);
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("0.2").into(), 0));
}

#[test]
fn a_panic_in_a_request_settles_it_too() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "10")]));
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (_, ticket) = entry.reserve(ask("4", 200)).unwrap();
    ticket.blocking().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _entry = entry;
        panic!("a bug in a handler");
    }));
    assert!(panicked.is_err());
    // Nobody knows what it used: as reserved, never nothing.
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("4").into(), 0));
    assert!(books.verify().is_clean());
}

#[test]
fn unknown_usage_and_unknown_price_are_charged_as_held_and_never_booked_as_zero() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "10")]));
    let unknown_price = Ask { price: RoutePrice::Unknown, ..ask("2", 100) };
    for (ask, usage) in [(ask("3", 100), None), (unknown_price, Some(used(1, 1)))] {
        let head = head(&books, "key_a");
        let id = head.id;
        let mut entry = books.open_entry(head).unwrap();
        let (index, _ticket) = entry.reserve(ask).unwrap();
        entry.attempt(index).usage = usage;
        entry.end_attempt(index, AttemptOutcome::Completed, false);
        let _ticket = entry.finish(done(index));
        let entry = books.request(id).unwrap().unwrap();
        assert_eq!((entry.cost, entry.attempts[0].cost), (None, None));
    }
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("5").into());
    let total = books.summary(&SummaryQuery::default()).unwrap().total;
    assert_eq!((total.unknown_cost, total.cost_usd.pico()), (2, 0));
}

#[test]
fn a_failed_attempt_gives_its_money_to_the_fallback_and_the_entry_sums_both() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "5")]));
    let head = head(&books, "key_a");
    let id = head.id;
    let mut entry = books.open_entry(head).unwrap();
    let (first, _ticket) = entry.reserve(ask("4", 200)).unwrap();
    entry.end_attempt(first, AttemptOutcome::ErrorStatus, true);
    let (second, _ticket) = entry.reserve(ask("4", 200)).unwrap();
    entry.attempt(second).usage = Some(used(10, 0));
    entry.end_attempt(second, AttemptOutcome::FirstTokenTimeout, false);
    let fallback = Ask { role: Role::Fallback, parent: Some(second), ..ask("4", 200) };
    let (third, _ticket) = entry.reserve(fallback).unwrap();
    complete(&mut entry, third, used(10, 20));
    entry.finish(done(third)).blocking().unwrap();

    let entry = books.request(id).unwrap().unwrap();
    let costs: Vec<_> = entry.attempts.iter().map(|attempt| attempt.cost.unwrap()).collect();
    assert_eq!(costs, [PicoUsd::ZERO, usd("0.1"), usd("0.5")]);
    assert_eq!(entry.cost, Some(usd("0.6")));
    assert!(entry.attempts[0].voided && entry.attempts[2].parent == Some(1));
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("0.6").into());
    assert!(books.verify().is_clean());
}

#[test]
fn a_provider_that_bills_above_the_bound_is_booked_in_full_and_marked() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    let id = request(&books, "key_a", ask("0.5", 10), used(100, 0)).unwrap();
    let entry = books.request(id).unwrap().unwrap();
    assert_eq!((entry.cost, entry.attempts[0].overrun), (Some(usd("1")), usd("0.5")));
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("1").into());
}

#[test]
fn local_time_is_priced_and_what_the_cloud_would_have_cost_stands_beside_it() {
    let house = House::new();
    let books = house.open();
    let price = ComputePrice::from_usd_per_hour(usd("3.6"));
    let local = Ask {
        price: RoutePrice::Compute(Arc::new(price)),
        budgeted: false,
        avoided: Some(Arc::new(token_price())),
        ..ask("0.01", 100)
    };
    let head = head(&books, "key_a");
    let id = head.id;
    let mut entry = books.open_entry(head).unwrap();
    let (index, _ticket) = entry.reserve(local).unwrap();
    entry.attempt(index).times.engine_ns = Some(2_000_000_000);
    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
    let entry = books.request(id).unwrap().unwrap();
    assert_eq!(entry.cost, Some(usd("0.002")));
    let attempt = &entry.attempts[0];
    assert_eq!((attempt.avoided_cost, attempt.reserved), (Some(usd("0.5")), PicoUsd::ZERO));
}

#[test]
fn tokens_per_minute_are_taken_at_worst_and_given_back_at_settlement() {
    let house = House::new().with(|config| config.global_tokens_per_minute = Some(1_000));
    let books = house.open();
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(free(900)).unwrap();
    let short = request(&books, "key_a", free(200), used(1, 1)).unwrap_err();
    assert!(matches!(short, Short::TokensPerMinute { limit: 1_000, needed: 200, .. }), "{short}");
    complete(&mut entry, index, used(10, 20));
    let _ticket = entry.finish(done(index));
    assert!(books.token_rate(&path("key_a")).unwrap().remaining >= 970);
    request(&books, "key_a", free(900), used(1, 1)).unwrap();
}

#[test]
fn a_request_that_could_try_nothing_leaves_a_refusal_and_no_entry() {
    let house = House::new();
    let books = house.open();
    let entry = books.open_entry(head(&books, "key_a")).unwrap();
    let row = RefusedRow {
        id: books.request_id(),
        unix_ms: NOON,
        key: Some(key_id("key_a")),
        code: "insufficient_quota".to_owned(),
        status: 429,
        rule: None,
        unwritten: 0,
    };
    entry.discard();
    books.refuse(row);
    assert_eq!(books.refusals(), [("insufficient_quota".to_owned(), 1)]);
    assert!(books.requests(&Filter::default(), None, 10).unwrap().entries.is_empty());
    assert_eq!(books.state().queued, 0);
}

#[test]
fn policies_are_kept_with_their_text() {
    let house = House::new();
    let books = house.open();
    let (name, version) = (PolicyName(Arc::from("p")), PolicyVersion(Arc::from("v1")));
    books.put_policy(&name, &version, "text of v1").blocking().unwrap();
    assert_eq!(books.policy_source(&version).unwrap().as_deref(), Some("text of v1"));
    assert_eq!(books.policy_source(&PolicyVersion(Arc::from("v2"))).unwrap(), None);
    assert_eq!(books.policies()[0].name, name);
}

#[test]
fn request_ids_rise_even_when_the_clock_steps_back() {
    let house = House::new();
    let books = house.open();
    let mut last = books.request_id();
    for step in 0..1_000_u64 {
        house.hand.set(NOON - step * 1_000);
        let next = books.request_id();
        assert!(next > last);
        last = next;
    }
}
