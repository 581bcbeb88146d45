//! Who may come in now: rate limits, concurrency, failed authentication. Before the body is read,
//! so that a flood buys no JSON parsing; a model's own limits as soon as its name is known; limits
//! that need more of the body (tokens, budgets) belong to the reservation.
//!
//! **Invariant:** a [`Permit`] gives back every place it took when it is dropped, and a request
//! that was turned away holds none.

mod bodies;
mod failed_auth;
mod minute;
mod places;
#[cfg(test)]
mod tests;

pub use bodies::BodyRoom;
pub(crate) use bodies::{Bodies, KeyBodies, NoRoom};
pub(crate) use failed_auth::{FailedAuth, network};
pub use minute::Rate;

use crate::{
    caller::{Caller, Group, KeyLimits},
    config::{Limits, ModelLimits},
    ledger::Scope,
    makers::Makers,
    refusal::Refusal,
};
use minute::MinuteLimit;
use places::{Place, Places};
use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

/// How long a caller is told to wait for a place in flight: nobody knows when one comes free.
const PLACE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whose limit it is that a key meets beside others.
pub(crate) const SHARE_OF_GATEWAYS: &str = "this key's share of the gateway's";

/// The gateway's own limits.
#[derive(Debug)]
pub struct Admission {
    places: Places,
    minute: Option<MinuteLimit>,
    /// Models with limits of their own, by the name that callers write.
    models: HashMap<Arc<str>, KeyGate>,
    bodies: Bodies,
    /// Where bodies are decompressed, and long ones read.
    readers: Makers,
}

/// What a model's limits have let through, as an operator looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelState {
    /// Requests in flight.
    pub in_flight: usize,
    /// Its requests per minute, where they are limited.
    pub rate: Option<Rate>,
}

/// What the limits of one key, user, team or model have let through so far.
#[derive(Debug)]
pub(crate) struct KeyGate {
    places: Places,
    minute: Option<Arc<MinuteLimit>>,
    /// What its bodies take, where it is a key's.
    bodies: KeyBodies,
}

/// A request that was let in. Hold it until the answer's last byte: dropping it gives its places
/// back.
#[derive(Debug)]
#[must_use = "dropping it gives its places back"]
pub struct Permit {
    rate: Option<Rate>,
    _gateway: Place,
    _key: Place,
    _groups: Vec<Place>,
    /// Boxed: few models have limits.
    model: Option<Box<AtModel>>,
}

/// What a request takes of its model's limits.
#[derive(Debug)]
struct AtModel {
    _place: Place,
    passed: Option<Passed>,
}

/// A request that a model's requests per minute count. Unless it was sent to a route, dropping it has
/// another one come instead: all callers share that limit.
#[derive(Debug)]
#[must_use = "dropping it gives the request back"]
pub struct Passed(Box<Option<Arc<MinuteLimit>>>);

// === impl Admission ===

impl Admission {
    /// Limits over all keys, and those of single models.
    #[must_use]
    pub fn new(limits: &Limits, models: &[ModelLimits]) -> Self {
        let gate = |of: &ModelLimits| (Arc::clone(&of.model), KeyGate::new(&of.limits, None));
        Self {
            places: Places::new(limits.in_flight_max),
            minute: limits.requests_per_minute.map(MinuteLimit::new),
            models: models.iter().map(gate).collect(),
            bodies: Bodies::new(limits.bodies_bytes_max),
            readers: Makers::new(limits.body_read_max),
        }
    }

    /// Room for the body of a request that was let in.
    pub fn body_room(&self, caller: &Caller) -> BodyRoom {
        self.bodies.room(&caller.gate.bodies)
    }

    /// Where the body of a request that was let in is decompressed, and read where it is long.
    pub(crate) fn readers(&self) -> &Makers {
        &self.readers
    }

    /// Lets a request in, or says which limit is in its way.
    ///
    /// The key's limits come before the gateway's, so that one key's flood uses up nobody else's minute;
    /// what a narrower limit has let through and a wider one has not is given back to the narrower one.
    /// Of the gateway's places a key has no more than its share ([`crate::share`]).
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] with the limit, what is left and when it opens again.
    pub fn admit(&self, caller: &Caller) -> Result<Permit, Refusal> {
        let gate = &caller.gate;
        let key = gate.places.take().ok_or_else(|| full("this key's".into(), &gate.places))?;
        let take = |group: &Arc<Group>| {
            let places = &group.gate.places;
            places.take().ok_or_else(|| full(group.record.scope.whose(), places))
        };
        let groups = caller.groups.iter().map(take).collect::<Result<_, _>>()?;
        let gateway = self.places.take_share(gate.places.taken()).map_err(|free| {
            let whose = if free { SHARE_OF_GATEWAYS } else { "the gateway's" };
            full(whose.into(), &self.places)
        })?;
        let rate = self.pass_minutes(caller)?;
        Ok(Permit { rate, _gateway: gateway, _key: key, _groups: groups, model: None })
    }

    /// One request of the minute of every limit on the way, or of none.
    fn pass_minutes(&self, caller: &Caller) -> Result<Option<Rate>, Refusal> {
        let own = caller.gate.minute.as_deref();
        let mut rate = pass(own, || "this key's".into())?;
        let minute_of = |group: &Arc<Group>| group.gate.minute.clone();
        let give_back = |groups: &[Arc<Group>]| {
            own.into_iter().for_each(MinuteLimit::give_back);
            groups.iter().filter_map(minute_of).for_each(|minute| minute.give_back());
        };
        for (at, group) in caller.groups.iter().enumerate() {
            let passed = pass(group.gate.minute.as_deref(), || group.record.scope.whose());
            rate = tightest(rate, passed.inspect_err(|_| give_back(&caller.groups[..at]))?);
        }
        let passed = pass(self.minute.as_ref(), || "the gateway's".into());
        Ok(tightest(rate, passed.inspect_err(|_| give_back(&caller.groups))?))
    }

    /// Lets a request that was let in go on to the model it asks for, once its body is read. Its
    /// place at the model stays with the permit.
    ///
    /// # Errors
    /// As [`Admission::admit`], with the model named.
    pub fn admit_to(&self, model: &str, permit: &mut Permit) -> Result<(), Refusal> {
        let Some((model, gate)) = self.models.get_key_value(model) else { return Ok(()) };
        let whose = || Scope::Model(Arc::clone(model)).whose();
        let place = gate.places.take().ok_or_else(|| full(whose(), &gate.places))?;
        permit.rate = tightest(permit.rate, pass(gate.minute.as_deref(), whose)?);
        let passed = gate.minute.clone().map(|minute| Passed(Box::new(Some(minute))));
        permit.model = Some(Box::new(AtModel { _place: place, passed }));
        Ok(())
    }

    /// The name of a model, where it has limits of its own.
    #[must_use]
    pub fn limited(&self, model: &str) -> Option<&Arc<str>> {
        self.models.get_key_value(model).map(|(model, _)| model)
    }

    /// What a model's limits have let through; `None` where it has none.
    #[must_use]
    pub fn model(&self, model: &str) -> Option<ModelState> {
        let gate = self.models.get(model)?;
        let rate = gate.minute.as_deref().map(MinuteLimit::rate);
        Some(ModelState { in_flight: gate.places.taken(), rate })
    }

    /// The tightest requests-per-minute limit on this caller, and on the model it asks for where
    /// that is known, as it stands, without using any of it: for the headers of a refusal.
    #[must_use]
    pub fn rate(&self, caller: &Caller, model: Option<&str>) -> Option<Rate> {
        let gates = std::iter::once(&caller.gate);
        let gates = gates.chain(caller.groups.iter().map(|group| &group.gate));
        let gates = gates.chain(model.and_then(|model| self.models.get(model)));
        let minutes = gates.filter_map(|gate| gate.minute.as_deref()).chain(&self.minute);
        minutes.map(MinuteLimit::rate).min_by_key(|rate| rate.remaining)
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.places.taken()
    }
}

// === impl KeyGate ===

impl KeyGate {
    /// The gate of a key, a user or a team; `before` is the same one's before a change. Requests in flight are
    /// counted on, and so are bodies, and the minute unless its limit changed.
    pub(crate) fn new(limits: &KeyLimits, before: Option<&Self>) -> Self {
        let max =
            limits.concurrency.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let places = before.map_or_else(|| Places::new(max), |gate| gate.places.resized(max));
        let minute = limits.requests_per_minute.map(|limit| {
            before
                .and_then(|gate| gate.minute.as_ref())
                .filter(|minute| minute.limit() == limit)
                .map_or_else(|| Arc::new(MinuteLimit::new(limit)), Arc::clone)
        });
        let bodies = before.map(|gate| gate.bodies.clone()).unwrap_or_default();
        Self { places, minute, bodies }
    }
}

// === impl Permit ===

impl Permit {
    /// The tightest of the requests-per-minute limits that let this request in; `None` if there is
    /// none. For the `x-ratelimit-*-requests` headers.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// That its model's requests per minute count it, for whoever knows whether it is sent; `None`
    /// where they are not limited.
    pub fn passed(&mut self) -> Option<Passed> {
        self.model.as_mut()?.passed.take()
    }
}

// === impl Passed ===

impl Passed {
    /// It was sent to a route: it counts.
    pub fn sent(mut self) {
        *self.0 = None;
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if let Some(minute) = &*self.0 {
            minute.give_back();
        }
    }
}

fn tightest(one: Option<Rate>, other: Option<Rate>) -> Option<Rate> {
    one.into_iter().chain(other).min_by_key(|rate| rate.remaining)
}

fn pass(
    minute: Option<&MinuteLimit>,
    whose: impl FnOnce() -> Cow<'static, str>,
) -> Result<Option<Rate>, Refusal> {
    let Some(minute) = minute else { return Ok(None) };
    match minute.pass() {
        Ok(rate) => Ok(Some(rate)),
        Err(retry_after) => Err(Refusal::RateLimited {
            scope: whose().into_owned(),
            limit: format!("{} requests per minute", minute.limit()),
            left: 0,
            retry_after,
        }),
    }
}

fn full(whose: Cow<'static, str>, places: &Places) -> Refusal {
    Refusal::RateLimited {
        scope: whose.into_owned(),
        limit: format!("{} requests in flight", places.max()),
        left: 0,
        retry_after: PLACE_RETRY_AFTER,
    }
}
