//! An answer that is coming in: bytes to events, under the route's timeouts.
//!
//! **Invariants:** an answer ends well only when the provider said so (`[DONE]`, or every choice
//! finished); anything else is [`FaultKind::Broken`] or a timeout. Nothing of a payload is in a
//! fault's detail.

use super::{Place, status};
use crate::{
    causes,
    ledger::Endpoint,
    providers::{
        self, Format, anthropic, gemini,
        openai::{self, Payload},
    },
    routes::{Fault, FaultKind},
    wire::{
        ChatRequest, Event,
        sse::{Decoder, SseEvent},
    },
};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http::header;
use policies::{ServiceTier, Usage};
use reqwest::Response;
use std::{collections::VecDeque, fmt, pin::Pin, time::Duration};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Longest event of a stream.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// Largest unstreamed answer.
pub(super) const WHOLE_BYTES_MAX: usize = 32 << 20;
/// What may follow an answer's end before its connection is given up instead of kept.
const DRAIN: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// A route's timeouts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the request sent to the first token; streamed answers only.
    pub(super) first_token: Duration,
    /// Between pieces after the first token.
    pub(super) idle: Duration,
    /// For everything.
    pub(super) total: Duration,
}

/// An answer whose head has arrived. Dropping it cancels the request upstream.
pub struct CloudAnswer {
    status: u16,
    /// Until the answer's end.
    source: Option<Source>,
    form: Form,
    watch: Watch,
    /// Choices asked for, and those that have ended.
    choices: u32,
    finished: u32,
    id_wanted: bool,
    /// Whether vectors were asked for.
    vectors: bool,
    /// Whose format it comes in.
    reader: Reader,
    /// Whether that is the client's own, though not OpenAI's: its bytes pass.
    own: bool,
    /// Events that were read and not handed on yet.
    ready: VecDeque<Event>,
    /// The service tier that is said to have served it, in formats that say so at the end.
    service: Option<ServiceTier>,
    /// Prompt tokens to book where none are reported.
    prompt_tokens: u64,
}

/// Whose format an answer comes in.
enum Reader {
    OpenAi,
    Anthropic(Box<anthropic::Stream>),
    Gemini(Box<gemini::Stream>),
}

/// Where the bytes come from, and the place they take.
struct Source {
    response: Response,
    place: Place,
}

/// How the answer comes.
enum Form {
    /// As events.
    Streamed(Box<Decoder>),
    /// As one body.
    Whole,
}

/// The timeouts of one answer, its head's too. One timer serves them all: it is moved only when it
/// fires.
pub(super) struct Watch {
    limits: Limits,
    first_by: Option<Instant>,
    total_by: Instant,
    /// When the last piece came, once idling counts.
    heard: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// What an event of the stream came to.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for an instant, on the stack")]
enum Read {
    Event(Event),
    Nothing,
    Done,
}

// === impl CloudAnswer ===

impl CloudAnswer {
    pub(super) fn new(
        response: Response,
        place: Place,
        request: &ChatRequest,
        watch: Watch,
        format: Format,
    ) -> Result<Self, Fault> {
        let prompt_tokens = request.prompt_tokens_unreported();
        let reader = match format {
            Format::OpenAi => Reader::OpenAi,
            Format::Anthropic => Reader::Anthropic(Box::new(anthropic::Stream::new(prompt_tokens))),
            Format::Gemini => {
                let stream = gemini::Stream::new(prompt_tokens, request.choices);
                Reader::Gemini(Box::new(stream))
            }
        };
        let form = if request.stream {
            check_is_event_stream(&response)?;
            Form::Streamed(Box::new(Decoder::new(EVENT_BYTES_MAX)))
        } else {
            Form::Whole
        };
        Ok(Self {
            status: response.status().as_u16(),
            watch,
            source: Some(Source { response, place }),
            form,
            choices: request.choices,
            finished: 0,
            id_wanted: true,
            vectors: request.endpoint == Endpoint::Embeddings,
            reader,
            own: format == Format::Anthropic && request.endpoint == Endpoint::Messages,
            ready: VecDeque::new(),
            service: None,
            prompt_tokens,
        })
    }

    /// The provider's status, a 2xx.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The service tier that is said to have served it; for OpenAI's format it stands in the events.
    #[must_use]
    pub fn service(&self) -> Option<ServiceTier> {
        self.service
    }

    /// What has been told of the usage so far; for OpenAI's format it stands in the events.
    #[must_use]
    pub fn told(&self) -> Option<Usage> {
        match &self.reader {
            Reader::OpenAi => None,
            Reader::Anthropic(stream) => stream.told(),
            Reader::Gemini(stream) => stream.told(),
        }
    }

    /// The next event; `None` after the last, and after a fault. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// A [`Fault`]: the answer broke, or a timeout passed. The request is then cancelled upstream.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        if let Some(event) = self.ready.pop_front() {
            return Some(Ok(event));
        }
        self.source.as_ref()?;
        let next = match self.form {
            Form::Streamed(_) => self.next_streamed().await,
            Form::Whole => self.whole().await.map(Some),
        };
        match next {
            Ok(Some(event)) => Some(Ok(event)),
            Ok(None) => None,
            Err(fault) => {
                self.source = None;
                Some(Err(fault))
            }
        }
    }

    async fn next_streamed(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            while let Some(event) = self.decoded(Decoder::next_event)? {
                match self.read(&event)? {
                    Read::Event(event) => return Ok(Some(event)),
                    Read::Nothing => {}
                    Read::Done => {
                        self.end();
                        return Ok(None);
                    }
                }
            }
            match self.piece().await {
                Ok(Some(piece)) => {
                    if let Form::Streamed(decoder) = &mut self.form {
                        decoder.feed(piece);
                    }
                }
                Ok(None) => return self.last_streamed(),
                // The answer is whole; only the end of the stream is missing.
                Err(_) if self.is_finished() => {
                    self.source = None;
                    return Ok(None);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The body has ended: what stands there yet, and whether that is a good end.
    fn last_streamed(&mut self) -> Result<Option<Event>, Fault> {
        if let Some(event) = self.decoded(Decoder::end)? {
            match self.read(&event)? {
                // The next call comes back here.
                Read::Event(event) => return Ok(Some(event)),
                Read::Nothing => {}
                Read::Done => self.finished = self.choices,
            }
        }
        self.source = None;
        if let Reader::Gemini(stream) = &mut self.reader
            && let Some(end) = stream.end()
        {
            return Ok(Some(end));
        }
        if self.is_finished() {
            return Ok(None);
        }
        Err(broken("the stream ended before the answer did"))
    }

    fn decoded(
        &mut self,
        read: impl FnOnce(&mut Decoder) -> Result<Option<SseEvent>, crate::wire::sse::TooLong>,
    ) -> Result<Option<SseEvent>, Fault> {
        match &mut self.form {
            Form::Streamed(decoder) => read(decoder).map_err(|error| broken(&error.to_string())),
            Form::Whole => Ok(None),
        }
    }

    fn read(&mut self, event: &SseEvent) -> Result<Read, Fault> {
        let data = event.data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(Read::Done);
        }
        if data.is_empty() {
            return Ok(Read::Nothing);
        }
        let read = match &mut self.reader {
            Reader::OpenAi => None,
            Reader::Anthropic(stream) if self.own => Some(stream.read_own(&event.data)),
            Reader::Anthropic(stream) => Some(stream.read(data)),
            Reader::Gemini(stream) => Some(stream.read(data)),
        };
        if let Some(read) = read {
            self.converted(data, read.map_err(broken)?)?;
            return Ok(self.ready.pop_front().map_or(Read::Nothing, Read::Event));
        }
        let failed = event.name.as_deref() == Some(b"error");
        let Payload { seen, finished, .. } =
            openai::read_chunk(data, self.id_wanted).map_err(broken)?;
        if seen.error || failed {
            return Err(failed_within(data));
        }
        self.finished = self.finished.saturating_add(finished);
        self.id_wanted &= seen.id.is_none();
        if seen.visible || seen.reasoning_bytes > 0 {
            self.watch.spoke();
        }
        Ok(Read::Event(Event::Chunk { data: event.data.clone(), seen }))
    }

    /// Events of another format, in line to be handed on.
    fn converted(&mut self, data: &[u8], read: providers::Read) -> Result<(), Fault> {
        let events = match read {
            providers::Read::Failed => return Err(failed_within(data)),
            providers::Read::Events(events) => events,
            providers::Read::Last { events, service } => {
                self.service = service;
                self.finished = self.choices;
                self.end();
                events
            }
        };
        if events.iter().any(Event::speaks) {
            self.watch.spoke();
        }
        self.ready.extend(events);
        Ok(())
    }

    async fn whole(&mut self) -> Result<Event, Fault> {
        // Most come in one piece, which is taken as it is.
        let mut body = self.piece().await?.unwrap_or_default();
        if let Some(second) = self.piece().await? {
            // Boxed: few are long, and every request would have room for it.
            body = Box::pin(self.joined(body, second)).await?;
        }
        self.source = None;
        let read = match self.reader {
            Reader::OpenAi => None,
            Reader::Anthropic(_) if self.own => {
                Some(anthropic::whole_own(&body, self.prompt_tokens))
            }
            Reader::Anthropic(_) => Some(anthropic::whole(&body, self.prompt_tokens)),
            Reader::Gemini(_) => Some(gemini::whole(&body, self.prompt_tokens, self.choices)),
        };
        if let Some(read) = read {
            self.converted(&body, read.map_err(broken)?)?;
            return self.ready.pop_front().ok_or_else(|| broken("the body holds nothing"));
        }
        let read = if self.vectors { openai::read_vectors } else { openai::read_whole };
        let Payload { seen, .. } = read(&body).map_err(broken)?;
        if seen.error {
            return Err(failed_within(&body));
        }
        Ok(Event::Whole { body, seen })
    }

    /// A body that comes in pieces, of which these are the first two.
    async fn joined(&mut self, first: Bytes, second: Bytes) -> Result<Bytes, Fault> {
        let mut body = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if body.len() + piece.len() > WHOLE_BYTES_MAX {
                return Err(broken(&format!("the answer is larger than {WHOLE_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&piece);
            next = self.piece().await?;
        }
        Ok(body.freeze())
    }

    /// The next bytes; `None` at the body's end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(source) = &mut self.source else { return Ok(None) };
        let piece = tokio::select! {
            biased;
            piece = source.response.chunk() => piece,
            kind = self.watch.passed() => return Err(Fault::new(kind, "no bytes came")),
        };
        self.watch.heard();
        piece.map_err(|error| broken(&causes::of_request(error)))
    }

    fn is_finished(&self) -> bool {
        self.finished >= self.choices.max(1)
    }

    /// After `[DONE]` nothing is left but the end of the body. It is waited for beside the answer,
    /// so that the connection can be used again and the client does not wait.
    fn end(&mut self) {
        let Some(mut source) = self.source.take() else { return };
        if let Some(Ok(None)) = source.response.chunk().now_or_never() {
            return;
        }
        let drain = async move {
            let (longest, mut bytes_left) = DRAIN;
            let _ = timeout(longest, async {
                while let Ok(Some(piece)) = source.response.chunk().await {
                    bytes_left = bytes_left.saturating_sub(piece.len());
                    if bytes_left == 0 {
                        break;
                    }
                }
            })
            .await;
            drop(source.place);
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a second at most, holds its place, and nothing is settled in it: shutdown need not wait"
        )]
        tokio::spawn(drain);
    }
}

impl fmt::Debug for CloudAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudAnswer")
            .field("status", &self.status)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

// === impl Watch ===

impl Watch {
    /// Of an answer to what is `sent` now.
    pub(super) fn new(limits: Limits, sent: Instant, streamed: bool) -> Self {
        let total_by = sent + limits.total;
        let first_by = streamed.then(|| sent + limits.first_token);
        let timer = Box::pin(sleep_until(first_by.unwrap_or(total_by).min(total_by)));
        Self { limits, first_by, total_by, heard: None, timer }
    }

    /// The first token came: from now on silence between pieces counts.
    fn spoke(&mut self) {
        if self.first_by.take().is_some() {
            self.heard = Some(Instant::now());
            // From here deadlines only move on, which `passed` sees to.
            let (by, _) = self.next_deadline();
            self.timer.as_mut().reset(by);
        }
    }

    /// A piece came.
    fn heard(&mut self) {
        if let Some(heard) = &mut self.heard {
            *heard = Instant::now();
        }
    }

    /// When the next timeout passes.
    pub(super) fn ends_by(&self) -> Instant {
        self.next_deadline().0
    }

    /// Waits until a timeout passes; says which.
    pub(super) async fn passed(&mut self) -> FaultKind {
        loop {
            self.timer.as_mut().await;
            let (by, kind) = self.next_deadline();
            if Instant::now() >= by {
                return kind;
            }
            self.timer.as_mut().reset(by);
        }
    }

    fn next_deadline(&self) -> (Instant, FaultKind) {
        let idle = self.heard.map(|heard| (heard + self.limits.idle, FaultKind::Idle));
        let first = self.first_by.map(|by| (by, FaultKind::FirstToken));
        match first.or(idle) {
            Some((by, kind)) if by < self.total_by => (by, kind),
            _ => (self.total_by, FaultKind::Total),
        }
    }
}

/// Refuses a body that is no event stream where one was asked for.
fn check_is_event_stream(response: &Response) -> Result<(), Fault> {
    let Some(kind) = response.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    if kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream") {
        return Ok(());
    }
    Err(broken("a stream was asked for and the answer is none, by its content type"))
}

/// An error object in place of an answer.
fn failed_within(data: &[u8]) -> Fault {
    let error = openai::provider_error(data);
    let word = error.code.as_deref().or(error.error_type.as_deref());
    let word = word.and_then(status::plain_word).unwrap_or("unnamed");
    broken(&format!("the provider sent an error in place of the answer: {word}"))
}

fn broken(detail: &str) -> Fault {
    Fault::new(FaultKind::Broken, detail)
}

#[cfg(test)]
mod tests {
    //! The watch alone, on a clock that tests move.

    use super::{Duration, FaultKind, Instant, Limits, Watch};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watch(first_token: u64, idle: u64, total: u64, streamed: bool) -> Watch {
        let limits = Limits {
            first_token: seconds(first_token),
            idle: seconds(idle),
            total: seconds(total),
        };
        Watch::new(limits, Instant::now(), streamed)
    }

    #[tokio::test(start_paused = true)]
    async fn each_timeout_passes_when_it_should() {
        let began = Instant::now();
        assert_eq!(watch(5, 1, 60, true).passed().await, FaultKind::FirstToken);
        assert_eq!(began.elapsed(), seconds(5));

        let began = Instant::now();
        assert_eq!(watch(5, 1, 60, false).passed().await, FaultKind::Total);
        assert_eq!(began.elapsed(), seconds(60));

        // Idle counts from the first token on, also where it is shorter than what is left.
        let began = Instant::now();
        let mut watch = watch(50, 2, 60, true);
        tokio::time::advance(seconds(10)).await;
        watch.spoke();
        assert_eq!(watch.passed().await, FaultKind::Idle);
        assert_eq!(began.elapsed(), seconds(12));
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_is_not_idle_and_ends_at_its_total() {
        let began = Instant::now();
        let mut watch = watch(5, 3, 20, true);
        watch.spoke();
        for _ in 0..9 {
            tokio::select! {
                kind = watch.passed() => panic!("{kind:?}"),
                () = tokio::time::sleep(seconds(2)) => watch.heard(),
            }
        }
        assert_eq!(watch.passed().await, FaultKind::Total);
        assert_eq!(began.elapsed(), seconds(20));
    }
}
