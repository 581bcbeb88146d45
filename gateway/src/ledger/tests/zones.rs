//! Windows follow their budget's own time zone, and no change of it forgets what was spent.

use super::harness::{House, NOON, ask, key, money, request, usd, used};
use crate::{
    caller::{BudgetSpec, KeyRecord, Window},
    ledger::{Books, BudgetState, Scope, zones::Configured},
};

const HOUR: u64 = 3_600_000;
/// 1 June 2026, 00:00 UTC; the day in Berlin began two hours before.
const MIDNIGHT: u64 = NOON - 12 * HOUR;

fn in_zone(zone: &str, spec: BudgetSpec) -> BudgetSpec {
    BudgetSpec { zone: Some(zone.parse().unwrap()), ..spec }
}

/// Spends half a dollar.
fn spend(books: &Books) {
    request(books, "key_a", ask("0.5", 30), used(10, 20)).unwrap();
}

fn only(books: &Books) -> BudgetState {
    let mut all = books.budgets();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn spent(budget: &BudgetState) -> String {
    budget.money.unwrap().spent.to_string()
}

#[test]
fn a_day_begins_at_midnight_of_the_budgets_own_zone() {
    let house = House::new();
    let books = house.open();
    let budgets = vec![in_zone("Europe/Berlin", money(Window::Day, "10"))];
    books.put_key(key("key_a", budgets)).blocking().unwrap();
    house.hand.set(MIDNIGHT - 2 * HOUR - 1);
    spend(&books);
    assert_eq!(spent(&only(&books)), usd("0.5").to_string());
    house.hand.set(MIDNIGHT - 2 * HOUR);
    let new = only(&books);
    assert_eq!((spent(&new), new.began_unix_ms), (usd("0").to_string(), MIDNIGHT - 2 * HOUR));
    assert_eq!(new.resets_unix_ms, Some(MIDNIGHT + 22 * HOUR));
}

#[test]
fn a_changed_zone_keeps_what_is_spent_in_the_window_that_runs_also_over_a_restart() {
    let house = House::new();
    let mut books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "1")])).blocking().unwrap();
    spend(&books);
    spend(&books);
    let moved = vec![in_zone("Asia/Tokyo", money(Window::Day, "1"))];
    books.put_key(key("key_a", moved)).blocking().unwrap();
    for _ in 0..2 {
        let budget = only(&books);
        assert_eq!(spent(&budget), usd("1").to_string());
        assert_eq!(budget.resets_unix_ms, Some(MIDNIGHT + 24 * HOUR), "it ends as it would have");
        assert_eq!(budget.turn.unwrap().before.to_string(), "UTC");
        assert!(
            request(&books, "key_a", ask("0.01", 1), used(1, 0)).is_err(),
            "it gives nothing back"
        );
        books.close();
        drop(books);
        books = house.open();
    }
    // The next window is Tokyo's, which began nine hours before midnight in UTC.
    house.hand.set(MIDNIGHT + 24 * HOUR);
    let next = only(&books);
    assert_eq!((spent(&next), next.began_unix_ms), (usd("0").to_string(), MIDNIGHT + 15 * HOUR));
    assert_eq!(next.turn, None);
    assert!(books.verify().is_clean());
}

#[test]
fn a_zone_changed_in_the_configuration_keeps_what_is_spent_too() {
    let budget = |zone: Option<&str>| {
        let plain = money(Window::Month, "1");
        vec![zone.map_or(plain.clone(), |zone| in_zone(zone, plain))]
    };
    // Of the one budget, and of the whole installation.
    for (own, usual) in [(Some("America/New_York"), "UTC"), (None, "America/New_York")] {
        let mut house = House::new().with(|config| config.global_budgets = budget(None));
        let books = house.open();
        books.put_key(key("key_a", Vec::new())).blocking().unwrap();
        house.hand.set(MIDNIGHT + 3 * HOUR);
        spend(&books);
        books.close();
        drop(books);
        house = house.with(|config| {
            config.global_budgets = budget(own);
            config.time_zone = jiff::tz::TimeZone::get(usual).unwrap();
        });
        // At 3:00 UTC it is still May in New York, where nothing was spent.
        for _ in 0..2 {
            let books = house.open();
            assert_eq!(spent(&only(&books)), usd("0.5").to_string(), "{own:?} {usual}");
            books.close();
        }
        house.hand.set(MIDNIGHT + 30 * 24 * HOUR);
        let books = house.open();
        assert_eq!(spent(&only(&books)), usd("0").to_string());
        assert_eq!(only(&books).began_unix_ms, MIDNIGHT + 4 * HOUR);
    }
}

#[test]
fn a_journal_that_never_said_its_zone_is_asked_which_one_it_was() {
    for (usual, ran_on) in [("Europe/Berlin", true), ("UTC", false)] {
        let house = House::new().with(|config| {
            config.time_zone = jiff::tz::TimeZone::get(usual).unwrap();
            config.global_budgets = vec![money(Window::Day, "1")];
        });
        let books = house.open();
        books.put_key(key("key_a", Vec::new())).blocking().unwrap();
        spend(&books);
        let derived = books.reader().keeper.unwrap();
        let mut derived = derived.derived().clone();
        // As a program left it that knew one zone alone.
        derived.configured = None;
        let berlin = "Europe/Berlin".parse().unwrap();
        let now = Configured::now(&derived, berlin, &[], NOON);
        assert_eq!(now.zones.before.is_empty(), ran_on, "it was {usual}");
    }
}

#[test]
fn budgets_of_one_session_in_two_zones_are_counted_each_in_its_own_window() {
    let house = House::new().with(|config| config.global_budgets = Vec::new());
    let books = house.open();
    let of_all = crate::caller::GroupRecord {
        session_budgets: vec![money(Window::Day, "10")],
        ..super::harness::group(Scope::Global, Vec::new())
    };
    books.put_group(of_all).blocking().unwrap();
    let of_key = vec![in_zone("Europe/Berlin", money(Window::Day, "20"))];
    let record = KeyRecord { session_budgets: of_key, ..key("key_a", Vec::new()) };
    books.put_key(record).blocking().unwrap();
    let spend = || {
        let mut head = super::harness::head(&books, "key_a");
        head.session = Some("run".to_owned());
        let mut entry = books.open_entry(head).unwrap();
        let (index, _ticket) = entry.reserve(ask("0.5", 30)).unwrap();
        super::harness::complete(&mut entry, index, used(10, 20));
        entry.finish(super::harness::done(index)).blocking().unwrap();
    };
    house.hand.set(MIDNIGHT + 21 * HOUR);
    spend();
    // 23:00 UTC: another day in Berlin, the same in UTC.
    house.hand.set(MIDNIGHT + 23 * HOUR);
    spend();
    let sums: Vec<_> = books
        .session_budgets(&super::harness::key_id("key_a"))
        .iter()
        .map(|budget| (budget.zone.as_ref().map(ToString::to_string), spent(budget)))
        .collect();
    assert_eq!(
        sums,
        [(None, usd("1").to_string()), (Some("Europe/Berlin".to_owned()), usd("0.5").to_string())]
    );
    assert!(books.verify().is_clean());
}
