//! What conditions can look at, and how each signal is read out of the facts.
//!
//! **Invariant:** what the request and its caller carry is always known (an absent tag, metadata key
//! or team is simply not there and equals nothing), while a measurement, a price or a budget may be
//! missing: then the reading is `None`, and no default takes its place.

use super::routes::RouteRef;
use crate::{
    BudgetFacts, Facts, RouteFacts, RouteState,
    units::{Number, Unit},
};

/// A signal that is a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NumberSignal {
    PromptTokens,
    PromptTokensMin,
    PromptTokensMax,
    MaxOutputTokens,
    Choices,
    Messages,
    Hour,
    TimeOfDay,
    Weekday,
    Budget(BudgetRef, BudgetNumber),
}

/// Which budgets a signal looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BudgetRef {
    /// The tightest of all that apply to the caller.
    Tightest,
    /// The one with this id.
    Id(Box<str>),
}

/// What is read of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetNumber {
    Fraction,
    Usd,
    Tokens,
}

/// A signal that is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextSignal {
    Model,
    Session,
    Key,
    Label,
    User,
    Team,
    Metadata(Box<str>),
}

/// A signal that is true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagSignal {
    Stream,
    Tools,
    Images,
    Structured,
    Logprobs,
    Named,
    Pinned,
}

/// A number read of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteNumber {
    Queued,
    InFlight,
    TtftP50,
    TtftP95,
    PredictedWait,
    PredictedTtftP95,
    FailedFraction,
    ExpectedUsd,
    WorstUsd,
    ContextTokens,
}

/// A flag read of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteFlag {
    Local,
    Free,
    Budgeted,
    PriceKnown,
}

// === impl NumberSignal ===

impl NumberSignal {
    /// Signals of the request, by the key they are written with.
    pub(crate) const OF_REQUEST: [(&'static str, Self); 6] = [
        ("prompt_tokens", Self::PromptTokens),
        ("prompt_tokens_min", Self::PromptTokensMin),
        ("prompt_tokens_max", Self::PromptTokensMax),
        ("max_output_tokens", Self::MaxOutputTokens),
        ("choices", Self::Choices),
        ("messages", Self::Messages),
    ];
    /// Signals of the time, by the key under `time`.
    pub(crate) const OF_TIME: [(&'static str, Self); 3] =
        [("hour", Self::Hour), ("of_day", Self::TimeOfDay), ("weekday", Self::Weekday)];

    pub(crate) const fn unit(&self) -> Unit {
        match self {
            Self::PromptTokens
            | Self::PromptTokensMin
            | Self::PromptTokensMax
            | Self::MaxOutputTokens
            | Self::Choices
            | Self::Messages => Unit::Count,
            Self::Hour => Unit::Hour,
            Self::TimeOfDay => Unit::TimeOfDay,
            Self::Weekday => Unit::Weekday,
            Self::Budget(_, number) => number.unit(),
        }
    }

    pub(crate) fn read(&self, facts: &Facts) -> Option<Number> {
        let request = &facts.request;
        let whole = match self {
            Self::PromptTokens => request.prompt_tokens.likely,
            Self::PromptTokensMin => request.prompt_tokens.min,
            Self::PromptTokensMax => request.prompt_tokens.max,
            Self::MaxOutputTokens => request.max_output_tokens,
            Self::Choices => u64::from(request.choices),
            Self::Messages => u64::from(request.messages),
            Self::Hour => u64::from(facts.time.minute_of_day / 60),
            Self::TimeOfDay => u64::from(facts.time.minute_of_day),
            Self::Weekday => u64::from(facts.time.weekday),
            Self::Budget(which, number) => {
                let budgets = facts.budgets.iter().filter(|budget| which.covers(budget));
                return budgets.filter_map(|budget| number.read(budget)).min();
            }
        };
        Some(Number::whole(whole))
    }
}

// === impl BudgetRef, BudgetNumber ===

impl BudgetRef {
    fn covers(&self, budget: &BudgetFacts) -> bool {
        match self {
            Self::Tightest => true,
            Self::Id(id) => **id == *budget.id,
        }
    }
}

impl BudgetNumber {
    pub(crate) const NAMED: [(&'static str, Self); 3] =
        [("left_fraction", Self::Fraction), ("left_usd", Self::Usd), ("left_tokens", Self::Tokens)];

    const fn unit(self) -> Unit {
        match self {
            Self::Fraction => Unit::Fraction,
            Self::Usd => Unit::Usd,
            Self::Tokens => Unit::Count,
        }
    }

    fn read(self, budget: &BudgetFacts) -> Option<Number> {
        match self {
            Self::Usd => budget.money.map(|(_, left)| Number::whole(left.pico())),
            Self::Tokens => budget.tokens.map(|(_, left)| Number::whole(left)),
            Self::Fraction => {
                let money = budget.money.map(|(of, left)| Number::fraction(left.pico(), of.pico()));
                let tokens = budget.tokens.map(|(of, left)| Number::fraction(left, of));
                money.into_iter().chain(tokens).min()
            }
        }
    }
}

// === impl TextSignal ===

impl TextSignal {
    pub(crate) const OF_CALLER: [(&'static str, Self); 4] =
        [("key", Self::Key), ("label", Self::Label), ("user", Self::User), ("team", Self::Team)];

    /// `None` when the request or the caller has no such thing: that is known, not missing.
    pub(crate) fn read<'f>(&self, facts: &'f Facts) -> Option<&'f str> {
        let (request, caller) = (&facts.request, &facts.caller);
        match self {
            Self::Model => Some(&request.model),
            Self::Session => request.session.as_deref(),
            Self::Key => Some(&caller.key),
            Self::Label => Some(&caller.label),
            Self::User => caller.user.as_deref(),
            Self::Team => caller.team.as_deref(),
            Self::Metadata(key) => request.metadata.get(&**key).map(String::as_str),
        }
    }
}

// === impl FlagSignal ===

impl FlagSignal {
    pub(crate) const NAMED: [(&'static str, Self); 7] = [
        ("stream", Self::Stream),
        ("tools", Self::Tools),
        ("images", Self::Images),
        ("structured", Self::Structured),
        ("logprobs", Self::Logprobs),
        ("named", Self::Named),
        ("pinned", Self::Pinned),
    ];

    pub(crate) const fn read(self, facts: &Facts) -> bool {
        let request = &facts.request;
        match self {
            Self::Stream => request.stream,
            Self::Tools => request.tools,
            Self::Images => request.images,
            Self::Structured => request.structured,
            Self::Logprobs => request.logprobs,
            Self::Named => !request.named.is_empty(),
            Self::Pinned => request.pinned.is_some(),
        }
    }
}

// === impl RouteNumber, RouteFlag ===

impl RouteNumber {
    pub(crate) const NAMED: [(&'static str, Self); 10] = [
        ("queued", Self::Queued),
        ("in_flight", Self::InFlight),
        ("ttft_p50", Self::TtftP50),
        ("ttft_p95", Self::TtftP95),
        ("predicted_wait", Self::PredictedWait),
        ("predicted_ttft_p95", Self::PredictedTtftP95),
        ("failed_fraction", Self::FailedFraction),
        ("expected_usd", Self::ExpectedUsd),
        ("worst_usd", Self::WorstUsd),
        ("context_tokens", Self::ContextTokens),
    ];

    pub(crate) const fn unit(self) -> Unit {
        match self {
            Self::Queued | Self::InFlight | Self::ContextTokens => Unit::Count,
            Self::TtftP50 | Self::TtftP95 | Self::PredictedWait | Self::PredictedTtftP95 => {
                Unit::Duration
            }
            Self::FailedFraction => Unit::Fraction,
            Self::ExpectedUsd | Self::WorstUsd => Unit::Usd,
        }
    }

    pub(crate) fn read(self, route: &RouteFacts) -> Option<Number> {
        let whole = match self {
            Self::Queued => Some(u64::from(route.queued)),
            Self::InFlight => Some(u64::from(route.in_flight)),
            Self::TtftP50 => route.ttft_p50_us,
            Self::TtftP95 => route.ttft_p95_us,
            Self::PredictedWait => route.predicted_wait_us,
            Self::PredictedTtftP95 => route.predicted_ttft_p95_us,
            Self::ExpectedUsd => route.expected.map(|amount| amount.pico()),
            Self::WorstUsd => route.worst_case.map(|amount| amount.pico()),
            Self::ContextTokens => route.context_tokens,
            Self::FailedFraction => {
                return route.failed_permille.map(|p| Number::fraction(u64::from(p), 1_000));
            }
        };
        whole.map(Number::whole)
    }
}

impl RouteFlag {
    pub(crate) const NAMED: [(&'static str, Self); 4] = [
        ("local", Self::Local),
        ("free", Self::Free),
        ("budgeted", Self::Budgeted),
        ("price_known", Self::PriceKnown),
    ];

    pub(crate) const fn read(self, route: &RouteFacts) -> bool {
        match self {
            Self::Local => route.local,
            Self::Free => route.free,
            Self::Budgeted => route.budgeted,
            Self::PriceKnown => route.price_known(),
        }
    }
}

/// States of a route as policies write them.
pub(crate) const STATES: [(&str, RouteState); 3] = [
    ("ready", RouteState::Ready),
    ("busy", RouteState::Busy),
    ("unavailable", RouteState::Unavailable),
];

/// A state's name.
pub(crate) fn state_name(state: RouteState) -> &'static str {
    STATES.iter().find(|(_, known)| *known == state).map_or("unknown", |(name, _)| name)
}

/// Whether the signals of the route under consideration (`route.*`) may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In a guard, which looks at one route after the other.
    EachRoute,
    /// In a `choose` rule.
    Request,
}

/// Words a route reference understands, for suggestions.
pub(crate) fn route_words() -> Vec<&'static str> {
    let numbers = RouteNumber::NAMED.iter().map(|(name, _)| *name);
    numbers.chain(RouteFlag::NAMED.iter().map(|(name, _)| *name)).chain(["state"]).collect()
}

/// How a route reference is written in a signal's name.
pub(crate) fn prefix(over: &RouteRef) -> String {
    match over {
        RouteRef::Current => "route".to_owned(),
        RouteRef::Pick(pick) => format!("routes.{pick}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_every_signal() {
        let reference = include_str!("../../../docs/policies.md");
        let mut names: Vec<String> = route_words().into_iter().map(str::to_owned).collect();
        let of = |prefix: &str, name: &str| format!("{prefix}{name}");
        names.extend(NumberSignal::OF_REQUEST.iter().map(|(name, _)| of("", name)));
        names.extend(NumberSignal::OF_TIME.iter().map(|(name, _)| of("time.", name)));
        names.extend(BudgetNumber::NAMED.iter().map(|(name, _)| of("budget.", name)));
        names.extend(TextSignal::OF_CALLER.iter().map(|(name, _)| of("caller.", name)));
        names.extend(FlagSignal::NAMED.iter().map(|(name, _)| of("", name)));
        for name in names {
            assert!(reference.contains(&format!("`{name}`")), "docs/policies.md lacks `{name}`");
        }
    }
}
