//! Agents that always send a large `max_tokens`, on budgets that are just enough.
//!
//! Invariant: a request is affordable when its true cost and those of all that run fit into what is
//! not spent yet; refusing such a one is a false refusal.

use super::trace::{INPUT_PRICE, OUTPUT_PRICE, Row, key_of};
use crate::say;
use gateway::{
    caller::{BudgetSpec, KeyLimits, Window},
    execute::Clamp,
    ledger::{At, BudgetPath, Holds, KeyId, Machine, Need, Payer, Scope, Short},
    routes::live::Live,
};
use policies::PicoUsd;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

/// What every agent sends, whatever it needs.
const MAX_TOKENS: u64 = 16_384;
/// How often a cap is lowered when others take the money in between.
const CLAMPS_MAX: usize = 4;
/// The smallest answer that a clamp leaves.
const MIN_OUTPUT: u64 = 256;
const KEYS: u64 = 24;
/// Longest wait for what running requests give back.
const WAIT_MS: u64 = 10_000;
/// 1 June 2026, 00:00 UTC.
const START: u64 = 1_780_272_000_000;

/// What a request may do that is short of money.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    waits: bool,
    clamps: bool,
}

#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    answered: u64,
    truncated: u64,
    waited: u64,
    refused: u64,
    falsely: u64,
    overspent: u128,
}

/// A request that has its money.
#[derive(Debug)]
struct Running {
    key: usize,
    holds: Holds,
    need: Need,
    cost: u64,
    output: u64,
}

#[derive(Debug)]
struct Waiter {
    since_ms: u64,
    key: usize,
    row: Row,
    need: Need,
    cap: u64,
    ticket: gateway::ledger::Ticket,
}

struct Sim {
    machine: Machine,
    paths: Vec<BudgetPath>,
    limits: Vec<u64>,
    /// True costs: settled, and of those that run.
    spent: Vec<u64>,
    to_come: Vec<u64>,
    running: BinaryHeap<(Reverse<u64>, usize)>,
    slots: Vec<Option<Running>>,
    line: VecDeque<Waiter>,
    /// The route that all of them ask.
    live: Live,
    mode: Mode,
    tally: Tally,
}

/// Prints what each mode refuses.
pub(super) fn run(rows: &[Row]) -> Result<(), String> {
    let mut needed = vec![0_u64; usize::try_from(KEYS).unwrap_or(0)];
    for (at, row) in rows.iter().enumerate() {
        needed[key(at)] += row.cost();
    }
    say(&format!(
        "{} requests of the trace by {KEYS} keys; each asks for {MAX_TOKENS} tokens",
        rows.len()
    ))?;
    for percent in [90, 100, 110] {
        say(&format!("each key's budget is {percent} % of what its requests cost:"))?;
        let limits: Vec<u64> = needed.iter().map(|cost| cost / 100 * percent).collect();
        bound(rows, &limits)?;
        for mode in MODES {
            report(mode, &play(rows, limits.clone(), mode))?;
        }
    }
    Ok(())
}

/// How many must be refused if no answer is cut, whoever decides: an uncut request may cost its
/// whole cap, so none begins once less than that is left, and what the last one does not use stays
/// unspent. The fewest that cost so much are counted, which nobody can know beforehand.
fn bound(rows: &[Row], limits: &[u64]) -> Result<(), String> {
    let cap = MAX_TOKENS * OUTPUT_PRICE;
    let mut costs = vec![Vec::new(); limits.len()];
    for (at, row) in rows.iter().enumerate() {
        costs[key(at)].push(row.cost());
    }
    let fewest = |mut costs: Vec<u64>, limit: u64| {
        costs.sort_unstable_by_key(|cost| Reverse(*cost));
        let last = costs.first().copied().unwrap_or(0);
        let most = limit.saturating_sub(cap).saturating_add(last);
        let mut over = costs.iter().sum::<u64>().saturating_sub(most);
        let mut of = |cost: &&u64| {
            let needed = over > 0;
            over = over.saturating_sub(**cost);
            needed
        };
        costs.iter().take_while(&mut of).count()
    };
    let refused: usize =
        costs.into_iter().zip(limits).map(|(costs, limit)| fewest(costs, *limit)).sum();
    say(&format!(
        "where no answer is cut, at least {refused} must be refused ({:.2} %)",
        100.0 * refused as f64 / rows.len() as f64
    ))
}

const MODES: [Mode; 4] = [
    Mode { name: "refuse at once", waits: false, clamps: false },
    Mode { name: "wait", waits: true, clamps: false },
    Mode { name: "clamp", waits: false, clamps: true },
    Mode { name: "wait and clamp", waits: true, clamps: true },
];

fn report(mode: Mode, tally: &Tally) -> Result<(), String> {
    say(&format!(
        "{:<16} requests {} acknowledged {} (cut short {}, waited {}) refused {} of which \
         affordable {} ({:.2} %) overspent {} pico-USD",
        mode.name,
        tally.requests,
        tally.answered,
        tally.truncated,
        tally.waited,
        tally.refused,
        tally.falsely,
        100.0 * tally.falsely as f64 / tally.requests as f64,
        tally.overspent
    ))?;
    if tally.overspent > 0 {
        return Err(format!("{}: budgets were overspent", mode.name));
    }
    Ok(())
}

fn key(at: usize) -> usize {
    usize::try_from(key_of(at as u64, KEYS)).unwrap_or(0)
}

fn play(rows: &[Row], limits: Vec<u64>, mode: Mode) -> Tally {
    let mut sim = Sim::new(limits, mode);
    for (at, row) in rows.iter().enumerate() {
        sim.until(row.at_ms);
        sim.arrive((row.at_ms, key(at), *row));
    }
    sim.until(u64::MAX);
    sim.tally.overspent = sim
        .spent
        .iter()
        .zip(&sim.limits)
        .map(|(spent, limit)| u128::from(spent.saturating_sub(*limit)))
        .sum();
    sim.tally
}

fn at(ms: u64) -> At {
    At { unix_ms: START + ms, mono: Duration::from_millis(ms) }
}

fn need(input: u64, cap: u64) -> Need {
    let money = PicoUsd::from_pico(input * INPUT_PRICE + cap * OUTPUT_PRICE);
    Need { money, tokens: input + cap, requests: 1 }
}

impl Sim {
    fn new(limits: Vec<u64>, mode: Mode) -> Self {
        let mut machine = Machine::new(&jiff::tz::TimeZone::UTC);
        let mut paths = Vec::new();
        for (number, limit) in limits.iter().enumerate() {
            let id = KeyId(format!("key_{number}").into());
            let budget = BudgetSpec {
                window: Window::Day,
                money: Some(PicoUsd::from_pico(*limit)),
                tokens: None,
                hard: true,
                requests: None,
                zone: None,
                turn: None,
            };
            let scope = Scope::Key(id.clone());
            machine.set(&scope, &KeyLimits::default(), (&[budget], &[]), at(0));
            paths.push(BudgetPath::of(&Payer {
                key: &id,
                team: None,
                user: None,
                session: None,
                tags: &[],
                model: None,
            }));
        }
        let zeros = vec![0; limits.len()];
        Self {
            machine,
            paths,
            limits,
            spent: zeros.clone(),
            to_come: zeros,
            running: BinaryHeap::new(),
            slots: Vec::new(),
            line: VecDeque::new(),
            live: Live::new(),
            mode,
            tally: Tally::default(),
        }
    }

    /// As the walk of a plan does: clamp first, wait last.
    fn arrive(&mut self, asked: Asked) {
        self.tally.requests += 1;
        let (now_ms, key, row) = asked;
        let mut cap = MAX_TOKENS;
        for _ in 0..CLAMPS_MAX {
            let need = need(row.input, cap);
            match self.machine.reserve(&self.paths[key], need, at(now_ms)) {
                Ok(holds) => return self.start(asked, (holds, need, cap)),
                Err(short) => match self.clamped(&short, &row, cap, false) {
                    Some(smaller) => cap = smaller,
                    None => break,
                },
            }
        }
        if self.mode.waits { self.line_up(asked, now_ms) } else { self.refuse(key, &row) }
    }

    /// One that waits since `since_ms` stands in line, with what it will get.
    fn line_up(&mut self, asked: Asked, since_ms: u64) {
        let (now_ms, key, row) = asked;
        let mut cap = MAX_TOKENS;
        for round in 0..CLAMPS_MAX {
            let need = need(row.input, cap);
            let path = &self.paths[key];
            let answer = if round == 0 && self.mode.clamps {
                self.machine.reserve(path, need, at(now_ms)).map(Ok)
            } else {
                self.machine.reserve_or_wait(path, need, at(now_ms))
            };
            match answer {
                Ok(Ok(holds)) => return self.start(asked, (holds, need, cap)),
                Ok(Err(ticket)) => {
                    return self.line.push_back(Waiter { since_ms, key, row, need, cap, ticket });
                }
                Err(short) => match self.clamped(&short, &row, cap, true) {
                    Some(smaller) => cap = smaller,
                    None if round == 0 && self.mode.clamps => {}
                    None => break,
                },
            }
        }
        self.refuse(key, &row);
    }

    /// The cap to ask for instead; of one that waits: once everything has settled.
    fn clamped(&self, short: &Short, row: &Row, cap: u64, waits: bool) -> Option<u64> {
        let Short::Budget { left, left_at_most, ahead, .. } = short else { return None };
        if !self.mode.clamps || (*ahead > 0 && !waits) {
            return None;
        }
        let left = if waits { left_at_most } else { left };
        let clamp = Clamp {
            least: MIN_OUTPUT,
            longest: self.live.output_tokens_max(),
            may_wait: self.mode.waits && !waits && left < left_at_most,
        };
        clamp.cap(cap, |cap| row.input * INPUT_PRICE + cap * OUTPUT_PRICE <= *left)
    }

    fn refuse(&mut self, key: usize, row: &Row) {
        self.tally.refused += 1;
        let left = self.limits[key].saturating_sub(self.spent[key] + self.to_come[key]);
        self.tally.falsely += u64::from(row.cost() <= left);
    }

    fn start(&mut self, (now_ms, key, row): Asked, (holds, need, cap): (Holds, Need, u64)) {
        let served = Row { output: row.output.min(cap), ..row };
        self.tally.answered += 1;
        self.tally.truncated += u64::from(served.output < row.output);
        self.to_come[key] += served.cost();
        let (cost, output) = (served.cost(), served.output);
        self.slots.push(Some(Running { key, holds, need, cost, output }));
        self.running.push((Reverse(now_ms + served.takes_ms()), self.slots.len() - 1));
    }

    /// Ends what ends before `ms`, and serves those who wait.
    fn until(&mut self, ms: u64) {
        loop {
            let ends = self.running.peek().map_or(u64::MAX, |(Reverse(ends), _)| *ends);
            let leaves =
                self.line.front().map_or(u64::MAX, |first| first.since_ms.saturating_add(WAIT_MS));
            let next = ends.min(leaves);
            if next > ms || next == u64::MAX {
                return;
            }
            if ends <= leaves
                && let Some((_, slot)) = self.running.pop()
                && let Some(done) = self.slots[slot].take()
            {
                self.spent[done.key] += done.cost;
                self.to_come[done.key] -= done.cost;
                let charge = Need { money: PicoUsd::from_pico(done.cost), ..done.need };
                self.machine.settle(&done.holds, done.need, charge, at(next));
                self.live.answered(None, Some(done.output));
            }
            self.serve(next);
        }
    }

    fn serve(&mut self, now_ms: u64) {
        for _ in 0..self.line.len() {
            let Some(mut waiter) = self.line.pop_front() else { return };
            let late = waiter.since_ms + WAIT_MS <= now_ms;
            if waiter.ticket.woken.try_recv().is_err() && !late {
                self.line.push_back(waiter);
                continue;
            }
            match self.machine.leave(waiter.ticket.place, at(now_ms)) {
                Ok(holds) => {
                    self.tally.waited += 1;
                    let Waiter { key, row, need, cap, .. } = waiter;
                    self.start((now_ms, key, row), (holds, need, cap));
                }
                Err(short) => self.again(&waiter, &short, now_ms, late),
            }
        }
    }

    /// What it waited for was spent, or it waited long enough: what there is must do then.
    fn again(&mut self, waiter: &Waiter, short: &Short, now_ms: u64, late: bool) {
        let &Waiter { key, row, cap, since_ms, .. } = waiter;
        if !late {
            return self.line_up((now_ms, key, row), since_ms);
        }
        if let Short::Budget { ahead: 0, left, .. } = short
            && self.mode.clamps
            && let Some(cap) = (Clamp { least: MIN_OUTPUT, longest: None, may_wait: false })
                .cap(cap, |cap| row.input * INPUT_PRICE + cap * OUTPUT_PRICE <= *left)
        {
            let need = need(row.input, cap);
            if let Ok(holds) = self.machine.reserve(&self.paths[key], need, at(now_ms)) {
                self.tally.waited += 1;
                return self.start((now_ms, key, row), (holds, need, cap));
            }
        }
        self.refuse(key, &row);
    }
}

/// A request: when, by whom, what.
type Asked = (u64, usize, Row);
