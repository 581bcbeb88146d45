//! A policy tried out on the past: exact where the past tells, estimated and said so where it does not.

use super::harness::{House, ask, complete, done, facts, free, head, usd, used};
use crate::ledger::{
    Adjustment, Ask, AttemptOutcome, Books, DecisionRecord, Ending, Entry, Filter, Outcome, Place,
    Replay, ReplayReport, RequestId, Role, replay::spread,
};
use policies::{
    ComputePrice, NotReplayable, Policy, PriceId, RouteFacts, RouteId, RoutePrice, RouteState,
    TokenPrice, Usage,
};
use std::{collections::BTreeMap, sync::Arc};

fn route(name: &str, local: bool) -> RouteFacts {
    let (worst_case, expected) = (Some(usd("1")), Some(usd("0.1")));
    RouteFacts { worst_case, expected, ..RouteFacts::ready(name, local) }
}

/// The facts of a request that could go to any of three routes.
fn known() -> policies::Facts {
    let routes = vec![route("edge", true), route("cloud", false), route("abroad", false)];
    policies::Facts { routes, ..facts() }
}

fn unanswered() -> Ending {
    Ending {
        outcome: Outcome::Failed,
        status: Some(502),
        answered_by: None,
        ttft_us: None,
        tpot_ns: None,
    }
}

/// An attempt of a request: on which route, how it ended, and what it used.
type Attempt = (&'static str, AttemptOutcome, Option<Usage>);

/// Writes a request that went this way; the last attempt answered where it completed.
fn went(books: &Books, change: impl FnOnce(&mut policies::Facts), way: &[Attempt]) -> RequestId {
    went_as(books, |decision| change(&mut decision.facts), way)
}

/// The same of a request that was decided otherwise than to ask the cloud alone.
fn went_as(books: &Books, change: impl FnOnce(&mut DecisionRecord), way: &[Attempt]) -> RequestId {
    let mut head = head(books, "key_a");
    head.decision.facts = known();
    change(&mut head.decision);
    let id = head.id;
    let mut entry = books.open_entry(head).unwrap();
    let mut answered = None;
    for (name, outcome, usage) in way {
        let paid = Ask { route: RouteId::new(name), role: Role::Primary, ..ask("1", 50) };
        let asked = if *name == "edge" { free(50) } else { paid };
        let (index, ticket) = entry.reserve(asked).unwrap();
        ticket.blocking().unwrap();
        if let (AttemptOutcome::Completed, Some(usage)) = (outcome, usage) {
            complete(&mut entry, index, *usage);
            entry.attempt(index).times.engine_ns = (*name == "edge").then_some(3_000_000_000);
            answered = Some(index);
        } else {
            entry.attempt(index).times.head_us = 700;
            entry.end_attempt(index, *outcome, true);
        }
    }
    let ending = match answered {
        Some(index) => done(index),
        None => unanswered(),
    };
    entry.finish(ending).blocking().unwrap();
    id
}

fn answered(route: &'static str, usage: Usage) -> Attempt {
    (route, AttemptOutcome::Completed, Some(usage))
}

const BROKE: AttemptOutcome = AttemptOutcome::ErrorStatus;

/// 0.3 cents for a token of input and one cent for one of output, abroad; 3,600 USD an hour at the edge.
fn price(_: &Entry, route: &RouteId) -> Option<RoutePrice> {
    match route.as_str() {
        "abroad" | "late" => {
            let mut price = super::harness::token_price();
            price.standard.base.input = usd("0.003");
            price.standard.base.output = usd("0.01");
            Some(RoutePrice::Tokens(Arc::new(TokenPrice {
                id: PriceId(Arc::from("abroad")),
                ..price
            })))
        }
        "edge" => Some(RoutePrice::Compute(Arc::new(ComputePrice::from_usd_per_hour(usd("3600"))))),
        "cloud" => Some(RoutePrice::Unknown),
        _ => None,
    }
}

fn replayed(books: &Books, rules: &str) -> ReplayReport {
    replayed_with(books, rules, &|_, _| Vec::new())
}

fn replayed_with(
    books: &Books,
    rules: &str,
    assumed: &dyn Fn(&Entry, Option<u64>) -> Vec<RouteFacts>,
) -> ReplayReport {
    let policy = Policy::parse("tried", rules).unwrap();
    let asked = Replay { filter: &Filter::default(), policy: &policy, price: &price, assumed };
    books.reader().replay(&asked).unwrap()
}

fn all_to(routes: &str) -> String {
    format!("[[choose]]\nname = \"new\"\nroutes = [{routes}]\n")
}

#[test]
fn a_policy_that_decides_as_before_changes_nothing_to_the_last_digit() {
    let house = House::new();
    let books = house.open();
    for output in 0..50 {
        went(&books, |_| {}, &[answered("cloud", used(3, output))]);
    }
    let report = replayed(&books, &all_to("\"cloud\", \"edge\""));
    assert_eq!((report.requests, report.unchanged, report.moved, report.refused), (50, 50, 0, 0));
    assert_eq!(report.costs.before, report.costs.after);
    assert_eq!(report.costs.compared.0, report.costs.compared.1);
    assert_eq!(
        report.costs.after.known.pico(),
        books.summary(&Default::default()).unwrap().total.cost_usd.pico()
    );
    assert_eq!(report.before, report.after, "it took as long");
    assert!(report.moves.is_empty());
}

#[test]
fn what_goes_elsewhere_is_priced_there_by_the_tokens_of_its_answer() {
    let house = House::new();
    let books = house.open();
    let usage = Usage { input: 100, cache_read: 50, output: 20, ..Usage::default() };
    let id = went(&books, |_| {}, &[answered("cloud", usage)]);
    let report = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((report.moved, report.unchanged), (1, 0));
    let cost = report.costs.after;
    // 150 tokens are read anew: there is no cache abroad.
    assert_eq!(cost.known, usd("0.65").into());
    assert_eq!((cost.estimated, cost.unknown), (1, 0));
    let (way, moved) = report.moves.first_key_value().unwrap();
    assert_eq!(way.from, Some(RouteId::new("cloud")));
    assert_eq!(way.to, Some(RouteId::new("abroad")));
    assert_eq!((&*way.rule_before.0, &*way.rule.as_ref().unwrap().0), ("default", "new"));
    assert_eq!(moved.examples, [id]);
    assert_eq!(moved.costs.after, cost);
    // Nobody was seen abroad.
    assert_eq!((report.after.ttft.p50_us, report.after.ttft.unknown), (None, 1));
    assert_eq!(report.before.ttft.p50_us, Some(1_000));
}

#[test]
fn engine_time_is_that_of_what_the_engine_did_and_unknown_where_it_did_nothing() {
    let house = House::new();
    let books = house.open();
    went(&books, |_| {}, &[answered("cloud", used(20, 5))]);
    let unseen = replayed(&books, &all_to("\"edge\""));
    assert_eq!((unseen.costs.after.unknown, unseen.costs.after.estimated), (1, 0));
    assert_eq!(unseen.costs.after.known.pico(), 0);
    assert_eq!(unseen.costs.compared.0.pico(), 0, "what cannot be compared is not");

    // Three seconds for 10 tokens of input and 10 of output: 0.1 s for one of input, 0.2 s for another.
    went(&books, |_| {}, &[answered("edge", used(10, 10))]);
    let report = replayed(&books, &all_to("\"edge\""));
    assert_eq!((report.moved, report.unchanged), (1, 1));
    assert_eq!(report.costs.after.known, usd("3").into());
    assert_eq!(report.after.ttft.p50_us, Some(1_000), "as long as the edge took");
    assert_eq!(report.after.ttft.unknown, 0);
}

#[test]
fn an_unknown_price_is_unknown_and_so_is_a_route_that_is_no_more() {
    let house = House::new();
    let books = house.open();
    went(&books, |_| {}, &[answered("abroad", used(10, 10))]);
    let gone = |facts: &mut policies::Facts| facts.routes.push(route("gone", false));
    went(&books, gone, &[answered("abroad", used(10, 10))]);
    let report = replayed(&books, &all_to("\"cloud\""));
    assert_eq!((report.moved, report.costs.after.unknown), (2, 2));
    assert_eq!(report.costs.after.known.pico(), 0);
    let report = replayed(&books, &all_to("\"gone\""));
    assert_eq!((report.moved, report.costs.after.unknown), (1, 1));
    let (why, times) = report.not_replayable.iter().next().unwrap();
    assert_eq!((why, *times), (&NotReplayable::Route(RouteId::new("gone")), 1));
    assert_eq!(why.to_string(), "the route `gone` was not configured then");
    assert_eq!((report.requests, report.costs.before.unknown), (2, 0));
}

#[test]
fn a_route_that_was_not_there_is_taken_to_have_been_only_where_that_is_asked_for() {
    let house = House::new();
    let books = house.open();
    went(&books, |_| {}, &[answered("cloud", used(100, 20))]);
    went(&books, |_| {}, &[("cloud", BROKE, None)]);
    let there = |facts: &mut policies::Facts| {
        let down = RouteFacts { state: RouteState::Unavailable, ..route("late", false) };
        facts.routes.push(down);
    };
    went(&books, there, &[answered("cloud", used(10, 10))]);
    let rules = all_to("\"late\", \"cloud\"");
    let without = replayed(&books, &rules);
    assert_eq!((without.not_replayable.values().sum::<u64>(), without.moved), (2, 0));
    assert!(without.assumed.is_empty());

    let usual = std::cell::Cell::new(None);
    let assumed = |_: &Entry, usual_output| {
        usual.set(usual_output);
        vec![route("late", false), route("edge", true)]
    };
    let report = replayed_with(&books, &rules, &assumed);
    assert_eq!(usual.get(), Some(15), "tokens of an answer, of those that there were");
    assert!(report.not_replayable.is_empty());
    // What is known of it holds: it was down, and the third stays where it was.
    assert_eq!((report.moved, report.unchanged), (2, 1));
    assert_eq!(report.assumed, BTreeMap::from([(RouteId::new("late"), 2)]));
    // The first costs 0.5 USD there, the third what it did: 0.3.
    assert_eq!(report.costs.after.known, usd("0.8").into());
    assert_eq!((report.costs.after.estimated, report.costs.after.unknown), (1, 1));
}

#[test]
fn faults_of_then_are_paid_and_waited_for_only_where_they_are_met() {
    let house = House::new();
    let books = house.open();
    let way = [("cloud", BROKE, None), answered("abroad", used(10, 10))];
    went(&books, |_| {}, &way);
    let spared = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((spared.unchanged, spared.moved), (1, 0));
    assert_eq!(spared.costs.after, spared.costs.before, "the fault was free");
    assert_eq!(spared.after.ttft.p50_us, Some(300), "700 us less");
    let lost = replayed(&books, &all_to("\"cloud\""));
    assert_eq!((lost.failed, lost.unchanged, lost.moved, lost.refused), (1, 0, 0, 0));
    let (way, _) = lost.moves.first_key_value().unwrap();
    assert_eq!((way.to.as_ref(), way.failed), (Some(&RouteId::new("cloud")), true));
    assert_eq!((lost.after.total.p50_us, lost.after.total.unknown), (None, 0), "no answer's time");
    went(&books, |_| {}, &[answered("edge", used(10, 10))]);
    let met = replayed(&books, &all_to("\"cloud\", \"edge\""));
    assert_eq!(
        (met.moved, met.after.total.unknown),
        (2, 2),
        "a fault first; and no cloud was seen"
    );
}

#[test]
fn who_failed_then_and_fails_again_is_as_it_was() {
    let house = House::new();
    let books = house.open();
    went(&books, |_| {}, &[("cloud", BROKE, None), ("abroad", BROKE, None)]);
    for plan in ["\"cloud\"", "\"abroad\"", "\"cloud\", \"abroad\""] {
        let again = replayed(&books, &all_to(plan));
        assert_eq!((again.unchanged, again.failed, again.moved), (1, 0, 0), "{plan}");
    }
}

#[test]
fn who_was_passed_over_then_is_passed_over_again_and_costs_nothing() {
    let house = House::new();
    let books = house.open();
    let planned = |decision: &mut DecisionRecord| {
        decision.plan = ["abroad", "cloud", "edge"].map(RouteId::new).to_vec();
    };
    // The money was short for the dear one, and once for both.
    went_as(&books, planned, &[answered("cloud", used(10, 10))]);
    went_as(&books, planned, &[answered("edge", used(10, 10))]);
    went_as(&books, planned, &[("cloud", BROKE, None)]);
    let again = replayed(&books, &all_to("\"abroad\", \"cloud\", \"edge\""));
    assert_eq!((again.unchanged, again.moved, again.refused), (3, 0, 0));
    assert_eq!(again.costs.after, again.costs.before);
    assert_eq!(again.after, again.before);
    let alone = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((alone.unchanged, alone.moved, alone.refused), (0, 0, 3), "nobody can be asked");
    assert_eq!(alone.costs.after.known.pico(), 0);
    let other = replayed(&books, &all_to("\"cloud\", \"edge\""));
    assert_eq!((other.unchanged, other.moved), (3, 0), "behind the fault nobody was asked");
}

#[test]
fn a_race_that_is_run_again_costs_both() {
    let house = House::new();
    let books = house.open();
    let mut head = head(&books, "key_a");
    head.decision.facts = known();
    head.decision.plan = ["cloud", "abroad"].map(RouteId::new).to_vec();
    let mut entry = books.open_entry(head).unwrap();
    let [first, second] = ["cloud", "abroad"].map(|route| {
        let asked = Ask { route: RouteId::new(route), ..ask("1", 50) };
        let (index, ticket) = entry.reserve(asked).unwrap();
        ticket.blocking().unwrap();
        index
    });
    entry.attempt(second).hedge_winner = Some(false);
    entry.attempt(second).usage = Some(used(10, 1));
    entry.end_attempt(second, AttemptOutcome::Cancelled, false);
    entry.attempt(first).hedge_winner = Some(true);
    complete(&mut entry, first, used(10, 10));
    entry.finish(done(first)).blocking().unwrap();
    let rules = "[[choose]]\nname = \"new\"\nhedge = [\"cloud\", \"abroad\"]\n";
    let report = replayed(&books, rules);
    assert_eq!((report.unchanged, report.moved), (1, 0));
    assert_eq!(report.costs.after, report.costs.before);
    assert_eq!(report.after, report.before);
}

#[test]
fn who_left_before_the_answer_leaves_again() {
    let house = House::new();
    let books = house.open();
    let left = |way: &[Attempt]| {
        let mut head = head(&books, "key_a");
        head.decision.facts = known();
        let mut entry = books.open_entry(head).unwrap();
        for (name, outcome, _) in way {
            let asked = Ask { route: RouteId::new(name), ..ask("1", 50) };
            let (index, ticket) = entry.reserve(asked).unwrap();
            ticket.blocking().unwrap();
            if *outcome == AttemptOutcome::Cancelled {
                entry.attempt(index).usage = Some(used(10, 0));
            }
            entry.end_attempt(index, *outcome, *outcome == BROKE);
        }
        let gone = Ending { outcome: Outcome::ClientGone, status: None, ..unanswered() };
        entry.finish(gone).blocking().unwrap();
    };
    left(&[("cloud", AttemptOutcome::Cancelled, None)]);
    left(&[("abroad", BROKE, None), ("cloud", AttemptOutcome::Cancelled, None)]);
    let report = replayed(&books, &all_to("\"abroad\", \"cloud\""));
    assert_eq!((report.moved, report.unchanged), (1, 1), "only one was abroad");
    assert_eq!((report.costs.after.unknown, report.costs.after.estimated), (1, 0));
    // The fault is met before anybody leaves.
    let report = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((report.moved, report.failed, report.unchanged), (1, 1, 0));
    // Nobody is there any more for whom another route could be asked.
    let report = replayed(&books, &all_to("\"cloud\", \"edge\""));
    assert_eq!((report.moved, report.unchanged), (0, 2));
    assert_eq!(report.costs.before, report.costs.after);
    assert_eq!(report.costs.after.known, usd("0.2").into());
}

#[test]
fn a_race_that_was_lost_tells_nothing_of_who_lost_it() {
    a_lost_race(AttemptOutcome::Cancelled, false);
    // It was still connecting.
    a_lost_race(AttemptOutcome::NotSent, true);
}

fn a_lost_race(lost: AttemptOutcome, void: bool) {
    let house = House::new();
    let books = house.open();
    let mut head = head(&books, "key_a");
    head.decision.facts = known();
    let mut entry = books.open_entry(head).unwrap();
    let (slow, _ticket) =
        entry.reserve(Ask { route: RouteId::new("cloud"), ..ask("1", 50) }).unwrap();
    let (quick, ticket) =
        entry.reserve(Ask { route: RouteId::new("abroad"), ..ask("1", 50) }).unwrap();
    ticket.blocking().unwrap();
    entry.attempt(slow).hedge_winner = Some(false);
    entry.attempt(slow).usage = Some(used(10, 1));
    entry.attempt(slow).times.head_us = 700;
    entry.end_attempt(slow, lost, void);
    entry.attempt(quick).hedge_winner = Some(true);
    complete(&mut entry, quick, used(10, 10));
    entry.finish(done(quick)).blocking().unwrap();
    let alone = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((alone.unchanged, alone.costs.after.known), (1, usd("0.3").into()));
    assert_eq!(alone.after.ttft.p50_us, Some(1_000), "it ran beside");
    let slow = replayed(&books, &all_to("\"cloud\""));
    assert_eq!((slow.moved, slow.costs.after.unknown), (1, 1), "its price is not known");
}

#[test]
fn what_failed_everywhere_has_no_answer_to_price() {
    let house = House::new();
    let books = house.open();
    went(&books, |_| {}, &[("cloud", BROKE, None)]);
    let elsewhere = replayed(&books, &all_to("\"abroad\""));
    assert_eq!((elsewhere.moved, elsewhere.costs.after.unknown), (1, 1));
    let again = replayed(&books, &all_to("\"cloud\""));
    assert_eq!((again.unchanged, again.costs.after.unknown), (1, 0));
}

#[test]
fn a_refusal_costs_nothing_and_names_its_rule() {
    let house = House::new();
    let books = house.open();
    let private = |facts: &mut policies::Facts| facts.request.tags = vec!["private".to_owned()];
    went(&books, private, &[answered("cloud", used(10, 10))]);
    went(&books, |_| {}, &[answered("cloud", used(10, 10))]);
    let rules = format!(
        "[[guard]]\nname = \"none of that\"\nwhen.tags.has = \"private\"\nrefuse = \"no\"\n{}",
        all_to("\"cloud\"")
    );
    let report = replayed(&books, &rules);
    assert_eq!((report.refused, report.unchanged), (1, 1));
    assert_eq!(report.costs.after.known.pico() * 2, report.costs.before.known.pico());
    let way = report.moves.keys().next().unwrap();
    assert_eq!(way.to, None);
    assert_eq!(&*way.rule.as_ref().unwrap().0, "none of that");
    let rules: Vec<_> =
        report.rules.iter().map(|(rule, n)| (&*rule.as_ref().unwrap().0, *n)).collect();
    assert_eq!(rules, [("new", 1), ("none of that", 1)]);
}

#[test]
fn what_was_adjusted_counts_as_adjusted() {
    let house = House::new();
    let books = house.open();
    let id = went(&books, |_| {}, &[answered("cloud", used(10, 10))]);
    let adjustment = Adjustment {
        id,
        attempt: 0,
        price_before: None,
        price: None,
        cost_before: Some(usd("0.3")),
        cost: Some(usd("0.2")),
        reason: "meant".to_owned(),
        ended_unix_ms: super::harness::NOON,
        place: Place {
            route: RouteId::new("cloud"),
            model: "small".into(),
            provider: "acme".into(),
            key: super::harness::key_id("key_a"),
        },
    };
    books.adjust(&adjustment).blocking().unwrap();
    let report = replayed(&books, &all_to("\"cloud\""));
    assert_eq!(report.costs.before.known, usd("0.2").into());
    assert_eq!(report.costs.after.known, usd("0.2").into());
}

#[test]
fn percentiles_weigh_those_who_take_as_long_as_others_did() {
    let edge = RouteId::new("edge");
    let seen: Vec<u64> = (1..=10).map(|n| n * 100).collect();
    let of_route = |_: &RouteId| &seen[..];
    // A hundred requests as on the edge are ten for each of its values.
    let alone = spread(Vec::new(), &BTreeMap::from([(edge.clone(), 100)]), 0, of_route);
    assert_eq!((alone.p50_us, alone.p95_us, alone.p99_us), (Some(500), Some(1_000), Some(1_000)));
    // Beside a hundred of 50 us the median is the last of those.
    let mixed = spread(vec![50; 100], &BTreeMap::from([(edge.clone(), 100)]), 0, of_route);
    assert_eq!((mixed.p50_us, mixed.p95_us), (Some(50), Some(900)));
    let none = spread(vec![7], &BTreeMap::from([(edge, 3)]), 2, |_| &[]);
    assert_eq!((none.p50_us, none.unknown), (Some(7), 5));
}
