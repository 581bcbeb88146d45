//! Every interleaving of a few requests at one budget and its refundable rate.
//!
//! What threads can do to each other here is decided by the order of their locked steps: one step of
//! the machine, or one event queued to the journal. All orders are walked through, each from the
//! beginning. The queue to the committer and its tickets have a model checker of their own:
//! `tests/modelled`.

use super::harness::{NOON, money, path, usd};
use crate::{
    caller::{KeyLimits, Window},
    ledger::{Amount, At, Holds, Machine, Scope, Ticket},
};

const AT: At = At { unix_ms: NOON, mono: std::time::Duration::from_secs(1) };
/// Of the one budget, in cents, and tokens a minute.
const LIMIT: u64 = 100;

/// What happened, in the order of the journal. Amounts are cents.
#[derive(Clone, Copy, Debug)]
enum Event {
    Reserved(u64),
    Ended { held: u64, charge: u64 },
}

#[derive(Debug)]
struct World {
    machine: Machine,
    journal: Vec<Event>,
    actors: Vec<Actor>,
}

/// A request: what it holds at worst, what it comes to, and how it takes being short.
#[derive(Clone, Copy, Debug)]
struct Plan {
    worst: u64,
    used: u64,
    short: OnShort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnShort {
    GivesUp,
    Waits,
    /// Waits, and leaves the line at any moment.
    WaitsOrLeaves,
}

#[derive(Debug)]
struct Actor {
    plan: Plan,
    state: State,
}

#[derive(Debug)]
enum State {
    Begins,
    Waits(Ticket),
    /// Holds it; its reservation is not queued yet.
    Held(Holds),
    /// Its reservation is queued.
    Runs(Holds),
    /// Its end is queued; it still holds.
    Ended(Holds),
    Settled,
    Refused,
}

impl Plan {
    fn new((worst, used): (u64, u64), short: OnShort) -> Self {
        Self { worst, used, short }
    }
}

fn cents(cents: u64) -> Amount {
    Amount { money: usd("0.01").times(cents).unwrap(), tokens: cents, requests: 1 }
}

fn world(plans: &[Plan]) -> World {
    let mut machine = Machine::new(&jiff::tz::TimeZone::UTC);
    let limits = KeyLimits { tokens_per_minute: Some(LIMIT), ..KeyLimits::default() };
    machine.set(&Scope::Global, &limits, (&[money(Window::Total, "1")], &[]), AT);
    let actors = plans.iter().map(|plan| Actor { plan: *plan, state: State::Begins });
    World { machine, journal: Vec::new(), actors: actors.collect() }
}

impl World {
    /// Whether an actor has a step to take now.
    fn may_step(&mut self, at: usize) -> bool {
        let Actor { plan, state } = &mut self.actors[at];
        match state {
            State::Settled | State::Refused => false,
            State::Waits(ticket) if plan.short == OnShort::Waits => {
                !ticket.woken.is_empty() || ticket.woken.is_terminated()
            }
            _ => true,
        }
    }

    /// One locked step, in the order of [`crate::ledger::OpenEntry`]: held, then queued; queued,
    /// then given back.
    fn step(&mut self, at: usize) {
        let Self { machine, journal, actors } = self;
        let Actor { plan: Plan { worst, used, short }, state } = &mut actors[at];
        let (need, charge) = (cents(*worst), cents(*used));
        *state = match std::mem::replace(state, State::Refused) {
            State::Begins if *short == OnShort::GivesUp => {
                machine.reserve(&path("key_a"), need, AT).map_or(State::Refused, State::Held)
            }
            State::Begins => match machine.reserve_or_wait(&path("key_a"), need, AT) {
                Ok(Ok(holds)) => State::Held(holds),
                Ok(Err(ticket)) => State::Waits(ticket),
                Err(_) => State::Refused,
            },
            State::Waits(ticket) => {
                machine.leave(ticket.place, AT).map_or(State::Refused, State::Held)
            }
            State::Held(holds) => {
                journal.push(Event::Reserved(*worst));
                State::Runs(holds)
            }
            State::Runs(holds) => {
                journal.push(Event::Ended { held: *worst, charge: *used });
                State::Ended(holds)
            }
            State::Ended(holds) => {
                machine.settle(&holds, need, charge, AT);
                State::Settled
            }
            over @ (State::Settled | State::Refused) => over,
        };
        let side = machine.states(AT, |_| true, |_| Vec::new()).remove(0).money.unwrap();
        assert!(side.spent.pico() + side.reserved.pico() <= side.limit.pico());
    }

    /// Nobody has a step left: everyone is served or refused, nothing is held, and whatever part of
    /// the journal a crash leaves, no start after it finds the budget overspent.
    fn judge(mut self) -> Tally {
        let settled = self.actors.iter().filter(|actor| matches!(actor.state, State::Settled));
        let (admitted, spent) =
            settled.fold((0, 0), |(count, sum), actor| (count + 1, sum + actor.plan.used));
        for actor in &self.actors {
            assert!(matches!(actor.state, State::Settled | State::Refused), "{actor:?} waits on");
        }
        let (mut held, mut charged) = (0, 0);
        for event in &self.journal {
            match event {
                Event::Reserved(worst) => held += worst,
                Event::Ended { held: of, charge } => {
                    held -= of;
                    charged += charge;
                }
            }
            assert!(held + charged <= LIMIT, "a crash here leaves {held} + {charged}");
        }
        let side = self.machine.states(AT, |_| true, |_| Vec::new()).remove(0).money.unwrap();
        let expected = (usd("0.01").times(spent).unwrap().into(), 0);
        assert_eq!((side.spent, side.reserved.pico()), expected);
        assert_eq!(charged, spent, "every reservation ended once");
        let left = self.machine.token_rate(&path("key_a"), AT).unwrap().remaining;
        assert_eq!(left, LIMIT - spent, "what was not used is given back, and once");
        Tally { orders: 1, requests: self.actors.len() as u64, admitted }
    }
}

/// What all orders came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    orders: u64,
    requests: u64,
    admitted: u64,
}

/// Walks through every order that begins with `taken`.
fn orders(plans: &[Plan], taken: &mut Vec<usize>, all: &mut Tally) {
    let mut world = world(plans);
    taken.iter().for_each(|at| world.step(*at));
    let next: Vec<usize> = (0..plans.len()).filter(|at| world.may_step(*at)).collect();
    if next.is_empty() {
        let one = world.judge();
        all.orders += one.orders;
        all.requests += one.requests;
        all.admitted += one.admitted;
        return;
    }
    for at in next {
        taken.push(at);
        orders(plans, taken, all);
        taken.pop();
    }
}

/// Every order that goes on after `begun`.
fn every_order(plans: &[Plan], begun: &[usize]) -> Tally {
    let mut all = Tally::default();
    orders(plans, &mut begun.to_vec(), &mut all);
    println!(
        "{} orders: {} requests, {} acknowledged, 0 lost, 0 pico-USD overspent",
        all.orders, all.requests, all.admitted
    );
    all
}

#[test]
fn in_no_order_is_a_budget_or_a_rate_overspent_at_any_point_of_the_journal() {
    // Any two of them want more than there is; each uses less than it holds.
    let plans = [(60, 20), (60, 30), (50, 50)].map(|plan| Plan::new(plan, OnShort::GivesUp));
    let all = every_order(&plans, &[]);
    // In some orders all are served one after the other, in some only one is.
    assert!(all.orders > 50 && all.admitted > all.orders && all.admitted < all.requests);
}

#[test]
fn in_no_order_does_one_who_waits_lose_its_place_or_get_it_twice() {
    let running = Plan::new((90, 10), OnShort::GivesUp);
    for leaves in [OnShort::Waits, OnShort::WaitsOrLeaves] {
        let one = Plan::new((40, 35), OnShort::Waits);
        let other = Plan::new((40, 35), leaves);
        // One runs already: the others fit once it has given back what it did not use.
        let all = every_order(&[running, one, other], &[0, 0]);
        assert!(all.orders > 100);
        // Whoever stays is served, in every order.
        let served = if leaves == OnShort::Waits { 3 } else { 2 };
        assert!(all.admitted >= served * all.orders);
        assert_eq!(all.admitted == 3 * all.orders, leaves == OnShort::Waits);
    }
}
