//! One attempt while it runs: what is held for it, and the record that grows with it.
//!
//! **Invariants:** only the first end counts; unknown usage or an unknown price is `None`, never 0.

use super::{
    accounts::Amount,
    books::Shared,
    budgets::Holds,
    entry::{Attempt, AttemptOutcome, AttemptTimes},
    extension::Extra,
    open_entry::{Ask, AttemptIndex},
};
use policies::{PicoUsd, RoutePrice, ServiceTier, TokenPrice, Usage, Used};
use std::{sync::Arc, time::Duration};

#[derive(Debug)]
pub(super) struct Running {
    pub(super) record: Attempt,
    pub(super) price: RoutePrice,
    pub(super) service: ServiceTier,
    pub(super) images: u32,
    pub(super) avoided: Option<Arc<TokenPrice>>,
    /// What whoever was asked said that it cost in all, where no usage tells it.
    pub(super) told: Option<PicoUsd>,
    pub(super) worst_money: PicoUsd,
    pub(super) holds: Arc<Holds>,
    pub(super) held: Amount,
    /// What was granted beyond `held` while it ran, part of it once it has ended; `None` where
    /// nothing is: it is not paid by engine time.
    pub(super) extra: Option<Arc<Extra>>,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It runs.
    Open,
    /// It ended; its money is held until the end is queued.
    Ended,
    /// The end is queued, the money is free.
    Settled,
}

impl Running {
    pub(super) fn new(
        ask: Ask,
        held: Amount,
        holds: Arc<Holds>,
        budgeted: bool,
        offset_us: u64,
    ) -> Self {
        let record = Attempt {
            route: ask.route,
            model: ask.model,
            provider: ask.provider,
            role: ask.role,
            parent: ask.parent.map(|AttemptIndex(index)| index),
            outcome: AttemptOutcome::Cancelled,
            upstream_status: None,
            upstream_id: None,
            usage: None,
            usage_source: None,
            price: ask.price.id().cloned(),
            budgeted,
            reserved: held.money,
            reserved_tokens: held.tokens,
            voided: false,
            cost: None,
            overrun: PicoUsd::ZERO,
            avoided_cost: None,
            output_cap: ask.output_cap,
            finish: None,
            times: AttemptTimes { offset_us, ..AttemptTimes::default() },
            model_file: ask.model_file,
            service_tier: ask.service_tier,
            finishes: Vec::new(),
            hedge_winner: None,
            retries: 0,
            guesses: None,
        };
        Self {
            record,
            extra: matches!(ask.price, RoutePrice::Compute(_)).then(Arc::default),
            price: ask.price,
            service: ask.service,
            images: ask.images,
            avoided: ask.avoided,
            told: None,
            worst_money: ask.worst_money,
            holds,
            held,
            state: State::Open,
        }
    }

    /// Prices what was used. Only the first end counts.
    pub(super) fn end(&mut self, outcome: AttemptOutcome, void: bool, now_s: u64) {
        if self.state != State::Open {
            return;
        }
        self.state = State::Ended;
        let extended = self.extra.as_ref().map(|extra| extra.end()).unwrap_or_default();
        let with = |money: PicoUsd, more| money.add(more).unwrap_or(PicoUsd::MAX);
        self.worst_money = with(self.worst_money, extended.worst);
        self.held.money = with(self.held.money, extended.held);
        self.record.reserved = with(self.record.reserved, extended.held);
        let used = self.used(self.record.usage.unwrap_or_default(), now_s);
        let record = &mut self.record;
        record.outcome = outcome;
        record.voided = void;
        if void {
            record.usage = None;
            record.usage_source = None;
            record.cost = Some(PicoUsd::ZERO);
            return;
        }
        record.cost = match self.told.filter(|_| !self.price.is_free()) {
            Some(told) => Some(told),
            None => cost(&self.price, record, &used),
        };
        if let (true, Some(cost)) = (record.budgeted, record.cost) {
            record.overrun = cost.less(record.reserved);
        }
        record.avoided_cost = match (&self.avoided, &record.usage) {
            (Some(price), Some(usage)) => {
                price.cost(&Used { at_unix_s: now_s, ..Used::tokens(*usage) }).ok()
            }
            _ => None,
        };
    }

    /// What it used, for its price.
    pub(super) fn used(&self, usage: Usage, at_unix_s: u64) -> Used {
        let said = self.record.service_tier.as_deref().map(ServiceTier::from_word);
        Used {
            usage,
            engine_time: Duration::from_nanos(self.record.times.engine_ns.unwrap_or(0)),
            service: said.unwrap_or(self.service),
            images: self.images,
            at_unix_s,
        }
    }

    pub(super) fn settle(&mut self, books: &Shared) {
        if self.state != State::Settled {
            self.state = State::Settled;
            books.release(&self.holds, self.held, self.record.charge(), books.clock.unix_ms());
        }
    }
}

/// The exact cost of what was used; `None` when the price or the use is unknown.
fn cost(price: &RoutePrice, record: &Attempt, used: &Used) -> Option<PicoUsd> {
    if price.is_free() {
        return Some(PicoUsd::ZERO);
    }
    let priced = match price {
        RoutePrice::Tokens(price) => record.usage.map(|_| price.cost(used))?,
        RoutePrice::Compute(price) => {
            record.times.engine_ns.map(|_| price.cost(used.engine_time))?
        }
        RoutePrice::Unknown => return None,
    };
    match priced {
        Ok(cost) => Some(cost),
        Err(error) => {
            tracing::error!(%error, route = %record.route, "an attempt's cost does not fit");
            None
        }
    }
}
