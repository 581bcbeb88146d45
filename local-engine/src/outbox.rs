//! The scheduler's end of a job's events. It never waits: what the reader has no room for is kept
//! here, joined into one text, and the job pauses until it is gone. Room for the last text and the
//! last event is set aside at the start, so a job can always end.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender, error::TrySendError};

use crate::{
    job::{JobEvent, JobUsage, TokenLogprob},
    meter::Meter,
};

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Outbox {
    events: Sender<JobEvent>,
    for_last_text: OwnedPermit<JobEvent>,
    for_last_event: OwnedPermit<JobEvent>,
    unsent: String,
    unsent_tokens: u32,
    unsent_logprobs: Vec<TokenLogprob>,
    paused_since: Option<Instant>,
    /// The owner is yet to be told that its engine time is low.
    owes_low: bool,
    meter: Arc<Meter>,
    /// Counts the job as open until it has ended.
    open: Option<Arc<()>>,
}

impl Outbox {
    /// An outbox and the reader's end. `None` cannot happen: the new channel has the room.
    pub(crate) fn new(lag_max: usize, meter: Arc<Meter>) -> Option<(Outbox, Receiver<JobEvent>)> {
        let (events, receiver) = mpsc::channel(lag_max.saturating_add(2));
        let outbox = Outbox {
            for_last_text: events.clone().try_reserve_owned().ok()?,
            for_last_event: events.clone().try_reserve_owned().ok()?,
            events,
            unsent: String::new(),
            unsent_tokens: 0,
            unsent_logprobs: Vec::new(),
            paused_since: None,
            owes_low: false,
            meter,
            open: None,
        };
        Some((outbox, receiver))
    }

    /// Holds `open` until the job has ended.
    pub(crate) fn count_in(&mut self, open: Arc<()>) {
        self.open = Some(open);
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Whether the reader has left.
    pub(crate) fn abandoned(&self) -> bool {
        self.meter.cancelled.load(SeqCst) || self.events.is_closed()
    }

    /// The first event, for which the empty channel has room.
    pub(crate) fn started(&self, queued: Duration, cached_tokens: u32) {
        let _ = self.events.try_send(JobEvent::Started { queued, cached_tokens });
    }

    /// Tells the owner that its bound of engine time is near, once for each bound. Where the reader
    /// has no room for that it is tried again by whoever calls this or [`Outbox::remind`] next.
    pub(crate) fn low(&mut self) {
        self.owes_low = false;
        // Before it is sent: whoever hears of it takes this back at once with a new bound.
        if self.meter.told_low.swap(true, SeqCst) {
            return;
        }
        let sent =
            || !matches!(self.events.try_send(JobEvent::EngineTimeLow), Err(TrySendError::Full(_)));
        if !sent() {
            // The reader may have read just before it could see the flag: look once more after it.
            self.meter.paused.store(true, SeqCst);
            if !sent() {
                self.meter.told_low.store(false, SeqCst);
                self.owes_low = true;
                return;
            }
            self.meter.paused.store(false, SeqCst);
        }
    }

    /// Tells what [`Outbox::low`] found no room for.
    pub(crate) fn remind(&mut self) {
        if self.owes_low {
            self.low();
        }
    }

    /// Counts a token and sends its text, if any.
    pub(crate) fn token(&mut self, text: &str, now: Instant) {
        self.unsent_tokens += 1;
        self.unsent.push_str(text);
        self.flush(now);
    }

    /// Hands on a text of some tokens.
    pub(crate) fn relay(&mut self, text: &str, tokens: u32, now: Instant) {
        self.unsent_tokens += tokens;
        self.unsent.push_str(text);
        self.flush(now);
    }

    /// Log probabilities that go with the next text.
    pub(crate) fn logprobs(&mut self, of_text: impl IntoIterator<Item = TokenLogprob>) {
        self.unsent_logprobs.extend(of_text);
    }

    /// Since when the reader has had no room.
    pub(crate) fn paused_since(&self) -> Option<Instant> {
        self.paused_since
    }

    /// Sends what was kept, if there is room now.
    pub(crate) fn flush(&mut self, now: Instant) {
        if self.unsent.is_empty() {
            return;
        }
        if self.try_flush() {
            self.paused_since = None;
            return;
        }
        // The reader may have read just before it could see the flag: look once more after it.
        self.meter.paused.store(true, SeqCst);
        if self.try_flush() {
            self.meter.paused.store(false, SeqCst);
            self.paused_since = None;
        } else if self.paused_since.is_none() {
            self.paused_since = Some(now);
        }
    }

    fn try_flush(&mut self) -> bool {
        let text = std::mem::take(&mut self.unsent);
        let logprobs = std::mem::take(&mut self.unsent_logprobs);
        let event = JobEvent::Text { text, tokens: self.unsent_tokens, logprobs };
        match self.events.try_send(event) {
            Err(TrySendError::Full(JobEvent::Text { text, logprobs, .. })) => {
                self.unsent = text;
                self.unsent_logprobs = logprobs;
                false
            }
            // A reader that left is noticed by `abandoned`.
            Ok(()) | Err(_) => {
                self.unsent_tokens = 0;
                true
            }
        }
    }

    /// Sends the rest of the text and the last event. Tokens that make no text, such as those of a
    /// character that was cut, are told without one.
    pub(crate) fn close(mut self, rest: &str, last: impl FnOnce(JobUsage) -> JobEvent) {
        self.unsent.push_str(rest);
        if !self.unsent.is_empty() || !self.unsent_logprobs.is_empty() {
            let (text, tokens, logprobs) = (self.unsent, self.unsent_tokens, self.unsent_logprobs);
            self.for_last_text.send(JobEvent::Text { text, tokens, logprobs });
        }
        self.meter.closed.store(true, SeqCst);
        self.for_last_event.send(last(self.meter.usage()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_no_room_for_the_word_that_time_is_low_is_told_when_there_is() {
        let meter = Arc::new(Meter::bounded(Duration::from_secs(1), true));
        let (mut outbox, mut reader) = Outbox::new(1, meter).expect("a new channel has room");
        outbox.relay("a", 1, Instant::now());
        outbox.low();
        outbox.remind();
        assert!(matches!(reader.try_recv(), Ok(JobEvent::Text { .. })));
        assert!(reader.try_recv().is_err(), "there was no room for it");
        outbox.remind();
        assert_eq!(reader.try_recv(), Ok(JobEvent::EngineTimeLow));
        outbox.remind();
        assert!(reader.try_recv().is_err(), "once for each bound");
    }
}
