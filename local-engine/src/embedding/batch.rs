//! One batch of texts: whole ones side by side, each in a sequence of its own, or a piece of one that
//! is longer than a turn may read, which has no company.
//!
//! **Invariants:** a job's texts are read in their order; a batch that cannot be computed fails nobody
//! but the job at fault: its texts are tried again one by one. Each job is charged its share of what was
//! tried in vain.

use std::{
    ops::Range,
    sync::{MutexGuard, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{EmbedError, Pooling, Reading, Vectors, line::Line};
use crate::{
    attribution::split,
    device::{Device, Fault},
    scheduler::Scheduler,
    sequence::Sequence,
    status::{count32, count64, nanoseconds},
};

/// A job's part of a batch.
#[derive(Debug)]
struct Part {
    reading: Reading,
    texts: Vec<Piece>,
}

/// What of a text is read.
#[derive(Debug)]
struct Piece {
    /// Which of its job's texts.
    text: usize,
    tokens: Range<usize>,
    /// What the vectors made so far.
    pooled: Vec<f32>,
}

/// What a batch may have.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    texts: usize,
    tokens: usize,
    /// Whether a text is read in one piece, however long.
    whole: bool,
}

impl<D: Device> Scheduler<D> {
    /// Reads one batch of the texts whose turn it is. False: there is none. An error means that the
    /// device is lost.
    pub(crate) fn embed(&mut self, now: Instant) -> Result<bool, String> {
        self.embedded = 0;
        let mut parts = self.next_texts(now);
        if parts.is_empty() {
            return Ok(false);
        }
        let ready = self.shared.embeds.take_room().map_err(Fault::Sequence);
        let ready = ready.and_then(|()| {
            // Where there is none now there was none before.
            let made = self.device.ready_to_embed();
            made.inspect_err(|_| self.shared.embeds.free_room())
        });
        let weights: Vec<u64> = parts.iter().map(|part| count64(part.tokens())).collect();
        let tokens = parts.iter().map(Part::tokens).sum();
        let expected = split(self.costs.expected_ns(0, tokens), &weights);
        for (part, expected) in parts.iter().zip(expected) {
            part.reading.meter.begin_step(expected);
        }
        let started = Instant::now();
        let read = ready.and_then(|()| read(&mut self.device, &mut parts));
        let spent = nanoseconds(started.elapsed());
        for (part, spent) in parts.iter().zip(split(spent, &weights)) {
            part.reading.meter.end_step();
            part.reading.meter.spend_prefill(spent);
        }
        let gauges = &self.shared.gauges;
        gauges.busy_ns.fetch_add(spent, Relaxed);
        gauges.attributed_ns.fetch_add(spent, Relaxed);
        match read {
            Ok(()) => {
                gauges.prefill_tokens.fetch_add(count64(tokens), Relaxed);
                self.embedded = tokens;
                parts.into_iter().for_each(|part| self.go_on(part, now));
            }
            Err(Fault::Broken(reason)) => return Err(reason),
            Err(fault) => self.could_not(parts, fault),
        }
        Ok(true)
    }

    /// Takes the texts of the next batch out of the line.
    fn next_texts(&self, now: Instant) -> Vec<Part> {
        let stall_max = self.reader_stall_max;
        let mut line = self.shared.embeds.line();
        line.tidy(now, self.queue_wait_max);
        line.remind();
        for reading in line.take_out(|reading| reading.gets_no_more(now, stall_max)) {
            reading.tell(Err(EmbedError::EngineTime));
        }
        fill(line, self.embed_bounds(), now, stall_max)
    }

    /// A job's part of the batch was computed.
    fn go_on(&self, part: Part, now: Instant) {
        let (caller, tokens) = (part.reading.job.scheduling.caller, part.tokens());
        let mut reading = part.reading;
        reading.meter.read(count32(tokens));
        for piece in part.texts {
            reading.has_read(piece.tokens.end, piece.pooled);
        }
        let ended: Option<Vectors> = if reading.is_done() {
            Some(Ok(std::mem::take(&mut reading.done)))
        } else if reading.meter.is_overspent() {
            Some(Err(EmbedError::EngineTime))
        } else {
            reading.waits_since = reading.meter.is_spent().then_some(now);
            reading.tell_if_low();
            None
        };
        match ended {
            Some(end) => {
                self.shared.embeds.line().done(caller);
                reading.tell(end);
            }
            None => self.shared.embeds.line().put_back(reading),
        }
    }

    /// The batch could not be computed: whoever was alone in it has its answer, the others are tried
    /// one by one.
    fn could_not(&self, parts: Vec<Part>, fault: Fault) {
        let alone = parts.iter().map(|part| part.texts.len()).sum::<usize>() == 1;
        let reason = match fault {
            Fault::Full => "the text is too long".to_owned(),
            Fault::Sequence(reason) | Fault::Broken(reason) => reason,
        };
        if !alone {
            tracing::warn!(
                reason,
                "texts could not be embedded together: they are tried one by one"
            );
        }
        for Part { mut reading, .. } in parts {
            if alone {
                self.shared.embeds.line().done(reading.job.scheduling.caller);
                reading.tell(Err(EmbedError::Unable(reason.clone())));
            } else {
                reading.alone = true;
                self.shared.embeds.line().put_back(reading);
            }
        }
    }

    /// What a turn may read of texts: as many tokens as of a prompt, half where there are prompts.
    fn embed_bounds(&self) -> Bounds {
        let bound = self.prefill_bound(self.running().count()).min(self.prefill_chunk);
        let reads = |(at, job): (usize, &Sequence<D::Sampler>)| self.read(at) < job.to_read();
        let bound = if self.running().any(reads) { bound.div_ceil(2) } else { bound };
        let room = self.device.room_to_embed();
        Bounds {
            texts: room.texts,
            tokens: bound.clamp(1, room.tokens.max(1)),
            whole: self.device.embeds_whole(),
        }
    }
}

/// Takes out of the line what a batch may have, and charges it to the callers.
fn fill(
    mut line: MutexGuard<'_, Line>,
    bounds: Bounds,
    now: Instant,
    stall_max: Duration,
) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut left = bounds;
    while left.texts > 0 && left.tokens > 0 {
        let Some(reading) = line.next(|reading| reading.waits(now, stall_max)) else { break };
        let caller = reading.job.scheduling.caller;
        let starts_anew = reading.read == 0;
        let alone = reading.alone;
        if !parts.is_empty() && alone {
            line.put_back(reading);
            break;
        }
        let texts = next_of(&reading, &mut left, parts.is_empty());
        if texts.is_empty() {
            line.put_back(reading);
            break;
        }
        if parts.is_empty() && starts_anew {
            line.lose_cells();
        }
        let part = Part { reading, texts };
        line.charge(caller, count64(part.tokens()));
        parts.push(part);
        if alone {
            break;
        }
    }
    parts
}

/// What of a job comes into a batch with so much left; the first text of a batch comes in any case.
/// Nothing is left beside a text that does not end in it.
fn next_of(reading: &Reading, left: &mut Bounds, mut first: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut from = reading.read;
    let begun = reading.done.len();
    for (text, tokens) in reading.job.inputs.iter().enumerate().skip(begun) {
        let rest = tokens.len() - from;
        let fits = rest <= left.tokens;
        if !first && (!fits || left.texts == 0) {
            break;
        }
        let end = if fits || left.whole { tokens.len() } else { from + left.tokens };
        pieces.push(Piece { text, tokens: from..end, pooled: Vec::new() });
        left.tokens = left.tokens.saturating_sub(end - from);
        left.texts -= 1;
        // Beside what was read before, every token of the others would look at its cells too.
        if from > 0 || end < tokens.len() || reading.alone {
            left.texts = 0;
        }
        (from, first) = (0, false);
    }
    pieces
}

/// Computes a batch.
fn read<D: Device>(device: &mut D, parts: &mut [Part]) -> Result<(), Fault> {
    let default = device.pooling();
    let mut texts: Vec<&[i32]> = Vec::new();
    let mut wanted = Vec::new();
    let mut from = 0;
    for Part { reading, texts: pieces } in parts {
        let pooling = reading.job.pooling.unwrap_or(default);
        for Piece { text, tokens, pooled } in pieces {
            let input = &reading.job.inputs[*text];
            texts.push(&input[tokens.clone()]);
            if tokens.start > 0 {
                (from, *pooled) = (tokens.start, std::mem::take(&mut reading.pooled));
            }
            wanted.push(Wanted { pooling, from: tokens.start, last: input.len() - 1, pooled });
        }
    }
    device.embed(&texts, from, &mut |text, offset, vector| wanted[text].add(offset, vector))
}

/// What becomes of a text's token vectors.
struct Wanted<'a> {
    pooling: Pooling,
    /// The place of the piece in its text, and of the text's last token.
    from: usize,
    last: usize,
    pooled: &'a mut Vec<f32>,
}

impl Wanted<'_> {
    fn add(&mut self, offset: usize, vector: &[f32]) {
        let at = self.from + offset;
        match self.pooling {
            Pooling::First if at > 0 => {}
            Pooling::Last if at < self.last => {}
            Pooling::Mean if at > 0 => {
                for (sum, value) in self.pooled.iter_mut().zip(vector) {
                    *sum += value;
                }
            }
            Pooling::First | Pooling::Last | Pooling::Mean => *self.pooled = vector.to_vec(),
        }
    }
}

impl Part {
    fn tokens(&self) -> usize {
        self.texts.iter().map(|piece| piece.tokens.len()).sum()
    }
}
