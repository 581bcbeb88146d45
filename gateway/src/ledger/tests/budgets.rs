//! Money cannot be overspent: not by concurrency, crashes, restarts or clocks.

use super::harness::{
    House, NOON, ask, complete, done, free, group, head, key, key_id, money, path, request, tokens,
    usd, used,
};
use crate::{
    caller::{BudgetSpec, KeyRecord, Window},
    ledger::{Books, OpenEntry, Scope, Short},
};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn of_64_threads_against_a_budget_for_k_requests_exactly_k_are_admitted() {
    for k in [1_u64, 7, 40] {
        let house = House::new();
        let books = house.open();
        let limit = usd("0.5").times(k).unwrap().to_string();
        let _durable = books.put_key(key("key_a", vec![money(Window::Month, &limit)]));
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    // Uses all it reserved: what is refused stays refused.
                    if request(&books, "key_a", ask("0.5", 30), used(10, 20)).is_ok() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), k);
        assert_eq!(books.budgets()[0].money.unwrap().left.pico(), 0);
        assert!(books.verify().is_clean());
    }
}

#[test]
fn every_budget_on_the_path_or_none() {
    let house = House::new().with(|config| {
        config.global_budgets = vec![money(Window::Day, "10")];
    });
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    assert!(request(&books, "key_a", ask("2", 10), used(1, 1)).is_err());
    let global = books.budgets()[0].money.unwrap();
    assert_eq!((global.reserved.pico(), global.left), (0, usd("10").into()));
    // And the other way: the key has room, the whole has not.
    let _durable = books.put_key(key("key_b", vec![money(Window::Day, "50")]));
    let short = request(&books, "key_b", ask("11", 10), used(1, 1)).unwrap_err();
    assert!(matches!(short, Short::Budget { ref id, .. } if id.as_ref() == "global/day"));
    assert_eq!(books.budgets()[2].money.unwrap().reserved.pico(), 0);
}

#[test]
fn token_budgets_hold_for_free_routes_too() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![tokens(Window::Hour, 100)]));
    request(&books, "key_a", free(100), used(30, 30)).unwrap();
    assert!(request(&books, "key_a", free(41), used(1, 1)).is_err());
    request(&books, "key_a", free(40), used(20, 20)).unwrap();
    assert_eq!(books.budgets()[0].tokens.unwrap().left, 0);
}

#[test]
fn a_soft_budget_counts_and_never_refuses() {
    let house = House::new();
    let books = house.open();
    let soft = BudgetSpec { hard: false, ..money(Window::Day, "0.1") };
    let _durable = books.put_key(key("key_a", vec![soft]));
    request(&books, "key_a", ask("4", 10), used(10, 20)).unwrap();
    request(&books, "key_a", ask("4", 10), used(10, 20)).unwrap();
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.left.pico()), (usd("1").into(), 0));
}

#[test]
fn a_charge_belongs_to_the_window_of_its_admission() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(ask("1", 30)).unwrap();
    house.hand.set(NOON + 24 * 3_600_000);
    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
    // Today is untouched, and yesterday has the charge.
    assert_eq!(books.budgets()[0].money.unwrap().left, usd("1").into());
    house.hand.set(NOON);
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("0.5").into());
}

#[test]
fn a_clock_that_steps_back_reopens_nothing() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Hour, "1")]));
    for hour in 0..10 {
        house.hand.set(NOON + hour * 3_600_000);
        request(&books, "key_a", ask("1", 100), used(100, 0)).unwrap();
        assert!(request(&books, "key_a", ask("0.01", 1), used(1, 0)).is_err());
    }
    // Neither one hour back nor further back than windows are kept, nor after a restart.
    let reopened = |books: &Books| {
        for hour in (0..10).rev() {
            house.hand.set(NOON + hour * 3_600_000);
            let short = request(books, "key_a", ask("0.01", 1), used(1, 0));
            assert!(short.is_err(), "hour {hour}");
        }
    };
    reopened(&books);
    books.close();
    drop(books);
    reopened(&house.open());
}

#[test]
fn a_budget_lowered_below_what_is_spent_stops_new_work_and_lets_running_work_end() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "10")]));
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(ask("5", 30)).unwrap();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    assert!(request(&books, "key_a", ask("0.1", 1), used(1, 1)).is_err());
    complete(&mut entry, index, used(10, 20));
    entry.finish(done(index)).blocking().unwrap();
    request(&books, "key_a", ask("0.5", 1), used(1, 1)).unwrap();
}

/// What a random history does.
#[derive(Clone, Debug)]
enum Step {
    Reserve {
        key: usize,
        cents: u64,
    },
    /// Ends one of the running requests: uses this many cents' tokens, at most what it reserved.
    Finish {
        pick: usize,
        percent: u64,
    },
    Void {
        pick: usize,
    },
    Unknown {
        pick: usize,
    },
    Drop {
        pick: usize,
    },
    Clock {
        hours: i64,
    },
    /// The process dies here and starts again.
    Crash,
    /// It closes and starts again, once with its index deleted.
    Restart {
        without_index: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, 1..60_u64).prop_map(|(key, cents)| Step::Reserve { key, cents }),
        3 => (0..9_usize, 0..=100_u64).prop_map(|(pick, percent)| Step::Finish { pick, percent }),
        1 => (0..9_usize).prop_map(|pick| Step::Void { pick }),
        1 => (0..9_usize).prop_map(|pick| Step::Unknown { pick }),
        1 => (0..9_usize).prop_map(|pick| Step::Drop { pick }),
        1 => (-30..30_i64).prop_map(|hours| Step::Clock { hours }),
        1 => Just(Step::Crash),
        1 => any::<bool>().prop_map(|without_index| Step::Restart { without_index }),
    ]
}

const KEYS: [&str; 2] = ["key_a", "key_b"];

fn cent_ask(cents: u64) -> crate::ledger::Ask {
    // One cent per input token.
    crate::ledger::Ask {
        worst_money: usd("0.01").times(cents).unwrap(),
        worst_tokens: cents,
        ..ask("0", 0)
    }
}

/// No hard budget is above its limit, and the hot path's balances are those of the journal.
fn sound(books: &Books) {
    let sessions = KEYS.iter().flat_map(|name| books.session_budgets(&key_id(name)));
    for budget in books.budgets().into_iter().chain(sessions) {
        if let Some(money) = budget.money {
            assert!(money.spent.pico() + money.reserved.pico() <= money.limit.pico(), "{budget:?}");
        }
        for side in [budget.tokens, budget.requests].into_iter().flatten() {
            assert!(side.spent + side.reserved <= side.limit, "{budget:?}");
        }
    }
    let report = books.verify();
    assert!(report.is_clean() && report.derived_checked, "{report:?}");
    let derived = books.0.keeper.derived();
    let mut balances = derived.balances();
    balances.retain(|(_, accounts)| !accounts.is_empty());
    let mut live = books.0.budgets.balances();
    live.sort_by(|one, other| one.0.cmp(&other.0));
    let live: Vec<_> = live.iter().map(|(scope, accounts)| (scope.clone(), accounts)).collect();
    assert_eq!(live, balances);
}

/// Budgets on every kind of scope and window.
fn set_up(books: &Books) {
    for name in KEYS {
        let budgets = vec![money(Window::Hour, "1"), money(Window::Rolling(36_000), "2")];
        let of_sessions = vec![tokens(Window::Rolling(7_200), 90), money(Window::Total, "4")];
        let record = KeyRecord { session_budgets: of_sessions, ..key(name, budgets) };
        books.put_key(record).blocking().unwrap();
    }
    let of = |scope, budgets| group(scope, budgets);
    let user = of(Scope::User("ada".into()), vec![money(Window::Week, "9")]);
    let requests = BudgetSpec { requests: Some(30), money: None, ..money(Window::Day, "0") };
    let tag = of(Scope::Tag("test".into()), vec![requests]);
    for record in [user, tag] {
        books.put_group(record).blocking().unwrap();
    }
}

fn history(steps: Vec<Step>) {
    let mut house = House::new().with(|config| {
        config.global_budgets = vec![money(Window::Day, "3"), money(Window::Total, "40")];
        config.segment_entries_max = 5;
    });
    let mut books = house.open();
    set_up(&books);
    let mut running: Vec<(OpenEntry, u64)> = Vec::new();
    for step in steps {
        let mut take =
            |pick: usize| (!running.is_empty()).then(|| running.swap_remove(pick % running.len()));
        match step {
            Step::Reserve { key, cents } => {
                let mut entry = books.open_entry(head(&books, KEYS[key])).unwrap();
                if entry.reserve(cent_ask(cents)).is_ok() {
                    running.push((entry, cents));
                }
            }
            Step::Finish { pick, percent } => {
                if let Some((mut entry, cents)) = take(pick) {
                    let index = first(&entry);
                    complete(&mut entry, index, used(cents * percent / 100, 0));
                    let _ticket = entry.finish(done(index));
                }
            }
            Step::Void { pick } => {
                if let Some((mut entry, _)) = take(pick) {
                    let index = first(&entry);
                    entry.end_attempt(index, crate::ledger::AttemptOutcome::NotSent, true);
                    let _ticket = entry.finish(done(index));
                }
            }
            Step::Unknown { pick } => {
                if let Some((mut entry, _)) = take(pick) {
                    let index = first(&entry);
                    entry.end_attempt(index, crate::ledger::AttemptOutcome::Broken, false);
                    let _ticket = entry.finish(done(index));
                }
            }
            Step::Drop { pick } => drop(take(pick)),
            Step::Clock { hours } => {
                let now = house.clock.unix_ms();
                house.hand.set(now.saturating_add_signed(hours * 3_600_000));
            }
            Step::Crash => {
                books.catch_up();
                let after = house.crashed();
                // The dead process's requests end in its own directory, not in the new one.
                running.clear();
                drop(books);
                house = after;
                books = house.open();
                assert!(books.reservations().is_empty());
            }
            Step::Restart { without_index } => {
                running.clear();
                books.close();
                drop(books);
                if without_index {
                    std::fs::remove_dir_all(house.data().join("index")).unwrap();
                }
                books = house.open();
            }
        }
        sound(&books);
    }
}

fn first(entry: &OpenEntry) -> crate::ledger::AttemptIndex {
    entry.first_attempt()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_history_overspends_a_budget_or_unbalances_the_books(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        history(steps);
    }
}

#[test]
fn what_a_key_may_do_is_its_own() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "1")]));
    let _durable = books.put_key(key("key_b", vec![money(Window::Day, "1")]));
    request(&books, "key_a", ask("1", 100), used(100, 0)).unwrap();
    request(&books, "key_b", ask("1", 100), used(100, 0)).unwrap();
    let facts = books.budget_facts(&path("key_a"));
    assert_eq!(facts[0].money, Some((usd("1"), usd("0"))));
}
