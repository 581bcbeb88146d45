//! Conditions: one signal, one comparison, and their composition.
//!
//! **Invariant:** a condition whose signal is missing is neither true nor false, also under `not`
//! (Kleene's three values), so nothing that was not measured can make a rule match.

use super::{
    explain::Recorder,
    routes::RouteRef,
    signal::{FlagSignal, NumberSignal, RouteFlag, RouteNumber, TextSignal, prefix, state_name},
};
use crate::{Facts, RouteFacts, RouteState, units::Number};
use serde::{Deserialize, Serialize};

/// What a condition came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Matched,
    /// It does not hold.
    NoMatch,
    /// A signal that it needs is missing, so it does not count as holding.
    Missing,
}

/// A condition as checked at load.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    /// As it was written, for explanations.
    pub(crate) written: Box<str>,
    /// What is tested.
    pub(crate) test: Test,
}

/// What is tested.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Vec<Condition>),
    Number(Box<str>, NumberSignal, NumberIs),
    Text(Box<str>, TextSignal, TextIs),
    Flag(Box<str>, FlagSignal, bool),
    Tags(TagsAre),
    Route(RouteRef, RouteTest),
}

/// What is tested of a route.
#[derive(Clone, Debug)]
pub(crate) enum RouteTest {
    Number(&'static str, RouteNumber, NumberIs),
    Flag(&'static str, RouteFlag, bool),
    State(Vec<RouteState>),
}

/// A comparison of numbers.
#[derive(Clone, Debug)]
pub(crate) enum NumberIs {
    Eq(Number),
    Ne(Number),
    Gt(Number),
    Ge(Number),
    Lt(Number),
    Le(Number),
    In(Vec<Number>),
    /// From the first (included) to the second (not included), past the end where it is smaller.
    Between(Number, Number),
}

/// A comparison of text. What is not there equals nothing.
#[derive(Clone, Debug)]
pub(crate) enum TextIs {
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Prefix(Box<str>),
    Exists(bool),
}

/// A comparison of the request's tags, without regard to ASCII case.
#[derive(Clone, Debug)]
pub(crate) enum TagsAre {
    HasAny(Vec<Box<str>>),
    HasAll(Vec<Box<str>>),
}

/// What conditions are evaluated on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct On<'f> {
    pub(crate) facts: &'f Facts,
    /// The route a guard is looking at.
    pub(crate) route: Option<&'f RouteFacts>,
}

// === impl Condition ===

impl Condition {
    /// Whether all of `conditions` hold; stops at the first that does not and tells the recorder.
    pub(crate) fn first_failing<'c, R: Recorder>(
        conditions: &'c [Self],
        on: On<'_>,
        rec: &mut R,
    ) -> (Outcome, Option<&'c Self>) {
        for condition in conditions {
            let outcome = condition.holds(on, rec);
            if outcome != Outcome::Matched {
                return (outcome, Some(condition));
            }
        }
        (Outcome::Matched, None)
    }

    pub(crate) fn holds<R: Recorder>(&self, on: On<'_>, rec: &mut R) -> Outcome {
        let facts = on.facts;
        match &self.test {
            Test::All(conditions) => fold(conditions, Outcome::NoMatch, on, rec),
            Test::Any(conditions) => fold(conditions, Outcome::Matched, on, rec),
            Test::Not(conditions) => fold(conditions, Outcome::NoMatch, on, rec).not(),
            Test::Number(name, signal, is) => {
                let value = signal.read(facts);
                rec.read(|| (name.to_string(), value.map(|number| signal.unit().show(number))));
                value.map_or(Outcome::Missing, |number| is.holds(number).into())
            }
            Test::Text(name, signal, is) => {
                let value = signal.read(facts);
                rec.read(|| (name.to_string(), Some(value.unwrap_or("(none)").to_owned())));
                is.holds(value).into()
            }
            Test::Flag(name, signal, wanted) => {
                let value = signal.read(facts);
                rec.read(|| (name.to_string(), Some(value.to_string())));
                (value == *wanted).into()
            }
            Test::Tags(are) => {
                rec.read(|| ("tags".to_owned(), Some(facts.request.tags.join(", "))));
                are.holds(&facts.request.tags).into()
            }
            Test::Route(over, test) => test.holds_for(over, on, rec),
        }
    }

    /// Visits every test in it.
    pub(crate) fn visit<'c>(&'c self, see: &mut impl FnMut(&'c Test)) {
        see(&self.test);
        if let Test::All(inner) | Test::Any(inner) | Test::Not(inner) = &self.test {
            for condition in inner {
                condition.visit(see);
            }
        }
    }
}

/// All or any of several: `decisive` settles it at once, and a missing signal leaves it open.
fn fold<R: Recorder>(
    conditions: &[Condition],
    decisive: Outcome,
    on: On<'_>,
    rec: &mut R,
) -> Outcome {
    let mut outcome = decisive.not();
    for condition in conditions {
        match condition.holds(on, rec) {
            found if found == decisive => return decisive,
            Outcome::Missing => outcome = Outcome::Missing,
            _ => {}
        }
    }
    outcome
}

// === impl Outcome ===

impl Outcome {
    const fn not(self) -> Self {
        match self {
            Self::Matched => Self::NoMatch,
            Self::NoMatch => Self::Matched,
            Self::Missing => Self::Missing,
        }
    }
}

impl From<bool> for Outcome {
    fn from(holds: bool) -> Self {
        if holds { Self::Matched } else { Self::NoMatch }
    }
}

// === impl RouteTest ===

impl RouteTest {
    /// Over several routes it must hold for every one; over none it is missing.
    fn holds_for<R: Recorder>(&self, over: &RouteRef, on: On<'_>, rec: &mut R) -> Outcome {
        let pick = match over {
            RouteRef::Current => {
                return on.route.map_or(Outcome::Missing, |route| self.holds(route, rec));
            }
            RouteRef::Pick(pick) => pick,
        };
        let mut outcome = None;
        for route in on.facts.routes.iter().filter(|route| pick.covers(route, on.facts)) {
            match self.holds(route, rec) {
                Outcome::NoMatch => return Outcome::NoMatch,
                Outcome::Missing => outcome = Some(Outcome::Missing),
                Outcome::Matched => outcome = outcome.or(Some(Outcome::Matched)),
            }
        }
        if outcome.is_none() {
            rec.read(|| (format!("{}.{}", prefix(over), self.name()), None));
        }
        outcome.unwrap_or(Outcome::Missing)
    }

    fn holds<R: Recorder>(&self, route: &RouteFacts, rec: &mut R) -> Outcome {
        let name = || format!("routes.{}.{}", route.id, self.name());
        match self {
            Self::Number(_, signal, is) => {
                let value = signal.read(route);
                rec.read(|| (name(), value.map(|number| signal.unit().show(number))));
                value.map_or(Outcome::Missing, |number| is.holds(number).into())
            }
            Self::Flag(_, signal, wanted) => {
                let value = signal.read(route);
                rec.read(|| (name(), Some(value.to_string())));
                (value == *wanted).into()
            }
            Self::State(states) => {
                rec.read(|| (name(), Some(state_name(route.state).to_owned())));
                states.contains(&route.state).into()
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Number(name, ..) | Self::Flag(name, ..) => name,
            Self::State(_) => "state",
        }
    }
}

// === impl comparisons ===

impl NumberIs {
    fn holds(&self, value: Number) -> bool {
        match self {
            Self::Eq(than) => value == *than,
            Self::Ne(than) => value != *than,
            Self::Gt(than) => value > *than,
            Self::Ge(than) => value >= *than,
            Self::Lt(than) => value < *than,
            Self::Le(than) => value <= *than,
            Self::In(list) => list.contains(&value),
            Self::Between(from, to) if from <= to => *from <= value && value < *to,
            Self::Between(from, to) => *from <= value || value < *to,
        }
    }
}

impl TextIs {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = |list: &[Box<str>]| value.is_some_and(|v| list.iter().any(|one| **one == *v));
        match self {
            Self::In(list) => among(list),
            Self::NotIn(list) => !among(list),
            Self::Prefix(start) => value.is_some_and(|v| v.starts_with(&**start)),
            Self::Exists(wanted) => value.is_some() == *wanted,
        }
    }
}

impl TagsAre {
    /// The tags that it looks for.
    pub(crate) fn wanted(&self) -> &[Box<str>] {
        match self {
            Self::HasAny(list) | Self::HasAll(list) => list,
        }
    }

    fn holds(&self, tags: &[String]) -> bool {
        let has = |wanted: &str| tags.iter().any(|tag| tag.eq_ignore_ascii_case(wanted));
        match self {
            Self::HasAny(list) => list.iter().any(|wanted| has(wanted)),
            Self::HasAll(list) => list.iter().all(|wanted| has(wanted)),
        }
    }
}
