//! Unstreamed answers: gathered, and written in one piece, for one client or for all who share a flight.

use super::{Phase, Relay, committed, shared::Sharing};
use crate::{
    cache::flight::Flight,
    refusal::Refusal,
    routes::{Fault, FaultKind},
    wire::{Event, Gathered, Pieces, chat},
};
use bytes::Bytes;
use policies::PicoUsd;
use std::ops::Range;

/// Most bytes of an answer that are written where others wait: some milliseconds.
const WRITTEN_INLINE_BYTES_MAX: usize = 256 * 1024;

/// An unstreamed answer that broke.
#[derive(Debug)]
pub struct Unwhole {
    /// What the caller is told.
    pub refusal: Refusal,
    /// What it cost all the same, if known.
    pub cost: Option<PicoUsd>,
}

/// A whole unstreamed answer.
#[derive(Debug)]
pub struct Whole {
    /// The body.
    pub body: Pieces,
    /// What it cost, if known.
    pub cost: Option<PicoUsd>,
}

/// All that an unstreamed answer says.
#[derive(Debug)]
enum Said {
    /// A provider's bytes, which pass as they are, and where their usage stands.
    Passed(Bytes, Option<Range<usize>>),
    /// What is the same for all who share it.
    Written(Bytes),
    /// Its pieces.
    Gathered(Gathered),
}

/// Bytes that have room as long as they are there, whoever has them by then.
struct Roomed {
    bytes: Bytes,
    _room: Box<Sharing>,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Relay {
    /// Hands on what an unstreamed answer says, written once for all.
    pub(super) async fn fly_whole(&mut self, flight: &Flight) -> Result<(), Fault> {
        let (mut gathered, mut is_told, mut is_ended) = (Gathered::default(), false, false);
        while let Some(event) = self.next_event().await {
            match self.gather(&mut gathered, event?)? {
                Some(Event::End { .. }) => is_ended = true,
                Some(event) => {
                    is_told = true;
                    flight.push(event).await;
                }
                None => {}
            }
        }
        if let Some(outer) = self.outer.take().filter(|_| !is_told) {
            let long = is_long(&gathered);
            let content = written(long, move || outer.content(&gathered)).await?;
            flight.push(Event::Written { content, service: self.served() }).await;
            is_ended = true;
        }
        if is_ended {
            let (usage, source) = self.usage();
            flight.push(Event::End { usage, source, engine: self.seen.engine }).await;
        }
        Ok(())
    }

    /// The whole answer of an unstreamed request.
    ///
    /// # Errors
    /// What the caller is told when it broke; it is booked.
    pub async fn into_whole(mut self: Box<Self>) -> Result<Whole, Unwhole> {
        let told = match self.said().await {
            Ok(said) => self.tell(said).await,
            Err(fault) => Err(fault),
        };
        let (body, cost) = match told {
            Ok(told) => told,
            Err(fault) => {
                let (refusal, ticket) = self.broken(&fault, None);
                committed(ticket).await;
                return Err(Unwhole { refusal, cost: self.booked });
            }
        };
        self.complete();
        if let Phase::Settling(ticket, _) = std::mem::replace(&mut self.phase, Phase::Over) {
            committed(ticket).await;
        }
        Ok(Whole { body, cost })
    }

    /// All that an unstreamed answer says.
    async fn said(&mut self) -> Result<Said, Fault> {
        let (mut gathered, mut told) = (Gathered::default(), None);
        while let Some(event) = self.next_event().await {
            match self.gather(&mut gathered, event?)? {
                Some(Event::Whole { body, seen } | Event::Own { data: body, seen }) => {
                    told = Some(Said::Passed(body, seen.usage_at));
                }
                Some(Event::Written { content, .. }) => told = Some(Said::Written(content)),
                _ => {}
            }
        }
        Ok(told.unwrap_or(Said::Gathered(gathered)))
    }

    /// Adds a piece of an unstreamed answer to what was said; returns what is all of it by itself, or its
    /// end.
    fn gather(&mut self, gathered: &mut Gathered, event: Event) -> Result<Option<Event>, Fault> {
        match event {
            Event::Delta(delta) => gathered.add(delta),
            Event::Vectors(vectors) => gathered.vectors = vectors,
            Event::Whole { body, .. } if !self.passes() => {
                self.unwritten(&body)?.into_iter().for_each(|delta| gathered.add(delta));
            }
            Event::Begin { .. } | Event::Chunk { .. } => {}
            event => return Ok(Some(event)),
        }
        Ok(None)
    }

    /// What was said in the client's format, and what it cost.
    async fn tell(&mut self, said: Said) -> Result<(Pieces, Option<PicoUsd>), Fault> {
        let cost = self.cost();
        let total = cost.as_ref().map(|cost| cost.total);
        let body = match said {
            Said::Passed(body, Some(at)) if let Some(cost) = &cost => {
                chat::with_cost_whole(&body, &at, cost)
            }
            Said::Passed(body, _) => body.into(),
            said => {
                let (usage, _) = self.usage();
                self.tell_served();
                let Some(outer) = self.outer.take() else { return Ok((Pieces::default(), total)) };
                match said {
                    Said::Written(content) => outer.around(content, &usage, cost.as_ref()),
                    Said::Gathered(gathered) => {
                        if let Some(Sharing::Room(room)) = self.sharing.as_deref_mut() {
                            room.grow_by(gathered.bytes()).map_err(|_| no_room())?;
                        }
                        let long = is_long(&gathered);
                        let write = move || outer.whole(gathered, &usage, cost.as_ref());
                        let bytes = written(long, write).await?;
                        match self.sharing.take_if(|it| matches!(**it, Sharing::Room(_))) {
                            Some(room) => Bytes::from_owner(Roomed { bytes, _room: room }).into(),
                            None => bytes.into(),
                        }
                    }
                    Said::Passed(body, _) => body.into(),
                }
            }
        };
        Ok((body, total))
    }
}

fn is_long(answer: &Gathered) -> bool {
    answer.bytes() > WRITTEN_INLINE_BYTES_MAX
}

fn no_room() -> Fault {
    Fault::new(FaultKind::Crowded, "bodies take all the room there is")
}

/// What `write` writes, where blocking is allowed if it is long.
async fn written<T: Send + 'static>(
    long: bool,
    write: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    if !long {
        return Ok(write());
    }
    // Boxed: few answers are, and every request would have room for it.
    let written = Box::pin(tokio::task::spawn_blocking(write)).await;
    written.map_err(|died| Fault::new(FaultKind::Engine, died.to_string()))
}
