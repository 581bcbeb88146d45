//! What a session may use, whoever gives it.

use super::harness::{House, ask, complete, done, group, head, key, key_id, money, usd, used};
use crate::{
    caller::{GroupRecord, KeyRecord, Window},
    ledger::{Books, BudgetState, KeyId, Scope},
};
use policies::PicoUsdTotal;

/// Ids, limits and what is spent of the budgets of the sessions of `key_a`.
fn shown(books: &Books) -> Vec<(String, [PicoUsdTotal; 2])> {
    let states = books.session_budgets(&key_id("key_a"));
    let one = |state: &BudgetState| {
        let money = state.money.unwrap();
        (state.id.to_string(), [money.limit, money.spent])
    };
    states.iter().map(one).collect()
}

/// Spends half a dollar of `run-1`, with these tags.
fn spend(books: &Books, tags: &[&str]) {
    let mut head = head(books, "key_a");
    head.team = Some("red".to_owned());
    head.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    let mut entry = books.open_entry(head).unwrap();
    let (index, _durable) = entry.reserve(ask("0.5", 30)).unwrap();
    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
}

#[test]
fn the_budgets_of_a_session_are_shown_whoever_gives_them() {
    let house = House::new().with(|config| config.global_budgets = Vec::new());
    let books = house.open();
    let of_sessions = |scope, window, limit| GroupRecord {
        session_budgets: vec![money(window, limit)],
        ..group(scope, Vec::new())
    };
    let user = of_sessions(Scope::User("ada".into()), Window::Day, "20");
    for record in [
        of_sessions(Scope::Team("red".into()), Window::Hour, "10"),
        // The key has its team from its user.
        GroupRecord { team: Some("red".to_owned()), ..user },
        of_sessions(Scope::tag("own"), Window::Week, "30"),
        of_sessions(Scope::tag("asked"), Window::Total, "40"),
        of_sessions(Scope::tag("others"), Window::Month, "50"),
    ] {
        books.put_group(record).blocking().unwrap();
    }
    let record = key("key_a", Vec::new());
    let (user, tags) = (Some("ada".to_owned()), vec!["own".to_owned()]);
    books.put_key(KeyRecord { user, tags, ..record }).blocking().unwrap();
    spend(&books, &["own", "asked"]);
    spend(&books, &["own"]);

    let row = |window: &str, limit: &str, spent: &str| {
        (format!("key_a/session:run-1/{window}"), [usd(limit).into(), usd(spent).into()])
    };
    let above = [row("hour", "10", "1"), row("day", "20", "1"), row("week", "30", "1")];
    let known = shown(&books);
    assert_eq!(known[..3], above);
    assert_eq!(known[3..], [row("total", "40", "0.5")]);
    assert!(books.session_budgets(&KeyId("key_b".into())).is_empty());
    // What only a request's tag gives is known again with the next one.
    books.close();
    drop(books);
    assert_eq!(shown(&house.open()), above);
}
