//! A replay decides as the policy does, and follows a plan along what is known of its routes.

use crate::facts::{any_facts, plain, route};
use policies::{
    Course, FACTS_VERSION, NotReplayable, Policy, Replayed, RouteId, SHIPPED, Tried, TriedEnd,
    Verdict, decide, replay,
};
use proptest::prelude::*;

fn policy(routes: &[&str]) -> Policy {
    let text = format!("[[choose]]\nname = \"all\"\nroutes = {routes:?}\n");
    Policy::parse("tried", &text).expect("a good policy")
}

/// Which attempts a replay keeps, and which route it asks for the first time.
fn follow(routes: &[&str], tried: &[(&str, TriedEnd)]) -> (Vec<usize>, Option<RouteId>) {
    let mut facts = plain();
    facts.routes.push(route("abroad", false));
    let ids: Vec<RouteId> = tried.iter().map(|(route, _)| RouteId::new(route)).collect();
    let tried: Vec<Tried<'_>> =
        ids.iter().zip(tried).map(|(route, (_, ended))| Tried { route, ended: *ended }).collect();
    match replay(&policy(routes), &facts, &tried).expect("replayable").course {
        Course::Planned { kept, anew, .. } => (kept, anew),
        Course::Refused(refuse) => panic!("{refuse:?}"),
    }
}

#[test]
fn a_plan_is_followed_to_the_route_that_answered_then() {
    use TriedEnd::{Ended, Failed};
    assert_eq!(follow(&["edge", "cloud"], &[("edge", Ended)]), (vec![0], None));
    let fell_back = [("edge", Failed), ("cloud", Ended)];
    assert_eq!(follow(&["edge", "cloud"], &fell_back), (vec![0, 1], None));
    assert_eq!(follow(&["cloud", "edge"], &fell_back), (vec![1], None), "the fault is spared");
    let again = [("edge", Failed), ("cloud", Failed), ("edge", Ended)];
    assert_eq!(follow(&["edge", "cloud"], &again), (vec![0, 2], None));
}

#[test]
fn a_route_that_was_not_asked_then_is_asked_for_the_first_time() {
    use TriedEnd::{Ended, Failed, Unseen};
    let abroad = Some(RouteId::new("abroad"));
    assert_eq!(follow(&["abroad", "edge"], &[("edge", Ended)]), (vec![], abroad.clone()));
    assert_eq!(follow(&["edge", "abroad"], &[("edge", Failed)]), (vec![0], abroad));
    let lost = [("edge", Unseen), ("cloud", Ended)];
    let edge = Some(RouteId::new("edge"));
    assert_eq!(follow(&["edge", "cloud"], &lost), (vec![], edge), "nobody knows how it would end");
    assert_eq!(follow(&["cloud"], &lost), (vec![1], None));
}

#[test]
fn where_every_route_of_the_plan_failed_then_it_fails_again() {
    let tried = [("edge", TriedEnd::Failed), ("cloud", TriedEnd::Failed)];
    assert_eq!(follow(&["cloud", "edge"], &tried), (vec![1, 0], None));
}

#[test]
fn what_the_record_cannot_tell_is_said() {
    let mut facts = plain();
    let edge = policy(&["edge"]);
    for version in [0, FACTS_VERSION + 1] {
        facts.version = version;
        assert_eq!(replay(&edge, &facts, &[]), Err(NotReplayable::Facts(version)));
    }
    facts.version = FACTS_VERSION;
    let later = NotReplayable::Route(RouteId::new("later"));
    assert_eq!(replay(&policy(&["edge", "later"]), &facts, &[]), Err(later.clone()));
    assert_eq!(later.to_string(), "the route `later` was not configured then");

    let text = "[[choose]]\nname = \"slow\"\nwhen.routes.cloud.ttft_p95.gt = \"1s\"\n\
                routes = [\"edge\"]\n[[choose]]\nname = \"rest\"\nroutes = [\"cloud\"]\n";
    let policy = Policy::parse("tried", text).expect("a good policy");
    let Replayed { course, missing } = replay(&policy, &facts, &[]).expect("replayable");
    assert!(matches!(course, Course::Planned { decision, .. } if &*decision.rule.0 == "rest"));
    assert_eq!(missing, ["routes.cloud.ttft_p95"]);
    facts.routes[1].ttft_p95_us = Some(2_000_000);
    let Replayed { course, missing } = replay(&policy, &facts, &[]).expect("replayable");
    assert!(matches!(course, Course::Planned { decision, .. } if &*decision.rule.0 == "slow"));
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    #[test]
    fn a_replay_decides_as_the_policy_does(facts in any_facts()) {
        for (name, text) in SHIPPED {
            let policy = Policy::parse(name, text).expect("a good policy");
            let replayed = replay(&policy, &facts, &[]).expect("it names no route").course;
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
}
