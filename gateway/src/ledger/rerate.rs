//! Rating past attempts anew, with prices that were corrected.
//!
//! **Invariants:** entries stay as they were booked, and each difference is an adjustment of its
//! own, exact to the pico-USD; what cannot be rated exactly is left out and said, never guessed;
//! an attempt that costs already what it should gets no adjustment, so that doing it again does
//! nothing, and doing it again after a crash does the rest. Budgets keep what they were charged.

use super::{
    Filter,
    adjusted::{ADJUSTED_MAX, Adjustments, Place},
    books::Books,
    entry::{Adjustment, Attempt, Entry},
};
use crate::store::{BooksError, CommitTicket};
use policies::{PicoUsd, PicoUsdTotal, PriceId, RoutePrice, ServiceTier, Used};
use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

/// Adjustments that are queued before the last of them is waited for.
const BATCH: usize = 256;
/// Groups of a report; what goes beyond is in the sums alone.
const GROUPS_MAX: usize = 1_000;

/// What is to be rated anew, and with what.
#[expect(missing_debug_implementations, reason = "it borrows a function")]
pub struct Rerate<'a> {
    /// Which requests; of them the attempts that went to its route, model and provider.
    pub filter: &'a Filter,
    /// The price that an attempt of a request should have had; `None` where nobody said.
    pub price: &'a dyn Fn(&Entry, &Attempt) -> Option<RoutePrice>,
    /// Why, in the operator's words: adjustments are written. `None`: nothing is.
    pub apply: Option<&'a str>,
}

/// What rating anew came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rerated {
    /// Attempts that cost something else now.
    pub changed: u64,
    /// Those among them that were never adjusted before, each of which takes a place.
    pub added: u64,
    /// Attempts that cost already what they should.
    pub unchanged: u64,
    /// Attempts that cannot be rated exactly, by why.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Since when entries are kept, where older attempts were meant too, Unix milliseconds: those keep
    /// their cost.
    pub dropped_before_unix_ms: Option<u64>,
    /// The changed ones.
    pub sums: Difference,
    /// The same by provider, model, price before and price now.
    pub by: BTreeMap<RatedFrom, Difference>,
}

/// The changed attempts of one model from one price to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RatedFrom {
    /// The provider.
    pub provider: String,
    /// The model, by the provider's name.
    pub model: String,
    /// The price row before; `None`: unknown.
    pub price_before: Option<PriceId>,
    /// The price row now.
    pub price: Option<PriceId>,
}

/// What some attempts cost before and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Attempts.
    pub attempts: u64,
    /// Attempts among them whose cost was unknown before.
    pub unknown_before: u64,
    /// Sum of the known costs before.
    pub before: PicoUsdTotal,
    /// Sum of the costs now.
    pub now: PicoUsdTotal,
}

impl Difference {
    fn add(&mut self, before: Option<PicoUsd>, now: PicoUsd) {
        self.attempts += 1;
        self.now = self.now.plus(now);
        match before {
            Some(before) => self.before = self.before.plus(before),
            None => self.unknown_before += 1,
        }
    }

    /// The difference in US dollars, with its sign.
    #[must_use]
    pub fn signed(&self) -> String {
        signed(self.before.pico(), self.now.pico())
    }
}

/// What `now` is more than `before`, in US dollars with twelve places; less has a minus.
#[must_use]
pub(crate) fn signed(before: u128, now: u128) -> String {
    let amount = PicoUsdTotal::from_pico(now.abs_diff(before));
    if now < before { format!("-{amount}") } else { amount.to_string() }
}

impl Books {
    /// Rates past attempts anew. Blocking, reads everything that is meant. One at a time.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`] where the journal is, or where more would be adjusted than is kept;
    /// that of the store where an adjustment cannot be written: those before it stand.
    pub fn rerate(&self, asked: &Rerate<'_>) -> Result<Rerated, BooksError> {
        let _one_at_a_time = self.0.rerating.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = self.reader();
        let known = reader.adjusted()?.all;
        let mut writing = asked.apply.map(|reason| Writing::new(self, reason));
        if asked.apply.is_some() {
            // What cannot be kept is refused before anything is written.
            let counted = self.rated(&reader, asked, &known, &mut None)?;
            if counted.added > (ADJUSTED_MAX.saturating_sub(known.len())) as u64 {
                let message = format!(
                    "{} more attempts would be adjusted and {} are: more than the {ADJUSTED_MAX} \
                     that one ledger keeps; choose a shorter time",
                    counted.added,
                    known.len()
                );
                return Err(BooksError::Unreadable(message.into()));
            }
        }
        let rated = self.rated(&reader, asked, &known, &mut writing)?;
        if let Some(writing) = writing {
            writing.end()?;
        }
        Ok(rated)
    }

    fn rated(
        &self,
        reader: &super::Reader,
        asked: &Rerate<'_>,
        known: &Adjustments,
        writing: &mut Option<Writing<'_>>,
    ) -> Result<Rerated, BooksError> {
        let dropped_before_unix_ms = reader.dropped_before(asked.filter);
        let (mut rated, mut failed) =
            (Rerated { dropped_before_unix_ms, ..Rerated::default() }, None);
        reader.each(asked.filter, &mut |ended_ms, entry| {
            for (index, attempt) in entry.attempts.iter().enumerate() {
                if attempt.voided || !meant(asked.filter, &entry, attempt) {
                    continue;
                }
                let (cost, price) = match rate(asked, &entry, attempt) {
                    Ok(priced) => priced,
                    Err(why) => {
                        *rated.left_out.entry(why).or_default() += 1;
                        continue;
                    }
                };
                let now = known.of(entry.id, index);
                let before = now.map_or(attempt.cost, |adjusted| adjusted.cost);
                if before == Some(cost) {
                    rated.unchanged += 1;
                    continue;
                }
                let price_before = now.map_or(&attempt.price, |adjusted| &adjusted.price).clone();
                rated.added += u64::from(now.is_none());
                rated.change(attempt, (before, price_before.clone()), (cost, price.clone()));
                let Some(writing) = writing else { continue };
                let Ok(attempt_index) = u16::try_from(index) else { continue };
                let adjustment = Adjustment {
                    id: entry.id,
                    attempt: attempt_index,
                    price_before,
                    price,
                    cost_before: before,
                    cost: Some(cost),
                    reason: writing.reason.to_owned(),
                    ended_unix_ms: ended_ms,
                    place: Place {
                        route: attempt.route.clone(),
                        model: attempt.model.as_str().into(),
                        provider: attempt.provider.as_str().into(),
                        key: entry.key.clone(),
                    },
                };
                if let Err(error) = writing.write(&adjustment) {
                    failed = Some(error);
                    return false;
                }
            }
            true
        })?;
        failed.map_or(Ok(rated), Err)
    }
}

impl Rerated {
    fn change(
        &mut self,
        attempt: &Attempt,
        (before, price_before): (Option<PicoUsd>, Option<PriceId>),
        (cost, price): (PicoUsd, Option<PriceId>),
    ) {
        self.changed += 1;
        self.sums.add(before, cost);
        let from = RatedFrom {
            provider: attempt.provider.clone(),
            model: attempt.model.clone(),
            price_before,
            price,
        };
        if self.by.len() < GROUPS_MAX || self.by.contains_key(&from) {
            self.by.entry(from).or_default().add(before, cost);
        }
    }
}

/// A filter means whole requests; of those only the attempts that went where it says.
fn meant(filter: &Filter, entry: &Entry, attempt: &Attempt) -> bool {
    filter.route.as_ref().is_none_or(|route| *route == attempt.route)
        && filter.provider.as_ref().is_none_or(|provider| *provider == attempt.provider)
        && filter
            .model
            .as_ref()
            .is_none_or(|model| *model == attempt.model || *model == entry.model_asked)
}

/// What an attempt should have cost, and by which row.
fn rate(
    asked: &Rerate<'_>,
    entry: &Entry,
    attempt: &Attempt,
) -> Result<(PicoUsd, Option<PriceId>), &'static str> {
    let price = (asked.price)(entry, attempt).ok_or("no price is known for it")?;
    let tier = attempt.service_tier.as_deref().map(ServiceTier::from_word).unwrap_or_default();
    match &price {
        RoutePrice::Unknown => return Err("no price is known for it"),
        RoutePrice::Compute(_) if attempt.times.engine_ns.is_none() => {
            return Err("its engine time is unknown");
        }
        RoutePrice::Tokens(_) if attempt.usage.is_none() => return Err("its usage is unknown"),
        // How many images there were is not written down.
        RoutePrice::Tokens(price)
            if !price.fees.per_image.is_zero() && entry.decision.facts.request.images =>
        {
            return Err("the price is by the image, and their number is unknown");
        }
        _ => {}
    }
    let times = &attempt.times;
    let took_us = times.offset_us + times.wait_us + times.head_us + times.first_token_us;
    let ended_ms = entry.arrived_unix_ms.saturating_add((took_us + times.stream_us) / 1_000);
    let used = Used {
        usage: attempt.usage.unwrap_or_default(),
        engine_time: Duration::from_nanos(times.engine_ns.unwrap_or(0)),
        service: tier,
        images: 0,
        at_unix_s: ended_ms / 1_000,
    };
    match price.cost(&used) {
        Ok(Some(cost)) => Ok((cost, price.id().cloned())),
        Ok(None) => Err("no price is known for it"),
        Err(_) => Err("its cost does not fit an amount"),
    }
}

/// Writes adjustments, a bounded number of them ahead of the disk.
struct Writing<'a> {
    books: &'a Books,
    reason: &'a str,
    last: Option<CommitTicket>,
    queued: usize,
}

impl<'a> Writing<'a> {
    fn new(books: &'a Books, reason: &'a str) -> Self {
        Self { books, reason, last: None, queued: 0 }
    }

    fn write(&mut self, adjustment: &Adjustment) -> Result<(), BooksError> {
        let ticket = self.books.adjust(adjustment);
        if !ticket.is_queued() {
            // The ticket that comes after it says nothing of this one.
            return ticket.blocking();
        }
        self.last = Some(ticket);
        self.queued += 1;
        if self.queued < BATCH {
            return Ok(());
        }
        self.queued = 0;
        self.last.take().map_or(Ok(()), CommitTicket::blocking)
    }

    /// Everything is durable.
    fn end(mut self) -> Result<(), BooksError> {
        self.last.take().map_or(Ok(()), CommitTicket::blocking)
    }
}
