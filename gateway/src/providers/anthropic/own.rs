//! Answers to callers who speak Anthropic's format themselves: its own bytes pass, and what they hold is
//! only looked at. Citations, redacted thinking and whatever comes to be reach such a caller.
//!
//! **Invariants:** every event of a stream passes once and in its order, but for the last
//! (`message_stop`), which is written when the answer has been booked; what is seen in them is what
//! [`Stream`] and [`whole`] read for everybody else.

use super::stream::{Stream, whole};
use crate::{
    providers::reading::Read,
    wire::{
        DeltaKind, Event, Seen,
        json::{self, Kind},
    },
};
use bytes::Bytes;
use std::ops::Range;

impl Stream {
    /// Reads one event of the stream, which passes as it is.
    ///
    /// # Errors
    /// What is no event of this format, never with its text.
    pub(crate) fn read_own(&mut self, data: &Bytes) -> Result<Read, &'static str> {
        let (mut events, mut seen) = match self.read(data)? {
            Read::Events(events) => looked_at(events),
            other => return Ok(other),
        };
        if let Some((usage, service)) = self.told_of_whole() {
            seen.usage_at = usage_at(data);
            seen.usage = Some(usage);
            seen.service = service;
        }
        events.push(Event::Own { data: data.clone(), seen });
        Ok(Read::Events(events))
    }
}

/// Reads a whole answer, which passes as it is.
///
/// # Errors
/// What is no message, never with its text.
pub(crate) fn whole_own(body: &Bytes, prompt_tokens: u64) -> Result<Read, &'static str> {
    let (events, service) = match whole(body, prompt_tokens)? {
        Read::Last { events, service } => (events, service),
        other => return Ok(other),
    };
    let (mut events, seen) = looked_at(events);
    let seen = Seen { usage_at: usage_at(body), service, ..seen };
    // Before its end.
    let at = events.len().saturating_sub(1);
    events.insert(at, Event::Own { data: body.clone(), seen });
    Ok(Read::Last { events, service })
}

/// What the pieces of an answer show, and the events beside them.
fn looked_at(events: Vec<Event>) -> (Vec<Event>, Seen) {
    let mut seen = Seen::default();
    let mut others = Vec::with_capacity(events.len().min(2) + 1);
    for event in events {
        let Event::Delta(delta) = event else {
            others.push(event);
            continue;
        };
        let fits = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        seen.visible |= delta.visible();
        seen.visible_bytes = seen.visible_bytes.saturating_add(fits(delta.visible_bytes()));
        seen.reasoning_bytes = seen.reasoning_bytes.saturating_add(fits(delta.reasoning_bytes()));
        if let DeltaKind::Finish(finish) = delta.kind {
            seen.finish = Some(finish);
        }
    }
    (others, seen)
}

/// Where the usage object of a message or of an event stands.
fn usage_at(data: &[u8]) -> Option<Range<usize>> {
    let mut at = None;
    json::members::<serde_json::Error>(str::from_utf8(data).ok()?, |key, member| {
        if key == "usage" && json::kind(member.raw) == Kind::Object {
            at = Some(member.value.start..member.value.end);
        }
        Ok(())
    })
    .ok()?;
    at
}
