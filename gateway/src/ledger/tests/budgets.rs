//! Money cannot be overspent: not by concurrency, crashes, restarts or clocks.

use super::harness::{
    House, NOON, all, ask, complete, done, free, group, head, key, key_id, money, path, records,
    request, segment, tokens, usd, used,
};
use crate::{
    caller::{BudgetSpec, KeyRecord, Window},
    ledger::{
        Amount, AttemptOutcome, Books, CommitTicket, Entry, OpenEntry, RequestId, Scope, Short,
        SummaryQuery,
        accounts::{Accounts, Correction},
    },
    store::{codec, record},
};
use futures::FutureExt;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

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
    /// Ends one of the running requests, with a part of what it reserved, nothing owed, an unknown
    /// use, or a client that left.
    End {
        pick: usize,
        how: How,
    },
    Clock {
        hours: i64,
    },
    /// The process dies here and starts again: with everything committed, or in the middle of it.
    Crash {
        committed: bool,
    },
    /// It closes and starts again, once with its index deleted.
    Restart {
        without_index: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Used { percent: u64 },
    Void,
    Unknown,
    Dropped,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        3 => (0..=100_u64).prop_map(|percent| How::Used { percent }),
        1 => Just(How::Void),
        1 => Just(How::Unknown),
        1 => Just(How::Dropped),
    ];
    prop_oneof![
        6 => (0..2_usize, 1..60_u64).prop_map(|(key, cents)| Step::Reserve { key, cents }),
        6 => (0..9_usize, how).prop_map(|(pick, how)| Step::End { pick, how }),
        1 => (-30..30_i64).prop_map(|hours| Step::Clock { hours }),
        2 => any::<bool>().prop_map(|committed| Step::Crash { committed }),
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

/// No hard budget is above its limit, and the hot path's balances are those of the journal. `back`:
/// the clock was ahead before. A rolling window then counts what lies ahead too, which was admitted
/// when what lies behind had left it: it may show more than its limit and admits nothing.
fn sound(books: &Books, back: bool) {
    let sessions = KEYS.iter().flat_map(|name| books.session_budgets(&key_id(name)));
    for budget in books.budgets().into_iter().chain(sessions) {
        if back && matches!(budget.window, Window::Rolling(_)) {
            continue;
        }
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

// === the plain model ===

/// What a request must look like in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Booked {
    /// What its attempt is said to have cost; `None` where nobody knows.
    cost: Option<u64>,
    /// What its budgets were charged.
    charge: u64,
}

/// One request as the model remembers it. Amounts are cents.
#[derive(Debug)]
struct Remembered {
    held: u64,
    ended: Option<Booked>,
    /// Once it resolves, no crash may lose the request.
    reserved: CommitTicket,
    /// Once it resolves, no crash may lose how it ended. `None` of one that was dropped.
    told: Option<CommitTicket>,
}

/// Every request there was, by id, and nothing but sums over them.
#[derive(Debug, Default)]
struct Model(BTreeMap<RequestId, Remembered>);

impl Booked {
    /// Of a request that ran when the process died, or whose use nobody told.
    fn as_reserved(held: u64, cost: Option<u64>) -> Self {
        Self { cost, charge: held }
    }

    /// As an entry tells it.
    fn of(entry: &Entry, held: u64) -> Self {
        let cost = entry.cost.map(|cost| cost.pico() / usd("0.01").pico());
        let voided = entry.attempts[0].voided;
        Self { cost, charge: if voided { 0 } else { cost.unwrap_or(held) } }
    }
}

impl Model {
    fn sums(&self) -> (u64, u64, u64) {
        let ended = self.0.values().filter_map(|request| request.ended);
        let running = self.0.values().filter(|request| request.ended.is_none());
        (
            ended.clone().map(|booked| booked.charge).sum(),
            running.map(|request| request.held).sum(),
            ended.filter_map(|booked| booked.cost).sum(),
        )
    }

    /// The books say what the model says: what is spent and held, how every request ended, and
    /// what all of them cost, by entries and by rollups.
    fn agrees(&self, books: &Books) {
        let (spent, held, cost) = self.sums();
        let cents = |cents: u64| u128::from(usd("0.01").pico()) * u128::from(cents);
        let budgets = books.budgets();
        let total = budgets.iter().find(|budget| *budget.id == *"global/total").unwrap();
        let side = total.money.unwrap();
        assert_eq!((side.spent.pico(), side.reserved.pico()), (cents(spent), cents(held)));
        let running = self.0.values().filter(|request| request.ended.is_none()).count();
        assert_eq!(books.reservations().len(), running);
        let entries = all(books);
        let ended = self.0.values().filter(|request| request.ended.is_some()).count();
        assert_eq!(entries.len(), ended, "one entry for each request that ended");
        for entry in &entries {
            let remembered = &self.0[&entry.id];
            assert_eq!(Some(Booked::of(entry, remembered.held)), remembered.ended, "{entry:?}");
        }
        let by_rollup = SummaryQuery { exact: Some(false), ..SummaryQuery::default() };
        let sums = books.summary(&by_rollup).unwrap().total;
        assert_eq!((sums.requests, sums.cost_usd.pico()), (ended as u64, cents(cost)));
    }

    /// What may not be lost, at this moment, and whether its end may not be either.
    fn acknowledged(&self) -> BTreeMap<RequestId, bool> {
        let resolved = |ticket: &CommitTicket| {
            matches!(ticket.clone().committed().now_or_never(), Some(Ok(())))
        };
        let safe = self.0.iter().filter(|(_, request)| resolved(&request.reserved));
        safe.map(|(id, request)| (*id, request.told.as_ref().is_some_and(resolved))).collect()
    }

    /// After a crash: what ran is booked as it was reserved. What was not acknowledged may have
    /// been durable all the same, or have lost its end, or be gone whole.
    fn crashed(&mut self, acknowledged: &BTreeMap<RequestId, bool>, books: &Books) {
        let found: BTreeMap<_, _> = all(books).into_iter().map(|entry| (entry.id, entry)).collect();
        self.0.retain(|id, request| {
            let safe = acknowledged.get(id);
            let Some(entry) = found.get(id) else {
                assert_eq!(safe, None, "{id} was acknowledged and is lost");
                return false;
            };
            let booked = Booked::of(entry, request.held);
            let as_reserved = Booked::as_reserved(request.held, Some(request.held));
            match request.ended {
                Some(ended) if safe == Some(&true) => {
                    assert_eq!(booked, ended, "acknowledged as it ended");
                }
                Some(ended) => assert!([ended, as_reserved].contains(&booked), "{booked:?}"),
                None => assert_eq!(booked, as_reserved),
            }
            request.ended = Some(booked);
            (request.reserved, request.told) = (CommitTicket::ready(), Some(CommitTicket::ready()));
            true
        });
    }
}

fn history(steps: Vec<Step>) {
    let mut house = House::new().with(|config| {
        config.global_budgets = vec![money(Window::Day, "3"), money(Window::Total, "40")];
        config.segment_entries_max = 5;
    });
    let mut books = house.open();
    set_up(&books);
    let mut model = Model::default();
    let mut running: Vec<(OpenEntry, RequestId)> = Vec::new();
    let mut latest_ms = 0;
    for step in steps {
        latest_ms = latest_ms.max(house.clock.unix_ms());
        match step {
            Step::Reserve { key, cents } => {
                let head = head(&books, KEYS[key]);
                let id = head.id;
                let mut entry = books.open_entry(head).unwrap();
                match entry.reserve(cent_ask(cents)) {
                    Err(_) => entry.discard(),
                    Ok((_, ticket)) => {
                        running.push((entry, id));
                        let (reserved, told) = (ticket, None);
                        model.0.insert(id, Remembered { held: cents, ended: None, reserved, told });
                    }
                }
            }
            Step::End { pick, how } => {
                if running.is_empty() {
                    continue;
                }
                let (entry, id) = running.swap_remove(pick % running.len());
                if let Some(remembered) = model.0.get_mut(&id) {
                    let (ticket, booked) = end(entry, remembered.held, how);
                    remembered.ended = Some(booked);
                    remembered.told = ticket;
                }
            }
            Step::Clock { hours } => {
                house.hand.set(house.clock.unix_ms().saturating_add_signed(hours * 3_600_000));
            }
            Step::Crash { committed } => {
                if committed {
                    books.catch_up();
                }
                let acknowledged = model.acknowledged();
                let after = house.crashed();
                // The dead process's requests end in its own directory, not in the new one.
                running.clear();
                drop(books);
                house = after;
                books = house.open();
                assert!(books.reservations().is_empty());
                model.crashed(&acknowledged, &books);
            }
            Step::Restart { without_index } => {
                for (entry, id) in running.drain(..) {
                    drop(entry);
                    if let Some(remembered) = model.0.get_mut(&id) {
                        remembered.ended = Some(Booked::as_reserved(remembered.held, None));
                    }
                }
                books.close();
                drop(books);
                if without_index {
                    std::fs::remove_dir_all(house.data().join("index")).unwrap();
                }
                books = house.open();
            }
        }
        sound(&books, house.clock.unix_ms() < latest_ms);
        model.agrees(&books);
    }
}

/// Ends a request; what of it can be waited for, and what it must have come to.
fn end(mut entry: OpenEntry, held: u64, how: How) -> (Option<CommitTicket>, Booked) {
    let index = entry.first_attempt();
    match how {
        How::Used { percent } => {
            let cents = held * percent / 100;
            complete(&mut entry, index, used(cents, 0));
            (Some(entry.finish(done(index))), Booked { cost: Some(cents), charge: cents })
        }
        How::Void => {
            entry.end_attempt(index, AttemptOutcome::NotSent, true);
            (Some(entry.finish(done(index))), Booked { cost: Some(0), charge: 0 })
        }
        How::Unknown => {
            entry.end_attempt(index, AttemptOutcome::Broken, false);
            (Some(entry.finish(done(index))), Booked::as_reserved(held, None))
        }
        How::Dropped => (None, Booked::as_reserved(held, None)),
    }
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
    let facts = books.budget_facts(&path("key_a"), NOON);
    assert_eq!(facts[0].money, Some((usd("1"), usd("0"))));
}

#[test]
fn a_credit_on_a_rolling_budget_takes_from_all_of_its_window() {
    let house = House::new();
    let books = house.open();
    let window = Window::Rolling(3_600);
    books.put_key(key("key_a", vec![money(window, "1")])).blocking().unwrap();
    for minutes in [0, 20] {
        house.hand.set(NOON + minutes * 60_000);
        request(&books, "key_a", ask("0.5", 30), used(1, 1)).unwrap();
    }
    // Nothing was spent in the minute that runs.
    house.hand.set(NOON + 40 * 60_000);
    let credit = |usd_text: &str| {
        let amount = Amount { money: usd(usd_text), ..Amount::default() };
        let scope = Scope::Key(key_id("key_a"));
        let both = (Amount::default(), amount);
        books.correct(&scope, window, both, "x").unwrap().blocking().unwrap();
        books.budgets()[0].money.unwrap().spent
    };
    assert_eq!(credit("0.05"), usd("0.01").into());
    assert_eq!(credit("0.05"), usd("0").into(), "to nothing at most");
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    books.close();
    drop(books);
    let books = house.open();
    assert_eq!(books.budgets()[0].money.unwrap().spent, usd("0").into());
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_credit_of_an_older_journal_takes_what_it_took_then() {
    let window = Window::Rolling(3_600);
    let (charge, nothing) = (Amount { tokens: 9, ..Amount::default() }, Amount::default());
    let correction = |start, charge, credit| Correction {
        scope: Scope::Global,
        window,
        start,
        charge,
        credit,
        reason: String::new(),
        narrow: false,
    };
    let written = postcard::to_allocvec(&correction(60_000, nothing, charge)).unwrap();
    for (version, left) in [(2, 9), (3, 0)] {
        let mut accounts = Accounts::default();
        accounts.correct(&correction(0, charge, nothing));
        let read = codec::decode(codec::CORRECTED, version, &written).unwrap();
        let codec::Event::Corrected(read) = read else { panic!("another event") };
        accounts.correct(&read);
        assert_eq!(accounts.balance(window, 60_000).spent_tokens, left, "version {version}");
    }
}

#[test]
fn a_correction_is_queued_before_anything_that_follows_from_it() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "100")])).blocking().unwrap();
    let both = (Amount { money: usd("60"), ..Amount::default() }, Amount::default());
    let scope = Scope::Key(key_id("key_a"));
    books.correct(&scope, Window::Day, both, "x").unwrap().blocking().unwrap();
    books.close();
    let bytes = std::fs::read(segment(&house)).unwrap();
    let kinds = records(&bytes).into_iter().map(|at| record::read(&bytes[at]).unwrap().0.head.kind);
    let kinds: Vec<u8> =
        kinds.filter(|kind| [codec::CORRECTED, codec::NOTICE].contains(kind)).collect();
    // Half of the budget is passed by it.
    assert_eq!(kinds, [codec::CORRECTED, codec::NOTICE]);
}
