//! Facts for tests: a plain request, and strategies that make any.

use policies::{
    BudgetFacts, CallerFacts, FACTS_VERSION, Facts, PicoUsd, PromptTokens, RequestFacts,
    RouteFacts, RouteId, RouteState, TimeFacts,
};
use proptest::{collection, option, prelude::*, sample};
use std::sync::Arc;

/// Route names that policies under test mention, and one that they do not.
const NAMES: [&str; 5] = ["edge", "edge-b", "cloud", "near", "abroad"];

/// A route that is ready and free if local, priced if not.
pub(crate) fn route(name: &str, local: bool) -> RouteFacts {
    let price = PicoUsd::from_pico(if local { 0 } else { 1_000 });
    RouteFacts {
        free: local,
        budgeted: !local,
        worst_case: Some(price),
        expected: Some(price),
        ..RouteFacts::ready(name, local)
    }
}

/// A plain request at a gateway with one local and one cloud route.
pub(crate) fn plain() -> Facts {
    Facts {
        version: FACTS_VERSION,
        request: RequestFacts {
            model: "auto".to_owned(),
            prompt_tokens: PromptTokens::exactly(100),
            max_output_tokens: 256,
            choices: 1,
            messages: 1,
            ..RequestFacts::default()
        },
        caller: Arc::default(),
        budgets: Vec::new(),
        routes: vec![route("edge", true), route("cloud", false)],
        time: TimeFacts { unix_ms: 0, minute_of_day: 720, weekday: 1 },
        draw: 0,
    }
}

prop_compose! {
    fn any_request()(
        model in sample::select(vec!["auto", "gpt-5-mini", "small", "edge", "x"]),
        pinned in option::weighted(0.2, sample::select(NAMES.to_vec())),
        named in collection::vec(sample::select(NAMES.to_vec()), 0..3),
        lengths in (0..5_000_u64, 0..5_000_u64, 0..20_000_u64),
        (max_output_tokens, max_output_tokens_asked) in (0..9_000_u64, any::<bool>()),
        choices in 1..5_u32,
        flags in any::<[bool; 5]>(),
        tags in collection::vec(
            sample::select(vec!["private", "PRIVATE", "careful", "closed", "batch", "x"]), 0..3),
        privacy in option::of(sample::select(vec!["public", "internal", ""])),
        project in option::of(sample::select(vec!["alpha", "gamma"])),
        named_given in proptest::bool::weighted(0.3),
    ) -> RequestFacts {
        let (min, more, most) = lengths;
        let pairs = [("privacy", privacy), ("project", project)];
        RequestFacts {
            model: model.to_owned(),
            pinned: pinned.map(RouteId::new),
            named: named.into_iter().filter(|_| named_given).map(RouteId::new).collect(),
            prompt_tokens: PromptTokens { min, likely: min + more, max: min + more + most },
            max_output_tokens,
            max_output_tokens_asked,
            choices,
            stream: flags[0],
            tools: flags[1],
            images: flags[2],
            structured: flags[3],
            logprobs: flags[4],
            messages: 1,
            tags: tags.into_iter().map(str::to_owned).collect(),
            metadata: pairs
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
                .collect(),
            session: None,
        }
    }
}

prop_compose! {
    fn any_route(name: &'static str)(
        local in any::<bool>(),
        state in sample::select(vec![RouteState::Ready, RouteState::Busy, RouteState::Unavailable]),
        context_tokens in option::of(0..20_000_u64),
        prompt_tokens in option::weighted(0.2, 0..20_000_u64),
        can in any::<[Option<bool>; 4]>(),
        price in option::weighted(0.8, (0..5_u64, 0..5_u64)),
        (queued, in_flight) in (0..20_u32, 0..20_u32),
        (ttft_p50_us, ttft_p95_us) in (option::of(0..3_000_000_u64), option::of(0..3_000_000_u64)),
        failed_permille in option::of(0..=1_000_u32),
    ) -> RouteFacts {
        let cents = |cents: u64| PicoUsd::from_pico(cents * 250_000_000_000);
        RouteFacts {
            state,
            context_tokens,
            prompt_tokens,
            tools: can[0],
            images: can[1],
            structured: can[2],
            logprobs: can[3],
            free: price.is_some_and(|(a, b)| a + b == 0),
            worst_case: price.map(|(expected, more)| cents(expected + more)),
            expected: price.map(|(expected, _)| cents(expected)),
            queued,
            in_flight,
            ttft_p50_us,
            ttft_p95_us,
            predicted_wait_us: None,
            predicted_ttft_p95_us: None,
            failed_permille,
            ..route(name, local)
        }
    }
}

prop_compose! {
    /// Any facts that a gateway could meet, over a few route names.
    pub(crate) fn any_facts()(
        request in any_request(),
        team in option::of(sample::select(vec!["finance", "research", "legal"])),
        user in option::of(Just("ann".to_owned())),
        budgets in collection::vec((1..1_000_u64, 0..1_000_u64, any::<bool>()), 0..3),
        routes in (
            option::weighted(0.9, any_route("edge")),
            option::weighted(0.3, any_route("edge-b")),
            option::weighted(0.9, any_route("cloud")),
            option::weighted(0.5, any_route("near")),
            option::weighted(0.5, any_route("abroad")),
        ),
        minute_of_day in 0..1_440_u16,
        weekday in 1..=7_u8,
        draw in any::<u64>(),
    ) -> Facts {
        let (a, b, c, d, e) = routes;
        Facts {
            version: FACTS_VERSION,
            request,
            caller: Arc::new(CallerFacts {
                team: team.map(str::to_owned),
                user,
                ..CallerFacts::default()
            }),
            budgets: budgets
                .into_iter()
                .enumerate()
                .map(|(ix, (limit, left, hard))| BudgetFacts {
                    id: format!("b{ix}"),
                    hard,
                    money: Some((PicoUsd::from_pico(limit), PicoUsd::from_pico(left.min(limit)))),
                    tokens: hard.then_some((limit, left.min(limit))),
                })
                .collect(),
            routes: [a, b, c, d, e].into_iter().flatten().collect(),
            time: TimeFacts { unix_ms: 0, minute_of_day, weekday },
            draw,
        }
    }
}
