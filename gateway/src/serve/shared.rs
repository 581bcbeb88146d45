//! Answers that are not this request's alone: kept ones, running ones, repeated ones.
//!
//! The request that asks a route for others too hands everything it has to a task, the flight, and
//! becomes one of its waiters like those. So the flight outlives its leader and dies with its last
//! waiter; its entry is the leader's, every other waiter has its own.

use super::{Asked, Gateway, Life, answer_head, ask, execute, headers, relayed, unanswered};
use crate::{
    admission::{BodyRoom, Permit},
    cache::{
        LookUp, Repeat, Takeoff,
        flight::{End, Fate, Flight, Head, Unbegun, Waiter},
    },
    caller::Caller,
    execute::Started,
    ledger::{CacheUse, OpenEntry},
    refusal::Refusal,
    relay::{Relay, committed},
    routes::Answer,
    wire::ChatRequest,
};
use axum::response::Response;
use http::HeaderMap;
use policies::Decision;
use std::sync::Arc;

/// Where a request's answer comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A route, for this request alone.
    Route(CacheUse),
    /// A route, for whoever asks the same; the entry says how the cache was used.
    Flight(Takeoff, CacheUse),
    /// Another request.
    Other(Waiter, CacheUse),
    /// The first request with this idempotency key.
    Repeat(Waiter),
}

/// Looks for an answer before a route is asked; `repeat` is what the request's idempotency key leads to.
///
/// # Errors
/// A wish about the cache that is not known.
pub(super) fn look_up(
    gateway: &Gateway,
    repeat: Repeat,
    caller: &Caller,
    request: &ChatRequest,
    headers: &HeaderMap,
    decision: &Decision,
) -> Result<Source, Refusal> {
    match repeat {
        Repeat::Again(waiter) => return Ok(Source::Repeat(waiter)),
        Repeat::First(takeoff) => return Ok(Source::Flight(takeoff, CacheUse::Bypass)),
        Repeat::None => {}
    }
    Ok(match gateway.cache.look_up(request, headers, caller.id(), decision)? {
        LookUp::Bypass => Source::Route(CacheUse::Bypass),
        LookUp::MissAlone => Source::Route(CacheUse::Miss),
        LookUp::Miss(takeoff) => Source::Flight(takeoff, CacheUse::Miss),
        LookUp::Hit(waiter) => Source::Other(waiter, CacheUse::Hit),
        LookUp::Coalesced(waiter) => Source::Other(waiter, CacheUse::Coalesced),
    })
}

/// Asks the routes in a task of its own, and waits for the answer like everybody else.
pub(super) async fn lead(
    gateway: &Arc<Gateway>,
    life: &mut Life,
    asked: Box<Asked>,
    takeoff: Takeoff,
) -> Result<Response, Refusal> {
    let Asked { request, room, decision, open, permit } = *asked;
    let Takeoff { flight, mut waiter, landing } = takeoff;
    let (cache, rate, cap) = (open.notes.cache, permit.rate(), open.output_cap_asked());
    let path = open.path().clone();
    let repeatable = flight.runs_to_its_end();
    let request = Arc::new(request);
    gateway.tasks.spawn({
        let leader = Leader {
            gateway: Arc::clone(gateway),
            life: life.clone(),
            request: Arc::clone(&request),
            _room: room,
            decision,
            open,
            permit,
        };
        let gateway = Arc::clone(gateway);
        async move {
            let (end, fate) = tokio::select! {
                biased;
                landed = leader.fly(&flight) => landed,
                () = flight.unwanted() => (End::GivenUp, Fate::Free),
            };
            let keep = match fate {
                Fate::Good if repeatable => true,
                Fate::Good => flight.is_all_there() && gateway.cache.keeps(flight.bytes()),
                Fate::Spent => repeatable,
                Fate::Free => false,
            };
            landing.land(end, keep);
        }
    });
    let head = waiter.begun().await.map_err(|unbegun| {
        (life.recorded, life.cost) = (unbegun.recorded, unbegun.cost);
        unbegun.refusal
    })?;
    life.recorded = true;
    let told = headers::Told {
        route: head.route.id(),
        attempts: head.attempts,
        output_cap: head.output_cap,
        output_cap_asked: cap,
        cache,
        path: &path,
        timeline: &life.timeline,
    };
    let headers = headers::answer(gateway, life, &told, rate);
    let started = Started::shared(head, Answer::Shared(waiter));
    let head = answer_head(gateway, life, &started);
    relayed(gateway, life, headers, Relay::new(started, None, &request, head, None)).await
}

/// Gives another request's answer, under an entry of its own.
pub(super) async fn follow(
    gateway: &Gateway,
    life: &mut Life,
    mut asked: Box<Asked>,
    mut waiter: Waiter,
) -> Result<Response, Refusal> {
    life.recorded = false;
    let repeats = asked.open.notes.idempotent_replay;
    let head = match waiter.begun().await {
        // Whoever answered a like request, this one's guards may not allow it.
        Ok(head) if repeats || crate::cache::allows(&asked.decision, head.route.id()) => head,
        Err(Unbegun { refusal, is_its_callers, .. }) if repeats || !is_its_callers => {
            life.repeats = repeats;
            life.cost = asked.open.cost();
            asked.open.discard();
            return Err(refusal);
        }
        // Then it asks for itself. So it does where the other was short of its own money.
        Ok(_) | Err(_) => {
            drop(waiter);
            asked.open.notes.cache = CacheUse::Miss;
            return ask(gateway, life, asked).await;
        }
    };
    life.recorded = true;
    let Asked { request, mut open, permit, room, .. } = *asked;
    open.notes.answer_of = Some(head.request);
    // Nothing is sent for it.
    open.passed = None;
    let told = headers::Told {
        route: head.route.id(),
        attempts: 0,
        output_cap: head.output_cap,
        output_cap_asked: open.output_cap_asked(),
        cache: open.notes.cache,
        path: open.path(),
        timeline: &open.timeline,
    };
    let mut headers = headers::answer(gateway, life, &told, permit.rate());
    if repeats {
        headers.insert(headers::REPLAYED, http::HeaderValue::from_static("true"));
    }
    let started = Started::shared(head, Answer::Shared(waiter));
    let head = answer_head(gateway, life, &started);
    let mut relay = Relay::new(started, Some(open), &request, head, Some(permit));
    // Its own ids stand all over it: nothing of it is shared.
    if request.responses.is_some() && !request.stream {
        relay = relay.within(room);
    }
    relayed(gateway, life, headers, relay).await
}

/// What a flight needs of the request that began it.
struct Leader {
    gateway: Arc<Gateway>,
    life: Life,
    request: Arc<ChatRequest>,
    /// What the request's body takes.
    _room: BodyRoom,
    decision: Arc<Decision>,
    open: OpenEntry,
    permit: Permit,
}

impl Leader {
    /// From the first attempt to the entry.
    async fn fly(mut self, flight: &Flight) -> (End, Fate) {
        let gateway = &self.gateway;
        let started = execute(gateway, &self.request, &self.decision, &mut self.open).await;
        let started = match started {
            Ok(started) => started,
            Err(refusal) => {
                let fate = if self.open.owes() { Fate::Spent } else { Fate::Free };
                let (refusal, ticket) = unanswered(gateway, self.open, refusal, &mut self.life);
                committed(ticket).await;
                // Here, and not where its leader waits, who may have left.
                if !self.life.recorded {
                    self.life.record(gateway, &refusal);
                }
                let cost = self.life.cost;
                return (End::Refused { refusal, recorded: true, cost }, fate);
            }
        };
        flight.begin(Head {
            request: self.life.id,
            decision: Arc::clone(&self.decision),
            route: Arc::clone(&started.route),
            attempts: self.open.attempts(),
            output_cap: started.output_cap,
            prompt_tokens: started.prompt_tokens,
            missed_cost: started.attempt.and_then(|attempt| self.open.missed_cost(attempt)),
        });
        let head = answer_head(gateway, &self.life, &started);
        let relay = Relay::new(started, Some(self.open), &self.request, head, Some(self.permit));
        relay.into_flight(flight).await
    }
}
