//! Gemini's answers, streamed and whole, as inner events.
//!
//! **Invariants:** thoughts are counted beside the candidates and not in them, and are reasoning;
//! cached tokens are in the prompt's count and are taken off it once; counts of a stream are
//! cumulative, so the last ones hold; a prompt that was blocked is an answer that was filtered; a part
//! that is neither text nor a call is an error and never left out.

use super::SIGNED;
use crate::{
    providers::{
        call_ids,
        conversation::given,
        reading::{Ended, Read, Tally},
    },
    wire::{
        Delta, DeltaKind, Event, FinishReason,
        json::{or_default, shown, shown_or_empty},
    },
};
use policies::Usage;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

/// A piece of an answer. Of everything in it null says as little as its absence: a provider behind a
/// gateway writes so what it has nothing of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    candidates: Vec<Candidate<'a>>,
    #[serde(default)]
    prompt_feedback: Option<Feedback>,
    #[serde(default)]
    usage_metadata: Option<UsageWritten>,
    #[serde(default, deserialize_with = "shown")]
    response_id: Option<String>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(default, deserialize_with = "or_default")]
    index: u32,
    #[serde(borrow, default)]
    content: Option<ContentWritten<'a>>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ContentWritten<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    parts: Vec<Part<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(default, deserialize_with = "shown")]
    text: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    thought: bool,
    #[serde(borrow, default)]
    function_call: Option<Call<'a>>,
    #[serde(default)]
    thought_signature: Option<String>,
    #[serde(default)]
    inline_data: Option<IgnoredAny>,
    #[serde(default)]
    file_data: Option<IgnoredAny>,
    #[serde(default)]
    executable_code: Option<IgnoredAny>,
    #[serde(default)]
    code_execution_result: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(default, deserialize_with = "shown_or_empty")]
    name: String,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    #[serde(default)]
    block_reason: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UsageWritten {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    total_token_count: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    prompt_tokens_details: Vec<Modality>,
    #[serde(deserialize_with = "or_default")]
    candidates_tokens_details: Vec<Modality>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Modality {
    #[serde(deserialize_with = "or_default")]
    modality: String,
    #[serde(deserialize_with = "or_default")]
    token_count: u64,
}

/// A stream being read.
#[derive(Debug)]
pub(crate) struct Stream {
    tally: Tally,
    usage: Option<Usage>,
    /// Whether that was told when every choice had ended: of what came before, it is no more than a part.
    usage_is_last: bool,
    begun: bool,
    ended: Ended,
    calls: Vec<u32>,
    /// Whether anything came that a caller can use.
    spoke: bool,
    /// Why it is of no use.
    failed: Option<&'static str>,
}

/// An answer of no use: a call that the model could not write, say.
const SILENT: &str = "the answer ended before anything was said";
/// An answer that was not asked for: a picture, say. To leave it out would be another answer.
const UNREAD: &str = "the answer has a part that is neither text nor a call";

impl Stream {
    pub(crate) fn new(prompt_tokens: u64, choices: u32) -> Self {
        Self {
            tally: Tally::new(prompt_tokens),
            usage: None,
            usage_is_last: false,
            begun: false,
            ended: Ended::of(choices),
            calls: Vec::new(),
            spoke: false,
            failed: None,
        }
    }

    /// What has been told of the usage so far: each piece tells all of it until then.
    pub(crate) fn told(&self) -> Option<Usage> {
        self.usage
    }

    /// Reads one event of the stream.
    ///
    /// # Errors
    /// What is no event of this format, never with its text.
    pub(crate) fn read(&mut self, data: &[u8]) -> Result<Read, &'static str> {
        let written: Written<'_> = serde_json::from_slice(data)
            .map_err(|_| "an event of the stream is no generated content")?;
        let told = written.usage_metadata.and_then(|usage| usage.read());
        self.usage = told.or(self.usage);
        if written.error.is_some() {
            return Ok(Read::Failed);
        }
        let mut events = Vec::new();
        if !self.begun {
            self.begun = true;
            events.push(Event::Begin { id: written.response_id.unwrap_or_default() });
        }
        let blocked = written.prompt_feedback.is_some_and(|said| said.block_reason.is_some());
        if blocked && written.candidates.is_empty() {
            self.ended.note_all();
            events.push(delta(0, DeltaKind::Finish(FinishReason::ContentFilter)));
        }
        for candidate in written.candidates {
            self.candidate(candidate, &mut events);
        }
        self.usage_is_last |= told.is_some() && self.ended.are_all();
        self.tally.note(&events);
        self.failed.map_or(Ok(Read::Events(events)), Err)
    }

    /// Whether every choice has ended. Nothing else says that the answer has: the body ends.
    pub(crate) fn is_finished(&self) -> bool {
        self.ended.are_all()
    }

    /// Whether that is so and all of its usage has been told, with the last choice's end or after it.
    pub(crate) fn has_told_all(&self) -> bool {
        self.is_finished() && self.usage_is_last
    }

    /// No more comes: the answer's end, if it was whole. Where its connection was `cut`, usage that was
    /// told before that end is no more than a part.
    pub(crate) fn end(&self, cut: bool) -> Option<Event> {
        let part = self.usage.filter(|_| cut && !self.usage_is_last);
        let end = || match part {
            Some(told) => self.tally.end_of_cut(told),
            None => self.tally.end(self.usage, None),
        };
        self.is_finished().then(end)
    }

    fn candidate(&mut self, candidate: Candidate<'_>, events: &mut Vec<Event>) {
        let choice = candidate.index;
        for part in candidate.content.into_iter().flat_map(|content| content.parts) {
            if part.is_unread() {
                self.failed = Some(UNREAD);
            } else if let Some(call) = part.function_call {
                self.spoke = true;
                self.call(choice, &call, part.thought_signature, events);
            } else if let Some(text) = part.text.filter(|text| !text.is_empty()) {
                self.spoke |= !part.thought;
                let kind = if part.thought { DeltaKind::Reasoning } else { DeltaKind::Text };
                events.push(delta(choice, kind(text)));
            }
        }
        if let Some(reason) = candidate.finish_reason {
            self.ended.note(choice);
            let finish = finish(&reason).unwrap_or_else(|| {
                if !self.spoke {
                    self.failed = self.failed.or(Some(SILENT));
                }
                FinishReason::Stop
            });
            let called = finish == FinishReason::Stop && self.calls_of(choice) > 0;
            let finish = if called { FinishReason::ToolCalls } else { finish };
            events.push(delta(choice, DeltaKind::Finish(finish)));
        }
    }

    fn call(
        &mut self,
        choice: u32,
        call: &Call<'_>,
        signature: Option<String>,
        events: &mut Vec<Event>,
    ) {
        let index = self.calls_of(choice);
        if let Some(count) = usize::try_from(choice).ok().and_then(|at| self.calls.get_mut(at)) {
            *count += 1;
        }
        let signature = signature.map(|text| format!("{SIGNED}{text}")).unwrap_or_default();
        let id = call_ids::new_id() + &signature;
        events.push(delta(choice, DeltaKind::ToolCall { index, id, name: call.name.clone() }));
        let json = given(call.args).map_or("{}", RawValue::get).to_owned();
        events.push(delta(choice, DeltaKind::ToolArguments { index, json }));
    }

    /// Calls of a choice so far; choices beyond those asked for are counted as the last.
    fn calls_of(&mut self, choice: u32) -> u32 {
        let at = usize::try_from(choice.min(127)).unwrap_or(0);
        if self.calls.len() <= at {
            self.calls.resize(at + 1, 0);
        }
        self.calls.get(at).copied().unwrap_or(0)
    }
}

/// Reads a whole answer.
///
/// # Errors
/// What is no generated content, never with its text.
pub(crate) fn whole(body: &[u8], prompt_tokens: u64, choices: u32) -> Result<Read, &'static str> {
    let mut stream = Stream::new(prompt_tokens, choices);
    let mut events = match stream.read(body) {
        Ok(Read::Events(events)) => events,
        Ok(other) => return Ok(other),
        Err(why @ (SILENT | UNREAD)) => return Err(why),
        Err(_) => return Err("the body is no generated content"),
    };
    events.push(stream.end(false).ok_or("the body is generated content without an end")?);
    Ok(Read::Last { events, service: None })
}

fn delta(choice: u32, kind: DeltaKind) -> Event {
    Event::Delta(Delta::new(choice, kind))
}

/// The tokens of a modality.
fn of(details: &[Modality], name: &str) -> u64 {
    let of_it = details.iter().filter(|detail| detail.modality == name);
    of_it.fold(0, |sum, detail| sum.saturating_add(detail.token_count))
}

/// `None` where it says that the model came to no good end: `MALFORMED_FUNCTION_CALL`, `OTHER`.
fn finish(reason: &str) -> Option<FinishReason> {
    Some(match reason {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "LANGUAGE" => FinishReason::ContentFilter,
        _ => return None,
    })
}

impl Part<'_> {
    /// Whether it is of a kind that is not handed on.
    fn is_unread(&self) -> bool {
        self.inline_data.is_some()
            || self.file_data.is_some()
            || self.executable_code.is_some()
            || self.code_execution_result.is_some()
    }
}

impl UsageWritten {
    /// The buckets; `None` where nothing is said.
    fn read(&self) -> Option<Usage> {
        let prompt = self.prompt_token_count?;
        let reasoning = self.thoughts_token_count.unwrap_or(0);
        let rest = self
            .total_token_count
            .and_then(|total| total.checked_sub(prompt.saturating_add(reasoning)));
        let output = self.candidates_token_count.or(rest)?;
        let mut left = prompt.saturating_add(self.tool_use_prompt_token_count.unwrap_or(0));
        let mut take = |count: u64| {
            let taken = count.min(left);
            left -= taken;
            taken
        };
        let cache_read = take(self.cached_content_token_count.unwrap_or(0));
        let prompted = &self.prompt_tokens_details;
        let (audio, image) = (take(of(prompted, "AUDIO")), take(of(prompted, "IMAGE")));
        let audio_output = of(&self.candidates_tokens_details, "AUDIO").min(output);
        let output = output - audio_output;
        let rest = Usage { input: left, cache_read, reasoning, ..Usage::default() };
        Some(Usage { output, image, audio, audio_output, ..rest })
    }
}
