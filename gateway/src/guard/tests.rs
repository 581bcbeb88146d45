//! Promises of the guard, in told time.

use super::*;
use crate::ledger::{GuardEffect, KeyId};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
/// A tenth of a cent.
const USUAL_COST: u64 = 1_000_000_000;

fn watched(key: &str, user: Option<&str>, team: Option<&str>) -> Vec<Subject> {
    subjects(&KeyId(Arc::from(key)), user, team)
}

fn asked(unix_ms: u64, question: u64) -> Asked {
    Asked { unix_ms, question, model: 1, hour: 12, session: None, prompt_tokens: 500, left: None }
}

fn served(unix_ms: u64, cost: u64, output: u64) -> Served {
    let answer = Some(Answered { cost, output });
    Served { unix_ms, cost, model: Some(1), answer, held: false }
}

/// A kept answer, or another request's: no model was asked.
fn spared(unix_ms: u64) -> Served {
    Served { unix_ms, cost: 0, model: None, answer: None, held: false }
}

/// Holds up whom it does not know yet, too.
fn at_once() -> Settings {
    Settings { learn: std::time::Duration::ZERO, ..Settings::default() }
}

/// A day of a request every ten seconds.
fn a_day(watch: &mut Watch, who: &[Subject]) -> u64 {
    let mut now = 0;
    for at in 0..8_640 {
        now = at * 10 * SECOND;
        let verdict = watch.ask(who, &asked(now, at));
        assert_eq!(verdict, Verdict { effect: None, events: Vec::new() }, "at {at}");
        assert_eq!(watch.served(who, &served(now, USUAL_COST, 200)), []);
    }
    now
}

#[test]
fn a_burst_is_kept_to_the_local_model_and_the_operator_is_told_once() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", Some("ada"), None));
    let start = a_day(&mut watch, &who);
    let mut events = Vec::new();
    let mut paid = 0;
    for at in 1..=3_000 {
        let now = start + at * SECOND / 5;
        let verdict = watch.ask(&who, &asked(now, 1_000_000 + at));
        events.extend(verdict.events);
        match verdict.effect {
            None => {
                paid += 1;
                events.extend(watch.served(&who, &served(now, USUAL_COST, 200)));
            }
            Some(effect) => {
                assert_eq!(effect.effect, GuardEffect::LocalOnly);
                watch.served(&who, &served(now, 0, 200));
            }
        }
    }
    assert!(paid < 500, "{paid} of 3000 were paid for");
    let told: Vec<_> = events.iter().map(|event| (event.subject.as_ref(), event.signal)).collect();
    assert_eq!(told, [("key_a", Signal::SpendVelocity), ("user:ada", Signal::SpendVelocity)]);
}

#[test]
fn an_effect_ends_when_its_cause_has_and_lifting_it_makes_what_was_seen_usual() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    let mut now = a_day(&mut watch, &who);
    let burst = |watch: &mut Watch, now: &mut u64| {
        for at in 0..4_000 {
            *now += SECOND / 5;
            if watch.ask(&who, &asked(*now, 7_000_000 + at)).effect.is_some() {
                return true;
            }
            watch.served(&who, &served(*now, USUAL_COST, 200));
        }
        false
    };
    assert!(burst(&mut watch, &mut now));
    now += 2 * HOUR;
    assert_eq!(watch.ask(&who, &asked(now, 1)).effect, None);
    watch.served(&who, &served(now, USUAL_COST, 200));
    assert!(burst(&mut watch, &mut now));
    assert!(watch.lift(&who[0], now));
    assert!(!watch.lift(&who[0], now), "nothing is done any more");
    // And so it stays, at the pace that was seen.
    for at in 0..4_000 {
        now += SECOND;
        assert_eq!(watch.ask(&who, &asked(now, 9_000_000 + at)).effect, None, "at {at}");
        watch.served(&who, &served(now, USUAL_COST, 200));
    }
}

#[test]
fn the_same_question_without_a_session_is_no_loop() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    for at in 0..100 {
        let verdict = watch.ask(&who, &asked(at * SECOND, 42));
        assert_eq!(verdict, Verdict { effect: None, events: Vec::new() }, "at {at}");
    }
}

#[test]
fn of_a_loop_only_the_repeated_question_is_slowed_down() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    let mut passed = 0;
    for at in 0..100 {
        let again = Asked { session: Some(3), ..asked(at * SECOND, 42) };
        // Who only asks about it is told the same, and changes nothing.
        let done = |effect: Option<Effect>| effect.map(|it| (it.effect, it.turned_away));
        let told = [(); 3].map(|()| done(watch.stands(&who, &again)));
        let verdict = watch.ask(&who, &again);
        let began = verdict.events.iter().any(|event| event.until_ms.is_some());
        assert!(began || told == [(); 3].map(|()| done(verdict.effect.clone())), "{at}: {told:?}");
        if verdict.effect.is_none_or(|effect| !effect.turned_away) {
            passed += 1;
        }
        let other = Asked { session: Some(3), ..asked(at * SECOND, 1_000 + at) };
        assert_eq!(watch.ask(&who, &other).effect, None, "another one");
    }
    assert!((20..=30).contains(&passed), "{passed}");
}

#[test]
fn a_guard_that_is_off_does_nothing_to_what_is_only_asked_about() {
    let who = watched("key_a", None, None);
    for enabled in [true, false] {
        let mut watch = Watch::new(Settings { enabled, ..Settings::default() });
        // As a start takes it back from before the guard was switched off.
        watch.hold(&who[0], Signal::PromptLoop, 100 * SECOND, "");
        assert_eq!(watch.stands(&who, &asked(SECOND, 42)).is_some(), enabled);
        assert_eq!(watch.ask(&who, &asked(SECOND, 42)).effect.is_some(), enabled);
    }
}

#[test]
fn long_answers_and_dear_requests_are_seen_against_ones_own_history() {
    for (cost, output, signal) in [
        (3 * USUAL_COST, 4_000, Signal::OutputBlowUp),
        (30 * USUAL_COST, 200, Signal::Amplification),
    ] {
        let settings = Settings { fast_factor: 1e9, hour_factor: 1e9, ..Settings::default() };
        let (mut watch, who) = (Watch::new(settings), watched("key_a", None, None));
        let mut now = a_day(&mut watch, &who);
        let mut events = Vec::new();
        for at in 0..40 {
            now += 2 * SECOND;
            watch.ask(&who, &asked(now, 5_000_000 + at));
            events.extend(watch.served(&who, &served(now, cost, output)));
        }
        assert_eq!(events.first().map(|event| event.signal), Some(signal));
    }
}

/// Two days of a thousand requests an hour; `of` says what each came to, by a draw below a hundred.
/// Nobody is held up, and no answer is said to be out of proportion. The guard afterwards.
fn two_quiet_days(of: impl Fn(u64, u64) -> Served) -> Watch {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    let mut seed = 1_u64;
    for at in 0..48_000 {
        let now = at * 3_600;
        assert_eq!(watch.ask(&who, &asked(now, at)).effect, None, "at {at}");
        // As if by chance, and the same in every run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let told = watch.served(&who, &of(now, (seed >> 33) % 100));
        assert_eq!(told, [], "at {at}");
    }
    watch
}

/// Whether twenty long and dear answers of a model are seen, and what else is.
fn blow_up(mut watch: Watch, model: u64) -> (bool, Vec<Signal>) {
    let (who, mut seen) = (watched("key_a", None, None), Vec::new());
    for at in 0..20 {
        let now = 48 * HOUR + at * 2 * SECOND;
        watch.ask(&who, &asked(now, 5_000_000 + at));
        let answer = Served { model: Some(model), ..served(now, 15 * USUAL_COST, 12_000) };
        seen.extend(watch.served(&who, &answer).iter().map(|event| event.signal));
    }
    let is_seen = seen.iter().any(|it| [Signal::OutputBlowUp, Signal::Amplification].contains(it));
    (is_seen, seen)
}

#[test]
fn who_goes_to_a_cheap_model_and_to_a_dear_one_is_not_held_up_and_a_blow_up_of_either_is_seen() {
    for dear in [1, 3, 10, 50] {
        let watch = two_quiet_days(|now, draw| {
            if draw < dear {
                Served { model: Some(2), ..served(now, 10 * USUAL_COST, 800) }
            } else {
                served(now, USUAL_COST, 20)
            }
        });
        for model in [1, 2] {
            let (is_seen, seen) = blow_up(watch.clone(), model);
            assert!(is_seen, "{dear} %, model {model}: {seen:?}");
        }
    }
}

#[test]
fn kept_answers_do_not_make_those_dear_that_are_asked_for() {
    for asked in [3, 10, 50] {
        let watch = two_quiet_days(|now, draw| {
            if draw < asked { served(now, 20 * USUAL_COST, 400) } else { spared(now) }
        });
        let (is_seen, seen) = blow_up(watch, 1);
        assert!(is_seen, "{asked} %: {seen:?}");
    }
}

#[test]
fn long_answers_among_short_ones_of_the_same_model_are_no_blow_up() {
    for long in [1, 2] {
        two_quiet_days(|now, draw| {
            if draw < long {
                served(now, 40 * USUAL_COST, 8_000)
            } else {
                served(now, USUAL_COST, 50)
            }
        });
    }
}

#[test]
fn a_session_that_doubles_at_every_turn_is_noticed() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    let mut events = Vec::new();
    for turn in 0..9 {
        let asked = Asked {
            session: Some(9),
            prompt_tokens: 1_000 << turn,
            ..asked(turn * 60 * SECOND, turn)
        };
        events.extend(watch.ask(&who, &asked).events);
    }
    assert_eq!(
        events.iter().map(|event| event.signal).collect::<Vec<_>>(),
        [Signal::SessionGrowth]
    );
}

#[test]
fn who_is_on_the_allow_list_is_told_of_and_never_held_up() {
    let settings = Settings { allow: ["key_a".to_owned()].into(), ..Settings::default() };
    let (mut watch, who) = (Watch::new(settings), watched("key_a", None, None));
    let mut events = Vec::new();
    for at in 0..2_000 {
        let verdict = watch.ask(&who, &asked(at * 10, at));
        assert_eq!(verdict.effect, None);
        events.extend(verdict.events);
        events.extend(watch.served(&who, &served(at * 10, USUAL_COST, 200)));
    }
    assert!(events.iter().all(|event| event.effect == GuardEffect::Logged));
    assert!(!events.is_empty());
}

#[test]
fn many_new_keys_of_one_user_are_seen_where_no_key_stands_out() {
    let mut watch = Watch::new(Settings::default());
    let who = |key: u64| watched(&format!("key_{key}"), Some("ada"), Some("red"));
    let hour = HOUR / SECOND;
    // Two days of a request every five seconds by two keys: 0.72 USD an hour.
    for at in 0..48 * hour / 5 {
        let (now, who) = (at * 5 * SECOND, who(at % 2));
        let verdict = watch.ask(&who, &asked(now, at));
        assert_eq!(verdict, Verdict { effect: None, events: Vec::new() }, "at {at}");
        assert_eq!(watch.served(&who, &served(now, USUAL_COST, 200)), []);
    }
    let start = 48 * HOUR;
    // Two and a half times as much by ten new keys: less than half a dollar an hour each.
    let mut told = Vec::new();
    let mut paid = 0;
    for at in 0..2 * hour / 2 {
        let (now, who) = (start + at * 2 * SECOND, who(100 + at % 10));
        let verdict = watch.ask(&who, &asked(now, 1_000_000 + at));
        told.extend(verdict.events);
        let held = verdict.effect.is_some();
        paid += u64::from(!held);
        let cost = if held { 0 } else { USUAL_COST };
        told.extend(watch.served(&who, &Served { held, ..served(now, cost, 200) }));
    }
    assert!(paid < 600, "{paid} of 3600 were paid for");
    let seen: Vec<_> = told.iter().map(|event| (event.subject.as_ref(), event.signal)).collect();
    assert!(seen.contains(&("user:ada", Signal::NewKeys)), "{seen:?}");
    assert!(!seen.iter().any(|(subject, _)| subject.starts_with("key_")), "{seen:?}");
    // As many new keys without more spending are somebody's order.
    let mut quiet = Watch::new(Settings::default());
    for at in 0..72 * hour / 5 {
        let key = if at < 48 * hour / 5 { at % 2 } else { 100 + at % 10 };
        let (now, who) = (at * 5 * SECOND, who(key));
        assert_eq!(quiet.ask(&who, &asked(now, at)).effect, None, "at {at}");
        quiet.served(&who, &served(now, USUAL_COST, 200));
    }
}

#[test]
fn a_model_that_was_little_used_and_takes_much_is_noted() {
    let (mut watch, who) = (Watch::new(Settings::default()), watched("key_a", None, None));
    // 3.6 USD an hour, of which another model takes a hundredth.
    let mut now = 0;
    let mut request = |watch: &mut Watch, model: u64| {
        now += SECOND;
        watch.ask(&who, &asked(now, now));
        watch.served(&who, &Served { model: Some(model), ..served(now, USUAL_COST, 200) })
    };
    for at in 0..26 * 3_600 {
        let model = if at % 100 == 0 { 2 } else { 1 };
        assert_eq!(request(&mut watch, model), [], "at {at}");
    }
    let told: Vec<Event> = (0..3_600).flat_map(|_| request(&mut watch, 2)).collect();
    let seen: Vec<_> = told.iter().map(|event| (event.signal, event.effect)).collect();
    assert_eq!(seen, [(Signal::ModelSpend, GuardEffect::Logged)]);
}

#[test]
fn what_is_known_and_done_survives_a_restart_without_a_trace_of_a_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let (who, path) = (watched("key_a", Some("ada"), None), dir.path().join("guard"));
    let guard = Guard::new(at_once());
    let question = 0x5ec2_e75e_c2e7_5ec2_u64;
    for at in 0..2_000 {
        let asked = Asked { session: Some(1), ..asked(at * 100, question ^ (at % 50)) };
        guard.ask(&who, &asked);
        guard.served(&who, &served(at * 100, USUAL_COST, 200));
    }
    let standing = guard.standing(200_000);
    assert_eq!(standing.len(), 2, "{standing:?}");
    guard.save(&path, 200_000).unwrap();
    let again = Guard::new(at_once());
    again.restore(dir.path(), &[], 200_000);
    assert_eq!(again.standing(200_000), standing);
    assert!(again.ask(&who, &asked(200_100, 7)).effect.is_some());
    assert_eq!(again.ask(&who, &asked(200_100, 7)).events, [], "it was told before");
    let bytes = crate::store::whole::load(&path, &keep::KIND).unwrap().unwrap();
    let mut written = [0; 10];
    let written = postcard::to_slice(&(question ^ 7 ^ 1), &mut written).unwrap();
    assert!(!bytes.windows(written.len()).any(|part| part == written));
    // What cannot be read is begun anew.
    std::fs::write(&path, b"TOLLGARD and no more").unwrap();
    let third = Guard::new(at_once());
    third.restore(dir.path(), &[], 200_000);
    assert_eq!(third.standing(200_000), []);
}

#[test]
fn memory_is_bounded_and_who_is_held_up_is_not_forgotten() {
    let (mut watch, who) = (Watch::new(at_once()), watched("key_bad", None, None));
    for at in 0..2_000 {
        watch.ask(&who, &asked(at, at));
        watch.served(&who, &served(at, USUAL_COST, 200));
    }
    assert_eq!(watch.standing_all().len(), 1);
    for other in 0..30_000_u64 {
        watch.ask(&watched(&format!("key_{other}"), None, None), &asked(3_000 + other, other));
    }
    assert_eq!(watch.standing_all().len(), 1);
}
