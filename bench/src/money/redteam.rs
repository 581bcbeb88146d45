//! Plays abuse over normal traffic and counts what it costs with and without the guard.
//!
//! Invariant: an attack's money is lost when the guard let the request through to a paid route; a
//! false alarm is any effect that begins for someone who only does what the trace does.

use super::trace::{INPUT_PRICE, OUTPUT_PRICE, Row, key_of, mix};
use crate::say;
use gateway::{
    guard::{Answered, Asked, Served, Settings, Subject, Watch, subjects},
    ledger::{GuardEffect, KeyId},
};
use std::{cmp::Reverse, collections::BinaryHeap};

const HOUR: u64 = 3_600_000;
/// Normal traffic before an attack, and without one.
const LEARNED: u64 = 48 * HOUR;
const QUIET: u64 = 72 * HOUR;
const KEYS: u64 = 24;
/// The key that was stolen: neither the busiest nor the quietest.
const STOLEN: u64 = 7;

/// One way to waste money.
struct Attack {
    name: &'static str,
    lasts: u64,
    every_ms: u64,
    /// Tokens of a request; `None` as in the trace.
    size: Option<(u64, u64)>,
    /// Times the usual price: the dear model that a suffix talks the router into.
    price: u64,
    /// The same question each time.
    same_question: bool,
    /// Another model than everybody's.
    model: u64,
    /// New keys of the same user that share the work.
    new_keys: u64,
}

const USUAL: Attack = Attack {
    name: "",
    lasts: 6 * HOUR,
    every_ms: 1_000,
    size: None,
    price: 1,
    same_question: false,
    model: 1,
    new_keys: 0,
};

fn attacks() -> Vec<Attack> {
    vec![
        Attack { name: "slow drain", lasts: 48 * HOUR, every_ms: 1_500, ..USUAL },
        Attack { name: "burst", lasts: HOUR, every_ms: 100, ..USUAL },
        Attack { name: "long outputs", every_ms: 10_000, size: Some((60, 8_000)), ..USUAL },
        Attack { name: "retry storm", every_ms: 500, same_question: true, ..USUAL },
        Attack { name: "many keys", new_keys: 20, ..USUAL },
        Attack { name: "cache busting", every_ms: 3_000, size: Some((20_000, 200)), ..USUAL },
        Attack { name: "router gaming", every_ms: 15_000, price: 20, model: 2, ..USUAL },
    ]
}

/// A request that runs in the simulation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    at_ms: u64,
    who: Vec<Subject>,
    cost: u64,
    output: u64,
    model: u64,
    held: bool,
}

/// The guard and the traffic it sees.
#[derive(Clone)]
struct Sim {
    watch: Watch,
    running: Vec<Ends>,
}

#[derive(Default)]
struct Tally {
    normal: u64,
    held_up: u64,
    alarms: Vec<String>,
    lost: u64,
    without: u64,
    detected_ms: Option<u64>,
}

/// Runs every attack and prints a table.
pub(super) fn run(rows: &[Row]) -> Result<(), String> {
    let settings = Settings::default();
    say(&format!(
        "{} requests of the trace, {KEYS} keys of {} users, {} h learned; {settings:?}",
        rows.len(),
        KEYS / 2,
        LEARNED / HOUR
    ))?;
    let mut sim = Sim { watch: Watch::new(settings), running: Vec::new() };
    let learned = play(&mut sim, rows, (0, LEARNED), None);
    let quiet = play(&mut sim.clone(), rows, (LEARNED, LEARNED + QUIET), None);
    let requests = learned.normal + quiet.normal;
    let alarms = learned.alarms.len() + quiet.alarms.len();
    for alarm in learned.alarms.iter().chain(&quiet.alarms) {
        say(&format!("false alarm: {alarm}"))?;
    }
    let per = |part: usize| 10_000.0 * part as f64 / requests as f64;
    say(&format!(
        "normal traffic: {requests} requests, {alarms} false alarms ({:.3} per 10,000), {} requests \
         held up",
        per(alarms),
        learned.held_up + quiet.held_up
    ))?;
    say(
        "attack            lost without   lost with guard   saved    detected after   normal held up",
    )?;
    let usd = |pico: u64| pico as f64 / 1e12;
    let (mut lost, mut without) = (0, 0);
    for attack in attacks() {
        let span = (LEARNED, LEARNED + attack.lasts);
        let tally = play(&mut sim.clone(), rows, span, Some(&attack));
        lost += tally.lost;
        without += tally.without;
        let detected = tally
            .detected_ms
            .map_or_else(|| "never".to_owned(), |ms| format!("{:.0} s", ms as f64 / 1_000.0));
        say(&format!(
            "{:<16} {:>11.4} USD {:>13.4} USD {:>6.1} % {:>15} {:>10} of {}",
            attack.name,
            usd(tally.without),
            usd(tally.lost),
            100.0 - 100.0 * usd(tally.lost) / usd(tally.without),
            detected,
            tally.held_up,
            tally.normal
        ))?;
    }
    say(&format!(
        "all              {:>11.4} USD {:>13.4} USD {:>6.1} %",
        usd(without),
        usd(lost),
        100.0 - 100.0 * usd(lost) / usd(without)
    ))
}

fn play(sim: &mut Sim, rows: &[Row], (from, until): (u64, u64), attack: Option<&Attack>) -> Tally {
    let mut tally = Tally::default();
    let mut ends: BinaryHeap<Reverse<Ends>> = BinaryHeap::new();
    ends.extend(sim.running.drain(..).map(Reverse));
    let period = rows.last().map_or(HOUR, |row| row.at_ms + 1_000);
    let mut struck = 0;
    let (mut round, mut at) = (from / period, 0);
    loop {
        let Some(row) = rows.get(at) else {
            (round, at) = (round + 1, 0);
            continue;
        };
        at += 1;
        let now = round * period + row.at_ms;
        if now < from {
            continue;
        }
        if now >= until {
            break;
        }
        if let Some(attack) = attack {
            while from + struck * attack.every_ms <= now {
                strike(sim, rows, (attack, struck, from), &mut ends, &mut tally);
                struck += 1;
            }
        }
        let seed = mix(round * 1_000_003 + at as u64);
        if seed % 100 < awake(now) {
            normal(sim, row, (now, seed), &mut ends, &mut tally);
        }
    }
    sim.running = ends.into_iter().map(|Reverse(end)| end).collect();
    tally
}

/// How many of a hundred of the trace's requests come at this hour: a day has a night.
fn awake(now: u64) -> u64 {
    match now / HOUR % 24 {
        0..=5 => 25,
        6..=8 | 20..=23 => 55,
        _ => 90,
    }
}

fn who(key: u64) -> Vec<Subject> {
    let (user, team) = (format!("u{}", key / 2), format!("t{}", key / 8));
    subjects(&KeyId(format!("key_{key}").into()), Some(&user), Some(&team))
}

fn normal(
    sim: &mut Sim,
    row: &Row,
    (now, seed): (u64, u64),
    ends: &mut BinaryHeap<Reverse<Ends>>,
    tally: &mut Tally,
) {
    finish(sim, now, ends, tally);
    let key = key_of(seed, KEYS);
    let who = who(key);
    tally.normal += 1;
    let verdict = sim.watch.ask(&who, &asked(now, seed, row.input));
    alarms(&verdict.events, tally);
    let held = verdict.effect.filter(|effect| effect.effect != GuardEffect::Logged);
    let paid = match &held {
        None => true,
        Some(effect) => {
            let passes = effect.effect == GuardEffect::Throttled && !effect.turned_away;
            tally.held_up += u64::from(!passes);
            if effect.turned_away {
                return;
            }
            passes
        }
    };
    let cost = if paid { row.cost() } else { 0 };
    let (output, at_ms) = (row.output, now + row.takes_ms());
    ends.push(Reverse(Ends { at_ms, who, cost, output, model: 1, held: held.is_some() }));
}

fn strike(
    sim: &mut Sim,
    rows: &[Row],
    (attack, count, from): (&Attack, u64, u64),
    ends: &mut BinaryHeap<Reverse<Ends>>,
    tally: &mut Tally,
) {
    let now = from + count * attack.every_ms;
    finish(sim, now, ends, tally);
    let seed = mix(count ^ 0xabcd_ef01);
    let pick = usize::try_from(seed).unwrap_or(0) % rows.len();
    let (input, output) = attack.size.unwrap_or((rows[pick].input, rows[pick].output));
    let cost = (input * INPUT_PRICE + output * OUTPUT_PRICE) * attack.price;
    let who = match attack.new_keys {
        0 => who(STOLEN),
        keys => {
            let mut of_user = who(STOLEN);
            of_user[0] = format!("key_new_{}", count % keys).into();
            of_user
        }
    };
    tally.without += cost;
    let question = if attack.same_question { 1 } else { seed };
    let asked = Asked { model: attack.model, ..asked(now, question, input) };
    let verdict = sim.watch.ask(&who, &asked);
    let begun = verdict.events.iter().any(|event| event.effect != GuardEffect::Logged);
    if (begun || verdict.effect.is_some()) && tally.detected_ms.is_none() {
        tally.detected_ms = Some(now - from);
    }
    let paid = match &verdict.effect {
        Some(effect) if effect.turned_away => return,
        Some(effect) => !matches!(effect.effect, GuardEffect::LocalOnly | GuardEffect::Blocked),
        None => true,
    };
    let cost = if paid { cost } else { 0 };
    tally.lost += cost;
    let at_ms = now + 500 + output * 20;
    let (model, held) = (attack.model, verdict.effect.is_some());
    ends.push(Reverse(Ends { at_ms, who, cost, output, model, held }));
}

fn finish(sim: &mut Sim, now: u64, ends: &mut BinaryHeap<Reverse<Ends>>, tally: &mut Tally) {
    while ends.peek().is_some_and(|Reverse(end)| end.at_ms <= now) {
        let Some(Reverse(end)) = ends.pop() else { return };
        let Ends { at_ms: unix_ms, cost, output, model, held, .. } = end;
        let answer = Some(Answered { cost, output });
        let served = Served { unix_ms, cost, model: Some(model), answer, held };
        let events = sim.watch.served(&end.who, &served);
        alarms(&events, tally);
    }
}

/// Notes effects that begin, whoever they begin for: without an attack each is a false one.
fn alarms(events: &[gateway::guard::Event], tally: &mut Tally) {
    for event in events.iter().filter(|event| event.effect != GuardEffect::Logged) {
        tally.alarms.push(format!(
            "hour {}: {} {}: {}",
            event.unix_ms / HOUR,
            event.subject,
            event.signal.name(),
            event.seen
        ));
    }
}

fn asked(now: u64, question: u64, prompt_tokens: u64) -> Asked {
    let hour = u8::try_from(now / HOUR % 24).unwrap_or(0);
    Asked { unix_ms: now, question, model: 1, hour, session: None, prompt_tokens, left: None }
}
