//! A request as a real one leaves the ledger: who, what, why, and the facts of its decision.

use std::sync::Arc;

use gateway::ledger::{
    Ask, AttemptIndex, AttemptOutcome, Books, DecisionRecord, Ending, Endpoint, EntryHead, KeyId,
    OpenEntry, Outcome, Role,
};
use gateway::timeline::Timeline;
use policies::{
    Facts, Fees, PicoUsd, PolicyName, PolicyVersion, PriceId, PromptTokens, RateTable,
    RequestFacts, RouteFacts, RouteId, RoutePrice, RouteState, RuleName, ServiceTier, TimeFacts,
    TokenPrice, TokenRates, Usage, UsageSource,
};

/// Keys, users, models and sessions that take turns.
const KEYS: u64 = 200;
const MODELS: u64 = 6;
const REQUESTS_PER_SESSION: u64 = 12;

/// What does not change from one request to the next.
pub(super) struct Maker {
    price: RoutePrice,
    facts: Facts,
}

impl Maker {
    pub(super) fn new() -> Maker {
        let rate = PicoUsd::from_pico;
        let base =
            TokenRates { input: rate(150_000), output: rate(600_000), ..TokenRates::default() };
        let price = TokenPrice {
            id: PriceId(Arc::from("0123456789abcdef")),
            standard: RateTable { base, tiers: Vec::new() },
            hours: Vec::new(),
            services: Vec::new(),
            fees: Fees::default(),
        };
        Maker { price: RoutePrice::Tokens(Arc::new(price)), facts: facts() }
    }

    /// The `n`th request.
    pub(super) fn head(&self, books: &Books, n: u64, unix_ms: u64) -> EntryHead {
        EntryHead {
            id: books.request_id(),
            arrived_unix_ms: unix_ms,
            key: KeyId(Arc::from(format!("key_{:012}", n % KEYS))),
            user: Some(format!("user-{}", n % (KEYS / 2))),
            team: Some(format!("team-{}", n % 10)),
            session: Some(format!("run-{}", n / REQUESTS_PER_SESSION)),
            tags: vec![if n.is_multiple_of(50) { "batch" } else { "online" }.to_owned()],
            endpoint: Endpoint::ChatCompletions,
            model_asked: "auto".to_owned(),
            stream: true,
            decision: DecisionRecord {
                policy: PolicyName(Arc::from("edge-first")),
                version: PolicyVersion(Arc::from("0123456789abcdef")),
                rule: RuleName(Arc::from(if n.is_multiple_of(3) { "long" } else { "default" })),
                plan: vec![RouteId::new("edge"), RouteId::new("cloud")],
                left_out: Vec::new(),
                facts: self.facts.clone(),
            },
            output_cap_asked: 512,
            parent: None,
            step: None,
            timeline: Timeline::start(),
        }
    }

    /// Its one attempt.
    pub(super) fn ask(&self, n: u64) -> Ask {
        Ask {
            route: RouteId::new(if n.is_multiple_of(4) { "cloud" } else { "cloud-small" }),
            model: format!("model-{}", n % MODELS),
            provider: "acme".to_owned(),
            role: Role::Primary,
            parent: None,
            price: self.price.clone(),
            worst_money: PicoUsd::from_pico(1_000_000_000),
            budgeted: true,
            worst_tokens: 1_000,
            output_cap: 512,
            service: ServiceTier::Standard,
            images: 0,
            avoided: None,
            model_file: None,
            service_tier: None,
        }
    }
}

/// Writes what the attempt used, and ends it; the ending of the request.
pub(super) fn answered(entry: &mut OpenEntry, index: AttemptIndex, n: u64) -> Ending {
    let attempt = entry.attempt(index);
    attempt.usage = Some(Usage { input: 200 + n % 800, output: 20 + n % 300, ..Usage::default() });
    attempt.usage_source = Some(UsageSource::Reported);
    attempt.upstream_status = Some(200);
    attempt.upstream_id = Some(format!("chatcmpl-{n:024}"));
    attempt.finish = Some("stop".to_owned());
    attempt.times.ttft_us = Some(80_000 + n % 400_000);
    entry.end_attempt(index, AttemptOutcome::Completed, false);
    Ending {
        outcome: Outcome::Completed,
        status: Some(200),
        answered_by: Some(index),
        ttft_us: Some(81_000 + n % 400_000),
        tpot_ns: Some(8_000_000 + n % 9_000_000),
    }
}

fn facts() -> Facts {
    let route = |name: &str, local: bool| RouteFacts {
        id: RouteId::new(name),
        local,
        model: format!("model-of-{name}"),
        state: RouteState::Ready,
        context_tokens: Some(128_000),
        prompt_tokens: None,
        tools: Some(true),
        images: Some(false),
        structured: None,
        logprobs: None,
        free: local,
        budgeted: !local,
        worst_case: Some(PicoUsd::from_pico(1_000_000_000)),
        expected: Some(PicoUsd::from_pico(300_000_000)),
        queued: 1,
        in_flight: 7,
        ttft_p50_us: Some(90_000),
        ttft_p95_us: Some(350_000),
        failed_permille: Some(2),
        predicted_wait_us: local.then_some(0),
        predicted_ttft_p95_us: local.then_some(400_000),
    };
    Facts {
        version: policies::FACTS_VERSION,
        request: RequestFacts {
            model: "auto".to_owned(),
            prompt_tokens: PromptTokens { min: 40, likely: 600, max: 2_400 },
            max_output_tokens: 512,
            max_output_tokens_asked: true,
            choices: 1,
            stream: true,
            messages: 7,
            ..RequestFacts::default()
        },
        caller: Arc::default(),
        budgets: Vec::new(),
        routes: vec![route("edge", true), route("cloud", false), route("cloud-small", false)],
        time: TimeFacts::default(),
        draw: 42,
    }
}
