//! Running a `[[test]]`: what was expected, what came instead.

use super::{Policy, decide::decide};
use crate::{
    Facts, LeaveOut, LeftOut, OnShort, RouteId, Verdict,
    file::{FileError, Node},
};

/// A test as read.
#[derive(Debug)]
pub(crate) struct Sketch<'d> {
    pub(super) name: &'d str,
    pub(super) facts: Facts,
    pub(super) expect: Expect<'d>,
}

/// What must become of it.
#[derive(Debug)]
pub(super) struct Expect<'d> {
    pub(super) outcome: ExpectOutcome<'d>,
    pub(super) rule: Option<(Node<'d>, &'d str)>,
    pub(super) on_short: Option<(Node<'d>, &'d str)>,
    pub(super) left_out: Vec<(Node<'d>, &'d str)>,
}

#[derive(Debug)]
pub(super) enum ExpectOutcome<'d> {
    /// Exactly these routes in this order.
    Routes(Node<'d>, Vec<&'d str>),
    /// A refusal, whose message contains the text if there is one.
    Refuse(Node<'d>, Option<&'d str>),
}

impl Sketch<'_> {
    /// Runs the test.
    ///
    /// # Errors
    /// What was expected and what came instead, at the line of the expectation.
    pub(crate) fn run(&self, policy: &Policy) -> Result<(), FileError> {
        let failed = |node: &Node<'_>, expected: String, got: String| {
            let (name, policy) = (self.name, policy.name());
            node.error(format!(
                "test `{name}` of the policy `{policy}` failed: expected {expected}, got {got}"
            ))
        };
        let verdict = decide(policy, &self.facts);
        let got = shown(&verdict);
        let (rule, left_out) = match &verdict {
            Verdict::Route(decision) => (Some(&decision.rule), &decision.left_out),
            Verdict::Refuse(refuse) => (refuse.rule.as_ref(), &refuse.left_out),
        };
        match &self.expect.outcome {
            ExpectOutcome::Routes(node, routes) => {
                let same = matches!(&verdict, Verdict::Route(decision)
                    if decision.plan.routes().map(RouteId::as_str).eq(routes.iter().copied()));
                if !same {
                    return Err(failed(node, format!("routes [{}]", routes.join(", ")), got));
                }
            }
            ExpectOutcome::Refuse(node, text) => {
                let same = matches!(&verdict, Verdict::Refuse(refuse)
                    if text.is_none_or(|text| refuse.message.contains(text)));
                if !same {
                    let with = text.map_or(String::new(), |text| format!(" with `{text}`"));
                    return Err(failed(node, format!("a refusal{with}"), got));
                }
            }
        }
        if let Some((node, wanted)) = &self.expect.rule
            && rule.is_none_or(|rule| *rule.0 != **wanted)
        {
            return Err(failed(node, format!("rule `{wanted}`"), got));
        }
        if let (Some((node, wanted)), Verdict::Route(decision)) = (&self.expect.on_short, &verdict)
            && on_short_name(decision.on_short) != *wanted
        {
            let got = on_short_name(decision.on_short).to_owned();
            return Err(failed(node, format!("on_short `{wanted}`"), got));
        }
        self.expect.left_out.iter().try_for_each(|(node, wanted)| {
            let found = reason_name(left_out, node.key);
            let what = format!("`{}` left out for `{wanted}`", node.key);
            if found == *wanted { Ok(()) } else { Err(failed(node, what, format!("`{found}`"))) }
        })
    }
}

fn shown(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Route(decision) => {
            let routes: Vec<&str> = decision.plan.routes().map(RouteId::as_str).collect();
            format!("routes [{}] by rule `{}`", routes.join(", "), decision.rule)
        }
        Verdict::Refuse(refuse) => {
            let rule = refuse.rule.as_ref().map_or(String::new(), |rule| format!(" by `{rule}`"));
            format!("a refusal{rule}: {}", refuse.message)
        }
    }
}

const fn on_short_name(on_short: OnShort) -> &'static str {
    match on_short {
        OnShort::Refuse => "refuse",
        OnShort::Clamp { .. } => "clamp",
        OnShort::Next => "next",
        OnShort::Local => "local",
    }
}

fn reason_name(left_out: &[LeftOut], route: &str) -> &'static str {
    match left_out.iter().find(|out| out.route.as_str() == route).map(|out| &out.reason) {
        None => "in the plan",
        Some(LeaveOut::Guard(_)) => "guard",
        Some(LeaveOut::NotChosen) => "not_chosen",
        Some(LeaveOut::Unavailable) => "unavailable",
        Some(LeaveOut::Context) => "context",
        Some(LeaveOut::Capability(_)) => "capability",
        Some(LeaveOut::UnknownPrice) => "unknown_price",
        Some(LeaveOut::Pinned) => "pinned",
    }
}
