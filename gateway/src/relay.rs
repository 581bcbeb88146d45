//! The answer on its way to the client: relayed, timed, counted, settled.
//!
//! Streamed and unstreamed answers pass through the same [`Relay`], so they are timed and charged
//! by the same code. **Invariants:** usage is booked as it flows, so an answer that is dropped at
//! any point is settled for what was really used; in `strict` durability the last byte leaves after
//! the entry is committed; a stream that breaks says so in an event and ends without `[DONE]`.

mod broken;
mod keep_alive;
mod pacing;
mod seen;
mod shared;
mod used;
mod whole;

pub use keep_alive::KeepAlive;
pub use whole::{Unwhole, Whole};

use crate::{
    admission::{BodyRoom, Permit},
    cache::flight::{End, Fate, Flight},
    execute::Started,
    ledger::{AttemptOutcome, CommitTicket, Ending, Endpoint, OpenEntry, Outcome, word},
    providers::openai,
    refusal::Refusal,
    routes::{Fault, FaultKind},
    timeline::Stage,
    wire::{
        ChatRequest, Delta, Event, FinishReason, Outer,
        chat::{self, AnswerHead},
        sse,
    },
};
use bytes::Bytes;
use pacing::Pacing;
use policies::{PicoUsd, UsageSource};
use seen::SeenSoFar;
use shared::Sharing;
use std::{collections::VecDeque, convert::Infallible, ops::Range, time::Duration};
use tokio::time::{Instant, timeout_at};

/// The status an answer's head leaves with.
const ANSWERED: u16 = 200;
/// An answer being relayed, with everything that ends when it ends.
#[derive(Debug)]
pub struct Relay {
    started: Started,
    open: Option<OpenEntry>,
    /// Reads a provider's bytes where the client's format is another.
    reader: openai::Reader,
    /// Writes the answer in the client's format.
    outer: Option<Outer>,
    include_usage: bool,
    stream: bool,
    /// What was asked, for the names of its fields.
    endpoint: Endpoint,
    /// When an unstreamed answer is no longer wanted, and the time that was asked for. Who reads a
    /// stream has use for what came, and leaves by itself.
    deadline: Option<(Instant, Duration)>,
    /// Whether it is another request's answer, which costs this one nothing.
    spared: bool,
    /// What only one of several has who share it.
    sharing: Option<Box<Sharing>>,
    pacing: Pacing,
    seen: SeenSoFar,
    /// Most tokens that the answer can have: what was sent as its cap, over all choices.
    output_max: u64,
    /// Frames ready for the socket.
    ready: VecDeque<Bytes>,
    /// A provider's usage chunk: the last one holds, and a client gets one.
    usage_chunk: Option<(Bytes, Option<Range<usize>>)>,
    /// What the request cost in all, once it is booked.
    booked: Option<PicoUsd>,
    phase: Phase,
    _permit: Option<Permit>,
}

#[derive(Debug)]
enum Phase {
    /// Events are coming.
    Flowing,
    /// The answer is whole; the last frame waits for this commit.
    Settling(Option<CommitTicket>, Bytes),
    /// Nothing more will be sent.
    Over,
}

impl Relay {
    /// Takes over an answer that has begun. Without an entry somebody else books it: a flight, of
    /// which this is one waiter. Boxed: it is large, and a stream moves it with every frame.
    #[must_use]
    pub fn new(
        started: Started,
        mut open: Option<OpenEntry>,
        request: &ChatRequest,
        head: AnswerHead,
        permit: Option<Permit>,
    ) -> Box<Self> {
        if let Some(open) = &mut open {
            open.timeline.end(Stage::Attempt);
        }
        let arrived = open.as_ref().map_or(started.sent_at, |open| open.timeline.arrived());
        let prompt_tokens = started.prompt_tokens;
        let pacing = Pacing::start(started.sent_at, arrived, started.route.streams(request));
        Box::new(Self {
            spared: started.attempt.is_none() && open.is_some(),
            sharing: open.is_none().then(|| Box::new(Sharing::price(&started, request))),
            output_max: started.output_cap.saturating_mul(u64::from(request.choices)),
            // A flight has its leader's deadline itself, and waiting for its commit is not late.
            deadline: request
                .answer_by
                .zip(request.deadline)
                .filter(|_| !request.stream && open.is_some()),
            started,
            open,
            stream: request.stream,
            endpoint: request.endpoint,
            reader: openai::Reader::default(),
            outer: Some(Outer::new(head, request, prompt_tokens)),
            include_usage: request.include_usage,
            pacing,
            seen: SeenSoFar::of(request.choices),
            ready: VecDeque::with_capacity(4),
            usage_chunk: None,
            booked: None,
            phase: Phase::Flowing,
            _permit: permit,
        })
    }

    /// The same within the room of bodies: what is written for each of those who share an answer, and does
    /// not cost them anything, is bounded with what they send.
    #[must_use]
    pub fn within(mut self: Box<Self>, room: BodyRoom) -> Box<Self> {
        self.sharing = Some(Box::new(Sharing::Room(room)));
        self
    }

    /// Whether the client asked for a stream.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.stream
    }

    /// The answer as the body of a stream.
    pub fn into_stream(
        self: Box<Self>,
    ) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut relay| async move {
            relay.next_frame().await.map(|frame| (Ok(frame), relay))
        })
    }

    /// The answer for everybody who shares the flight; says what becomes of it.
    pub async fn into_flight(mut self: Box<Self>, flight: &Flight) -> (End, Fate) {
        let flown = if !self.stream && self.outer.as_ref().is_some_and(Outer::has_content) {
            self.fly_whole(flight).await
        } else {
            self.fly(flight).await
        };
        // Every waiter writes for itself; here nothing would be written but an empty answer's end.
        self.outer = None;
        if let Err(fault) = flown {
            let owes = self.open.as_ref().is_none_or(OpenEntry::owes);
            let (_, ticket) = self.broken(&fault, self.stream.then_some(ANSWERED));
            committed(ticket).await;
            return (End::Broken(fault), if owes { Fate::Spent } else { Fate::Free });
        }
        let cost = self.cost().map(|cost| cost.total);
        let good = self.seen.finish != Some(FinishReason::ContentFilter);
        self.complete();
        if let Phase::Settling(ticket, _) = std::mem::replace(&mut self.phase, Phase::Over) {
            committed(ticket).await;
        }
        (End::Whole { cost }, if good { Fate::Good } else { Fate::Spent })
    }

    /// Hands every event on as it comes.
    async fn fly(&mut self, flight: &Flight) -> Result<(), Fault> {
        while let Some(event) = self.next_event().await {
            flight.push(event?).await;
        }
        Ok(())
    }

    /// The next bytes for the socket; `None` after the last.
    async fn next_frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            match &mut self.phase {
                Phase::Flowing => match self.next_event().await {
                    Some(Ok(event)) => {
                        if let Err(fault) = self.frame(event) {
                            self.break_off(&fault);
                        }
                    }
                    Some(Err(fault)) => self.break_off(&fault),
                    None => self.complete(),
                },
                Phase::Settling(ticket, last) => {
                    let last = std::mem::take(last);
                    committed(ticket.take()).await;
                    self.phase = Phase::Over;
                    return Some(last);
                }
                Phase::Over => return None,
            }
        }
    }

    /// The next event, timed and counted.
    async fn next_event(&mut self) -> Option<Result<Event, Fault>> {
        let event = match self.started.held.pop_front() {
            Some(held) => Some(Ok(held)),
            None => self.coming().await,
        };
        if let Some(Ok(event)) = &event {
            self.note(event);
        }
        event
    }

    /// What the answer says next, by its deadline where it has one.
    async fn coming(&mut self) -> Option<Result<Event, Fault>> {
        let next = self.started.answer.next();
        let Some((by, asked)) = self.deadline else { return next.await };
        let late = || Fault::new(FaultKind::Late(asked), "its deadline passed");
        timeout_at(by, next).await.unwrap_or_else(|_| Some(Err(late())))
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Chunk { seen, .. } | Event::Whole { seen, .. } | Event::Own { seen, .. } => {
                if event.speaks() {
                    self.pacing.visible(self.started.first_at);
                }
                self.seen.note(seen);
                self.seen.pieces += u64::from(seen.visible);
                self.seen.usage_is_last |= matches!(event, Event::Whole { .. });
            }
            Event::Begin { id } => self.seen.id = Some(id.clone()),
            Event::Vectors(_) => self.pacing.visible(self.started.first_at),
            Event::Written { service, .. } => {
                self.pacing.visible(self.started.first_at);
                self.seen.service = service.or(self.seen.service);
            }
            Event::Delta(delta) => {
                if delta.visible() || delta.reasoning_bytes() > 0 {
                    self.pacing.visible(self.started.first_at);
                }
                self.seen.pieces += u64::from(delta.visible());
                self.seen.note_delta(delta);
            }
            Event::End { usage, source, engine } => {
                self.seen.usage = Some((*usage, *source));
                self.seen.usage_is_last = true;
                self.seen.engine = *engine;
            }
        }
    }

    /// Writes an event as frames of the client's stream; a fault where it cannot be read.
    fn frame(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Chunk { data: payload, .. } | Event::Whole { body: payload, .. }
                if !self.passes() =>
            {
                self.unwritten(&payload)?.iter().for_each(|delta| self.write(delta));
            }
            // Usage that we asked for and the client did not.
            Event::Chunk { seen, .. } if seen.usage_only && !self.include_usage => {}
            Event::Chunk { data, seen } if seen.usage_only => {
                self.usage_chunk = Some((data, seen.usage_at));
            }
            Event::Chunk { data, seen } => self.pass(data, seen.usage_at),
            Event::Whole { body, .. } => self.ready.push_back(sse::event(&body)),
            Event::Own { data, seen } => {
                let data = self.priced(data, seen.usage_at);
                let frame = self.outer.as_mut().map(|outer| outer.own(&data));
                self.ready.extend(frame);
            }
            Event::Begin { .. } | Event::Vectors(_) | Event::Written { .. } => {}
            Event::Delta(delta) => self.write(&delta),
            Event::End { usage, .. } => {
                let cost = self.cost();
                let ready = &mut self.ready;
                if let Some(outer) = &mut self.outer {
                    outer.usage(&usage, cost.as_ref(), &mut |frame| ready.push_back(frame));
                }
            }
        }
        Ok(())
    }

    /// A provider's own chunk, with the cost in its usage where the client asked for that.
    fn pass(&mut self, chunk: Bytes, usage_at: Option<Range<usize>>) {
        let chunk = self.priced(chunk, usage_at.filter(|_| self.include_usage));
        self.ready.push_back(sse::event(&chunk));
    }

    /// A provider's bytes with the cost in the usage that stands at this place.
    fn priced(&self, data: Bytes, usage_at: Option<Range<usize>>) -> Bytes {
        let priced = usage_at.and_then(|at| Some(chat::with_cost(&data, &at, &self.cost()?)));
        priced.unwrap_or(data)
    }

    fn pass_usage(&mut self) {
        if let Some((chunk, usage_at)) = self.usage_chunk.take() {
            self.pass(chunk, usage_at);
        }
    }

    /// Whether a provider's bytes are what the client reads.
    fn passes(&self) -> bool {
        self.outer.as_ref().is_none_or(Outer::passes)
    }

    /// The pieces of a provider's bytes in OpenAI's format, for a client that reads another.
    fn unwritten(&mut self, payload: &[u8]) -> Result<Vec<Delta>, Fault> {
        self.reader.read(payload).map_err(|why| Fault::new(FaultKind::Broken, why))
    }

    /// Writes a piece of the answer as frames of the client's stream.
    fn write(&mut self, delta: &Delta) {
        let ready = &mut self.ready;
        if let Some(outer) = &mut self.outer {
            outer.delta(delta, &mut |frame| ready.push_back(frame));
        }
    }

    /// Usage that nobody reported and the client asked for: the estimate that is booked.
    fn tell_usage(&mut self) {
        let (usage, cost) = (self.usage().0, self.cost());
        let (ready, id) = (&mut self.ready, self.seen.id.as_deref());
        if let Some(outer) = &mut self.outer {
            outer.belated_usage(id, &usage, cost.as_ref(), &mut |frame| ready.push_back(frame));
        }
    }

    /// The answer is whole: settle it.
    fn complete(&mut self) {
        if self.stream && self.include_usage && self.seen.usage.is_none() {
            // A provider's chunk without counts says nothing.
            self.usage_chunk = None;
            self.tell_usage();
        }
        self.pass_usage();
        let (usage, _) = self.usage();
        // Only these tell the cost at their very end.
        let cost = if self.passes() { None } else { self.cost() };
        self.tell_served();
        let last = self.outer.as_mut().map(|outer| outer.end(&usage, cost.as_ref()));
        let last = last.unwrap_or_default();
        let ticket = self.settle(AttemptOutcome::Completed, Outcome::Completed, ANSWERED);
        self.phase = Phase::Settling(ticket, last);
    }

    /// The stream broke after its first byte, under a 200: say so where the `[DONE]` would stand.
    fn break_off(&mut self, fault: &Fault) {
        self.pass_usage();
        let (refusal, ticket) = self.broken(fault, Some(ANSWERED));
        let last = self.outer.as_mut().map(|outer| outer.broken(&refusal)).unwrap_or_default();
        self.phase = Phase::Settling(ticket, last);
    }

    /// The answer broke: settle it. The caller sees the status that has left already, or the one of
    /// the refusal.
    fn broken(
        &mut self,
        fault: &Fault,
        status_sent: Option<u16>,
    ) -> (Refusal, Option<CommitTicket>) {
        let request = self.open.as_ref().and_then(OpenEntry::id).map(tracing::field::display);
        tracing::warn!(request, route = %self.started.route.id(), %fault, "answer broke off");
        if fault.is_upstreams() && self.started.attempt.is_some() {
            self.started.route.live.failed();
            self.started.route.breaker.failed();
        }
        let refusal = broken::refusal(fault).named_for(self.endpoint);
        let status = status_sent.unwrap_or_else(|| refusal.status().as_u16());
        let ticket = self.settle(fault.outcome_of_begun(), fault.request_outcome(), status);
        (refusal, ticket)
    }

    fn settle(
        &mut self,
        attempt: AttemptOutcome,
        outcome: Outcome,
        status: u16,
    ) -> Option<CommitTicket> {
        let now = Instant::now();
        self.book(now);
        let mut open = self.open.take()?;
        open.timeline.end_at(Stage::Relay, now);
        let route = &self.started.route;
        if self.spared {
            open.notes.saved_cost = self.started.answer.shared_cost();
        } else if attempt == AttemptOutcome::Completed {
            route.live.answered(self.pacing.waited(), self.answer_tokens());
            route.breaker.succeeded();
        }
        if let Some(index) = self.started.attempt {
            open.end_attempt(index, attempt, false);
        }
        self.booked = open.cost();
        Some(open.finish(Ending {
            outcome,
            status: Some(status),
            answered_by: self.started.attempt,
            ttft_us: self.pacing.client_ttft_us(self.stream, now),
            tpot_ns: self.pacing.tpot_ns(self.output_tokens()).filter(|_| self.stream),
        }))
    }

    /// Writes what is known by `now` into the attempt's record, so that it can be settled at any
    /// point, by whoever ends it.
    fn book(&mut self, now: Instant) {
        let Some(attempt) = self.started.attempt else { return };
        let ended = self.seen.usage.is_some();
        if let Some((usage, engine)) = self.started.answer.metered().filter(|_| !ended) {
            self.seen.usage = Some((usage, UsageSource::Counted));
            self.seen.engine = Some(engine);
        }
        let (usage, source) = self.usage_so_far();
        let finish = self.seen.finish.as_ref().map(|finish| word(finish.as_str()));
        let (output, served) = (self.output_tokens(), self.served());
        let Some(open) = &mut self.open else { return };
        let record = open.attempt(attempt);
        if let Some(engine) = self.seen.engine {
            record.took_of_engine(&engine);
        }
        record.usage = Some(usage);
        record.usage_source = Some(source);
        if let Some(service) = served {
            record.service_tier = Some(service.as_str().to_owned());
        }
        record.finish = finish;
        let finishes = self.seen.finishes();
        record.finishes = finishes.map(|finish| Some(word(finish?.as_str()))).collect();
        record.upstream_id = self.seen.id.take().map(|id| word(&id));
        self.pacing.write(&mut record.times, output, now);
    }

    fn tell_served(&mut self) {
        if let (Some(service), Some(outer)) = (self.served(), &mut self.outer) {
            outer.served(service);
        }
    }
}

impl Drop for Relay {
    /// The client left: what is known is written down, and the entry settles itself.
    fn drop(&mut self) {
        if self.open.is_none() {
            return;
        }
        let now = Instant::now();
        self.book(now);
        let output = self.output_tokens();
        let Some(open) = &mut self.open else { return };
        // What follows is the settling alone.
        open.timeline.end_at(Stage::Relay, now);
        let ttft_us = self.pacing.client_ttft_us(self.stream, now);
        // The status has left with the first piece of a stream.
        if self.stream && ttft_us.is_some() {
            open.ending = Ending {
                status: Some(ANSWERED),
                answered_by: self.started.attempt,
                ttft_us,
                tpot_ns: self.pacing.tpot_ns(output),
                ..open.ending
            };
        }
    }
}

/// Waits for an entry's commit, where there is one to wait for. A failed one is the store's business (it
/// is a state, and loud): what is answered stands all the same, so the client gets it.
pub(crate) async fn committed(ticket: Option<CommitTicket>) {
    let Some(ticket) = ticket else { return };
    if let Err(error) = ticket.committed().await {
        tracing::error!(%error, "an answer's entry could not be committed");
    }
}
