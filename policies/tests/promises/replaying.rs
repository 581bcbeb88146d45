//! A replay decides as the policy does, and follows a plan along what is known of its routes.

use crate::facts::{any_facts, plain, route};
use policies::{
    Course, Decision, FACTS_VERSION, Facts, LeaveOut, LeftOut, NotReplayable, OnShort, Plan,
    Policy, Replayed, RouteId, SHIPPED, Then, Tried, TriedEnd, Verdict, decide, replay,
};
use proptest::prelude::*;

fn policy(routes: &[&str]) -> Policy {
    Policy::parse("tried", &in_turn(routes)).expect("a good policy")
}

/// What was decided then, and the attempts that were made.
type Past<'a> = (&'a [&'a str], &'a [(&'a str, TriedEnd)]);

/// Which attempts a replay keeps, and which route it asks for the first time.
fn follow(rules: &str, (planned, tried): Past<'_>) -> (Vec<usize>, Option<RouteId>) {
    let mut facts = plain();
    facts.routes.push(route("abroad", false));
    let policy = Policy::parse("tried", rules).expect("a good policy");
    let id = |route: &&str| RouteId::new(route);
    let plan: Vec<RouteId> = planned.iter().map(id).collect();
    let others = facts.routes.iter().map(|route| route.id.clone());
    let left_out: Vec<LeftOut> = others
        .filter(|route| !plan.contains(route))
        .map(|route| LeftOut { route, reason: LeaveOut::NotChosen })
        .collect();
    let ids: Vec<RouteId> = tried.iter().map(|(route, _)| RouteId::new(route)).collect();
    let tried: Vec<Tried<'_>> =
        ids.iter().zip(tried).map(|(route, (_, ended))| Tried { route, ended: *ended }).collect();
    let then = Then { plan: &plan, left_out: &left_out, tried: &tried };
    match replay(&policy, &facts, &then).expect("replayable").course {
        Course::Planned { kept, anew, .. } => (kept, anew),
        Course::Refused(refuse) => panic!("{refuse:?}"),
    }
}

fn in_turn(routes: &[&str]) -> String {
    format!("[[choose]]\nname = \"all\"\nroutes = {routes:?}\n")
}

#[test]
fn a_plan_is_followed_to_the_route_that_answered_then() {
    use TriedEnd::{Ended, Failed};
    let planned = &["edge", "cloud"][..];
    let to = |routes: &[&str], tried: &[_]| follow(&in_turn(routes), (planned, tried));
    assert_eq!(to(&["edge", "cloud"], &[("edge", Ended)]), (vec![0], None));
    let fell_back = [("edge", Failed), ("cloud", Ended)];
    assert_eq!(to(&["edge", "cloud"], &fell_back), (vec![0, 1], None));
    assert_eq!(to(&["cloud", "edge"], &fell_back), (vec![1], None), "the fault is spared");
    let again = [("edge", Failed), ("cloud", Failed), ("edge", Ended)];
    assert_eq!(to(&["edge", "cloud"], &again), (vec![0, 1, 2], None), "each again after all");
    assert_eq!(to(&["cloud", "edge"], &again), (vec![1, 0, 2], None));
    let abroad = Some(RouteId::new("abroad"));
    assert_eq!(to(&["edge", "abroad"], &again), (vec![0], abroad), "its turn comes first");
    assert_eq!(to(&["edge"], &again), (vec![0, 2], None));
}

#[test]
fn a_route_that_was_not_asked_then_is_asked_for_the_first_time() {
    use TriedEnd::{Ended, Failed, Unseen};
    let planned = &["edge", "cloud"][..];
    let to = |routes: &[&str], tried: &[_]| follow(&in_turn(routes), (planned, tried));
    let abroad = Some(RouteId::new("abroad"));
    assert_eq!(to(&["abroad", "edge"], &[("edge", Ended)]), (vec![], abroad.clone()));
    assert_eq!(to(&["edge", "abroad"], &[("edge", Failed)]), (vec![0], abroad));
    let cloud = Some(RouteId::new("cloud"));
    assert_eq!(
        to(&["cloud", "edge"], &[("edge", Ended)]),
        (vec![], cloud),
        "its turn had not come"
    );
    let lost = [("edge", Unseen), ("cloud", Ended)];
    let edge = Some(RouteId::new("edge"));
    assert_eq!(to(&["edge", "cloud"], &lost), (vec![], edge), "nobody knows how it would end");
    assert_eq!(to(&["cloud"], &lost), (vec![1], None));
}

#[test]
fn a_race_is_run_again_and_both_are_paid() {
    use TriedEnd::{Ended, Unseen};
    let hedged = "[[choose]]\nname = \"all\"\nhedge = [\"edge\", \"cloud\"]\n";
    let planned = &["edge", "cloud"][..];
    let second = [("edge", Unseen), ("cloud", Ended)];
    assert_eq!(follow(hedged, (planned, &second)), (vec![0, 1], None));
    let first = [("edge", Ended), ("cloud", Unseen)];
    assert_eq!(follow(hedged, (planned, &first)), (vec![1, 0], None), "who answered comes last");
}

#[test]
fn a_route_that_was_passed_over_then_is_passed_over_again() {
    use TriedEnd::{Ended, Failed};
    let planned = &["cloud", "edge"][..];
    let past: Past<'_> = (planned, &[("edge", Ended)]);
    assert_eq!(follow(&in_turn(planned), past), (vec![0], None));
    assert_eq!(
        follow(&in_turn(&["cloud", "abroad", "edge"]), past).1,
        Some(RouteId::new("abroad"))
    );
    assert_eq!(follow(&in_turn(&["cloud"]), past), (vec![], None), "nobody can be asked");
    // Behind all that failed it was not asked; where nobody failed first it would have been.
    let past: Past<'_> = (&["edge", "cloud"], &[("edge", Failed)]);
    assert_eq!(follow(&in_turn(&["edge", "cloud"]), past), (vec![0], None));
    assert_eq!(
        follow(&in_turn(&["edge", "cloud", "abroad"]), past).1,
        Some(RouteId::new("abroad"))
    );
    assert_eq!(follow(&in_turn(&["cloud", "edge"]), past).1, Some(RouteId::new("cloud")));
}

#[test]
fn where_money_was_short_the_local_routes_stand_behind_the_plan() {
    use TriedEnd::Ended;
    let local = |routes: &[&str]| format!("{}on_short = \"local\"\n", in_turn(routes));
    let past: Past<'_> = (&["cloud"], &[("edge", Ended)]);
    assert_eq!(follow(&local(&["cloud"]), past), (vec![0], None));
    assert_eq!(follow(&in_turn(&["cloud"]), past), (vec![], None), "no other rule has them");
    assert_eq!(follow(&local(&["abroad"]), past).1, Some(RouteId::new("abroad")), "it is paid");
    let elsewhere: Past<'_> = (&["cloud", "abroad"], &[("abroad", Ended)]);
    assert_eq!(follow(&local(&["cloud"]), elsewhere).1, Some(RouteId::new("edge")));
}

#[test]
fn where_every_route_of_the_plan_failed_then_it_fails_again() {
    let tried = [("edge", TriedEnd::Failed), ("cloud", TriedEnd::Failed)];
    let past: Past<'_> = (&["edge", "cloud"], &tried);
    assert_eq!(follow(&in_turn(&["cloud", "edge"]), past), (vec![1, 0], None));
}

#[test]
fn what_the_record_cannot_tell_is_said() {
    let (mut facts, none) = (plain(), Then::default());
    let edge = policy(&["edge"]);
    for version in [0, FACTS_VERSION + 1] {
        facts.version = version;
        assert_eq!(replay(&edge, &facts, &none), Err(NotReplayable::Facts(version)));
    }
    facts.version = FACTS_VERSION;
    let later = NotReplayable::Route(RouteId::new("later"));
    assert_eq!(replay(&policy(&["edge", "later"]), &facts, &none), Err(later.clone()));
    assert_eq!(later.to_string(), "the route `later` was not configured then");

    let text = "[[choose]]\nname = \"slow\"\nwhen.routes.cloud.ttft_p95.gt = \"1s\"\n\
                routes = [\"edge\"]\n[[choose]]\nname = \"rest\"\nroutes = [\"cloud\"]\n";
    let policy = Policy::parse("tried", text).expect("a good policy");
    let Replayed { course, missing } = replay(&policy, &facts, &none).expect("replayable");
    assert!(matches!(course, Course::Planned { decision, .. } if &*decision.rule.0 == "rest"));
    assert_eq!(missing, ["routes.cloud.ttft_p95"]);
    facts.routes[1].ttft_p95_us = Some(2_000_000);
    let Replayed { course, missing } = replay(&policy, &facts, &none).expect("replayable");
    assert!(matches!(course, Course::Planned { decision, .. } if &*decision.rule.0 == "slow"));
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    #[test]
    fn a_replay_decides_as_the_policy_does(facts in any_facts()) {
        for (name, text) in SHIPPED {
            let policy = Policy::parse(name, text).expect("a good policy");
            let replayed = replay(&policy, &facts, &Then::default()).expect("it names no route").course;
            match (replayed, decide(&policy, &facts)) {
                (Course::Refused(replayed), Verdict::Refuse(decided)) => {
                    prop_assert_eq!(replayed, decided);
                }
                (Course::Planned { decision, kept, anew }, Verdict::Route(decided)) => {
                    prop_assert!(kept.is_empty());
                    prop_assert_eq!(anew.as_ref(), decided.plan.routes().next());
                    prop_assert_eq!(decision, decided);
                }
                (replayed, decided) => prop_assert!(false, "{:?} for {:?}", replayed, decided),
            }
        }
    }

    /// Whatever was passed over, failed, was asked again or lost a race.
    #[test]
    fn a_replay_of_the_version_of_then_leaves_everything_as_it_was(
        facts in any_facts(),
        on_short in prop::sample::select(vec!["refuse", "next", "local"]),
        choice in prop::sample::select(vec!["routes", "cheapest", "fastest", "hedge"]),
        others in prop::sample::select(vec!["@local", "@cloud"]),
        asked in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..8),
        ended in any::<bool>(),
        winner in any::<prop::sample::Index>(),
    ) {
        let list = format!("{choice} = [\"cloud\", \"{others}\"]");
        let text = format!("on_short = \"{on_short}\"\n[[choose]]\nname = \"all\"\n{list}\n");
        let policy = Policy::parse("then", &text).expect("a good policy");
        let facts = named(facts);
        let Verdict::Route(decision) = decide(&policy, &facts) else { return Ok(()) };
        let turns = turns(&decision, &facts);
        let hedged = matches!(decision.plan, Plan::Hedge(_));
        let winner = winner.index(asked.len());
        let tried: Vec<Tried<'_>> = asked.iter().enumerate().map(|(at, (turn, lost))| Tried {
            route: turn.get(&turns),
            ended: match () {
                () if ended && at == winner => TriedEnd::Ended,
                () if hedged && *lost => TriedEnd::Unseen,
                () => TriedEnd::Failed,
            },
        }).collect();
        let plan: Vec<RouteId> = decision.plan.routes().cloned().collect();
        let then = Then { plan: &plan, left_out: &decision.left_out, tried: &tried };
        let course = replay(&policy, &facts, &then).expect("it names routes that are there").course;
        let Course::Planned { kept, anew, .. } = course else { panic!("it was planned then") };
        prop_assert_eq!(anew, None);
        prop_assert!(kept.last().is_some_and(|last| !ended || *last == winner));
        let mut kept = kept;
        kept.sort_unstable();
        prop_assert_eq!(kept, (0..tried.len()).collect::<Vec<_>>());
    }
}

/// With the route that the policy names.
fn named(mut facts: Facts) -> Facts {
    if facts.routes.iter().all(|known| known.id != RouteId::new("cloud")) {
        facts.routes.push(route("cloud", false));
    }
    facts
}

/// Whom a decision may ask.
fn turns(decision: &Decision, facts: &Facts) -> Vec<RouteId> {
    let local = |id: &RouteId| facts.routes.iter().any(|known| known.local && known.id == *id);
    let spares = decision
        .left_out
        .iter()
        .filter(|_| decision.on_short == OnShort::Local)
        .filter(|left| left.reason == LeaveOut::NotChosen && local(&left.route));
    decision.plan.routes().chain(spares.map(|left| &left.route)).cloned().collect()
}
