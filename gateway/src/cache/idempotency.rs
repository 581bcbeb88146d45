//! `Idempotency-Key`: a request sent twice is answered once and charged once.
//!
//! The first request with a key runs to its end even if its client leaves, because the client may
//! come back for the answer. A second one with the same key and the same content gets that answer, or
//! 409 while it runs; one with other content is refused. **Invariants:** keys are a caller's own;
//! what owed nothing (a refusal before any route was paid) is forgotten, so that it may be tried
//! again; what is remembered is bounded in bytes and age.

use super::{
    CacheCounts,
    flight::{Keep, Waiter},
    key::CacheKey,
    shelf::{Found, Shelf, Takeoff},
};
use crate::{
    config::IdempotencyConfig,
    ledger::KeyId,
    refusal::Refusal,
    wire::{BadRequest, ChatRequest, header_once},
};
use http::{HeaderMap, HeaderName};
use moka::policy::EvictionPolicy;
use policies::PolicyVersion;
use std::sync::Arc;

/// The header.
static HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// Requests by their idempotency keys.
#[derive(Debug)]
pub struct Idempotency {
    config: IdempotencyConfig,
    shelf: Arc<Shelf>,
}

/// What an idempotency key leads to.
#[derive(Debug)]
pub enum Repeat {
    /// The request carries none.
    None,
    /// It is the first with this key.
    First(Takeoff),
    /// It has been answered.
    Again(Waiter),
}

impl Idempotency {
    /// As configured.
    #[must_use]
    pub fn new(config: IdempotencyConfig) -> Self {
        // Every answer is taken, however full it is: the newest is the likeliest to be asked for again.
        Self { shelf: Shelf::new(config.bytes_max, config.ttl, EvictionPolicy::lru()), config }
    }

    /// Whether this request was here before.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] while the first one runs, [`Refusal::Bad`] for a key that is no key or
    /// belongs to another request.
    pub fn look_up(
        &self,
        request: &ChatRequest,
        headers: &HeaderMap,
        caller: &KeyId,
    ) -> Result<Repeat, Refusal> {
        let Some(key) = self.key(headers)? else { return Ok(Repeat::None) };
        // The policy may have changed in between: that makes no other request of it.
        let fingerprint = CacheKey::of(request, caller, &PolicyVersion(Arc::from("")))
            .ok_or_else(|| bad("a request that nests so deeply cannot be repeated safely"))?;
        let key = CacheKey::of_idempotency(key, caller);
        let found = self.shelf.find(key, fingerprint, Keep::ToItsEnd);
        match found {
            Found::Yours(takeoff) => Ok(Repeat::First(takeoff)),
            Found::Whole(kept) | Found::Flying(kept) if kept.fingerprint != fingerprint => {
                Err(bad(
                    "this idempotency key was used for another request; use a new key for a new request",
                ))
            }
            Found::Whole(kept) => Ok(Repeat::Again(kept.flight.share())),
            Found::Flying(_) => Err(Refusal::Conflict(
                "the first request with this idempotency key is still running; ask again later"
                    .to_owned(),
            )),
        }
    }

    /// The key that a request names.
    ///
    /// # Errors
    /// [`Refusal::Bad`] for one that is no key, or where there are none.
    pub fn key<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, Refusal> {
        let Some(key) = header_once(headers, &HEADER)? else { return Ok(None) };
        if self.config.bytes_max == 0 {
            return Err(bad("idempotency keys are switched off on this gateway"));
        }
        let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
        key.map(Some).ok_or_else(|| bad("an idempotency key is 1 to 255 visible characters"))
    }

    /// What its answers take, and how many of them let go of their beginning.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        self.shelf.counts()
    }

    /// Ends every flight: the program stops.
    pub fn stop(&self) {
        self.shelf.stop();
    }
}

fn bad(message: &str) -> Refusal {
    Refusal::Bad(BadRequest {
        param: Some("Idempotency-Key".to_owned()),
        message: message.to_owned(),
        code: "idempotency_key_invalid",
    })
}

#[cfg(test)]
mod tests {
    use super::{CacheKey, Found, Idempotency, IdempotencyConfig, Keep, Shelf};
    use crate::{
        cache::flight::End,
        ledger::KeyId,
        wire::{Event, Seen},
    };
    use bytes::Bytes;
    use futures::FutureExt as _;
    use std::{sync::Arc, time::Duration};

    fn small() -> Arc<Shelf> {
        let config = IdempotencyConfig { ttl: Duration::from_secs(60), bytes_max: 100_000 };
        Idempotency::new(config).shelf
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::of_idempotency(name, &KeyId("key_a".into()))
    }

    /// Whether there was nothing under the key, so that an answer of so many bytes was put there.
    fn answered(shelf: &Arc<Shelf>, name: &str, bytes: usize) -> bool {
        let Found::Yours(takeoff) = shelf.find(key(name), key("same"), Keep::ToItsEnd) else {
            return false;
        };
        let data = Bytes::from(vec![b'x'; bytes]);
        let whole = Event::Whole { body: data, seen: Seen::default() };
        takeoff.flight.push(whole).now_or_never().unwrap();
        takeoff.landing.land(End::Whole { cost: None }, true);
        // What it gives up, it gives up now.
        let _counts = shelf.counts();
        true
    }

    #[test]
    fn the_newest_is_there_however_full_it_is() {
        let shelf = small();
        for number in 0..40 {
            let name = number.to_string();
            assert!(answered(&shelf, &name, 10_000));
            assert!(!answered(&shelf, &name, 10_000), "{number}");
        }
        assert!(shelf.counts().bytes <= 100_000);
        assert!(answered(&shelf, "0", 10_000), "the oldest made room");
    }

    #[test]
    fn of_what_is_too_large_it_is_known_that_it_was_there() {
        let shelf = small();
        assert!(answered(&shelf, "large", 200_000));
        let Found::Whole(kept) = shelf.find(key("large"), key("same"), Keep::ToItsEnd) else {
            panic!("it was there")
        };
        assert!(matches!(kept.flight.ended(), Some(End::Refused { .. })));
    }
}
