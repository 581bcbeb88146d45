//! What policies know of a route by its configuration alone.

use super::{LocalConfig, RouteConfig, RouteSource};
use policies::{PicoUsd, RequestFacts, RouteFacts, RoutePrice, Usage, Used, WorstCase};
use std::time::Duration;

impl RouteConfig {
    /// The model behind it, by the provider's name.
    #[must_use]
    pub fn model(&self) -> &str {
        match &self.source {
            RouteSource::Local(local) => &local.model,
            RouteSource::Cloud(cloud) => &cloud.model,
        }
    }

    /// It at this price, ready, with nobody on it and nothing seen of it, and no request's price yet.
    #[must_use]
    pub fn facts(&self, price: &RoutePrice) -> RouteFacts {
        RouteFacts {
            context_tokens: self.context_tokens,
            tools: self.can.tools,
            images: self.can.images,
            structured: self.can.structured,
            logprobs: self.can.logprobs,
            free: price.is_free(),
            budgeted: self.budgeted,
            ..RouteFacts::of(self.id.clone(), self.model().to_owned(), self.is_local())
        }
    }

    /// It as a request would have found it that was admitted at a second of the Unix epoch, had it been
    /// there: ready, and with nothing seen of it. `usual_output` is how many tokens answers had then.
    #[must_use]
    pub fn assumed(
        &self,
        request: &RequestFacts,
        at_unix_s: u64,
        usual_output: Option<u64>,
    ) -> RouteFacts {
        let price = self.price.at(at_unix_s);
        let (input, cap) = (request.prompt_tokens.likely, request.max_output_tokens);
        let choices = u64::from(request.choices);
        let output = usual_output.unwrap_or(cap).min(cap).saturating_mul(choices);
        let engine_time = |output| match &self.source {
            RouteSource::Local(local) => local.engine_time_max(input, output),
            RouteSource::Cloud(_) => Duration::ZERO,
        };
        let bounds = WorstCase {
            prompt_tokens: request.prompt_tokens.max,
            output_tokens: cap,
            choices,
            engine_time: engine_time(cap),
            // Facts tell whether there are images, and not how many.
            images: u32::from(request.images),
            ..WorstCase::default()
        };
        let used = Used {
            engine_time: engine_time(output),
            images: bounds.images,
            at_unix_s,
            ..Used::tokens(Usage { input, output, ..Usage::default() })
        };
        RouteFacts {
            worst_case: self.worst_case(&price, &bounds),
            expected: price.cost(&used).ok().flatten(),
            ..self.facts(&price)
        }
    }

    /// The most an attempt within `bounds` can cost: by the price, or the configured maximum where
    /// the price is unknown; `None` when neither is known or the sum does not fit an amount.
    #[must_use]
    pub fn worst_case(&self, price: &RoutePrice, bounds: &WorstCase) -> Option<PicoUsd> {
        match price {
            RoutePrice::Unknown => self.unknown_price_max,
            price => price.worst_case(bounds).ok().flatten(),
        }
    }
}

impl LocalConfig {
    /// The first bound of a job's engine time, which the engine enforces.
    #[must_use]
    pub fn engine_time_max(&self, prompt_tokens: u64, output_tokens: u64) -> Duration {
        times(self.prefill_per_token_max, prompt_tokens)
            .saturating_add(times(self.decode_per_token_max, output_tokens))
    }
}

fn times(each: Duration, count: u64) -> Duration {
    let nanos = each.as_nanos().saturating_mul(u128::from(count));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
