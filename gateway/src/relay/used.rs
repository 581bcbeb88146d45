//! What an answer used and what that costs, by what is known of it at any point.

use super::{Relay, shared::Sharing};
use crate::{ledger::Endpoint, wire::chat::Cost};
use policies::{PicoUsd, RoutePrice, ServiceTier, Usage, UsageSource, Used};
use std::time::Duration;

impl Relay {
    /// The service tier that served it, where that was told.
    pub(super) fn served(&self) -> Option<ServiceTier> {
        self.seen.service.or(self.started.answer.service())
    }

    /// What was used.
    pub(super) fn usage(&self) -> (Usage, UsageSource) {
        match self.seen.usage {
            Some((usage, source)) if source != UsageSource::Estimated => (usage, source),
            Some((usage, _)) => (self.bounded(usage), UsageSource::Estimated),
            None => (self.estimate(), UsageSource::Estimated),
        }
    }

    /// The same of an answer that may have been cut. What the provider has told by then it bills, and
    /// what came since beside it.
    pub(super) fn usage_so_far(&self) -> (Usage, UsageSource) {
        let told = match self.seen.usage {
            Some((told, UsageSource::Reported)) if !self.seen.usage_is_last => told,
            Some(_) => return self.usage(),
            None => match self.started.answer.told() {
                Some(told) => told,
                None => return self.usage(),
            },
        };
        let seen = if told.completion() > 0 {
            self.seen.estimate(self.started.prompt_tokens)
        } else {
            self.estimate()
        };
        // What was seen since stays within the cap too, though what is told may be above it.
        let output =
            told.output.max(seen.output.min(self.output_max.saturating_sub(told.reasoning)));
        let reasoning =
            told.reasoning.max(seen.reasoning.min(self.output_max.saturating_sub(output)));
        (Usage { output, reasoning, ..told }, UsageSource::Estimated)
    }

    fn estimate(&self) -> Usage {
        self.bounded(self.seen.estimate(self.started.prompt_tokens))
    }

    /// An estimate stays within the cap, and where reasoning is hidden it is all of the cap: how much
    /// of it was used nobody can see.
    fn bounded(&self, estimate: Usage) -> Usage {
        let output = estimate.output.min(self.output_max);
        let rest = self.output_max - output;
        let hides = self.started.route.may_hide_reasoning();
        let reasoning = if hides { rest } else { estimate.reasoning.min(rest) };
        Usage { output, reasoning, ..estimate }
    }

    /// Tokens that came since the first that was seen, for the time that they took: reported, counted,
    /// or estimated from what was seen. Hidden reasoning comes before it.
    pub(super) fn output_tokens(&self) -> u64 {
        let estimate = || self.seen.estimate(self.started.prompt_tokens);
        let usage = self.seen.usage.map_or_else(estimate, |(usage, _)| usage);
        match self.seen.reasoning_bytes {
            0 => Usage { reasoning: 0, ..usage }.completion(),
            _ => usage.completion(),
        }
    }

    /// How long a choice was, by the route's own word, for how long its answers usually are; `None`
    /// for texts that were embedded, which have no answer in tokens.
    pub(super) fn answer_tokens(&self) -> Option<u64> {
        let told = self.seen.usage.filter(|_| self.endpoint != Endpoint::Embeddings);
        told.map(|(usage, _)| self.seen.of_each_choice(usage.completion()))
    }

    /// What the request costs by what is known now, attempts that did not answer included; `None`
    /// when a price or a use is unknown.
    pub(super) fn cost(&self) -> Option<Cost> {
        if self.spared {
            return Some(Cost { total: PicoUsd::ZERO, details: Vec::new() });
        }
        let usage = self.usage().0;
        let served = self.served();
        let (price, used, missed) =
            match (&self.open, self.started.attempt, self.sharing.as_deref()) {
                // The entry learns of the engine's time and of the tier that served it when it is booked,
                // which may be later.
                (Some(open), Some(attempt), _) => {
                    let (price, used) = open.priced(attempt, usage);
                    let told = self.seen.engine.map(|engine| Duration::from_nanos(engine.ns));
                    let engine_time = told.unwrap_or(used.engine_time);
                    let service = served.unwrap_or(used.service);
                    (price, Used { engine_time, service, ..used }, open.missed_cost(attempt)?)
                }
                (_, _, Some(Sharing::Price(shared))) => {
                    let engine_time =
                        Duration::from_nanos(self.seen.engine.map_or(0, |engine| engine.ns));
                    let service = served.unwrap_or(shared.used.service);
                    let used = Used { usage, engine_time, service, ..shared.used };
                    (&shared.price, used, self.started.answer.shared_missed_cost()?)
                }
                _ => return None,
            };
        let answer = price.cost(&used).ok().flatten()?;
        let mut details = match price {
            RoutePrice::Tokens(price) => price.parts(&used).ok()?.to_vec(),
            RoutePrice::Compute(_) => vec![("engine_time", answer)],
            RoutePrice::Unknown => Vec::new(),
        };
        if missed != PicoUsd::ZERO {
            details.push(("other_attempts_cost", missed));
        }
        Some(Cost { total: answer.add(missed).ok()?, details })
    }
}
