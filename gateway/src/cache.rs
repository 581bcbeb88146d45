//! Answers that were given before, and answers that are being given to somebody else.
//!
//! Off unless the operator switches it on: only then are prompts' hashes and answers kept, in memory
//! and nowhere else. **Invariants:** one caller never gets what another asked for; what a guard does
//! not allow now is not given from here either; every answer has an entry of its own.

pub mod flight;
mod idempotency;
mod key;
mod room;
mod shelf;

pub use flight::{End, Flight, Head, Keep, Waiter};
pub use idempotency::{Idempotency, Repeat};
pub use shelf::{Landing, Takeoff};

use crate::{
    config::{CacheConfig, CacheMode},
    ledger::KeyId,
    refusal::Refusal,
    wire::{BadRequest, ChatRequest, header_once},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use key::CacheKey;
use moka::policy::EvictionPolicy;
use policies::{Decision, LeaveOut, RouteId};
use shelf::{Found, Shelf};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The header with which a request uses the cache or does not.
static HEADER: HeaderName = HeaderName::from_static("x-tollgate-cache");

/// Answers by what was asked.
#[derive(Debug)]
pub struct AnswerCache {
    config: CacheConfig,
    shelf: Arc<Shelf>,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
}

/// What the cache did since the start, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Requests that got a kept answer.
    pub hits: u64,
    /// Requests that it was looked at for and that asked a route.
    pub misses: u64,
    /// Requests that joined one that was running.
    pub coalesced: u64,
    /// Answers given up for room or for age.
    pub evicted: u64,
    /// Answers kept now.
    pub answers: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Shared calls that run now.
    pub flights: u64,
    /// Bytes of the answers of those, of what is kept and of what is still being given.
    pub held_bytes: u64,
    /// Shared answers that let go of their beginning, for their own length or for want of room.
    pub let_go: u64,
}

/// What the cache has for a request.
#[derive(Debug)]
pub enum LookUp {
    /// It was not looked at.
    Bypass,
    /// A kept answer.
    Hit(Waiter),
    /// The answer to a like request that is running.
    Coalesced(Waiter),
    /// Nothing: this request's answer will be shared, and kept if it is whole and not too large.
    Miss(Takeoff),
    /// Nothing, and this request's answer is its own: it has a deadline or a ceiling of cost that
    /// others did not ask for.
    MissAlone,
}

/// What a request says about the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Unsaid,
    On,
    Off,
    /// Asks the route and keeps its answer in place of the one that is there.
    Refresh,
}

impl AnswerCache {
    /// As configured.
    #[must_use]
    pub fn new(config: CacheConfig) -> Self {
        Self {
            shelf: Shelf::new(config.bytes_max, config.ttl, EvictionPolicy::tiny_lfu()),
            config,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
        }
    }

    /// What there is for this request, as far as `decision` allows its route.
    ///
    /// # Errors
    /// [`Refusal::Bad`] for a wish that is not known.
    pub fn look_up(
        &self,
        request: &ChatRequest,
        headers: &HeaderMap,
        caller: &KeyId,
        decision: &Decision,
    ) -> Result<LookUp, Refusal> {
        let found = self.find(request, headers, caller, decision)?;
        match found {
            LookUp::Bypass => {}
            LookUp::Hit(_) => count(&self.hits),
            LookUp::Coalesced(_) => count(&self.coalesced),
            LookUp::Miss(_) | LookUp::MissAlone => count(&self.misses),
        }
        Ok(found)
    }

    fn find(
        &self,
        request: &ChatRequest,
        headers: &HeaderMap,
        caller: &KeyId,
        decision: &Decision,
    ) -> Result<LookUp, Refusal> {
        let wish = wish(headers)?;
        if !self.is_for(request, wish) {
            return Ok(LookUp::Bypass);
        }
        let Some(key) = CacheKey::of(request, caller, &decision.version) else {
            return Ok(LookUp::Bypass);
        };
        if wish == Wish::Refresh {
            self.shelf.forget(&key);
        }
        let alone = request.deadline.is_some() || request.max_cost.is_some();
        Ok(match self.shelf.find(key, key, Keep::WhileWanted) {
            Found::Whole(kept) => {
                let route = kept.flight.head().map(|head| head.route.id().clone());
                match route.filter(|route| allows(decision, route)) {
                    Some(_) => LookUp::Hit(kept.flight.share()),
                    None => LookUp::MissAlone,
                }
            }
            Found::Flying(_) if alone || wish == Wish::Refresh => LookUp::MissAlone,
            Found::Flying(kept) => kept.flight.join().map_or(LookUp::MissAlone, LookUp::Coalesced),
            Found::Yours(_) if alone => LookUp::MissAlone,
            Found::Yours(takeoff) => LookUp::Miss(takeoff),
        })
    }

    /// Whether an answer of so many bytes is kept.
    #[must_use]
    pub fn keeps(&self, bytes: usize) -> bool {
        bytes <= self.config.answer_bytes_max
    }

    /// What it did since the start, and what it holds.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            coalesced: self.coalesced.load(Ordering::Relaxed),
            ..self.shelf.counts()
        }
    }

    /// Ends every flight: the program stops.
    pub fn stop(&self) {
        self.shelf.stop();
    }

    fn is_for(&self, request: &ChatRequest, wish: Wish) -> bool {
        match (self.config.mode, wish) {
            (CacheMode::Off, _) | (_, Wish::Off) => false,
            (CacheMode::All, _) | (_, Wish::On | Wish::Refresh) => true,
            (CacheMode::Asked, Wish::Unsaid) => false,
            (CacheMode::TemperatureZero, Wish::Unsaid) => request.is_deterministic(),
        }
    }
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// Whether the guards allow `route`: it is in the plan, or only was not chosen.
#[must_use]
pub fn allows(decision: &Decision, route: &RouteId) -> bool {
    let left_out = decision.left_out.iter().find(|left| left.route == *route);
    match left_out {
        Some(left) => matches!(left.reason, LeaveOut::NotChosen | LeaveOut::Unavailable),
        None => decision.plan.routes().any(|planned| planned == route),
    }
}

/// Reads what a request wishes of the cache and does nothing about it.
///
/// # Errors
/// [`Refusal::Bad`] for a wish that is not known.
pub fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    wish(headers).map(drop)
}

/// A word that is not known is refused: who wants no kept answer must not get one for a typo.
fn wish(headers: &HeaderMap) -> Result<Wish, Refusal> {
    Ok(match header_once(headers, &HEADER)?.map(HeaderValue::as_bytes) {
        None => Wish::Unsaid,
        Some(b"on") => Wish::On,
        Some(b"off") => Wish::Off,
        Some(b"refresh") => Wish::Refresh,
        Some(_) => {
            let message = format!("`{HEADER}` must be on, off or refresh");
            return Err(Refusal::Bad(BadRequest {
                param: Some(HEADER.to_string()),
                message,
                code: "invalid_value",
            }));
        }
    })
}
