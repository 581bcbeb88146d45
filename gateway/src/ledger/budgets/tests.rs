//! The machine against a plain model that remembers everything and adds it up anew each time.

use super::{waiting::WAITING_MAX, *};
use crate::{caller::Window, ledger::KeyId};
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;
/// 1 June 2026, 12:00 UTC.
const NOON: u64 = 1_780_315_200_000;

fn spec(window: Window, unit: Unit, limit: u64) -> BudgetSpec {
    BudgetSpec {
        window,
        money: (unit == Unit::Money).then(|| PicoUsd::from_pico(limit)),
        tokens: (unit == Unit::Tokens).then_some(limit),
        requests: (unit == Unit::Requests).then_some(limit),
        hard: true,
        zone: None,
        turn: None,
    }
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn path(key: &str, team: &str, session: &str, tags: &[&str]) -> BudgetPath {
    let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
    BudgetPath::of(&Payer {
        key: &KeyId(name(key)),
        team: Some(team),
        user: Some("ada"),
        session: Some(session),
        tags: &tags,
        model: None,
    })
}

fn at(unix_ms: u64) -> At {
    At { unix_ms, mono: Duration::from_millis(unix_ms - NOON + HOUR) }
}

fn need(money: u64, tokens: u64) -> Need {
    Need { money: PicoUsd::from_pico(money), tokens, requests: 1 }
}

fn set(machine: &mut Machine, scope: &Scope, budgets: &[BudgetSpec], of_sessions: &[BudgetSpec]) {
    machine.set(scope, &KeyLimits::default(), (budgets, of_sessions), at(NOON));
}

fn machine(settings: &[(Scope, Vec<BudgetSpec>, Vec<BudgetSpec>)]) -> Machine {
    let mut machine = Machine::new(&jiff::tz::TimeZone::UTC);
    for (scope, budgets, of_sessions) in settings {
        set(&mut machine, scope, budgets, of_sessions);
    }
    machine
}

fn id_of(short: Short) -> String {
    match short {
        Short::Budget { id, .. } => id.as_ref().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_scope_of_the_path_can_refuse_and_then_none_of_them_holds_anything() {
    let money = |limit| vec![spec(Window::Total, Unit::Money, limit)];
    let key = KeyId(name("key_a"));
    let scopes = [
        (Scope::Global, 90),
        (Scope::Team(name("red")), 80),
        (Scope::User(name("ada")), 70),
        (Scope::Key(key), 60),
        (Scope::Tag(name("nightly")), 40),
    ];
    for refusing in 0..=scopes.len() {
        let mut settings: Vec<_> = scopes
            .iter()
            .enumerate()
            .map(|(at, (scope, limit))| {
                (scope.clone(), money(if at == refusing { *limit } else { 1_000 }), vec![])
            })
            .collect();
        if refusing == scopes.len() {
            settings[3].2 = money(50);
        }
        let mut machine = machine(&settings);
        let path = path("key_a", "red", "run-1", &["nightly"]);
        let short = machine.reserve(&path, need(95, 0), at(NOON)).unwrap_err();
        let expected = match scopes.get(refusing) {
            Some((scope, _)) => budget_id(scope, Window::Total),
            None => name("key_a/session:run-1/total"),
        };
        assert_eq!(id_of(short), expected.as_ref());
        assert_eq!(machine.balances(), []);
    }
}

#[test]
fn the_children_of_a_session_share_it_and_another_keys_session_of_the_same_name_does_not() {
    let of_sessions = vec![spec(Window::Total, Unit::Money, 100)];
    let mut machine = machine(&[
        (Scope::Key(KeyId(name("key_a"))), vec![], of_sessions.clone()),
        (Scope::Key(KeyId(name("key_b"))), vec![], of_sessions),
    ]);
    let run = path("key_a", "red", "run-1", &[]);
    let granted = (0..64).filter(|_| machine.reserve(&run, need(10, 0), at(NOON)).is_ok()).count();
    assert_eq!(granted, 10);
    machine.reserve(&path("key_a", "red", "run-2", &[]), need(100, 0), at(NOON)).unwrap();
    machine.reserve(&path("key_b", "red", "run-1", &[]), need(100, 0), at(NOON)).unwrap();
}

#[test]
fn a_policy_sees_of_a_session_that_is_one_too_many_what_is_left_for_all_of_those() {
    let of_sessions = vec![spec(Window::Total, Unit::Money, 100)];
    let mut machine = machine(&[(Scope::Key(KeyId(name("key_a"))), vec![], of_sessions)]);
    let run = |at: usize| path("key_a", "red", &format!("run-{at}"), &[]);
    for at_once in 0..sessions::PER_KEY_MAX {
        machine.reserve(&run(at_once), need(1, 0), at(NOON)).unwrap();
    }
    let left = |machine: &mut Machine, path: &BudgetPath| {
        let facts = machine.facts(path, at(NOON));
        assert_eq!(facts.len(), 1, "{facts:?}");
        facts[0].money.unwrap().1
    };
    assert_eq!(left(&mut machine, &run(0)), PicoUsd::from_pico(99));
    let (first, second) = (run(sessions::PER_KEY_MAX), run(sessions::PER_KEY_MAX + 1));
    machine.reserve(&first, need(60, 0), at(NOON)).unwrap();
    assert_eq!(left(&mut machine, &second), PicoUsd::from_pico(40));
    assert!(machine.reserve(&second, need(60, 0), at(NOON)).is_err());
}

#[test]
fn a_request_is_one_whatever_becomes_of_it() {
    let mut machine =
        machine(&[(Scope::Global, vec![spec(Window::Day, Unit::Requests, 2)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let first = machine.reserve(&path, need(0, 5), at(NOON)).unwrap();
    let again = Need { requests: 0, ..need(0, 5) };
    let retry = machine.reserve(&path, again, at(NOON)).unwrap();
    machine.settle(&first, need(0, 5), Amount::default(), at(NOON));
    machine.settle(&retry, again, again, at(NOON));
    machine.reserve(&path, need(0, 5), at(NOON)).unwrap();
    assert!(machine.reserve(&path, need(0, 5), at(NOON)).is_err());
}

#[test]
fn what_was_held_and_not_used_goes_to_those_who_wait_in_their_order() {
    let mut machine =
        machine(&[(Scope::Global, vec![spec(Window::Day, Unit::Money, 100)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let running = machine.reserve(&path, need(90, 0), at(NOON)).unwrap();
    let mut join =
        |money| machine.reserve_or_wait(&path, need(money, 0), at(NOON)).unwrap().unwrap_err();
    let (mut large, mut small) = (join(60), join(30));
    // One that would fit now does not overtake them; one that could never fit does not wait.
    let short = machine.reserve(&path, need(5, 0), at(NOON)).unwrap_err();
    assert!(matches!(short, Short::Budget { ahead: 2, .. }), "{short:?}");
    assert!(machine.reserve_or_wait(&path, need(101, 0), at(NOON)).is_err());
    machine.settle(
        &running,
        need(90, 0),
        Need { money: PicoUsd::from_pico(5), ..need(0, 0) },
        at(NOON),
    );
    assert!(large.woken.try_recv().is_ok() && small.woken.try_recv().is_ok());
    let large = machine.leave(large.place, at(NOON)).unwrap();
    machine.leave(small.place, at(NOON)).unwrap();
    machine.reserve(&path, need(5, 0), at(NOON)).unwrap();
    assert!(machine.reserve(&path, need(1, 0), at(NOON)).is_err());
    // Of one who waits for what was spent meanwhile, waiting ends.
    let mut late = machine.reserve_or_wait(&path, need(60, 0), at(NOON)).unwrap().unwrap_err();
    machine.settle(&large, need(60, 0), need(60, 0), at(NOON));
    assert!(late.woken.try_recv().is_ok());
    assert!(machine.leave(late.place, at(NOON)).is_err());
}

/// A budget of two units, of which one is money.
fn of_two(money: u64, requests: u64) -> Vec<BudgetSpec> {
    vec![BudgetSpec { requests: Some(requests), ..spec(Window::Day, Unit::Money, money) }]
}

#[test]
fn who_needs_no_money_stands_behind_nobody_who_waits_for_it() {
    let mut machine = machine(&[(Scope::Global, of_two(100, 4), vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let running = machine.reserve(&path, need(90, 0), at(NOON)).unwrap();
    let waits = machine.reserve_or_wait(&path, need(60, 0), at(NOON)).unwrap().unwrap_err();
    // Behind it for the money, though it is not the money that there is least of.
    let behind = machine.reserve_or_wait(&path, need(5, 0), at(NOON)).unwrap().unwrap_err();
    let free = machine.reserve(&path, need(0, 10), at(NOON)).unwrap();
    let short = machine.reserve(&path, need(1, 0), at(NOON)).unwrap_err();
    assert!(
        matches!(short, Short::Budget { ahead: 2, unit: Unit::Money, .. }),
        "who needs money still stands behind: {short:?}"
    );
    // And for requests behind who waits for those.
    let second = machine.reserve(&path, need(0, 10), at(NOON)).unwrap();
    let third = machine.reserve(&path, need(0, 10), at(NOON)).unwrap();
    let of_requests = machine.reserve_or_wait(&path, need(0, 10), at(NOON)).unwrap().unwrap_err();
    machine.cancel(&running, need(90, 0), at(NOON));
    machine.leave(waits.place, at(NOON)).unwrap();
    let short = machine.reserve(&path, need(0, 10), at(NOON)).unwrap_err();
    assert!(matches!(short, Short::Budget { ahead: 2, unit: Unit::Requests, .. }), "{short:?}");
    for holds in [free, second] {
        machine.cancel(&holds, need(0, 10), at(NOON));
    }
    for place in [of_requests.place, behind.place] {
        machine.leave(place, at(NOON)).unwrap();
    }
    machine.cancel(&third, need(0, 10), at(NOON));
}

#[test]
fn a_hold_of_a_session_is_enlarged_within_each_zones_own_day() {
    // A day in Tokyo began at 15:00 UTC of the day before.
    let utc = spec(Window::Day, Unit::Money, 100);
    let tokyo = BudgetSpec { zone: Some("Asia/Tokyo".parse().unwrap()), ..utc.clone() };
    let mut machine = machine(&[
        (Scope::Global, vec![], vec![utc]),
        (Scope::Key(KeyId(name("key_a"))), vec![], vec![tokyo]),
    ]);
    let path = path("key_a", "red", "run-1", &[]);
    let evening = At { unix_ms: NOON - 16 * HOUR, ..At::default() };
    let spent = machine.reserve(&path, need(90, 0), evening).unwrap();
    machine.settle(&spent, need(90, 0), need(90, 0), evening);
    let running = machine.reserve(&path, need(4, 0), at(NOON)).unwrap();
    assert_eq!(machine.room(&path, &running), Some(PicoUsd::from_pico(6)));
    assert!(!machine.enlarge(&path, &running, PicoUsd::from_pico(7)));
    assert!(machine.enlarge(&path, &running, PicoUsd::from_pico(6)));
}

#[test]
fn a_place_that_is_abandoned_gives_back_what_it_was_granted() {
    let mut machine =
        machine(&[(Scope::Global, vec![spec(Window::Day, Unit::Money, 100)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let running = machine.reserve(&path, need(100, 0), at(NOON)).unwrap();
    let ticket = machine.reserve_or_wait(&path, need(80, 0), at(NOON)).unwrap().unwrap_err();
    machine.cancel(&running, need(100, 0), at(NOON));
    machine.abandon(ticket.place, at(NOON));
    machine.reserve(&path, need(100, 0), at(NOON)).unwrap();
}

#[test]
fn a_raised_limit_serves_those_who_wait() {
    let budget = |limit| vec![spec(Window::Day, Unit::Money, limit)];
    let mut machine = machine(&[(Scope::Global, budget(100), vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    machine.reserve(&path, need(100, 0), at(NOON)).unwrap();
    let mut ticket = machine.reserve_or_wait(&path, need(80, 0), at(NOON)).unwrap().unwrap_err();
    set(&mut machine, &Scope::Global, &budget(180), &[]);
    assert!(ticket.woken.try_recv().is_ok());
    machine.leave(ticket.place, at(NOON)).unwrap();
}

#[test]
fn each_part_of_a_limit_is_passed_once() {
    let mut machine =
        machine(&[(Scope::Global, vec![spec(Window::Day, Unit::Money, 100)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let mut passed = Vec::new();
    for _ in 0..10 {
        let holds = machine.reserve(&path, need(10, 0), at(NOON)).unwrap();
        let crossings = machine.settle(&holds, need(10, 0), need(10, 0), at(NOON));
        passed.extend(crossings.iter().map(|crossing| (crossing.percent, crossing.spent)));
    }
    assert_eq!(passed, [(50, 50), (80, 80), (100, 100)]);
}

#[test]
fn a_part_is_told_again_in_the_next_window_of_a_rolling_one_after_its_length_and_of_another_limit()
{
    let hour = Window::Rolling(3_600);
    let settings =
        |limit| vec![spec(Window::Day, Unit::Money, 4 * limit), spec(hour, Unit::Money, limit)];
    let mut machine = machine(&[(Scope::Global, settings(100), vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let spend = |machine: &mut Machine, money: u64, unix_ms: u64| -> Vec<(Window, u8)> {
        let holds = machine.reserve(&path, need(money, 0), at(unix_ms)).unwrap();
        let passed = machine.settle(&holds, need(money, 0), need(money, 0), at(unix_ms));
        passed.iter().map(|passed| (passed.window, passed.percent)).collect()
    };
    let minute = 60_000;
    assert_eq!(spend(&mut machine, 60, NOON), [(hour, 50)]);
    assert_eq!(spend(&mut machine, 10, NOON + minute), []);
    // What was told has left the window.
    assert_eq!(spend(&mut machine, 50, NOON + 61 * minute), [(hour, 50)]);
    assert_eq!(spend(&mut machine, 30, NOON + 62 * minute), [(hour, 80)]);
    assert_eq!(spend(&mut machine, 60, NOON + 130 * minute), [(Window::Day, 50), (hour, 50)]);
    // The limits are lowered, and what is spent passes other parts of them, without a charge.
    set(&mut machine, &Scope::Global, &settings(60), &[]);
    let passed = machine.untold(None, at(NOON + 132 * minute));
    let parts: Vec<_> = passed.iter().map(|passed| (passed.window, passed.percent)).collect();
    assert_eq!(parts, [(Window::Day, 80), (hour, 100)]);
    assert_eq!(machine.untold(None, at(NOON + 132 * minute)), []);
}

#[test]
fn a_rolling_window_counts_its_oldest_sub_bucket_whole_and_a_step_back_reopens_nothing() {
    let day = Window::Rolling(86_400);
    let mut machine = machine(&[(Scope::Global, vec![spec(day, Unit::Money, 100)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    let bucket = 86_400_000 / 60;
    machine.reserve(&path, need(100, 0), at(NOON + bucket - 1)).unwrap();
    // A day later to the millisecond the oldest sub-bucket still counts; after it, no more.
    assert!(machine.reserve(&path, need(1, 0), at(NOON + 61 * bucket - 1)).is_err());
    assert!(machine.reserve(&path, need(1, 0), at(NOON)).is_err());
    machine.reserve(&path, need(100, 0), at(NOON + 61 * bucket)).unwrap();
    for back in [1, 30, 59] {
        let then = at(NOON + (61 - back) * bucket);
        assert!(machine.reserve(&path, need(1, 0), then).is_err(), "{back} sub-buckets back");
    }
}

#[test]
fn a_clock_that_is_ahead_for_one_request_takes_nothing_from_a_rolling_window() {
    let hour = Window::Rolling(3_600);
    let mut machine = machine(&[(Scope::Global, vec![spec(hour, Unit::Money, 100)], vec![])]);
    let path = path("key_a", "red", "run-1", &[]);
    machine.reserve(&path, need(100, 0), at(NOON)).unwrap();
    machine.reserve(&path, need(1, 0), at(NOON + 20 * 86_400_000)).unwrap();
    assert!(machine.reserve(&path, need(1, 0), at(NOON + 60_000)).is_err());
    machine.reserve(&path, need(100, 0), at(NOON + 61 * 60_000)).unwrap();
}

// === the plain model ===

/// One hold as the model remembers it.
#[derive(Debug)]
struct Remembered {
    scopes: Vec<Scope>,
    unix_ms: u64,
    need: Need,
    /// What it came to, once it ended.
    charge: Option<Need>,
    holds: Holds,
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { key: usize, session: usize, tag: bool, money: u64, tokens: u64 },
    Settle { pick: usize, percent: u64 },
    Cancel { pick: usize },
    Clock { minutes: i64 },
    Lower { percent: u64 },
}

fn step(back: i64) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 0..3_usize, any::<bool>(), 0..40_u64, 0..40_u64).prop_map(
            |(key, session, tag, money, tokens)| Step::Reserve { key, session, tag, money, tokens }
        ),
        4 => (0..50_usize, 0..=100_u64).prop_map(|(pick, percent)| Step::Settle { pick, percent }),
        1 => (0..50_usize).prop_map(|pick| Step::Cancel { pick }),
        2 => (back..200_i64).prop_map(|minutes| Step::Clock { minutes }),
        1 => (20..=100_u64).prop_map(|percent| Step::Lower { percent }),
    ]
}

fn settings(percent: u64) -> Vec<(Scope, Vec<BudgetSpec>, Vec<BudgetSpec>)> {
    let of = |window, unit, limit: u64| spec(window, unit, limit * percent / 100);
    let key = |key: &str| Scope::Key(KeyId(name(key)));
    vec![
        (
            Scope::Global,
            vec![of(Window::Day, Unit::Money, 400), of(Window::Total, Unit::Tokens, 4_000)],
            vec![of(Window::Rolling(7_200), Unit::Tokens, 120)],
        ),
        (
            Scope::Team(name("red")),
            vec![
                of(Window::Week, Unit::Requests, 60),
                of(Window::Rolling(36_000), Unit::Money, 300),
            ],
            vec![],
        ),
        (Scope::User(name("ada")), vec![of(Window::Month, Unit::Money, 2_000)], vec![]),
        (
            key("key_a"),
            vec![of(Window::Hour, Unit::Money, 90)],
            vec![of(Window::Total, Unit::Money, 150)],
        ),
        (key("key_b"), vec![of(Window::Rolling(3_600), Unit::Requests, 6)], vec![]),
        (Scope::Tag(name("nightly")), vec![of(Window::Day, Unit::Tokens, 200)], vec![]),
    ]
}

/// The budgets of a path, each with its scope.
fn budgets_of(
    settings: &[(Scope, Vec<BudgetSpec>, Vec<BudgetSpec>)],
    path: &BudgetPath,
) -> Vec<(Scope, BudgetSpec)> {
    let mut all = Vec::new();
    for scope in path.scopes() {
        for (of, budgets, of_sessions) in settings {
            if of == scope {
                all.extend(budgets.iter().map(|spec| (scope.clone(), spec.clone())));
            }
            let above = path.scopes().contains(of);
            if matches!(scope, Scope::Session(..)) && above {
                all.extend(of_sessions.iter().map(|spec| (scope.clone(), spec.clone())));
            }
        }
    }
    all
}

/// Whether something admitted at `then` counts in the window of `now`, by its definition.
fn counts(window: Window, then: u64, now: u64) -> bool {
    let day = 24 * HOUR;
    // 1 June 2026 is a Monday.
    let monday = NOON - 12 * HOUR;
    let weeks = |ms: u64| (ms + 520 * 7 * day - monday) / (7 * day);
    let month = |ms: u64| {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap();
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        (date.year(), date.month())
    };
    match window {
        Window::Hour => then / HOUR == now / HOUR,
        Window::Day => then / day == now / day,
        Window::Week => weeks(then) == weeks(now),
        Window::Month => month(then) == month(now),
        Window::Total => true,
        Window::Rolling(_) => {
            let bucket = window.sub_bucket_ms().unwrap();
            let (then, now) = (then / bucket, now / bucket);
            then <= now && then + 60 >= now
        }
    }
}

fn fits(spec: &BudgetSpec, taken: &[u64; 3], need: Need) -> bool {
    let fits = |limit: Option<u64>, taken: u64, need: u64| {
        need == 0 || limit.is_none_or(|limit| taken + need <= limit)
    };
    fits(spec.money.map(PicoUsd::pico), taken[0], need.money.pico())
        && fits(spec.tokens, taken[1], need.tokens)
        && fits(spec.requests, taken[2], need.requests)
}

/// What is spent and held in a window, added up anew.
fn taken(memory: &[Remembered], scope: &Scope, window: Window, now: u64) -> [u64; 3] {
    let counting = memory
        .iter()
        .filter(|held| held.scopes.contains(scope) && counts(window, held.unix_ms, now));
    counting.fold([0; 3], |sum, held| {
        let amount = held.charge.unwrap_or(held.need);
        [sum[0] + amount.money.pico(), sum[1] + amount.tokens, sum[2] + amount.requests]
    })
}

/// Parts of limits that were told: whose, over which window, of what, how much, since when.
type ToldParts = HashSet<(Scope, Window, u8, u8, u64)>;

/// A part is told when it is passed, and of a calendar window once.
fn tell_once(told: &mut ToldParts, passed: &Crossing) {
    let mark = u128::from(passed.limit) * u128::from(passed.percent);
    assert!(u128::from(passed.spent) * 100 >= mark, "{passed:?}");
    let (window, unit, began) = (passed.window, passed.unit as u8, passed.began_unix_ms);
    let new = told.insert((passed.scope.clone(), window, unit, passed.percent, began));
    assert!(window.sub_bucket_ms().is_some() || new, "told twice: {passed:?}");
}

/// Runs a history; `straight`: the clock never goes back, so that the model is exact.
fn run(steps: Vec<Step>, straight: bool) {
    let mut limits = settings(100);
    let mut machine = machine(&limits);
    let mut memory: Vec<Remembered> = Vec::new();
    let (mut now, mut furthest) = (NOON, NOON);
    let mut told = ToldParts::new();
    for step in steps {
        let running = |memory: &[Remembered], pick: usize| {
            let open: Vec<usize> =
                (0..memory.len()).filter(|at| memory[*at].charge.is_none()).collect();
            (!open.is_empty()).then(|| open[pick % open.len()])
        };
        match step {
            Step::Reserve { key, session, tag, money, tokens } => {
                let tags: &[&str] = if tag { &["nightly"] } else { &[] };
                let key = ["key_a", "key_b"][key];
                let path = path(key, "red", ["x", "y", "z"][session], tags);
                let need = need(money, tokens);
                let lacking = budgets_of(&limits, &path).into_iter().find(|(scope, spec)| {
                    !fits(spec, &taken(&memory, scope, spec.window, now), need)
                });
                match machine.reserve(&path, need, at(now)) {
                    Ok(holds) => {
                        assert_eq!(lacking, None, "overspent");
                        let scopes = path.scopes().to_vec();
                        memory.push(Remembered { scopes, unix_ms: now, need, charge: None, holds });
                    }
                    Err(short) => assert!(
                        !straight || lacking.is_some(),
                        "refused what it could afford: {short}"
                    ),
                }
            }
            Step::Settle { pick, percent } => {
                if let Some(which) = running(&memory, pick) {
                    let held = &mut memory[which];
                    let part = |amount: u64| amount * percent / 100;
                    let charge = Need {
                        money: PicoUsd::from_pico(part(held.need.money.pico())),
                        tokens: part(held.need.tokens),
                        requests: 1,
                    };
                    let passed = machine.settle(&held.holds, held.need, charge, at(now));
                    passed.iter().for_each(|passed| tell_once(&mut told, passed));
                    held.charge = Some(charge);
                }
            }
            Step::Cancel { pick } => {
                if let Some(which) = running(&memory, pick) {
                    machine.cancel(&memory[which].holds, memory[which].need, at(now));
                    memory[which].charge = Some(Need::default());
                }
            }
            Step::Clock { minutes } => {
                // Further back than by the shortest rolling window nothing is promised of it.
                let earliest = furthest.saturating_sub(HOUR).max(NOON);
                now = now.saturating_add_signed(minutes * 60_000).max(earliest);
                furthest = furthest.max(now);
            }
            Step::Lower { percent } => {
                limits = settings(percent);
                // Parts of another limit are other parts.
                told.clear();
                for (scope, budgets, of_sessions) in &limits {
                    set(&mut machine, scope, budgets, of_sessions);
                }
            }
        }
    }
}

#[test]
fn a_key_whose_requests_all_wait_leaves_places_in_the_line_to_others() {
    let team = (Scope::Team(name("red")), vec![spec(Window::Total, Unit::Money, 100)], vec![]);
    let mut machine = machine(&[team]);
    let floods = path("key_a", "red", "run-1", &[]);
    let _runs = machine.reserve(&floods, need(90, 0), at(NOON)).unwrap();
    let mut waits = |path: &BudgetPath| {
        machine.reserve_or_wait(path, need(50, 0), at(NOON)).is_ok_and(|held| held.is_err())
    };
    let places = (0..WAITING_MAX).take_while(|_| waits(&floods)).count();
    assert_eq!(places, WAITING_MAX * 3 / 4);
    assert!(waits(&path("key_b", "red", "run-1", &[])), "another key waits in its turn");
    assert!(!waits(&floods));
}

/// Those who are the first to wait for their budget.
fn first_in_line(machine: &Machine) -> Vec<u64> {
    let mut budgets = HashSet::new();
    let awaited = |place: &u64| {
        let on = machine.waiting.get(*place).unwrap().on.as_ref().unwrap();
        budgets.insert((on.scope.clone(), on.window))
    };
    machine.waiting.places().into_iter().filter(awaited).collect()
}

/// A history in which requests wait: of those who are first in line for a budget, none can be served
/// by a look at everyone who was not served by the looks at those who were concerned.
fn run_in_line(steps: Vec<Step>) {
    let mut machine = machine(&settings(100));
    let mut running: Vec<(Holds, Need)> = Vec::new();
    let mut line: Vec<(Ticket, Need)> = Vec::new();
    let mut now = NOON;
    for (at_step, step) in steps.into_iter().enumerate() {
        match step {
            Step::Reserve { key, session, tag, money, tokens } => {
                let tags: &[&str] = if tag { &["nightly"] } else { &[] };
                let path = path(["key_a", "key_b"][key], "red", ["x", "y", "z"][session], tags);
                let need = need(money, tokens);
                match machine.reserve_or_wait(&path, need, at(now)) {
                    Ok(Ok(holds)) => running.push((holds, need)),
                    Ok(Err(ticket)) => line.push((ticket, need)),
                    Err(_) => {}
                }
                continue;
            }
            Step::Settle { pick, percent } if !running.is_empty() => {
                let (holds, held) = running.swap_remove(pick % running.len());
                let money = PicoUsd::from_pico(held.money.pico() * percent / 100);
                let charge = Need { money, tokens: held.tokens * percent / 100, ..held };
                machine.settle(&holds, held, charge, at(now));
            }
            Step::Cancel { pick } if !line.is_empty() && pick % 2 == 0 => {
                let (ticket, _) = line.remove(pick % line.len());
                machine.abandon(ticket.place, at(now));
            }
            Step::Cancel { pick } if !running.is_empty() => {
                let (holds, held) = running.swap_remove(pick % running.len());
                machine.cancel(&holds, held, at(now));
            }
            Step::Clock { minutes } => {
                now = now.saturating_add_signed(minutes * 60_000);
                continue;
            }
            Step::Lower { percent } => {
                for (scope, budgets, of_sessions) in &settings(percent) {
                    let limits = KeyLimits::default();
                    machine.set(scope, &limits, (budgets, of_sessions), at(now));
                }
            }
            _ => continue,
        }
        if at_step % 4 == 0 {
            let first = first_in_line(&machine);
            machine.serve(None, at(now));
            for place in first {
                let answer = &machine.waiting.get(place).unwrap().answer;
                assert!(!matches!(answer, Some(Ok(_))), "{place} was passed over");
            }
        }
        line.retain_mut(|(ticket, need)| {
            let answered = ticket.woken.try_recv().is_ok();
            if answered && let Ok(holds) = machine.leave(ticket.place, at(now)) {
                running.push((holds, *need));
            }
            !answered
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whoever_can_be_served_is_served_though_few_of_those_who_wait_are_looked_at(
        steps in prop::collection::vec(step(0), 1..200)
    ) {
        run_in_line(steps);
    }

    #[test]
    fn with_a_clock_that_runs_forward_exactly_what_can_be_afforded_is_admitted(
        steps in prop::collection::vec(step(0), 1..120)
    ) {
        run(steps, true);
    }

    #[test]
    fn no_step_back_within_a_window_makes_it_admit_more_than_its_limit(
        steps in prop::collection::vec(step(-200), 1..120)
    ) {
        run(steps, false);
    }
}

#[test]
fn a_tag_that_was_written_down_in_another_case_is_the_same_tag() {
    let written = postcard::to_allocvec(&Scope::Tag(name("Nightly"))).unwrap();
    let read: Scope = postcard::from_bytes(&written).unwrap();
    assert_eq!(read, Scope::tag("nightly"));
    assert_eq!(Scope::tag("NIGHTLY").to_string(), "tag:nightly");
}
