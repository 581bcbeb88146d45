//! Deciding is deterministic, and nothing leaves the guards.

use crate::facts::{any_facts, plain};
use policies::{
    Decision, Facts, LeaveOut, LeftOut, OnShort, PicoUsd, Plan, Policy, RouteId, RouteState,
    SHIPPED, TraceVerdict, Verdict, choose, decide, explain, guard, shipped,
};
use proptest::{prelude::*, sample};
use std::{collections::BTreeSet, sync::LazyLock};

/// Shipped policies, and those of the language's tables: between them they use every word.
static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(parse_all);
/// The same, parsed again.
static AGAIN: LazyLock<Vec<Policy>> = LazyLock::new(parse_all);

fn parse_all() -> Vec<Policy> {
    let language = [
        ("guards", include_str!("../../cases/language/guards.toml")),
        ("missing", include_str!("../../cases/language/missing.toml")),
        ("numbers", include_str!("../../cases/language/numbers.toml")),
        ("budgets", include_str!("../../cases/language/budgets.toml")),
        ("words", include_str!("../../cases/language/words.toml")),
        ("pinned", include_str!("../../cases/language/pinned.toml")),
    ];
    let all = SHIPPED.iter().chain(&language);
    all.map(|(name, text)| Policy::parse(name, text).expect("a good policy")).collect()
}

fn planned(verdict: &Verdict) -> Vec<RouteId> {
    match verdict {
        Verdict::Route(decision) => decision.plan.routes().cloned().collect(),
        Verdict::Refuse(_) => Vec::new(),
    }
}

fn allowed(policy: &Policy, facts: &Facts) -> BTreeSet<RouteId> {
    guard(policy, facts).allowed(facts).map(|route| route.id.clone()).collect()
}

/// Guards of any kind, as text.
fn any_guard() -> impl Strategy<Value = String> {
    let conditions = sample::select(vec![
        "",
        "when.tags.has = \"private\"",
        "when.prompt_tokens.gt = 2000",
        "when.not.caller.team.eq = \"finance\"",
        "when.route.worst_usd.gt = \"0.5\"",
        "when.route.ttft_p95.gt = \"1s\"",
        "when.route.local.eq = false",
        "when.any = [{ route.queued.gt = 9 }, { stream.eq = true }]",
        "when.routes.\"@cloud\".failed_fraction.gt = 0.5",
        "when.budget.left_fraction.lt = 0.5",
    ]);
    let lists = sample::subsequence(
        vec!["edge", "cloud", "abroad", "@local", "@cloud", "@named", "@pinned"],
        1..4,
    );
    (conditions, any::<bool>(), lists).prop_map(|(condition, allow, list)| {
        let action = if allow { "allow" } else { "deny" };
        format!("name = \"added\"\n{condition}\n{action} = {list:?}\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_same_facts_give_the_same_decision(facts in any_facts()) {
        for (policy, again) in POLICIES.iter().zip(AGAIN.iter()) {
            let verdict = decide(policy, &facts);
            prop_assert_eq!(&verdict, &decide(again, &facts.clone()));
            prop_assert_eq!(&verdict, &choose(policy, &facts, guard(policy, &facts)));
        }
    }

    #[test]
    fn recorded_facts_decide_as_the_live_ones_did(facts in any_facts()) {
        // The ledger's own form, and the one of its queries.
        let written = postcard::to_stdvec(&facts).expect("facts are written");
        let read: Facts = postcard::from_bytes(&written).expect("and read");
        prop_assert_eq!(&read, &facts);
        let written = serde_json::to_string(&facts).expect("facts are written");
        let shown: Facts = serde_json::from_str(&written).expect("and read");
        prop_assert_eq!(&shown, &facts);
        for policy in POLICIES.iter() {
            let verdict = decide(policy, &facts);
            prop_assert_eq!(&verdict, &decide(policy, &read));
            if let Verdict::Route(Decision { plan, on_short, left_out, .. }) = verdict {
                let parts = (plan, on_short, left_out);
                let written = postcard::to_stdvec(&parts).expect("a decision is written");
                let read: (Plan, OnShort, Vec<LeftOut>) =
                    postcard::from_bytes(&written).expect("and read");
                prop_assert_eq!(read, parts);
            }
        }
    }

    #[test]
    fn no_plan_holds_a_route_that_a_guard_took(facts in any_facts()) {
        for policy in POLICIES.iter() {
            let allowed = allowed(policy, &facts);
            for route in planned(&decide(policy, &facts)) {
                prop_assert!(allowed.contains(&route), "{route} by {}", policy.name());
            }
        }
    }

    #[test]
    fn every_route_is_planned_or_left_out_with_a_reason(facts in any_facts()) {
        for policy in POLICIES.iter() {
            let verdict = decide(policy, &facts);
            let left_out = match &verdict {
                Verdict::Route(decision) => &decision.left_out,
                Verdict::Refuse(refuse) => &refuse.left_out,
            };
            let mut seen = planned(&verdict);
            seen.extend(left_out.iter().map(|out| out.route.clone()));
            seen.sort();
            let mut routes: Vec<RouteId> = facts.routes.iter().map(|r| r.id.clone()).collect();
            routes.sort();
            prop_assert_eq!(seen, routes);
        }
    }

    #[test]
    fn a_plan_holds_only_routes_that_can_serve(facts in any_facts()) {
        for policy in POLICIES.iter() {
            for id in planned(&decide(policy, &facts)) {
                let route = facts.routes.iter().find(|route| route.id == id).expect("configured");
                prop_assert!(route.state != RouteState::Unavailable);
                prop_assert!(!(facts.request.tools && route.tools == Some(false)));
                let least = route.prompt_tokens.unwrap_or(facts.request.prompt_tokens.min);
                prop_assert!(route.context_tokens.is_none_or(|context| least < context));
            }
        }
    }

    #[test]
    fn another_guard_only_narrows(facts in any_facts(), added in any_guard(), first in any::<bool>()) {
        for policy in POLICIES.iter() {
            // The same rules with one guard more, before or after the others, without the tests.
            let text = policy.source();
            let rules = text.split("[[test]]").next().unwrap_or_default();
            let at = if first { rules.find("[[").unwrap_or_default() } else { rules.len() };
            let (head, tail) = rules.split_at(at);
            let narrower = format!("{head}\n[[guard]]\n{added}\n{tail}");
            let narrower = Policy::parse(&policy.name().0, &narrower).expect("a good policy");
            prop_assert!(allowed(&narrower, &facts).is_subset(&allowed(policy, &facts)));
        }
    }

    #[test]
    fn what_is_marked_private_stays_home(mut facts in any_facts(), by_tag in any::<bool>()) {
        if by_tag {
            facts.request.tags.push("Private".to_owned());
        } else {
            facts.request.metadata.insert("privacy".to_owned(), "secret".to_owned());
        }
        let text = shipped("private-stays-home").expect("shipped");
        let policy = Policy::parse("private-stays-home", text).expect("a good policy");
        let away = |id: &RouteId| facts.routes.iter().any(|r| r.id == *id && !r.local);
        prop_assert!(!planned(&decide(&policy, &facts)).iter().any(away));
        prop_assert!(guard(&policy, &facts).allowed(&facts).all(|route| route.local));
    }

    #[test]
    fn an_explanation_says_what_was_decided(facts in any_facts()) {
        for policy in POLICIES.iter() {
            let trace = explain(policy, &facts);
            match (decide(policy, &facts), trace.verdict) {
                (Verdict::Route(decision), TraceVerdict::Route { rule, plan, hedged, on_short }) => {
                    prop_assert_eq!(matches!(decision.plan, Plan::Hedge(_)), hedged);
                    prop_assert_eq!(decision.rule, rule);
                    prop_assert_eq!(decision.plan.routes().cloned().collect::<Vec<_>>(), plan);
                    prop_assert_eq!(decision.on_short, on_short);
                }
                (Verdict::Refuse(refuse), TraceVerdict::Refuse { rule, message }) => {
                    prop_assert_eq!(refuse.rule, rule);
                    prop_assert_eq!(refuse.message, message);
                }
                (decided, told) => prop_assert!(false, "decided {decided:?}, told {told:?}"),
            }
        }
    }
}

#[test]
fn a_guard_that_refuses_allows_nobody() {
    let text = "[[guard]]\nname = \"shut\"\nrefuse = \"shut\"\n\
                [[choose]]\nname = \"all\"\nroutes = [\"@all\"]\n";
    let policy = Policy::parse("p", text).expect("a good policy");
    let facts = plain();
    let guarded = guard(&policy, &facts);
    assert!(guarded.refuses());
    assert_eq!(guarded.allowed(&facts).count(), 0);
    let Verdict::Refuse(refuse) = decide(&policy, &facts) else { panic!("answered") };
    assert_eq!(refuse.message, "shut");
}

#[test]
fn a_guard_that_names_an_unknown_route_allows_nobody_instead() {
    let text = "[[guard]]\nname = \"g\"\nallow = [\"gone\"]\n\
                [[choose]]\nname = \"all\"\nroutes = [\"@all\"]\n";
    let policy = Policy::parse("p", text).expect("a good policy");
    let Verdict::Refuse(refuse) = decide(&policy, &plain()) else { panic!("answered") };
    assert!(refuse.left_out.iter().all(|out| matches!(out.reason, LeaveOut::Guard(_))));
}

#[test]
fn a_rule_that_tests_whether_a_route_is_pinned_decides_about_such_requests() {
    let pinned = |when: &str| {
        let text = format!(
            "[[choose]]\nname = \"others\"\n{when}\nroutes = [\"edge\"]\n\
             [[choose]]\nname = \"rest\"\nroutes = [\"@all\"]\n"
        );
        let policy = Policy::parse("p", &text).expect("a good policy");
        let mut facts = plain();
        facts.request.pinned = Some(RouteId::new("cloud"));
        match decide(&policy, &facts) {
            Verdict::Route(decision) => decision.rule.to_string(),
            Verdict::Refuse(refuse) => panic!("{}", refuse.message),
        }
    };
    assert_eq!(pinned("when.stream.eq = true"), "@pinned");
    for when in ["when.pinned.eq = false", "when.not.pinned.eq = true"] {
        assert_eq!(pinned(when), "rest", "{when}");
    }
}

#[test]
fn a_maximum_in_place_of_a_price_is_no_price() {
    let decided = |unknown_price: &str, worst: Option<PicoUsd>| {
        let text = format!(
            "{unknown_price}\n[[choose]]\nname = \"known\"\n\
             when.routes.cloud.price_known.eq = true\nroutes = [\"cloud\"]\n\
             [[choose]]\nname = \"unknown\"\nroutes = [\"cloud\"]\n"
        );
        let policy = Policy::parse("p", &text).expect("a good policy");
        let mut facts = plain();
        (facts.routes[1].expected, facts.routes[1].worst_case) = (None, worst);
        match decide(&policy, &facts) {
            Verdict::Route(decision) => Ok(decision.rule.to_string()),
            Verdict::Refuse(refuse) => Err(refuse.left_out[1].reason.clone()),
        }
    };
    let (maximum, left_out) = (Some(PicoUsd::from_pico(1)), Err(LeaveOut::UnknownPrice));
    for allow in ["", "unknown_price = \"allow\""] {
        assert_eq!(decided(allow, maximum), Ok("unknown".to_owned()), "{allow}");
        assert_eq!(decided(allow, None), left_out, "nothing to reserve: {allow}");
    }
    for worst in [maximum, None] {
        assert_eq!(decided("unknown_price = \"refuse\"", worst), left_out);
    }
}
