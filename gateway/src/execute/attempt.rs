//! One attempt on one route, from its reservation to its first visible event.
//!
//! **Invariants:** dropped at any point (the caller left, or another attempt won) it ends its own
//! record: void while it had not been sent, else as cancelled with what was metered or estimated. However
//! it ends, its record says how long it took: a wait that was in vain counts like another.

use super::{Execution, Started, book::Book, miss::Miss};
use crate::{
    ledger::{AttemptIndex, AttemptOutcome, Role, Short},
    routes::{
        Answer, Fault, FaultKind, Owed, Route, breaker::Pass, cloud::Departure, live::InFlight,
    },
    timeline::micros,
    wire::Event,
};
use policies::UsageSource;
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// Bytes of events that are held back until the first visible one: role chunks, signs of life while a
/// model thinks unseen and the like. They are no answer, however many: what comes after them may still
/// be an error, and another route's turn. Who sends more than this answers, if oddly.
const HELD_BYTES_MAX: usize = 64 << 10;

impl Execution<'_> {
    /// One attempt on `route`.
    pub(super) async fn attempt(&self, route: &Arc<Route>, role: Role) -> Result<Started, Miss> {
        if let Some(late) = self.too_late(route) {
            return Err(late);
        }
        let pass = route.breaker.pass().map_err(|left| {
            Miss::Fault(Fault::new(FaultKind::Resting(left), "left alone after failures"))
        })?;
        let key = self.book.key();
        let prepared = route.prepare(key.as_ref(), self.request, self.request.output_cap).await;
        let prepared = prepared.map_err(Miss::Fault)?;
        let (mut prepared, attempt, ticket) = self.reserve(route, prepared, role).await?;
        prepared.extend_by(self.book.extension(attempt, self.bounds.cost_max));
        prepared.for_key(key.as_ref(), self.request);
        let begun = Instant::now();
        let offset_us = self.book.offset_us(begun);
        self.book.note(attempt, |record| record.times.offset_us = offset_us);
        let in_flight = InFlight::on(route);
        let output_cap = prepared.bounds.output_tokens;
        let output_max = output_cap.saturating_mul(prepared.bounds.choices);
        let prompt_tokens = prepared.prompt_tokens;
        // The commit of the reservation overlaps with the wait for a place. A caller that leaves in
        // this wait owes nothing.
        let mut sending =
            Sending { book: &self.book, attempt, route, output_max, at: At::Unsent, since: begun };
        let (place, committed) = tokio::join!(route.place(), ticket.committed());
        if let Err(error) = committed {
            return Err(Miss::Short(Short::Store(error)));
        }
        let place = match place {
            Ok(place) => place,
            Err(fault) => return Err(self.failed(sending, pass, fault)),
        };
        let sent_at = Instant::now();
        // From here on the prompt may be billed, whatever happens next, once there is a connection.
        self.book.estimate(attempt, prompt_tokens);
        sending.goes_on(At::Sent(place.departure()), sent_at);
        let answer = match route.start(place, prepared, self.request).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.failed(sending, pass, fault)),
        };
        sending.goes_on(At::Headed, Instant::now());
        let upstream_status = answer.upstream_status();
        self.book.note(attempt, |record| record.upstream_status = upstream_status);
        let mut pending = Pending { book: &self.book, attempt, answer: Some(answer) };
        let held = pending.first_visible().await;
        let answer = pending.answer.take();
        drop(pending);
        let (held, answer) = match (held, answer) {
            (Ok(held), Some(answer)) => (held, answer),
            (Err(fault), answer) => {
                let owed = answer.as_ref().map(Answer::owed).unwrap_or_default();
                return Err(self.failed(sending, pass, fault.owing(owed)));
            }
            (Ok(_), None) => return Err(Miss::Fault(Fault::new(FaultKind::Broken, "no answer"))),
        };
        let begun_at = Instant::now();
        sending.goes_on(At::Over, begun_at);
        let speaks = held.back().is_some_and(Event::speaks);
        let first_at = speaks.then_some(begun_at);
        pass.begun();
        Ok(Started {
            attempt: Some(attempt),
            route: Arc::clone(route),
            answer,
            held,
            sent_at,
            first_at,
            output_cap,
            prompt_tokens,
            in_flight: Some(in_flight),
        })
    }

    /// Ends a failed attempt: void where nothing is owed, else as reported, told or estimated.
    fn failed(&self, mut sending: Sending<'_, '_>, pass: Pass<'_>, fault: Fault) -> Miss {
        let (route, attempt) = (sending.route, sending.attempt);
        tracing::warn!(request = %self.book.request(), route = %route.id(), %fault, "attempt failed");
        if fault.is_upstreams() {
            route.live.failed();
            pass.failed();
        }
        let status = match &fault.kind {
            FaultKind::Status { status, .. }
            | FaultKind::Unserved { status }
            | FaultKind::Rejected { status, .. } => Some(*status),
            FaultKind::RateLimited { .. } => Some(429),
            _ => None,
        };
        if let Some(status) = status {
            self.book.note(attempt, |record| record.upstream_status = Some(status));
        }
        let void = *fault.owed() == Owed::ByFault && fault.voids();
        match fault.owed() {
            Owed::Reported(usage) => self.book.note(attempt, |record| {
                record.usage = Some(**usage);
                record.usage_source = Some(UsageSource::Reported);
            }),
            Owed::Told(cost) => self.book.tell_cost(attempt, Some(*cost)),
            Owed::Unknown => self.book.tell_cost(attempt, None),
            Owed::ByFault | Owed::Estimated if !void => sending.book_hidden(),
            Owed::ByFault | Owed::Estimated => {}
        }
        sending.goes_on(At::Over, Instant::now());
        self.book.end(attempt, fault.outcome(), void);
        Miss::Fault(fault)
    }
}

/// How far an attempt has come.
enum At {
    /// It waits to be sent.
    Unsent,
    /// It was sent, or is to be once there is a connection; there is no head.
    Sent(Option<Departure>),
    /// It has a head and has shown nothing.
    Headed,
    /// It has ended, or has been handed on.
    Over,
}

/// An attempt on its way to its first event; dropped before that, it ends its record.
struct Sending<'a, 'e> {
    book: &'a Book<'e>,
    attempt: AttemptIndex,
    route: &'a Route,
    /// Tokens that it may use over all choices.
    output_max: u64,
    at: At,
    /// Since when it is there.
    since: Instant,
}

impl Sending<'_, '_> {
    /// What went silent may have used its whole cap where reasoning is hidden.
    fn book_hidden(&self) {
        if matches!(self.at, At::Sent(_) | At::Headed) && self.route.may_hide_reasoning() {
            self.book.hidden(self.attempt, self.output_max);
        }
    }

    /// Whether nothing of it has left, and nothing will.
    fn is_unsent(&self) -> bool {
        match &self.at {
            At::Unsent => true,
            At::Sent(departure) => departure.as_ref().is_some_and(Departure::call_off),
            At::Headed | At::Over => false,
        }
    }

    /// What it was at ends `now`, and its time is written down.
    fn goes_on(&mut self, next: At, now: Instant) {
        let us = micros(now.saturating_duration_since(self.since));
        self.book.note(self.attempt, |record| match self.at {
            At::Unsent => record.times.wait_us = us,
            At::Sent(_) => record.times.head_us = us,
            At::Headed => record.times.first_token_us = us,
            At::Over => {}
        });
        (self.at, self.since) = (next, now);
    }
}

impl Drop for Sending<'_, '_> {
    fn drop(&mut self) {
        if matches!(self.at, At::Over) {
            return;
        }
        let unsent = self.is_unsent();
        if !unsent {
            self.book_hidden();
        }
        self.goes_on(At::Over, Instant::now());
        let outcome = if unsent { AttemptOutcome::NotSent } else { AttemptOutcome::Cancelled };
        self.book.end(self.attempt, outcome, unsent);
    }
}

/// An answer that has not shown anything yet. If the caller leaves now, what the engine has metered
/// is written down before the job is cancelled.
struct Pending<'a, 'e> {
    book: &'a Book<'e>,
    attempt: AttemptIndex,
    answer: Option<Answer>,
}

impl Pending<'_, '_> {
    /// Events up to and with the first visible one, or the end of an answer that shows nothing.
    async fn first_visible(&mut self) -> Result<VecDeque<Event>, Fault> {
        let mut held = VecDeque::with_capacity(2);
        let mut bytes = 0_usize;
        while let Some(answer) = &mut self.answer
            && let Some(event) = answer.next().await
        {
            let event = event.inspect_err(|_| self.write())?;
            let visible = event.shows();
            // A piece of its own holds no more of what was read than itself.
            let event = if visible { event } else { event.alone() };
            bytes = bytes.saturating_add(event.bytes());
            held.push_back(event);
            if visible || bytes >= HELD_BYTES_MAX {
                break;
            }
        }
        if held.is_empty() {
            return Err(Fault::new(FaultKind::Broken, "an answer without a single event"));
        }
        Ok(held)
    }

    fn write(&self) {
        if let Some((usage, engine)) = self.answer.as_ref().and_then(Answer::metered) {
            self.book.note(self.attempt, |record| {
                record.usage = Some(usage);
                record.usage_source = Some(UsageSource::Counted);
                record.took_of_engine(&engine);
            });
        }
        if let Some(told) = self.answer.as_ref().and_then(Answer::told) {
            self.book.note(self.attempt, |record| record.usage = Some(told));
        }
    }
}

impl Drop for Pending<'_, '_> {
    fn drop(&mut self) {
        self.write();
    }
}
