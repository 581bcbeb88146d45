//! A trace tells which signals were read, which condition failed first, and why routes are out.

use crate::facts::plain;
use policies::{LeaveOut, Outcome, Phase, Policy, PromptTokens, RouteState, explain};

const POLICY: &str = r#"
[[guard]]
name = "ceiling"
when.route.worst_usd.gt = "0.50"
deny = ["@cloud"]

[[choose]]
name = "slow edge"
when.prompt_tokens.gt = 50
when.routes.edge.ttft_p95.gt = "800ms"
routes = ["cloud"]

[[choose]]
name = "long or tagged"
when.any = [{ prompt_tokens.gt = 4096 }, { tags.has = "long" }]
routes = ["cloud"]

[[choose]]
name = "rest"
routes = ["edge"]
"#;

fn policy() -> Policy {
    Policy::parse("p", POLICY).expect("a good policy")
}

#[test]
fn the_first_failing_condition_is_named_as_it_was_written() {
    let trace = explain(&policy(), &plain());
    let told: Vec<_> = trace
        .rules
        .iter()
        .map(|rule| (rule.phase, &*rule.rule.0, rule.outcome, rule.failed.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (Phase::Guard, "ceiling", Outcome::NoMatch, Some("route.worst_usd.gt = \"0.50\"")),
            (
                Phase::Choose,
                "slow edge",
                Outcome::Missing,
                Some("routes.edge.ttft_p95.gt = \"800ms\"")
            ),
            (
                Phase::Choose,
                "long or tagged",
                Outcome::NoMatch,
                Some("any(prompt_tokens.gt = 4096, tags.has = \"long\")")
            ),
            (Phase::Choose, "rest", Outcome::Matched, None),
        ]
    );
}

#[test]
fn every_signal_stands_once_with_its_value_and_a_missing_one_without() {
    let trace = explain(&policy(), &plain());
    let signals: Vec<_> =
        trace.signals.iter().map(|read| (&*read.signal, read.value.as_deref())).collect();
    assert_eq!(
        signals,
        [
            ("routes.cloud.worst_usd", Some("0.000000001000")),
            ("prompt_tokens", Some("100")),
            ("routes.edge.ttft_p95", None),
            ("tags", Some("")),
        ]
    );
}

#[test]
fn routes_stand_with_their_place_or_the_reason_they_are_out() {
    let mut facts = plain();
    facts.routes[1].state = RouteState::Unavailable;
    let trace = explain(&policy(), &facts);
    assert_eq!(trace.routes[0].place, Some(1));
    assert_eq!(trace.routes[0].left_out, None);
    assert_eq!(trace.routes[1].place, None);
    assert_eq!(trace.routes[1].left_out, Some(LeaveOut::Unavailable));
    assert_eq!(trace.routes[1].because.as_deref(), Some("is unavailable"));
    assert_eq!(trace.routes[1].worst_usd, facts.routes[1].worst_case);
}

#[test]
fn a_trace_can_be_written_and_read() {
    let mut facts = plain();
    facts.request.prompt_tokens = PromptTokens::from_bytes(40_000, 20);
    let trace = explain(&policy(), &facts);
    let written = serde_json::to_string(&trace).expect("written");
    assert_eq!(serde_json::from_str::<policies::Trace>(&written).expect("read"), trace);
    assert!(written.contains(r#""expected_usd":"0.000000001000""#), "money is text: {written}");
}
