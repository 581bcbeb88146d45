//! What a provider's payload holds, read lightly: borrowed, unknown members skipped, text only
//! measured. It runs once per chunk of every stream.

use super::usage;
use crate::wire::{
    FinishReason, Seen,
    json::{self, Cursor, Kind, Malformed, Shown, TextBytes},
};
use policies::ServiceTier;

/// A choice's finish, as it is written, where its provider failed at it.
const FAILED: &str = "\"error\"";

/// A payload that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What it holds.
    pub seen: Seen,
    /// Choices in it.
    pub choices: u32,
}

/// A chunk or a whole answer: members as they are written.
#[derive(Default)]
struct Written<'a> {
    id: Option<&'a str>,
    choices: Option<Choices>,
    /// Of an answer of vectors.
    data: Option<&'a str>,
    usage: Option<&'a str>,
    error: Option<&'a str>,
    service_tier: Option<&'a str>,
}

/// What all choices of a payload hold together.
#[derive(Default)]
struct Choices {
    /// Whether something was said before: a message repeats it.
    told: bool,
    /// Whether one failed, as OpenRouter says it.
    failed: bool,
    count: u32,
    finish: Option<FinishReason>,
    /// Of each choice that ended, where that is not the first alone.
    finishes: Vec<(u32, FinishReason)>,
    spoken: Spoken,
}

/// What is said in a choice: of a chunk, or of a whole answer.
#[derive(Default)]
struct Delta<'a> {
    content: Option<&'a str>,
    refusal: Option<&'a str>,
    tool_calls: Option<&'a str>,
    function_call: Option<&'a str>,
    /// Reasoning under the name DeepSeek, vLLM and others use.
    reasoning_content: Option<&'a str>,
    /// Reasoning under OpenRouter's name.
    reasoning: Option<&'a str>,
}

/// Bytes of text.
#[derive(Clone, Copy, Default)]
struct Spoken {
    visible: u32,
    reasoning: u32,
}

/// Reads one data payload of a stream. The id is only taken out where it is `wanted`: it is the
/// same in every chunk. Where something was `told` by earlier chunks a whole message repeats it and is not
/// counted.
///
/// # Errors
/// A payload that is no chunk: never with its text in the message.
pub fn read_chunk(data: &[u8], id_wanted: bool, told: bool) -> Result<Payload, &'static str> {
    let written = written(data, told).ok_or("an event of the stream is no chat chunk")?;
    Ok(payload(data, written, id_wanted))
}

/// Reads a whole unstreamed answer.
///
/// # Errors
/// A body that is no answer: never with its text in the message.
pub fn read_whole(body: &[u8]) -> Result<Payload, &'static str> {
    let written = written(body, false).ok_or("the body is no chat completion")?;
    let read = payload(body, written, true);
    if read.choices == 0 && !read.seen.error {
        return Err("the body is a chat completion without choices");
    }
    Ok(read)
}

/// Reads a whole answer of vectors.
///
/// # Errors
/// A body that is no such answer.
pub fn read_vectors(body: &[u8]) -> Result<Payload, &'static str> {
    let written = written(body, false).ok_or("the body is no list of vectors")?;
    let is_list = written.data.is_some_and(|raw| raw.starts_with('['));
    let mut read = payload(body, written, true);
    if !read.seen.error && !is_list {
        return Err("the body is a list of vectors without vectors");
    }
    read.seen.visible = true;
    Ok(read)
}

/// The members that matter. One that stands twice has no meaning that all readers share.
fn written(data: &[u8], told: bool) -> Option<Written<'_>> {
    let mut cursor = Cursor::new(str::from_utf8(data).ok()?);
    let mut written = Written::default();
    let read = cursor.object(|cursor, key| match key {
        "id" => once(&mut written.id, cursor.value()?),
        "choices" => once(&mut written.choices, Choices::read(cursor, told)?),
        "data" => once(&mut written.data, cursor.value()?),
        "usage" => once(&mut written.usage, cursor.value()?),
        "error" => once(&mut written.error, cursor.value()?),
        "service_tier" => once(&mut written.service_tier, cursor.value()?),
        _ => cursor.skip(),
    });
    read.and_then(|()| cursor.end()).ok()?;
    Some(written)
}

/// Takes a member's value; one that stands twice is an error.
fn once<T>(member: &mut Option<T>, value: T) -> Result<(), Malformed> {
    if member.replace(value).is_some() { Err(Malformed) } else { Ok(()) }
}

/// A member's value: null is absent.
fn given(member: Option<&str>) -> Option<&str> {
    member.filter(|raw| *raw != "null")
}

fn payload(data: &[u8], written: Written<'_>, id_wanted: bool) -> Payload {
    let usage = given(written.usage);
    let usage_at = usage.filter(|raw| raw.starts_with('{')).map(|raw| {
        // A borrowed value stands inside the bytes it was read from.
        let start = (raw.as_ptr() as usize).saturating_sub(data.as_ptr() as usize);
        start..start + raw.len()
    });
    let Choices { count, finish, finishes, spoken, failed, .. } =
        written.choices.unwrap_or_default();
    let id = given(written.id).filter(|_| id_wanted);
    let seen = Seen {
        visible: spoken.visible > 0,
        visible_bytes: spoken.visible,
        reasoning_bytes: spoken.reasoning,
        finish,
        finishes: finishes.into_boxed_slice(),
        usage_only: count == 0 && usage.is_some(),
        usage: usage.and_then(usage::read),
        service: given(written.service_tier).and_then(service),
        usage_at,
        error: failed || given(written.error).is_some_and(is_truthy),
        id: id.and_then(Shown::of).map(|id| id.0.into_owned()).filter(|id| !id.is_empty()),
    };
    Payload { seen, choices: count }
}

/// The tier that a provider says served the answer.
fn service(raw: &str) -> Option<ServiceTier> {
    Shown::of(raw).map(|word| ServiceTier::from_word(&word.0))
}

/// Clients take an event for an error when its `error` is truthy.
fn is_truthy(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "0" | "\"\"")
}

impl Choices {
    /// The choices that the cursor stands at: a list, or null.
    fn read(cursor: &mut Cursor<'_>, told: bool) -> Result<Self, Malformed> {
        let mut all = Self { told, ..Self::default() };
        if cursor.kind() == Kind::Null {
            cursor.skip()?;
        } else {
            cursor.array(|cursor| all.choice(cursor))?;
        }
        Ok(all)
    }

    fn choice(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        self.count += 1;
        let (mut text, mut finish, mut index, mut error) = (None, None, None, None);
        let (mut delta, mut message) = (None, None);
        cursor.object(|cursor, key| match key {
            // Of a completion.
            "text" => once(&mut text, cursor.value()?),
            "delta" | "message" => {
                let stands = if key == "delta" { &mut delta } else { &mut message };
                once(stands, Spoken::read(cursor)?)
            }
            "finish_reason" => once(&mut finish, cursor.value()?),
            "index" => once(&mut index, cursor.value()?),
            "error" => once(&mut error, cursor.value()?),
            _ => cursor.skip(),
        })?;
        self.failed |= given(error).is_some_and(is_truthy) || finish == Some(FAILED);
        self.spoken.add(Spoken { visible: given(text).map_or(0, text_bytes), reasoning: 0 });
        let delta = delta.unwrap_or_default();
        self.spoken.add(delta);
        if !self.told && delta.is_silent() {
            self.spoken.add(message.unwrap_or_default());
        }
        if let Some(raw) = given(finish) {
            let word = Shown::of(raw).ok_or(Malformed)?.0;
            if !word.is_empty() {
                let index = given(index).and_then(|raw| raw.parse().ok()).unwrap_or(0);
                self.ended(index, FinishReason::from(word.as_ref()));
            }
        }
        Ok(())
    }

    /// Keeps how a choice ended: of most answers there is one.
    fn ended(&mut self, index: u32, finish: FinishReason) {
        if index > 0 || !self.finishes.is_empty() {
            let first = self.finish.take().filter(|_| self.finishes.is_empty());
            self.finishes.extend(first.map(|first| (0, first)));
            self.finishes.push((index, finish.clone()));
        }
        self.finish = Some(finish);
    }
}

impl Spoken {
    /// What is said in the delta or message that the cursor stands at: an object, or null.
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        if cursor.kind() == Kind::Null {
            cursor.skip()?;
            return Ok(Self::default());
        }
        let mut delta = Delta::default();
        cursor.object(|cursor, key| {
            let member = match key {
                "content" => &mut delta.content,
                "refusal" => &mut delta.refusal,
                "tool_calls" => &mut delta.tool_calls,
                "function_call" => &mut delta.function_call,
                "reasoning_content" => &mut delta.reasoning_content,
                "reasoning" => &mut delta.reasoning,
                _ => return cursor.skip(),
            };
            once(member, cursor.value()?)
        })?;
        let visible = [delta.content, delta.refusal, delta.tool_calls, delta.function_call];
        let visible = visible.into_iter().filter_map(given).map(text_bytes);
        // Some write the reasoning under both names: it is counted once.
        let reasoning = given(delta.reasoning_content).or(given(delta.reasoning));
        Ok(Self {
            visible: visible.fold(0, u32::saturating_add),
            reasoning: reasoning.map_or(0, text_bytes),
        })
    }

    fn add(&mut self, more: Self) {
        self.visible = self.visible.saturating_add(more.visible);
        self.reasoning = self.reasoning.saturating_add(more.reasoning);
    }

    fn is_silent(self) -> bool {
        self.visible == 0 && self.reasoning == 0
    }
}

/// Bytes of text in a value: a string's own, or those of a structure as it is written (a tool
/// call's part, a list of content parts).
fn text_bytes(raw: &str) -> u32 {
    let bytes = match json::kind(raw) {
        Kind::String => TextBytes::of_string(raw).total(),
        Kind::Array | Kind::Object if raw.len() > 2 => raw.len() as u64,
        _ => 0,
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
