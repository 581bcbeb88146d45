//! An answer that is coming in: bytes to events, under the route's timeouts.
//!
//! **Invariants:** an answer ends well only when the provider said so (`[DONE]`, or every choice
//! finished), and then whatever becomes of its connection; anything else is [`FaultKind::Broken`], a
//! timeout, or what an error says that came in place of an answer. Nothing of a payload is in a fault's
//! detail.

use super::{Place, status::Errors, watch::Watch};
use crate::{
    causes,
    ledger::Endpoint,
    providers::{
        self, Ended, Format, anthropic, gemini,
        openai::{self, Payload},
        status_within,
    },
    routes::{Fault, FaultKind, Owed},
    wire::{
        ChatRequest, Event, Seen,
        sse::{Decoder, SseEvent},
    },
};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http::header;
use policies::{ServiceTier, Usage};
use reqwest::Response;
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};
use tokio::time::timeout;

/// Longest event of a stream.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// Largest unstreamed answer.
pub(super) const WHOLE_BYTES_MAX: usize = 32 << 20;
/// What may follow an answer's end before its connection is given up instead of kept.
const DRAIN: (Duration, usize) = (Duration::from_secs(1), 64 * 1024);

/// An answer whose head has arrived. Dropping it cancels the request upstream.
pub struct CloudAnswer {
    status: u16,
    /// Until the answer's end.
    source: Option<Source>,
    form: Form,
    watch: Watch,
    /// Whether the provider said that it is whole.
    whole: bool,
    /// Whose format it comes in.
    reader: Reader,
    /// Whether that is the client's own, though not OpenAI's: its bytes pass.
    own: bool,
    /// Events that were read and not handed on yet.
    ready: VecDeque<Event>,
    /// The service tier that is said to have served it, in formats that say so at the end.
    service: Option<ServiceTier>,
    given: Given,
    aside: Box<Aside>,
}

/// What is looked at only at the end of an answer, kept out of its way.
struct Aside {
    choices: u32,
    endpoint: Endpoint,
    /// Prompt tokens to book where none are reported.
    prompt_tokens: u64,
    errors: Arc<Errors>,
    /// What is owed where it failed.
    owed: Owed,
    /// Whether its caller waits for it until a time of its own.
    hurried: bool,
}

/// What has been handed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Given {
    Nothing,
    /// What no caller sees: a role, an id.
    Silent,
    Shown,
}

/// Whose format an answer comes in.
enum Reader {
    OpenAi(Box<Chunks>),
    Anthropic(Box<anthropic::Stream>),
    Gemini(Box<gemini::Stream>),
}

/// What chunks in OpenAI's format have shown so far.
struct Chunks {
    ended: Ended,
    id_wanted: bool,
    /// Whether anything was said.
    spoke: bool,
    told: Option<Usage>,
    /// Whether usage came with its end, or after it.
    told_last: bool,
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
        errors: Arc<Errors>,
    ) -> Result<Self, Fault> {
        let prompt_tokens = request.prompt_tokens_unreported();
        let reader = match format {
            Format::OpenAi => Reader::OpenAi(Box::new(Chunks {
                ended: Ended::of(request.choices),
                id_wanted: true,
                spoke: false,
                told: None,
                told_last: false,
            })),
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
            whole: false,
            reader,
            own: format == Format::Anthropic && request.endpoint == Endpoint::Messages,
            ready: VecDeque::new(),
            service: None,
            given: Given::Nothing,
            aside: Box::new(Aside {
                choices: request.choices,
                endpoint: request.endpoint,
                prompt_tokens,
                errors,
                owed: Owed::ByFault,
                hurried: request.answer_by.is_some(),
            }),
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

    /// What has been told of the usage so far.
    #[must_use]
    pub fn told(&self) -> Option<Usage> {
        match &self.reader {
            Reader::OpenAi(chunks) => chunks.told,
            Reader::Anthropic(stream) => stream.told(),
            Reader::Gemini(stream) => stream.told(),
        }
    }

    /// What is owed if it failed before it had shown anything.
    #[must_use]
    pub fn owed(&self) -> Owed {
        self.aside.owed.clone()
    }

    /// The next event; `None` after the last, and after a fault. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// A [`Fault`]: the answer broke, or a timeout passed. The request is then cancelled upstream.
    pub async fn next(&mut self) -> Option<Result<Event, Fault>> {
        let next = if let Some(event) = self.ready.pop_front() {
            Ok(Some(event))
        } else {
            self.source.as_ref()?;
            match self.form {
                Form::Streamed(_) => self.next_streamed().await,
                Form::Whole => self.whole().await.map(Some),
            }
        };
        match next {
            Ok(Some(event)) => {
                let given = if event.shows() { Given::Shown } else { Given::Silent };
                self.given = self.given.max(given);
                Some(Ok(event))
            }
            Ok(None) => None,
            Err(fault) => {
                self.source = None;
                Some(Err(fault))
            }
        }
    }

    async fn next_streamed(&mut self) -> Result<Option<Event>, Fault> {
        match self.read_on().await {
            // The answer is whole: what went wrong came after it.
            Err(_) if self.is_finished() => Ok(self.close(true)),
            read => read,
        }
    }

    async fn read_on(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            while let Some(event) = self.decoded(Decoder::next_event)? {
                match self.read(&event)? {
                    Read::Event(event) => return Ok(Some(event)),
                    Read::Nothing => {}
                    Read::Done => {
                        self.end();
                        return Ok(self.close(false));
                    }
                }
            }
            if self.is_finished() {
                self.watch.is_whole(self.has_told_all());
            }
            let Some(piece) = self.piece().await? else { return self.last_streamed() };
            if let Form::Streamed(decoder) = &mut self.form {
                decoder.feed(piece);
            }
        }
    }

    /// The body has ended: what stands there yet, and whether that is a good end.
    fn last_streamed(&mut self) -> Result<Option<Event>, Fault> {
        match self.last_read()? {
            // The next call comes back here.
            Read::Event(event) => return Ok(Some(event)),
            Read::Nothing => {}
            Read::Done => self.whole = true,
        }
        if self.is_finished() {
            return Ok(self.close(false));
        }
        Err(broken("the stream ended before the answer did"))
    }

    fn last_read(&mut self) -> Result<Read, Fault> {
        match self.decoded(Decoder::end)? {
            Some(event) => self.read(&event),
            None => Ok(Read::Nothing),
        }
    }

    /// The answer is whole and nothing more is waited for: its end, where the format writes none.
    fn close(&mut self, cut: bool) -> Option<Event> {
        self.source = None;
        match &self.reader {
            Reader::OpenAi(_) => None,
            Reader::Anthropic(stream) => {
                self.service = stream.service();
                stream.end()
            }
            Reader::Gemini(stream) => stream.end(cut),
        }
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
            Reader::OpenAi(chunks) => {
                let data = openai::with_reasoning(event.data.slice_ref(data));
                let seen = chunks.read(&data).map_err(broken)?;
                if seen.error || event.name.as_deref() == Some(b"error") {
                    return Err(self.failed_within(&data, Some(&seen)));
                }
                if seen.visible || seen.reasoning_bytes > 0 {
                    self.watch.spoke();
                }
                return Ok(Read::Event(Event::Chunk { data, seen }));
            }
            Reader::Anthropic(stream) if self.own => stream.read_own(&event.data),
            Reader::Anthropic(stream) => stream.read(data),
            Reader::Gemini(stream) => stream.read(data),
        };
        self.converted(data, read.map_err(broken)?)?;
        Ok(self.ready.pop_front().map_or(Read::Nothing, Read::Event))
    }

    /// Events of another format, in line to be handed on.
    fn converted(&mut self, data: &[u8], read: providers::Read) -> Result<(), Fault> {
        let events = match read {
            providers::Read::Failed => return Err(self.failed_within(data, None)),
            providers::Read::Events(events) => events,
            providers::Read::Last { events, service } => {
                self.service = service;
                self.whole = true;
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
        let Aside { choices, endpoint, prompt_tokens, .. } = *self.aside;
        let read = match self.reader {
            Reader::OpenAi(_) => {
                let body = openai::with_reasoning(body);
                let vectors = endpoint == Endpoint::Embeddings;
                let read = if vectors { openai::read_vectors } else { openai::read_whole };
                let Payload { seen, .. } = read(&body).map_err(broken)?;
                if seen.error {
                    return Err(self.failed_within(&body, Some(&seen)));
                }
                return Ok(Event::Whole { body, seen });
            }
            Reader::Anthropic(_) if self.own => anthropic::whole_own(&body, prompt_tokens),
            Reader::Anthropic(_) => anthropic::whole(&body, prompt_tokens),
            Reader::Gemini(_) => gemini::whole(&body, prompt_tokens, choices),
        };
        self.converted(&body, read.map_err(broken)?)?;
        self.ready.pop_front().ok_or_else(|| broken("the body holds nothing"))
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

    /// An error in place of an answer, or of the rest of one: what a status would have said, as long as
    /// nothing has been shown. What stands beside it may be billed.
    fn failed_within(&mut self, data: &[u8], beside: Option<&Seen>) -> Fault {
        let error = openai::provider_error(data);
        let status = status_within(&error).filter(|_| self.given != Given::Shown);
        let speaks = beside.is_some_and(|seen| seen.visible_bytes > 0 || seen.reasoning_bytes > 0);
        let begun = self.given != Given::Nothing || self.told().is_some() || speaks;
        // A refusal comes before anything is computed; with anything else that may be done and billed.
        let refused = status.is_some_and(|status| status < 500);
        self.aside.owed = match beside.and_then(|seen| seen.usage) {
            Some(usage) => Owed::Reported(Box::new(usage)),
            // It says in a head alone what was charged.
            None if self.aside.errors.kind.is_tollgate() && !begun => Owed::Unknown,
            None if refused && !begun => Owed::ByFault,
            None => Owed::Estimated,
        };
        let Aside { errors, endpoint, hurried, .. } = &*self.aside;
        errors.within(status, error, *endpoint, *hurried)
    }

    /// Whether the provider said that the answer is whole, or that each of its choices is.
    fn is_finished(&self) -> bool {
        self.whole
            || match &self.reader {
                Reader::OpenAi(chunks) => chunks.ended.are_all(),
                Reader::Anthropic(stream) => stream.is_finished(),
                Reader::Gemini(stream) => stream.is_finished(),
            }
    }

    /// Whether that is so and its usage is told, so that nothing is missing but a sign of the end.
    fn has_told_all(&self) -> bool {
        match &self.reader {
            Reader::OpenAi(chunks) => chunks.told_last,
            Reader::Anthropic(stream) => stream.told_of_whole().is_some(),
            Reader::Gemini(stream) => stream.has_told_all(),
        }
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
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

// === impl Chunks ===

impl Chunks {
    fn read(&mut self, data: &[u8]) -> Result<Seen, &'static str> {
        let Payload { seen, .. } = openai::read_chunk(data, self.id_wanted, self.spoke)?;
        self.id_wanted &= seen.id.is_none();
        self.spoke |= seen.visible || seen.reasoning_bytes > 0;
        self.told = seen.usage.or(self.told);
        if !seen.error {
            seen.ended().for_each(|(choice, _)| self.ended.note(choice));
            self.told_last |= seen.usage.is_some() && self.ended.are_all();
        }
        Ok(seen)
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

fn broken(detail: &str) -> Fault {
    Fault::new(FaultKind::Broken, detail)
}
