//! What operators are told of is a part of the journal: told once, whatever happens to the process.

use super::harness::{House, ask, key, money, request, used};
use crate::{
    caller::Window,
    ledger::{Books, Notice, Telling, What},
};

/// Which parts of which budgets were told, oldest first.
fn told(books: &Books) -> Vec<(String, u8)> {
    let mut notices = books.notices();
    notices.reverse();
    let part = |(_, notice): (u64, Notice)| match notice.what {
        What::Budget(reached) => (reached.scope.to_string(), reached.percent),
        other => panic!("{other:?}"),
    };
    notices.into_iter().map(part).collect()
}

fn parts(percents: &[u8]) -> Vec<(String, u8)> {
    percents.iter().map(|percent| ("key_a".to_owned(), *percent)).collect()
}

/// Spends half a dollar of a key that has one.
fn half(books: &Books) {
    request(books, "key_a", ask("0.5", 30), used(10, 20)).unwrap();
}

#[test]
fn a_part_is_told_once_over_a_restart_a_crash_and_a_lost_index() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    half(&books);
    assert_eq!(told(&books), parts(&[50]));
    let crashed = house.crashed();
    books.close();
    drop(books);
    for (house, lose) in [(house, false), (crashed, true)] {
        if lose {
            std::fs::remove_dir_all(house.data().join("index")).unwrap();
        }
        let books = house.open();
        assert_eq!(told(&books), parts(&[50]));
        half(&books);
        assert_eq!(told(&books), parts(&[50, 100]));
        assert!(books.verify().is_clean());
    }
}

#[test]
fn a_limit_that_the_configuration_lowers_is_told_at_the_start() {
    let mut house = House::new().with(|config| {
        config.global_budgets = vec![money(Window::Total, "10")];
    });
    let books = house.open();
    half(&books);
    assert_eq!(told(&books), []);
    drop(books);
    house.config.global_budgets = vec![money(Window::Total, "0.6")];
    for _ in 0..2 {
        let books = house.open();
        assert_eq!(told(&books), [("global".to_owned(), 80)]);
    }
}

#[test]
fn a_receivers_place_survives_and_a_new_one_begins_with_what_comes_next() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    let all = |_: &Notice| true;
    let begun = books.begin_telling("ops").unwrap();
    half(&books);
    let _caught_up = books.notices();
    let next = books.next_notice(begun.seq, all);
    assert_eq!((next.waiting, next.missed), (1, false));
    let (seq, _) = next.notice.unwrap();
    books.put_told("ops", seq, Telling::Delivered).blocking().unwrap();
    half(&books);
    let crashed = house.crashed();
    let books = crashed.open();
    let told = books.begin_telling("ops").unwrap();
    assert_eq!((told.seq, told.delivered, told.given_up), (seq, 1, 0));
    let next = books.next_notice(told.seq, all);
    assert_eq!(next.notice.map(|(_, notice)| notice.kind()), Some("budget.reached_100"));
    let late = books.begin_telling("late").unwrap();
    assert_eq!(books.next_notice(late.seq, all).notice, None);
    // What it wants is what it is told.
    assert_eq!(books.next_notice(0, |notice| notice.is("guard")).notice, None);
}
