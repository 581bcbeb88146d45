//! What adjustments have made of the costs of attempts: beside the entries, which stay as they were
//! booked.
//!
//! **Invariants:** it follows from the adjustments of the journal in their order and from nothing
//! else; the newest of an attempt holds; entries, rollups and what budgets were charged are as they
//! were booked, and whoever shows money adds the difference, so that no sum counts one twice.

use super::{
    books::Books,
    entry::{Adjustment, Attempt, Entry, KeyId, RequestId},
    query::{Reader, unreadable},
    retire,
    rollups::Level,
};
use crate::store::{
    BooksError, Lost,
    catalogue::Segment,
    codec::{self, Event},
    sealed::Name,
};
use foldhash::fast::RandomState;
use policies::{PicoUsd, PriceId, RouteId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Attempts of one ledger that may be adjusted: some 100 MB at most.
pub(crate) const ADJUSTED_MAX: usize = 1_000_000;

/// Where an attempt went and who asked: what sums are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The route.
    pub route: RouteId,
    /// The model, by the provider's name.
    pub model: Arc<str>,
    /// The provider.
    pub provider: Arc<str>,
    /// The key that asked.
    pub key: KeyId,
}

/// What became of one attempt's cost. `None` is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Adjusted {
    /// As it was booked.
    pub(crate) booked: Option<PicoUsd>,
    /// As it is now.
    pub(crate) cost: Option<PicoUsd>,
    /// The price row it is rated with now.
    pub(crate) price: Option<PriceId>,
    /// When its request ended (its commit), milliseconds since the Unix epoch.
    pub(crate) ended_unix_ms: u64,
    pub(crate) place: Arc<Place>,
}

/// Every attempt that was adjusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adjustments {
    by_attempt: BTreeMap<(RequestId, u16), Adjusted>,
    places: HashMap<Arc<Place>, (), RandomState>,
    prices: BTreeSet<PriceId>,
}

/// The adjustments of a ledger that is read without its index, and what may be missing of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) all: Arc<Adjustments>,
    pub(crate) lost: Vec<Lost>,
}

impl Adjustments {
    /// Takes the next adjustment of the journal.
    pub(crate) fn put(&mut self, adjustment: Adjustment) {
        let Adjustment { id, attempt, cost_before, cost, price, ended_unix_ms, place, .. } =
            adjustment;
        let adjusted =
            Adjusted { booked: cost_before, cost, price, ended_unix_ms, place: Arc::new(place) };
        self.restore((id, attempt), adjusted);
    }

    /// As [`Adjustments::put`], from a checkpoint.
    pub(crate) fn restore(&mut self, attempt: (RequestId, u16), mut adjusted: Adjusted) {
        // Thousands share a place and a price: each is kept once.
        adjusted.place = match self.places.get_key_value(&adjusted.place) {
            Some((place, ())) => Arc::clone(place),
            None => {
                self.places.insert(Arc::clone(&adjusted.place), ());
                adjusted.place
            }
        };
        if let Some(price) = &mut adjusted.price {
            match self.prices.get(price) {
                Some(known) => *price = known.clone(),
                None => drop(self.prices.insert(price.clone())),
            }
        }
        if let Some(before) = self.by_attempt.get(&attempt) {
            adjusted.booked = before.booked;
        }
        self.by_attempt.insert(attempt, adjusted);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_attempt.len()
    }

    /// What became of an attempt's cost; `None` where it was never adjusted.
    pub(crate) fn of(&self, id: RequestId, attempt: usize) -> Option<&Adjusted> {
        if self.by_attempt.is_empty() {
            return None;
        }
        self.by_attempt.get(&(id, u16::try_from(attempt).ok()?))
    }

    /// Whether anything of a request was adjusted.
    pub(crate) fn has(&self, id: RequestId) -> bool {
        self.by_attempt.range((id, 0)..=(id, u16::MAX)).next().is_some()
    }

    /// An attempt's cost as it is now.
    pub(crate) fn cost(
        &self,
        id: RequestId,
        attempt: usize,
        booked: Option<PicoUsd>,
    ) -> Option<PicoUsd> {
        self.of(id, attempt).map_or(booked, |adjusted| adjusted.cost)
    }

    /// The cost of a request as it is now: the exact sum of its attempts'; `None` if any is unknown.
    pub(crate) fn cost_of(
        &self,
        id: RequestId,
        booked: impl Iterator<Item = Option<PicoUsd>>,
    ) -> Option<PicoUsd> {
        booked
            .enumerate()
            .try_fold(PicoUsd::ZERO, |sum, (at, booked)| sum.add(self.cost(id, at, booked)?).ok())
    }

    /// The same of an entry; `None` of the outer one: nothing of it was adjusted.
    pub(crate) fn of_entry(&self, entry: &Entry) -> Option<Option<PicoUsd>> {
        let booked = entry.attempts.iter().map(|attempt: &Attempt| attempt.cost);
        self.has(entry.id).then(|| self.cost_of(entry.id, booked))
    }

    /// Every one, by request.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&(RequestId, u16), &Adjusted)> {
        self.by_attempt.iter()
    }

    /// Those of one attempt as they are stored.
    pub(crate) fn get(&self, attempt: &(RequestId, u16)) -> Option<&Adjusted> {
        self.by_attempt.get(attempt)
    }
}

impl PartialEq for Adjustments {
    fn eq(&self, other: &Self) -> bool {
        self.by_attempt == other.by_attempt
    }
}

// === reading ===

impl Books {
    /// A mark of all that was adjusted of each day (UTC) on which requests ended: another one once more
    /// is adjusted. Blocking.
    pub(crate) fn adjusted_days(&self) -> BTreeMap<u64, String> {
        self.catch_up();
        let all = Arc::clone(&self.0.keeper.derived().adjusted);
        let mut days: BTreeMap<u64, blake3::Hasher> = BTreeMap::new();
        for ((id, attempt), adjusted) in all.all() {
            let day = days.entry(adjusted.ended_unix_ms / Level::Day.ms()).or_default();
            let cost = adjusted.cost.map_or_else(String::new, |cost| cost.to_string());
            let price = adjusted.price.as_ref().map_or("", |price| &price.0);
            day.update(format!("{id} {attempt} {cost} {price}\n").as_bytes());
        }
        days.into_iter().map(|(day, mark)| (day, mark.finalize().to_hex().to_string())).collect()
    }
}

impl Reader {
    /// What adjustments made of costs: the running books know, else the journal is asked.
    pub(crate) fn adjusted(&self) -> Result<Known, BooksError> {
        if let Some(known) = self.known.get() {
            return Ok(known.clone());
        }
        let known = match &self.keeper {
            Some(keeper) => Known { all: Arc::clone(&keeper.derived().adjusted), lost: Vec::new() },
            None => self.read_adjusted()?,
        };
        Ok(self.known.get_or_init(|| known).clone())
    }

    fn read_adjusted(&self) -> Result<Known, BooksError> {
        let based = self.snapshot.dir().map(|dir| (retire::begin(&dir), dir));
        let (mut all, begins) = match based {
            Some((Ok((_, base)), _)) => ((*base.adjusted).clone(), base.next_seq),
            Some((Err(error), dir)) => return Err(unreadable(&dir, &error)),
            None => (Adjustments::default(), 0),
        };
        let mut known = Known::default();
        for block in self.snapshot.blocks() {
            let sealed_without = match &self.snapshot.segments[block.segment()] {
                Segment::Sealed(sealed) => !sealed.may_name(Name::Adjustment),
                Segment::Plain(_) => false,
            };
            if sealed_without || block.next_seq <= begins {
                continue;
            }
            let lost = self.records(&block, &mut |record| {
                let head = record.head;
                if head.kind == codec::ADJUSTMENT
                    && head.seq >= begins
                    && let Event::Adjustment(adjustment) =
                        codec::decode(head.kind, head.version, record.payload)?
                {
                    all.put(*adjustment);
                }
                Ok(())
            })?;
            known.lost.extend(lost);
        }
        known.all = Arc::new(all);
        Ok(known)
    }

    /// Every adjustment of a request with the time of its commit, in their order.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn adjustments_of(&self, id: RequestId) -> Result<Vec<(u64, Adjustment)>, BooksError> {
        let mut found = Vec::new();
        let known = self.adjusted()?.all;
        if !known.has(id) {
            return Ok(found);
        }
        for block in self.snapshot.blocks() {
            if self.excludes(block.segment(), id) {
                continue;
            }
            self.records(&block, &mut |record| {
                let head = record.head;
                if head.kind == codec::ADJUSTMENT
                    && let Event::Adjustment(adjustment) =
                        codec::decode(head.kind, head.version, record.payload)?
                    && adjustment.id == id
                {
                    found.push((head.unix_ms, *adjustment));
                }
                Ok(())
            })?;
        }
        Ok(found)
    }
}
