//! What happens to money while requests run.

use super::harness::{House, ask, free, head, key, money, request, usd, used};
use crate::{
    caller::Window,
    ledger::{Scope, Short, Unit},
};

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

    super::harness::complete(&mut entry, index, used(10, 20));
    entry.finish(super::harness::done(index)).blocking().unwrap();
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
    let Short::Budget { id, scope, unit, limit, left, needed, opens_unix_ms } = short else {
        panic!("{short:?}");
    };
    assert_eq!((id.as_ref(), unit), ("key_a/day", Unit::Money));
    assert!(matches!(scope, Scope::Key(_)));
    assert_eq!([limit, left, needed].map(|pico| pico / 1_000_000_000), [1_000, 500, 600]);
    assert_eq!(opens_unix_ms, Some(super::harness::NOON + 12 * 3_600_000));
}

#[test]
fn a_free_route_passes_an_exhausted_money_budget() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Total, "0")]));
    assert!(request(&books, "key_a", ask("0.01", 1), used(1, 0)).is_err());
    request(&books, "key_a", free(50), used(20, 30)).unwrap();
}
