//! `/v1/completions`: reading a request, and writing an answer that comes as deltas.
//!
//! **Invariant:** as for chat, no tree of the body is built and every limit is known at the end; a
//! provider of OpenAI's format gets the client's own bytes and its answer passes through.

use super::{
    Ask, BadRequest, ChatRequest, Choice, CompletionAsk, Delta, DeltaKind, FinishReason, Gathered,
    Needs, Pieces, Prompt, TokenLogprob, ask,
    chat::{self, AnswerHead, Cost},
    check,
    fields::Field,
    json::TextBytes,
    priced,
    read::{Read, estimate_tokens},
};
use crate::ledger::Endpoint;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use policies::Usage;
use std::fmt::Write as _;

/// The output cap of a request that names none, as OpenAI has it.
const OUTPUT_TOKENS_DEFAULT: u64 = 16;
/// Most answers of one request: texts times `n`.
const CHOICES_MAX: u32 = 128;
/// Tokens that mark a text's beginning, at most.
const MARK_TOKENS: u64 = 2;

/// Reads a completion request: checks the client's body and the headers that belong to it.
///
/// # Errors
/// [`BadRequest`] naming the parameter or the header.
pub fn read_completion(body: Bytes, headers: &HeaderMap) -> Result<ChatRequest, BadRequest> {
    let read = Read::new(&body)?;
    let model = read.model()?;
    let raw = read.given(Field::Prompt).ok_or_else(|| BadRequest::missing("prompt"))?;
    let size = measure("prompt", raw)?;
    let n = read.integer(Field::N, 1, i64::from(CHOICES_MAX))?;
    let n = n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    let choices = size.texts.saturating_mul(n);
    if choices > CHOICES_MAX {
        let message = format!("`prompt` times `n` must be at most {CHOICES_MAX} answers");
        return Err(BadRequest::value("prompt", message));
    }
    read.sampling()?;
    let logprobs = read.integer(Field::Logprobs, 0, 20)?.and_then(|top| u32::try_from(top).ok());
    let output_cap = read.output_cap()?;
    read.refuse_messages()?;
    let service = priced::check(|field| read.given(field))?;
    let ask = CompletionAsk { prompts: size.texts, echo: read.boolean(Field::Echo)?, logprobs };
    Ok(ChatRequest {
        endpoint: Endpoint::Completions,
        ask: Ask::Completion(ask),
        service,
        stream: read.boolean(Field::Stream)?,
        include_usage: read.include_usage()?,
        // The texts are measured apart.
        prompt_tokens_max: size.tokens_max + read.extra_bytes.saturating_sub(raw.len() as u64),
        prompt_tokens_estimate: size.tokens_estimate,
        output_cap: output_cap.unwrap_or(OUTPUT_TOKENS_DEFAULT),
        output_cap_given: output_cap.is_some(),
        choices,
        needs: Needs { logprobs: logprobs.is_some(), ..Needs::default() },
        metadata: read.metadata()?,
        ..ChatRequest::empty(model, headers)?.with(read.fields, body)
    })
}

/// How much text a request holds.
#[derive(Default)]
pub(super) struct Size {
    pub(super) texts: u32,
    pub(super) tokens_max: u64,
    pub(super) tokens_estimate: u64,
}

/// Checks the texts in `raw` and measures them.
pub(super) fn measure(param: &str, raw: &str) -> Result<Size, BadRequest> {
    let mut size = Size::default();
    ask::each(param, raw, |text| {
        size.texts = size.texts.saturating_add(1);
        let (most, likely) = match text {
            ask::Raw::Text(at, raw) => {
                check::string(at, raw)?;
                let bytes = TextBytes::of_string(raw);
                (bytes.total(), estimate_tokens(bytes.ascii) + bytes.other.div_ceil(3))
            }
            // One comma fewer than there are tokens.
            ask::Raw::Tokens(raw) => {
                let tokens = memchr::memchr_iter(b',', raw.as_bytes()).count() as u64 + 1;
                (tokens, tokens)
            }
        };
        size.tokens_max += most + MARK_TOKENS;
        size.tokens_estimate += likely + 1;
        Ok(())
    })?;
    Ok(size)
}

/// A place in a text between two tokens.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Characters before it.
    character: usize,
    /// Bytes of a character that has begun before it and ends after it.
    begun: Vec<u8>,
}

/// Writes an answer that comes as deltas.
#[derive(Debug)]
pub struct Completion {
    head: AnswerHead,
    /// The same as `{"id":…,"model":…,`.
    start: Vec<u8>,
    include_usage: bool,
    /// The prompt of each choice that has not begun, where it is to be echoed.
    echoes: Vec<Option<String>>,
    /// Where the next token stands in its text, choice by choice.
    places: Vec<Place>,
}

impl Completion {
    /// A writer for one answer. Prompts of token ids cannot be echoed and are not.
    #[must_use]
    pub fn new(head: &AnswerHead, request: &ChatRequest) -> Self {
        let choices = request.choices as usize;
        let echoes = match &request.ask {
            Ask::Completion(ask) if ask.echo => {
                let prompts = ask::prompts(request).unwrap_or_default();
                let each = choices / prompts.len().max(1);
                let of = |index: usize| match prompts.get(index / each.max(1)) {
                    Some(Prompt::Text(text)) => Some(text.clone()),
                    Some(Prompt::Tokens(_)) | None => None,
                };
                (0..choices).map(of).collect()
            }
            _ => Vec::new(),
        };
        let include_usage = request.include_usage;
        let places = vec![Place::default(); choices];
        Self { start: start(head), head: head.clone(), include_usage, echoes, places }
    }

    /// What is written from now on is of the answer of this id.
    pub fn rename(&mut self, id: &str) {
        id.clone_into(&mut self.head.id);
        self.start = start(&self.head);
    }

    /// The chunk of a piece; nothing for a piece that this format has no place for.
    pub fn delta(&mut self, delta: &Delta, out: &mut impl FnMut(Bytes)) {
        let index = delta.choice as usize;
        let echo = self.echoes.get_mut(index).and_then(Option::take);
        let (text, finish) = match &delta.kind {
            DeltaKind::Text(text) => (text.as_str(), None),
            DeltaKind::Finish(finish) => ("", Some(finish)),
            _ => return,
        };
        if let Some(echo) = echo {
            self.chunk(index, &echo, &[], None, out);
            if let Some(place) = self.places.get_mut(index) {
                place.pass(echo.as_bytes());
            }
        }
        self.chunk(index, text, &delta.logprobs, finish, out);
    }

    fn chunk(
        &mut self,
        index: usize,
        text: &str,
        logprobs: &[TokenLogprob],
        finish: Option<&FinishReason>,
        out: &mut impl FnMut(Bytes),
    ) {
        let mut chunk = BytesMut::with_capacity(self.start.len() + text.len() + 128);
        chunk.put_slice(b"data: ");
        chunk.put_slice(&self.start);
        chunk.put_slice(b"\"choices\":[");
        // By the tokens, not by the text: that may come before its last token is told.
        let mut place = self.places.get_mut(index).map(std::mem::take).unwrap_or_default();
        put_choice(&mut chunk, index, text, logprobs, &mut place, finish);
        if let Some(kept) = self.places.get_mut(index) {
            *kept = place;
        }
        let usage = if self.include_usage { "],\"usage\":null}\n\n" } else { "]}\n\n" };
        chunk.put_slice(usage.as_bytes());
        out(chunk.freeze());
    }

    /// Whether the client asked for the usage chunk.
    #[must_use]
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// The usage chunk: no choices.
    #[must_use]
    pub fn usage(&self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        let mut chunk = BytesMut::with_capacity(self.start.len() + 256);
        chunk.put_slice(b"data: ");
        chunk.put_slice(&self.start);
        chunk.put_slice(b"\"choices\":[],\"usage\":");
        chat::put_usage(&mut chunk, usage, cost);
        chunk.put_slice(b"}\n\n");
        chunk.freeze()
    }

    /// The whole unstreamed answer.
    #[must_use]
    pub fn whole(mut self, answer: &Gathered, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        let mut body = BytesMut::with_capacity(1024);
        body.put_slice(&self.start);
        self.put_choices(&mut body, answer);
        chat::put_end(&mut body, usage, cost);
        body.freeze()
    }

    /// What such answers have in common that say the same.
    pub(super) fn content(mut self, answer: &Gathered) -> Bytes {
        let mut content = BytesMut::new();
        self.put_choices(&mut content, answer);
        content.freeze()
    }

    /// The whole answer around that.
    pub(super) fn around(self, content: Bytes, usage: &Usage, cost: Option<&Cost>) -> Pieces {
        let mut end = BytesMut::with_capacity(512);
        chat::put_end(&mut end, usage, cost);
        Pieces::of([Bytes::from(self.start), content, end.freeze()])
    }

    fn put_choices(&mut self, body: &mut BytesMut, answer: &Gathered) {
        body.put_slice(b"\"choices\":[");
        for (index, choice) in answer.choices.iter().enumerate() {
            if index > 0 {
                body.put_slice(b",");
            }
            let Choice { text, logprobs, finish, .. } = choice;
            let echo = self.echoes.get_mut(index).and_then(Option::take).unwrap_or_default();
            let finish = Some(finish.as_ref().unwrap_or(&FinishReason::Stop));
            let mut place = Place::default();
            place.pass(echo.as_bytes());
            put_choice(body, index, &(echo + text), logprobs, &mut place, finish);
        }
        body.put_slice(b"]");
    }
}

/// What every chunk of an answer begins with.
fn start(head: &AnswerHead) -> Vec<u8> {
    let mut start = Vec::with_capacity(128);
    chat::put_head(&mut start, head, "text_completion");
    start
}

impl Place {
    /// Goes on by a token's bytes. What can never become a character is one, U+FFFD.
    fn pass(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let mut rest = self.begun.as_slice();
        let left = loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.character += text.chars().count();
                    break Vec::new();
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.character += String::from_utf8_lossy(valid).chars().count();
            let Some(broken) = error.error_len() else { break after.to_vec() };
            self.character += 1;
            rest = after.get(broken..).unwrap_or_default();
        };
        self.begun = left;
    }
}

/// One choice; its tokens begin at `place` of its text.
fn put_choice(
    out: &mut BytesMut,
    index: usize,
    text: &str,
    logprobs: &[TokenLogprob],
    place: &mut Place,
    finish: Option<&FinishReason>,
) {
    out.put_slice(b"{\"text\":");
    chat::put_string(out, text);
    // Writing to a BytesMut that grows cannot fail.
    let _ = write!(out, ",\"index\":{index},\"logprobs\":");
    put_logprobs(out, logprobs, place);
    out.put_slice(b",\"finish_reason\":");
    match finish {
        Some(finish) => chat::put_string(out, finish.as_str()),
        None => out.put_slice(b"null"),
    }
    out.put_slice(b"}");
}

/// Log probabilities in the shape of this endpoint: four lists side by side.
fn put_logprobs(out: &mut BytesMut, logprobs: &[TokenLogprob], place: &mut Place) {
    if logprobs.is_empty() {
        out.put_slice(b"null");
        return;
    }
    let (mut tokens, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
    for token in logprobs {
        offsets.push(place.character);
        place.pass(&token.chosen.bytes);
        tokens.push(token_text(&token.chosen.bytes));
        chosen.push(chat::finite(token.chosen.logprob));
        let mut likely = serde_json::Map::new();
        for it in &token.top {
            // Of tokens that look the same, such as control tokens, the likeliest, which comes first.
            likely.entry(token_text(&it.bytes)).or_insert(chat::finite(it.logprob).into());
        }
        top.push(likely);
    }
    let lists = serde_json::json!({
        "tokens": tokens,
        "token_logprobs": chosen,
        "top_logprobs": top,
        "text_offset": offsets,
    });
    // Writing a value to memory cannot fail.
    let _ = serde_json::to_writer(out.writer(), &lists);
}

/// A token as a name: its text or, where it is a part of a character, its bytes as OpenAI writes
/// them, so that no two parts have the same name.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("bytes:{}", bytes.escape_ascii()),
    }
}
