//! A running attempt that is paid by engine time gets more of it while there is money, in the windows
//! of its reservation, and not a nanosecond's worth beyond a hard budget.

use super::harness::{House, all, ask, complete, done, free, head, key, money, request, usd, used};
use crate::{
    caller::Window,
    ledger::{Ask, Books, OpenEntry, Short},
};
use policies::{ComputePrice, PicoUsd, RoutePrice};
use std::{sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);

/// A tenth of a cent for each second, held for ten of them.
fn by_time() -> Ask {
    let price = ComputePrice::from_usd_per_hour(usd("3.6"));
    Ask { price: RoutePrice::Compute(Arc::new(price)), ..ask("0.01", 100) }
}

/// Books with a key of so much a day, and a request that has reserved.
fn running(house: &House, limit: &str) -> (Books, OpenEntry) {
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, limit)])).blocking().unwrap();
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (_, ticket) = entry.reserve(by_time()).unwrap();
    ticket.blocking().unwrap();
    (books, entry)
}

fn held(books: &Books) -> PicoUsd {
    PicoUsd::from_pico(u64::try_from(books.budgets()[0].money.unwrap().reserved.pico()).unwrap())
}

fn end(mut entry: OpenEntry, seconds: u64) {
    let index = entry.first_attempt();
    entry.attempt(index).times.engine_ns = Some(seconds * 1_000_000_000);
    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
}

#[test]
fn more_is_held_while_the_budget_has_it_and_given_back_at_the_end() {
    let house = House::new();
    let (books, entry) = running(&house, "0.025");
    let more = entry.extension(entry.first_attempt(), None).unwrap();
    assert_eq!(more.more(10 * SECOND, 10 * SECOND), 10 * SECOND);
    assert_eq!(held(&books), usd("0.02"));
    assert_eq!(entry.committed(), usd("0.02"));
    // Half of what is wanted is what there is.
    assert_eq!(more.more(20 * SECOND, 10 * SECOND), 5 * SECOND);
    assert_eq!(more.more(25 * SECOND, 10 * SECOND), Duration::ZERO, "and then nothing");
    assert_eq!(held(&books), usd("0.025"));
    let next = request(&books, "key_a", by_time(), used(1, 1)).unwrap_err();
    assert!(matches!(next, Short::Budget { left: 0, .. }), "{next}");
    end(entry, 17);
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("0.017").into(), 0));
    let attempt = &all(&books)[0].attempts[0];
    assert_eq!((attempt.reserved, attempt.overrun), (usd("0.025"), PicoUsd::ZERO));
    assert_eq!(more.more(SECOND, SECOND), Duration::ZERO, "what has ended gets no more");
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn more_is_held_in_the_window_of_the_reservation() {
    let house = House::new();
    let (books, entry) = running(&house, "0.015");
    // Tomorrow's budget is whole, and not this request's.
    house.hand.set(super::harness::NOON + 24 * 3_600_000);
    let more = entry.extension(entry.first_attempt(), None).unwrap();
    assert_eq!(more.more(10 * SECOND, 10 * SECOND), 5 * SECOND);
    assert_eq!(held(&books), PicoUsd::ZERO, "of today nothing is held");
    end(entry, 12);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn what_was_extended_is_booked_as_reserved_after_a_crash() {
    let house = House::new();
    let (books, entry) = running(&house, "1");
    let more = entry.extension(entry.first_attempt(), None).unwrap();
    assert_eq!(more.more(10 * SECOND, 20 * SECOND), 20 * SECOND);
    // A later request's commit carries it.
    request(&books, "key_a", free(1), used(1, 1)).unwrap();
    let after = house.crashed();
    let (books, recovered) = after.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 1);
    let crashed = all(&books).into_iter().find(|entry| entry.answered_by.is_none()).unwrap();
    assert_eq!(crashed.attempts[0].reserved, usd("0.03"));
    assert_eq!(crashed.cost, Some(usd("0.03")));
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("0.03").into());
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_requests_own_limit_binds_its_extensions() {
    let house = House::new();
    let (_open, mut entry) = running(&house, "1");
    let index = entry.first_attempt();
    let more = entry.extension(index, Some(usd("0.016"))).unwrap();
    assert_eq!(more.more(10 * SECOND, 4 * SECOND), 4 * SECOND);
    assert_eq!(more.more(14 * SECOND, 4 * SECOND), 2 * SECOND);
    // Beside another attempt the limit is no longer its own.
    let more = entry.extension(index, Some(usd("0.5"))).unwrap();
    let (_, _ticket) = entry.reserve(by_time()).unwrap();
    assert_eq!(more.more(16 * SECOND, SECOND), Duration::ZERO);
}

#[test]
fn who_pays_by_tokens_has_nothing_to_extend() {
    let house = House::new();
    let books = house.open();
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(ask("1", 10)).unwrap();
    assert!(entry.extension(index, None).is_none());
}
